"""What dpkg's status file tells of a finished disk."""

from __future__ import annotations

from serai.image import offline

STATUS = """Package: libc6
Status: install ok installed
Installed-Size: 12985
Architecture: amd64
Version: 2.36-9
Description: GNU C Library
 Installed-Size: 7
 .

Package: libc6
Status: install ok installed
Installed-Size: 100
Architecture: i386
Version: 2.36-9

Package: meta
Status: install ok installed
Architecture: all
Version: 1:2

Package: gone
Status: deinstall ok config-files
Installed-Size: 5
Architecture: all
Version: 1
"""


def test_installed_packages_are_listed() -> None:
    assert offline.packages(STATUS) == ["libc6 2.36-9 amd64", "libc6 2.36-9 i386", "meta 1:2 all"]


def test_sizes_are_in_bytes_by_name_and_architecture() -> None:
    assert offline.installed_sizes(STATUS) == {
        ("libc6", "amd64"): 12985 * 1024,
        ("libc6", "i386"): 102400,
        ("meta", "all"): 0,
    }
