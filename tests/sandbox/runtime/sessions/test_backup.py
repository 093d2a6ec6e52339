"""A backup of a VM that is in use, restored on a blank one, also after it was cut off."""

from __future__ import annotations

import argparse
import contextlib
import json
from pathlib import Path

import pytest

from serai.common.errors import SeraiError
from serai.runtime import restore
from serai.runtime.cli import backup
from serai.runtime.sessions.moves import restoring
from tests.support.fake_vm import Vm, opened
from tests.support.waiting import wait_for


def saved(vm: Vm, folder: Path) -> dict[str, str]:
    with vm.client() as client:
        options = argparse.Namespace(directory=folder, plain=False, json=False)
        assert backup.run(client, options) == 0
    parts: dict[str, str] = json.loads((folder / "backup.json").read_text())["parts"]
    return parts


def put(vm: Vm, folder: Path) -> int:
    """As ``serai restore`` does it, where systemd stops and starts the daemons."""
    with contextlib.suppress(AssertionError):
        vm.stop()
    vm.kill_gate()
    with (folder / "vm.tar").open("rb") as file:
        count = restoring.put(vm.paths, file, vm.paths.audit)
    vm.start_gate()
    return count


def test_all_comes_back_on_a_blank_vm(tmp_path: Path) -> None:
    with opened() as before:
        before.start()
        for name in ("runs", "stopped", "archived", "gone"):
            before.call("create", name=name, request_id=name, labels={"is": name})
            with before.client() as client:
                client.exec(name, ["sh", "-c", 'echo "$0" >~/file', name])
        before.call("stop", name="stopped")
        before.call("archive", name="archived")
        before.call("remove", name="gone")
        wait_for(lambda: "gone" not in before.sessions())
        parts = saved(before, tmp_path / "b")
        assert set(parts) == {
            "vm.tar",
            *(f"sessions/{name}.tar.zst" for name in ("runs", "stopped", "archived")),
        }
        old = before.sessions()
        entries = before.call("audit", limit=1000)["entries"]
        with pytest.raises(SeraiError, match="has a backup already"):
            saved(before, tmp_path / "b")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PATH", "")
            with pytest.raises(SeraiError, match=r"there is no zstd here; install .* --plain"):
                saved(before, tmp_path / "unpacked")
        assert not (tmp_path / "unpacked").exists()
    with opened() as after:
        after.start()
        assert put(after, tmp_path / "b") == 3
        # It is cut off after the first session, while the second one is written.
        after.start(fatal=5)
        with pytest.raises(SeraiError):
            restore.bring(after.client, tmp_path / "b", parts)
        assert after.daemon is not None and after.daemon.wait(30) == -9
        assert put(after, tmp_path / "b") == 2
        after.start()
        assert len(restore.bring(after.client, tmp_path / "b", parts)) == 2
        new = after.sessions()
        assert {name: each["state"] for name, each in new.items()} == {
            "runs": "stopped",
            "stopped": "stopped",
            "archived": "archived",
        }
        for key in ("uid", "labels", "created_at"):
            assert {n: each[key] for n, each in new.items()} == {n: e[key] for n, e in old.items()}
        for name in new:
            after.call("reopen", name=name)
            with after.client() as client:
                assert client.exec(name, ["cat", "file"]).stdout == f"{name}\n".encode()
        # The log goes on where it was, and what was asked for once is not done again.
        report = after.call("audit.verify")
        assert report["ok"] and report["first"] == 1
        known = [entry["seq"] for entry in after.call("audit", limit=1000)["entries"]]
        assert {entry["seq"] for entry in entries} <= set(known)
        again = after.call("create", name="runs", request_id="runs", labels={"is": "runs"})
        assert again["uid"] == old["runs"]["uid"]
        assert after.call("create")["uid"] > max(each["uid"] for each in old.values())
        restore.look(after.client, parts)  # it may have been cut off
        with pytest.raises(SeraiError, match="is restored on a blank one"):
            restore.look(after.client, {"vm.tar": "", "sessions/other.tar.zst": ""})
        with pytest.raises(SeraiError, match="is restored on a blank one"):
            put_other(after, tmp_path)


def put_other(vm: Vm, folder: Path) -> None:
    saved(vm, folder / "other")
    put(vm, folder / "other")


def test_what_is_not_whole_is_not_restored(tmp_path: Path) -> None:
    with opened() as vm:
        vm.start()
        saved(vm, tmp_path / "b")
        own = tmp_path / "b" / "vm.tar"
        raw = bytearray(own.read_bytes())
        raw[raw.index(b"SQLite format")] ^= 1
        own.write_bytes(raw)
        with pytest.raises(SeraiError, match="no whole backup"):
            put(vm, tmp_path / "b")
        with pytest.raises(SeraiError, match="is not as it was backed up"):
            restore._checked(tmp_path / "b")  # what restore does first
        own.unlink()
        with pytest.raises(SeraiError, match=r"vm\.tar cannot be read: No such file"):
            restore._checked(tmp_path / "b")
        (tmp_path / "b" / "backup.json").unlink()
        with pytest.raises(SeraiError, match="no complete backup"):
            restore._checked(tmp_path / "b")  # what restore does first
