"""Which disk is the one for /sessions, and what it holds. Pure: decides, does nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

NAME = "sessions"  # the disk's serial, and the file system's label
UNFINISHED = "sessions-new"  # its label until it is complete
SEEDS = {"cidata", "config-2"}  # disks with which cloud-init is configured
EXT4_MAGIC = 0x438
USER_DATA = 4096 * 2  # no file's content lies before the second block of an ext4 file system


class RefusedError(Exception):
    """No disk can be used; the text is the line for the journal."""


class Content(Enum):
    """What a disk holds, as far as it matters here."""

    BLANK = "nothing"
    UNFINISHED = "a file system for sessions that was never finished"
    SESSIONS = "sessions"
    SEED = "a seed for cloud-init"
    OTHER = "something else"


@dataclass(frozen=True)
class Signature:
    """What libblkid recognised, as wipefs(8) prints it."""

    type: str
    offset: int
    label: str


@dataclass(frozen=True)
class Disk:
    """A whole disk that nobody uses; ``size`` is in bytes, ``detail`` names other contents."""

    path: Path
    serial: str
    size: int
    content: Content
    detail: str = ""


def judge(signatures: Sequence[Signature], *, zeros: bool, begun: bool) -> tuple[Content, str]:
    """What a disk with these signatures holds, and its name where it is something else.

    ``zeros`` says that nothing but zeros was read, ``begun`` that formatting it had begun.
    """
    ext4 = [s for s in signatures if s.type == "ext4" and s.offset == EXT4_MAGIC]
    # Beyond its first blocks a file system holds what sessions wrote: no reason to refuse it.
    before = [s for s in signatures if s not in ext4 and s.offset < USER_DATA]
    labels = {s.label for s in ext4}
    detail = ""
    if not before and labels == {NAME}:
        content = Content.SESSIONS
    elif (not before and labels == {UNFINISHED}) or (not signatures and begun):
        content = Content.UNFINISHED
    elif any(s.label.lower() in SEEDS for s in signatures):
        content = Content.SEED
    elif not signatures and zeros:
        content = Content.BLANK
    else:
        content = Content.OTHER
        kinds = sorted({_described(s) for s in signatures})
        detail = ", ".join(kinds) or "data of an unknown kind"
    return content, detail


def choose(disks: Sequence[Disk]) -> Disk | None:
    """The disk for /sessions, or None if there is nothing that could be it. Raises RefusedError."""
    disks = [disk for disk in disks if disk.content is not Content.SEED]
    named = [disk for disk in disks if disk.serial == NAME]
    labelled = [disk for disk in disks if disk.content is Content.SESSIONS]
    usable = [disk for disk in disks if disk.content in (Content.BLANK, Content.UNFINISHED)]
    chosen = named or labelled or usable
    if named and set(labelled) - set(named):
        chosen = named + labelled
    if len(chosen) > 1:
        raise RefusedError(
            f"refused: {_paths(chosen)} could each be the disk for /sessions; "
            f"leave one, or give one the serial '{NAME}'"
        )
    refused = [disk for disk in chosen or disks if disk.content is Content.OTHER]
    if refused:
        holdings = "; ".join(f"{disk.path} holds {disk.detail}" for disk in refused)
        raise RefusedError(
            f"refused for /sessions, not touched: {holdings}; attach a blank disk, "
            f"or give up what this one holds with 'blkdiscard -f -z {refused[0].path}'"
        )
    return chosen[0] if chosen else None


def _described(signature: Signature) -> str:
    label = f" labelled '{signature.label}'" if signature.label else ""
    return f"{signature.type}{label}"


def _paths(disks: Sequence[Disk]) -> str:
    return " and ".join(sorted(str(disk.path) for disk in disks))
