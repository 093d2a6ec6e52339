"""put, get and ls through the control socket, with a session inside that wants them to fail."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from serai import connect
from serai.common import errors
from serai.common.errors import SeraiError
from serai.common.jsonrpc import CHUNK
from serai.runtime.folders import transfer
from tests.support.fake_vm import Vm, opened
from tests.support.waiting import wait_for


@pytest.fixture(scope="module")
def vm() -> Iterator[Vm]:
    with opened() as machine:
        (machine.root / "secret").write_text("the VM's")
        machine.start()
        machine.call("create", name="one")
        machine.call("create", name="two")
        (machine.paths.home("two") / "mnt/outputs/secret").write_text("the other's")
        yield machine


@pytest.fixture
def outputs(vm: Vm) -> Iterator[Path]:
    """The session's outputs, with one of everything in it that a session can make."""
    folder = vm.paths.home("one") / "mnt/outputs"
    script = """
        rm -rf mnt/outputs; mkdir -p mnt/outputs/sub; cd mnt/outputs; mkfifo fifo
        echo mine >sub/file
        ln -s ../../../.. up; ln -s /etc etc; ln -s sub/file link; ln -s sub to-sub; ln -s loop loop
        ln -s /proc/self/root root; ln -s /proc/1/fd/0 magic; ln sub/file hard; mkdir closed
        python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("socket")' 2>/dev/null; true
    """
    assert vm.client().exec("one", ["/bin/sh", "-c", script]).status == 0
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def hasty(vm: Vm) -> Iterator[Vm]:
    """The same VM, whose daemon lets a payload have no time for its end."""
    assert vm.stop() == 0
    vm.start(weaken="from serai.runtime.sessions.payloads import payloads; payloads.GRACE = 0.0")
    yield vm
    assert vm.stop() == 0
    vm.start()


ESCAPES = {
    "/etc/passwd": "absolute",
    "..": "'..'",
    "../../../two/mnt/outputs/secret": "'..'",
    "sub/../../uploads": "'..'",
    "up/secret": "symlink",
    "etc/passwd": "symlink",
    "etc": "symlink",
    "link": "symlink",
    "to-sub/file": "symlink",
    "root/etc/passwd": "symlink",
    "magic": "symlink",
    "loop": "symlink",
    "loop/x": "symlink",
    "sub/file/x": "no directory",
    "fifo": "a fifo",
    "fifo/x": "no directory",
    "x" * 256: "more than 255",
    "x/" * 2048: "longer than",
}


@pytest.mark.parametrize("method", ["put", "get", "ls"])
@pytest.mark.parametrize("path", ESCAPES, ids=lambda path: path[:20])
def test_no_path_leads_out(vm: Vm, outputs: Path, path: str, method: str) -> None:
    before = sorted(os.listdir(outputs))
    why = "no directory" if method == "ls" and path == "fifo" else ESCAPES[path]
    with vm.client() as client, pytest.raises(SeraiError, match=why) as caught:
        if method == "put":
            client.put("one", "outputs", path, b"x")
        elif method == "get":
            client.get("one", "outputs", path)
        else:
            client.ls("one", "outputs", path)
    assert caught.value.code == errors.INVALID_PARAMS
    assert sorted(os.listdir(outputs)) == before


def test_nul_and_unknown_roles_and_sessions(vm: Vm) -> None:
    for params in ({"path": "a\0b"}, {"role": "etc"}, {"role": "../.."}, {"name": "../two"}):
        for method in ("put", "get", "ls"):
            with pytest.raises(SeraiError):
                vm.call(method, **{"name": "one", "role": "outputs", "path": "x", **params})


