"""The runtime comes out of its wheel whole, again only if it is another one."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from serai.install import fleet, install, table
from tests.conftest import ROOT
from tests.support import small_wheel
from tests.support.no_services import NoServices

HERE = ROOT / install.HERE.replace("serai", "src/serai", 1)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def root(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the whole wheel is installed; no test changes it."""
    made = tmp_path_factory.mktemp("root")
    assert installed(wheel, made)
    return made


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A wheel that is installed in no time."""
    return small_wheel.wheel(tmp_path, "one")


def installed(wheel: Path, root: Path) -> bool:
    return install.install(wheel, root, NoServices())


def built(folder: Path) -> Path:
    """The wheel of this checkout, as the role builds it."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target=wheel", f"--directory={folder}"],
        cwd=ROOT,
        env={"SOURCE_DATE_EPOCH": "315619200"},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    (made,) = folder.glob("*.whl")
    return made


def test_the_wheel_holds_the_runtime_alone_and_is_the_same_bytes_again(
    wheel: Path, tmp_path: Path
) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert "serai/install/programs/sessiond" in names
    assert not [name for name in names if name.startswith("serai/image")]
    assert built(tmp_path).read_bytes() == wheel.read_bytes()


def test_everything_is_where_the_units_expect_it(root: Path) -> None:
    for file in table.FILES:
        target = root / file.target
        assert target.stat().st_mode & 0o7777 == file.mode
        assert target.read_bytes() == (HERE / file.source).read_bytes()
    shipped = {
        str(path.relative_to(HERE))
        for folder in ("programs", "units")
        for path in (HERE / folder).rglob("*")
        if path.is_file()
    }
    shipped.remove(str(Path(fleet.SOURCE).relative_to("serai/install")))
    assert {file.source for file in table.FILES} == shipped
    code = "import sys; sys.path.insert(0, sys.argv[1]); import serai.runtime as m"
    code += "; print(m.__cached__)"
    argv = ["/usr/bin/python3", "-ISc", code, str(root / "usr/lib/serai/python")]
    said = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True).stdout
    assert "__pycache__" in said


def test_a_vm_gets_nothing_that_only_a_host_can_use(wheel: Path, root: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        assert {"serai/mcp/server.py", "serai/fleet/member.py"} <= set(archive.namelist())
    for name in ("mcp", "fleet"):
        assert not (root / "usr/lib/serai/python/serai" / name).exists()
    assert (root / "usr/lib/serai/python/serai/runtime/metrics.py").exists()


def test_the_runtimes_units_have_one_home() -> None:
    """Those of the seal are an image's, and one removes itself; a stand-in's are Ubuntu's."""
    standin = ROOT / "src/serai/image/rehearsal/data"
    kinds = ("service", "mount", "slice", "socket", "timer", "path")
    found = {
        path.parent
        for top in ("src", "roles")
        for kind in kinds
        for path in (ROOT / top).rglob(f"*.{kind}")
    }
    assert HERE / "units" in found
    elsewhere = [path for path in found if HERE / "units" not in (path, path.parent)]
    elsewhere = [path for path in elsewhere if standin not in path.parents]
    assert elsewhere == [ROOT / "roles/seal/files"]


def test_a_program_out_of_the_wheel_runs(root: Path) -> None:
    program = (root / "usr/lib/serai/session-disk").read_text()
    program = program.replace("/usr/lib/serai/python", str(root / "usr/lib/serai/python"))
    stated = program.replace("sys.exit(main())", "print(main.__module__)")
    done = subprocess.run(
        ["/usr/bin/python3", "-IS", "-c", stated], stdout=subprocess.PIPE, text=True, check=True
    )
    assert done.stdout == "serai.disk.prepare\n"


def test_the_same_wheel_is_left_alone_and_what_is_missing_comes_back(
    small: Path, tmp_path: Path
) -> None:
    assert installed(small, tmp_path)
    assert not installed(small, tmp_path)
    (tmp_path / "usr/bin/serai").unlink()
    assert installed(small, tmp_path)
    (tmp_path / "usr/lib/serai/bridge").write_text("changed\n")
    assert installed(small, tmp_path)
    assert not installed(small, tmp_path)


def test_another_wheel_takes_the_place_of_the_one_before(small: Path, tmp_path: Path) -> None:
    installed(small, tmp_path / "root")
    other = tmp_path / "other.whl"
    other.write_bytes(small.read_bytes())
    with zipfile.ZipFile(other, "a") as archive:
        archive.writestr("serai/runtime/added.py", "")
    assert installed(other, tmp_path / "root")
    folder = tmp_path / "root/usr/lib/serai"
    assert (folder / "python/serai/runtime/added.py").exists()
    assert len(list(folder.glob("python-*"))) == 2, "and stays, to go back to"


def test_what_an_installation_that_was_cut_off_left_is_removed(small: Path, tmp_path: Path) -> None:
    assert installed(small, tmp_path)
    left = tmp_path / "usr/lib/serai/python-of-before"
    left.mkdir()
    assert not installed(small, tmp_path)
    assert not left.exists()


def test_a_broken_wheel_changes_nothing(small: Path, tmp_path: Path) -> None:
    installed(small, tmp_path / "root")
    link = tmp_path / "root/usr/lib/serai/python"
    before = link.readlink()
    broken = tmp_path / "broken.whl"
    broken.write_bytes(small.read_bytes()[:-100])
    with pytest.raises(zipfile.BadZipFile):
        installed(broken, tmp_path / "root")
    assert link.readlink() == before
    assert (link / "serai/__init__.py").exists()
