"""What `invoke attack` does: all that somebody hostile is known to try, a line for each attack.

Here the attacks are the threats of docs/security.md, by the tests that the page names for them, and
the fuzz targets, which are the tests called ``test_fuzz_…``. In a container or a booted image they
are those of ``guest/attack/``.
"""

from __future__ import annotations

import ast
import re
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from serai.common.sandboxes import SANDBOXES, SOCKETS
from serai.image import console
from serai.image.build import builds
from serai.image.container import throwaway
from serai.image.definition.definition import DEFAULT_IMAGE
from serai.image.errors import BuildError
from serai.image.guest.attack import attacks
from serai.image.run import run
from serai.image.settings import Settings
from serai.image.vm import boot

PLACES = ("here", "container", "image")
WIDEST = SOCKETS
"""The sandbox in which payloads may do most, and so try most."""
FOLDER = Path(attacks.__file__).parent
"""What is sent to where it attacks."""
_PAGE = "docs/security.md"
_LAYERS = ("unit", "sandbox")
_FUZZ = "test_fuzz_"


@dataclass(frozen=True)
class Attack:
    """``tests`` are the names of those that try it here; ``fuzz`` is a target's name."""

    name: str
    tests: tuple[str, ...]
    fuzz: str = ""

    def is_meant(self, target: str) -> bool:
        """Whether ``target`` is a part of its name, or the fuzz target's."""
        return target in ("", self.fuzz) if self.fuzz else target.lower() in self.name.lower()


@dataclass(frozen=True)
class Tried:
    """A test's function that was run: why it failed or was skipped, and what it told."""

    problem: str
    told: dict[str, str]


def attack(settings: Settings, target: str, *, seconds: float, seed: str) -> int:
    """Try every attack, or those that ``target`` means; the exit status: 0 if all of it held.

    Raises BuildError if there is no such target.
    """
    chosen = [each for each in known(settings) if each.is_meant(target)]
    if not chosen:
        raise BuildError(f"there is no attack {target!r}", hint="'invoke attack --list' has all")
    threats = [each for each in chosen if not each.fuzz]
    # Without a test's name pytest would run all there are.
    outcomes = tried(settings, {t for each in threats for t in each.tests}) if threats else {}
    held = [_say(each, outcomes) for each in threats]
    for each in chosen:
        if each.fuzz:
            found = tried(settings, each.tests, seconds=seconds, seed=seed)
            held.append(_say(each, found))
    console.say(f"{sum(held)} held, {len(held) - sum(held)} did not")
    return 0 if all(held) else 1


def show(settings: Settings, place: str) -> None:
    """List the attacks there are."""
    if place == "here":
        for each in known(settings):
            console.say(f"{f'{each.fuzz}: ' if each.fuzz else ''}{each.name}")
        return
    for each_ in attacks.ATTACKS:
        console.say(f"{each_.__name__.replace('_', ' ')}: {each_.__doc__}")


def known(settings: Settings) -> list[Attack]:
    """The attacks that can be tried on this host."""
    here = _tests(settings)
    page = (settings.root / _PAGE).read_text()
    return [*_threats(page, here), *_targets(here)]


def _threats(page: str, here: dict[str, tuple[Path, str]]) -> Iterator[Attack]:
    """The items of the page that name tests, as far as these run on this host."""
    for item in page.split("\n- **")[1:]:
        title, _, rest = item.partition("**")
        rest = rest.split("\n\n")[0]
        named = re.findall(r"`(test_\w+)`", rest.partition("Tests: ")[2])
        tests = tuple(name for name in named if name in here and not name.startswith(_FUZZ))
        if tests:
            # "Read x** by y." goes on where the bold text ends without a full stop.
            more = "" if title.endswith(".") else re.split(r"\.\s", rest)[0]
            yield Attack(" ".join(f"{title}{more}".split()).rstrip("."), tests)


def _targets(here: dict[str, tuple[Path, str]]) -> Iterator[Attack]:
    for name, (_, said) in here.items():
        if name.startswith(_FUZZ):
            yield Attack(said, (name,), name.removeprefix(_FUZZ))


