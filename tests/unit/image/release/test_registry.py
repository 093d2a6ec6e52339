"""A release goes through a registry unchanged, or not at all, whatever the registry says."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import pytest

from serai.image import oci, sign
from serai.image.errors import BuildError
from serai.image.release import registry, release
from tests.conftest import ROOT
from tests.support import image_registry, releases
from tests.support.image_registry import Registry
from tests.support.releases import IMAGE, REVISION

TITLE = "org.opencontainers.image.title"
DISK = f"{IMAGE}.qcow2"
Content = dict[str, Any]


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a signed release in 1.0.0/, its key, and allowed_signers."""
    folder = tmp_path_factory.mktemp("signed")
    key, _ = releases.keys(folder)
    # Two files have the same content, and so the same digest: kernel and initrd.
    settings = releases.build(folder, {"boot/initrd.img-6.1": "the kernel"})
    made = release.release(settings, IMAGE, "1.0.0", key=key, kinds=("raw.zst", "oci"))
    made.rename(folder / "1.0.0")
    return folder


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    with image_registry.running(tmp_path / "home", monkeypatch) as running:
        yield running


@pytest.fixture
def pushed(origin: Path, remote: Registry) -> Registry:
    """A registry that has the release, by the tag 1.0.0."""
    registry.push(origin / "1.0.0", f"{remote.name}:1.0.0")
    return remote


@pytest.fixture
def refused(origin: Path, pushed: Registry, tmp_path: Path) -> Callable[[str], None]:
    """See that a pull says just this in one line, and leaves nothing."""

    def check(message: str, allowed: Path = origin / "allowed_signers") -> None:
        (tmp_path / "into").mkdir(exist_ok=True)
        with pytest.raises(BuildError) as caught:
            registry.pull(f"{pushed.name}:1.0.0", tmp_path / "into/1.0.0", allowed)
        assert message in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1
        assert list((tmp_path / "into").iterdir()) == []

    return check


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("kind", ["docker", "oci"])
def test_what_is_pulled_is_what_was_pushed(
    origin: Path, remote: Registry, tmp_path: Path, kind: str
) -> None:
    place = f"{remote.name if kind == 'docker' else f'oci:{tmp_path}/layout'}:1.0.0"
    registry.push(origin / "1.0.0", place)
    found = registry.pull(place, tmp_path / "new/1.0.0", origin / "allowed_signers")
    assert (found.image, found.version, found.signer) == (IMAGE, "1.0.0", "release@example.org")
    assert content(tmp_path / "new/1.0.0") == content(origin / "1.0.0")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["1.0.0"]


