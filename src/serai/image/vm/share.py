"""Folders of this host that a guest is given: what a person writes, and the daemon for virtiofs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from subprocess import Popen

from serai.image.errors import BuildError
from serai.image.run import last_lines, started
from serai.image.vm.qemu import Share
from serai.runtime.folders.shares import TAG

WORDS = ("ro", "rw", "virtiofs")
# No distribution has it in PATH: QEMU's own (to 7.x) and the later one of its own package.
VIRTIOFSD = (Path("/usr/lib/qemu/virtiofsd"), Path("/usr/libexec/virtiofsd"))
_START = 30.0  # seconds in which the daemon must listen
_ACCEPTS = "00010000"  # __SO_ACCEPTCON, the flag of a socket that listens
_EXAMPLE = "write TAG=DIR, TAG=DIR:ro or TAG=DIR:virtiofs"


def parse(texts: Sequence[str]) -> tuple[Share, ...]:
    """What ``--share`` was given; raises BuildError for what cannot be shared."""
    shares = tuple(_parsed(text) for text in texts)
    tags = [share.tag for share in shares]
    for tag in tags:
        if tags.count(tag) > 1:
            raise BuildError(f"two shares have the tag {tag}")
    return shares


def _parsed(text: str) -> Share:
    tag, equals, rest = text.partition("=")
    folder, colon, word = rest.rpartition(":")
    if not colon or word not in WORDS:
        folder, word = rest, "rw"
    if not equals or not folder:
        raise BuildError(f"--share {text!r} names no tag or no directory", hint=_EXAMPLE)
    if not TAG.fullmatch(tag):
        hint = "up to 31 letters, digits, '.', '_' and '-', a letter or digit first"
        raise BuildError(f"--share {text!r}: {tag!r} is no tag", hint=hint)
    path = Path(folder).expanduser().absolute()
    if not path.is_dir():
        raise BuildError(f"--share {text!r}: there is no directory {path}")
    if word == "virtiofs":
        if "," in str(path):
            raise BuildError(f"--share {text!r}: virtiofsd takes no comma", hint="share it by 9p")
        virtiofsd()
    return Share(tag, path, read_only=word == "ro", virtiofs=word == "virtiofs")


def virtiofsd() -> Path:
    """The daemon that serves virtiofs; raises BuildError without one."""
    for path in VIRTIOFSD:
        if path.is_file():
            return path
    hint = "install the package virtiofsd (Debian 12: qemu-system-common), or share by 9p"
    raise BuildError("virtiofsd is not installed", hint=hint)


@contextmanager
def served(shares: Sequence[Share], sockets: Path, work: Path) -> Iterator[tuple[Share, ...]]:
    """The same shares with a daemon for each virtiofs one; they end with the block.

    ``sockets`` is a folder with a short path, ``work`` one for logs.
    """
    with ExitStack() as daemons:
        found = []
        for number, share in enumerate(shares):
            if share.virtiofs:
                socket = sockets / f"share{number}"
                log = work / f"virtiofsd-{share.tag}.log"
                argv = [f"--socket-path={socket}", "-o", f"source={share.folder}"]
                socket.unlink(missing_ok=True)  # of one that served the same VM before
                daemon = daemons.enter_context(started([virtiofsd(), *argv], log=log))
                _wait_until_served(socket, daemon, log)
                found.append(replace(share, socket=socket))
            else:
                found.append(share)
        yield tuple(found)


def _wait_until_served(socket: Path, daemon: Popen[bytes], log: Path) -> None:
    """Until somebody listens at ``socket``: QEMU tries once. proc_net_unix(5), /proc/net/unix."""
    until = time.monotonic() + _START
    while not _listening(socket):
        if daemon.poll() is not None or time.monotonic() > until:
            said = last_lines(log.read_text(errors="replace"))
            raise BuildError(f"virtiofsd does not serve: {said}", log=log)
        time.sleep(0.02)


def _listening(socket: Path) -> bool:
    lines = (line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:])
    return any(words[3] == _ACCEPTS and words[-1] == str(socket) for words in lines)
