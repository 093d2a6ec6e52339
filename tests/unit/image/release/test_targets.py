"""What clouds, hypervisors and Vagrant import: other programs open it, and what they refuse is."""

from __future__ import annotations

import dataclasses
import gzip
import json
import re
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree  # what is parsed is our own

import pytest

from serai.image.build import builds
from serai.image.definition import definition
from serai.image.errors import BuildError
from serai.image.release import box, fits, formats, gce, ova, vhd, vmdk
from serai.image.release.source import Source
from serai.image.settings import Settings
from tests.conftest import ROOT
from tests.support import known_options, ovf, releases

HERE = Settings.of({})
IMAGE = releases.IMAGE
STAMP = 1_790_000_000
SIZE = 5 << 20
BOOTSTRAP = ROOT / "src/serai/image/build/data/bootstrap/tree"
DRIVERS = (BOOTSTRAP / "usr/share/initramfs-tools/modules.d/serai").read_text()
SOURCES = (BOOTSTRAP / "etc/cloud/cloud.cfg.d/90_serai.cfg").read_text()

WRITERS = {
    "gce": gce.write,
    "vhd": vhd.write,
    "vmdk": vmdk.write,
    "ova": ova.write,
    "box": box.write,
}


def said(*argv: str | Path) -> str:
    return subprocess.run([str(a) for a in argv], check=True, capture_output=True, text=True).stdout


def disk(folder: Path, size: int = SIZE, name: str = IMAGE) -> Source:
    """A disk of ``size`` bytes with something at its beginning and its end."""
    folder.mkdir(parents=True, exist_ok=True)
    raw, packed = folder / "disk.raw", folder / "disk.qcow2"
    with raw.open("wb") as stream:
        stream.write(b"begin" * 30000)
        stream.truncate(size)
        stream.seek(size - 512)
        stream.write(b"end." * 128)
    said("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", raw, packed)
    return Source(definition.load(HERE, name), "1.2.0", STAMP, packed, raw)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return disk(tmp_path_factory.mktemp("targets"))


def written(source: Source, writer: Callable[[Source, Path], None], folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    target = folder / "target"
    writer(source, target)
    assert [path.name for path in folder.iterdir()] == ["target"]
    return target


def identical(source: Source, kind: str, path: Path) -> bool:
    return "identical" in said("qemu-img", "compare", "-f", "raw", "-F", kind, source.raw, path)


@pytest.mark.parametrize("name", WRITERS)
def test_the_same_disk_makes_the_same_bytes(source: Source, name: str, tmp_path: Path) -> None:
    full = tmp_path / "elsewhere.raw"  # without a hole
    full.write_bytes(source.raw.read_bytes())
    again = dataclasses.replace(source, raw=full)
    one = written(source, WRITERS[name], tmp_path / "one").read_bytes()
    assert one == written(again, WRITERS[name], tmp_path / "two").read_bytes()
    other = dataclasses.replace(source, version="1.2.1", stamp=STAMP + 1)
    assert one != written(other, WRITERS[name], tmp_path / "three").read_bytes()


# --- VHD


def test_qemu_img_finds_the_disk_in_a_vhd(source: Source, tmp_path: Path) -> None:
    made = written(source, vhd.write, tmp_path / "made")
    assert made.stat().st_size == SIZE + 512
    assert (
        json.loads(said("qemu-img", "info", "-f", "vpc", "--output=json", made))["virtual-size"]
        == SIZE
    )
    assert identical(source, "vpc", made)
    text = made.read_bytes()[-512:]
    # By the specification's offsets, apart from what writes it.
    assert (text[:8], int.from_bytes(text[48:56], "big")) == (b"conectix", SIZE)
    assert int.from_bytes(text[60:64], "big") == 2
    assert int.from_bytes(text[24:28], "big") == STAMP - 946684800
    whole = sum(text[:64]) + sum(text[68:])
    assert int.from_bytes(text[64:68], "big") == ~whole & 0xFFFFFFFF


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"cookie": b"conectiX"}, "it has no footer"),
        ({"kind": 3}, "its type is 3, and a fixed one's is 2"),
        ({"offset": 512}, "a fixed one's is 2"),
        ({"current": SIZE + 512}, f"its footer speaks of {SIZE + 512} bytes, and there are {SIZE}"),
    ],
)
def test_a_vhd_with_a_wrong_footer_is_refused(
    source: Source, tmp_path: Path, change: dict[str, bytes | int], why: str
) -> None:
    made = written(source, vhd.write, tmp_path / "made")
    vhd.require(made)
    text = made.read_bytes()
    wrong = dataclasses.replace(vhd.footer(text[-512:]), **change)  # type: ignore[arg-type]
    made.write_bytes(text[:-512] + wrong.packed())
    with pytest.raises(BuildError, match=f"target is no VHD that Azure takes: .*{why}"):
        vhd.require(made)


