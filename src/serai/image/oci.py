"""Files as an OCI image from scratch: what registries keep, and KubeVirt takes as a containerDisk.

KubeVirt looks for one file below /disk, which QEMU's user there (107) can read
(https://kubevirt.io/user-guide/storage/disks_and_volumes/#containerdisk). The layout is that of the
OCI image specification 1.1 (image-layout.md): three small JSON files and one layer, a tar.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
import tempfile
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path, PurePath
from typing import Any

from serai.image import digest

_QEMU = 107  # user and group
_TYPE = "application/vnd.oci.image."
MANIFEST = f"{_TYPE}manifest.v1+json"
BLOBS = "blobs/sha256"


def write(content: Mapping[str, Path], target: Path, *, arch: str, tag: str, stamp: int) -> None:
    """Write the archive ``target``, a tar of what ``lay_out`` makes; the same bytes each time.

    A scratch copy of the content lies beside ``target`` meanwhile.
    """
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as name:
        folder = Path(name)
        paths = lay_out(content, folder, arch=arch, tag=tag, stamp=stamp)
        with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as tar:
            for path in ("blobs", BLOBS):
                tar.addfile(_entry(path, stamp, folder=True, owner=0))
            for path in paths:
                with (folder / path).open("rb") as stream:
                    size = (folder / path).stat().st_size
                    tar.addfile(_entry(path, stamp, size, owner=0), stream)


def lay_out(
    content: Mapping[str, Path], folder: Path, *, arch: str, tag: str, stamp: int
) -> list[str]:
    """Make ``folder`` an image layout with one image, and return the names of its files.

    ``content`` has the files by their paths in the image, ``tag`` is the name by which the image is
    found, ``stamp`` the time of all that is in it, in seconds since 1970.
    """
    blobs = folder / BLOBS
    blobs.mkdir(parents=True)
    layer = folder / "layer.tar"
    _pack(content, layer, stamp)  # not compressed: disks are
    size, layer_digest = layer.stat().st_size, digest.of_file(layer)
    layer.rename(blobs / layer_digest)
    created = datetime.fromtimestamp(stamp, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    about = {"created_by": "serai", "comment": " ".join(PurePath(name).name for name in content)}
    config = encoded(
        {
            "created": created,
            "architecture": arch,
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer_digest}"]},
            "history": [{"created": created, **about}],
        }
    )
    packed = {
        "mediaType": f"{_TYPE}layer.v1.tar",
        "digest": f"sha256:{layer_digest}",
        "size": size,
    }
    manifest = encoded(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(f"{_TYPE}config.v1+json", config),
            "layers": [packed],
        }
    )
    platform = {"architecture": arch, "os": "linux"}
    names = finish(folder, config, manifest, tag=tag, platform=platform)
    return [*names[:2], f"{BLOBS}/{layer_digest}", *names[2:]]


def finish(folder: Path, config: bytes, manifest: bytes, *, tag: str, **told: object) -> list[str]:
    """Write what a layout has beside its layers, and return the names of these files.

    ``told`` is what its index says of the one image besides.
    """
    listed = {
        **descriptor(MANIFEST, manifest),
        **told,
        "annotations": {"org.opencontainers.image.ref.name": tag},
    }
    index = {"schemaVersion": 2, "mediaType": f"{_TYPE}index.v1+json", "manifests": [listed]}
    small = {
        **{f"{BLOBS}/{hashlib.sha256(blob).hexdigest()}": blob for blob in (config, manifest)},
        "index.json": encoded(index),
        "oci-layout": encoded({"imageLayoutVersion": "1.0.0"}),
    }
    for name, blob in small.items():
        (folder / name).write_bytes(blob)
    return list(small)


def descriptor(kind: str, content: bytes) -> dict[str, Any]:
    """A descriptor of the blob ``content`` (the specification's descriptor.md)."""
    value = f"sha256:{hashlib.sha256(content).hexdigest()}"
    return {"mediaType": kind, "digest": value, "size": len(content)}


def encoded(value: object) -> bytes:
    """``value`` as JSON, the same bytes each time."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _pack(content: Mapping[str, Path], target: Path, stamp: int) -> None:
    """Write the layer: the files, each after the directory that it is in."""
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as tar:
        folders = dict.fromkeys(str(PurePath(name).parent) for name in content)
        for folder in folders:
            if folder != ".":
                tar.addfile(_entry(folder, stamp, folder=True))
        for name, path in content.items():
            with path.open("rb") as stream:
                tar.addfile(_entry(name, stamp, path.stat().st_size), stream)


def _entry(
    name: str, stamp: int, size: int = 0, *, folder: bool = False, owner: int = _QEMU
) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type = tarfile.DIRTYPE if folder else tarfile.REGTYPE
    entry.mode = 0o755 if folder else 0o444
    entry.size, entry.mtime, entry.uid, entry.gid = size, stamp, owner, owner
    return entry
