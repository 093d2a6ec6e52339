"""What `invoke dist` does: the client for hosts, as a wheel and an sdist, tried on each Python.

The same source makes the same bytes. The wheel is the one that a VM gets. A second wheel,
serai-build, has the build host's half, and what of a checkout a build reads. The roles are a
collection of Ansible's besides.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import tomlkit

from serai.image import cache, console, digest, layout, sign
from serai.image.commands import ansible_collection, pythons
from serai.image.errors import BuildError
from serai.image.run import run
from serai.image.settings import CARRIED, Settings

CARRIED_PARTS = (
    *("ansible.cfg", "images", "packer", "pins.yml", "playbooks", "roles"),
    *("pyproject.toml", "CHANGELOG.md", "LICENSE"),
)
"""What of a checkout a build reads; pyproject.toml is what the VM's wheel is made by."""

_EARLIEST = "315619200"  # 1980, as early as a wheel can be: as the role runtime has it
_TRY = "import serai; serai.connect; serai.connect_async; print(serai.__version__)"


def dist(settings: Settings) -> Path:
    """Build all into dist/python/, with SHA256SUMS, and return that directory.

    What was there is replaced as a whole, and stays if this fails. Raises BuildError, also if a
    Python from the oldest to the newest is not here, or if the client does not run on it.
    """
    target = settings.dist / layout.CLIENT
    with cache.whole(target, replace=True) as made:
        with console.step("wheel and sdist"):
            wheel = _build(settings.root, made, "wheel")
            sdist = _build(settings.root, made, "sdist")
            _same_from(sdist, wheel)
            _build_half(settings.root, made)
            ansible_collection.build(settings, made)
        for version in (each.python for each in pythons.RELEASES.values()):
            with console.step(f"the client on Python {version}"):
                _try(pythons.interpreter(version), wheel)
        cache.write(made / layout.SUMS, sign.sums(sign.digests(made)))
    for path in sorted(target.iterdir()):
        console.say(f"  {path}")
    return target


def _build_half(root: Path, into: Path) -> Path:
    """The wheel serai-build: ``serai.image``, with a checkout in it that lacks just that."""
    ignore = shutil.ignore_patterns("__pycache__", "*.pyc")
    whole = tomlkit.parse((root / "pyproject.toml").read_text()).unwrap()
    about = whole["project"]
    with tempfile.TemporaryDirectory(prefix="serai-dist-") as work:
        half = Path(work) / "serai/image"
        shutil.copytree(root / "src/serai/image", half, ignore=ignore)
        carried = half / CARRIED.name
        carried.mkdir()
        for name in CARRIED_PARTS:
            source, target = root / name, carried / name
            if source.is_dir():
                shutil.copytree(source, target, ignore=ignore)
            else:
                shutil.copy(source, target)
        without = shutil.ignore_patterns("__pycache__", "*.pyc", "image")
        shutil.copytree(root / "src/serai", carried / "src/serai", ignore=without)
        described = {
            "build-system": whole["build-system"],
            "project": {
                **{key: about[key] for key in ("version", "license", "requires-python")},
                "name": "serai-build",
                "description": "Builds images of Serai",
                "dependencies": [
                    f"serai=={about['version']}",
                    *about["optional-dependencies"]["build"],
                ],
                "scripts": {"serai-build": "serai.image.tasks.program:main"},
            },
            "tool": {"hatch": {"build": {"targets": {"wheel": {"packages": ["serai"]}}}}},
        }
        (Path(work) / "pyproject.toml").write_text(tomlkit.dumps(described))
        return _build(Path(work), into, "wheel")


def _build(source: Path, into: Path, kind: str) -> Path:
    """The one file of that kind, made by hatchling."""
    argv = [sys.executable, "-m", "hatchling", "build", f"--target={kind}", f"--directory={into}"]
    before = set(into.iterdir())
    run(argv, cwd=source, env={"SOURCE_DATE_EPOCH": _EARLIEST})
    found = set(into.glob("*.whl" if kind == "wheel" else "*.tar.gz")) - before
    return found.pop()


def _same_from(sdist: Path, wheel: Path) -> None:
    """Raise BuildError if the sdist does not make the same wheel."""
    with tempfile.TemporaryDirectory(prefix="serai-dist-") as work:
        shutil.unpack_archive(sdist, work)
        source = Path(work) / sdist.name.removesuffix(".tar.gz")
        if digest.of_file(_build(source, Path(work), "wheel")) != digest.of_file(wheel):
            raise BuildError(
                f"{sdist.name} makes another wheel than the checkout",
                hint="see [tool.hatch.build] in pyproject.toml",
            )


def _try(python: Path, wheel: Path) -> None:
    """Install the wheel alone, and see that the library and the command run."""
    with tempfile.TemporaryDirectory(prefix="serai-dist-") as work:
        run([python, "-m", "venv", work])
        programs = Path(work) / "bin"
        pip = [str(programs / "python"), "-m", "pip", "--quiet", "--disable-pip-version-check"]
        run([*pip, "install", "--no-index", "--no-deps", wheel])
        run([programs / "python", "-I", "-c", _TRY])
        asked = run([programs / "serai", "--vm", f"unix://{work}/nobody", "list"], check=False)
        if asked.returncode == 0 or len(asked.stderr.splitlines()) != 1:
            raise BuildError(
                f"the command does not say in one line that a VM is not there: {asked.stderr}",
                hint=f"install {wheel.name} and run 'serai list'",
            )
