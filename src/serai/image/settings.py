"""Where things lie on the build host, and what its environment says."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_CHECKOUT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Settings:
    """``root`` is the checkout, ``cache`` holds finished stages by content, ``dist`` images.

    ``mirror`` is the package mirror to bootstrap from ('' is the tools' own default).
    """

    root: Path
    cache: Path
    dist: Path
    mirror: str

    @classmethod
    def of(cls, environ: Mapping[str, str] = os.environ, root: Path = _CHECKOUT) -> Settings:
        """The settings that ``environ`` asks for: SERAI_CACHE, SERAI_DIST, SERAI_MIRROR."""
        user_cache = environ.get("XDG_CACHE_HOME") or Path(environ.get("HOME", "/root")) / ".cache"
        return cls(
            root=root,
            cache=Path(environ.get("SERAI_CACHE") or Path(user_cache) / "serai"),
            dist=Path(environ.get("SERAI_DIST") or root / "dist"),
            mirror=environ.get("SERAI_MIRROR", ""),
        )

    @property
    def images(self) -> Path:
        """The folder of image definitions."""
        return self.root / "images"
