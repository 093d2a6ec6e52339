"""What is installed and runs in the VM must be: units, filters, users, disks."""

from __future__ import annotations

from functools import partial

from serai.common.checks import Check, Facts, Finding, none_of, problem, same, section
from serai.runtime.sandbox import seccomp
from serai.runtime.sessions.steps import publish

SERVICES = {
    "serai-sessiond.service": "No session can be made, entered or ended.",
    "serai-gate.service": "No session has a way out, and none can be started.",
    "sessions.mount": "There is no disk for sessions.",
}
MOST_RESTARTS = 3
OPTIONS = {
    "nosuid": "A set-user-ID program in a home would work outside of the sandbox.",
    "nodev": "A device in a home would work outside of the sandbox.",
    "rw": "Nothing can be written: sessions cannot work.",
}
ROOMS = {
    "sessions": ("on the disk of sessions", "Sessions cannot write; 'serai gc --keep-free' helps."),
    "sessions files": ("for files on the disk of sessions", "Sessions can make no more files."),
    "root": ("on the root disk", "Logs are lost, upgrades fail."),
    "run": ("in /run", "Sessions cannot be started."),
}
LEAST_FREE = 10  # percent
SESSIONS_MODE, STATE_MODE, AUDIT_MODE = 0o711, 0o700, 0o700


def _unit(name: str, key: str, wanted: str, facts: Facts) -> Finding:
    return same(facts["units"]["units"][name][key], wanted)


def _restarts(facts: Facts) -> Finding:
    found = {
        name: int(each.get("NRestarts") or 0) for name, each in facts["units"]["units"].items()
    }
    odd = [f"{name}: {count} times" for name, count in found.items() if count > MOST_RESTARTS]
    return none_of(odd, "no")


def _nsswitch(facts: Facts) -> Finding:
    lines = facts["users"]["nsswitch"]
    return none_of(
        (key for key in ("passwd", "group") if "extrausers" not in lines.get(key, "")), "yes"
    )


def _gate_user(facts: Facts) -> Finding:
    uid, shell = facts["users"]["gate"]
    problems = [] if uid else ["it is root"]
    problems += [] if shell.endswith(("nologin", "false")) else [f"its shell is {shell}"]
    return Finding(problems, f"UID {uid}")


def _group(facts: Facts) -> Finding:
    both = set(facts["users"]["members"]) & set(facts["users"]["known"])
    members = ", ".join(facts["users"]["members"]) or "nobody"
    return none_of(sorted(both), f"members: {members}")


def _option(name: str, facts: Facts) -> Finding:
    options = facts["disks"]["options"]
    return problem("" if name in options else ",".join(options))


def _room(key: str, facts: Facts) -> Finding:
    free = facts["disks"]["free"][key]
    return problem(f"{free:.0f} % free" if free < LEAST_FREE else "", f"{free:.0f} % free")


def _filter(name: str, facts: Facts) -> Finding:
    return same(facts["filters"][name], "the same")


def _audit(facts: Facts) -> Finding:
    mode, uid, _ = facts["disks"]["audit"]
    return same((mode, uid), (f"{AUDIT_MODE:04o}", facts["disks"]["gate"]), "the gate's, mode 0700")