def test_a_vhd_with_a_flipped_bit_or_cut_short_is_refused(source: Source, tmp_path: Path) -> None:
    made = written(source, vhd.write, tmp_path / "made")
    text = bytearray(made.read_bytes())
    text[-512 + 30] ^= 1
    made.write_bytes(text)
    with pytest.raises(BuildError, match="its footer's checksum is wrong"):
        vhd.require(made)
    made.write_bytes(text[-512:])
    with pytest.raises(BuildError, match="it is too short"):
        vhd.require(made)


def test_azure_refuses_a_disk_of_half_a_mebibyte(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"its size is 5767168 bytes, and must be whole MiB"):
        vhd.write(disk(tmp_path, SIZE + (1 << 19)), tmp_path / "x.vhd")


# --- VMDK


def test_a_vmdk_is_a_stream_of_the_version_that_esxi_takes(source: Source, tmp_path: Path) -> None:
    made = written(source, vmdk.write, tmp_path / "made")
    assert identical(source, "vmdk", made)
    told = json.loads(said("qemu-img", "info", "-f", "vmdk", "--output=json", made))
    assert told["format-specific"]["data"]["create-type"] == "streamOptimized"
    assert made.read_bytes()[4] == 3
    assert b'ddb.adapterType = "lsilogic"' in made.read_bytes()


def test_a_short_content_id_of_qemu_imgs_is_replaced_too(source: Source, tmp_path: Path) -> None:
    made = written(source, vmdk.write, tmp_path / "made")
    settled = made.read_bytes()
    (before,) = re.findall(rb"^CID=[0-9a-f]{8}$", settled, re.MULTILINE)
    start = settled.index(before)
    rest = settled[start + len(before) : 21 * 512]  # to the end of the descriptor
    made.write_bytes(settled[:start] + b"CID=1f" + rest + bytes(6) + settled[21 * 512 :])
    vmdk.settle(made, before[4:])
    assert made.read_bytes() == settled
    assert identical(source, "vmdk", made)


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (b"KDMV\x03", b"KDMV\x01", "it says that it has version 1, not 3"),
        (b"KDMV", b"QFI\xfb", "it has no header"),
        (b"streamOptimized", b"monolithicSpars", "its descriptor is not that of a stream"),
    ],
)
def test_another_vmdk_is_refused(
    source: Source, tmp_path: Path, old: bytes, new: bytes, why: str
) -> None:
    made = written(source, vmdk.write, tmp_path / "made")
    made.write_bytes(made.read_bytes().replace(old, new, 1))
    with pytest.raises(BuildError, match=f"is no VMDK that ESXi takes: {why}"):
        vmdk.settle(made, b"00000000")


# --- Compute Engine


def test_tar_finds_one_sparse_disk_of_whole_gibibytes(source: Source, tmp_path: Path) -> None:
    made = written(source, gce.write, tmp_path / "made")
    assert said("tar", "-tzf", made) == "disk.raw\n"
    with gzip.open(made) as stream:
        header = stream.read(512)
    assert (header[257:265], header[156:157]) == (b"ustar  \0", b"S")
    assert header[329:345] == bytes(16)  # no device numbers
    said("tar", "-xzSf", made, "-C", tmp_path)
    unpacked = tmp_path / "disk.raw"
    assert unpacked.stat().st_size == 1 << 30
    with unpacked.open("rb") as stream:
        assert stream.read(SIZE) == source.raw.read_bytes()
    assert unpacked.stat().st_blocks * 512 < SIZE
    assert unpacked.stat().st_mtime == STAMP


def test_what_is_left_out_of_a_tar_is_zeros_and_not_holes(source: Source, tmp_path: Path) -> None:
    content, made = source.raw.read_bytes(), []
    for written_out in (1 << 18, 1 << 21):  # bytes, most of them zeros
        disk = tmp_path / str(written_out) / "disk.raw"
        disk.parent.mkdir()
        with disk.open("wb") as stream:
            stream.write(content[:written_out])
            stream.seek(SIZE - 512)
            stream.write(content[-512:])
        assert disk.read_bytes() == content
        assert disk.stat().st_blocks * 512 < SIZE
        gce.pack(disk, tmp_path / "disk.tar.gz", STAMP)
        made.append((tmp_path / "disk.tar.gz").read_bytes())
    assert made[0] == made[1]


# --- OVA


