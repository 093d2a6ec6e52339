"""Versions of Serai as they are installed: read from its files, and as people are told of them."""

from __future__ import annotations

import re

_WRITTEN = re.compile(r'^__version__ = "([^"]+)"$', re.MULTILINE)


def written(text: str) -> str:
    """The version that the text of ``serai/__init__.py`` has; '' if it has none."""
    found = _WRITTEN.search(text)
    return found[1] if found else ""


def label(version: str, modules: str) -> str:
    """'0.2.0 (1a2b3c4d)': the version and a part of its content's digest.

    ``modules`` is the folder that its modules are in.
    """
    return f"{version} ({modules.removeprefix('python-')[:8]})"
