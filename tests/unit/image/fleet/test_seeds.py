"""Seeds of a fleet's VMs: what cloud-init writes into them, and who can read the files here."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from serai.fleet import settings
from serai.fleet.settings import MemberPaths
from serai.image.errors import BuildError
from serai.image.fleet import keys, seeds, servers

KEY = "ssh-ed25519 AAAA admin"


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    folder = tmp_path / "fleet"
    keys.make(folder, added=[servers.parse("nats.example")], vms=["a", "b"], clients=["alice"])
    return folder


def config(home: Path) -> dict[str, Any]:
    text = (home / "user-data").read_text()
    assert text.startswith("#cloud-config\n")
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def test_a_vm_is_given_its_own_keys_and_no_other(fleet: Path) -> None:
    homes = seeds.make(fleet, [], zone='eu "1"', sessions=9)
    assert [home.name for home in homes] == ["a", "b"]
    for home in homes:
        written = {each["path"]: each for each in config(home)["write_files"]}
        assert list(written)[-1] == "/etc/serai/fleet/cert.pem", "the unit waits for it"
        for name in seeds.KEYS:
            file = written[f"/etc/serai/fleet/{name}"]
            assert file["content"] == (home / name).read_text()
        owners = {(each["owner"], each["permissions"]) for each in written.values()}
        assert owners == {("root:serai-fleet", "0640")}
        toml = written["/etc/serai/fleet.toml"]["content"]
        assert f'name = "{home.name}"\n' in toml
        assert 'servers = ["nats.example:4222"]\n' in toml
        assert 'zone = "eu \\"1\\""\n' in toml
        assert "sessions = 9\n" in toml
        assert config(home)["hostname"] == home.name
    assert (fleet / "vms/b/key.pem").read_text() not in (homes[0] / "user-data").read_text()


def test_the_member_reads_the_settings(fleet: Path, tmp_path: Path) -> None:
    [home] = seeds.make(fleet, ["a"], zone="eu\\1 é", sessions=7)
    paths = MemberPaths(tmp_path)
    paths.settings.parent.mkdir(parents=True)
    for each in config(home)["write_files"]:
        if each["path"] == "/etc/serai/fleet.toml":
            paths.settings.write_text(each["content"])
    found = settings.load(paths)
    assert (found.name, found.servers) == ("a", ["nats.example:4222"])
    assert (found.labels.zone, found.room.sessions) == ("eu\\1 é", 7)


def test_who_may_not_read_the_key_may_not_read_the_seed(fleet: Path) -> None:
    [home] = seeds.make(fleet, ["a"])
    for name in ("user-data", "meta-data", "seed.img"):
        assert (home / name).stat().st_mode & 0o777 == 0o600
    assert home.stat().st_mode & 0o777 == 0o700
    assert not (fleet / "vms/b/seed.img").exists()
    show = ["mtype", "-i", str(home / "seed.img"), "::user-data"]
    shown = subprocess.run(show, check=True, capture_output=True)
    assert shown.stdout == (home / "user-data").read_bytes()


def test_other_keys_are_another_first_boot(fleet: Path) -> None:
    def identity() -> str:
        return str(yaml.safe_load((fleet / "vms/a/meta-data").read_text())["instance-id"])

    seeds.make(fleet, ["a"])
    before = identity()
    seeds.make(fleet, ["a"])
    assert identity() == before
    keys.make(fleet, renew=True)
    seeds.make(fleet, ["a"])
    assert identity() != before


def test_nobody_logs_in_unless_a_key_is_given(fleet: Path) -> None:
    [home] = seeds.make(fleet, ["a"])
    assert "users" not in config(home), "an empty list is wrong for cloud-init"
    seeds.make(fleet, ["a"], key=KEY)
    assert config(home)["users"][0]["ssh_authorized_keys"] == [KEY]


def test_a_vm_that_the_fleet_does_not_have_is_an_error(fleet: Path, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="c is no VM"):
        seeds.make(fleet, ["c"])
    with pytest.raises(BuildError, match="no fleet's"):
        seeds.make(tmp_path / "none", [])
    (fleet / "vms/a/key.pem").unlink()
    with pytest.raises(BuildError, match=r"key\.pem"):
        seeds.make(fleet, ["a"])
