"""Releases in a registry: each is one OCI artifact, which ORAS can pull as well.

It has a layer for each file, under the digest that SHA256SUMS has. SHA256SUMS, its signature and
the provenance are in the manifest, too (``data`` of a descriptor). So a pull knows every name,
digest and size that was signed before it fetches anything, and what a registry says besides counts
for nothing. skopeo(1) carries the bytes; docs/releases.md has the media types.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serai.image import cache, console, digest, layout, oci, sign
from serai.image.build import remote_places
from serai.image.errors import BuildError
from serai.image.release import formats, verify_release
from serai.image.run import run

ARTIFACT = "application/vnd.serai.release.v1"
_OURS = "application/vnd.serai"
_KINDS = {  # all others are application/octet-stream
    layout.SUMS: f"{_OURS}.sums",
    layout.SIGNATURE: f"{_OURS}.sums.signature",
    layout.PROVENANCE: "application/vnd.in-toto+json",
    layout.SBOM: "application/vnd.cyclonedx+json",
    layout.MANIFEST: "application/json",
    layout.VERIFIED: "application/json",
    layout.CHANGES: "text/markdown",
    layout.PACKAGES: "text/plain",
    layout.REPORT: "text/html",
    # By what follows the image's name.
    **{ending: f"{_OURS}.disk.{ending}" for ending in ("qcow2", *formats.ENDINGS)},
    **{ending: f"{_OURS}.boot.{ending}" for ending in ("vmlinuz", "initrd", "cmdline")},
}
_EMPTY = b"{}"
_CONFIG = oci.descriptor("application/vnd.oci.empty.v1+json", _EMPTY)
_ABOUT = "org.opencontainers.image"
_TITLE = f"{_ABOUT}.title"
# What says which files there are, and is in the manifest.
_FIRST = (layout.SUMS, layout.SIGNATURE, layout.PROVENANCE)
# Of a manifest and a layer. Not ``urls``, where skopeo would ask for the layer, whatever they are;
# nor ``Layers``, which is the same to it (encoding/json of Go).
_KEYS = {"annotations", "artifactType", "config", "data", "digest", "layers", "mediaType"}
_KEYS |= {"schemaVersion", "size"}
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_PLACE = re.compile(r"(docker://[^\s@]+/[^\s@:/]+|oci:[^\s@:][^@:]*):([A-Za-z0-9_][A-Za-z0-9_.-]*)")
_PATIENCE = 6 * 3600.0  # seconds for all files of a release
_SKOPEO = ("skopeo", "--insecure-policy", "copy")


def push(folder: Path, to: str) -> str:
    """Put the release in ``folder`` there, and return the digest by which it is found.

    Raises BuildError for what is no whole, signed release, and where ``to`` is something else.
    """
    repository, tag = _parsed(to)
    sums = _whole(folder)
    manifest = _manifest(folder, sums)
    with tempfile.TemporaryDirectory() as name, remote_places.writing(repository):
        found = remote_places.manifest(to)
        if found and found != manifest:
            raise BuildError(f"{to} is there, and is something else", hint="choose another tag")
        if not found:
            blobs = Path(name) / oci.BLOBS
            blobs.mkdir(parents=True)
            for value, each in {value: each for each, value in sums.items()}.items():
                (blobs / value).symlink_to((folder / each).absolute())
            oci.finish(Path(name), _EMPTY, manifest, tag=tag, artifactType=ARTIFACT)
            with console.step(f"push {len(sums)} files"):
                _skopeo(to, [*_SKOPEO, "--preserve-digests", f"oci:{name}:{tag}", to])
    return f"sha256:{hashlib.sha256(manifest).hexdigest()}"


def pull(source: str, target: Path, allowed_signers: Path) -> verify_release.Release:
    """Make the directory ``target`` of the release there, if a key that is allowed signed it.

    On any failure nothing is left. Raises BuildError naming what is wrong.
    """
    repository, _ = _parsed(source)
    target = target.absolute()
    _require_absent(target)
    manifest = remote_places.manifest(source)
    if not manifest:
        raise BuildError(f"there is no {source}")
    layers = _layers(manifest, source)
    if source.startswith("docker:"):  # what was just looked at, whatever the tag names by now
        source = f"{repository}@sha256:{hashlib.sha256(manifest).hexdigest()}"
    with cache.whole(target) as folder:
        for name in _FIRST:
            (folder / name).write_bytes(_data(layers, name, source))
        largest = _require_signed(layers, verify_release.promised(folder, allowed_signers))
        with console.step(f"pull {len(layers)} files"):
            _fetch(source, layers, folder, max(largest, len(manifest)))
        with console.step("see that all is as it was signed"):
            release = verify_release.verify(folder, allowed_signers)
        _require_absent(target)
    return release


def _parsed(place: str) -> tuple[str, str]:
    """Repository, or layout, and tag."""
    found = _PLACE.fullmatch(place)
    if found is None:
        hint = "docker://HOST/NAME:TAG or oci:/DIRECTORY:TAG, without '+' in the tag"
        raise BuildError(f"{place!a} is no place for a release", hint=hint)
    return found[1], found[2]


def _require_absent(target: Path) -> None:
    if target.exists() or target.is_symlink():
        raise BuildError(f"{target} is there already", hint="name a directory that is not")


# --- from a directory


def _whole(folder: Path) -> dict[str, str]:
    """The digests of all files by name, if they are those that SHA256SUMS lists."""
    if not (folder / layout.PROVENANCE).is_file():
        raise BuildError(f"{folder} is no release", hint="'invoke release' makes one")
    if not (folder / layout.SIGNATURE).is_file():
        raise BuildError(f"{folder} is not signed", hint="nobody could pull it (docs/releases.md)")
    listed, found = sign.listed(folder), sign.digests(folder)
    for name in sorted({*listed, *found}):
        if listed.get(name) != found.get(name):
            raise BuildError(f"{folder / name} is not what {layout.SUMS} has")
    return {**found, **{n: digest.of_file(folder / n) for n in (layout.SUMS, layout.SIGNATURE)}}


def _manifest(folder: Path, sums: Mapping[str, str]) -> bytes:
    """The artifact's manifest; the same bytes each time."""
    try:
        made = json.loads((folder / layout.MANIFEST).read_bytes())
        about = json.loads((folder / layout.SBOM).read_bytes())["metadata"]
        image, version = about["component"]["name"], about["component"]["version"]
        told = {"title": image, "version": version, "revision": made["revision"]}
        told["created"] = about["timestamp"]
    except (OSError, ValueError, LookupError, TypeError):
        raise BuildError(f"{folder} does not say of what it is a release") from None
    return oci.encoded(
        {
            "schemaVersion": 2,
            "mediaType": oci.MANIFEST,
            "artifactType": ARTIFACT,
            "config": _CONFIG,
            "layers": [_layer(folder / name, sums[name], image) for name in sorted(sums)],
            "annotations": {f"{_ABOUT}.{key}": str(value) for key, value in told.items()},
        }
    )


