"""The store of secrets: what sessions use and never see.

A file each, encrypted with a key of this VM; values are in the gate's memory besides. Names and
values that are to be kept are checked here. No message quotes a value, and none a name that is
wrong: it may be a value in the wrong place.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import logging
import re
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from serai.common import files
from serai.common.errors import INVALID_PARAMS, NOT_FOUND, SeraiError
from serai.gate.policy.bindings import SECRET_NAME
from serai.gate.vm_key import KEY_BYTES

log = logging.getLogger("serai.gate")
LONGEST = 8192
_VALUE = re.compile(rf"[ -~]{{1,{LONGEST}}}")
_SECRET, _OTHER = ".secret", ".sealed"
_USES = "uses.json"
_MARK = 40


class Unreadable(Exception):  # noqa: N818  # an answer, not a fault
    """A file of the store that this VM's key does not open. The text says why."""


@dataclass(frozen=True)
class _Secret:
    """``value`` is None where ``problem`` says why it cannot be read; ``set`` is an ISO time."""

    value: str | None = field(repr=False)
    set: str | None = None
    problem: str | None = None


class Store:
    """The secrets in ``folder``, with this VM's ``key``; what cannot be read is listed as such.

    Raises OSError if the folder cannot be read. Writing may be done in any thread.
    """

    def __init__(self, folder: Path, key: bytes) -> None:
        self._folder = folder
        self._sealing = base64.urlsafe_b64encode(_derived(key, b"files"))
        self._marking = _derived(key, b"placeholders")
        self._lock = threading.Lock()
        folder.mkdir(mode=0o700, exist_ok=True)
        found = (each for each in folder.glob("*" + _SECRET) if SECRET_NAME.fullmatch(each.stem))
        self._secrets = {each.stem: self._load(each) for each in found}
        self._uses = self._load_uses()
        self._noted = dict(self._uses)

    def __repr__(self) -> str:
        return f"<the store of secrets in {self._folder}>"

    def set(self, name: str, value: str) -> None:
        """Keep a secret, in the place of another of that name. Raises SeraiError or OSError."""
        _check_name(name)
        value = _checked(value)
        with self._lock:
            now = _iso(time.time())
            self._write(name + _SECRET, json.dumps({"value": value, "set": now}).encode())
            self._secrets[name] = _Secret(value, now)
            self._uses.pop(name, None)

    def remove(self, name: str) -> None:
        """Forget a secret. Raises SeraiError if there is none of that name, or OSError."""
        _check_name(name)
        with self._lock:
            if name not in self._secrets:
                raise SeraiError(f"there is no secret {name}", "see: serai secret list", NOT_FOUND)
            (self._folder / (name + _SECRET)).unlink(missing_ok=True)
            files.fsync(self._folder)
            del self._secrets[name]
            self._uses.pop(name, None)

    def value(self, name: str) -> str | None:
        """A secret's value; None if it is not set, or cannot be read."""
        known = self._secrets.get(name)
        return None if known is None else known.value

    def list(self) -> list[dict[str, Any]]:
        """Every secret without its value: when it was set, and when it was last used since then.

        Where it cannot be read, ``problem`` says why.
        """
        shown = []
        for name, known in sorted(self._secrets.copy().items()):
            used = self._uses.get(name)
            times = {"set": known.set, "used": None if used is None else _iso(used)}
            shown.append({"name": name, **times, "problem": known.problem})
        return shown

    def touch(self, name: str) -> None:
        """A secret is used now. It costs next to nothing: ``note_uses`` writes it down."""
        self._uses[name] = time.time()

    def note_uses(self) -> None:
        """Write down when secrets were last used, if that has changed. Raises OSError."""
        uses = self._uses.copy()
        if uses != self._noted:
            content = json.dumps(uses).encode()
            files.write(self._folder / _USES, content, 0o600, durable=False)
            self._noted = uses

    def placeholder(self, uid: int, name: str) -> str:
        """What stands for a secret in the session of this user: of use nowhere else.

        It follows from the VM's key, so there is nothing to keep and nothing to take back.
        """
        mark = hmac.new(self._marking, f"{uid} {name}".encode(), hashlib.sha256).hexdigest()
        return f"serai-{name}-{mark[:_MARK]}"

    def read(self, name: str) -> bytes | None:
        """What ``write`` kept; None if there is nothing, or only what cannot be read.

        Raises OSError, or SeraiError if the package for it is missing.
        """
        try:
            return self._open(self._folder / (name + _OTHER))
        except FileNotFoundError:
            return None
        except Unreadable as error:
            log.warning("%s is not used: %s", name, error)
            return None

    def write(self, name: str, data: bytes) -> None:
        """Keep what is no secret of a person's, encrypted as they are. Raises as ``set`` does."""
        with self._lock:
            self._write(name + _OTHER, data)

    def _write(self, name: str, data: bytes) -> None:
        # With its name, so that no file can stand for another one.
        token = _fernet().Fernet(self._sealing).encrypt(name.encode() + b"\0" + data)
        files.write(self._folder / name, token, 0o600)

    def _open(self, path: Path) -> bytes:
        token = path.read_bytes()
        fernet = _fernet()
        try:
            opened = fernet.Fernet(self._sealing).decrypt(token)
        except fernet.InvalidToken:
            raise Unreadable("it was kept with another VM's key, or is damaged") from None
        name, _, data = bytes(opened).partition(b"\0")
        if name != path.name.encode():
            raise Unreadable(f"this is the file of {name.decode(errors='replace')}")
        return data

    def _load(self, path: Path) -> _Secret:
        try:
            known = json.loads(self._open(path))
            return _Secret(known["value"], known["set"])
        except Unreadable as error:
            return _Secret(None, problem=f"{error}: set it again")
        except (OSError, SeraiError) as error:
            return _Secret(None, problem=str(error))

    def _load_uses(self) -> dict[str, float]:
        """Nothing where they are damaged: a power cut may do that."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            known = json.loads((self._folder / _USES).read_text())
            return {
                name: float(at)
                for name, at in known.items()
                if name in self._secrets and isinstance(at, int | float)
            }
        return {}


def opened(folder: Path, key: Path) -> Store | None:
    """The store, with the key in a file that is removed at once. None if there is no key.

    Without it nothing can be bound to a secret, and the gate does all the rest.
    """
    try:
        try:
            content = key.read_bytes()
        finally:
            key.unlink(missing_ok=True)
        if len(content) != KEY_BYTES:
            raise SeraiError(f"the key has {len(content)} bytes, not {KEY_BYTES}")
        return Store(folder, content)
    except (OSError, SeraiError) as error:
        log.warning("there are no secrets: %s", error)
        return None


def _fernet() -> Any:
    """The module, which takes 0.1 s to import: a gate without secrets does without."""
    try:
        from cryptography import fernet  # noqa: PLC0415
    except ImportError:
        text = "the gate has no python3-cryptography"
        raise SeraiError(text, "install it, and restart serai-gate.service") from None
    return fernet


def _derived(key: bytes, purpose: bytes) -> bytes:
    return hmac.new(key, b"serai gate: " + purpose, hashlib.sha256).digest()


def _check_name(name: str) -> None:
    if not SECRET_NAME.fullmatch(name):
        hint = "a name has 1 to 63 of a-z, 0-9 and hyphens"
        raise SeraiError("this cannot be a secret's name", hint, INVALID_PARAMS)


def _checked(value: str) -> str:
    """Without the end of its line: that is the editor's, or echo's."""
    value = value[:-1].removesuffix("\r") if value.endswith("\n") else value
    # A blank at an end is copied by mistake, and HTTP takes it away from a header.
    if not _VALUE.fullmatch(value) or value != value.strip():
        hint = f"it is one line of 1 to {LONGEST} printable characters of ASCII, no blank at an end"
        raise SeraiError("this cannot be a secret's value", hint, INVALID_PARAMS)
    return value


def _iso(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
