"""What is said before an upgrade, and how a VM is known that was found right before."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path

from serai.image.provision import chosen, look, upgrade
from serai.image.settings import Settings


def looked(**values: object) -> str:
    found = {"version": "0.1.0", "modules": "python-0123456789abcdef", "kept": "", "sessions": 2}
    found |= {"connected": 1, "detached": 3, "jobs": 0, "cut_off": False}
    return json.dumps({**found, **values})


NOTHING = {"upgrades": False, "ends": 0, "words": ""}


def test_what_an_upgrade_ends_is_said_before(tmp_path: Path) -> None:
    wheel = tmp_path / "serai.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("serai/__init__.py", '__version__ = "0.2.0"\n')
    modules = "python-" + hashlib.sha256(wheel.read_bytes()).hexdigest()[:16]
    goes = "2 sessions, 0 jobs, 3 detached commands go on; "
    goes += "1 connected command and connections through the gate end"
    assert upgrade.plan(looked(), str(tmp_path)) == {
        "upgrades": True,
        "ends": 1,
        "words": f"Serai 0.1.0 (01234567) becomes 0.2.0 ({modules[7:15]}); {goes}",
    }
    assert upgrade.plan(looked(), str(tmp_path), ["fleet"]) == NOTHING
    assert upgrade.plan(looked(), str(tmp_path), ["gate", "runtime"])["upgrades"]
    same = upgrade.plan(looked(modules=modules), str(tmp_path))
    assert same == NOTHING
    cut = upgrade.plan(looked(modules=modules, cut_off=True), str(tmp_path))
    assert cut["ends"] == 1
    assert upgrade.plan(looked(modules=""), str(tmp_path))["words"] == ""
    back = upgrade.plan_back(looked(kept="0.0.9 (76543210)"))
    assert back["words"] == f"Serai 0.1.0 (01234567) becomes 0.0.9 (76543210); {goes}"
    assert not upgrade.plan_back(looked())["upgrades"]


def test_what_runs_is_read_from_cgroups(tmp_path: Path) -> None:
    rest = {"right": "", "witness": look.look(tmp_path)["witness"]}
    assert look.look(tmp_path) == {
        **json.loads(looked(version="", modules="", sessions=0, connected=0, detached=0)),
        **rest,
    }
    unit = tmp_path / "sys/fs/cgroup/serai.slice/serai-session@a.service"
    for name in ("exec-1-1", "detached-1-2", "job-0123", "other"):
        (unit / name).mkdir(parents=True)
    package = tmp_path / "usr/lib/serai/python-01/serai"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text('__version__ = "1.2"\n')
    (tmp_path / "usr/lib/serai/python").symlink_to("python-01")
    found = look.look(tmp_path)
    rest["witness"] = found["witness"]
    assert {**found, **rest} == rest | json.loads(
        looked(version="1.2", modules="python-01", sessions=1, connected=1, detached=1, jobs=1)
    )


def test_a_vm_that_was_right_looks_so_until_something_changes(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "etc/serai").mkdir(parents=True)
    (root / "etc/serai/gate.toml").write_text("a\n")
    (root / "usr/local/bin").mkdir(parents=True)

    def seen() -> str:
        return json.dumps(look.look(root))

    note = root / "var/lib/serai/right"
    note.parent.mkdir(parents=True)
    assert not upgrade.is_right(seen(), "inputs")
    note.write_text(upgrade.right(seen(), "inputs"))
    assert upgrade.is_right(seen(), "inputs")
    assert not upgrade.is_right(seen(), "others"), "the roles or the variables have changed"
    assert not upgrade.is_right(seen(), "")
    marker = root / "var/lib/serai/provisioning"
    marker.touch()
    assert not upgrade.is_right(seen(), "inputs"), "a run was cut off"
    marker.unlink()
    for change in (
        lambda: (root / "etc/serai/gate.toml").write_text("a\n"),
        lambda: (root / "etc/serai/gate.toml").chmod(0o600),
        lambda: (root / "usr/local/bin/tool").symlink_to("x"),
        (root / "usr/local/bin/tool").unlink,
    ):
        note.write_text(upgrade.right(seen(), "inputs"))
        assert upgrade.is_right(seen(), "inputs")
        change()
        assert not upgrade.is_right(seen(), "inputs")


def test_versions_that_roles_read_are_sources_too(checkout: Settings) -> None:
    pins = checkout.root / "pins.yml"
    (checkout.root / chosen.PLAYBOOK).write_text("[]\n")
    first = upgrade.sources(checkout)
    pins.write_text("nats_py: {version: 99}\n")
    assert upgrade.sources(checkout) != first


def test_what_a_vm_is_made_of(tmp_path: Path) -> None:
    wheel, skills = tmp_path / "serai.whl", tmp_path / "skills"
    wheel.write_bytes(b"wheel")
    skills.mkdir()
    given = {"agent_skills": str(skills), "runtime_tasks_max": 7, "ansible_port": 22}

    def made(**values: object) -> str:
        return upgrade.inputs({**given, **values}, str(tmp_path), "roles")

    first = made()
    assert first
    assert made(ansible_port=23) == first, "that is how to get there"
    assert made(runtime_tasks_max=8) != first
    assert made(project_files=[str(skills)]) == "", "these may be anywhere"
    assert made(agent_skills="/nonexistent") == ""
    (skills / "new").touch()
    assert made() != first
    assert upgrade.inputs(given, str(tmp_path), "") == ""