@pytest.fixture(scope="module")
def package(source: Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An OVA, unpacked by tar."""
    folder = tmp_path_factory.mktemp("ova")
    ova.write(source, folder / "x.ova")
    said("tar", "-xf", folder / "x.ova", "-C", folder)
    return folder


def test_an_ova_has_its_files_in_the_order_of_the_standard(package: Path) -> None:
    assert said("tar", "-tf", package / "x.ova").split() == [
        f"{IMAGE}.ovf",
        f"{IMAGE}.mf",
        f"{IMAGE}.vmdk",
    ]
    with tarfile.open(package / "x.ova") as tar:
        kept = {(entry.type, entry.uid, entry.uname, entry.mtime) for entry in tar.getmembers()}
    assert kept == {(tarfile.REGTYPE, 0, "", STAMP)}
    with (package / "x.ova").open("rb") as stream:
        assert stream.read(512)[257:265] == b"ustar\x0000"


def test_the_manifest_has_the_digest_of_each_file(package: Path) -> None:
    lines = (package / f"{IMAGE}.mf").read_text().splitlines()
    found = [re.fullmatch(r"SHA256\((\S+)\)= ([0-9a-f]{64})", line) for line in lines]
    sums = "".join(f"{each[2]}  {each[1]}\n" for each in found if each)
    argv = ["sha256sum", "--check", "--strict", "--quiet"]
    subprocess.run(argv, cwd=package, input=sums, text=True, check=True)
    assert [each[1] for each in found if each] == [f"{IMAGE}.ovf", f"{IMAGE}.vmdk"]


def test_qemu_img_finds_the_disk_in_an_ova(source: Source, package: Path) -> None:
    assert identical(source, "vmdk", package / f"{IMAGE}.vmdk")


@pytest.mark.parametrize("name", definition.names(HERE))
def test_importers_have_nothing_against_the_descriptor(source: Source, name: str) -> None:
    image = definition.load(HERE, name, ["disk.sessions=12G"])
    text = ova.descriptor(dataclasses.replace(source, definition=image), "x.vmdk", 1234)
    assert ovf.faults(text) == []
    root = ElementTree.fromstring(text)  # noqa: S314
    boot, blank = root.iterfind(f"{ovf.OVF}DiskSection/{ovf.OVF}Disk")
    assert (boot.get(f"{ovf.OVF}capacity"), boot.get(f"{ovf.OVF}fileRef")) == (
        str(SIZE),
        "file-root",
    )
    assert (blank.get(f"{ovf.OVF}capacity"), blank.get(f"{ovf.OVF}fileRef")) == (
        str(12 << 30),
        None,
    )
    file = root.find(f"{ovf.OVF}References/{ovf.OVF}File")
    assert file is not None
    assert (file.get(f"{ovf.OVF}href"), file.get(f"{ovf.OVF}size")) == ("x.vmdk", "1234")
    settings = {
        each.get(f"{ovf.VMW}key"): each.get(f"{ovf.VMW}value")
        for each in root.iter(f"{ovf.VMW}Config")
    }
    assert settings == {"firmware": "efi"}
    disks = [each for each in ovf.items(root) if each["ResourceType"] == "17"]
    assert [(each["AddressOnParent"], each["HostResource"]) for each in disks] == [
        ("0", "ovf:/disk/root"),
        ("1", "ovf:/disk/sessions"),
    ]


def test_a_summary_cannot_break_the_descriptor(source: Source) -> None:
    image = source.definition.model_copy(update={"summary": '<&"> ]]>'})
    text = ova.descriptor(dataclasses.replace(source, definition=image), "x.vmdk", 1)
    assert ovf.faults(text) == []


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ('ovf:fileRef="file-root"', 'ovf:fileRef="file-other"', "the disk root is in no file"),
        ('Units="byte"', 'Units="byte * 2^30"', "the capacity of root is not in bytes"),
        ("<rasd:Parent>3<", "<rasd:Parent>2<", "Root disk is on no controller"),
        ("ovf:/disk/sessions", "ovf:/disk/root", "the items use the disks"),
        ("<rasd:Connection>VM", "<rasd:Connection>No", "Network adapter is on no network"),
        (">3888</rasd:Virt", ">3891</rasd:Virt", "the memory is no multiple of 4 MiB"),
        ("vmware.nvme.controller", "nvme", "no importer knows the controller nvme"),
        ("<rasd:InstanceID>2<", "<rasd:InstanceID>1<", "two items have one InstanceID"),
        (">17</rasd:ResourceType>", ">1</rasd:ResourceType>", "no importer knows"),
        ("<Info>The network,", "<Note>x</Note><Info>The network,", "does not begin with Info"),
    ],
)
def test_a_fault_of_a_descriptor_is_found(package: Path, old: str, new: str, fault: str) -> None:
    text = (package / f"{IMAGE}.ovf").read_text()
    assert old in text
    assert [each for each in ovf.faults(text.replace(old, new, 1)) if fault in each]


def test_children_out_of_order_are_found(package: Path) -> None:
    text = (package / f"{IMAGE}.ovf").read_text()
    moved = re.sub(r"(<rasd:InstanceID>4.*)\n(.*<rasd:Parent>.*)", r"\2\n\1", text)
    assert moved != text
    assert any("out of order" in each for each in ovf.faults(moved))


def test_a_disk_that_a_ustar_cannot_hold_is_one_line(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ova, "_LARGEST", 1000)
    with pytest.raises(BuildError, match="an OVA's file less than 8 GiB"):
        ova.write(source, tmp_path / "x.ova")
    assert list(tmp_path.iterdir()) == []


# --- Vagrant


def test_tar_finds_the_disk_and_its_texts_in_a_box(source: Source, tmp_path: Path) -> None:
    made = written(source, box.write, tmp_path / "made")
    assert int.from_bytes(made.read_bytes()[4:8], "little") == STAMP  # not when it was packed
    assert said("tar", "-tzf", made).split() == ["metadata.json", "Vagrantfile", "box.img"]
    said("tar", "-xzf", made, "-C", tmp_path)
    assert (tmp_path / "box.img").read_bytes() == source.disk.read_bytes()
    assert json.loads((tmp_path / "metadata.json").read_text()) == {
        "architecture": "amd64",
        "format": "qcow2",
        "provider": "libvirt",
        "virtual_size": 1,
    }
    assert (tmp_path / "Vagrantfile").read_text() == box.vagrantfile(source)


@pytest.mark.parametrize("name", definition.names(HERE))
def test_a_box_has_options_that_vagrant_libvirt_knows(source: Source, name: str) -> None:
    known = known_options.read("vagrant-libvirt")
    image = definition.load(HERE, name, ["disk.sessions=20G"])
    text = box.vagrantfile(dataclasses.replace(source, definition=image))
    assert set(re.findall(r"^ +libvirt\.(\w+)", text, re.MULTILINE)) <= known["libvirt"]
    assert set(re.findall(r"^  config(?:\.vm)?\.([\w.]+)", text, re.MULTILINE)) <= known["config"]
    (storage,) = re.findall(r"libvirt\.storage :file, (.*)", text)
    assert set(re.findall(r"(\w+):", storage)) <= known["storage"]
    assert storage == 'size: "20G", serial: "sessions"'
    assert "libvirt.machine_virtual_size = 10\n" in text
    assert ("aarch64" in text) == (image.arch == "arm64")
    assert len(re.findall(r" do \|", text)) == len(re.findall(r"^ *end$", text, re.MULTILINE)) == 2


def test_a_box_lets_nobody_in(source: Source) -> None:
    text = box.vagrantfile(source)
    assert "config.ssh.insert_key = false" in text
    assert not re.search(r"ssh-rsa|ssh-ed25519|PRIVATE KEY|password", text)


# --- what a disk lacks for a host


def test_what_our_own_base_lacks_is_told() -> None:
    found = fits.lacks(formats.KINDS, DRIVERS, SOURCES)
    assert found == [
        "vhdx: it does not start on Hyper-V: no hv_storvsc in initramfs",
        "ami: nobody can log in on EC2: cloud-init does not ask it",
        "gce: nobody can log in on Compute Engine: cloud-init does not ask it",
        "azure: it does not start on Azure: no hv_storvsc in initramfs",
        "azure: nobody can log in on Azure: cloud-init does not ask it",
    ]


def test_nothing_is_told_of_a_disk_that_has_it_or_has_no_lists() -> None:
    drivers = f"{DRIVERS}hv_storvsc\n"
    sources = SOURCES.replace("NoCloud, None", "NoCloud, Ec2, GCE, Azure, None")
    assert fits.lacks(formats.KINDS, drivers, sources) == []
    assert fits.lacks(formats.KINDS, "", "") == []
    assert fits.lacks(("ova",), DRIVERS.replace("\nnvme\n", "\n# nvme\n"), "") == [
        "ova: it does not start on vSphere and VirtualBox: no nvme in initramfs"
    ]


def test_a_conversion_warns_of_what_the_disk_lacks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {"etc/cloud/cloud.cfg.d/90_serai.cfg": SOURCES}
    settings = releases.build(tmp_path, files)
    formats.convert(settings, builds.find(settings, IMAGE), ("ami",))
    printed = capsys.readouterr()
    assert f"{IMAGE} as ami: nobody can log in on EC2" in printed.out + printed.err
