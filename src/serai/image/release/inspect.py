"""Whether a finished disk may be released: what must not be on it, judged by its bytes at rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from serai.image import console, offline
from serai.image.build.builds import Finished
from serai.image.definition.definition import Budget
from serai.image.release import allow, tree
from serai.image.release.tree import Entry
from serai.image.verify import shipped
from serai.image.verify.facts import Shipped

_MIB = 1 << 20
_STICKY, _SETID, _OTHERS_WRITE = 0o1000, 0o6000, 0o002
_FIRST_PERSON, _NOBODY = 1000, 65534
# Each list of paths among the facts of the bytes at rest, the rule that it breaks, and why.
_AT_REST: tuple[tuple[str, str, str], ...] = (
    ("host_keys", "identity", "a host key that all VMs would share"),
    ("random_seeds", "identity", "a random seed that all VMs would share"),
    ("cloud_init", "identity", "state of cloud-init: it would take the VM for the build's"),
    ("logs", "logs", "a log of the build"),
    ("homes", "homes", "left in a home: a key, a history or a file of the build"),
    ("apt", "apt", "package lists or packages, which are old at once"),
    ("temporary", "temporary", "a temporary file of the build"),
    ("mentions", "build user", "names the user that the build logs in as"),
    ("sudoers", "build user", "lets somebody from the build become root"),
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a disk is refused; ``path`` is '' for the disk as a whole, ``words`` are for people."""

    path: str
    rule: str
    words: str


@dataclass(frozen=True)
class Disk:
    """What is judged. ``image_bytes`` is the qcow2's size, ``root_bytes`` what the root uses."""

    entries: list[Entry]
    shipped: Shipped
    image_bytes: int
    root_bytes: int


def read(disk: Path, work: Path) -> Disk:
    """What is on ``disk``, a finished qcow2; scratch copies lie below ``work`` and are removed.

    Raises BuildError if it cannot be read.
    """
    with offline.opened(disk, work) as root:
        return of_root(root, disk, work)


def of_root(root: offline.RootFs, disk: Path, work: Path) -> Disk:
    """The same of a disk that is open."""
    return Disk(
        entries=tree.of_root(root, work),
        shipped=shipped.of_root(root, work),
        image_bytes=disk.stat().st_size,
        root_bytes=root.used(),
    )


def inspect(disk: Disk, budget: Budget, distribution: str = "") -> list[Refusal]:
    """Why ``disk`` must not be released, sorted; empty where it may be.

    What is allowed anywhere is, and what images of ``distribution`` have beside it.
    """
    rules: tuple[Callable[[], Iterator[Refusal]], ...] = (
        lambda: _at_rest(disk.shipped),
        lambda: _refused(disk.entries),
        lambda: _writable(disk.entries, distribution),
        lambda: _privileged(disk.entries, distribution),
        lambda: _owners(disk.entries),
        lambda: _too_large(disk, budget),
    )
    found = {finding for rule in rules for finding in rule()}
    return sorted(found, key=lambda finding: (finding.rule, finding.path, finding.words))


def show(finished: Finished, disk: Disk, *, as_json: bool) -> int:
    """Say why the image's ``disk`` must not be released, a line each; 1 if it must not."""
    found = inspect(disk, finished.image.budget, finished.image.distribution)
    if as_json:
        console.tell_program(
            {
                "image": finished.image.name,
                "version": finished.folder.name,
                "paths": len(disk.entries),
                "image_bytes": disk.image_bytes,
                "root_bytes": disk.root_bytes,
                "findings": [asdict(finding) for finding in found],
            }
        )
    for finding in found:
        console.fail(f"{finding.rule}: {finding.path} {finding.words}".replace(":  ", ": "))
    console.say(
        f"{len(disk.entries)} paths, {disk.image_bytes // _MIB} MiB, "
        f"{disk.root_bytes // _MIB} MiB used; {len(found)} findings"
    )
    return 1 if found else 0


def _at_rest(found: Shipped) -> Iterator[Refusal]:
    for path, value in (
        ("/etc/machine-id", found.machine_id),
        ("/var/lib/dbus/machine-id", found.dbus_machine_id),
    ):
        if value not in ("", "uninitialized"):
            yield Refusal(path, "identity", f"a machine ID that all VMs would share: {value}")
    for name, rule, words in _AT_REST:
        for path in getattr(found, name):
            yield Refusal(path, rule, words)


def _refused(entries: list[Entry]) -> Iterator[Refusal]:
    rules = allow.load("refused")
    for entry in entries:
        if entry.type == "f" and entry.size and (rule := rules.find(entry.path)):
            yield Refusal(f"/{entry.path}", "secrets", rule.reason)


def _writable(entries: list[Entry], distribution: str) -> Iterator[Refusal]:
    rules = allow.load("writable", distribution)
    for entry in entries:
        if entry.type == "l" or not entry.mode & _OTHERS_WRITE:
            continue
        if rules.find(entry.path) is None:
            yield Refusal(
                f"/{entry.path}", "writable", f"everybody may write to it: {_mode(entry)}"
            )
        elif entry.type == "d" and not entry.mode & _STICKY:
            words = f"everybody may remove others' files in it: {_mode(entry)}"
            yield Refusal(f"/{entry.path}", "writable", words)


def _privileged(entries: list[Entry], distribution: str) -> Iterator[Refusal]:
    rules = allow.load("privileged", distribution)
    for entry in entries:
        if entry.type != "f":
            continue
        if entry.mode & _SETID and rules.find(f"{entry.path}={_mode(entry)}") is None:
            words = f"setuid or setgid, and not listed: {_mode(entry)}"
            yield Refusal(f"/{entry.path}", "privileged", words)
        if entry.capabilities and rules.find(f"{entry.path}={entry.capabilities}") is None:
            words = f"has capabilities, and is not listed: {entry.capabilities}"
            yield Refusal(f"/{entry.path}", "privileged", words)


def _owners(entries: list[Entry]) -> Iterator[Refusal]:
    """Packages' accounts have lower numbers; people are not made before the first boot."""
    for entry in entries:
        for what, number in (("user", entry.owner), ("group", entry.group)):
            if number >= _FIRST_PERSON and number != _NOBODY:
                words = f"belongs to the {what} {number}, whom the image does not have"
                yield Refusal(f"/{entry.path}", "owner", words)


def _too_large(disk: Disk, budget: Budget) -> Iterator[Refusal]:
    for what, size, limit in (
        ("the qcow2 has", disk.image_bytes, budget.image_mib),
        ("the root file system holds", disk.root_bytes, budget.root_mib),
    ):
        if limit is not None and size > limit * _MIB:
            yield Refusal("", "budget", f"{what} {-(-size // _MIB)} MiB, of {limit} allowed")


def _mode(entry: Entry) -> str:
    return f"{entry.mode:04o}"
