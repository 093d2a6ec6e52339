"""A booted machine with the runtime, for all tests of a module; nothing it writes is kept."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from serai.image.container import container
from serai.image.settings import Settings


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[container.Machine]:
    root = container.provisioned(Settings.of())
    with container.booted(root, tmp_path_factory.mktemp("machine")) as booted:
        yield booted
