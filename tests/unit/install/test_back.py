"""From one version to the next and back, killed at every step."""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest

from serai.common.paths import Paths
from serai.install import back, fleet, install, turn
from serai.install.previous import Previous
from serai.install.services import FailedError
from serai.runtime.sessions import schema
from serai.runtime.sessions.registry import Registry
from tests.conftest import ROOT
from tests.support.small_wheel import wheel

SETTINGS = "etc/serai/session.toml"
LINK = "usr/lib/serai/python"


class _Killed(BaseException):
    """The process ends here."""


class _Services:
    """Daemons that are well with the versions of ``good``, by a word in the settings."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.runs = True
        self.bad: set[str] = set()
        self.knows: dict[str, str] = {}
        self.refuses = False

    def stop(self) -> None:
        self.runs = False

    def start(self) -> None:
        self.runs = True

    def wrong(self, *, whole: bool, patience: float = 0) -> str:  # noqa: ARG002
        now = Previous(self.root).current
        if not self.runs:
            return "it does not run"
        if now in self.bad:
            return "it is broken"
        if self.knows.get(now, "") not in (self.root / SETTINGS).read_text():
            return "it does not know a setting"
        return ""

    def run(self, modules: str, *arguments: str) -> None:
        if self.refuses:
            raise FailedError("a session is on its way")
        assert Path(modules).is_dir()
        argv = [sys.executable, "-m", *arguments]
        subprocess.run(argv, env={**os.environ, "PYTHONPATH": str(ROOT / "src")}, check=True)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A VM with version one, settings and a registry."""
    made = tmp_path / "root"
    (made / "etc/serai").mkdir(parents=True)
    (made / SETTINGS).write_text("one\n")
    Paths(made).state.mkdir(parents=True)
    Registry(Paths(made).registry).close()
    install.install(wheel(tmp_path, "one"), made, _Services(made))
    return made


def state(root: Path) -> dict[str, str]:
    """What is installed: every file, and where the link leads; without what is kept to go back."""
    found = {
        str(path.relative_to(root)): path.read_text()
        for place in ("usr/bin", "usr/lib/serai", "etc")
        for path in sorted((root / place).rglob("*"))
        if path.is_file() and "python" not in str(path.relative_to(root))
    }
    package = root / LINK / "serai/__init__.py"
    return {**found, "version": package.read_text()}


def killing_at(wanted: int) -> Callable[[str], None]:
    seen: list[str] = []

    def fault(step: str) -> None:
        seen.append(step)
        if len(seen) == wanted:
            raise _Killed(step)

    return fault


def test_one_step_back_and_all_is_as_it_was(root: Path, tmp_path: Path) -> None:
    before = state(root)
    services = _Services(root)
    install.install(wheel(tmp_path, "two"), root, services)
    assert back.settle(root, services) == ""
    assert len(list((root / "usr/lib/serai").glob("python-*"))) == 2
    assert back.back(root, services).startswith("went back to Serai one (")
    assert state(root) == before
    assert services.runs
    assert back.back(root, services) == "", "a second time there is nothing to do"
    install.install(wheel(tmp_path, "two"), root, services)
    assert "two" in state(root)["version"]
    assert back.back(root, services), "and again"


@pytest.mark.parametrize("asked", ["--rollback", "--settle", "WHEEL"])
def test_one_change_at_a_time(
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    asked: str,
) -> None:
    """Whoever comes second changes nothing, and is told who is at it."""
    services = _Services(root)
    install.install(wheel(tmp_path, "two"), root, services)
    before = state(root)
    third = str(wheel(tmp_path, "three")) if asked == "WHEEL" else asked
    monkeypatch.setattr(install, "Daemons", lambda: services)
    monkeypatch.setattr(sys, "argv", ["install", third, f"--root={root}"])
    services.bad = {Previous(root).current}  # so that also --settle would go back
    with turn.alone(root, "a step back"):
        assert install.main() == 1
        said = f"serai: a step back (process {os.getpid()}) is under way here; do this again when"
        assert capsys.readouterr().err.startswith(said)
        assert state(root) == before
    install.main()
    assert state(root) != before, "and who was refused has its turn"


