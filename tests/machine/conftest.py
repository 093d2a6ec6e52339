"""A booted machine with the runtime, for all tests of a module; nothing it writes is kept."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from serai.image import nspawn
from serai.image.settings import Settings


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[nspawn.Machine]:
    root = nspawn.provisioned(Settings.of())
    with nspawn.booted(root, tmp_path_factory.mktemp("machine")) as booted:
        yield booted
