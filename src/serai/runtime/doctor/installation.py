"""What is installed and runs in the VM must be: units, filters, users, disks, the gate's files."""

from __future__ import annotations

from serai.runtime.doctor.core import Facts, Finding, Section, none_of, same

units = Section("units", "units")
filters = Section("filters", "filters")
users = Section("users", "users")
disks = Section("disks", "disks")
gate = Section("gate", "settings")

SERVICES = {
    "serai-sessiond.service": "No session can be made, entered or ended.",
    "serai-gate.service": "No session has a way out, and none can be started.",
    "sessions.mount": "There is no disk for sessions.",
}
MOST_RESTARTS = 3
LEAST_FREE = 10  # percent
SESSIONS_MODE, STATE_MODE, AUDIT_MODE = 0o711, 0o700, 0o700


def _add_unit(unit: str, means: str) -> None:
    @units(f"{unit} runs", means)
    def _runs(facts: Facts) -> Finding:
        return same(facts["units"]["units"][unit]["ActiveState"], "active")

    @units(
        f"{unit} starts at every boot", f"After a restart of the VM: {means[0].lower()}{means[1:]}"
    )
    def _enabled(facts: Facts) -> Finding:
        return same(facts["units"]["units"][unit]["UnitFileState"], "enabled")


for _unit, _means in SERVICES.items():
    _add_unit(_unit, _means)


@units("no unit of Serai's has failed", "Something was tried and did not work: see the journal.")
def _failed(facts: Facts) -> Finding:
    return none_of(facts["units"]["failed"])


@units(
    "nothing of Serai's starts again and again",
    "A service falls and is started again all the time.",
)
def _restarts(facts: Facts) -> Finding:
    found = {
        name: int(each.get("NRestarts") or 0) for name, each in facts["units"]["units"].items()
    }
    odd = [f"{name}: {count} times" for name, count in found.items() if count > MOST_RESTARTS]
    return none_of(odd, "no")


@units(
    "what is installed is what belongs to this version",
    "Files were changed, or half upgraded.",
    "installed",
)
def _installed(facts: Facts) -> Finding:
    return none_of(facts["installed"]["different"], f"{facts['installed']['count']} files")


@units(
    "sessions' units have the policy's limits",
    "The policy was changed, sessiond not restarted.",
    "installed",
)
def _drop_in(facts: Facts) -> Finding:
    return Finding(
        [] if facts["installed"]["drop_in"] else ["the drop-in differs"], "as the policy"
    )


@units(
    "the control socket is root's and the group's",
    "Anybody in the VM may command sessions.",
    "sockets",
)
def _control(facts: Facts) -> Finding:
    return same(facts["sockets"]["control"], ["0660", "root", "serai"], "0660, root, serai")


@units("the gate's control socket is its own", "Anybody in the VM may change policies.", "sockets")
def _gate_control(facts: Facts) -> Finding:
    return same(facts["sockets"]["gate"], ["0600", "serai-gate"], "0600, serai-gate")


@units("sessiond answers", "Nothing can be done with sessions.", "sessiond")
def _answers(facts: Facts) -> Finding:
    return Finding([], f"{len(facts['sessiond']['sessions'])} sessions")


@units("no operation on a session is stuck", "A session is half made, or half removed.", "sessiond")
def _stuck(facts: Facts) -> Finding:
    return none_of(facts["sessiond"]["stuck"])


def _add_filter(name: str) -> None:
    @filters(
        f"the filter {name} is what the generator makes",
        "Payloads run with other rules than this version's, or cannot start.",
    )
    def _equal(facts: Facts) -> Finding:
        return same(facts["filters"][name], "the same")


for _name in ("baseline", "unix-block"):
    _add_filter(_name)


# --- users


@users(
    "the system asks for sessions' users", "Sessions' units cannot be started: there is no user."
)
def _nsswitch(facts: Facts) -> Finding:
    lines = facts["users"]["nsswitch"]
    return none_of(
        (key for key in ("passwd", "group") if "extrausers" not in lines.get(key, "")), "yes"
    )


@users("sessions' users are where the system looks", "Sessions' units cannot be started.")
def _link(facts: Facts) -> Finding:
    return same(facts["users"]["link"], facts["users"]["folder"])


@users("sessions' users are the registry's", "A session has no user, or a user has no session.")
def _registry(facts: Facts) -> Finding:
    return same(
        set(facts["users"]["listed"]),
        set(facts["users"]["known"]),
        f"{len(facts['users']['known'])}",
    )


@users("the system finds a session's user", "Sessions' units cannot be started.")
def _found(facts: Facts) -> Finding:
    return none_of(facts["users"]["unknown"], "every one")


