"""A disk as an OCI archive that KubeVirt takes as a containerDisk.

That is an image from scratch with one file below /disk, which QEMU's user there (107) can read
(https://kubevirt.io/user-guide/storage/disks_and_volumes/#containerdisk). The layout is that of the
OCI image specification 1.1 (image-layout.md): a tar of three small JSON files and one layer.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import tempfile
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from serai.image import digest
from serai.image.definition.arch import Arch

_QEMU = 107  # user and group
_TYPE = "application/vnd.oci.image."


def write(disk: Path, target: Path, *, arch: Arch, tag: str, stamp: int) -> None:
    """Write the archive ``target`` with the qcow2 ``disk``; the same arguments are the same bytes.

    ``tag`` is the name by which the archive's one image is found, ``stamp`` the time of all there
    is in it, in seconds since 1970. A scratch copy of the disk lies beside ``target`` meanwhile.
    """
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
        # Not compressed: the disk is.
        layer = Path(folder) / "layer.tar"
        with tarfile.open(layer, "w", format=tarfile.PAX_FORMAT) as tar:
            tar.addfile(_entry("disk", stamp, folder=True))
            with disk.open("rb") as stream:
                tar.addfile(_entry(f"disk/{disk.name}", stamp, disk.stat().st_size), stream)
        layer_digest = digest.of_file(layer)
        created = datetime.fromtimestamp(stamp, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        config = _json(
            {
                "created": created,
                "architecture": arch,
                "os": "linux",
                "config": {},
                "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer_digest}"]},
                "history": [{"created": created, "created_by": "serai", "comment": disk.name}],
            }
        )
        manifest = _json(
            {
                "schemaVersion": 2,
                "mediaType": f"{_TYPE}manifest.v1+json",
                "config": _descriptor(f"{_TYPE}config.v1+json", config),
                "layers": [
                    {
                        "mediaType": f"{_TYPE}layer.v1.tar",
                        "digest": f"sha256:{layer_digest}",
                        "size": layer.stat().st_size,
                    }
                ],
            }
        )
        index = {
            "schemaVersion": 2,
            "mediaType": f"{_TYPE}index.v1+json",
            "manifests": [
                {
                    **_descriptor(f"{_TYPE}manifest.v1+json", manifest),
                    "platform": {"architecture": arch, "os": "linux"},
                    "annotations": {"org.opencontainers.image.ref.name": tag},
                }
            ],
        }
        with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as tar:
            for path in ("blobs", "blobs/sha256"):
                tar.addfile(_entry(path, stamp, folder=True, owner=0))
            for content in (config, manifest):
                _put(tar, f"blobs/sha256/{hashlib.sha256(content).hexdigest()}", content, stamp)
            name = f"blobs/sha256/{layer_digest}"
            with layer.open("rb") as stream:
                tar.addfile(_entry(name, stamp, layer.stat().st_size, owner=0), stream)
            _put(tar, "index.json", _json(index), stamp)
            _put(tar, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}), stamp)


def _entry(
    name: str, stamp: int, size: int = 0, *, folder: bool = False, owner: int = _QEMU
) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type = tarfile.DIRTYPE if folder else tarfile.REGTYPE
    entry.mode = 0o755 if folder else 0o444
    entry.size, entry.mtime, entry.uid, entry.gid = size, stamp, owner, owner
    return entry


def _put(tar: tarfile.TarFile, name: str, content: bytes, stamp: int) -> None:
    tar.addfile(_entry(name, stamp, len(content), owner=0), io.BytesIO(content))


def _descriptor(kind: str, content: bytes) -> dict[str, Any]:
    """A descriptor of the blob ``content`` (the specification's descriptor.md)."""
    value = f"sha256:{hashlib.sha256(content).hexdigest()}"
    return {"mediaType": kind, "digest": value, "size": len(content)}


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
