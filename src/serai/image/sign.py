"""SHA256SUMS and its signature: ``ssh-keygen -Y`` (ssh-keygen(1)), so that anybody can check it."""

from __future__ import annotations

import base64
import binascii
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

from serai.image import digest, layout
from serai.image.errors import BuildError
from serai.image.run import last_lines, run

NAMESPACE = "serai-release"
"""What a release's signature is for: one made for something else does not count."""

_LINE = re.compile(rf"([0-9a-f]{{64}})  ({layout.NAME.pattern})")
_ARMOUR = re.compile(
    r"-----BEGIN SSH SIGNATURE-----\n((?:[A-Za-z0-9+/=]{1,76}\n)+)-----END SSH SIGNATURE-----\n"
)
_PATIENCE = 60.0  # seconds; a key in hardware wants to be touched


def digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file in ``folder`` by its name, without SHA256SUMS and its signature."""
    paths = sorted(path for path in folder.iterdir() if path.is_file())
    names = (layout.SUMS, layout.SIGNATURE)
    return {path.name: digest.of_file(path) for path in paths if path.name not in names}


def sums(found: Mapping[str, str]) -> str:
    """The text of SHA256SUMS, as sha256sum(1) reads it."""
    return "".join(f"{found[name]}  {name}\n" for name in sorted(found))


def parse(text: str) -> dict[str, str]:
    """Digests by name, in SHA256SUMS's own order; raises ValueError for what ``sums`` never wrote.

    So every name is a plain one, of a file in the same folder.
    """
    found: dict[str, str] = {}
    for line in text.splitlines(keepends=True):
        match = _LINE.fullmatch(line.removesuffix("\n"))
        if match is None or not line.endswith("\n") or match[2] in found:
            raise ValueError(f"the line {line[:200]!r}")
        found[match[2]] = match[1]
    return found


def listed(folder: Path) -> dict[str, str]:
    """The digests that SHA256SUMS in ``folder`` lists; raises BuildError if it is damaged."""
    path = folder / layout.SUMS
    try:
        return parse(path.read_text(encoding="ascii", errors="replace"))
    except ValueError as error:
        raise BuildError(f"{path} has {error}", hint="build it again") from None


def sign(folder: Path, key: Path, namespace: str = NAMESPACE) -> None:
    """Write the signature of SHA256SUMS in ``folder`` by the private key file ``key``.

    ``key`` may be a public key whose private half an agent holds. Raises BuildError if it cannot.
    """
    target = folder / layout.SUMS
    # It is asked for a passphrase on the terminal, if it needs one.
    done = run(
        ["ssh-keygen", "-Y", "sign", "-n", namespace, "-f", key, target],
        check=False,
        timeout=_PATIENCE,
    )
    if done.returncode != 0 or not (folder / layout.SIGNATURE).is_file():
        raise BuildError(
            f"{layout.SUMS} cannot be signed with {key}: {last_lines(done.stderr)}",
            hint="it has to be a private SSH key (make one: ssh-keygen -t ed25519), or a "
            "public one that the SSH agent has; only a terminal or the agent knows a passphrase",
        )


def signer(
    content: str, signature: bytes, allowed_signers: Path, namespace: str = NAMESPACE
) -> str:
    """Who signed ``content`` for ``namespace``, by the name in the file ``allowed_signers``.

    Raises BuildError unless ``signature`` is a good one by a key that is listed there.
    """
    if not allowed_signers.is_file():
        raise BuildError(
            f"there is no file {allowed_signers}",
            hint="it lists the keys that you trust, see ALLOWED SIGNERS in ssh-keygen(1)",
        )
    if not _canonical(signature):
        raise _bad(allowed_signers, "it is no SSH signature")
    with tempfile.TemporaryDirectory(prefix="serai-release-") as scratch:
        path = Path(scratch) / layout.SIGNATURE
        path.write_bytes(signature)
        common: list[str | Path] = ["-s", path, "-f", allowed_signers]
        found = run(["ssh-keygen", "-Y", "find-principals", *common], check=False, timeout=30)
        if found.returncode != 0:
            raise _bad(allowed_signers, "its key is not listed there")
        said = ""
        for principal in found.stdout.splitlines():
            argv = ["ssh-keygen", "-Y", "verify", "-n", namespace, "-I", principal, *common]
            done = run(argv, stdin=content, check=False, timeout=30)
            if done.returncode == 0:
                return principal
            said = last_lines(done.stderr or done.stdout, 1)
    raise _bad(allowed_signers, said or "it names nobody")


def _canonical(signature: bytes) -> bool:
    """Whether these are the only bytes of that signature: ssh-keygen overlooks what follows it."""
    match = _ARMOUR.fullmatch(signature.decode("latin-1"))
    if match is None:
        return False
    body = match[1].replace("\n", "")
    try:
        return base64.b64encode(base64.b64decode(body, validate=True)).decode() == body
    except binascii.Error:
        return False


def _bad(allowed_signers: Path, why: str) -> BuildError:
    return BuildError(
        f"{layout.SIGNATURE} is no good signature of {layout.SUMS} by a key in {allowed_signers}: "
        f"{why}",
        hint="do not use this release",
    )
