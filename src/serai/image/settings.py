"""Where things lie on the build host, and what its environment says."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from serai.image.project import FILE, NAMES, Project

_SOURCE = Path(__file__).resolve().parent

CARRIED = _SOURCE / "checkout"
"""What the wheel serai-build has in place of a checkout: see commands/dist.py."""

CHECKOUT = CARRIED if CARRIED.is_dir() else _SOURCE.parents[2]
_CI_MAX_AGE = "30"  # days


@dataclass(frozen=True)
class Settings:
    """``root`` is the checkout, ``cache`` holds finished stages by content, ``dist`` images.

    ``project`` is the one whose images are built beside those of the checkout, if there is one.

    ``mirror`` is the package mirror to bootstrap from ('' is the tools' own default), and
    ``security_mirror`` the one that has its security updates then,
    ``accelerator`` the one QEMU has to use ('' is the fastest that works).
    ``cache_max_age`` is after how many days a cached base is too old to build on ('none', or '':
    never; in CI, which sets CI=true, 30 are the default).
    ``cache_remote`` is the cache that build hosts share ('' is none), ``cache_signers`` the file
    with the keys whose stages are trusted, and ``cache_sign_key`` the key to sign our own with.
    ``sources`` says for each of the others where it came from.
    """

    root: Path
    cache: Path
    dist: Path
    mirror: str
    sources: Mapping[str, str]
    security_mirror: str = ""
    accelerator: str = ""
    cache_max_age: str = ""
    cache_remote: str = ""
    cache_signers: str = ""
    cache_sign_key: str = ""
    project: Project | None = None

    @classmethod
    def of(
        cls,
        environ: Mapping[str, str] = os.environ,
        root: Path = CHECKOUT,
        project: Project | None = None,
    ) -> Settings:
        """The settings ``environ`` asks for, each in SERAI_ and its name in capitals.

        What it does not say the ``project`` says.
        """
        user_cache = environ.get("XDG_CACHE_HOME") or Path(environ.get("HOME", "/root")) / ".cache"
        given = {name: environ.get(f"SERAI_{name.upper()}", "") for name in NAMES}
        sources = {
            name: f"SERAI_{name.upper()}" if value else "default" for name, value in given.items()
        }
        for name, value in (project.settings if project else {}).items():
            if not given[name]:
                given[name], sources[name] = value, FILE
        if not given["cache_max_age"] and environ.get("CI") == "true":
            given["cache_max_age"], sources["cache_max_age"] = _CI_MAX_AGE, "CI"
        return cls(
            root=root,
            cache=Path(given["cache"] or Path(user_cache) / "serai").absolute(),
            dist=Path(
                given["dist"] or (project.directory if project else root) / "dist"
            ).absolute(),
            mirror=given["mirror"],
            security_mirror=given["security_mirror"],
            accelerator=given["accelerator"],
            sources=sources,
            cache_max_age=given["cache_max_age"],
            cache_remote=given["cache_remote"],
            cache_signers=given["cache_signers"],
            cache_sign_key=given["cache_sign_key"],
            project=project,
        )

    def called(self, name: str) -> str:
        """What a message calls the setting: where its value is from, or can be given."""
        where = self.sources.get(name, "")
        return f"settings.{name} in {FILE}" if where == FILE else f"SERAI_{name.upper()}"

    @property
    def own(self) -> Path:
        """Where relative paths of definitions begin: the project, or else the checkout."""
        return self.project.directory if self.project else self.root

    @property
    def homes(self) -> tuple[Path, ...]:
        """Where images and roles are: the project's come first."""
        return (self.root,) if self.project is None else (self.project.directory, self.root)

    def resolved(self) -> list[tuple[str, str, str]]:
        """Name, value and source of each setting."""
        found = [(name, str(getattr(self, name)), self.sources[name]) for name in NAMES]
        build = self.project.build.model_dump() if self.project else {}
        return [*found, *((f"build.{name}", value, FILE) for name, value in build.items() if value)]