def _tests(settings: Settings) -> dict[str, tuple[Path, str]]:
    """Where each test of the layers that need no VM is, and what it says of itself."""
    return {
        node.name: (path, (ast.get_docstring(node) or "").partition(".")[0])
        for layer in _LAYERS
        for path in sorted((settings.root / "tests" / layer).rglob("test_*.py"))
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def tried(
    settings: Settings, tests: Iterable[str], *, seconds: float = 0, seed: str = ""
) -> dict[str, Tried]:
    """The outcome of each of the tests; pytest's own words stay in the cache's logs."""
    here = _tests(settings)
    nodes = [f"{here[name][0]}::{name}" for name in sorted(tests)]
    log = settings.cache / "logs" / "attack.log"
    fuzzing = {"SERAI_FUZZ_SECONDS": f"{seconds:g}", "SERAI_FUZZ_SEED": seed} if seconds else {}
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "junit.xml"
        options = ["-q", "-p", "no:cacheprovider", "-o", "junit_family=xunit1"]
        argv = ["pytest", *options, f"--junitxml={report}", *nodes]
        done = run(argv, cwd=settings.root, env=fuzzing, log=log, check=False)
        if not report.exists():
            raise BuildError(f"pytest ended with {done.returncode} before it began", log=log)
        return _outcomes(ElementTree.parse(report).getroot())  # noqa: S314 - pytest's own


def _outcomes(report: ElementTree.Element) -> dict[str, Tried]:
    found: dict[str, Tried] = {}
    for case in report.iter("testcase"):
        name = case.get("name", "").partition("[")[0]
        bad = [each for each in case if each.tag in ("failure", "error", "skipped")]
        problem = " ".join(f"{bad[0].tag}: {bad[0].get('message', '')}".split()) if bad else ""
        told = {each.get("name", ""): each.get("value", "") for each in case.iter("property")}
        earlier = found.get(name, Tried("", {}))
        found[name] = Tried(earlier.problem or problem, earlier.told | told)
    return found


def _say(which: Attack, outcomes: dict[str, Tried]) -> bool:
    """Print the line of one attack; whether it was held off."""
    missing = Tried("it was not run", {})
    wrong = {
        name: problem[:300]
        for name in which.tests
        if (problem := outcomes.get(name, missing).problem)
    }
    said = f"{len(which.tests)} tests"
    if which.fuzz:
        told = outcomes.get(which.tests[0], missing).told
        said = ", ".join(f"{key} {value}" for key, value in told.items())
    told_name = f"{which.fuzz}: {which.name}" if which.fuzz else which.name
    if wrong:
        told_wrong = "; ".join(f"{name}: {problem}" for name, problem in wrong.items())
        console.fail(f"got through or not tried: {told_name} ({said}): {told_wrong}")
    else:
        console.say(f"held: {told_name} ({said})")
    return not wrong


def send(
    settings: Settings, place: str, target: str, *, image: str, build: str, sandbox: str, pool: bool
) -> int:
    """Try those of ``guest/attack/`` in a container or a booted image; its exit status.

    With ``pool`` each attack gets sessions of the warm pool.
    Raises BuildError if there is no such place, or it does not come up.
    """
    if place not in PLACES:
        raise BuildError(f"attacks are not tried in {place!r}", hint=", ".join(PLACES))
    if sandbox not in SANDBOXES:
        raise BuildError(f"there is no sandbox {sandbox!r}", hint=", ".join(SANDBOXES))
    if not re.fullmatch(r"[\w ]*", target):
        raise BuildError(f"there is no attack {target!r}", hint="its name has letters only")
    copy = [FOLDER]
    source = "pool" if pool else "cold"
    command = f"cd /root && python3 -m {FOLDER.name} {sandbox} {source} '{target}'"
    if place == "container":
        return throwaway.run(settings, command=command, copy=copy, keep=False, image=image)
    found = builds.find(settings, image or DEFAULT_IMAGE, build)
    return boot.boot(settings, found.image, found.disk, run=command, copy=copy)
