"""``python3 -m serai.install WHEEL``."""

import sys

from serai.install.install import main

if __name__ == "__main__":
    sys.exit(main())
