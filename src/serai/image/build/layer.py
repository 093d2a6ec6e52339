"""Layers of an image, built by Packer from packer/image.pkr.hcl: one, or two in one run of it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from serai.image import ansible, digest
from serai.image.build import playbook
from serai.image.build.packer_build import LayerBuild, PackerBuild
from serai.image.build.packer_program import Packer
from serai.image.build.playbook import BUILD_USER
from serai.image.definition import definition
from serai.image.definition.arch import ARCHITECTURES
from serai.image.definition.definition import Image
from serai.image.errors import BuildError
from serai.image.progress import Event, TaskTiming
from serai.image.run import bounded, last_lines, run
from serai.image.settings import Settings
from serai.image.vm import firmware, qemu, seed
from serai.image.vm.qemu import Accelerator

RECIPE = 1
"""Raise it when the same roles in the same VM make another layer of it: stages are cached."""

_TEMPLATE = Path("packer/image.pkr.hcl")
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[^\x20-\x7e\n]")
# Under emulation a cloud image's first boot took 12 minutes.
_SSH_TIMEOUT = "60m"


def inputs(settings: Settings) -> dict[str, object]:
    """What of the template and of this module goes into a layer's content."""
    return {"packer template": digest.of_file(settings.root / _TEMPLATE), "recipe": RECIPE}


def validate(image: Image, settings: Settings) -> None:
    """Check the template with the variables that a build of ``image`` would give it.

    Nothing is built, no disk need exist. Raises BuildError with what Packer has against it.
    """
    with tempfile.TemporaryDirectory(prefix="serai-validate-") as folder:
        work = Path(folder)
        _make_seed(work)
        values = _variables(
            image,
            settings,
            accelerator="tcg",
            disk=work / "disk.qcow2",
            layers=[LayerBuild(name, {}, work / "log") for name in ("first", "second")],
            work=work,
            qmp_socket=work / "qmp",
        )
        said = Packer(
            settings.root / _TEMPLATE,
            _write_variables(values, work),
            environment={"PACKER_CACHE_DIR": str(work / "cache")},
        ).complaint()
    if said:
        raise BuildError(
            f"packer validate, {image.name}: {last_lines(said, 6)}", hint=_missing_plugin(said)
        )


def run_layers(
    image: Image,
    settings: Settings,
    *,
    accelerator: Accelerator,
    disk: Path,
    layers: Sequence[LayerBuild],
    made: Callable[[LayerBuild, Path, list[TaskTiming]], None],
    keep: bool = False,
    on_event: Callable[[Event], None],
) -> None:
    """Build one of ``layers`` on top of ``disk``, or two after each other in one run of a VM.

    Calls ``made`` with each layer, the disk that it has made, and how long each Ansible task took:
    with the first of two while the second is built, so that it is there if that fails. The disk is
    gone afterwards, see ``compress``. Tells ``on_event`` of each step. With ``keep``, a VM in
    which a layer failed stays up.

    Raises BuildError. No VM and no file stays behind then, nor after Ctrl-C, but for the
    VM that ``keep`` asks for; after kill -9 the kernel ends the VM, and the next build
    of this image removes its folder.
    """
    home = settings.cache / "work" / image.name
    _sweep(home)
    work = Path(tempfile.mkdtemp(prefix=f"{layers[0].name}.", dir=home))
    kept = False
    try:
        # Sockets' paths must be short (unix(7): 108 bytes), so they cannot be in ``work``.
        with tempfile.TemporaryDirectory(prefix="serai-") as sockets:
            socket = Path(sockets) / "qmp"
            _make_seed(work)
            values = _variables(
                image,
                settings,
                accelerator=accelerator,
                disk=disk,
                layers=layers,
                work=work,
                qmp_socket=socket,
            )
            if keep:
                values["qemuargs"] = [*values["qemuargs"], ["-pidfile", str(work / "qemu.pid")]]
            variables = _write_variables(values, work)
            build = PackerBuild(layers, work, socket, made, on_event)
            with bounded(work / "serial.log"):
                built = build.run(settings.root / _TEMPLATE, variables, keep=keep)
        if not built:
            kept = keep and _machine(work) is not None
            why, log = build.why(_console(work)), build.layer.log
            inner = [line for line in _tail(work / "packer.log", 300) if ",ui," not in line]
            _append(log, "the end of packer's own log", inner)
            _append(log, "the end of the VM's console", _tail(work / "serial.log", 100))
            raise BuildError(why, hint=_missing_plugin(why) or _way_in(work, kept=kept), log=log)
        made(build.layer, build.disk, build.tasks.done)
    finally:
        if not kept:
            _remove(work)


