"""What `invoke ubuntu-report` does: all that could not be run without a route to Ubuntu, in one go.

Each step is a command of `invoke`. None of them ends the others: the report tells what each said.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from serai.image import cache, console
from serai.image.definition import definition, variables
from serai.image.errors import BuildError
from serai.image.run import run, tool
from serai.image.settings import Settings

_FACTS = Path(__file__).with_name("data") / "ubuntu-facts.sh"
_LONGEST = 4 * 3600.0  # seconds, for an emulated VM's build


@dataclass(frozen=True)
class Answer:
    """A command line that ran: its exit status, and all that it said."""

    argv: Sequence[str]
    status: int
    seconds: float
    said: str


def commands(settings: Settings, image: str) -> list[list[str]]:
    """The command lines after `invoke`, in their order."""
    loaded = definition.load(settings, image)
    packages = variables.packages(settings, loaded.distribution, loaded.release, loaded.variables)
    facts = f"sh /root/{_FACTS.name} {shlex.join(packages)}"
    asked = ["--image", image, "--copy", str(_FACTS), "--run", facts]
    return [
        ["plan", "--image", image],
        ["boot", "--base", *asked],
        ["build-image", "--image", image],
        ["boot", *asked],
        ["verify-image", "--image", image],
        ["attack", "--in", "image", "--image", image],
    ]


def report(settings: Settings, image: str) -> int:
    """Run all of it and write the report; the exit status: 0 if every step succeeded."""
    steps = []
    for argv in commands(settings, image):
        with console.step(argv[0]):
            steps.append(_step(argv, settings.root))
        if steps[-1].status:
            console.warn(f"'invoke {argv[0]}' ended with status {steps[-1].status}")
    path = settings.dist / f"{image}-report.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    cache.write(path, text(image, steps))
    console.say(str(path))
    return 1 if any(step.status for step in steps) else 0


def text(image: str, steps: Sequence[Answer], clean: Callable[[str], str] = console.clean) -> str:
    """The report, in Markdown."""
    rows = [
        f"| {step.argv[0]} | {step.status} | {console.seconds(step.seconds)} |" for step in steps
    ]
    head = ["| step | status | time |", "|---|--:|--:|"]
    lines = [f"# {image}, for the first time\n", *head, *rows]
    for step in steps:
        told = "\n".join(f"    {clean(line)}" for line in step.said.splitlines())
        lines.append(f"\n## invoke {step.argv[0]}\n\n    $ invoke {shlex.join(step.argv)}\n{told}")
    return "\n".join(lines) + "\n"


def _step(argv: list[str], root: Path) -> Answer:
    began = time.monotonic()
    try:
        done = run([tool("invoke"), *argv], cwd=root, check=False, timeout=_LONGEST)
        status, said = done.returncode, done.stdout + done.stderr
    except BuildError as error:
        status, said = 1, str(error)
    return Answer(argv, status, time.monotonic() - began, said)
