"""An image's VM in the words of other hosts: templates filled in from its definition."""

from __future__ import annotations

from pathlib import Path

import jinja2

from serai.image.definition.arch import ARCHITECTURES
from serai.image.definition.definition import Image, megabytes
from serai.image.errors import BuildError
from serai.image.vm import qemu

TEMPLATES = {
    "libvirt": "libvirt.xml.j2",
    "proxmox": "proxmox.sh.j2",
    "cloud-init": "cloud-init.yaml.j2",
    "lima": "lima.yaml.j2",
    "utm": "utm.md.j2",
    "vfkit": "vfkit.sh.j2",
}
CPUS, MEMORY = 4, 3891  # the reference's: 4 cores, 3.8 GiB
VSOCK_PORT = 9777  # of serai-vsock.socket, which the role's variable runtime_vsock turns on

_FOLDER = Path(__file__).parent / "data" / "describe"
_KEY = "ssh-ed25519 AAAA… put your own public key here"


def describe(
    image: Image,
    to: str,
    *,
    folder: str = "/var/lib/libvirt/images",
    key: str = _KEY,
    cpus: int = CPUS,
    memory_mib: int = MEMORY,
) -> str:
    """What ``to`` (a key of ``TEMPLATES``) needs to run ``image``, as text.

    ``folder`` is where the disks lie on the host, ``key`` a public key that may log in. Raises
    BuildError for a host that there is no template for.
    """
    if to not in TEMPLATES:
        raise BuildError(
            f"there is no description for {to!r}", hint=f"one of {', '.join(TEMPLATES)}"
        )
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        undefined=jinja2.StrictUndefined,
        autoescape=jinja2.select_autoescape(("xml.j2",)),
        keep_trailing_newline=True,
    )
    return environment.get_template(TEMPLATES[to]).render(
        image=image,
        folder=folder,
        key=key,
        cpus=cpus,
        memory_mib=memory_mib,
        root_mib=megabytes(image.disk.size),
        sessions_mib=megabytes(image.disk.sessions),
        sessions_gib=-(-megabytes(image.disk.sessions) // 1024),
        processor=ARCHITECTURES[image.arch].machine,
        machine=ARCHITECTURES[image.arch].machine_type,
        root_serial=qemu.ROOT_SERIAL,
        sessions_serial=qemu.SESSIONS_SERIAL,
        vsock_port=VSOCK_PORT if image.variables.get("runtime_vsock") else None,
    )