def _variables(
    image: Image,
    settings: Settings,
    *,
    accelerator: Accelerator,
    disk: Path,
    layers: Sequence[LayerBuild],
    work: Path,
    qmp_socket: Path,
) -> dict[str, Any]:
    """Every variable of the template."""
    first, *then = [_arguments(layer, work) for layer in layers]
    environment = ansible.build_environment(settings.root)
    # The project's too, if there is one.
    environment["ANSIBLE_ROLES_PATH"] = ":".join(str(home / "roles") for home in settings.homes)
    architecture = ARCHITECTURES[image.arch]
    machine = qemu.packer_args(
        image,
        accelerator=accelerator,
        firmware=firmware.find(image.arch),
        serial_log=work / "serial.log",
        qmp_socket=qmp_socket,
    )
    return {
        "work": str(work),
        "disk": str(disk),
        "disk_size": f"{definition.megabytes(image.disk.size)}M",
        "sessions_size": f"{definition.megabytes(image.disk.sessions)}M",
        "qemu_binary": architecture.emulator,
        "machine_type": architecture.machine_type,
        "accelerator": accelerator,
        "qemuargs": [*machine, ["-vnc", "none"]],  # Packer opens one even where told not to
        "user": BUILD_USER,
        "key": str(work / "id_ed25519"),
        "ssh_timeout": _SSH_TIMEOUT,
        # In the last layer this also takes the build user away: see roles/seal.
        "shutdown_command": "sudo -n shutdown -P now",
        "host_alias": image.name,
        "playbook": str(_write_playbook(image, settings, work)),
        # Beside the interpreter that runs us, so that a virtual environment need not be active.
        "ansible": str(Path(sys.executable).with_name("ansible-playbook")),
        "ansible_arguments": first,
        "then": then,
        "ansible_environment": [
            *(f"{name}={value}" for name, value in environment.items()),
            f"ANSIBLE_LOCAL_TEMP={work / 'ansible'}",
            "ANSIBLE_STDOUT_CALLBACK=default",
            # Otherwise a task is named only when it has ended, and its time is the next one's.
            "ANSIBLE_DISPLAY_SKIPPED_HOSTS=true",
            "ANSIBLE_SSH_COMMON_ARGS=-o IdentitiesOnly=yes",
        ],
    }


def _write_playbook(image: Image, settings: Settings, work: Path) -> Path:
    path = work / playbook.FILE
    path.write_text(yaml.safe_dump(playbook.plays(settings, image.roles), sort_keys=False))
    return path


def _write_variables(values: dict[str, Any], work: Path) -> Path:
    path = work / "variables.pkrvars.json"
    path.write_text(json.dumps(values, indent=2))
    return path


def _arguments(layer: LayerBuild, work: Path) -> list[str]:
    """What makes Ansible apply the layer; writes the values of its roles' variables for it."""
    chosen = work / f"chosen-{layer.name}.json"
    chosen.write_text(json.dumps(dict(layer.chosen)))
    return ["--tags", layer.name, "--extra-vars", f"@{chosen}"]


def _make_seed(work: Path) -> None:
    """A throwaway key, and what cloud-init fetches from Packer's HTTP server to accept it."""
    key = seed.new_key(work)
    folder = work / "seed"
    folder.mkdir()
    (folder / "user-data").write_text(seed.user_data(users={BUILD_USER: [key.public]}))
    (folder / "meta-data").write_text(seed.meta_data())
    (folder / "vendor-data").write_text("")


def _machine(work: Path) -> int | None:
    """The process id of the VM kept running in ``work``, if there is one."""
    try:
        pid = int((work / "qemu.pid").read_text())
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError):
        return None
    return pid if os.fsencode(work) in command else None


def _missing_plugin(said: str) -> str:
    """Packer 1.10 and newer have their plugins apart; older ones have them built in."""
    missing = "unknown by Packer" in said or "Missing plugins" in said
    return "run 'packer init packer/plugins'" if missing else ""


def _way_in(work: Path, *, kept: bool) -> str:
    if not kept:
        return "--keep leaves the VM running, to look inside"
    pid = _machine(work)
    command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    forwarded = re.search(r"hostfwd=tcp:127\.0\.0\.1:(\d+)-:22", command)
    port = forwarded[1] if forwarded else "?"
    options = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"
    return (
        f"the VM is still running: ssh -i {work / 'id_ed25519'} -p {port} {options} "
        f"{BUILD_USER}@127.0.0.1; 'kill {pid}' ends it, the next build removes {work}"
    )


def _sweep(home: Path) -> None:
    """Remove what killed builds of this image left behind; a kept VM keeps its directory."""
    home.mkdir(parents=True, exist_ok=True)
    for work in home.iterdir():
        if _machine(work) is None:
            shutil.rmtree(work, ignore_errors=True)


def _remove(work: Path) -> None:
    if (pid := _machine(work)) is not None:
        os.kill(pid, signal.SIGKILL)
    shutil.rmtree(work, ignore_errors=True)


def compress(disk: Path, target: Path, log: Path) -> None:
    """Write ``disk`` to ``target``, a compressed qcow2 that stands alone.

    zstd takes a third of zlib's time for the same size.
    """
    options = ["-c", "-f", "qcow2", "-O", "qcow2", "-o", "compression_type=zstd"]
    run(["qemu-img", "convert", *options, disk, target], log=log)


def _tail(path: Path, lines: int) -> list[str]:
    """The last lines of a file that are not blank, without a terminal's control sequences."""
    if not path.is_file():
        return []
    text = _CONTROL.sub("", path.read_text(errors="replace"))
    return [line.rstrip() for line in text.splitlines() if line.strip()][-lines:]


def _console(work: Path) -> str:
    """The last line on the VM's console; the sealing of an image tells its failures there."""
    return "".join(_tail(work / "serial.log", 1))


def _append(log: Path, title: str, lines: list[str]) -> None:
    with log.open("a") as stream:
        stream.write("\n".join(["", f"==> {title}", *lines, ""]))
