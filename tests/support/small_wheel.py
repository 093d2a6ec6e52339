"""A wheel that has no more than the installer looks for: the whole one takes time to compile."""

from __future__ import annotations

import zipfile
from pathlib import Path

from serai.install import install, table


def wheel(folder: Path, version: str) -> Path:
    """One whose files all hold its version."""
    path = folder / f"{version}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(zipfile.ZipInfo("serai/__init__.py"), f'__version__ = "{version}"\n')
        for file in table.FILES:
            archive.writestr(zipfile.ZipInfo(f"{install.HERE}/{file.source}"), f"{version}\n")
    return path
