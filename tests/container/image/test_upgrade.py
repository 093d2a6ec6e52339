"""`invoke provision` over a machine with Serai 0.1 and running sessions, cut off once; and back.

The tests follow one another: upgraded, looked at, gone back, upgraded again, to a version that is
not well.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from serai.image.run import run
from tests.conftest import ROOT
from tests.support.provisioning import DAEMONS, MARKER, Target, fresh, one_line

# The last commit of 0.1: its rooms, units, settings and the way it installs itself are others.
FIRST = "7c36c8e9ec448cb0"
SANDBOX = "systemctl show -P MainPID serai-session@kept"
PAYLOADS = "pgrep --full '^sleep 7654321'"
COMMANDS = 50
INSTALLED = "readlink /usr/lib/serai/python"
SMALL = ("--set", "toolchain_profile=none")
# In the machine, which is at it before the daemons are started again however busy the host is.
CUT = f"""
until [ "$({INSTALLED})" != '{{before}}' ]; do sleep 0.02; done
systemctl stop ssh.service ssh.socket; loginctl terminate-user serai-build
"""

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A machine as 0.1 provisioned it, with a session at work and an archived one."""
    work = tmp_path_factory.mktemp("upgrade")
    first = work / "first"
    first.mkdir()
    # Where the history does not reach that far: git fetch --unshallow.
    run(["git", "-C", ROOT, "archive", f"--output={work}/first.tar", FIRST])
    run(["tar", "-C", first, "-xf", f"{work}/first.tar"])
    with fresh(work) as machine:
        machine.know()
        done = replace(machine, checkout=first).provision(*SMALL)
        assert done.status == 0, done.out + done.err
        machine.container.shell(
            "serai create kept; serai exec kept -- sh -c 'echo precious >file';"
            "serai policy allow kept 127.0.0.1:8000;"
            f"for _ in $(seq {COMMANDS}); do"
            " serai exec --detach kept -- sleep 7654321 </dev/null >/dev/null 2>&1; done;"
            "serai create old; serai exec old -- sh -c 'echo kept for long >file';"
            "serai archive old; cp -a /etc/serai /root/first"
        )
        yield machine


def test_no_session_is_lost_though_the_machine_goes_away_in_the_middle(target: Target) -> None:
    container = target.container
    seen = (INSTALLED, SANDBOX, PAYLOADS, DAEMONS)
    before, session, payloads, daemons = map(container.shell, seen)
    assert len(payloads.split()) == COMMANDS
    container.shell("serai exec kept -- sleep 1234567 </dev/null >/dev/null 2>&1 &")
    container.shell("until pgrep --full '^sleep 1234567'; do sleep 0.1; done")
    refused = target.provision(*SMALL, "--keep-connected")
    assert "1 connected command and connections through the gate end; wait" in one_line(refused)
    assert refused.hosts[target.host]["changed"] == 0
    container.shell(f"({CUT.format(before=before)}) >/dev/null 2>&1 &")
    done = target.provision(*SMALL)
    assert "1 of 1 failed" in one_line(done)
    assert done.hosts[target.host]["state"] == "unreachable"
    assert container.shell(f"ls {MARKER}"), "the next run has to know"
    assert container.shell(DAEMONS) == daemons, "the daemons are the old ones still"
    assert container.shell("serai exec kept -- cat file") == "precious"

    container.shell("systemctl start ssh.service")
    done = target.provision(*SMALL)
    assert done.status == 0, done.out + done.err
    assert not set(daemons.split()) & set(container.shell(DAEMONS).split()), "both are the new ones"
    assert container.run("test", "-e", MARKER, check=False).returncode == 1
    assert (container.shell(SANDBOX), container.shell(PAYLOADS)) == (session, payloads)
    assert container.shell("serai exec kept -- cat file") == "precious"
    assert container.shell("serai reopen old; serai exec old -- cat file") == "kept for long"


def test_what_0_1_wrote_is_read(target: Target) -> None:
    container = target.container
    assert "127.0.0.1:8000" in container.shell("serai policy show kept")
    assert container.shell("serai audit --verify")
    assert container.shell("serai create fresh >&2; serai exec fresh -- id -un") == "fresh"
    load = "import sys; sys.path.insert(0, '/usr/lib/serai/python'); from pathlib import Path\n"
    load += "from serai.runtime import settings as session; from serai.gate import profiles\n"
    load += "from serai.gate import settings; first = Path('/root/first')\n"
    load += "session.load(first / 'session.toml'); settings.load(first / 'gate.toml')\n"
    load += "profiles.load(first / 'policy.d')"
    container.run("/usr/bin/python3", "-c", load)


def test_one_step_back_and_on_again(target: Target) -> None:
    """Sessions that the newer one made stay, and no command ends."""
    container = target.container
    session, payloads, newer = map(container.shell, (SANDBOX, PAYLOADS, INSTALLED))
    checked = target.provision("--rollback", "--check")
    assert checked.status == 2, checked.out + checked.err
    done = target.provision("--rollback")
    assert done.status == 0, done.out + done.err
    (said,) = done.hosts[target.host]["said"][1:]
    assert said.startswith("went back to Serai 0.1.0 (")
    older = container.shell(INSTALLED)
    assert older != newer
    assert container.run("test", "-e", "/usr/lib/serai/install", check=False).returncode == 1
    assert container.shell("serai exec fresh -- id -un; serai exec kept -- cat file") == (
        "fresh\nprecious"
    )
    assert (container.shell(SANDBOX), container.shell(PAYLOADS)) == (session, payloads)
    assert container.shell("serai create between")
    assert container.shell("systemctl --failed --no-legend") == ""
    again = target.provision("--rollback")
    assert (again.status, again.hosts[target.host]["changed"]) == (0, 0), "it is back already"

    done = target.provision("--only", "runtime")
    assert done.status == 0, done.out + done.err
    assert container.shell(INSTALLED) == newer
    assert container.shell("serai exec between -- id -un") == "between"
    assert (container.shell(SANDBOX), container.shell(PAYLOADS)) == (session, payloads)
    assert container.shell("serai audit --verify")


def test_a_version_that_is_not_well_goes_back_by_itself(target: Target, tmp_path: Path) -> None:
    container = target.container
    before, payloads = map(container.shell, (INSTALLED, PAYLOADS))
    broken = tmp_path / "broken"
    broken.mkdir()
    parts = (
        "src",
        "playbooks",
        "roles",
        "images",
        "tasks.py",
        "pyproject.toml",
        "ansible.cfg",
        "pins.yml",
    )
    run(["cp", "--archive", *(ROOT / part for part in parts), broken])
    server = broken / "src/serai/runtime/api/server.py"
    server.write_text(server.read_text().replace('log.info("ready")', 'sys.exit("worn out")'))
    done = replace(target, checkout=broken).provision("--only", "runtime")
    said = one_line(done)
    assert "is not well: serai-sessiond.service " in said, said
    assert "; went back to Serai 0.1.0 (" in said
    assert container.shell(INSTALLED) == before
    assert container.shell("serai exec kept -- cat file") == "precious"
    assert container.shell(PAYLOADS) == payloads