def test_the_artifact_is_one_that_others_read(
    origin: Path, pushed: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = json.loads(pushed.manifests["1.0.0"])
    assert manifest["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    assert manifest["artifactType"] == "application/vnd.serai.release.v1"
    assert manifest["config"]["mediaType"] == "application/vnd.oci.empty.v1+json"
    assert pushed.blobs[manifest["config"]["digest"]] == b"{}"
    assert manifest["annotations"] == {
        TITLE: IMAGE,
        "org.opencontainers.image.created": "2026-11-21T11:00:00+00:00",
        "org.opencontainers.image.revision": f"{REVISION}-dirty",
        "org.opencontainers.image.version": "1.0.0",
    }
    files = {layer["annotations"][TITLE]: layer for layer in manifest["layers"]}
    assert {name: pushed.blobs[each["digest"]] for name, each in files.items()} == content(
        origin / "1.0.0"
    )
    kinds = {name: layer["mediaType"] for name, layer in files.items()}
    assert kinds[DISK] == "application/vnd.serai.disk.qcow2"
    assert kinds[f"{IMAGE}.raw.zst"] == "application/vnd.serai.disk.raw.zst"
    assert kinds[f"{IMAGE}.initrd"] == "application/vnd.serai.boot.initrd"
    assert kinds["SHA256SUMS"] == "application/vnd.serai.sums"
    assert kinds["sbom.cdx.json"] == "application/vnd.cyclonedx+json"
    # It does not depend on who pushes, or when.
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")
    again = registry.push(origin / "1.0.0", f"{pushed.name}:again")
    assert again == image_registry.digest(pushed.manifests["1.0.0"])


@pytest.mark.parametrize("kind", ["docker", "oci"])
def test_a_tag_never_changes(origin: Path, remote: Registry, tmp_path: Path, kind: str) -> None:
    place = f"{remote.name if kind == 'docker' else f'oci:{tmp_path}/layout'}:1.0.0"
    digest = registry.push(origin / "1.0.0", place)
    assert registry.push(origin / "1.0.0", place) == digest
    other = shutil.copytree(origin / "1.0.0", tmp_path / "other")
    (other / "CHANGES.md").write_text("others\n")
    (other / "SHA256SUMS").write_text(sign.sums(sign.digests(other)))
    with pytest.raises(BuildError, match="is there, and is something else"):
        registry.push(other, place)


def test_the_tag_is_asked_once_and_the_files_by_digest(
    origin: Path, pushed: Registry, tmp_path: Path
) -> None:
    pushed.asked.clear()
    registry.pull(f"{pushed.name}:1.0.0", tmp_path / "1.0.0", origin / "allowed_signers")
    assert pushed.asked == ["1.0.0", image_registry.digest(pushed.manifests["1.0.0"])]


# --- what is pushed


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda each: (each / "SHA256SUMS.sig").unlink(), "is not signed; nobody could pull it"),
        (lambda each: (each / "provenance.json").unlink(), "is no release"),
        (lambda each: (each / DISK).write_text("x"), f"{DISK} is not what SHA256SUMS has"),
        (lambda each: (each / DISK).unlink(), f"{DISK} is not what SHA256SUMS has"),
        (lambda each: (each / "more").touch(), "more is not what SHA256SUMS has"),
        (lambda each: (each / "SHA256SUMS").write_text("x\n"), "SHA256SUMS has the line"),
    ],
)
def test_only_a_whole_and_signed_release_is_pushed(
    origin: Path,
    remote: Registry,
    tmp_path: Path,
    change: Callable[[Path], object],
    said: str,
) -> None:
    clone = shutil.copytree(origin / "1.0.0", tmp_path / "clone")
    change(clone)
    with pytest.raises(BuildError, match=said) as caught:
        registry.push(clone, f"{remote.name}:1.0.0")
    assert len(str(caught.value).splitlines()) == 1
    assert remote.manifests == {}


@pytest.mark.parametrize(
    "place",
    [
        *("", "1.0.0", "host/name:1", "docker://host/name", "docker://host:1", "dir:/x:1"),
        *("docker://host/name:1+2", "docker://host/name@sha256:1", "oci:/x", "oci::1", "oci:/x:"),
        *("docker://host/name:-x", "docker://host/na me:1", "oci:/a:b:1", "http://host/name:1"),
    ],
)
def test_a_place_that_is_none(tmp_path: Path, place: str) -> None:
    for act in (
        lambda: registry.push(tmp_path, place),
        lambda: registry.pull(place, tmp_path / "new", tmp_path),
    ):
        with pytest.raises(BuildError, match="is no place for a release; docker://HOST/NAME:TAG"):
            act()


# --- what a registry says


def titled(name: object) -> Callable[[Content], None]:
    def change(manifest: Content) -> None:
        manifest["layers"][0]["annotations"][TITLE] = name

    return change


def layer_of(manifest: Content, name: str) -> Content:
    (found,) = (each for each in manifest["layers"] if each["annotations"][TITLE] == name)
    return found  # type: ignore[no-any-return]


def changed(name: str, **values: object) -> Callable[[Content], None]:
    return lambda manifest: layer_of(manifest, name).update(values)


def twice(manifest: Content) -> None:
    manifest["layers"].append(manifest["layers"][0])


def more(manifest: Content) -> None:
    manifest["layers"].append({**manifest["layers"][0], "annotations": {TITLE: "more"}})


def fewer(manifest: Content) -> None:
    manifest["layers"].remove(layer_of(manifest, DISK))


def many(manifest: Content) -> None:
    manifest["layers"] = [
        {**manifest["layers"][0], "annotations": {TITLE: f"f{number}"}} for number in range(200)
    ]


def no_data(manifest: Content) -> None:
    del layer_of(manifest, "SHA256SUMS")["data"]


