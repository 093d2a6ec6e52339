"""Invoke's tasks: they parse arguments, `serai.image` does the work. `invoke --list` shows them."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from invoke.context import Context

from serai.image import console, project
from serai.image.bench import bench
from serai.image.build import base_cloudimage, builds
from serai.image.build import build as building
from serai.image.commands import (
    attack,
    clean,
    clients,
    demo,
    dist,
    docs_site,
    lint,
    new,
    pages,
    programs,
    project_page,
    pythons,
    several,
    show,
    test,
)
from serai.image.commands.options import command
from serai.image.container import throwaway
from serai.image.definition import definition
from serai.image.errors import BuildError
from serai.image.fleet import campaign
from serai.image.fleet import command as fleet
from serai.image.provision import provision
from serai.image.rehearsal import rehearsal, ubuntu_report
from serai.image.release import (
    changes_md,
    formats,
    inspect,
    registry,
    release,
    reproduce,
    verify_release,
)
from serai.image.scale import scale
from serai.image.settings import Settings
from serai.image.verify.verdict import content
from serai.image.verify.verify import verify
from serai.image.vm import boot, describe
from serai.image.vm.qemu import Bus
from serai.image.vm.share import parse as parse_shares

with console.reported():
    SETTINGS = Settings.of(project=project.here())
IMAGE = definition.DEFAULT_IMAGE


@command()
def images(_c: Context, *, json: bool = False) -> None:
    """List the images there are."""
    show.images(SETTINGS, as_json=json)


@command(name="new")
def make_project(_c: Context, directory: str, base: str = IMAGE) -> None:
    """Make a directory with an image of your own, and a role and a file for it."""
    new.new(SETTINGS, Path(directory), base)


@command(iterable=["set_"])
def plan(
    _c: Context, *, image: str = IMAGE, set_: list[str] | None = None, json: bool = False
) -> None:
    """Show every resolved value and stage of a build; changes nothing."""
    show.plan(SETTINGS, image, tuple(set_ or ()), as_json=json)


@command(iterable=["image", "set_"])
def build_image(
    _c: Context,
    *,
    image: list[str] | None = None,
    set_: list[str] | None = None,
    keep: bool = False,
    twice: bool = False,
    fresh: bool = False,
    json: bool = False,
) -> int:
    """Build images into dist/<image>/<version>/."""
    if twice and json:
        raise BuildError("--json tells of a build, and --twice leaves none")
    name, *others = several.names(image)
    if others:
        chosen = {"--keep": keep, "--twice": twice, "--fresh": fresh, "--json": json}
        given = [word for each in set_ or () for word in ("--set", each)]
        given += [option for option, wanted in chosen.items() if wanted]
        return several.command(SETTINGS, "build-image", [name, *others], given)
    if twice:
        return reproduce.build_twice(SETTINGS, name, overrides=tuple(set_ or ()))
    building.build(SETTINGS, name, overrides=tuple(set_ or ()), keep=keep, fresh=fresh)
    show.built(builds.find(SETTINGS, name), as_json=json)
    return 0


@command(iterable=["image"])
def verify_image(
    _c: Context,
    *,
    image: list[str] | None = None,
    build: str = "",
    quick: bool = False,
    json: bool = False,
) -> int:
    """Boot finished images on throwaway overlays and check them."""
    name, *others = several.names(image)
    if others:
        chosen = {"--quick": quick, "--json": json}
        given = ["--build", build] if build else []
        given += [option for option, wanted in chosen.items() if wanted]
        return several.command(SETTINGS, "verify-image", [name, *others], given, vms=2)
    found = builds.find(SETTINGS, name, build)
    report = verify(SETTINGS, found.image, found.folder, quick=quick)
    if json:
        console.tell_program(content(report))
    return 0 if report.ok else 1


@command()
def inspect_image(_c: Context, *, image: str = IMAGE, build: str = "", json: bool = False) -> int:
    """Read the finished image without booting it, and say what keeps it from being released."""
    found = builds.find(SETTINGS, image, build)
    disk = inspect.read(found.disk, SETTINGS.cache)
    return inspect.show(found, disk, as_json=json)


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
def provision_machines(
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


@command(name="fleet-keys", iterable=["server", "vm", "client", "revoke"])
def make_fleet_keys(
    _c: Context,
    folder: str,
    *,
    server: list[str] | None = None,
    vm: list[str] | None = None,
    client: list[str] | None = None,
    revoke: list[str] | None = None,
    renew: bool = False,
) -> None:
    """Make the keys of a fleet's VMs, clients and NATS servers, and the servers' configuration."""
    fleet.keys_of(
        Path(folder),
        servers=server or (),
        vms=vm or (),
        clients=client or (),
        revoke=revoke or (),
        renew=renew,
    )


@command(name="fleet")
def try_fleet(_c: Context, sessions: int = 300, kills: int = 20, seed: str = "1") -> int:
    """Place sessions in a fleet of containers while VMs and servers are killed at random."""
    return campaign.campaign(SETTINGS, sessions, kills, seed)


@command(name="fleet-seed", iterable=["vm"])
def make_fleet_seeds(
    _c: Context,
    folder: str,
    *,
    vm: list[str] | None = None,
    zone: str = "",
    sessions: int = 0,
    key: str = "",
) -> None:
    """Write what cloud-init gives VMs so that they join a fleet, with their keys in it."""
    public = describe.public_key(Path(key)) if key else ""
    fleet.seeds_of(Path(folder), vm or (), zone=zone, sessions=sessions, key=public)


@command(name="rehearse")
def rehearse_roles(_c: Context, only: str = "") -> int:
    """Play the roles on a stand-in for Ubuntu and on Debian, and record which tasks ran."""
    return rehearsal.rehearse(SETTINGS, only)


@command(name="ubuntu-report")
def report_on_ubuntu(_c: Context, image: str = IMAGE) -> int:
    """Build, boot and verify an Ubuntu image, and write down all that the first time shows."""
    return ubuntu_report.report(SETTINGS, image)


@command(name="bench")
def run_bench(
    _c: Context, only: str | None = None, check: bool = False, image: str = "", build: str = ""
) -> int:
    """Measure sessions against the budgets into bench.json, in a container or a booted image."""
    if build and not image:
        raise BuildError("--build is the version of an image: name that with --image")
    found = builds.find(SETTINGS, image, build) if image else None
    return bench.bench(SETTINGS, only=only, check=check, image=found)


@command(name="scale")
def measure_scale(_c: Context, only: str = "") -> None:
    """Measure a fleet's NATS servers, play fleets of many VMs, and write docs/scale.md."""
    scale.scale(SETTINGS, only)


