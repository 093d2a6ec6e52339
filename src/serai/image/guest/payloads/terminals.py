"""Takes all terminals that there are."""

import contextlib
import os
import time

with contextlib.suppress(OSError):
    while True:
        os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY)

with open("at-work", "w"):
    time.sleep(1000)
