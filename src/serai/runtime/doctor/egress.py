"""The way out of sessions: what the gate goes by, what it answers, and what it writes down."""

from __future__ import annotations

from functools import partial

from serai.common.checks import Absent, Check, Facts, Finding, none_of, problem, same, section

DENIED, OK = 403, 200
NOT_ALLOWED, CONNECTED = 2, 0  # RFC 1928, section 6
FILES = {
    "session": ("the settings of sessions", "sessiond does not start again."),
    "gate": ("the gate's settings", "The gate does not start again."),
    "profiles": ("every profile", "The gate goes on with the profiles it read before."),
}


def _read(key: str, facts: Facts) -> Finding:
    return problem(facts["settings"][key])


def _hidden(facts: Facts) -> Finding:
    modes = facts["settings"]["modes"]
    return none_of(f"{path} {mode:04o}" for path, mode in modes.items() if mode & 0o007)


def _log(facts: Facts) -> Finding:
    seen = facts["audit"]
    return Finding([] if seen["ok"] else [seen["problem"]], f"{seen['entries']} entries")


def _gate(facts: Facts, which: str) -> dict[str, object]:
    found = facts["egress"][which]
    if isinstance(found, str):
        raise Absent(found)
    return dict(found)


def _denied(facts: Facts) -> Finding:
    found = _gate(facts, "denied")
    return same((found["http"], found["socks"]), (DENIED, NOT_ALLOWED), "HTTP 403, SOCKS 2")


def _words(facts: Facts) -> Finding:
    told = str(_gate(facts, "denied")["text"])
    wanted = f"serai policy allow {facts['wanted']['name']}"
    return Finding([] if wanted in told else [f"it says {told[:80]!r}"], wanted)


def _carries(facts: Facts) -> Finding:
    found = _gate(facts, "allowed")
    answer = (found["http"], found["text"], found["socks"])
    return same(answer, (OK, "origin", CONNECTED), "HTTP 200, SOCKS 0")


CHECKS: tuple[Check[Facts], ...] = (
    *section(
        "gate",
        "settings",
        *(
            (f"{what} can be read", partial(_read, key), means)
            for key, (what, means) in FILES.items()
        ),
        (
            "sessions cannot read the gate's settings",
            _hidden,
            "A parent proxy's password leaks to payloads.",
        ),
    ),
    *section(
        "gate", "audit", ("the audit log is whole", _log, "Lines were changed or are missing.")
    ),
    *section(
        "gate",
        "egress",
        (
            "the gate denies what no rule allows",
            _denied,
            "A session reaches targets that no rule allows, or the gate is missing.",
        ),
        (
            "a denial says what to do",
            _words,
            "An agent takes policy for an outage and keeps trying.",
        ),
        (
            "the gate carries what a rule allows",
            _carries,
            "Rules do nothing: sessions have no way out.",
        ),
        (
            "the gate explains as it decides",
            lambda facts: same(facts["egress"]["explained"], False, "denied without a rule"),
            "'serai policy explain' cannot be relied on.",
        ),
        (
            "every decision is in the audit log",
            lambda facts: same(
                facts["egress"]["decisions"], [False, False, True, True], "four of four"
            ),
            "Nobody can find out later what sessions reached.",
        ),
    ),
)
