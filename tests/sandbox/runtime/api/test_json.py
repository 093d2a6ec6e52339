"""What commands print with --json: the keys of docs/reference-commands.md, and no others."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.support.fake_vm import CHECKOUT, Vm

pytestmark = pytest.mark.usefixtures("one")
SESSION = re.findall(
    r"\w+",
    (CHECKOUT / "docs/rpc.md").read_text().partition("A **session** is `{")[2].partition("}")[0],
)


def documented() -> dict[str, set[str]]:
    """By command, the keys of its object, and in a list's name those of the list's objects."""
    text = (CHECKOUT / "docs/reference-commands.md").read_text()
    text = text.partition("## JSON")[2].partition("\n## ")[0]
    found = {}
    for commands, meaning in re.findall(r"^\| (`.*?`) \| (.*) \|$", text, re.MULTILINE):
        if "see [folders.md]" in meaning or "see [gate.md]" in meaning:
            continue
        keys = set(re.findall(r'"(\w+)"', meaning)) if "{" in meaning else set(SESSION)
        found.update({each: set(keys) for each in re.findall(r"`([^`]+)`", commands)})
    found["show"].add("usage")  # as docs/rpc.md says
    return found


KEYS = documented()
LINES = {
    "create": "create two",
    "show": "show two",
    "set": "set two --label a=b",
    "switch": "switch two",
    "stop": "stop two",
    "archive": "archive two",
    "reopen": "reopen two",
    "attach": "attach two outputs {share}",
    "detach": "detach two outputs",
    "exec": "exec two --json -- true",
    "exec --detach": "exec two --json --detach -- true",
    "start": "start two --json -- sleep 999",
    "jobs": "jobs two",
    "kill": "kill {job}",
    "wait": "wait {job}",
    "put": "put two outputs file",
    "ls": "ls two outputs",
    "mkdir": "mkdir two outputs a",
    "mv": "mv two outputs a b",
    "stat": "stat two outputs b",
    "rm": "rm two outputs b",
    "policy show": "policy show two",
    "policy set": "policy set two --allow a.test",
    "policy allow": "policy allow two b.test",
    "policy deny": "policy deny two c.test",
    "policy explain": "policy explain two 192.0.2.1",
    "secret set": "secret set stripe --file /etc/hostname",
    "secret list": "secret list",
    "policy bind": "policy bind two stripe",
    "policy unbind": "policy unbind two stripe",
    "secret rm": "secret rm stripe",
    "gc": "gc --keep-days 0 --dry-run",
    "list": "list",
    "pool": "pool",
    "backup": "backup {share}/backup --plain",
    "version": "version",
    "audit --verify": "audit --verify",
    "remove": "remove two",
}


def keys_of(value: object) -> set[str]:
    """The keys of an object, and of the objects in the lists that it has, but for sessions."""
    assert isinstance(value, dict)
    lists = [each for each in value.values() if isinstance(each, list)]
    inner = [each for part in lists for each in part if isinstance(each, dict)]
    if set(value) >= set(SESSION):
        return set(value)
    return set(value).union(*(each for each in inner if not {"uid", "home"} <= set(each)))


def test_each_command_prints_what_is_documented(vm: Vm, share: Path) -> None:
    # What these print is tested with them: they take a whole VM, a fleet, or do not end.
    apart = {each for each in set(KEYS) - set(LINES) if not each.startswith("fleet")}
    assert apart == {"doctor", "forward", "health", "import", "move", "restore"}
    job = ""
    for command, text in LINES.items():
        words = text.format(share=share, job=job).split()
        done = vm.serai(*words, *([] if "--json" in words else ["--json"]))
        assert done.returncode == (143 if command == "wait" else 0), done.stderr
        job = json.loads(done.stdout)["job"] if command == "start" else job
        for line in done.stdout.splitlines():
            assert keys_of(json.loads(line)) == KEYS[command], command
        assert done.stdout, command
