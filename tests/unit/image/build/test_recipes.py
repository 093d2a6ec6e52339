"""A change to what makes a stage is noticed: its cached results may be of no use then."""

from __future__ import annotations

import inspect
from types import ModuleType

import pytest

from serai.image import ansible, digest
from serai.image.build import base_bootstrap, disk, layer
from serai.image.definition.arch import ARCHITECTURES
from serai.image.vm import seed

# By module with a RECIPE: that number, and the digest of the code that decides what a disk holds.
KNOWN: dict[ModuleType, tuple[int, str]] = {
    base_bootstrap: (4, "284f635545017deb"),
    layer: (1, "14a8aaa4303c1629"),
}
DECIDING: dict[ModuleType, tuple[object, ...]] = {
    base_bootstrap: (
        *(ARCHITECTURES, base_bootstrap.QUIET),
        *(
            disk.ESP_FIRST,
            disk.ESP_LAST,
            disk.ROOT_FIRST,
            disk.GPT_TAIL,
            disk.ALIGNMENT,
            disk.LABEL,
        ),
        base_bootstrap._mmdebstrap,
        base_bootstrap._configure,
        base_bootstrap._grub_defaults,
        *(disk.fstab, disk.esp_grub_cfg, disk.grub_cfg, disk._table, disk._esp, disk._root),
    ),
    layer: (
        layer._variables,
        layer._arguments,
        layer._make_seed,
        ansible.build_environment,
        seed.user_data,
    ),
}


def _text(part: object) -> str:
    return inspect.getsource(part) if inspect.isfunction(part) else repr(part)


@pytest.mark.parametrize("module", KNOWN, ids=lambda module: module.__name__)
def test_who_changes_what_makes_a_stage_looks_at_its_recipe(module: ModuleType) -> None:
    code = digest.of_value([_text(each) for each in DECIDING[module]])
    assert (module.RECIPE, code[:16]) == KNOWN[module], (
        f"the code of {module.__name__} has changed: if it makes another disk now, raise RECIPE; "
        "then write both down here"
    )