@command(name="compare", positional=["old", "new"])
def compare_builds(_c: Context, old: str, new: str, *, json: bool = False) -> None:
    """Show what differs between two directories of builds or releases of an image."""
    changes_md.show(SETTINGS, Path(old), Path(new), as_json=json)


@command(name="demo")
def run_demo(_c: Context) -> int:
    """Build, boot and verify Debian 12 for this host's architecture."""
    return demo.demo(SETTINGS)


@command(name="release")
def make_release(
    _c: Context,
    version: str,
    *,
    image: str = IMAGE,
    build: str = "",
    previous: str = "",
    sign_key: str = "",
    formats_: str = "",
) -> None:
    """Make dist/<image>/<version>/ of a build, if verify-image passed it."""
    folder = release.release(
        SETTINGS,
        image,
        version,
        build=build,
        previous=Path(previous) if previous else None,
        key=Path(sign_key) if sign_key else None,
        kinds=formats.parse(formats_) if formats_ else release.FORMATS,
    )
    console.say(str(folder))


@command(name="verify-release")
def check_release(_c: Context, folder: str, allowed_signers: str = "") -> None:
    """See that a release's directory is what one of the allowed signers signed; offline."""
    _tell_release(verify_release.verify(Path(folder), _signers(allowed_signers)))


@command(name="push")
def push_release(_c: Context, folder: str, to: str) -> None:
    """Put a release into a registry of images, as one artifact."""
    console.say(f"{to}: {registry.push(Path(folder), to)}")


