"""The options of Invoke's tasks, in words: `invoke --help TASK` prints them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from invoke.tasks import task

from serai.image import console
from serai.image.release import formats, release

# Options that mean the same in each task.
SHARED = {
    "build": "the version of a build or release in dist/IMAGE/ (default: the latest build)",
    "copy": "a file or directory to copy to /root first; may be repeated",
    "image": "the name of an image, as `invoke images` lists them",
    "json": "print JSON (docs/json.md); what is for people goes to stderr",
    "run": "a command to run as root, whose exit status is the task's",
    "set_": "KEY=VALUE for a value of the definition; may be repeated",
}
OWN: dict[str, dict[str, str]] = {
    "attack": {
        "in_": "here (the default), container, or image: a booted one",
        "target": "a part of an attack's name, or a fuzz target",
        "seconds": "for how long each fuzz target is fuzzed",
        "seed": "where the fuzzing begins: a seed, or seed:case",
        "list": "only list the attacks",
        "image": "the image, or the one of whose Debian the container is",
        "sandbox": "in a container or an image: that of the sessions, strict or sockets (default)",
        "pool": "in a container or an image: sessions of the warm pool, not such as are made cold",
    },
    "bench": {
        "image": "measure in this image, booted, what takes its kernel or its limits",
        "only": "one group of measurements",
        "check": "exit status 1 if a budget is exceeded",
    },
    "boot": {
        "share": "TAG=DIR[:ro|:virtiofs], a directory of the host for /mnt/host/TAG; repeatable",
        "cpus": "how many processors; 4 are the original system's",
        "memory": "how much memory, for example 3.8G",
        "disk": "the bus of the disks, nvme or virtio",
        "sessions": "FILE[:raw], a qcow2 or a raw disk for /sessions that is kept",
        "base": "boot the disk that the image is built from",
    },
    "build-image": {
        "fresh": "use nothing that is cached: build again, from the base on",
        "image": "the name of an image; may be repeated",
        "keep": "leave the VM running in which a layer failed",
        "twice": "build it twice from nothing in the cache, and compare the results",
    },
    "clean": {"cache": "remove finished stages, downloads and logs too"},
    "clients": {"directory": "where the clients are installed"},
    "compare": {
        "old": "a directory of a build or a release",
        "new": "the one to compare with it",
    },
    "container": {
        "image": "with the Debian of this image (default: Debian 12)",
        "keep": "stay in a shell after --run",
    },
    "describe": {
        "to": "libvirt, kubevirt, proxmox, cloud-init, lima, utm or vfkit",
        "cpus": "how many processors",
        "memory": "how much memory, for example 3.8G",
        "name": "the VM's name, by which its disks are called too (default: the image's)",
        "key": "a public key's file, which may log in (--to cloud-init)",
        "share": "TAG=DIR[:ro|:virtiofs], a directory of the host for /mnt/host/TAG (libvirt)",
        "seed": "with a disk for cloud-init, as 'invoke fleet-seed' makes it (libvirt)",
        "count": "how many VMs the pool has (kubevirt)",
    },
    "docs": {"site": "make their site too, dist/site/"},
    "fleet": {
        "sessions": "how many sessions are placed",
        "kills": "how often a VM or a server is killed",
        "seed": "what is killed and when: the same again with the same seed",
    },
    "fleet-keys": {
        "folder": "where the fleet's keys are kept; keep it as a password of root's",
        "server": "HOST[:PORT] of a NATS server to add; may be repeated",
        "vm": "the name of a VM to add; may be repeated",
        "client": "the name of somebody to add who may use the fleet; may be repeated",
        "revoke": "the VM or client that leaves the fleet ([vm/|client/]NAME); may be repeated",
        "renew": "make all certificates anew, but for the authorities'",
    },
    "fleet-seed": {
        "folder": "the one of 'invoke fleet-keys'",
        "vm": "a VM of it; may be repeated (default: all)",
        "zone": "where the VMs are, for who wants a session in one place",
        "sessions": "how many sessions each takes; 0: as memory, tasks and disk have room",
        "key": "a public key's file, which may log in as admin",
    },
    "formats": {"to": f"a list of {', '.join(formats.KINDS)}"},
    "machine": {"keep": "stay in a shell after --run"},
    "new": {
        "directory": "where to: a directory that does not exist yet; its name is the image's",
        "base": "the image that yours is a flavour of",
    },
    "programs": {"only": "one program of the table; repeatable"},
    "provision": {
        "host": "user@address[:port], as often as there are VMs",
        "inventory": "a file of Ansible's instead, of which --limit is a pattern",
        "limit": "a pattern of the inventory's VMs",
        "image": "with what this image chooses of the roles' variables",
        "key": "the private key to log in with",
        "sudo_password": "a file with the password that sudo asks for",
        "check": "change nothing; exit status 2 if something would change",
        "diff": "show what changes in files",
        "forks": "so many VMs at once",
        "serial": "so many VMs a batch; the next one begins if all went well",
        "new_host_keys": "trust host keys that are not in known_hosts",
        "set_": "a role's variable, NAME=VALUE; may be repeated",
        "only": "a role that is played instead of all; may be repeated",
        "fast": "skip VMs that seem unchanged since all was right there (docs/provision.md)",
        "keep_connected": "refuse VMs where connected commands would end",
        "rollback": "go back to the version of Serai that each VM had before",
        "json": "the file for the report (docs/json.md)",
    },
    "pull": {
        "source": "docker://HOST/NAME:TAG or oci:/DIRECTORY:TAG",
        "folder": "a directory that does not exist yet",
        "allowed_signers": "a file with the keys that you trust, see ssh-keygen(1)",
    },
    "push": {
        "folder": "the directory of a release",
        "to": "docker://HOST/NAME:TAG or oci:/DIRECTORY:TAG",
    },
    "pythons": {"release": "only this one, for example ubuntu-22.04"},
    "release": {
        "version": "what the release is called, for example 1.2.0",
        "previous": "the directory of the release before, to tell the differences from",
        "sign_key": "an SSH key's file; with a public one the agent is asked",
        "formats_": f"a list as of `invoke formats` (default: {','.join(release.FORMATS)})",
    },
    "scale": {
        "only": "one group of measurements, or 'simulation': play with the figures that there are"
    },
    "rehearse": {"only": "a part of a run's name; the record of the others stays"},
    "secrets": {"directory": "where the clients are installed"},
    "test": {
        "layer": "unit, sandbox, container or vm",
        "lint": "run the linters first",
    },
    "verify-image": {
        "image": "the name of an image; may be repeated",
        "quick": "one boot instead of four; not enough for a release",
    },
    "verify-release": {
        "folder": "the directory of a release",
        "allowed_signers": "a file with the keys that you trust, see ssh-keygen(1)",
    },
}


def command(**options: Any) -> Callable[[Callable[..., int | None]], Any]:
    """An Invoke task whose errors are one line on stderr and whose result is the exit status."""

    def wrap(function: Callable[..., int | None]) -> Any:
        name = options.get("name", function.__name__.replace("_", "-"))
        parameters = list(inspect.signature(function).parameters)[1:]
        words = {**SHARED, **OWN.get(name, {})}

        @functools.wraps(function)
        def guarded(*arguments: Any, **keywords: Any) -> None:
            with console.reported(), console.aside(asked=keywords.get("json") is True):
                status = function(*arguments, **keywords)
            if status:  # 0 must return, for Invoke to go on with the next task
                raise SystemExit(status)

        told = {each: words[each] for each in parameters if each in words}
        return task(**options, help=told)(guarded)

    return wrap
