"""Ends with threads that ask to be traced: by the daemon, which knows nothing of them."""

import ctypes
import os
import threading

libc = ctypes.CDLL(None)
threads = [threading.Thread(target=libc.ptrace, args=(0, 0, 0, 0)) for _ in range(5)]
for each in threads:
    each.start()
for each in threads:
    each.join()
os._exit(0)
