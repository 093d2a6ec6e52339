"""A release of a small build with a real disk: what is in it, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from serai.image import digest
from serai.image.errors import BuildError
from serai.image.release import provenance, release, sbom, tree, verify_release
from serai.image.run import run
from serai.image.settings import Settings
from tests.support import releases
from tests.support.releases import IMAGE, NAMES, VERSION


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A build, and a signed release 1.0.0 of it, which no test changes; the keys are beside."""
    folder = tmp_path_factory.mktemp("release")
    settings = releases.build(folder)
    key, _ = releases.keys(folder)
    release.release(settings, IMAGE, "1.0.0", key=key)
    return settings


@pytest.fixture(scope="module")
def made(built: Settings) -> Path:
    return built.dist / IMAGE / "1.0.0"


@pytest.fixture
def own(built: Settings, tmp_path: Path) -> Settings:
    """The same build in a folder of the test's own."""
    shutil.copytree(built.dist / IMAGE / VERSION, tmp_path / "dist" / IMAGE / VERSION)
    (tmp_path / "dist" / IMAGE / "latest").symlink_to(VERSION)
    return Settings.of({"SERAI_DIST": str(tmp_path / "dist"), "SERAI_CACHE": str(tmp_path / "c")})


def entries(settings: Settings) -> set[str]:
    return {path.name for path in (settings.dist / IMAGE).iterdir()} - {".release.lock"}


