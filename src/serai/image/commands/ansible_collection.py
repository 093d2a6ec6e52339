"""The roles as a collection of Ansible's, serai.vm, for playbooks of other people.

It is made of the checkout's roles as they are, at the place where they look for the rest: pins.yml
and the source of the VM's wheel are two directories above a role. Our playbooks set variables for
all roles; here a role of its own has them, on which each of the others depends.

The same source makes the same bytes, for which ansible-galaxy(1) has no option. See "Collection
structure" in Ansible's documentation for the format.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tomlkit
import yaml

from serai.image import digest
from serai.image.settings import Settings

NAMESPACE, NAME = "serai", "vm"
SHARED_ROLE = "live"
"""The role with the variables that the playbook for VMs that run sets for all roles."""

_PLAYBOOK = Path("playbooks/provision.yml")
_CARRIED = ("pins.yml", "pyproject.toml", "CHANGELOG.md", "LICENSE", "roles", "src/serai")
_README = """# serai.vm

The roles of Serai, for a playbook of yours: docs/projects.md of Serai has an example, docs/roles.md
the variables.
"""


def build(settings: Settings, into: Path) -> Path:
    """Write the collection's archive, which ansible-galaxy(1) installs."""
    about = tomlkit.parse((settings.root / "pyproject.toml").read_text()).unwrap()["project"]
    found = _files(settings)
    entries = [_entry(path, content) for path, content in sorted(found.items())]
    files = _json({"files": [_entry(".", None), *entries], "format": 1})
    described = {
        "collection_info": {
            "namespace": NAMESPACE,
            "name": NAME,
            "version": about["version"],
            "authors": ["Serai"],
            "readme": "README.md",
            "description": "Makes of a Debian or Ubuntu a VM in which coding agents work",
            "license": [about["license"]],
            "tags": ["linux", "security"],
            "dependencies": {},
        },
        "file_manifest_file": _entry("FILES.json", files),
        "format": 1,
    }
    programs = {
        str(path.relative_to(settings.root))
        for path in _carried(settings.root)
        if path.stat().st_mode & stat.S_IXUSR
    }
    target = into / f"{NAMESPACE}-{NAME}-{about['version']}.tar.gz"
    whole = {"MANIFEST.json": _json(described), "FILES.json": files, **dict(sorted(found.items()))}
    with (
        target.open("wb") as stream,
        gzip.GzipFile(filename="", mode="wb", fileobj=stream, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name, content in whole.items():
            member = tarfile.TarInfo(name)
            runs = content is None or name in programs
            member.mode = 0o755 if runs else 0o644
            member.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
            member.size = len(content or b"")
            archive.addfile(member, io.BytesIO(content or b""))
    return target


def _files(settings: Settings) -> dict[str, bytes | None]:
    """The content of each file by its path; of a directory None."""
    found: dict[str, bytes | None] = {
        "README.md": _README.encode(),
        "meta/runtime.yml": b'---\nrequires_ansible: ">=2.17.0,<2.19.0"\n',
        f"roles/{SHARED_ROLE}/defaults/main.yml": _yaml(_shared(settings)),
    }
    for path in _carried(settings.root):
        found[str(path.relative_to(settings.root))] = path.read_bytes()
    depends = _yaml({"dependencies": [{"role": f"{NAMESPACE}.{NAME}.{SHARED_ROLE}"}]})
    for role in (settings.root / "roles").iterdir():
        found[f"roles/{role.name}/meta/main.yml"] = depends
    parents = {str(parent) for name in found for parent in Path(name).parents}
    return {**dict.fromkeys(parents - {"."}), **found}


def _carried(root: Path) -> Iterator[Path]:
    for name in _CARRIED:
        for path in [root / name, *sorted((root / name).rglob("*"))]:
            stays = path.is_relative_to(root / "src/serai/image") or digest.is_left_over(path, root)
            if path.is_file() and not stays:
                yield path


def _shared(settings: Settings) -> dict[str, Any]:
    """What the playbook says to all roles; what it chooses for one of them is the user's to say."""
    (play,) = yaml.safe_load((settings.root / _PLAYBOOK).read_text())
    return {name: value for name, value in play["vars"].items() if name.startswith("serai_")}


def _entry(name: str, content: bytes | None) -> dict[str, Any]:
    sha256 = None if content is None else hashlib.sha256(content).hexdigest()
    return {
        "name": name,
        "ftype": "dir" if content is None else "file",
        "chksum_type": None if content is None else "sha256",
        "chksum_sha256": sha256,
        "format": 1,
    }


def _json(value: object) -> bytes:
    return json.dumps(value, indent=1).encode() + b"\n"


def _yaml(value: object) -> bytes:
    return b"---\n" + yaml.safe_dump(value, sort_keys=False, width=1000).encode()
