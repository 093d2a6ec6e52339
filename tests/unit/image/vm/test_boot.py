"""A command in a throwaway machine starts when the boot has finished, however it went."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from serai.image.definition import definition
from serai.image.definition.definition import Image
from serai.image.settings import Settings
from serai.image.vm import boot
from serai.image.vm.ssh import Ssh

# A guest that is slow, broken or never ready does not come on demand: "ssh" runs the command here.
SSH = """#!/bin/sh
for command; do :; done
exec sh -c "$command"
"""


@pytest.fixture
def guest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of programs in front of all others; every machine that boots is this one."""
    programs = tmp_path / "bin"
    programs.mkdir()
    put(programs / "ssh", SSH)
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    login = Ssh(1, "root", tmp_path / "id")

    @contextmanager
    def booted(image: Image, *_: object, **__: object) -> Iterator[object]:
        yield SimpleNamespace(ssh=login, guest=SimpleNamespace(name=image.name))

    monkeypatch.setattr(boot, "booted", booted)
    return programs


def put(program: Path, script: str) -> None:
    program.write_text(script)
    program.chmod(0o755)


def run(folder: Path, command: str) -> int:
    settings = Settings.of({})
    image = definition.load(settings, "debian-12-amd64")
    return boot.boot(settings, image, folder / "disk", run=command)


@pytest.mark.parametrize(("state", "status"), [("running", 0), ("degraded", 1)])
def test_a_command_waits_for_the_boot_and_runs_however_it_ended(
    guest: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    state: str,
    status: int,
) -> None:
    up = tmp_path / "up"
    script = f"""#!/bin/sh
[ "$*" = "is-system-running --wait" ] && touch {up}; echo {state}; exit {status}"""
    put(guest / "systemctl", script)
    assert run(tmp_path, f"test -e {up} && exit 7") == 7
    assert ("degraded" in capfd.readouterr().err) == (state == "degraded")


def test_a_boot_that_never_ends_is_not_waited_for_for_ever(
    guest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(boot, "WHOLE_BOOT", 0.1)
    put(guest / "systemctl", "#!/bin/sh\nexec sleep 600\n")
    assert run(tmp_path, "exit 7") == 7
    assert "still starting" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", (None, "qcow2")),
        ("a/b.qcow2", (Path("a/b.qcow2"), "qcow2")),
        ("b.img:raw", (Path("b.img"), "raw")),
        ("b:qcow2", (Path("b"), "qcow2")),
        ("odd:name", (Path("odd:name"), "qcow2")),
    ],
)
def test_the_format_of_the_sessions_disk_is_declared(text: str, expected: object) -> None:
    assert boot.parse_sessions(text) == expected
