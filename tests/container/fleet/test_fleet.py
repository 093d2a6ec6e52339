"""A fleet of three VMs and three servers, as they are: real members, real sessions, and power cuts.

``invoke fleet`` is the same for longer: a VM or a server dies twenty times.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from serai.image.container import roots
from serai.image.fleet import campaign
from serai.image.fleet.campaign import Ledger
from serai.image.fleet.rig import Rig, rig
from serai.image.settings import Settings
from tests.support import chosen

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

SESSIONS = 30


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    root = roots.provisioned(Settings.of(), image=chosen.IMAGE)
    with rig(root, tmp_path_factory.mktemp("fleet"), campaign.VMS) as made:
        yield made


def test_no_session_is_made_twice_or_lost_when_a_server_and_a_vm_die(fleet: Rig) -> None:
    requests = [f"request-{number}" for number in range(SESSIONS)]
    ledger = Ledger()
    campaign.place(fleet, requests[:20], ledger, clients=3)
    first = campaign.check(fleet, requests[:20], ledger)
    assert first.is_good, first
    assert set(first.on) == set(campaign.VMS)  # two of three are asked, and the emptier one takes

    name, vm = ledger.made[requests[0]]
    fleet.kill(next(iter(fleet.servers)))
    fleet.cut(vm)
    fleet.boot(vm)
    campaign.place(fleet, requests[20:], ledger, clients=3)
    # The same requests once more, as by clients that heard no answer: nothing new is made.
    again = Ledger()
    campaign.place(fleet, requests, again, clients=3)
    assert again.made == ledger.made
    fleet.start(next(iter(fleet.servers)))
    fleet.ready()
    found = campaign.check(fleet, requests, ledger)
    assert found.is_good, found
    assert found.found == SESSIONS
    with fleet.connect() as client:
        session = client.session(name)
        session.reopen()  # its VM lost power
        assert session.run(["id", "-un"]).stdout.decode().strip() == name