def other_data(manifest: Content) -> None:
    layer_of(manifest, "SHA256SUMS")["data"] = base64.b64encode(b"other").decode()


def other_sums(manifest: Content) -> None:
    """A list that is whole in itself, with another digest for the disk."""
    layer = layer_of(manifest, "SHA256SUMS")
    sums = sign.parse(base64.b64decode(layer["data"]).decode())
    text = sign.sums({**sums, DISK: "a" * 64}).encode()
    told = {"digest": image_registry.digest(text), "size": len(text)}
    layer.update(told, data=base64.b64encode(text).decode())
    layer_of(manifest, DISK)["digest"] = f"sha256:{'a' * 64}"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (titled("../x"), "'../x' is no name of a release's file"),
        (titled("/etc/passwd"), "'/etc/passwd' is no name"),
        (titled("a\n\x1b[2J"), r"'a\n\x1b[2J' is no name"),
        (titled(["x"]), "['x'] is no name"),
        (twice, "CHANGES.md is there twice"),
        (more, "more is there, but was not signed"),
        (fewer, f"{DISK} was signed, but is not there"),
        (many, "there are more than 100 files"),
        (changed(DISK, digest=f"sha256:{'a' * 64}"), f"{DISK} is not what was signed"),
        (changed(DISK, digest="sha256:../x"), "is no release"),
        (changed(DISK, size=1 << 50), f"{DISK} has another size than the "),
        (changed(DISK, urls=["http://169.254.169.254/"]), "is no release"),
        (changed("SHA256SUMS", size=1), "SHA256SUMS in the manifest is another one"),
        (no_data, "does not have SHA256SUMS"),
        (other_data, "SHA256SUMS in the manifest is another one than its layer"),
        (other_sums, "SHA256SUMS.sig is no good signature of SHA256SUMS"),
        (lambda manifest: manifest.update(config=manifest["layers"][0]), "is no release"),
        (lambda manifest: manifest.update(artifactType="x"), "is no release"),
        (lambda manifest: manifest.update(Layers=[]), "is no release"),
        (lambda manifest: manifest.update(layers=3), "is no release"),
        (lambda manifest: manifest.update(layers=[[]]), "is no release"),
        (lambda manifest: manifest.clear(), "is no release"),
    ],
)
def test_a_manifest_that_is_not_the_release_s(
    pushed: Registry,
    refused: Callable[[str], None],
    change: Callable[[Content], None],
    said: str,
) -> None:
    manifest = json.loads(pushed.manifests["1.0.0"])
    change(manifest)
    pushed.put("1.0.0", oci.encoded(manifest))
    fetched = len(pushed.asked)
    refused(said)
    assert len(pushed.asked) == fetched + 1, "no layer was fetched"


def test_a_manifest_of_which_programs_read_different_things(
    pushed: Registry, refused: Callable[[str], None]
) -> None:
    told = pushed.manifests["1.0.0"]
    for key in (b"layers", b"Layers"):
        pushed.put("1.0.0", b'{"' + key + b'":[{"urls":["http://169.254.169.254/"]}],' + told[1:])
        refused("is no release")


@pytest.mark.parametrize(
    "text", [b"", b"[" * 100_000, b"{", b"[]", b"3", b"\xff"], ids=lambda text: str(text[:2])
)
def test_a_manifest_that_makes_no_sense(
    pushed: Registry, refused: Callable[[str], None], text: bytes
) -> None:
    pushed.put("1.0.0", text)
    refused("1.0.0")


def test_a_manifest_without_end(pushed: Registry, refused: Callable[[str], None]) -> None:
    pushed.put("1.0.0", pushed.manifests["1.0.0"] + b" " * (8 << 20))
    refused("exceeded maximum allowed size of 4194304 bytes")


def disk_of(there: Registry) -> str:
    return str(layer_of(json.loads(there.manifests["1.0.0"]), DISK)["digest"])


def test_a_layer_of_other_bytes(pushed: Registry, refused: Callable[[str], None]) -> None:
    digest = disk_of(pushed)
    pushed.blobs[digest] = bytes(len(pushed.blobs[digest]))
    refused(f"{pushed.name}@{image_registry.digest(pushed.manifests['1.0.0'])}: writing blob: ")
    refused(f"Digest did not match, expected {digest}, got ")


