"""Puts secrets into the head of a request, and finds placeholders that do not belong there. Pure.

Bodies are left alone: they are long, coded and signed, and what is found there by chance would be
changed by chance.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import re
from collections.abc import Mapping, Sequence
from urllib.parse import quote, unquote

from serai.gate.messages.heads import Head
from serai.gate.policy.bindings import Binding
from serai.gate.policy.hosts import Target

_PLACEHOLDER = re.compile(r"serai-([a-z0-9-]{1,63})-[0-9a-f]{40}")
_AUTHORIZATION = b"authorization"
_BASIC = b"basic "
# A server answers it with the request as it came, secrets and all (RFC 9110, 9.3.8).
_ECHOES = ("TRACE", "TRACK")


class NotInjected(Exception):  # noqa: N818  # an answer, not a fault
    """The request must not go on, because of ``secret``. The text says why and has no value."""

    def __init__(self, secret: str, text: str) -> None:
        super().__init__(text)
        self.secret = secret


def unset(name: str) -> str:
    """What to do about a secret that is not set."""
    return f"the secret {name} is not set: serai secret set {name}"


def without_tls(name: str, target: Target) -> str:
    """Why a request to ``target`` that is not in TLS is refused."""
    return f"the secret {name} goes to {target.host} in TLS only"


def bound(bindings: Sequence[Binding], target: Target) -> list[Binding]:
    """The bindings whose secrets go to ``target``."""
    return [each for each in bindings if each.covers(target)]


def inject(
    head: Head,
    bindings: Sequence[Binding],
    values: Mapping[str, str | None],
    placeholders: Mapping[str, str],
) -> tuple[Head, list[str]]:
    """``head`` with the secrets of ``bindings``, which are all for its target; and whose went in.

    ``values`` and ``placeholders`` are by the secret's name. Raises NotInjected if a secret is not
    set, or if there is a placeholder that is for another host or of another session.
    """
    for name in stray(head, [placeholders[each.secret] for each in bindings]):
        raise NotInjected(name, f"a placeholder of the secret {name} is not for {head.target}")
    if bindings and head.method in _ECHOES:
        raise NotInjected(bindings[0].secret, f"{head.method} would send the secret back")
    used: list[str] = []
    for binding in bindings:
        value = values[binding.secret]
        if value is None:
            name = binding.secret
            raise NotInjected(name, unset(name))
        changed = _injected(head, binding, value, placeholders[binding.secret])
        if changed != head:
            used.append(binding.secret)
        head = changed
    return head, list(dict.fromkeys(used))


def refuse_plain(head: Head, bindings: Sequence[Binding]) -> None:
    """Raise NotInjected for a request without TLS that has a placeholder, or for a bound host."""
    for name in stray(head, []):
        raise NotInjected(name, f"a placeholder of the secret {name} goes nowhere without TLS")
    for binding in bindings:
        if binding.names(head.target.host):
            name = binding.secret
            raise NotInjected(name, without_tls(name, head.target))


def without_store(head: Head, bindings: Sequence[Binding]) -> Head:
    """``head`` as it is, where the gate has no store of secrets.

    Raises NotInjected if the request needs one, or has a placeholder.
    """
    for name in [*(each.secret for each in bindings), *stray(head, [])]:
        raise NotInjected(name, f"the gate has no key of this VM's, so no secret {name} either")
    return head


def stray(head: Head, known: Sequence[str]) -> list[str]:
    """The names of secrets that placeholders in ``head`` are of, but for those that are known."""
    if not _may_have_one(head):
        return []
    texts = [unquote(head.path), *(value.decode("latin-1") for _, value in head.headers)]
    texts += [pair for name, value in head.headers if (pair := _pair(name, value))]
    found = [match for text in texts for match in _PLACEHOLDER.finditer(text)]
    return list(dict.fromkeys(match[1] for match in found if match[0] not in known))


def _may_have_one(head: Head) -> bool:
    """Whether it is worth a closer look: nearly no request has one in any spelling."""
    return (
        "%" in head.path
        or "serai-" in head.path
        or any(b"serai-" in v or v[:6].lower() == _BASIC for _, v in head.headers)
    )


def _injected(head: Head, binding: Binding, value: str, placeholder: str) -> Head:
    if binding.header:
        name, _, template = binding.header.partition(":")
        return _with_header(head, name.strip(), template.strip().replace("{}", value))
    if binding.basic:
        return _with_header(head, "Authorization", _basic(f"{binding.basic}:{value}"))
    if binding.query:
        return _with_parameter(head, binding.query, value)
    # Not in the path, which servers repeat where they redirect and where they find nothing.
    path, mark, query = head.path.partition("?")
    path += mark + query.replace(placeholder, quote(value, safe=""))
    headers = tuple((name, _in_place(name, own, placeholder, value)) for name, own in head.headers)
    return dataclasses.replace(head, path=path, headers=headers)


def _with_header(head: Head, name: str, value: str) -> Head:
    """The header in the place of all of that name. Servers that hand headers to programs take _ for
    a hyphen, so those of such a name go as well."""
    low = name.lower().encode("ascii")
    kept = [pair for pair in head.headers if pair[0].lower().replace(b"_", b"-") != low]
    new = (name.encode("ascii"), value.encode("ascii"))
    return dataclasses.replace(head, headers=(*kept, new))


def _with_parameter(head: Head, name: str, value: str) -> Head:
    path, _, query = head.path.partition("?")
    kept = [part for part in query.split("&") if part and _named(part) != name]
    kept.append(f"{quote(name, safe='')}={quote(value, safe='')}")
    return dataclasses.replace(head, path=f"{path}?{'&'.join(kept)}")


def _named(part: str) -> str:
    return unquote(part.partition("=")[0].replace("+", " "))


def _in_place(name: bytes, own: bytes, placeholder: str, value: str) -> bytes:
    old, new = placeholder.encode("ascii"), value.encode("ascii")
    pair = _pair(name, own)
    if pair is not None and placeholder in pair:
        return _basic(pair.replace(placeholder, value)).encode("ascii")
    return own.replace(old, new)


def _pair(name: bytes, value: bytes) -> str | None:
    """The user and password of Basic (RFC 7617), None for anything else."""
    if name.lower() != _AUTHORIZATION or value[: len(_BASIC)].lower() != _BASIC:
        return None
    try:
        return base64.b64decode(value[len(_BASIC) :].strip(), validate=True).decode("latin-1")
    except (binascii.Error, ValueError):
        return None


def _basic(pair: str) -> str:
    return "Basic " + base64.b64encode(pair.encode("latin-1")).decode("ascii")
