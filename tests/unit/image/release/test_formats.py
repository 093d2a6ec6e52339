"""The formats of an image: other programs find the same disk in each."""

from __future__ import annotations

import json
import subprocess
import tarfile
from pathlib import Path

import pytest

from serai.image import oci
from serai.image.build import builds
from serai.image.errors import BuildError
from serai.image.release import formats
from serai.image.settings import Settings
from tests.support import releases
from tests.support.releases import IMAGE, VERSION

ENDS = (
    *("raw.zst", "vhdx", "vmdk", "oci.tar"),
    *("ami.raw", "gce.tar.gz", "azure.vhd", "ova", "libvirt.box"),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a build with all formats beside it."""
    settings = releases.build(tmp_path_factory.mktemp("formats"))
    written = formats.convert(settings, builds.find(settings, IMAGE), formats.KINDS)
    assert [path.name for path in written] == [f"{IMAGE}.{end}" for end in ENDS]
    assert not [path for path in (settings.cache / "release").iterdir() if path.is_dir()]
    return written[0].parent


def test_sha256sums_has_them_beside_what_it_had(made: Path) -> None:
    names = {line.split()[1] for line in (made / "SHA256SUMS").read_text().splitlines()}
    assert {f"{IMAGE}.{end}" for end in ("qcow2", *ENDS)} <= names
    argv = ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"]
    assert subprocess.run(argv, cwd=made, check=False).returncode == 0


def test_a_release_gets_no_more_files(tmp_path: Path) -> None:
    settings = releases.build(tmp_path)
    (settings.dist / IMAGE / VERSION / "provenance.json").touch()
    with pytest.raises(BuildError, match="is a release, which never changes; name a build"):
        formats.convert(settings, builds.find(settings, IMAGE), ("vhdx",))


def said(*argv: str | Path) -> str:
    return subprocess.run([str(a) for a in argv], check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize(
    ("end", "kind"),
    [("vhdx", "vhdx"), ("vmdk", "vmdk"), ("ami.raw", "raw"), ("azure.vhd", "vpc")],
)
def test_qemu_img_finds_the_same_disk(made: Path, end: str, kind: str) -> None:
    disk = made / f"{IMAGE}.{end}"
    assert "identical" in said(
        "qemu-img", "compare", "-f", "qcow2", "-F", kind, made / f"{IMAGE}.qcow2", disk
    )


def test_zstd_unpacks_the_same_disk(made: Path, tmp_path: Path) -> None:
    raw = tmp_path / "disk.raw"
    said("zstd", "-dq", made / f"{IMAGE}.raw.zst", "-o", raw)
    assert raw.stat().st_size == 48 << 20
    assert "identical" in said(
        "qemu-img", "compare", "-f", "qcow2", "-F", "raw", made / f"{IMAGE}.qcow2", raw
    )


def test_skopeo_takes_the_oci_archive_for_a_container_disk(made: Path, tmp_path: Path) -> None:
    archive = f"oci-archive:{made / IMAGE}.oci.tar"
    told = json.loads(said("skopeo", "inspect", f"{archive}:{VERSION}"))
    assert (told["Architecture"], told["Os"], len(told["Layers"])) == ("amd64", "linux", 1)
    target = tmp_path / "copy"
    said("skopeo", "--insecure-policy", "copy", archive, f"dir:{target}")
    layer = target / told["Layers"][0].removeprefix("sha256:")
    with tarfile.open(layer) as tar:
        folder, disk = tar.getmembers()
        stream = tar.extractfile(disk)
        assert stream is not None
        assert stream.read() == (made / f"{IMAGE}.qcow2").read_bytes()
    assert (folder.name, disk.name) == ("disk", f"disk/{IMAGE}.qcow2")
    assert {(each.uid, each.gid) for each in (folder, disk)} == {(107, 107)}


def test_an_oci_archive_depends_on_its_arguments_alone(tmp_path: Path) -> None:
    disk = tmp_path / "x.qcow2"
    disk.write_bytes(b"disk" * 1000)
    targets = [tmp_path / name for name in ("a", "b", "c")]
    for target, stamp in zip(targets, (1, 1, 2), strict=True):
        oci.write({"disk/x": disk}, target, arch="arm64", tag="1.0", stamp=stamp)
    one, same, other = (target.read_bytes() for target in targets)
    assert one == same != other


def test_formats_are_asked_for_by_name() -> None:
    assert formats.parse("vhdx, oci,vhdx") == ("vhdx", "oci")
    for text, message in (("vdi", "there is no format 'vdi'"), (" ,", "no format is asked for")):
        with pytest.raises(BuildError, match=message):
            formats.parse(text)


def test_what_boots_first_is_read_from_grub_s_configuration() -> None:
    assert formats.first_entry(releases.GRUB) == (
        "/boot/vmlinuz-6.1",
        "/boot/initrd.img-6.1",
        "root=UUID=1 ro console=ttyS0",
    )
    with pytest.raises(BuildError, match="names no kernel"):
        formats.first_entry("linux /boot/vmlinuz\n")


def test_the_time_is_the_build_s_or_the_one_asked_for(tmp_path: Path) -> None:
    manifest = {"finished": "1970-01-02T00:00:01Z"}
    assert formats.time_of(manifest, tmp_path, {}) == 86401
    assert formats.time_of(manifest, tmp_path, {"SOURCE_DATE_EPOCH": "12"}) == 12
    with pytest.raises(BuildError, match="no number of seconds"):
        formats.time_of(manifest, tmp_path, {"SOURCE_DATE_EPOCH": "today"})


def test_scratch_of_a_killed_process_goes(tmp_path: Path) -> None:
    settings = Settings.of({"SERAI_CACHE": str(tmp_path)})
    (tmp_path / "release" / IMAGE / "old").mkdir(parents=True)
    with formats.scratch(settings, IMAGE) as work:
        assert not list(work.iterdir())
        with (
            pytest.raises(BuildError, match="another build is using"),
            formats.scratch(settings, IMAGE),
        ):
            pass
    assert not work.exists()
