"""Attacks the VM that it runs in, as a hostile session would, and says of each whether it held.

`invoke attack --in container` and `--in image` send this folder, and start it as root: it runs
there on the standard library and the installed runtime. It prints a line for each attack and ends
with status 1 if one got through. Its arguments are the sandbox of the sessions, and a part of an
attack's name.
"""

import sys

sys.path.insert(0, "/usr/lib/serai/python")
