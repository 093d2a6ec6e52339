"""The command line that a guest stands for, word by word: a changed option is a changed machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from serai.image.definition.arch import Arch
from serai.image.definition.definition import Image
from serai.image.vm import qemu
from serai.image.vm.firmware import Firmware
from serai.image.vm.qemu import Drive, Guest, Share

FIRMWARE = Firmware(Path("/fw/CODE.fd"), Path("/fw/VARS.fd"))
GUEST = Guest(
    name="debian-12-amd64",
    arch="amd64",
    accelerator="tcg",
    firmware=FIRMWARE,
    disks=(Drive(Path("/w/root.qcow2"), "root"), Drive(Path("/w/s.raw"), "sessions", "raw")),
    seed=Path("/w/seed.img"),
    serial_log=Path("/w/serial.log"),
    serial_socket=Path("/s/serial"),
    qmp_socket=Path("/s/qmp"),
)
IMAGE = Image.model_validate(
    {
        "name": "debian-12-arm64",
        "summary": "for tests",
        "distribution": "debian",
        "release": "12",
        "arch": "arm64",
        "base": {"kind": "bootstrap", "suite": "bookworm"},
    }
)


def test_an_emulated_amd64_guest_on_nvme() -> None:
    assert qemu.command(GUEST) == [
        "qemu-system-x86_64",
        *("-name", "debian-12-amd64"),
        "-nodefaults",
        *("-display", "none"),
        *("-machine", "q35"),
        *("-accel", "tcg,tb-size=256"),
        *("-cpu", qemu.cpu("amd64", "tcg")),
        *("-smp", "2"),
        *("-m", "2048"),
        *("-boot", "strict=off"),
        *("-drive", "if=pflash,unit=0,format=raw,readonly=on,file=/fw/CODE.fd"),
        *("-drive", "if=pflash,unit=1,format=raw,snapshot=on,file=/fw/VARS.fd"),
        "-drive",
        "if=none,id=root,format=qcow2,cache=unsafe,discard=unmap,file=/w/root.qcow2",
        *("-device", "nvme,drive=root,serial=root,bootindex=0"),
        "-drive",
        "if=none,id=sessions,format=raw,cache=unsafe,discard=unmap,file=/w/s.raw",
        *("-device", "nvme,drive=sessions,serial=sessions"),
        *("-drive", "if=none,id=seed,format=raw,readonly=on,file=/w/seed.img"),
        *("-device", "virtio-blk-pci,drive=seed,serial=seed"),
        *("-netdev", "user,id=user.0,hostfwd=tcp:127.0.0.1:0-:22"),
        *("-device", "virtio-net-pci,netdev=user.0,romfile="),
        *("-device", "virtio-rng-pci"),
        "-chardev",
        "socket,id=serial,path=/s/serial,server=on,wait=off,logfile=/w/serial.log,logappend=on",
        *("-serial", "chardev:serial"),
        *("-chardev", "socket,id=qmp,path=/s/qmp,server=on,wait=off"),
        *("-mon", "chardev=qmp,mode=control"),
    ]


def test_packer_runs_the_same_machine_in_its_own_words() -> None:
    made = qemu.packer_args(
        IMAGE, accelerator="tcg", firmware=FIRMWARE, serial_log=Path("/w/serial.log"), bus="virtio"
    )
    assert made == [
        ["-name", "debian-12-arm64"],
        ["-nodefaults"],
        ["-display", "none"],
        ["-machine", "virt"],
        ["-accel", "tcg,tb-size=256"],
        ["-cpu", "max,pauth=off,sve=off"],
        ["-smp", "2"],
        ["-m", "2048"],
        ["-boot", "strict=off"],
        ["-drive", "if=pflash,unit=0,format=raw,readonly=on,file=/fw/CODE.fd"],
        ["-drive", "if=pflash,unit=1,format=raw,snapshot=on,file=/fw/VARS.fd"],
        [
            "-drive",
            "if=none,id=root,format=qcow2,cache=unsafe,discard=unmap,"
            "file={{ .OutputDir }}/{{ .Name }}",
        ],
        ["-device", "virtio-blk-pci,drive=root,serial=root,bootindex=0"],
        [
            "-drive",
            "if=none,id=sessions,format=qcow2,cache=unsafe,discard=unmap,"
            "file={{ .OutputDir }}/{{ .Name }}-1",
        ],
        ["-device", "virtio-blk-pci,drive=sessions,serial=sessions"],
        ["-smbios", "type=1,serial=ds=nocloud-net;s=http://{{ .HTTPIP }}:{{ .HTTPPort }}/"],
        ["-netdev", "user,id=user.0,hostfwd=tcp:127.0.0.1:{{ .SSHHostPort }}-:22"],
        ["-device", "virtio-net-pci,netdev=user.0,romfile="],
        ["-device", "virtio-rng-pci"],
        ["-chardev", "file,id=serial,path=/w/serial.log,append=on"],
        ["-serial", "chardev:serial"],
    ]


@pytest.mark.parametrize(
    ("arch", "accelerator", "version", "expected"),
    [
        ("arm64", "tcg", 10, "max,pauth=off,sve=off"),
        ("amd64", "tcg", 7, "max,erms=off,la57=off,pku=off,smap=off,svm=off"),
        ("amd64", "tcg", 10, "max,la57=off,pku=off,smap=off,svm=off"),
        ("arm64", "kvm", 7, "host"),
        ("amd64", "hvf", 10, "host"),
    ],
)
def test_the_processor(
    arch: Arch,
    accelerator: qemu.Accelerator,
    version: int,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(qemu, "_major", lambda _emulator: version)
    assert qemu.cpu(arch, accelerator) == expected


def test_the_emulator_tells_its_version() -> None:
    assert 6 <= qemu._major("qemu-system-x86_64") < 100


def test_a_comma_in_a_path_ends_no_option() -> None:
    disks = (Drive(Path("/a,b/root.qcow2"), "root"),)
    words = qemu.command(replace(GUEST, disks=disks, seed=None))
    drive = next(word for word in words if "id=root" in word)
    assert drive.endswith(",file=/a,,b/root.qcow2")


def test_only_what_is_asked_for() -> None:
    bare = replace(
        GUEST,
        disks=GUEST.disks[:1],
        seed=None,
        serial_log=None,
        serial_socket=None,
        qmp_socket=None,
    )
    text = " ".join(qemu.command(bare))
    for absent in ("seed", "smbios", "sessions", "serial:", "qmp"):
        assert absent not in text


def test_folders_of_the_host_by_9p_add_to_the_machine_and_change_nothing_else() -> None:
    shares = (Share("work", Path("/a,b")), Share("in", Path("/in"), read_only=True))
    bare, shared = (qemu.command(replace(GUEST, shares=each)) for each in ((), shares))
    at = shared.index("-fsdev")
    assert shared[at : at + 8] == [
        *("-fsdev", "local,id=share0,path=/a,,b,security_model=none,multidevs=remap"),
        *("-device", "virtio-9p-pci,fsdev=share0,mount_tag=work"),
        *("-fsdev", "local,id=share1,path=/in,security_model=none,multidevs=remap,readonly=on"),
        *("-device", "virtio-9p-pci,fsdev=share1,mount_tag=in"),
    ]
    assert [*shared[:at], *shared[at + 8 :]] == bare


def test_a_folder_by_virtiofs_takes_memory_that_its_daemon_can_read() -> None:
    share = Share("work", Path("/a"), virtiofs=True, socket=Path("/s/share0"))
    words = qemu.command(replace(GUEST, shares=(share,)))
    assert words[words.index("-machine") + 1] == "q35,memory-backend=ram"
    at = words.index("-object")
    assert words[at : at + 6] == [
        *("-object", "memory-backend-memfd,id=ram,size=2048M,share=on"),
        *("-chardev", "socket,id=share0,path=/s/share0"),
        *("-device", "vhost-user-fs-pci,chardev=share0,tag=work"),
    ]
