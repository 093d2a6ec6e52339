"""Disks, images and guests that say anything at all: read, or refused in one line."""

from __future__ import annotations

import copy
import json
import os
import random
import re
import struct
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from xml.etree import ElementTree

import pytest

from serai.common.checks import judge
from serai.image import console, offline, run
from serai.image.errors import BuildError
from serai.image.release import inspect, tree
from serai.image.verify import boot_chart, shipped, verdict, verify
from serai.image.verify.checks import CHECKS
from serai.image.verify.facts import Evidence
from serai.image.vm.vm import VM
from tests.support import evidence
from tests.support.disks import clean, packed, put
from tests.support.fuzzing import Record, Watched, changed, fuzz, json_value
from tests.support.reports import BOOT

_ROOT_AT, _ESP_AT, _DISK = 1 << 20, 13 << 20, 16 << 20
_SECTOR = 512
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def attack(case: Callable[[random.Random], object], record: Record) -> None:
    fuzz(case, Watched(os.getpid()), record=record)


def one_line(error: BuildError) -> None:
    assert "\n" not in str(error)
    assert len(str(error)) < 2000, str(error)


def everything_below(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_size for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disk with a GPT, an ext4 that does not notice changes, and an EFI system partition."""
    folder = tmp_path_factory.mktemp("disk")
    root = clean(folder / "root")
    for number in range(40):  # a directory of several levels, and of more than a block
        put(root, f"usr/share/{number % 3}/{number}/{'long' * 30}{number}", "text" * number)
    (root / "usr/long").symlink_to("x" * 200)
    os.link(root / "root/.bashrc", root / "etc/linked")
    disk, esp = folder / "disk.raw", folder / "esp.raw"
    with disk.open("wb") as stream:
        stream.truncate(_DISK)
    run.run(["sgdisk", "-n", "1:2048:+11M", "-n", "15:26624:+2M", "-t", "15:ef00", disk])
    features = "^metadata_csum,^has_journal,^dir_index"
    where = f"offset={_ROOT_AT}"
    run.run(["mke2fs", "-q", "-t", "ext4", "-O", features, "-d", root, "-E", where, disk, "11M"])
    with esp.open("wb") as stream:
        stream.truncate(2 << 20)
    run.run(["mkfs.vfat", esp])
    run.run(["mmd", "-i", esp, "::EFI"])
    run.run(["mcopy", "-i", esp, root / "etc/passwd", "::EFI/GRUB.CFG"])
    with disk.open("r+b") as stream:
        stream.seek(_ESP_AT)
        stream.write(esp.read_bytes())
    return disk


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """Where copies may be made, below ``tmp_path``, into which names lead."""
    made = tmp_path / "a/b/scratch"
    made.mkdir(parents=True)
    return made


# --- disks


@dataclass(frozen=True)
class Told(offline.RootFs):
    """A root of which debugfs's own answers are kept, and changed when they are given again."""

    kept: dict[str, bytes] = field(default_factory=dict)
    dice: list[random.Random] = field(default_factory=list)

    def ask(
        self,
        commands: Iterable[str],
        *,
        log: Path | None = None,
        largest: int = 1 << 28,
    ) -> subprocess.CompletedProcess[str]:
        asked = "".join(commands)
        if not self.dice:
            done = super().ask([asked], log=log, largest=largest)
            self.kept[asked] = log.read_bytes() if log else done.stdout.encode()
            return done
        (dice,) = self.dice
        others = list(self.kept.values())
        told = self.kept.get(asked) or dice.choice(others)
        told = changed(dice, told, others) if dice.random() < 0.7 else told
        if log is not None:
            log.write_bytes(told)
        return subprocess.CompletedProcess([], 0, told.decode(errors="replace"), "")

    def used(self) -> int:
        return 0


def test_fuzz_disk(raw: Path, tmp_path: Path, scratch: Path, record_property: Record) -> None:
    """Disks of any bytes, where they are read without booting."""
    good = raw.read_bytes()
    used = [at for at in range(0, _DISK, _SECTOR) if any(good[at : at + _SECTOR])]
    heads = [at for at in used if at < 34 * _SECTOR or at == _ROOT_AT + 1024 or at == _ESP_AT]
    told = Told("disk", raw, _ROOT_AT, None)
    inspect.of_root(told, raw, scratch)
    before = everything_below(tmp_path)

    def of_bytes(dice: random.Random) -> None:
        """A whole disk with a few bytes changed where there are any."""
        content = bytearray(good)
        for _ in range(dice.choice((1, 1, 8, 64, 1000))):
            sector = dice.choice(heads if dice.random() < 0.3 else used)
            content[sector + dice.randrange(_SECTOR)] = dice.choice(
                (0, 1, 255, dice.randrange(256))
            )
        hostile = tmp_path / "hostile.raw"
        hostile.write_bytes(content)
        image = packed(hostile)
        try:
            read = offline.opened(image, scratch)
            with read as root:
                inspect.of_root(root, image, scratch)
        finally:
            hostile.unlink()
            image.unlink()

    def of_answers(dice: random.Random) -> None:
        """What is made of anything that debugfs could say."""
        told.dice[:] = [dice]
        found = tree.of_root(told, scratch)
        target = scratch / "tree.tsv"
        tree.write(target, found)
        assert tree.load(target) == found
        target.unlink()
        shipped.of_root(told, scratch)

    def case(dice: random.Random) -> None:
        try:
            (of_bytes if dice.random() < 0.05 else of_answers)(dice)
        except BuildError as error:
            one_line(error)
        assert everything_below(tmp_path) == before

    attack(case, record_property)


# --- formats

_SECRET = b"the build host's own file"
_FORMATS = ("vmdk", "vdi", "vpc", "vhdx", "qed", "parallels", "raw")


def images(raw: Path, folder: Path) -> list[bytes]:
    """The disk in each format that QEMU knows, and qcow2s that name the secret."""
    secret = folder / "secret"
    secret.write_bytes(_SECRET * 1000)
    made = folder / "made"
    kinds: list[list[str]] = [["qcow2", "-o", "compat=0.10"], ["qcow2", "-c"]]
    kinds += [["qcow2", "-o", "extended_l2=on"], ["qcow2", "-o", "cluster_size=512"]]
    found = []
    for kind, *more in [["qcow2"], *kinds, *([each] for each in _FORMATS)]:
        run.run(["qemu-img", "convert", "-f", "raw", "-O", kind, *more, raw, made])
        found.append(made.read_bytes()[: 1 << 22])
        made.unlink()
    for options in (
        ["-b", str(secret), "-F", "raw"],
        ["-o", f"data_file={secret}-data,data_file_raw=on"],
    ):
        run.run(["qemu-img", "create", "-q", "-f", "qcow2", *options, made, "1M"])
        found.append(made.read_bytes())
        made.unlink()
    extent = (
        f'# Disk DescriptorFile\nversion=1\ncreateType="monolithicFlat"\nRW 64 FLAT "{secret}" 0\n'
    )
    return [*found, extent.encode(), b"json:{}", b"LUKS\xba\xbe\0\1" + bytes(600), b""]


# Where a qcow2 keeps what is dangerous: docs/interop/qcow2.txt.
_FIELDS = {"version": (4, ">I"), "backing": (8, ">Q"), "length": (16, ">I"), "bits": (20, ">I")}
_FIELDS |= {"size": (24, ">Q"), "encryption": (32, ">I"), "l1": (36, ">I"), "l1 at": (40, ">Q")}
_FIELDS |= {"refcounts": (48, ">Q"), "snapshots": (60, ">I"), "features": (72, ">Q")}
_FIELDS |= {"header": (100, ">I"), "compression": (104, ">B")}


def test_fuzz_formats(raw: Path, tmp_path: Path, scratch: Path, record_property: Record) -> None:
    """Images of any format and header, where a qcow2 is opened."""
    seeds = images(raw, tmp_path)
    before = everything_below(tmp_path)

    def hostile(dice: random.Random) -> bytes:
        content = bytearray(dice.choice(seeds[:5] if dice.random() < 0.7 else seeds))
        for _ in range(dice.choice((0, 1, 1, 2))):
            at, kind = dice.choice(list(_FIELDS.values()))
            if len(content) >= at + 8:
                size = 8 * struct.calcsize(kind)
                few = dice.choice((0, 1, 2, 3, 4, 5, 600, 1 << 16, (1 << size) - 1))
                struct.pack_into(kind, content, at, few % (1 << size))
        if dice.random() < 0.3 and len(content) > 2048:  # a header's extension: a name of a file
            name = str(tmp_path / "secret").encode()
            magic = dice.choice((0x44415441, 0xE2792ACA, 0x6803F857, dice.randrange(1 << 32)))
            said = struct.pack(">II", magic, dice.choice((len(name), 0, 1 << 31))) + name
            content[104 : 104 + len(said)] = said
        for _ in range(dice.choice((0, 0, 1, 8))):
            if content:
                content[dice.randrange(min(len(content), 1 << 19))] = dice.randrange(256)
        return bytes(content[: dice.choice((len(content), len(content), 0, 80, 104, 70000))])

    def case(dice: random.Random) -> None:
        image = tmp_path / "image.qcow2"
        image.write_bytes(hostile(dice))
        try:
            with offline.opened(image, scratch) as root:
                assert _SECRET not in root.raw.read_bytes()
        except BuildError as error:
            one_line(error)
        finally:
            image.unlink()
        assert everything_below(tmp_path) == before

    attack(case, record_property)


# --- guests


class Guest:
    """A VM that answers every command with ``said``."""

    def __init__(self) -> None:
        self.said = ""
        self.ssh = SimpleNamespace(run=self._run)

    def _run(self, *_: object, **__: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], 0, self.said, "")