def test_it_is_good_for_who_has_the_public_key_alone(made: Path, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    shutil.copytree(made, clone)
    found = verify_release.verify(clone, made.parents[2] / "allowed_signers")
    assert (found.image, found.version, found.signer) == (IMAGE, "1.0.0", "release@example.org")


def test_it_has_what_a_release_has(made: Path) -> None:
    assert {path.name for path in made.iterdir()} == set(NAMES)
    assert (made / f"{IMAGE}.vmlinuz").read_text() == "the kernel"
    assert (made / f"{IMAGE}.initrd").read_text() == "the initrd"
    assert (made / f"{IMAGE}.cmdline").read_text() == "root=UUID=1 ro console=ttyS0\n"
    assert {path.stat().st_mode & 0o777 for path in made.iterdir()} == {0o644}
    paths = {entry.path for entry in tree.load(made / "files.tsv.zst")}
    assert set(releases.FILES) <= paths


def test_it_has_the_formats_that_are_asked_for(own: Settings) -> None:
    folder = release.release(own, IMAGE, "1.0.0", kinds=("ova", "gce"))
    usual = {f"{IMAGE}.{end}" for end in ("raw.zst", "vhdx", "oci.tar")} | {"SHA256SUMS.sig"}
    wanted = (set(NAMES) - usual) | {f"{IMAGE}.ova", f"{IMAGE}.gce.tar.gz"}
    assert {path.name for path in folder.iterdir()} == wanted
    listed = {line.split()[1] for line in (folder / "SHA256SUMS").read_text().splitlines()}
    assert listed == wanted - {"SHA256SUMS"}
    subjects = json.loads((folder / "provenance.json").read_text())["subject"]
    assert f"{IMAGE}.ova" in {each["name"] for each in subjects}


def test_sha256sum_and_ssh_keygen_find_it_good(made: Path) -> None:
    argv = ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"]
    assert subprocess.run(argv, cwd=made, check=False).returncode == 0
    allowed = made.parents[2] / "allowed_signers"
    options: list[str | Path] = ["-n", "serai-release", "-s", made / "SHA256SUMS.sig"]
    done = run(
        ["ssh-keygen", "-Y", "verify", "-f", allowed, "-I", "release@example.org", *options],
        stdin=(made / "SHA256SUMS").read_text(),
    )
    assert done.stdout.startswith("Good")


def test_the_same_build_makes_the_same_release(built: Settings, made: Path) -> None:
    again = release.release(built, IMAGE, "1.0.1")
    shutil.move(again, built.cache / "again")
    same = ["oci.tar", "raw.zst", "vmlinuz", "initrd", "cmdline"]
    names = ["manifest.json", "packages.txt", "files.tsv.zst", *(f"{IMAGE}.{end}" for end in same)]
    other = [
        name
        for name in names
        if (made / name).read_bytes() != (built.cache / "again" / name).read_bytes()
    ]
    assert other == [f"{IMAGE}.oci.tar"]  # the tag in it is the version


def test_the_bill_of_materials_names_what_is_on_the_disk(made: Path) -> None:
    bill = json.loads((made / "sbom.cdx.json").read_text())
    found = {component["purl"]: component for component in bill["components"]}
    node = "sha256:df450af89261115ef9f9e3830c3eeb2cc9213b63c720b1af623cb5dcbe2e02de"
    assert set(found) == {
        "pkg:deb/debian/bash@5.2.15-2%2Bb13?arch=amd64&distro=debian-12",
        "pkg:deb/debian/libnode@1:2.0~rc1-1?arch=amd64&distro=debian-12",
        f"pkg:generic/node@22.23.3?checksum={node}",
        "pkg:npm/%40a/b@1.0.0",
        "pkg:npm/npm@10.9.9",
        "pkg:pypi/h11@0.14.0",
        "pkg:pypi/serai@0.1.0",
        "pkg:pypi/some-thing@2",
    }
    for package in ("bash@5.2.15-2%2Bb13", "libnode@1:2.0~rc1-1"):  # whose folder is a link
        licences = found[f"pkg:deb/debian/{package}?arch=amd64&distro=debian-12"]["licenses"]
        assert licences == [{"license": {"id": "MIT"}}, {"license": {"name": "GPL-3+"}}]
    assert found["pkg:npm/npm@10.9.9"]["licenses"] == [{"license": {"id": "Artistic-2.0"}}]
    assert found["pkg:pypi/serai@0.1.0"]["hashes"][0]["alg"] == "SHA-256"
    assert bill["specVersion"] == "1.6"
    assert bill["metadata"]["timestamp"] == "2026-11-21T11:00:00+00:00"
    assert bill["metadata"]["component"]["hashes"] == [
        {"alg": "SHA-256", "content": digest.of_file(made / f"{IMAGE}.qcow2")}
    ]


def test_a_bill_of_materials_depends_on_its_arguments_alone() -> None:
    subject = sbom.Subject(IMAGE, "1.0.0", "e" * 64, "debian", "12", "amd64")
    parts = list(sbom.debian(releases.STATUS, {}, "debian", "12"))
    assert sbom.text(subject, parts, 1) == sbom.text(subject, parts[::-1], 1)
    assert sbom.text(subject, parts, 1) != sbom.text(subject, parts, 2)


def test_the_provenance_says_where_it_comes_from(made: Path) -> None:
    statement = json.loads((made / "provenance.json").read_text())
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    described = {each["name"]: each for each in statement["subject"]}
    disk = made / f"{IMAGE}.qcow2"
    assert described[disk.name] == {
        "name": disk.name,
        "digest": {"sha256": digest.of_file(disk)},
        "annotations": {"size": disk.stat().st_size},
    }
    definition = statement["predicate"]["buildDefinition"]
    assert definition["externalParameters"] == {
        "image": IMAGE,
        "version": "1.0.0",
        "variables": {"toolchain_profile": "standard"},
    }
    assert definition["resolvedDependencies"] == [
        {
            "name": "source",
            "digest": {"gitCommit": releases.REVISION},
            "annotations": {"dirty": True},
        },
        {"name": "base", "digest": {"sha256": "c" * 64}},
        {"name": "base: sources", "digest": {"serai1": "d" * 64}},
    ]
    assert statement["predicate"]["runDetails"]["metadata"] == {
        "invocationId": f"{IMAGE}/{VERSION}",
        "startedOn": "2026-11-21T10:00:00Z",
        "finishedOn": "2026-11-21T11:00:00Z",
    }


def test_the_provenance_says_who_built_a_stage_if_another_host_did(made: Path) -> None:
    manifest = json.loads((made / "manifest.json").read_text())
    manifest["stages"][0] |= {"base_made": "2026-11-21T09:00:00Z", "signer": "ci@example.org"}
    statement = json.loads(provenance.text(manifest, "1.0.0", {}, made))
    stage = statement["predicate"]["buildDefinition"]["internalParameters"]["stages"]["base"]
    assert (stage["base_made"], stage["signer"]) == ("2026-11-21T09:00:00Z", "ci@example.org")


def test_it_is_compared_with_the_one_before(own: Settings, made: Path) -> None:
    folder = release.release(own, IMAGE, "1.1.0", previous=made)
    changes = (folder / "CHANGES.md").read_text()
    assert changes.startswith(f"# {IMAGE} 1.1.0\n\nCompared with 1.0.0.\n")
    assert "The same packages." in changes
    assert "1.0.0" in (folder / "report.html").read_text()


def test_a_release_never_changes(built: Settings, made: Path) -> None:
    before = made.stat().st_mtime_ns
    with pytest.raises(BuildError, match=r"1\.0\.0 is there already"):
        release.release(built, IMAGE, "1.0.0")
    assert made.stat().st_mtime_ns == before


@pytest.mark.parametrize("version", ["latest", "", "../1", "1 0", "v1.0", "1" * 80])
def test_a_version_is_a_plain_one(built: Settings, version: str) -> None:
    with pytest.raises(BuildError, match="is no version of a release"):
        release.release(built, IMAGE, version)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"sha256": "f" * 64}, "speaks of another disk"),
        ({"sha256": ""}, "speaks of another disk"),
        ({"version": "0.1.0-other"}, "speaks of another disk"),
        ({"image": "debian-12-arm64"}, "speaks of another disk"),
        ({"checks": []}, "it checked nothing"),
        ({"checks": [{"name": "it boots", "ok": False}]}, "failed 1 checks: it boots"),
    ],
)
def test_only_what_was_verified_is_released(
    own: Settings, changed: dict[str, Any], message: str
) -> None:
    releases.verdict(own.dist / IMAGE / VERSION, **changed)
    with pytest.raises(BuildError, match=message):
        release.release(own, IMAGE, "1.0.0")
    assert entries(own) == {VERSION, "latest"}


