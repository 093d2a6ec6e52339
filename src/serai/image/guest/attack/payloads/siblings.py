"""Makes siblings instead of children (CLONE_PARENT): they would be the daemon's."""

import ctypes
import os
import platform

clone = {"x86_64": 56, "aarch64": 220}[platform.machine()]
for _ in range(20):
    if ctypes.CDLL(None).syscall(clone, ctypes.c_ulong(0x8000 | 17), 0, 0, 0, 0) == 0:
        os._exit(0)
