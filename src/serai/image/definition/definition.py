"""Image definitions: what to build, read from ``images/*.toml`` and checked before all else."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tomlkit
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
)
from tomlkit.exceptions import TOMLKitError

from serai.image.definition import arch, variables
from serai.image.definition.arch import Arch
from serai.image.errors import BuildError
from serai.image.settings import Settings

DEFAULT_IMAGE = "ubuntu-22.04-arm64"
_FOLDER = "images"
REHEARSAL = "debian-12"  # needs nothing but a package mirror


def _expression(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"it is no regular expression: {error}") from None
    return text


Size = Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]*[MG]$")]
Word = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.+-]*$")]
Words = Annotated[tuple[Word, ...], Field(strict=False)]  # TOML has arrays, no tuples
RoleName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")]
RoleNames = Annotated[tuple[RoleName, ...], Field(strict=False)]
Expression = Annotated[str, AfterValidator(_expression)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class _Table(BaseModel):
    """A TOML table: unknown keys are errors, and a value's type is never guessed."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class CloudImageBase(_Table):
    """An official cloud image, pinned by its digest."""

    kind: Literal["cloud-image"]
    # file:///… for a copy at hand, where there is no network
    url: Annotated[str, StringConstraints(pattern=r"^(https?|file)://[^\s]+$")]
    sha256: Sha256
    # when the list of digests was signed that the pin is from: the next one's is no older
    signed: AwareDatetime | None = None


class BootstrapBase(_Table):
    """A disk made from a package mirror by mmdebstrap(1)."""

    kind: Literal["bootstrap"]
    suite: Word
    # What the build installs from, not what the image has then (seal_sources). '' is mmdebstrap's
    # own choice; SERAI_MIRROR and SERAI_SECURITY_MIRROR fill them.
    mirror: str = ""
    security_mirror: Annotated[str, StringConstraints(pattern=r"^([a-z+]+://[^\s|&\\]+)?$")] = ""
    packages: Words = ()  # beside those of every base, and of the roles


class Disk(_Table):
    """Virtual disks, in MiB (M) or GiB (G)."""

    size: Size = "10G"
    sessions: Size = "10G"
    bus: Literal["nvme", "virtio"] = "nvme"


class Hardware(_Table):
    """The VM that an image is built and booted in; it leaves no trace in the image."""

    cpus: Annotated[int, Field(ge=1, le=64)] = 2
    memory: Size = "2G"


class Budget(_Table):
    """How large a release may be, in MiB: the qcow2, and what its root file system holds."""

    image_mib: Annotated[int, Field(ge=1)] | None = None
    root_mib: Annotated[int, Field(ge=1)] | None = None


class Additions(_Table):
    """A project's own roles by layer, in their order; playbook.PLACES says before which of ours."""

    system: RoleNames = ()
    serai: RoleNames = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All of them."""
        return (*self.system, *self.serai)


class OwnCheck(_Table):
    """A command that `invoke verify-image` runs in the booted image, which has to end with 0.

    ``output`` is a regular expression, to be found in what it prints. With ``session`` it runs in
    a session, else as root in the VM.
    """

    name: Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]{1,200}$")]
    command: Annotated[tuple[str, ...], Field(strict=False, min_length=1)]
    output: Expression = ""
    session: bool = False


class Image(_Table):
    """One image."""

    name: Word
    summary: str
    distribution: Literal["ubuntu", "debian"]
    release: Word
    arch: Arch
    base: Annotated[CloudImageBase | BootstrapBase, Field(discriminator="kind")]
    disk: Disk = Disk()
    machine: Hardware = Hardware()
    budget: Budget = Budget()
    # what is chosen of the roles' variables, each of its role's type
    variables: dict[str, Any] = Field(default_factory=dict)
    roles: Additions = Additions()
    checks: Annotated[tuple[OwnCheck, ...], Field(strict=False)] = ()

    def bootstrapped(self) -> BootstrapBase:
        """What its base is bootstrapped from; raises BuildError if that is a cloud image."""
        if not isinstance(self.base, BootstrapBase):
            raise BuildError(f"{self.name}: base.kind is {self.base.kind!r}, not 'bootstrap'")
        return self.base


def megabytes(size: Size) -> int:
    """A size such as '10G' in MiB."""
    return int(size[:-1]) * (1024 if size.endswith("G") else 1)


def size(text: str) -> Size:
    """``text``, such as '3.8G', in whole MiB as definitions have sizes; raises BuildError."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([MG])", text)
    mebibytes = round(float(found[1]) * (1024 if found[2] == "G" else 1)) if found else 0
    if mebibytes < 1:
        raise BuildError(f"{text!r} is no size", hint="for example 2G, 3.8G or 512M")
    return f"{mebibytes}M"


