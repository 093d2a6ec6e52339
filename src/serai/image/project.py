"""A project: a directory of somebody's own with images, roles and files that Serai does not have.

It is where ``serai.toml`` is, anywhere but in a checkout of Serai. That file says which versions of
Serai build it, and what else would have to be in the environment of every build.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import tomlkit
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from tomlkit.exceptions import TOMLKitError

from serai import __version__
from serai.image.errors import BuildError

FILE = "serai.toml"
VARIABLE = "SERAI_PROJECT"

NAMES = (
    *("cache", "cache_max_age", "cache_remote", "cache_signers", "cache_sign_key"),
    *("dist", "mirror", "security_mirror", "accelerator"),
)
"""The settings: each is a variable SERAI_…, and a key of a project's [settings]."""

PATHS = ("cache", "dist", "cache_signers", "cache_sign_key")
"""Those that are paths; in a project they begin in its directory."""


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class BuildEnvironment(_Table):
    """What programs in the VM of a build fetch by. Nothing of it stays in the image."""

    http_proxy: str = ""
    https_proxy: str = ""
    no_proxy: str = ""
    npm_registry: str = ""
    pip_index_url: str = ""

    def environment(self) -> dict[str, str]:
        """The variables by which these programs are told."""
        named = {
            "http_proxy": self.http_proxy,
            "https_proxy": self.https_proxy,
            "no_proxy": self.no_proxy,
            "npm_config_registry": self.npm_registry,
            "PIP_INDEX_URL": self.pip_index_url,
        }
        return {name: value for name, value in named.items() if value}


class _File(_Table):
    serai: str
    settings: dict[str, str] = Field(default_factory=dict)
    build: BuildEnvironment = Field(default_factory=BuildEnvironment)


@dataclass(frozen=True)
class Project:
    """A project that this Serai can build."""

    directory: Path
    settings: Mapping[str, str]
    build: BuildEnvironment


def find(start: Path, environ: Mapping[str, str] = os.environ) -> Path | None:
    """The project that SERAI_PROJECT names, or the one that ``start`` is in, if it is in one."""
    if named := environ.get(VARIABLE, ""):
        return Path(named).absolute()
    for directory in (start, *start.parents):
        if (directory / FILE).is_file():
            return directory
    return None


def load(directory: Path, version: str = __version__) -> Project:
    """Read the project; raises BuildError for one that is none, or is for another Serai."""
    where = directory / FILE
    try:
        table = tomlkit.parse(where.read_text(encoding="utf-8")).unwrap()
    except OSError as error:
        raise BuildError(
            f"{directory} is no project: {where}: {error.strerror}",
            hint=f"'serai-build new DIR' makes one; {VARIABLE} names one",
        ) from None
    except (TOMLKitError, UnicodeDecodeError) as error:
        raise BuildError(f"{where} is not TOML: {error}", hint="correct that line") from None
    try:
        read = _File.model_validate(table)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        reason = {"extra_forbidden": "is not a known key", "missing": "is missing"}.get(
            first["type"], f"is wrong: {first['msg']}"
        )
        raise BuildError(f"{where}: {key} {reason}", hint="see docs/projects.md") from None
    if ":" in str(directory):
        raise BuildError(
            f"{directory}: Ansible takes no : in the path of a project", hint="move the project"
        )
    try:
        fits = version in _specifiers(read.serai)
    except InvalidSpecifier:
        raise BuildError(
            f"{where}: serai is {read.serai!r}", hint='versions are said as in serai = "==0.1.*"'
        ) from None
    if not fits:
        raise BuildError(
            f"{where} is for Serai {read.serai}, and this is {version}",
            hint="install one of those, or change that line and build again",
        )
    for name, value in read.build.model_dump().items():
        if name != "no_proxy" and _is_loopback(value):
            raise BuildError(
                f"{where}: build.{name} is {value}, where the VM of a build finds only itself",
                hint="name an address of this host that a VM reaches, such as 10.0.2.2 (QEMU's)",
            )
    chosen = {name: value for name, value in read.settings.items() if value}
    for name in chosen.keys() - NAMES:
        raise BuildError(
            f"{where}: settings.{name} is not a known key", hint="see docs/projects.md"
        )
    for name in PATHS:
        if name in chosen:
            try:
                chosen[name] = str(directory / Path(chosen[name]).expanduser())
            except RuntimeError as error:  # a user that there is not
                raise BuildError(f"{where}: settings.{name}: {error}") from None
    return Project(directory, chosen, read.build)


def _is_loopback(address: str) -> bool:
    """Whether ``address`` is the build host's own: the VM of a build finds only itself there."""
    host = ""
    try:
        host = urlsplit(address if "//" in address else f"//{address}").hostname or ""
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, or nothing of the kind
        return host == "localhost" or host.endswith(".localhost")


def _specifiers(text: str) -> SpecifierSet:
    if not text.strip():
        raise InvalidSpecifier(text)  # it would be every version
    return SpecifierSet(text)


def here(environ: Mapping[str, str] = os.environ) -> Project | None:
    """The project that this process works for. Raises BuildError."""
    directory = find(Path.cwd(), environ)
    return load(directory, __version__) if directory else None
