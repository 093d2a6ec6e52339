"""What cloud-init gives a VM at its first boot, so that it joins a fleet: ``invoke fleet-seed``.

    vms/NAME/user-data, meta-data      for Kubernetes' Secrets, and other hosts' own ways
    vms/NAME/seed.img                  the same as a NoCloud disk

All of them have the VM's key, so they are as private as it is: files of mode 0600 in a folder that
only its owner enters.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

from serai.common import files
from serai.image import digest
from serai.image.errors import BuildError
from serai.image.fleet import keys
from serai.image.vm import seed

IN_VM = "/etc/serai/fleet"
KEYS = ("ca.pem", "key.pem", "cert.pem")
"""The last is what serai-fleet.service waits for."""


def user_data(
    name: str, credentials: Path, servers: Sequence[str], *, zone: str, sessions: int, key: str
) -> str:
    """Cloud-config for one VM. ``key`` is a public key that may log in as admin; '': none may.

    Raises BuildError if a key of the VM's is missing.
    """
    toml = [f"servers = {json.dumps(list(servers))}", f"name = {json.dumps(name)}", ""]
    toml += ["[labels]", f"zone = {json.dumps(zone)}", "", "[room]", f"sessions = {sessions}", ""]
    written = [_file("/etc/serai/fleet.toml", "\n".join(toml))]
    for each in KEYS:
        try:
            written.append(_file(f"{IN_VM}/{each}", (credentials / each).read_text()))
        except OSError as error:
            hint = f"'invoke fleet-keys --vm {name}' makes it"
            raise BuildError(f"{credentials / each}: {error.strerror}", hint=hint) from None
    admin = {
        "name": "admin",
        "lock_passwd": True,
        "shell": "/bin/bash",
        "groups": ["serai"],
        "sudo": "ALL=(ALL) NOPASSWD:ALL",
        "ssh_authorized_keys": [key],
    }
    config = {
        "hostname": name,
        "locale": "C.UTF-8",  # a bare Debian has no other
        "ssh_pwauth": False,
        **({"users": [admin]} if key else {}),  # an empty list is none by cloud-init's schema
        "growpart": {"mode": "auto", "devices": ["/"]},
        "write_files": written,
        # The unit did not start without a certificate, or with the one of before.
        "runcmd": [["systemctl", "restart", "--no-block", "serai-fleet.service"]],
    }
    return "#cloud-config\n" + yaml.safe_dump(config, sort_keys=False, width=1000)


def make(
    folder: Path, names: Sequence[str], *, zone: str = "", sessions: int = 0, key: str = ""
) -> list[Path]:
    """Write the seeds of these VMs of a fleet's folder, or of all; their folders.

    Raises BuildError.
    """
    fleet = keys.read(folder)
    if missing := sorted(set(names) - fleet.vms.keys()):
        hint = f"'invoke fleet-keys --vm {missing[0]}' adds it"
        raise BuildError(f"{missing[0]} is no VM of this fleet", hint=hint)
    if not fleet.servers or not fleet.vms:
        raise BuildError(f"{folder} is no fleet's yet", hint="see 'invoke --help fleet-keys'")
    homes = []
    for name in names or sorted(fleet.vms):
        home = folder / "vms" / name
        user = user_data(name, home, fleet.servers, zone=zone, sessions=sessions, key=key)
        # Another identity is another first boot, at which cloud-init writes the files again.
        meta = seed.meta_data(f"{name}-{digest.of_value(user)[:12]}")
        files.write(home / "user-data", user.encode(), 0o600)
        files.write(home / "meta-data", meta.encode(), 0o600)
        with TemporaryDirectory(dir=home) as work:
            made = seed.write(Path(work) / "seed.img", user, meta)
            made.chmod(0o600)
            made.replace(home / "seed.img")
        homes.append(home)
    return homes


def _file(path: str, content: str) -> dict[str, str]:
    """A file that the member's user can read, and no session: they see /etc."""
    owned = {"owner": "root:serai-fleet", "permissions": "0640"}
    return {"path": path, **owned, "content": content}
