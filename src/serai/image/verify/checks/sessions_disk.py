"""The second disk holds the sessions, if it is blank or theirs."""

from __future__ import annotations

from serai.common.checks import Absent, Check, Finding, the
from serai.image.definition.definition import megabytes
from serai.image.verify.checks.boots import not_up
from serai.image.verify.facts import Evidence, MountFacts, ObservedBoot

UNIT = "serai-session-disk.service"
MODE, OWNER = 0o711, "0:0"  # who knows a session may pass, nobody can list them
MIB = 1 << 20
CLOCK = 120.0  # seconds by which the clocks of host and guest may differ


def _sessions(machine: ObservedBoot | str) -> MountFacts:
    mount = the(machine).facts.sessions.mount
    if mount is None:
        raise Absent("nothing is mounted at /sessions")
    return mount


def _sessions_disk(evidence: Evidence) -> Finding:
    mount, root = _sessions(evidence.first), the(evidence.first).facts.root
    problems = [] if mount.fstype == "ext4" else [f"it is {mount.fstype}"]
    label = mount.ext4.label if mount.ext4 else ""
    if label != "sessions":
        problems.append(f"its label is {label!r}")
    if mount.disk == root.disk:
        problems.append(f"it is on the root disk ({mount.device})")
    return Finding(problems, f"ext4 'sessions' on {mount.device}")


def _sessions_size(evidence: Evidence) -> Finding:
    mount = _sessions(evidence.first)
    wanted = megabytes(evidence.image.disk.sessions) * MIB
    size = mount.ext4.bytes if mount.ext4 else 0
    short = wanted - size > 2 * MIB
    return Finding(
        [f"it has {size // MIB} MiB of {wanted // MIB}"] if short else [], f"{size // MIB} MiB"
    )


def _sessions_options(evidence: Evidence) -> Finding:
    mount = _sessions(evidence.first)
    missing = {"rw", "nosuid", "nodev"}.difference(mount.options)
    return Finding(
        [f"{','.join(sorted(missing))} missing: {','.join(mount.options)}"] if missing else [],
        ",".join(mount.options),
    )


def _sessions_owner(evidence: Evidence) -> Finding:
    mount = _sessions(evidence.first)
    found, wanted = (mount.mode, mount.owner), (MODE, OWNER)
    return Finding(
        [f"mode {mount.mode:04o}, owner {mount.owner}"] if found != wanted else [],
        f"mode {mount.mode:04o}, owner {mount.owner}",
    )


def _sessions_formatted(evidence: Evidence) -> Finding:
    mount, machine = _sessions(evidence.first), the(evidence.first)
    made = mount.ext4.made if mount.ext4 else 0
    # The clocks of host and guest may differ a little; a disk from the build is older than that.
    age = machine.facts.system.now - made
    old = age > machine.seconds + machine.facts.took.get("boot", 0) + CLOCK
    return Finding([f"it was made {age:.0f} s before it was looked at"] if old else [], "new")


def _sessions_kept(evidence: Evidence) -> Finding:
    before, after = _sessions(evidence.first), _sessions(evidence.second)
    mark, found = (
        the(machine).facts.sessions.mark for machine in (evidence.first, evidence.second)
    )
    problems = []
    if not mark or mark != found:
        problems.append(f"the file {mark or '(never written)'} is {found or 'gone'} after a reboot")
    if before.ext4 and after.ext4 and before.ext4.uuid != after.ext4.uuid:
        problems.append("the file system was made again")
    return Finding(problems, "a file survived")


def _foreign_refused(evidence: Evidence) -> Finding:
    machine = the(evidence.foreign)
    mount = machine.facts.sessions.mount
    problems = [*not_up("foreign disk", machine, frozenset({UNIT}))]
    if mount is not None:
        problems.append(f"/sessions is {mount.source} all the same")
    return Finding(problems, "booted, /sessions not mounted")


def _foreign_told(evidence: Evidence) -> Finding:
    journal = the(evidence.foreign).facts.sessions.journal
    told = [line for line in journal if "refused" in line and "/dev/" in line]
    return Finding([] if told else ["no line says so"], told[0] if told else "")


def _foreign_untouched(evidence: Evidence) -> Finding:
    disk = the(evidence.foreign_disk)
    return Finding(
        ["its bytes have changed"] if disk.before != disk.after else [], "not a byte changed"
    )


CHECKS: tuple[Check[Evidence], ...] = (
    Check("sessions", "/sessions is ext4 'sessions' on the second disk", _sessions_disk),
    Check("sessions", "/sessions fills its disk", _sessions_size),
    Check("sessions", "/sessions is mounted nosuid,nodev and writable", _sessions_options),
    Check("sessions", "/sessions is root's", _sessions_owner),
    Check("sessions", "/sessions is formatted on the first boot", _sessions_formatted),
    Check("second", "/sessions keeps its files over a reboot", _sessions_kept),
    Check("foreign", "a second disk that holds something else is refused", _foreign_refused),
    Check("foreign", "the journal says why that disk is refused", _foreign_told),
    Check("foreign", "that disk is left untouched", _foreign_untouched),
)