def _layer(path: Path, sha256: str, image: str) -> dict[str, Any]:
    kind = _KINDS.get(path.name.removeprefix(f"{image}."), "application/octet-stream")
    layer = {"mediaType": kind, "digest": f"sha256:{sha256}", "size": path.stat().st_size}
    layer["annotations"] = {_TITLE: path.name}
    if path.name in _FIRST:
        layer["data"] = base64.b64encode(path.read_bytes()).decode()
    return layer


# --- from a registry, whose every word is a stranger's


def _layers(manifest: bytes, source: str) -> dict[str, dict[str, Any]]:
    """The layers by the names of their files, each a plain one that occurs once."""
    try:
        content = json.loads(manifest)
        kinds = content["mediaType"], content["artifactType"], content["config"]
        layers = [(layer["annotations"][_TITLE], layer) for layer in content["layers"]]
        good = all(each.keys() <= _KEYS for each in (content, *(layer for _, layer in layers)))
        good = good and all(_DIGEST.fullmatch(layer["digest"]) for _, layer in layers)
        # Nor a key that is there twice: programs differ in which of them counts.
        good = good and oci.encoded(content) == manifest
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        good = False
    if not good or kinds != (oci.MANIFEST, ARTIFACT, _CONFIG):
        raise BuildError(f"{source} is no release", hint="'invoke push' puts one there")
    if len(layers) > verify_release.MOST_FILES:
        raise _refused(f"there are more than {verify_release.MOST_FILES} files")
    found: dict[str, dict[str, Any]] = {}
    for name, layer in layers:
        if not isinstance(name, str) or not layout.NAME.fullmatch(name):
            raise _refused(f"{ascii(name)[:200]} is no name of a release's file")
        if name in found:
            raise _refused(f"{name} is there twice")
        found[name] = layer
    return found


def _data(layers: Mapping[str, Mapping[str, Any]], name: str, source: str) -> bytes:
    """The file ``name``, of the manifest itself."""
    try:
        layer = layers[name]
        content = base64.b64decode(layer["data"], validate=True)
    except (LookupError, TypeError, ValueError):
        raise _refused(f"the manifest of {source} does not have {name}") from None
    if {**layer, **oci.descriptor(layer["mediaType"], content)} != layer:
        raise _refused(f"{name} in the manifest is another one than its layer")
    return content


def _require_signed(
    layers: Mapping[str, Mapping[str, Any]], promised: Mapping[str, tuple[str, int]]
) -> int:
    """See that the layers are just what was signed; the size of the largest."""
    for name in sorted({*layers, *promised} - {*_FIRST}):
        if name not in promised:
            raise _refused(f"{name} is there, but was not signed")
        if name not in layers:
            raise _refused(f"{name} was signed, but is not there")
        if layers[name]["digest"] != f"sha256:{promised[name][0]}":
            raise _refused(f"{name} is not what was signed")
        if layers[name].get("size") != (size := promised[name][1]):
            raise _refused(f"{name} has another size than the {size} bytes that were signed")
    return max((size for _, size in promised.values()), default=0)


def _fetch(source: str, layers: Mapping[str, Any], folder: Path, most: int) -> None:
    """Have all layers in ``folder`` by their names, none with more than ``most`` bytes."""
    rest = {name: layer["digest"] for name, layer in layers.items()}
    with tempfile.TemporaryDirectory(dir=folder) as work:
        limit = ["prlimit", f"--fsize={most}", "--"]
        _skopeo(source, [*limit, *_SKOPEO, source, f"dir:{work}/copy"])
        while rest:
            name, value = rest.popitem()
            blob = Path(work) / "copy" / value.removeprefix("sha256:")
            if value in rest.values():  # files may have the same content
                shutil.copyfile(blob, folder / name)
            else:
                blob.replace(folder / name)


def _skopeo(place: str, argv: list[str]) -> None:
    done = run(argv, check=False, timeout=_PATIENCE)
    if done.returncode != 0:
        raise BuildError(f"{place}: {remote_places.said(done.stderr)}")


def _refused(why: str) -> BuildError:
    return BuildError(why, hint="do not use this release")
