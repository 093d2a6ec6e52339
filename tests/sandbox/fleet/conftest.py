"""One fleet for all of its tests: starting it takes longer than most of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import fleet_rig
from tests.support.fleet_rig import Rig


@pytest.fixture(scope="package")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with fleet_rig.running(tmp_path_factory.mktemp("fleet")) as made:
        yield made
