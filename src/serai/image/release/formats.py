"""The same disk in the formats that others take, and what boots it without its own loader."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from serai.common import files
from serai.image import cache, console, digest, ext4, layout, oci, offline, sign
from serai.image.build import build
from serai.image.build.builds import Finished
from serai.image.errors import BuildError
from serai.image.parallel import in_parallel
from serai.image.release import box, fits, gce, ova, vhd, vmdk
from serai.image.release.source import Source
from serai.image.release.source import convert as convert_disk
from serai.image.run import run
from serai.image.settings import Settings


def _raw_zst(source: Source, target: Path) -> None:
    # As many threads as processors, which zstd(1) says does not change the result. Level 6: see
    # docs/releases.md.
    run(["zstd", "-q", "-6", "-T0", source.raw, "-o", target])


def _ami(source: Source, target: Path) -> None:
    # EC2 takes a raw disk of any size, and rounds the volume up to whole GiB
    # (https://docs.aws.amazon.com/vm-import/latest/userguide/vmimport-image-import.html).
    run(["cp", "--reflink=auto", "--sparse=always", source.raw, target])


def _vhdx(source: Source, target: Path) -> None:
    # Blocks of 1 MiB, the least there are: with larger ones the file has more that nobody wrote.
    convert_disk(source, "vhdx", ("subformat=dynamic", "block_size=1M"), target)


def _oci(source: Source, target: Path) -> None:
    content = {f"disk/{source.disk.name}": source.disk}
    arch = source.definition.arch
    oci.write(content, target, arch=arch, tag=source.version, stamp=source.stamp)


_WRITERS: Mapping[str, tuple[str, Callable[[Source, Path], None]]] = {
    "raw.zst": ("raw.zst", _raw_zst),
    "vhdx": ("vhdx", _vhdx),
    "vmdk": ("vmdk", vmdk.write),
    "oci": ("oci.tar", _oci),
    "ami": ("ami.raw", _ami),
    "gce": ("gce.tar.gz", gce.write),
    "azure": ("azure.vhd", vhd.write),
    "ova": ("ova", ova.write),
    "vagrant": ("libvirt.box", box.write),
}
KINDS = tuple(_WRITERS)
ENDINGS = tuple(ending for ending, _ in _WRITERS.values())


def parse(text: str) -> tuple[str, ...]:
    """The formats in a list such as 'raw.zst,vhdx'; raises BuildError for one there is not."""
    wanted = [word.strip() for word in text.split(",") if word.strip()]
    for word in wanted:
        if word not in KINDS:
            raise BuildError(f"there is no format {word!r}", hint=f"one of {', '.join(KINDS)}")
    if not wanted:
        raise BuildError("no format is asked for", hint=f"name some of {', '.join(KINDS)}")
    return tuple(dict.fromkeys(wanted))


def jobs(source: Source, kinds: Sequence[str], folder: Path) -> list[Callable[[], None]]:
    """One action for each of ``kinds``, which writes ``folder``/<image>.<kind>."""
    found: list[Callable[[], None]] = []
    for kind in kinds:
        suffix, writer = _WRITERS[kind]
        found.append(partial(_write, writer, source, folder / f"{source.image}.{suffix}"))
    return found


def _write(writer: Callable[[Source, Path], None], source: Source, target: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
        made = Path(folder) / target.name
        writer(source, made)
        made.chmod(0o644)
        files.fsync(made)
        made.replace(target)
    files.fsync(target.parent)


def warn(image: str, kinds: Sequence[str], root: offline.RootFs) -> None:
    """Say for which of ``kinds`` the disk lacks something."""
    for line in fits.lacks(kinds, *fits.read(root)):
        console.warn(f"{image} as {line} (docs/releases.md)")


def convert(settings: Settings, finished: Finished, kinds: Sequence[str]) -> list[Path]:
    """Write a finished image in each of ``kinds`` beside it, and return the files.

    SHA256SUMS has them then. Raises BuildError for a release, which never changes.
    """
    image, folder, disk = finished.image.name, finished.folder, finished.disk
    if (folder / layout.PROVENANCE).exists():
        raise BuildError(f"{folder} is a release, which never changes", hint="name a build instead")
    manifest = json.loads((folder / layout.MANIFEST).read_text())
    with (
        console.step(f"convert {image} to {', '.join(kinds)}"),
        scratch(settings, image) as work,
        offline.opened(disk, work) as root,
    ):
        warn(image, kinds, root)
        stamp = time_of(manifest, folder)
        source = Source(finished.image, manifest["version"], stamp, disk, root.raw)
        in_parallel(jobs(source, kinds, folder), threading.Event())
        made = [folder / f"{image}.{_WRITERS[kind][0]}" for kind in kinds]
        sums = sign.listed(folder)
        sums |= {path.name: digest.of_file(path) for path in made}
        cache.write(folder / layout.SUMS, sign.sums(sums))
    return made


@contextmanager
def scratch(settings: Settings, image: str) -> Iterator[Path]:
    """An empty folder for copies of the disk of ``image``, which only one process has at a time."""
    folder = settings.cache / "release" / image
    with cache.locked(folder.with_name(f".{image}.lock")):
        shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def time_of(
    manifest: Mapping[str, Any], folder: Path, environ: Mapping[str, str] = os.environ
) -> int:
    """When the build in ``folder`` was made, or SOURCE_DATE_EPOCH, in seconds since 1970.

    https://reproducible-builds.org/specs/source-date-epoch/
    """
    asked = environ.get("SOURCE_DATE_EPOCH", "")
    if asked:
        if not asked.isdecimal():
            raise BuildError(f"SOURCE_DATE_EPOCH is {asked!r}, no number of seconds since 1970")
        return int(asked)
    finished = manifest.get("finished")
    return int(build.time_of(finished) if finished else (folder / layout.MANIFEST).stat().st_mtime)


# --- direct boot: the kernel, its initial file system, and what the kernel is told


def direct_boot(root: offline.RootFs, image: str, folder: Path) -> None:
    """Write <image>.vmlinuz, .initrd and .cmdline: what the image's own loader boots first.

    Raises BuildError if that cannot be found on the disk.
    """
    kernel, initrd, options = first_entry(root.read("/boot/grub/grub.cfg"))
    targets = {kernel: folder / f"{image}.vmlinuz", initrd: folder / f"{image}.initrd"}
    with tempfile.TemporaryDirectory(dir=folder) as work:
        ext4.Reader(root, Path(work)).copy(targets)
    for path, target in targets.items():
        if not target.stat().st_size:
            raise BuildError(f"{path} on the disk is empty")
        target.chmod(0o644)
    (folder / f"{image}.cmdline").write_text(f"{options}\n")


def first_entry(config: str) -> tuple[str, str, str]:
    """Kernel, initial file system and options of the first entry in a grub.cfg.

    Variables of GRUB's are left out of the options. Raises BuildError if there is no such entry.
    """
    kernel = re.search(r"^\s*linux\s+(/[\w./+-]+)[ \t]*(.*)$", config, re.MULTILINE)
    initrd = re.search(r"^\s*initrd\s+(/[\w./+-]+)", config, re.MULTILINE)
    if kernel is None or initrd is None:
        raise BuildError("/boot/grub/grub.cfg of the disk names no kernel and initrd")
    options = " ".join(word for word in kernel[2].split() if "$" not in word)
    return kernel[1], initrd[1], options