def test_a_layer_that_is_not_there(pushed: Registry, refused: Callable[[str], None]) -> None:
    del pushed.blobs[disk_of(pushed)]
    refused(f"{pushed.name}@sha256:")


def test_a_layer_without_end_is_cut_at_what_was_signed(
    pushed: Registry, refused: Callable[[str], None]
) -> None:
    sent: list[int] = []

    def endless(stream: BufferedIOBase) -> None:
        for _ in range(400):  # MiB
            stream.write(bytes(1 << 20))
            sent.append(1)

    pushed.instead[disk_of(pushed)] = endless
    refused("file too large")
    assert len(sent) < 100


def test_what_skopeo_lets_through_is_looked_at_again(
    pushed: Registry, refused: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch = registry._skopeo

    def other(place: str, argv: list[str]) -> None:
        fetch(place, argv)
        folder = Path(argv[-1].removeprefix("dir:"))
        (folder / disk_of(pushed).removeprefix("sha256:")).write_bytes(b"other")

    monkeypatch.setattr(registry, "_skopeo", other)
    refused(f"{DISK} is not what was signed")


def test_a_key_that_is_not_trusted(
    pushed: Registry, refused: Callable[[str, Path], None], tmp_path: Path
) -> None:
    (tmp_path / "keys").mkdir()
    _, allowed = releases.keys(tmp_path / "keys")
    refused("its key is not listed there", allowed)


def test_a_tag_that_is_not_there(origin: Path, pushed: Registry, tmp_path: Path) -> None:
    for place in (f"{pushed.name}:1.1.0", f"oci:{tmp_path}/layout:1.0.0"):
        with pytest.raises(BuildError) as caught:
            registry.pull(place, tmp_path / "into/new", origin / "allowed_signers")
        assert str(caught.value) == f"there is no {place}"
    assert not (tmp_path / "into").exists()


def test_a_directory_that_is_there_stays_as_it_is(
    origin: Path, pushed: Registry, tmp_path: Path
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    asked = len(pushed.asked)
    for name in ("there", "link"):
        with pytest.raises(BuildError, match="is there already; name a directory that is not"):
            registry.pull(f"{pushed.name}:1.0.0", tmp_path / name, origin / "allowed_signers")
    assert len(pushed.asked) == asked
    assert list((tmp_path / "there").iterdir()) == []


def test_an_interrupted_pull_leaves_nothing(origin: Path, pushed: Registry, tmp_path: Path) -> None:
    seen: list[str] = []

    def interrupt(stream: BufferedIOBase) -> None:
        stream.write(bytes(1000))
        stream.flush()
        seen.extend(path.name for path in (tmp_path / "into").iterdir())
        os.kill(os.getpid(), signal.SIGINT)

    pushed.instead[disk_of(pushed)] = interrupt
    (tmp_path / "into").mkdir()
    with pytest.raises(KeyboardInterrupt):
        registry.pull(f"{pushed.name}:1.0.0", tmp_path / "into/1.0.0", origin / "allowed_signers")
    assert len(seen) == 1
    assert list((tmp_path / "into").iterdir()) == []


def test_the_commands(origin: Path, tmp_path: Path) -> None:
    def invoke(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        argv = [Path(sys.executable).with_name("invoke"), *arguments]
        return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)

    place = f"oci:{tmp_path}/layout:1.0.0"
    sent = invoke("push", origin / "1.0.0", "--to", place)
    assert (sent.returncode, sent.stderr) == (0, "")
    assert sent.stdout.splitlines()[-1].startswith(f"{place}: sha256:")
    pull = ("pull", place, tmp_path / "1.0.0")
    unknown = invoke(*pull)
    assert unknown.stderr.startswith("serai: nothing says whose signature counts; --allowed")
    got = invoke(*pull, "--allowed-signers", origin / "allowed_signers")
    assert (got.returncode, got.stderr) == (0, "")
    assert got.stdout.splitlines()[-1].endswith("16 files, as signed by release@example.org")
    assert content(tmp_path / "1.0.0") == content(origin / "1.0.0")
