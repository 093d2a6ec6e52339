"""Tasks that try what is built: programs, clients, attacks, speed, and roles on a stand-in."""

from __future__ import annotations

from pathlib import Path

from invoke.context import Context

from serai.image.bench import bench
from serai.image.build import builds
from serai.image.commands import attack, clients, programs
from serai.image.commands.options import command
from serai.image.errors import BuildError
from serai.image.rehearsal import rehearsal, ubuntu_report
from serai.image.tasks.defaults import IMAGE, SETTINGS


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
    pool: bool = False,
) -> int:
    """Try what somebody hostile would: the threats of docs/security.md, and fuzzing."""
    if list:
        attack.show(SETTINGS, in_)
        return 0
    if in_ == "here":
        return attack.attack(SETTINGS, target, seconds=seconds, seed=seed)
    chosen = {"image": image, "build": build, "sandbox": sandbox}
    return attack.send(SETTINGS, in_, target, **chosen, pool=pool)


@command(name="bench")
def run_bench(
    _c: Context, only: str | None = None, check: bool = False, image: str = "", build: str = ""
) -> int:
    """Measure sessions against the budgets into bench.json, in a container or a booted image."""
    if build and not image:
        raise BuildError("--build is the version of an image: name that with --image")
    found = builds.find(SETTINGS, image, build) if image else None
    return bench.bench(SETTINGS, only=only, check=check, image=found)


@command(name="rehearse")
def rehearse_roles(_c: Context, only: str = "") -> int:
    """Play the roles on a stand-in for Ubuntu and on Debian, and record which tasks ran."""
    return rehearsal.rehearse(SETTINGS, only)


@command(name="ubuntu-report")
def report_on_ubuntu(_c: Context, image: str = IMAGE) -> int:
    """Build, boot and verify an Ubuntu image, and write down all that the first time shows."""
    return ubuntu_report.report(SETTINGS, image)
