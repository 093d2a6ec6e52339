"""Stops whatever gets the next PIDs."""

import contextlib
import os
import time

with open("at-work", "w"):
    last, end = os.getpid(), time.monotonic() + 60
while time.monotonic() < end:
    for pid in range(last + 1, last + 100):
        with contextlib.suppress(OSError):
            os.kill(pid, 19)
            last = pid
            break
