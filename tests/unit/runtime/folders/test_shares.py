"""What shares are for, which tag a device has, and what happens to what can't be mounted."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from serai.common.errors import SeraiError
from serai.runtime.folders import shares
from serai.runtime.folders.shares import Places, Share

TEXT = """
[shares.skills]
role = "skills"
[shares."a.b"]
role = "uploads"
writable = true
host_path = "/home/me/in"
"""
KNOWN = {"skills": Share("skills", False), "a.b": Share("uploads", True, "/home/me/in")}


@pytest.fixture
def places(tmp_path: Path) -> Places:
    (tmp_path / "shares.toml").write_text(TEXT)
    return Places(tmp_path / "shares.toml", tmp_path / "host", tmp_path / "virtiofs")


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The mounts that were asked for; none works."""
    asked = []

    def run(words: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        asked.append(words)
        return subprocess.CompletedProcess(words, 32, "", "mount: wrong\ntag\n")

    monkeypatch.setattr("serai.runtime.folders.shares.subprocess.run", run)
    return asked


def device(folder: Path, kind: str, tag: str | None = None) -> Path:
    path = folder / "virtio7"
    path.mkdir()
    (path / "device").write_text(f"{kind}\n")
    if tag is not None:
        (path / "mount_tag").write_text(f"{tag}\0")
    return path


def test_a_share_has_its_roles_access_unless_told_otherwise(places: Places) -> None:
    assert shares.load(places.settings) == KNOWN
    assert shares.load(places.settings.with_name("absent.toml")) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[share.x]", "unknown key share"),
        ("[shares.'../x']", "'../x' is no tag"),
        ("[shares.x]\nrole = 'home'", "no directory can be attached as 'home'"),
        ("[shares.x]\nrole = 1", "shares.x.role must be a text"),
        ("[shares.x]\nwritable = 'no'", "shares.x.writable must be true or false"),
        ("[shares.x]\nmode = 'ro'", "unknown key shares.x.mode"),
        ("shares = 1", "shares must be a table"),
        ("[shares]\nx = 1", "shares.x must be a table"),
        ("[shares", "cannot read the shares in"),
    ],
)
def test_bad_settings_are_named(places: Places, text: str, message: str) -> None:
    places.settings.write_text(text)
    with pytest.raises(SeraiError, match=message):
        shares.load(places.settings)


@pytest.mark.parametrize(
    ("path", "host"),
    [
        ("/mnt/host/a.b", "/home/me/in"),
        ("/mnt/host/a.b/deep/er", "/home/me/in/deep/er"),
        ("/mnt/host/skills/x", ""),
        ("/mnt/host/other", ""),
        ("/mnt/host", ""),
        ("/srv/a.b", ""),
    ],
)
def test_what_the_person_calls_a_folder(path: str, host: str) -> None:
    assert shares.host_path(path, KNOWN) == host


def test_a_9p_device_says_its_tag(tmp_path: Path, places: Places, said: list[list[str]]) -> None:
    with pytest.raises(SeraiError, match="a 9p share is not mounted: mount: wrong tag"):
        shares.mount(device(tmp_path, "0x0009", "skills"), KNOWN, places, 0)
    ((*_, options, tag, target),) = said
    assert (tag, target) == ("skills", f"{places.top}/skills")
    assert options.startswith("nosuid,nodev,noatime,ro,trans=virtio,version=9p2000.L,")
    assert list(places.top.iterdir()) == []


def test_an_unknown_tag_is_mounted_as_the_host_gives_it(
    tmp_path: Path, places: Places, said: list[list[str]]
) -> None:
    with pytest.raises(SeraiError):
        shares.mount(device(tmp_path, "0x0009", "strange"), KNOWN, places, 0)
    assert "rw" in said[0][4].split(",")


def test_virtiofs_tries_the_settings_where_the_kernel_does_not_tell(
    tmp_path: Path, places: Places, said: list[list[str]]
) -> None:
    found = device(tmp_path, "0x001a")
    with pytest.raises(SeraiError, match="name its tag in"):
        shares.mount(found, KNOWN, places, 0)
    assert [words[-2] for words in said] == ["skills", "a.b"]
    told = places.virtiofs / "0"
    told.mkdir(parents=True)
    (told / "tag").write_text("own\n")
    (told / "device").symlink_to(found)
    said.clear()
    with pytest.raises(SeraiError):
        shares.mount(found, KNOWN, places, 0)
    assert [words[-2] for words in said] == ["own"]


def test_a_tag_leads_nowhere_else(tmp_path: Path, places: Places, said: list[list[str]]) -> None:
    with pytest.raises(SeraiError, match="that is no tag"):
        shares.mount(device(tmp_path, "0x0009", "../../etc"), KNOWN, places, 0)
    assert said == []


@pytest.mark.parametrize(
    ("kind", "message"),
    [("0x0009", "the kernel has no driver 9pnet_virtio"), ("0x0001", "is no share of the host")],
)
def test_what_is_no_share(tmp_path: Path, places: Places, kind: str, message: str) -> None:
    with pytest.raises(SeraiError, match=message):
        shares.mount(device(tmp_path, kind), KNOWN, places, 0)
