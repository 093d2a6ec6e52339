"""``python3 -m serai.install WHEEL``."""

from serai.install.install import main

if __name__ == "__main__":
    main()