def test_a_build_that_was_not_verified_is_refused(own: Settings) -> None:
    (own.dist / IMAGE / VERSION / "verify.json").unlink()
    with pytest.raises(BuildError, match=r"was not verified; run 'invoke verify-image"):
        release.release(own, IMAGE, "1.0.0")


@pytest.mark.parametrize("name", [f"{IMAGE}.qcow2", "packages.txt"])
def test_a_build_that_has_changed_is_refused(own: Settings, name: str) -> None:
    path = own.dist / IMAGE / VERSION / name
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(BuildError, match=rf"{re.escape(name)} is not what was built"):
        release.release(own, IMAGE, "1.0.0")


def test_a_disk_with_an_identity_is_refused(tmp_path: Path) -> None:
    settings = releases.build(tmp_path, {"etc/ssh/ssh_host_ed25519_key": "secret\n"})
    with pytest.raises(BuildError, match=r"must not be released, .*/etc/ssh/ssh_host_ed25519_key"):
        release.release(settings, IMAGE, "1.0.0")
    assert entries(settings) == {VERSION, "latest"}


def test_it_is_there_whole_or_not_at_all(own: Settings, tmp_path: Path) -> None:
    bad = tmp_path / "no key"
    bad.write_text("this is no key\n")
    leftover = own.dist / IMAGE / ".1.0.0.killed"
    leftover.mkdir()
    with pytest.raises(BuildError, match="cannot be signed with"):
        release.release(own, IMAGE, "1.0.0", key=bad)
    assert entries(own) == {VERSION, "latest"}
    assert not [path for path in (own.cache / "release").iterdir() if path.is_dir()]


def test_what_it_needs_is_asked_for_first(own: Settings, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="there is no key"):
        release.release(own, IMAGE, "1.0.0", key=tmp_path / "none")
    with pytest.raises(BuildError, match="is no release"):
        release.release(own, IMAGE, "1.0.0", previous=tmp_path)
