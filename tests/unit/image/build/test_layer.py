"""The driver around Packer: real `packer validate`, and a stand-in for builds that go wrong."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from serai.image.build import layer
from serai.image.build.packer_build import LayerBuild
from serai.image.definition import definition
from serai.image.definition.definition import Image
from serai.image.errors import BuildError
from serai.image.progress import Event, Note, TaskStarted, TaskTiming
from serai.image.run import run
from serai.image.settings import Settings
from tests.support import packer_builds

FAILING = """\
echo '1,,ui,say,==> qemu.layer: Starting VM%!(PACKER_COMMA) booting disk image'
echo '1,,ui,message,    qemu.layer: TASK [base : Install packages] ******'
echo '1,,ui,message,    qemu.layer: fatal: [vm]: FAILED! => {"msg": "No package matching x"}'
echo '1,,ui,say,==> qemu.layer: Provisioning step had errors'
echo '1,qemu.layer,error,Error executing Ansible: exit status 2'
exit 1
"""
BROKEN = """\
echo '1,,ui,say,==> qemu.layer: Starting VM%!(PACKER_COMMA) booting disk image'
echo '1,,ui,error,a warning that is not the reason'
echo '1,qemu.layer,error,Qemu failed to start.'
echo 'qemu-system-x86_64: no such device' > "$PACKER_LOG_PATH"
exit 1
"""
WORKING = """\
for argument; do
    case $argument in -var-file=*) work=$(dirname "${argument#-var-file=}") ;; esac
done
mkdir "$work/output"
qemu-img create -q -f qcow2 "$work/output/disk.qcow2" 8M
echo '1,,ui,message,    qemu.layer: TASK [base : Install packages] ******'
echo '1,,ui,message,    qemu.layer: changed: [vm]'
printf '1,,ui,message,    qemu.layer: PLAY RECAP ****'
"""
STUCK = """\
trap 'exit 1' INT
echo '1,,ui,say,==> qemu.layer: Starting VM%!(PACKER_COMMA) booting disk image'
while :; do sleep 0.1; done
"""


# Two layers in one run: a machine that does nothing, to which each layer adds 64 KiB of disk.
TWO = """\
for argument; do
    case $argument in -var-file=*) work=$(dirname "${argument#-var-file=}") ;; esac
done
mkdir "$work/output"
disk=$work/output/disk.qcow2
qemu-img create -q -f qcow2 "$disk" 8M
qemu-io -c 'write -q -P 1 0 64k' "$disk"
qmp=$(grep -o 'socket,id=qmp,path=[^",]*,server=on,wait=off' "$work/variables.pkrvars.json")
qemu-system-x86_64 -machine none -nodefaults -display none -chardev "$qmp" \\
    -mon chardev=qmp,mode=control -drive "if=none,id=root,format=qcow2,file=$disk" &
socket=$(echo "$qmp" | cut -d, -f3 | cut -d= -f2)
until grep -q " 00010000 .* $socket" /proc/net/unix; do sleep 0.1; done  # until it listens
echo '1,,ui,message,    qemu.layer: TASK [base : Install packages] ******'
echo '1,,ui,message,    qemu.layer: changed: [vm]'
touch "$work/between"
while test -e "$work/between"; do sleep 0.1; done
echo '1,,ui,message,    qemu.layer: TASK [runtime : Install Serai] ******'
kill $!; wait
qemu-io -c 'write -q -P 2 64k 64k' "$work/then.qcow2"
"""
LAST_FAILS = """\
echo '1,,ui,message,    qemu.layer: fatal: [vm]: FAILED! => {"msg": "no wheel"}'
exit 1
"""


# Fails as FAILING does, and leaves a process that holds Packer's output open, as QEMU does.
ABANDONING = """\
for argument; do
    case $argument in -var-file=*) work=$(dirname "${argument#-var-file=}") ;; esac
done
sh -c 'echo $$ > "$0/qemu.pid"; while :; do sleep 0.1; done' \\
    "$work" hostfwd=tcp:127.0.0.1:4242-:22 &
until test -s "$work/qemu.pid"; do sleep 0.1; done
echo '1,qemu.layer,error,aborted'
exit 1
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.of({**os.environ, "SERAI_CACHE": str(tmp_path / "cache")})


@pytest.fixture
def image(settings: Settings) -> Image:
    return definition.load(settings, "debian-12-amd64")


