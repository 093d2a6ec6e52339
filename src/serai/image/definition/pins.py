"""Exact versions that roles bring from elsewhere than the distribution's archive: ``pins.yml``."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    field_validator,
)

from serai.image.definition.arch import ARCHITECTURES, Arch
from serai.image.definition.definition import Sha256
from serai.image.errors import BuildError
from serai.image.settings import Settings

FILE = "pins.yml"

_Exact = Annotated[str, StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)+$")]


class Pin(BaseModel):
    """One pinned thing; ``review`` is the day by which somebody looks at ``link`` again."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: _Exact
    npm: _Exact | None = None  # the version of npm that comes with it
    reason: Annotated[str, StringConstraints(min_length=20)]
    link: Annotated[str, StringConstraints(pattern=r"^https://[^\s]+$")]
    review: date  # quoted in the file, as Ansible's templates can not pass a date on
    sha256: dict[Arch | Literal["any"], Sha256]

    @field_validator("sha256")
    @classmethod
    def _for_every_architecture(cls, digests: dict[str, str]) -> dict[str, str]:
        if set(digests) not in ({"any"}, set(ARCHITECTURES)):
            raise ValueError("it needs one for any architecture, or one for each")
        return digests


def read(settings: Settings) -> dict[str, Pin]:
    """All pins by name. Raises BuildError for a file that is not as it must be."""
    try:
        table = yaml.safe_load((settings.root / FILE).read_text(encoding="utf-8"))
        return TypeAdapter(dict[str, Pin]).validate_python(table)
    except yaml.YAMLError as error:
        raise BuildError(f"{FILE} is not YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise BuildError(f"{FILE}: {key} is wrong: {first['msg']}") from None


def overdue(pins: dict[str, Pin], today: date) -> list[str]:
    """One line for each pin whose review date has passed."""
    return [
        f"{name} {pin.version} was to be looked at by {pin.review}: {pin.link}"
        for name, pin in pins.items()
        if pin.review < today
    ]
