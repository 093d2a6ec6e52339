"""Digests of values, files and folders: what the key of a stage is made of."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

# What programs leave behind beside the files that people write.
_LEFTOVERS = ("__pycache__", ".pyc", ".swp", "~")


def of_value(value: object) -> str:
    """SHA-256 of a JSON-like value; the order of keys does not matter."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def of_file(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def of_tree(folder: Path) -> str:
    """SHA-256 over every file below ``folder``: its path, whether it is executable, its bytes."""
    return of_value(
        [
            (str(path.relative_to(folder)), path.stat().st_mode & 0o100, of_file(path))
            for path in sorted(folder.rglob("*"))
            if path.is_file() and not any(part.endswith(_LEFTOVERS) for part in path.parts)
        ]
    )
