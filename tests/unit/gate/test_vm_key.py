"""The VM's key for secrets: made once, kept as systemd can, and handed to the gate's user alone."""

from __future__ import annotations

import os
import pwd
import shutil
from pathlib import Path

import pytest

from serai.common.errors import SeraiError
from serai.common.paths import Paths
from serai.gate import vm_key
from serai.gate.vm_key import KEY_BYTES

PLAIN, SEALED = "gate.key", "gate.cred"

# systemd-creds as far as we use it: it turns bytes over, and says no where the test wants it.
CREDS = """#!/bin/sh
echo "$@" >>{log}
case "$*" in {refused}) echo first >&2; echo "No TPM here" >&2; exit 1 ;; esac
case "$*" in *decrypt*) echo note >&2; tail -c +8 ;; *) printf 'sealed ' && cat ;; esac
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where keys are kept, for a system without systemd-creds."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("cat", "tail", "sh"):
        (programs / name).symlink_to(shutil.which(name) or name)
    monkeypatch.setenv("PATH", str(programs))
    return tmp_path / "keys"


def creds(folder: Path, refused: str = "never") -> Path:
    """Have a systemd-creds, which refuses what matches; returns the file of what it was told."""
    log = folder.parent / "asked"
    program = folder.parent / "programs/systemd-creds"
    program.write_text(CREDS.format(log=log, refused=refused))
    program.chmod(0o755)
    return log


def kept(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_without_systemd_creds_it_is_a_plain_file(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key = vm_key.kept(folder)
    assert len(key) == KEY_BYTES
    assert kept(folder) == {PLAIN}
    assert (folder / PLAIN).read_bytes() == key
    assert (folder / PLAIN).stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    assert "as it is: there is no systemd-creds" in caplog.text
    assert vm_key.kept(folder) == key


def test_each_vm_makes_its_own(folder: Path) -> None:
    assert vm_key.kept(folder / "one") != vm_key.kept(folder / "two")


def test_systemd_keeps_it_encrypted(folder: Path) -> None:
    log = creds(folder)
    key = vm_key.kept(folder)
    assert kept(folder) == {SEALED}
    assert (folder / SEALED).read_bytes() == b"sealed " + key
    assert (folder / SEALED).stat().st_mode & 0o777 == 0o600
    assert vm_key.kept(folder) == key
    asked = log.read_text().splitlines()
    assert asked[0] == "--name=serai-gate --with-key=auto --tpm2-pcrs= encrypt - -"
    assert asked[1:] == ["--name=serai-gate decrypt - -"] * 2


@pytest.mark.parametrize("refused", ["*auto*", "*auto*encrypt*"])
def test_without_a_tpm_that_works_it_is_held_to_the_system(folder: Path, refused: str) -> None:
    log = creds(folder, refused)
    key = vm_key.kept(folder)
    assert kept(folder) == {SEALED}
    assert "--with-key=host" in log.read_text()
    assert vm_key.kept(folder) == key


@pytest.mark.parametrize("refused", ["*encrypt*", "*decrypt*"])
def test_where_systemd_cannot_it_is_a_plain_file(
    folder: Path, refused: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where it encrypts what it does not decrypt again."""
    creds(folder, refused)
    key = vm_key.kept(folder)
    assert kept(folder) == {PLAIN}
    assert "says: No TPM here" in caplog.text
    assert vm_key.kept(folder) == key


def test_a_key_that_cannot_be_read_is_not_replaced(folder: Path) -> None:
    creds(folder)
    key = vm_key.kept(folder)
    creds(folder, "*decrypt*")
    with pytest.raises(
        SeraiError, match=r"gate\.cred: systemd-creds decrypt says: No TPM here; or"
    ):
        vm_key.kept(folder)
    assert kept(folder) == {SEALED}
    creds(folder)
    assert vm_key.kept(folder) == key


def test_a_plain_key_stays_where_systemd_comes_later(folder: Path) -> None:
    key = vm_key.kept(folder)
    creds(folder)
    assert vm_key.kept(folder) == key


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_the_gates_user_alone_can_read_what_is_handed_over(tmp_path: Path) -> None:
    path, nobody = tmp_path / "key", pwd.getpwnam("nobody")
    victim = tmp_path / "victim"
    victim.write_text("mine")
    path.symlink_to(victim)
    for key in (b"one", b"two"):
        vm_key.hand_over(path, key, nobody)
        assert path.read_bytes() == key
        found = path.stat()
        assert (found.st_uid, found.st_mode & 0o777) == (nobody.pw_uid, 0o400)
    assert victim.read_text() == "mine"
    assert victim.stat().st_uid == 0


def test_what_goes_wrong_is_said_in_a_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = Paths(tmp_path)
    paths.vm_keys.mkdir(parents=True)
    (paths.vm_keys / PLAIN).write_bytes(bytes(KEY_BYTES))
    assert vm_key.main(paths, pwd.getpwuid(os.geteuid()).pw_name) == 1
    assert "the gate gets no key, so there are no secrets: [Errno 2]" in caplog.text
    paths.gate_run.mkdir(parents=True)
    assert vm_key.main(paths, pwd.getpwuid(os.geteuid()).pw_name) == 0
    assert paths.gate_key.read_bytes() == bytes(KEY_BYTES)
    assert vm_key.main(paths, "no-such-user") == 1
