"""This VM's key for the gate's secrets: made once by root, and handed to each gate that starts.

It lies on the root disk, and what it encrypts on the sessions disk: neither alone tells a secret.
Where systemd can, it keeps the key encrypted with the VM's TPM, or with a key of this system.
"""

from __future__ import annotations

import logging
import os
import pwd
import secrets
import subprocess
from pathlib import Path

from serai.common import files
from serai.common.errors import SeraiError
from serai.common.paths import Paths

log = logging.getLogger("serai.gate")
KEY_BYTES = 32
NAME = "serai-gate"
"""The gate's user, and what systemd holds the encrypted key to."""
WAYS = ("auto", "host")
"""For ``--with-key``: what systemd finds best, and what needs no TPM, should that one not work."""
PATIENCE = 30.0  # seconds: a TPM takes its time


def main(paths: Paths | None = None, user: str = NAME) -> int:
    """The program as the gate's unit starts it, as root; returns the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    paths = paths or Paths()
    try:
        hand_over(paths.gate_key, kept(paths.vm_keys), pwd.getpwnam(user))
    except (OSError, SeraiError, KeyError) as error:
        log.error("the gate gets no key, so there are no secrets: %s", error)
        return 1
    return 0


def kept(folder: Path) -> bytes:
    """The key that is kept in ``folder``, or a new one. Raises SeraiError or OSError.

    A key that cannot be read is not replaced: it may be tomorrow, and so may all secrets.
    """
    sealed, plain = folder / "gate.cred", folder / "gate.key"
    if sealed.exists():
        try:
            key = _creds("decrypt", sealed.read_bytes())
        except SeraiError as error:
            hint = "or remove it: the next start makes another key, and secrets are to be set again"
            raise SeraiError(f"{sealed}: {error}", hint) from None
        log.info("the VM's key is in %s, encrypted by systemd", sealed)
    elif plain.exists():
        key = plain.read_bytes()
        log.info("the VM's key is in %s, as it is", plain)
    else:
        key = secrets.token_bytes(KEY_BYTES)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _keep(key, sealed, plain)
    return key


def hand_over(path: Path, key: bytes, user: pwd.struct_passwd) -> None:
    """Put the key where that user alone can read it, who may do in that folder what he wants."""
    path.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, 0o400), "wb") as file:
        os.fchown(file.fileno(), user.pw_uid, user.pw_gid)
        file.write(key)


def _keep(key: bytes, sealed: Path, plain: Path) -> None:
    problem = ""
    for way in WAYS:
        try:
            # Held to the TPM, but to no state of it: those change with the firmware's updates.
            content = _creds("encrypt", key, f"--with-key={way}", "--tpm2-pcrs=")
            if _creds("decrypt", content) != key:
                raise SeraiError("it decrypts to something else")
        except SeraiError as error:
            problem = str(error)
            continue
        files.write(sealed, content, 0o600)
        log.info("the VM's key is made, and kept in %s, encrypted by systemd (%s)", sealed, way)
        return
    files.write(plain, key, 0o600)
    log.warning("the VM's key is made, and kept in %s as it is: %s", plain, problem)


def _creds(verb: str, content: bytes, *options: str) -> bytes:
    """systemd-creds(1), which systemd 250 brought. Raises SeraiError with what it says."""
    argv = ["systemd-creds", f"--name={NAME}", *options, verb, "-", "-"]
    try:
        done = subprocess.run(
            argv, input=content, capture_output=True, check=False, timeout=PATIENCE
        )
    except FileNotFoundError:
        raise SeraiError("there is no systemd-creds, which systemd 250 brought") from None
    except subprocess.TimeoutExpired:
        raise SeraiError(f"systemd-creds says nothing for {PATIENCE:g} s") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["nothing"]
        raise SeraiError(f"systemd-creds {verb} says: {said[-1]}")
    return done.stdout