@users("no session's UID is another user's", "A session can get at that user's files.")
def _clash(facts: Facts) -> Finding:
    return none_of(facts["users"]["clashes"])


@users("the gate has a user of its own", "The gate does not start, or somebody can log in as it.")
def _gate_user(facts: Facts) -> Finding:
    uid, shell = facts["users"]["gate"]
    problems = [] if uid else ["it is root"]
    problems += [] if shell.endswith(("nologin", "false")) else [f"its shell is {shell}"]
    return Finding(problems, f"UID {uid}")


@users("no session is in the group serai", "A session's user may command all sessions.")
def _group(facts: Facts) -> Finding:
    both = set(facts["users"]["members"]) & set(facts["users"]["known"])
    members = ", ".join(facts["users"]["members"]) or "nobody"
    return none_of(sorted(both), f"members: {members}")


# --- disks


@disks(
    "/sessions is a disk of its own", "Sessions fill the root disk, and are lost with the image."
)
def _mounted(facts: Facts) -> Finding:
    seen = facts["disks"]
    return Finding([] if seen["mounted"] else ["it is not mounted"], seen["source"])


@disks("/sessions is ext4", "Quotas, or folders of the host, may not work.")
def _kind(facts: Facts) -> Finding:
    return same(facts["disks"]["kind"], "ext4")


def _add_option(option: str, means: str) -> None:
    @disks(f"/sessions is mounted {option}", means)
    def _has(facts: Facts) -> Finding:
        options = facts["disks"]["options"]
        return Finding([] if option in options else [",".join(options)], "yes")


for _option, _means in {
    "nosuid": "A set-user-ID program in a home would work outside of the sandbox.",
    "nodev": "A device in a home would work outside of the sandbox.",
    "rw": "Nothing can be written: sessions cannot work.",
}.items():
    _add_option(_option, _means)


@disks("/sessions lists no session", "Users of the VM can see which sessions there are.")
def _mode(facts: Facts) -> Finding:
    found = facts["disks"]["top"]
    return same(found, [f"{SESSIONS_MODE:04o}", 0, 0], "root's, mode 0711")


@disks(
    "Serai's own folder is root's alone", "The registry or the audit log can be read or changed."
)
def _state(facts: Facts) -> Finding:
    return same(facts["disks"]["state"], [f"{STATE_MODE:04o}", 0, 0], "root's, mode 0700")


@disks(
    "the audit log's folder is the gate's alone", "The audit log can be changed, or not written."
)
def _audit(facts: Facts) -> Finding:
    mode, uid, _ = facts["disks"]["audit"]
    return same((mode, uid), (f"{AUDIT_MODE:04o}", facts["disks"]["gate"]), "the gate's, mode 0700")


def _add_room(key: str, what: str, means: str) -> None:
    @disks(f"there is room {what}", means)
    def _room(facts: Facts) -> Finding:
        free = facts["disks"]["free"][key]
        low = free < LEAST_FREE
        return Finding([f"{free:.0f} % free"] if low else [], f"{free:.0f} % free")


for _key, (_what, _means) in {
    "sessions": ("on the disk of sessions", "Sessions cannot write; 'serai gc --keep-free' helps."),
    "sessions files": ("for files on the disk of sessions", "Sessions can make no more files."),
    "root": ("on the root disk", "Logs are lost, upgrades fail."),
    "run": ("in /run", "Sessions cannot be started."),
}.items():
    _add_room(_key, _what, _means)


@disks("the registry is whole", "Sessions may be lost: restore .serai/registry.sqlite.", "registry")
def _whole(facts: Facts) -> Finding:
    return same(facts["registry"]["check"], "ok")


# --- the gate's files and sessions' policy


def _add_parsed(key: str, what: str, means: str) -> None:
    @gate(f"{what} can be read", means)
    def _parsed(facts: Facts) -> Finding:
        problem = facts["settings"][key]
        return Finding([problem] if problem else [], "yes")


for _key, (_what, _means) in {
    "session": ("the policy of sessions", "sessiond does not start again."),
    "gate": ("the gate's settings", "The gate does not start again."),
    "profiles": ("every profile", "The gate goes on with the profiles it read before."),
}.items():
    _add_parsed(_key, _what, _means)


@gate("sessions cannot read the gate's settings", "A parent proxy's password leaks to payloads.")
def _hidden(facts: Facts) -> Finding:
    return none_of(
        (f"{path} {mode:04o}" for path, mode in facts["settings"]["modes"].items() if mode & 0o007)
    )


@gate("the audit log is whole", "Lines were changed or are missing.", "audit")
def _log(facts: Facts) -> Finding:
    seen = facts["audit"]
    return Finding([] if seen["ok"] else [seen["problem"]], f"{seen['entries']} entries")