@pytest.mark.parametrize("lock", ["folder", "link", "bytes", "full"])
def test_what_is_wrong_is_said_in_a_line(
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    lock: str,
) -> None:
    path, other = root / turn.LOCK, tmp_path / "other"
    path.parent.mkdir()
    other.write_bytes(b"\xffmine")
    if lock == "folder":
        path.mkdir()
    elif lock != "full":
        (path.symlink_to if lock == "link" else path.hardlink_to)(other)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "unpacked")

    monkeypatch.setattr(install, "_unpack", full)
    monkeypatch.setattr(sys, "argv", ["install", str(wheel(tmp_path, "two")), f"--root={root}"])
    before = state(root)
    with other.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert install.main() == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert other.read_bytes() == b"\xffmine"
    assert state(root) == before


def test_going_back_from_nothing_is_said_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(FailedError, match="no version before"):
        back.back(tmp_path, _Services(tmp_path))


def test_a_member_of_a_fleet_stays_as_it_is(root: Path, tmp_path: Path) -> None:
    unit = root / fleet.UNIT
    unit.write_text("one\n")
    install.install(wheel(tmp_path, "two"), root, _Services(root))
    unit.write_text("two\n")
    assert back.back(root, _Services(root)).endswith("; the member of its fleet stays as it is")
    assert unit.read_text() == "two\n"


def test_no_version_before_is_an_error(root: Path) -> None:
    with pytest.raises(FailedError, match=r"no version before Serai one \("):
        back.back(root, _Services(root))


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "{}"])
def test_what_is_kept_may_be_damaged(root: Path, tmp_path: Path, text: str) -> None:
    """A step back says so, and the next version is installed all the same."""
    install.install(wheel(tmp_path, "two"), root, _Services(root))
    (root / "var/lib/serai/previous/about.json").write_text(text)
    with pytest.raises(FailedError, match=r"no version before Serai two \("):
        back.back(root, _Services(root))
    assert install.install(wheel(tmp_path, "three"), root, _Services(root))
    assert back.back(root, _Services(root)).startswith("went back to Serai two")


def test_a_registry_that_cannot_be_lowered_leaves_all_as_it_is(root: Path, tmp_path: Path) -> None:
    services = _Services(root)
    install.install(wheel(tmp_path, "two"), root, services)
    newer = state(root)
    services.refuses = True
    with pytest.raises(FailedError, match="on its way"):
        back.back(root, services)
    assert state(root) == newer
    assert services.runs
    services.refuses = False
    assert back.back(root, services)


def test_a_version_that_is_not_well_goes_back_by_itself(root: Path, tmp_path: Path) -> None:
    before = state(root)
    services = _Services(root)
    install.install(wheel(tmp_path, "two"), root, services)
    services.bad = {Previous(root).current}
    said = back.settle(root, services)
    assert "Serai two (" in said
    assert "is not well: it is broken; went back to Serai one (" in said
    assert state(root) == before
    assert services.runs


def test_who_was_well_once_does_not_go_back_by_itself(root: Path, tmp_path: Path) -> None:
    services = _Services(root)
    install.install(wheel(tmp_path, "two"), root, services)
    assert back.settle(root, services) == ""
    services.bad = {Previous(root).current}
    assert back.settle(root, services).endswith("is not well: it is broken")
    assert "two" in state(root)["version"]


def test_settings_stay_unless_the_older_version_does_not_know_them(
    root: Path, tmp_path: Path
) -> None:
    services = _Services(root)
    one = Previous(root).current
    install.install(wheel(tmp_path, "two"), root, services)
    (root / SETTINGS).write_text("one and a later change\n")
    back.back(root, services)
    assert (root / SETTINGS).read_text() == "one and a later change\n"
    install.install(wheel(tmp_path, "two"), root, services)
    (root / SETTINGS).write_text("two\n")
    (root / "etc/serai/new.toml").touch()
    services.knows = {one: "one"}
    assert back.back(root, services).endswith(", and to its settings")
    assert (root / SETTINGS).read_text() == "one and a later change\n"
    assert not (root / "etc/serai/new.toml").exists()