def spoilt(dice: random.Random, facts: dict[str, Any]) -> str:
    """Facts with some values changed, as text that may be changed too."""
    found = copy.deepcopy(facts)
    for _ in range(dice.choice((0, 1, 1, 3))):
        place: Any = found
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = dice.choice(keys)
            if isinstance(place[key], dict | list) and place[key] and dice.random() < 0.8:
                place = place[key]
                continue
            if isinstance(place[key], str):
                place[key] = dice.choice(
                    ("\x1b]0;x\x07", "\ud800", "\u202e", "<script>", "a" * 9999)
                )
            else:
                place[key] = json_value(dice)
            break
    text = json.dumps(found).encode()
    text = changed(dice, text, [b'"\x1b[2J"', b"\xff"]) if dice.random() < 0.3 else text
    return text.decode(errors="replace")


def no_json(name: str) -> float:
    raise AssertionError(f"{name} is not JSON")


def drawn_is_harmless(drawing: str) -> None:
    """The chart is an image of bars and words, and of nothing else."""
    if not drawing:
        return
    root = ElementTree.fromstring(drawing)  # noqa: S314 - of our own making
    kinds = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert kinds <= {"svg", "style", "text", "g", "rect"}
    assert not re.search(r"\bon[a-z]+=|href|url\(", re.sub(r">[^<]*<", "><", drawing))
    assert len(drawing) < 16 << 20


