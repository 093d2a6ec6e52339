"""Tasks about images: what there is, what a build would do, building and verifying it."""

from __future__ import annotations

from pathlib import Path

from invoke.context import Context

from serai.image import console
from serai.image.build import base_cloudimage, builds
from serai.image.build import build as building
from serai.image.commands import clean, demo, new, several, show
from serai.image.commands.options import command
from serai.image.errors import BuildError
from serai.image.release import formats, inspect, reproduce
from serai.image.tasks.defaults import IMAGE, SETTINGS
from serai.image.verify.verdict import content
from serai.image.verify.verify import verify


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


@command(name="clean")
def clean_up(_c: Context, cache: bool = False) -> None:
    """Remove the builds in dist/, but no release and nothing that no build made."""
    clean.clean(SETTINGS, cache=cache)


@command(name="demo")
def run_demo(_c: Context) -> int:
    """Build, boot and verify Debian 12 for this host's architecture."""
    return demo.demo(SETTINGS)
