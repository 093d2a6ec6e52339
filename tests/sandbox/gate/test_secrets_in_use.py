"""A secret that a real session uses is nowhere in it, and a search that finds one.

`invoke secrets` tries more programs in the same way, and writes a table of docs/clients.md.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import secrets_in_use
from tests.support.secret_users import ECHO, URLLIB
from tests.support.secrets_in_use import Place


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with secrets_in_use.serving() as running:
        yield running


def test_a_secret_that_a_session_uses_is_nowhere_in_it(place: Place) -> None:
    use = secrets_in_use.used(place, URLLIB)
    assert use.wrong == "", use.said
    assert use.arrived == 1
    assert use.without, "the origin asks nobody for a credential"
    assert use.search.found == set()
    assert use.search.looked["memory"] > 1 << 20
    assert use.cores == {"1"}


def test_a_secret_that_lies_there_is_found(place: Place) -> None:
    assert secrets_in_use.put_there(place) == set()


def test_an_origin_that_sends_it_back_gives_it_away(place: Place) -> None:
    use = secrets_in_use.used(place, ECHO)
    assert ("what it printed", "raw") in use.search.found, use.said
