"""Who may do what on a fleet's NATS servers: the whole of it, in one place.

A VM that somebody took over has its own certificate and nothing else. So a VM's permissions are
what keeps it from the other VMs and their sessions; docs/security.md says what attacks meet.

JetStream answers to whatever subject a writer names, with the servers' own rights. So the buckets
that VMs write answer nobody, and tell at serai.kept.BUCKET.KEY what they have kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

QUEUE = "serai"
"""The queue group of members that can take a session."""

ANSWER = "1m"
"""How long a member may take to answer a request: it is let write to the asker's inbox so long."""


@dataclass(frozen=True)
class User:
    """``name`` is what its certificate says, ``publish`` and ``subscribe`` what it may.

    Who ``answers`` may write once to the reply subject of what it was sent.
    """

    name: str
    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    answers: bool = False


def of_vm(name: str, user: str) -> User:
    """A VM: it hears what is for it, and says what is of it.

    It takes part in placing in the queue group only, and so hears no request that another member
    answers. It has nothing of JetStream's API, and so reads no bucket.
    """
    own = (f"serai.up.{name}.>", f"$KV.serai_vms.{name}", f"$KV.serai_alive.{name}")
    return User(
        user,
        publish=(*own, f"$KV.serai_sessions.{name}.>"),
        subscribe=(
            *(f"serai.down.{name}.>", f"serai.place.*.*.* {QUEUE}", f"_INBOX.{name}.>"),
            *(f"serai.kept.*.{name}", f"serai.kept.*.{name}.>"),
        ),
        answers=True,
    )


def of_client(user: str) -> User:
    """A client: it may command every VM, as root may in one. It can pass for no VM.

    It may ask the servers who is connected: serai.fleet.doubles.
    """
    own = ("$KV.serai_claims.>", "$KV.serai_requests.>")
    asked = ("$JS.API.>", "$SYS.REQ.ACCOUNT.PING.CONNZ")
    return User(
        user,
        publish=("serai.down.>", "serai.place.*.*.*", "$JS.ACK.>", "$JS.FC.>", *asked, *own),
        subscribe=("serai.up.>", "_INBOX.>", *own),
    )


def text(users: Iterable[User]) -> str:
    """The accounts of nats-server's configuration. JSON is a part of its language.

    Nobody is in the system's account: what the servers tell each other is for nobody else.
    """
    lines = ",\n".join(f"      {json.dumps(_entry(user))}" for user in users)
    return (
        "# Who may do what. Written by 'invoke fleet-keys'; read again at 'nats-server --signal\n"
        "# reload'. A user is the name in a certificate.\n"
        "accounts {\n"
        "  SERAI {\n    jetstream: enabled\n"
        f"    users: [\n{lines}\n    ]\n"
        "  }\n"
        "  SYS {}\n"
        "}\n"
    )


def _entry(user: User) -> dict[str, object]:
    permissions: dict[str, object] = {
        "publish": {"allow": list(user.publish)},
        "subscribe": {"allow": list(user.subscribe)},
    }
    if user.answers:
        permissions["allow_responses"] = {"max": 1, "expires": ANSWER}
    return {"user": user.name, "permissions": permissions}
