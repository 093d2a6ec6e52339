"""What `invoke pythons` does: the VM's half on the Python and the packages of each release.

mypy sees to the interfaces of every Python in between, and `invoke lint` runs it for the oldest and
for the newest. Here the code itself runs: on all of them, with packages that differ as well.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from serai.image import cache, console, digest
from serai.image.errors import BuildError
from serai.image.run import run
from serai.image.settings import Settings


@dataclass(frozen=True)
class Libraries:
    """The Python of a release, and the packages of its archive that the VM's half imports."""

    python: str
    packages: Mapping[str, str]


RELEASES = {
    "ubuntu-22.04": Libraries(
        "3.10",
        {
            "cryptography": "3.4.8",
            "h11": "0.13.0",
            "idna": "3.3",
            "jeepney": "0.7.1",
            "jinja2": "3.0.3",
            "tomli": "1.2.2",
        },
    ),
    "debian-12": Libraries(
        "3.11",
        {
            "cryptography": "38.0.4",
            "h11": "0.14.0",
            "idna": "3.3",
            "jeepney": "0.8.0",
            "jinja2": "3.1.2",
        },
    ),
    "ubuntu-24.04": Libraries(
        "3.12",
        {
            "cryptography": "41.0.7",
            "h11": "0.14.0",
            "idna": "3.6",
            "jeepney": "0.8.0",
            "jinja2": "3.1.2",
        },
    ),
    "debian-13": Libraries(
        "3.13",
        {
            "cryptography": "43.0.0",
            "h11": "0.14.0",
            "idna": "3.10",
            "jeepney": "0.9.0",
            "jinja2": "3.1.6",
        },
    ),
}

HALF = ("common", "disk", "gate", "install", "runtime")
"""The rooms that a VM has, in src/serai/ as in tests/unit/."""

_TOOLS = (
    *("cffi", "hatchling", "hypothesis", "jsonschema", "markupsafe", "prometheus-client"),
    *("pydantic", "pytest", "pyyaml", "tomlkit"),
)
"""What their tests need beside, and cryptography and jinja2; in the versions of the lock."""


def oldest_and_newest() -> tuple[str, str]:
    """The ends of the range."""
    found = sorted((each.python for each in RELEASES.values()), key=_number)
    return found[0], found[-1]


def pythons(settings: Settings, release: str) -> None:
    """Run the tests of the VM's half as ``release`` would, or as each does.

    Raises BuildError for tests that fail, and for a Python that is not here.
    """
    if release and release not in RELEASES:
        raise BuildError(f"there is no release {release!r}", hint=", ".join(RELEASES))
    problems = []
    for name, libraries in RELEASES.items():
        if release in ("", name):
            try:
                _test(settings, name, libraries)
            except BuildError as error:
                console.warn(f"{name}: {error}")
                problems.append(name)
    if problems:
        raise BuildError(f"pythons: {', '.join(problems)} did not pass", hint="see above")


def _test(settings: Settings, name: str, libraries: Libraries) -> None:
    python = environment(settings, interpreter(libraries.python), libraries)
    packages = " ".join(f"{key} {version}" for key, version in libraries.packages.items())
    env = {"PYTHONPATH": str(settings.root / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    with console.step(f"{name}: Python {libraries.python}, {packages}"):
        imports = [python, settings.root / "tests/support/imports_everything.py"]
        run([*imports, *HALF], cwd=settings.root, env=env)
        tests = [settings.root / "tests/unit" / room for room in HALF]
        options = ["--quiet", "--no-header", "-p", "no:cacheprovider"]
        done = run(
            [python, "-m", "pytest", *options, *tests], cwd=settings.root, env=env, check=False
        )
        if done.returncode:
            console.say(done.stdout + done.stderr)
            raise BuildError("tests failed")
    console.say(f"  {done.stdout.splitlines()[-1]}")


def interpreter(version: str) -> Path:
    """A Python of that series, from PATH or from pyenv; raises BuildError if there is none."""
    for candidate in _candidates(version):
        asked = "import sys; print('%d.%d' % sys.version_info[:2])"
        # pyenv leaves a command in PATH for each Python, also for one that is not switched on.
        if run([candidate, "-c", asked], check=False).stdout.strip() == version:
            return candidate
    raise BuildError(
        f"there is no Python {version} here",
        hint=f"install it so that python{version} runs; 'pyenv install {version}' is enough",
    )


def _candidates(version: str) -> Iterator[Path]:
    if found := shutil.which(f"python{version}"):
        yield Path(found)
    home = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    yield from sorted(home.glob(f"versions/{version}.*/bin/python{version}"), reverse=True)


def environment(settings: Settings, python: Path, libraries: Libraries) -> Path:
    """The Python of a venv with these packages and what tests need, from the cache."""
    exact = run([python, "-c", "import sys; print(sys.version)"]).stdout
    tools = locked((settings.root / "requirements.lock").read_text())
    packages = [f"{name}=={version}" for name, version in libraries.packages.items()]
    recipe = {"python": [str(python), exact], "tools": tools, "packages": packages}
    folder = settings.cache / "pythons" / digest.of_value(recipe)[:16]
    with cache.making(folder):
        if not folder.exists():
            with console.step(f"Python {libraries.python}"), cache.whole(folder) as made:
                run([python, "-m", "venv", made])
                pip = [str(made / "bin/python"), "-m", "pip", "--quiet"]
                pip += ["--disable-pip-version-check", "install", "--no-compile"]
                run([*pip, *tools])
                # Over those of the tools, of which pytest for one asks for a newer tomli.
                run([*pip, "--no-deps", *packages])
            cache.prune(folder.parent, keep=2 * len(RELEASES))
    return folder / "bin/python"


def locked(lock: str) -> list[str]:
    """The lines of requirements.lock for the tests' tools, without digests, as pip takes them."""
    found = re.findall(r"^(([\w.-]+)==[^\\\n]+?) *\\?$", lock, re.MULTILINE)
    return [line for line, name in found if name in _TOOLS]


def _number(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]