def test_a_roles_folder_that_became_a_symlink_leads_nowhere(vm: Vm, outputs: Path) -> None:
    for target in ("/etc", str(vm.paths.home("two")), "../..", str(vm.root)):
        with vm.client() as client:
            script = 'rm -rf mnt/.claude; ln -s "$0" mnt/.claude'
            assert client.exec("one", ["/bin/sh", "-c", script, target]).status == 0
            for call in (client.ls, client.get):
                with pytest.raises(SeraiError, match="symlink"):
                    call("one", "config", "secret")
            with pytest.raises(SeraiError, match="symlink"):
                client.put("one", "config", "planted", b"x")
    vm.client().exec("one", ["/bin/sh", "-c", "rm mnt/.claude; mkdir mnt/.claude"])
    assert not list(vm.root.rglob("planted"))


def test_what_is_put_is_the_sessions_own(vm: Vm, outputs: Path) -> None:
    data = os.urandom(3_000_000)
    with vm.client() as client:
        client.put("one", "outputs", "sub/new", data)
        assert client.get("one", "outputs", "sub/new") == data
        done = client.exec("one", ["/bin/sh", "-c", "id -u; stat -c '%u %a' mnt/outputs/sub/new"])
        uid, owner, mode = done.stdout.decode().split()
        assert (owner, mode) == (uid, "644")
        client.put("one", "outputs", "sub/new", b"")
        assert client.get("one", "outputs", "sub/new") == b""
        entries = {each["name"]: each["type"] for each in client.ls("one", "outputs")}
    assert entries["sub"] == "folder" and entries["up"] == "symlink" and entries["fifo"] == "other"
    assert not list(outputs.rglob(".serai-put-*"))


def test_the_command_moves_bytes_without_touching_them(vm: Vm, outputs: Path) -> None:
    given, got = vm.root / "given", vm.root / "got"
    given.write_bytes(os.urandom(5_000_000))
    with given.open("rb") as file:
        assert vm.serai("put", "one", "outputs", "big", stdin=file).returncode == 0
    with got.open("wb") as sink:
        command = vm.command("get", "one", "outputs", "big")
        assert subprocess.run(command, env=vm.env, stdout=sink, check=False).returncode == 0
    assert got.read_bytes() == given.read_bytes()
    listed = vm.serai("ls", "one", "outputs")
    assert any(line.split()[:2] == ["file", "5000000"] for line in listed.stdout.splitlines())
    lines = vm.serai("ls", "one", "outputs", "sub", "--json").stdout.splitlines()
    assert [json.loads(line)["name"] for line in lines] == ["file"]
    refused = vm.serai("get", "one", "outputs", "link")
    assert refused.returncode == 1 and "leads through a symlink" in refused.stderr
    for made in (given, got):
        made.unlink()


def test_a_put_that_is_cut_off_leaves_the_old_file(vm: Vm, outputs: Path) -> None:
    with vm.client() as client:
        client.put("one", "outputs", "kept", b"old")
    client = vm.client()
    client.ask("put", {"name": "one", "role": "outputs", "path": "kept", "stdio": "stream"})
    started = client.message()
    assert started["method"] == "exec.started"
    client.ask("exec.input", {"exec": started["params"]["exec"], "data": "aGFsZg=="})
    client.message()
    client.close()
    wait_for(lambda: not Path(f"/proc/{started['params']['pid']}").exists())
    assert (outputs / "kept").read_text() == "old"
    assert not list(outputs.rglob(".serai-put-*"))


def test_what_the_session_may_not_do_a_transfer_may_not(vm: Vm, outputs: Path) -> None:
    """A file of root's in the session's folder stays root's: transfers have no more rights."""
    (outputs / "roots").write_text("root's")
    (outputs / "roots").chmod(0o600)
    (outputs / "closed").chmod(0)
    with vm.client() as client:
        for call in (
            lambda: client.get("one", "outputs", "roots"),
            lambda: client.ls("one", "outputs", "closed"),
        ):
            with pytest.raises(SeraiError, match="Permission denied"):
                call()
    (outputs / "closed").chmod(0o700)