@command(name="pull", positional=["source", "folder"])
def pull_release(_c: Context, source: str, folder: str, allowed_signers: str = "") -> None:
    """Fetch a release from a registry, if one of the allowed signers signed all of it."""
    _tell_release(registry.pull(source, Path(folder), _signers(allowed_signers)))


def _signers(path: str) -> Path:
    if not path:
        raise BuildError(
            "nothing says whose signature counts",
            hint="--allowed-signers FILE, see ALLOWED SIGNERS in ssh-keygen(1)",
        )
    return Path(path)


def _tell_release(found: verify_release.Release) -> None:
    told = f"{found.image} {found.version}: {found.files} files"
    console.say(f"{told}, as signed by {found.signer}")


@command(name="formats")
def write_formats(
    _c: Context, to: str, *, image: str = IMAGE, build: str = "", json: bool = False
) -> None:
    """Write a finished image in other formats, beside it."""
    found = builds.find(SETTINGS, image, build)
    show.formats(found, formats.convert(SETTINGS, found, formats.parse(to)), as_json=json)


@command()
def update_base(_c: Context, image: str = IMAGE) -> None:
    """Move the pin of a cloud image to the newest signed release."""
    old, new = base_cloudimage.update_pin(SETTINGS, image)
    console.say(f"{image}: {new} is pinned already" if old == new else f"{image}: {old} -> {new}")


@command()
def pins(_c: Context, *, json: bool = False) -> int:
    """List the pinned versions whose review date has passed (status 1 if there are any)."""
    return show.pins(SETTINGS, as_json=json)


@command()
def docs(_c: Context, site: bool = False) -> None:
    """Write the generated pages of docs/, or IMAGES.md of a project."""
    if SETTINGS.project:
        console.say(str(project_page.write(SETTINGS)))
        return
    for page in pages.write(SETTINGS):
        console.say(str(page))
    if site:
        console.say(str(docs_site.build(SETTINGS)))


@command(name="clients")
def try_clients(_c: Context, directory: str = "/srv/serai-clients") -> int:
    """Try many network clients, installed in DIRECTORY, in sessions; writes docs/clients.md."""
    return clients.clients(SETTINGS, Path(directory))


@command(name="secrets")
def try_secrets(_c: Context, directory: str = "/srv/serai-clients") -> int:
    """Use secrets in sessions, and search these for them; writes a table of docs/clients.md."""
    return clients.secrets(SETTINGS, Path(directory))


@command(name="programs", iterable=["only"])
def try_programs(_c: Context, only: list[str] | None = None) -> int:
    """Try many programs, installed in a container, in its sessions; writes docs/programs.md."""
    return programs.programs(SETTINGS, only or [])


@command(name="clean")
def clean_up(_c: Context, cache: bool = False) -> None:
    """Remove the builds in dist/, but no release and nothing that no build made."""
    clean.clean(SETTINGS, cache=cache)


@command(name="lint")
def run_linters(_c: Context) -> None:
    """Run every linter."""
    lint.lint(SETTINGS)


@command(name="attack")
def run_attacks(  # noqa: PLR0917 - Invoke makes an option of each
    _c: Context,
    in_: str = "here",
    image: str = "",
    target: str = "",
    seconds: float = 5.0,
    seed: str = "1",
    list: bool = False,
    build: str = "",
    sandbox: str = attack.WIDEST,
) -> int:
    """Try what somebody hostile would: the threats of docs/security.md, and fuzzing."""
    if list:
        attack.show(SETTINGS, in_)
        return 0
    if in_ == "here":
        return attack.attack(SETTINGS, target, seconds=seconds, seed=seed)
    return attack.send(SETTINGS, in_, target, image=image, build=build, sandbox=sandbox)


@command(name="dist")
def make_dist(_c: Context) -> None:
    """Build wheels, an sdist and a collection of the roles into dist/python/, and try them."""
    dist.dist(SETTINGS)


@command(name="pythons")
def test_pythons(_c: Context, release: str = "") -> None:
    """Test the VM's half on the Python and the packages of each release."""
    pythons.pythons(SETTINGS, release)


@command(name="test")
def run_tests(_c: Context, layer: str = "", lint: bool = False) -> int:
    """Run the tests."""
    return test.test(SETTINGS, layer, linted=lint)
