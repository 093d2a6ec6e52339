"""An image's VM in the words of other hosts: templates filled in from its definition."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import jinja2

from serai.image import digest
from serai.image.definition.arch import ARCHITECTURES
from serai.image.definition.definition import Image, megabytes
from serai.image.errors import BuildError
from serai.image.vm import qemu
from serai.image.vm.qemu import Share

TEMPLATES = {
    "kubevirt": "kubevirt.yaml.j2",
    "libvirt": "libvirt.xml.j2",
    "proxmox": "proxmox.sh.j2",
    "cloud-init": "cloud-init.yaml.j2",
    "lima": "lima.yaml.j2",
    "utm": "utm.md.j2",
    "vfkit": "vfkit.sh.j2",
}
CPUS, MEMORY = 4, 3891  # the reference's: 4 cores, 3.8 GiB
MOST = 100  # VMs of a pool: each has a line of its own in what is printed
VSOCK_PORT = 9777  # of serai-vsock.socket, which the role's variable runtime_vsock turns on

_FOLDER = Path(__file__).parent / "data" / "describe"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,62}")
_PUBLIC = re.compile(r"(ssh|ecdsa|sk)-[a-z0-9@.-]+ [A-Za-z0-9+/=]+( [^\x00-\x1f\x7f]*)?")
_KEY = "ssh-ed25519 AAAA… put your own public key here"


def public_key(path: Path) -> str:
    """The key in a file such as id_ed25519.pub; raises BuildError for anything else."""
    try:
        text = path.expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BuildError(f"--key {path}: {error}", hint="name a file id_….pub") from None
    if not _PUBLIC.fullmatch(text):
        hint = "name the file .pub of a pair of keys: one line"
        raise BuildError(f"--key {path} is no public key of ssh", hint=hint)
    return text


def describe(
    image: Image,
    to: str,
    *,
    folder: str = "/var/lib/libvirt/images",
    key: str = _KEY,
    name: str = "",
    shares: Sequence[Share] = (),
    seed: bool = False,
    count: int = 1,
    cpus: int = CPUS,
    memory_mib: int = MEMORY,
) -> str:
    """What ``to`` (a key of ``TEMPLATES``) needs to run ``image``, as text.

    ``folder`` is where the disks lie on the host, ``key`` a public key that may log in, ``name``
    the VM's ('': the image's, and with Lima or KubeVirt serai), ``shares`` the directories that it
    is given. With ``seed`` it has a disk for cloud-init, and a pool has ``count`` VMs. Raises
    BuildError for a host that there is no template for, or that has no place for these.
    """
    if name and not _NAME.fullmatch(name):
        raise BuildError(
            f"--name {name!r} is no name of a VM", hint="letters, digits, '.' and '-', up to 63"
        )
    if shares and to != "libvirt":
        raise BuildError(f"{to} is given no --share by us", hint="only libvirt is")
    if seed and to != "libvirt":
        raise BuildError(f"{to} is given no --seed by us", hint="only libvirt is")
    if not 1 <= count <= MOST or (count > 1 and to != "kubevirt"):
        raise BuildError(f"--count {count} is wrong for {to}", hint=f"kubevirt has 1 to {MOST}")
    if to == "kubevirt" and "." in name:
        raise BuildError(f"--name {name}: a host name has no dot", hint="take '-' instead")
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
        name=name or image.name,
        lima=name or "serai",
        pool=(name or "serai").lower(),
        count=count,
        seed=seed,
        # Locally administered, and another one for each name.
        mac=f"52:54:00:{':'.join(re.findall('..', digest.of_value(name)[:6]))}",
        shares=shares,
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