def rehearsal(settings: Settings) -> Image:
    """The image that this host builds at its best, from a Debian mirror alone."""
    return load(settings, f"{REHEARSAL}-{arch.native()}")


def names(settings: Settings) -> list[str]:
    """The images there are, a project's among them, sorted."""
    folders = (home / _FOLDER for home in settings.homes)
    return sorted({path.stem for folder in folders for path in folder.glob("*.toml")})


def path_of(settings: Settings, name: str) -> Path:
    """The file of the image ``name``; raises BuildError if there are two."""
    files = [home / _FOLDER / f"{name}.toml" for home in settings.homes]
    found = [path for path in files if path.is_file()]
    if len(found) > 1:
        raise BuildError(
            f"{found[0]}: Serai has an image of that name", hint="give yours another name"
        )
    return found[0] if found else files[0]


def load(settings: Settings, name: str, overrides: Sequence[str] = ()) -> Image:
    """The image ``name``, with ``overrides`` such as 'disk.size=12G' applied.

    Raises BuildError, naming file and key, for anything that is not as it must be.
    """
    return load_with_sources(settings, name, overrides)[0]


def load_with_sources(
    settings: Settings, name: str, overrides: Sequence[str] = ()
) -> tuple[Image, dict[str, str]]:
    """The image and, for each of its values by dotted key, where the value came from."""
    if name not in names(settings):
        raise BuildError(
            f"there is no image {name!r}", hint=f"the images are: {', '.join(names(settings))}"
        )
    where = _where(settings, name)
    table, sources, stem = _read(settings, name)
    if _at(table, "base.kind") == "bootstrap":
        for key in ("mirror", "security_mirror"):
            if value := getattr(settings, key):
                _put(table, f"base.{key}", value)
                sources[f"base.{key}"] = settings.called(key)
    for override in overrides:
        key, value = _override(override)
        _put(table, key, value)
        sources[key] = "--set"
    image = _check(table, where, sources)
    if image.name != name:
        raise BuildError(f"{where}: name is {image.name!r}, but the file's name is {name!r}")
    if path_of(settings, name).is_relative_to(settings.root):
        _check_name(image, where, stem)
    variables.check(settings, image.variables, sources)
    _check_own_variables(settings, image, where)
    image = _equipped(settings, image, sources)
    return image, {key: sources.get(key, "default") for key in _flat(image.model_dump())}


def _check_own_variables(settings: Settings, image: Image, where: str) -> None:
    """A value for a role that no layer has would reach nothing, and what a role requires is there.

    A role that Ansible finds wrong ends a build after minutes.
    """
    for name in variables.unset(settings, image.variables, image.roles.names):
        raise BuildError(
            f"{where}: variables.{name} is not set, and its role requires it",
            hint="add it to [variables]",
        )
    unused = {each.name for each in variables.own_roles(settings)}.difference(image.roles.names)
    if not unused:
        return
    known = variables.options(settings)
    for key in image.variables:
        if (of := known[key].role) in unused:
            raise BuildError(
                f"{where}: variables.{key} is of the role {of}, which [roles] does not name",
                hint=f'add it, as in serai = ["{of}"]',
            )


def flat(image: Image) -> dict[str, object]:
    """Every value of the image by dotted key."""
    return _flat(image.model_dump(mode="json"))


def flavour_of(settings: Settings, name: str) -> str:
    """The image that ``name`` is a flavour of, '' if it is none."""
    path = path_of(settings, name)
    return str(_parse(path, _where(settings, name)).get("flavour_of", ""))


def _where(settings: Settings, name: str) -> str:
    return f"{_FOLDER}/{path_of(settings, name).name}"


