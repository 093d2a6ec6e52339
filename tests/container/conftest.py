"""A booted container with the runtime, for all tests of a module; nothing it writes is kept."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from serai.image.container import roots
from serai.image.container.container import Container, booted
from serai.image.settings import Settings
from tests.support import chosen


@pytest.fixture(scope="module")
def container(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    root = roots.provisioned(Settings.of(), image=chosen.IMAGE)
    with booted(root, tmp_path_factory.mktemp("container")) as found:
        yield found