def test_fuzz_guest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], record_property: Record
) -> None:
    """Anything that a guest says when it is verified."""
    good = evidence.good()
    guest = Guest()
    vm = cast(VM, guest)

    def case(dice: random.Random) -> None:
        facts = {
            name: copy.deepcopy(good[name]) for name in ("first", "second", "foreign", "alone")
        }
        for name, each in facts.items():
            guest.said = spoilt(dice, each["facts"])
            told = verify.probed(vm) if name == "first" else verify.probed_again(vm)
            each["facts"] = told.model_dump()
        guest.said = spoilt(dice, good["exercise"])
        facts["exercise"] = verify.attempt(lambda: verify.exercised(vm))
        if not isinstance(facts["exercise"], str):
            facts["exercise"] = facts["exercise"].model_dump()
        found = Evidence.model_validate({**good, **facts})
        took = facts["first"]["facts"]["took"]
        report = verdict.report_of(found, "0.1.0", judge(found, took, CHECKS))
        verdict.write(report, tmp_path / "verify.json")
        written = json.loads((tmp_path / "verify.json").read_text(), parse_constant=no_json)
        assert written["passed"] == report.passed
        verdict.show(report)

    def guarded(dice: random.Random) -> None:
        try:
            case(dice)
        except BuildError as error:
            one_line(error)
            console.fail(str(error))
        said = "".join(capsys.readouterr())
        assert not _UNPRINTABLE.search(said), ascii(said)
        drawing = changed(dice, BOOT.encode(), [b"<script>alert(1)</script>", b"\x1b[2J\xff&#27;"])
        drawn_is_harmless(boot_chart.redrawn(drawing.decode(errors="replace")))

    attack(guarded, record_property)