CHECKS: tuple[Check[Facts], ...] = (
    *section(
        "units",
        "units",
        *(
            (f"{unit} runs", partial(_unit, unit, "ActiveState", "active"), means)
            for unit, means in SERVICES.items()
        ),
        *(
            (
                f"{unit} starts at every boot",
                partial(_unit, unit, "UnitFileState", "enabled"),
                f"After a restart of the VM: {means[0].lower()}{means[1:]}",
            )
            for unit, means in SERVICES.items()
        ),
        (
            "no Serai unit has failed",
            lambda facts: none_of(facts["units"]["failed"]),
            "A unit failed; its journal says why.",
        ),
        (
            "no Serai service is in a restart loop",
            _restarts,
            "A service falls and is started again all the time.",
        ),
    ),
    *section(
        "units",
        "installed",
        (
            "the installed files belong to this version",
            lambda facts: none_of(
                facts["installed"]["different"], f"{facts['installed']['count']} files"
            ),
            "Files were changed, or an upgrade was interrupted.",
        ),
        (
            "sessions' units have the limits of the settings",
            lambda facts: problem(
                "" if facts["installed"]["drop_in"] else "the drop-in differs",
                "as session.toml says",
            ),
            "The settings were changed, but sessiond was not reloaded.",
        ),
    ),
    *section(
        "units",
        "sockets",
        (
            "only root and the group serai can use the control socket",
            lambda facts: same(
                facts["sockets"]["control"], ["0660", "root", "serai"], "0660, root, serai"
            ),
            "Anybody in the VM may command sessions.",
        ),
        (
            "only the gate and root can use the gate's control socket",
            lambda facts: same(
                facts["sockets"]["gate"], ["0600", "serai-gate"], "0600, serai-gate"
            ),
            "Anybody in the VM may change policies.",
        ),
    ),
    *section(
        "units",
        "sessiond",
        (
            "sessiond answers",
            lambda facts: Finding([], f"{len(facts['sessiond']['sessions'])} sessions"),
            "Nothing can be done with sessions.",
        ),
        (
            "no operation on a session is stuck",
            lambda facts: none_of(facts["sessiond"]["stuck"]),
            "A session is half made, or half removed.",
        ),
    ),
    *section(
        "filters",
        "filters",
        *(
            (
                f"the filter {name} is what the generator makes",
                partial(_filter, name),
                "Payloads run with other rules than this version's, or cannot start.",
            )
            for name in seccomp.FILTERS
        ),
    ),
    *section(
        "users",
        "users",
        (
            "the system looks up sessions' users (nsswitch)",
            _nsswitch,
            "Sessions' units cannot be started: there is no user.",
        ),
        (
            "sessions' users are where the system looks",
            lambda facts: same(facts["users"]["link"], facts["users"]["folder"]),
            "Sessions' units cannot be started.",
        ),
        (
            "sessions' users are the registry's",
            lambda facts: same(
                set(facts["users"]["listed"]),
                set(facts["users"]["known"]),
                f"{len(facts['users']['known'])}",
            ),
            "A session has no user, or a user has no session.",
        ),
        (
            "the system finds a session's user",
            lambda facts: none_of(facts["users"]["unknown"], "every one"),
            "Sessions' units cannot be started.",
        ),
        (
            "no session's UID is another user's",
            lambda facts: none_of(facts["users"]["clashes"]),
            "A session can get at that user's files.",
        ),
        (
            "the gate has a user of its own",
            _gate_user,
            "The gate does not start, or one can log in as its user.",
        ),
        ("no session is in the group serai", _group, "A session's user may command all sessions."),
        (
            f"nobody is in the group {publish.BRIDGE_GROUP}",
            lambda facts: none_of(facts["users"]["bridge"]),
            "Its members may speak to the gate for sessions.",
        ),
    ),
    *section(
        "disks",
        "disks",
        (
            "/sessions is a disk of its own",
            lambda facts: problem(
                "" if facts["disks"]["mounted"] else "it is not mounted", facts["disks"]["source"]
            ),
            "Sessions fill the root disk, and are lost with the image.",
        ),
        (
            "/sessions is ext4",
            lambda facts: same(facts["disks"]["kind"], "ext4"),
            "Quotas or attached directories may not work.",
        ),
        *(
            (f"/sessions is mounted {name}", partial(_option, name), means)
            for name, means in OPTIONS.items()
        ),
        (
            "/sessions lists no session",
            lambda facts: same(
                facts["disks"]["top"], [f"{SESSIONS_MODE:04o}", 0, 0], "root's, mode 0711"
            ),
            "Users of the VM can see the names of sessions.",
        ),
        (
            "Serai's own directory is root's alone",
            lambda facts: same(
                facts["disks"]["state"], [f"{STATE_MODE:04o}", 0, 0], "root's, mode 0700"
            ),
            "The registry or the audit log can be read or changed.",
        ),
        (
            "only the gate can enter the audit log's directory",
            _audit,
            "The audit log can be changed, or not written.",
        ),
        *(
            (f"there is room {what}", partial(_room, key), means)
            for key, (what, means) in ROOMS.items()
        ),
    ),
    *section(
        "disks",
        "registry",
        (
            "the registry is whole",
            lambda facts: same(facts["registry"]["check"], "ok"),
            "Sessions may be lost: restore .serai/registry.sqlite.",
        ),
    ),
)
