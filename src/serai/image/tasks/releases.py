"""Tasks about releases: making, verifying, moving and comparing them."""

from __future__ import annotations

from pathlib import Path

from invoke.context import Context

from serai.image import console
from serai.image.commands.options import command
from serai.image.errors import BuildError
from serai.image.release import changes_md, formats, registry, release, verify_release
from serai.image.tasks.defaults import IMAGE, SETTINGS


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


@command(name="compare", positional=["old", "new"])
def compare_builds(_c: Context, old: str, new: str, *, json: bool = False) -> None:
    """Show what differs between two directories of builds or releases of an image."""
    changes_md.show(SETTINGS, Path(old), Path(new), as_json=json)
