"""Leaves what has more rights, or is a device, in an attached directory."""

import contextlib
import os
import shutil

os.chdir("mnt/outputs")
shutil.copyfile("/bin/true", "made")
with contextlib.suppress(OSError):
    os.chmod("made", 0o6755)
with contextlib.suppress(OSError):
    os.mkdir("folder", 0o2755)
with contextlib.suppress(OSError):
    os.open("new", os.O_CREAT | os.O_WRONLY, 0o4755)
with contextlib.suppress(OSError):
    os.mknod("device", 0o20666, os.makedev(1, 3))