def _read(
    settings: Settings, name: str, above: tuple[str, ...] = ()
) -> tuple[dict[str, Any], dict[str, str], str]:
    """The file's table, its values' sources, and the name of the image that it is a flavour of.

    A flavour has all of that image but for what its own file says. ``above`` are its own flavours.
    """
    where = _where(settings, name)
    if name in above:
        circle = " → ".join((*above[above.index(name) :], name))
        raise BuildError(f"{where}: flavour_of goes in a circle: {circle}")
    table = _parse(path_of(settings, name), where)
    stem = table.pop("flavour_of", "")
    sources = dict.fromkeys(_flat(table), where)
    if not stem:
        return table, sources, ""
    if stem not in names(settings):
        raise BuildError(f"{where}: flavour_of is {stem!r}, and there is no such image")
    whole, below, _ = _read(settings, stem, (*above, name))
    return _merged(whole, table), below | sources, stem


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Both tables; where both have a value ``above`` wins."""
    both = {
        key: _merged(below[key], above[key])
        for key in below.keys() & above.keys()
        if isinstance(below[key], Mapping) and isinstance(above[key], Mapping)
    }
    return {**below, **above, **both}


def _equipped(settings: Settings, image: Image, sources: dict[str, str]) -> Image:
    """A bootstrapped base has the packages of the roles; ``sources`` then says so.

    The roles would install the same ones: a second each here, half a minute in an emulated VM.
    """
    if not isinstance(image.base, BootstrapBase):
        return image
    release = image.distribution, image.release
    added = variables.packages(settings, *release, image.variables, image.roles.names)
    source = sources.get("base.packages")
    sources["base.packages"] = f"{source}, roles" if source else "roles"
    base = image.base.model_copy(update={"packages": (*image.base.packages, *added)})
    return image.model_copy(update={"base": base})


def _parse(path: Path, where: str) -> dict[str, Any]:
    try:
        return tomlkit.parse(path.read_text(encoding="utf-8")).unwrap()
    except (TOMLKitError, UnicodeDecodeError) as error:
        raise BuildError(f"{where} is not TOML: {error}", hint="correct that line") from None


def _check(table: Mapping[str, Any], where: str, sources: Mapping[str, str]) -> Image:
    try:
        return Image.model_validate(table)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        # pydantic puts the union's tag into the path: base.bootstrap.suite is base.suite to people
        tags = {"cloud-image", "bootstrap"}
        key = ".".join(str(part) for part in first["loc"] if part not in tags)
        reason = {
            "extra_forbidden": "is not a known key",
            "missing": "is missing",
            "union_tag_not_found": "needs a kind",
            "union_tag_invalid": "has an unknown kind",
        }.get(first["type"], f"is wrong: {first['msg']} (it is {first['input']!r})")
        if first["type"].startswith("union_tag"):
            reason += ", one of cloud-image, bootstrap"
            key += ".kind"
        raise BuildError(f"{sources.get(key, where)}: {key} {reason}") from None


def _check_name(image: Image, where: str, stem: str) -> None:
    """Serai's own images say in their names what they are. A project names its own as it likes."""
    name, made = image.name, f"{image.distribution}-{image.release}-{image.arch}"
    if not stem and name != made:
        raise BuildError(f"{where}: name is {name!r}, but distribution-release-arch is {made!r}")
    of = stem if stem.startswith(made) else made
    if stem and not (name.startswith(f"{stem}-") and of == stem):
        raise BuildError(f"{where}: name is {name!r}, but a flavour of {of} is {of}-WORD")


def _override(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise BuildError(f"--set {text!r} is not key=value", hint="for example --set disk.size=12G")
    try:
        return key.strip(), tomlkit.value(value).unwrap()
    except TOMLKitError:
        return key.strip(), value  # a bare word is a string: --set disk.size=12G


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


def _put(table: dict[str, Any], key: str, value: object) -> None:
    *folders, last = key.split(".")
    for folder in folders:
        inner = table.setdefault(folder, {})
        if not isinstance(inner, dict):
            raise BuildError(f"--set {key}: {folder} is a value, not a table")
        table = inner
    table[last] = value


def _at(table: Mapping[str, Any], key: str) -> object:
    return _flat(table).get(key)
