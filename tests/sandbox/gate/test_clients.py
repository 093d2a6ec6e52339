"""Real clients in real sessions, with nothing but the environment that sessions have.

`invoke clients` tries many more in the same way, and writes docs/clients.md.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import clients, site
from tests.support.clients import INSTALLED, Client, Row
from tests.support.site import Site


@pytest.fixture(scope="module")
def where() -> Iterator[Site]:
    with site.serving() as running:
        yield running


@pytest.fixture(scope="module", params=INSTALLED, ids=lambda client: client.name)
def row(where: Site, request: pytest.FixtureRequest) -> Row:
    client: Client = request.param
    hosts = clients.OWN if client.name != "pip" else ("serai",)  # it takes its time
    return clients.tried(where, client, hosts=hosts)


def test_it_gets_what_is_allowed(row: Row) -> None:
    assert (row.http, row.https) == ("", "")


def test_it_trusts_the_gate_where_it_ends_tls(row: Row) -> None:
    """Only wget has to be told: there is no variable for it."""
    assert (row.ended, row.told) == ("", row.client.name == "wget")


def test_it_reaches_the_session_s_own_server_by_any_name(row: Row) -> None:
    wrong = {host: said for host, said in row.own.items() if said}
    if row.client.name == "Python urllib":
        # It compares "[::1]", which must not be in NO_PROXY: Python's httpx raises at that.
        assert "to reach your own server, do not use the proxy" in wrong.pop("[::1]")
    assert not wrong


def test_it_shows_that_it_was_denied(row: Row) -> None:
    assert clients.shown(row.denied) in ("all of it", "the first line", "403"), row.denied
