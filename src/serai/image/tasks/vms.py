"""Tasks about VMs and containers: booting an image, describing a VM, provisioning what runs."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from invoke.context import Context

from serai.image import console
from serai.image.build import build as building
from serai.image.build import builds
from serai.image.commands.options import command
from serai.image.container import throwaway
from serai.image.definition import definition
from serai.image.errors import BuildError
from serai.image.provision import provision
from serai.image.tasks.defaults import IMAGE, SETTINGS
from serai.image.vm import boot, describe
from serai.image.vm.qemu import Bus
from serai.image.vm.share import parse as parse_shares


@command(name="boot", iterable=["copy", "share"])
def boot_image(
    _c: Context,
    *,
    image: str = IMAGE,
    run: str | None = None,
    copy: list[str] | None = None,
    share: list[str] | None = None,
    cpus: int = 0,
    memory: str = "",
    disk: str = "",
    sessions: str = "",
    base: bool = False,
    build: str = "",
    json: bool = False,
) -> int:
    """Boot the finished image on a throwaway overlay, and wait until it switches off."""
    if json and run is not None:
        raise BuildError("--json tells how to get in, and --run prints what its command prints")
    shares = parse_shares(share or ())
    if disk not in ("", *get_args(Bus)):
        raise BuildError(
            f"there is no disk bus {disk!r}", hint=f"one of {', '.join(get_args(Bus))}"
        )
    kept, kept_format = boot.parse_sessions(sessions)
    if base and build:
        raise BuildError("--base is what a build starts from, and --build is a finished one")
    if base:
        loaded = definition.load(SETTINGS, image)
        root = building.base(SETTINGS, loaded)
    else:
        found = builds.find(SETTINGS, image, build)
        loaded, root = found.image, found.disk
    return boot.boot(
        SETTINGS,
        loaded,
        root,
        run=run,
        copy=[Path(path) for path in copy or ()],
        sessions=kept,
        sessions_format=kept_format,
        shares=shares,
        cpus=cpus or None,
        memory=definition.size(memory) if memory else None,
        bus=disk or None,  # type: ignore[arg-type]  # seen to above
        as_json=json,
    )


@command(name="describe", iterable=["share"])
def describe_image(  # noqa: PLR0917 - Invoke makes an option of each
    _c: Context,
    image: str = IMAGE,
    to: str = "libvirt",
    cpus: int = describe.CPUS,
    memory: str = f"{describe.MEMORY}M",
    build: str = "",
    name: str = "",
    key: str = "",
    share: list[str] | None = None,
    seed: bool = False,
    count: int = 1,
) -> None:
    """Print what another host needs to run the image."""
    known = builds.find(SETTINGS, image, build).image if build else None
    loaded = known or definition.load(SETTINGS, image)
    mebibytes = definition.megabytes(definition.size(memory))
    text = describe.describe(
        loaded,
        to,
        cpus=cpus,
        memory_mib=mebibytes,
        name=name,
        shares=parse_shares(share or ()),
        seed=seed,
        count=count,
        **({"key": describe.public_key(Path(key))} if key else {}),
    )
    print(text, end="")


@command(name="container", iterable=["copy"])
def try_container(
    _c: Context,
    run: str | None = None,
    copy: list[str] | None = None,
    keep: bool = False,
    image: str = "",
) -> int:
    """Boot a container with the same roles, for a shell or a command."""
    return _container(run, copy, keep, image)


@command(name="machine", iterable=["copy"])
def try_machine(
    _c: Context, run: str | None = None, copy: list[str] | None = None, keep: bool = False
) -> int:
    """The old name of `invoke container`; it goes with the next release."""
    console.warn("'invoke machine' is called 'invoke container' now; the old name will go")
    return _container(run, copy, keep)


def _container(run: str | None, copy: list[str] | None, keep: bool, image: str = "") -> int:
    paths = [Path(path) for path in copy or ()]
    return throwaway.run(SETTINGS, command=run, copy=paths, keep=keep, image=image)


@command(name="provision", iterable=["host", "set_", "only"])
def provision_vms(
    _c: Context,
    *,
    host: list[str] | None = None,
    inventory: str = "",
    limit: str = "",
    image: str = "",
    key: str = "",
    sudo_password: str = "",
    check: bool = False,
    diff: bool = False,
    forks: int = 0,
    serial: int = 0,
    new_host_keys: bool = False,
    set_: list[str] | None = None,
    only: list[str] | None = None,
    fast: bool = False,
    keep_connected: bool = False,
    rollback: bool = False,
    json: str = "",
) -> int:
    """Apply the image's roles to VMs that run (--host USER@ADDR or --inventory FILE)."""
    options = provision.Options(
        hosts=tuple(host or ()),
        inventory=inventory,
        limit=limit,
        image=image,
        key=key,
        sudo_password=sudo_password,
        check=check,
        diff=diff,
        forks=forks,
        serial=serial,
        new_host_keys=new_host_keys,
        values=tuple(set_ or ()),
        only=tuple(only or ()),
        fast=fast,
        keep_connected=keep_connected,
        rollback=rollback,
        report=json,
    )
    fleet = provision.provision(SETTINGS, options)
    return 2 if check and fleet.changed else 0