@pytest.fixture
def fake_packer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a shell script first on PATH as packer."""

    def put(script: str) -> None:
        program = tmp_path / "bin" / "packer"
        program.parent.mkdir()
        program.write_text(f"#!/bin/sh\n{script}")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")

    return put


def build(
    image: Image, settings: Settings, folder: Path, *, keep: bool = False
) -> tuple[list[TaskTiming], list[Event]]:
    events: list[Event] = []
    return packer_builds.build(image, settings, folder, events.append, keep=keep), events


def leftovers(settings: Settings, image: Image) -> list[Path]:
    return list((settings.cache / "work" / image.name).iterdir())


@pytest.mark.parametrize("name", ["debian-12-amd64", "ubuntu-22.04-arm64"])
def test_the_template_is_valid_with_the_variables_of_a_build(settings: Settings, name: str) -> None:
    layer.validate(definition.load(settings, name), settings)
    assert not settings.cache.exists()


def test_a_variable_that_the_template_lacks_is_an_error(
    settings: Settings, image: Image, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    (root / "packer").mkdir(parents=True)
    template = (settings.root / "packer/image.pkr.hcl").read_text()
    (root / "packer/image.pkr.hcl").write_text(template.replace("var.host_alias", "var.hots"))
    (root / "playbooks").mkdir()
    (root / "playbooks/image.yml").write_text("[]")
    with pytest.raises(BuildError, match=r"validate, debian-12-amd64: .*hots"):
        layer.validate(image, dataclasses.replace(settings, root=root))


def test_the_template_decides_the_key_of_a_layer(settings: Settings) -> None:
    found = layer.inputs(settings)
    assert found == layer.inputs(settings)
    assert set(found) == {"packer template", "recipe"}


def test_the_result_stands_alone_compressed_and_its_tasks_are_timed(
    settings: Settings, image: Image, tmp_path: Path, fake_packer: Callable[[str], None]
) -> None:
    fake_packer(WORKING)
    tasks, events = build(image, settings, tmp_path)
    assert [(task.role, task.name, task.status) for task in tasks] == [
        ("base", "Install packages", "changed")
    ]
    # The last line has no line feed: it must not get lost.
    assert "PLAY RECAP" in (tmp_path / "build.log").read_text()
    assert events == [
        TaskStarted("base", "Install packages"),
        tasks[0],
    ]
    shown = json.loads(run(["qemu-img", "info", "--output=json", tmp_path / "result.qcow2"]).stdout)
    assert shown["format-specific"]["data"]["compression-type"] == "zstd"
    assert "backing-filename" not in shown
    assert leftovers(settings, image) == []


def build_two(
    image: Image, settings: Settings, folder: Path, found: list[tuple[str, list[str], list[bool]]]
) -> None:
    """Two layers; notes of each its name, tasks and which of two pieces its disk has."""

    def made(what: LayerBuild, disk: Path, tasks: list[TaskTiming]) -> None:
        target = folder / f"{what.name}.qcow2"
        layer.compress(disk, target, what.log)
        pieces = [f"read -q -P {number + 1} {number * 64}k 64k" for number in range(2)]
        has = ["failed" not in run(["qemu-io", "-c", each, target], check=False).stdout
               for each in pieces]  # fmt: skip
        found.append((what.name, [task.name for task in tasks], has))

    layer.run_layers(
        image,
        settings,
        accelerator="tcg",
        disk=folder / "base.qcow2",
        layers=[LayerBuild(name, {}, folder / f"{name}.log") for name in ("system", "serai")],
        made=made,
        on_event=lambda _: None,
    )


def test_between_two_layers_the_disk_is_kept_as_it_is(
    settings: Settings, image: Image, tmp_path: Path, fake_packer: Callable[[str], None]
) -> None:
    fake_packer(TWO)
    found: list[tuple[str, list[str], list[bool]]] = []
    build_two(image, settings, tmp_path, found)
    assert found == [
        ("system", ["Install packages"], [True, False]),
        ("serai", ["Install Serai"], [True, True]),
    ]
    for name, task in (("system", "Install packages"), ("serai", "Install Serai")):
        assert re.findall(r"TASK \[\w+ : (.*)\]", (tmp_path / f"{name}.log").read_text()) == [task]
    assert leftovers(settings, image) == []


def test_where_the_second_layer_fails_the_first_is_made(
    settings: Settings, image: Image, tmp_path: Path, fake_packer: Callable[[str], None]
) -> None:
    fake_packer(TWO + LAST_FAILS)
    found: list[tuple[str, list[str], list[bool]]] = []
    with pytest.raises(BuildError) as caught:
        build_two(image, settings, tmp_path, found)
    assert found == [("system", ["Install packages"], [True, False])]
    assert (
        caught.value.message == "layer serai: the task 'runtime : Install Serai' failed: no wheel"
    )
    assert caught.value.log == tmp_path / "serai.log"
    assert leftovers(settings, image) == []


def test_a_disk_that_qemu_does_not_keep_is_one_clear_error(
    settings: Settings, image: Image, tmp_path: Path, fake_packer: Callable[[str], None]
) -> None:
    fake_packer(TWO.replace("id=root,", "id=other,"))
    with pytest.raises(BuildError, match="QEMU does not keep the disk of the layer system: "):
        build_two(image, settings, tmp_path, [])
    assert leftovers(settings, image) == []


@pytest.mark.parametrize("keep", [False, True])
def test_a_failed_task_is_named_and_nothing_stays(
    settings: Settings,
    image: Image,
    tmp_path: Path,
    fake_packer: Callable[[str], None],
    keep: bool,
) -> None:
    fake_packer(FAILING)
    with pytest.raises(BuildError) as caught:
        build(image, settings, tmp_path, keep=keep)
    assert caught.value.message == (
        "layer system: the task 'base : Install packages' failed: No package matching x"
    )
    assert caught.value.log == tmp_path / "build.log"
    assert "--keep" in caught.value.hint
    assert not (tmp_path / "result.qcow2").exists()
    assert leftovers(settings, image) == []


def test_a_failure_of_packer_tells_the_step_and_keeps_what_qemu_said(
    settings: Settings, image: Image, tmp_path: Path, fake_packer: Callable[[str], None]
) -> None:
    fake_packer(BROKEN)
    with pytest.raises(BuildError, match="packer failed while booting: Qemu failed to start"):
        build(image, settings, tmp_path)
    assert "no such device" in (tmp_path / "build.log").read_text()


def test_ctrl_c_ends_packer_and_leaves_nothing(
    settings: Settings, image: Image, tmp_path: Path, fake_packer: Callable[[str], None]
) -> None:
    fake_packer(STUCK)

    def interrupt(event: Event) -> None:
        if event == Note("booting"):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        packer_builds.build(image, settings, tmp_path, interrupt)
    assert leftovers(settings, image) == []
    assert str(settings.cache) not in run(["ps", "-eo", "args"]).stdout


def test_the_next_build_removes_what_a_killed_one_left_but_no_kept_machine(
    settings: Settings, image: Image, tmp_path: Path, fake_packer: Callable[[str], None]
) -> None:
    home = settings.cache / "work" / image.name
    dead, kept = home / "system.dead", home / "system.kept"
    for folder in (dead, kept):
        folder.mkdir(parents=True)
    # Another program may have got a dead machine's number since.
    (dead / "qemu.pid").write_text(f"{os.getpid()}\n")
    code = "import sys; print(flush=True); sys.stdin.read()"
    wait = [sys.executable, "-c", code, str(kept / "disk.qcow2")]
    with subprocess.Popen(wait, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as machine:
        assert machine.stdout is not None
        machine.stdout.read(1)  # until it runs, it has no command line to be known by
        (kept / "qemu.pid").write_text(f"{machine.pid}\n")
        fake_packer(FAILING)
        with pytest.raises(BuildError):
            build(image, settings, tmp_path)
        machine.communicate()
    assert leftovers(settings, image) == [kept]


def test_a_kept_machine_keeps_its_key_and_is_told_how_to_enter(
    settings: Settings, image: Image, tmp_path: Path, fake_packer: Callable[[str], None]
) -> None:
    fake_packer(ABANDONING)
    with pytest.raises(BuildError, match="aborted") as caught:
        build(image, settings, tmp_path, keep=True)
    [work] = leftovers(settings, image)
    pid = int((work / "qemu.pid").read_text())
    os.kill(pid, signal.SIGKILL)
    assert f"ssh -i {work / 'id_ed25519'} -p 4242 " in caught.value.hint
    assert f"kill {pid}" in caught.value.hint
    assert (work / "id_ed25519").is_file()