@pytest.mark.parametrize("at", range(1, 6))
def test_an_upgrade_that_is_killed_is_finished_and_leads_back(
    root: Path, tmp_path: Path, at: int
) -> None:
    before, services = state(root), _Services(root)
    with pytest.raises(_Killed):
        install.install(wheel(tmp_path, "two"), root, services, killing_at(at))
    install.install(wheel(tmp_path, "two"), root, services)
    assert not install.install(wheel(tmp_path, "two"), root, services)
    assert "two" in state(root)["version"]
    assert state(root)["usr/bin/serai"] == "two\n"
    back.back(root, services)
    assert state(root) == before


@pytest.mark.parametrize("at", range(1, 9))
def test_a_step_back_that_is_killed_is_finished(root: Path, tmp_path: Path, at: int) -> None:
    before, services = state(root), _Services(root)
    install.install(wheel(tmp_path, "two"), root, services)
    with pytest.raises(_Killed):
        back.back(root, services, killing_at(at))
    assert back.back(root, services)
    assert state(root) == before
    assert services.runs


@pytest.mark.parametrize("step", ["registry", "programs", "modules", "newer"])
def test_a_full_disk_leaves_the_daemons_running(root: Path, tmp_path: Path, step: str) -> None:
    def full(name: str) -> None:
        if name == step:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before, services = state(root), _Services(root)
    install.install(wheel(tmp_path, "two"), root, services)
    with pytest.raises(FailedError, match=f"at the step '{step}': No space left"):
        back.back(root, services, full)
    assert services.runs
    assert back.back(root, services)
    assert state(root) == before


@pytest.mark.parametrize("at", range(1, 9))
def test_after_a_step_back_that_was_killed_one_may_also_go_on(
    root: Path, tmp_path: Path, at: int
) -> None:
    services = _Services(root)
    two = wheel(tmp_path, "two")
    install.install(two, root, services)
    with suppress(_Killed):
        back.back(root, services, killing_at(at))
    install.install(two, root, services)
    assert back.settle(root, services) == ""
    assert "two" in state(root)["version"]
    assert state(root)["usr/bin/serai"] == "two\n"


@pytest.mark.parametrize("written", ["schema.py:VERSION = 2", "registry.py:SCHEMA_VERSION = 2"])
def test_a_registry_that_came_with_the_newer_version_is_lowered_too(
    root: Path, tmp_path: Path, written: str
) -> None:
    """The older one never ran, for example because its sessions disk was not there."""
    path, services = Paths(root).registry, _Services(root)
    path.unlink(missing_ok=True)
    name, _, text = written.partition(":")
    modules = (root / "usr/lib/serai/python").resolve() / "serai/runtime/sessions"
    modules.mkdir(parents=True, exist_ok=True)
    (modules / name).write_text(f"X = 1\n{text}\n")
    install.install(wheel(tmp_path, "two"), root, services)
    Registry(path).close()
    back.back(root, services)
    with closing(sqlite3.connect(path)) as db:
        assert schema.version(db) == 2


def test_the_registry_is_lowered_and_raised_again_and_no_session_is_lost(
    root: Path, tmp_path: Path
) -> None:
    path, services = Paths(root).registry, _Services(root)
    with closing(sqlite3.connect(path)) as db:
        schema.lower(db, 2)  # as an older version made it
        db.execute("DROP TABLE lowered")
        db.commit()
    install.install(wheel(tmp_path, "two"), root, services)
    registry = Registry(path)
    made, _ = registry.add("since", {"a": "b"}, 1.0)

    pooled = registry.add_pooled({}, made.own, 1.0)
    registry.close()
    back.back(root, services)
    with closing(sqlite3.connect(path)) as db:
        assert schema.version(db) == 2
        rows = dict(db.execute("SELECT name, goal FROM sessions").fetchall())
        assert rows == {"since": "ready", pooled.name: "removing"}
        assert "own" not in [row[1] for row in db.execute("PRAGMA table_info(sessions)")]
    again = Registry(path)
    assert again.get("since") == made
    assert [each.pooled for each in again.all(pooled=True)] == [False, True]
    again.close()
    with closing(sqlite3.connect(path)) as db:
        assert not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'lowered'").fetchall()
