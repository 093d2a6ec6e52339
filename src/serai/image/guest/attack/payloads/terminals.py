"""Takes all terminals that there are."""

import contextlib
import os
import signal

with contextlib.suppress(OSError):
    while True:
        os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY)

with open("at-work", "w"):
    signal.pause()