def test_it_is_the_users_rights_that_keep_a_transfer_from_it(
    vm: Vm,
    outputs: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    (outputs / "roots").write_text("root's")
    (outputs / "roots").chmod(0o600)
    uid = vm.sessions()["one"]["uid"]
    plan = transfer.Plan("get", "roots", str(vm.paths.sessions), "one", uid, "mnt/outputs")
    monkeypatch.setattr(transfer, "_become", lambda *_: None)
    transfer.run(plan)
    assert capfdbinary.readouterr().out == b"root's"


def test_states(vm: Vm) -> None:
    vm.call("create", name="three")
    with vm.client() as client:
        vm.call("stop", name="three")
        client.put("three", "uploads", "file", b"early")
        vm.call("archive", name="three")
        for call in (client.get, client.ls):
            with pytest.raises(SeraiError, match="archived") as caught:
                call("three", "uploads", "file")
            assert caught.value.code == errors.WRONG_STATE
        vm.call("reopen", name="three")
        assert client.get("three", "uploads", "file") == b"early"
        vm.call("remove", name="three")


TRIES = 60
SWAP = """
import os, shutil, sys, time
os.chdir("mnt/outputs")
os.mkdir("swap"); open("swap/secret", "w").write("mine"); os.symlink(sys.argv[1], "other")
print("ready", flush=True)
end = time.monotonic() + float(sys.argv[2])
def move(one, two):
    while time.monotonic() < end:
        try:
            return os.rename(one, two)
        except OSError:  # a put makes the folder that is away just now
            shutil.rmtree(two, ignore_errors=True)
while time.monotonic() < end:
    for one, two in (("swap", "kept"), ("other", "swap"), ("swap", "other"), ("kept", "swap")):
        move(one, two)
"""


def test_swapping_a_folder_for_a_symlink_gets_nothing_out_and_puts_nothing_in(
    vm: Vm, outputs: Path
) -> None:
    # The symlink leads to a folder that is writable for everybody: only the path is the wall.
    outside = vm.root / "outside"
    outside.mkdir()
    outside.chmod(0o777)
    (outside / "secret").write_text("the VM's")
    (outside / "secret").chmod(0o666)
    command = vm.command("exec", "one", "--", "python3", "-c", SWAP, str(outside), "100")
    with subprocess.Popen(command, env=vm.env, stdout=subprocess.PIPE) as swapper:
        assert swapper.stdout is not None
        assert swapper.stdout.readline() == b"ready\n"
        seen = {"got": 0, "put": 0, "refused": 0}
        end, tries = time.monotonic() + 90, 0
        with vm.client() as client:
            # Enough tries, and each way it can go seen: a busy machine takes longer for that.
            while (tries < TRIES or not all(seen.values())) and time.monotonic() < end:
                tries += 1
                try:
                    assert client.get("one", "outputs", "swap/secret") == b"mine"
                    seen["got"] += 1
                    client.put("one", "outputs", "swap/secret", b"mine")
                    client.put("one", "outputs", "swap/planted", b"planted")
                    seen["put"] += 1
                except SeraiError:
                    seen["refused"] += 1
        swapper.terminate()
        swapper.wait(20)
    assert all(seen.values()), seen
    assert os.listdir(outside) == ["secret"]
    assert (outside / "secret").read_text() == "the VM's"
    shutil.rmtree(outside)


def test_a_program_elsewhere_works_with_files_and_trees(vm: Vm, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "bin").mkdir(parents=True)
    (source / "bin/run").write_text("#!/bin/sh\nid -u\n")
    (source / "bin/run").chmod(0o755)
    (source / "bin/link").symlink_to("run")
    with connect(f"unix://{vm.paths.control}") as far:
        session = far.session("one")
        files = session.files
        with closing(files.watch("tmp")) as events:
            assert next(events)["event"] == "watching"
            files.put_tree(source, "tmp/tree")
            assert next(each for each in events if each["path"] == "tree")["event"] == "made"
        done = session.run(["/bin/sh", "-c", "tmp/tree/bin/link; stat -c %u tmp/tree/bin/run"])
        assert len(set(done.stdout.split())) == 1 and done.status == 0, done
        files.get_tree("tmp/tree", tmp_path / "back")
        assert (tmp_path / "back/bin/run").stat().st_mode & 0o777 == 0o755
        assert (tmp_path / "back/bin/link").readlink() == Path("run")
        files.mkdir("tmp/tree/new/deep")
        files.move("tmp/tree/bin/run", "tmp/tree/new/run")
        assert files.stat("tmp/tree/new/run")["mode"] == 0o755
        with pytest.raises(SeraiError, match="another path role"):
            files.move("tmp/tree/new", "home/new")
        files.remove("tmp/tree", recursive=True)
        with pytest.raises(SeraiError) as caught:
            files.stat("tmp/tree")
        assert caught.value.code == errors.NOT_FOUND


def test_the_commands_for_files(vm: Vm, tmp_path: Path) -> None:
    archive = tmp_path / "a.tar"
    (tmp_path / "in").mkdir()
    (tmp_path / "in/file").write_text("mine")
    subprocess.run(["/usr/bin/tar", "-C", tmp_path / "in", "-cf", archive, "."], check=True)
    with archive.open("rb") as file:
        assert vm.serai("put", "--tree", "one", "tmp", "t", stdin=file).returncode == 0
    assert vm.serai("mkdir", "one", "tmp", "t/sub").returncode == 0
    assert vm.serai("mv", "one", "tmp", "t/file", "t/sub/moved").returncode == 0
    assert json.loads(vm.serai("stat", "one", "tmp", "t/sub/moved").stdout)["size"] == 4
    refused = vm.serai("rm", "one", "tmp", "t")
    assert refused.returncode == 1 and "not empty" in refused.stderr
    with (tmp_path / "b.tar").open("wb") as file:
        command = vm.command("get", "--tree", "one", "tmp", "t")
        assert subprocess.run(command, env=vm.env, stdout=file, check=False).returncode == 0
    listed = subprocess.run(
        ["/usr/bin/tar", "-tf", tmp_path / "b.tar"], stdout=subprocess.PIPE, text=True, check=True
    )
    assert sorted(listed.stdout.split()) == ["sub/", "sub/moved"]
    assert vm.serai("rm", "-r", "one", "tmp", "t").returncode == 0
    assert not (vm.paths.home("one") / "tmp/t").exists()
    with (tmp_path / "in/file").open("rb") as file:
        cut = vm.serai("put", "--tree", "one", "tmp", "t", stdin=file)
    assert cut.returncode == 1 and "cannot be used" in cut.stderr
    assert list((vm.paths.home("one") / "tmp").iterdir()) == []


def test_a_tree_that_is_cut_off_leaves_nothing(vm: Vm) -> None:
    client = vm.client()
    client.ask("tree.put", {"name": "one", "role": "tmp", "path": "cut", "stdio": "stream"})
    started = client.message()["params"]
    header = tarfile.TarInfo("file").tobuf()
    data = base64.b64encode(header + bytes(1024)).decode()  # a whole archive, but no eof
    client.ask("exec.input", {"exec": started["exec"], "data": data})
    tmp = vm.paths.home("one") / "tmp"
    wait_for(lambda: list(tmp.glob(".serai-put-*/file")))
    client.close()
    wait_for(lambda: not Path(f"/proc/{started['pid']}").exists())
    assert list(tmp.iterdir()) == []


def test_nor_does_a_large_one(hasty: Vm) -> None:
    archive = b"".join(tarfile.TarInfo(f"d/{number}").tobuf() for number in range(5000))
    tmp = hasty.paths.home("one") / "tmp"

    def parts() -> Iterator[bytes]:
        for at in range(0, len(archive), CHUNK):
            yield archive[at : at + CHUNK]
        wait_for(lambda: list(tmp.glob(".serai-put-*/d/4900")))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), hasty.client() as client:
        params = {"name": "one", "role": "tmp", "path": "large"}
        client.carry("tree.put", params, parts(), lambda *_: None, 0)
    wait_for(lambda: not list(tmp.iterdir()))
