"""What `invoke rehearse` does: the roles on the stand-in and on Debian, and a record of the tasks.

Each run begins with a fresh container, plays a playbook twice, and looks at the result: the second
time nothing may change.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from serai.image import console
from serai.image.build.playbook import BUILD_USER
from serai.image.container import roots
from serai.image.container.ansible_host import PLAYBOOK, AnsibleHost
from serai.image.container.container import DEADLINE
from serai.image.definition import arch, definition
from serai.image.errors import BuildError
from serai.image.provision import chosen, provision
from serai.image.rehearsal import controller, looks, record, standin
from serai.image.rehearsal.releases import JAMMY, NOBLE, Ubuntu
from serai.image.run import run
from serai.image.settings import Settings
from serai.image.vm import seed

_SEALED = "serai-seal: powering off"
_MARKER = "/var/lib/serai/provisioning"  # of playbooks/provision.yml


@dataclass(frozen=True)
class Run:
    """A playbook on the stand-in for ``release``, or on Debian if there is none.

    ``looks`` are commands there with what they have to print afterwards.
    ``others`` are choices with which it is then played once more, for what those of the run skip.
    ``sealed`` are commands on the build host, in the root of an image that has powered off.
    """

    name: str
    playbook: Path
    variables: dict[str, Any]
    looks: Mapping[str, str]
    release: Ubuntu | None = None
    sealed: Mapping[str, str] = field(default_factory=dict)
    others: dict[str, Any] = field(default_factory=dict)

    @property
    def is_image(self) -> bool:
        """Whether it makes an image, and not a VM that already runs."""
        return self.playbook == PLAYBOOK


# Of the product's profile what its tasks need: the rest are 1.3 GB of packages by name.
_FEW = {
    "none": [],
    "minimal": ["python3-pip"],
    "standard": ["gcc", "libc6-dev", "unzip"],
    "full": [],
}
_ONE = {"default": {"summary": "Nothing", "allow": [], "deny": []}}
_SMALL = {"toolchain_profile": "minimal"}
_FLEET = {"fleet_servers": ["127.0.0.1:4222"], "fleet_name": controller.VM}
_DATA = Path(__file__).parent / "data/project"
_PROJECT = {
    "base_certificates": str(_DATA / "certificates"),
    "project_files": [str(_DATA / "files")],
}


def _looks(release: Ubuntu) -> dict[str, str]:
    return {**looks.ALWAYS, **looks.UBUNTU, **looks.BY_RELEASE[release.version]}


def _image(release: Ubuntu) -> Run:
    return Run(
        f"{release.name} image",
        PLAYBOOK,
        # Beside what the product chooses, which leaves these as they are.
        {
            "identity_hostname": "rehearsal",
            "identity_locale": "en_US.UTF-8",
            "toolchain_added": _FEW,
            **_PROJECT,
        },
        {**_looks(release), **looks.UBUNTU_IMAGE, **looks.PROJECT},
        release,
        {**looks.UBUNTU_SEALED, **looks.SEALED_BY_RELEASE[release.version]},
        {
            "toolchain_node_source": "wheel",
            "identity_swap": True,
            "hardening_hidepid": True,
            "gate_profiles": _ONE,
            "base_certificates": "",
            "agent_skills": "",
        },
    )


def _vm(release: Ubuntu) -> Run:
    return Run(
        f"{release.name} VM",
        chosen.PLAYBOOK,
        {"toolchain_profile": "none"},
        {**_looks(release), **looks.UBUNTU_VM},
        release,
    )


RUNS = (
    _image(JAMMY),
    _vm(JAMMY),
    _image(NOBLE),
    _vm(NOBLE),
    Run(
        "debian-12 image",
        PLAYBOOK,
        {**_SMALL, **_PROJECT},
        {**looks.ALWAYS, **looks.PROJECT},
        sealed=looks.SEALED,
    ),
    Run(
        "debian-12 VM",
        chosen.PLAYBOOK,
        {**_SMALL, **_FLEET},
        {**looks.ALWAYS, **looks.VM, **looks.FLEET},
        others={"fleet_servers": []},
    ),
)


def rehearse(settings: Settings, only: str = "") -> int:
    """Run them all and keep the record; the exit status: 1 if lint would complain about it.

    With ``only``, a part of a run's name, the record of the others stays as it is, if the roles do.
    Raises BuildError for a run that fails; then nothing is recorded.
    """
    if os.geteuid() != 0:
        raise BuildError("a container needs root", hint="run it with sudo")
    chosen = [each for each in RUNS if only in each.name]
    if not chosen:
        raise BuildError(f"no rehearsal is called {only!r}", hint=", ".join(e.name for e in RUNS))
    contents = record.contents(settings.root)
    found = {each.name: _run(settings, each) for each in chosen}
    record.write(settings.root, record.renewed(settings.root, contents, found))
    said = record.complaints(settings.root)
    for sentence in said:
        console.warn(sentence)
    return 1 if said else 0


def _run(settings: Settings, each: Run) -> dict[str, str]:
    """How each task ended. Raises BuildError if one fails, or the result is not as it must be."""
    base = standin.base(settings, each.release) if each.release else roots.base(settings)
    with console.step(each.name), tempfile.TemporaryDirectory(prefix="serai-") as folder:
        work = Path(folder)
        run(["cp", "--archive", "--reflink=auto", base, work / "root"])
        host = AnsibleHost(work / "root", work, settings.root)
        host.prepare()
        chosen = _variables(settings, each, host)
        events = work / "events"
        wrong = _play(each, host, chosen, events)
        if each.is_image:
            if _SEALED not in host.console.read_text(errors="replace"):
                wrong.append("it was not sealed")
            wrong += _look(each.sealed, lambda command: _here(host.root, command))
        if wrong:
            raise BuildError(f"{each.name}: {'; '.join(wrong)}")
        return record.outcomes(settings.root, events.read_text().splitlines())


def _variables(settings: Settings, each: Run, host: AnsibleHost) -> dict[str, Any]:
    """What the run chooses; on the stand-in as the product does, with what we have instead."""
    if not each.release:
        keys = controller.fleet(host.work) if "fleet_servers" in each.variables else {}
        return {**each.variables, **keys}
    _seed(host)
    if not each.is_image:
        return each.variables
    product = definition.load(settings, f"{each.release.name}-{arch.native()}").variables
    agent = controller.agent(host.root, host.work)
    return {**product, **controller.node(settings), **agent, **each.variables}


def _play(each: Run, host: AnsibleHost, chosen: dict[str, Any], events: Path) -> list[str]:
    """Boot it, play the playbook until nothing changes, switch off; what is wrong with the result.

    It is played while the first boot goes on, as a build does.
    """

    def play(**others: Any) -> int:
        told = ["--extra-vars", json.dumps({**chosen, **others})]
        recording = provision.recording(events)
        return host.play(*told, playbook=each.playbook, variables=recording)["changed"]

    with host.booted(settled=False) as container:
        play()
        if not each.is_image:
            container.shell(f"touch {_MARKER}")  # so that all handlers run
            play()
        changed = play()
        wrong = [f"the last time {changed} tasks changed something"] if changed else []
        wrong += _look(each.looks, lambda command: container.shell(command, check=False))
        if each.others:
            play(**each.others)
        if each.is_image:
            host.ssh(BUILD_USER, "sudo -n shutdown -P now", check=False)  # as Packer does
            container.process.wait(DEADLINE)
    return wrong


def _look(looks: Mapping[str, str], shell: Callable[[str], str]) -> list[str]:
    """What is not as it must be, a sentence each."""
    said = {command: shell(command) for command in looks}
    return [
        f"'{command}' prints {said[command]!r}, not {wanted!r}"
        for command, wanted in looks.items()
        if said[command] != wanted
    ]


def _here(root: Path, command: str) -> str:
    return run(["sh", "-c", command], cwd=root, check=False).stdout.strip()


def _seed(host: AnsibleHost) -> None:
    """What a build tells cloud-init."""
    folder = host.root / "var/lib/cloud/seed/nocloud"
    folder.mkdir(parents=True)
    (folder / "user-data").write_text(seed.user_data(users={BUILD_USER: [host.key.public]}))
    (folder / "meta-data").write_text(seed.meta_data())
