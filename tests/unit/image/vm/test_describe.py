"""An image's machine in the words of other hosts."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree  # what is parsed is our own

import pytest
import yaml

from serai.image.definition import definition
from serai.image.errors import BuildError
from serai.image.settings import Settings
from serai.image.vm import describe
from serai.image.vm.qemu import Share
from tests.support import known_options

LIMA, VFKIT, QM, KUBEVIRT = (
    known_options.read(name) for name in ("lima", "vfkit", "qm", "kubevirt")
)
HERE = Settings.of({})
IMAGES = definition.names(HERE)


def unknown(data: dict[str, Any]) -> list[str]:
    """The keys of a template of Lima's that Lima does not know; it refuses them in files."""
    found = sorted(data.keys() - LIMA["template"])
    for key, value in data.items():
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, dict):
                found += [f"{key}.{inner}" for inner in sorted(each.keys() - LIMA[key])]
    return found


@pytest.mark.parametrize("name", IMAGES)
def test_libvirts_domain_has_what_the_image_relies_on(name: str) -> None:
    image = definition.load(HERE, name, ["disk.sessions=20G"])
    text = describe.describe(image, "libvirt", folder="/disks & more")
    domain = ElementTree.fromstring(text)  # noqa: S314
    kind = domain.find("os/type")
    assert kind is not None
    assert kind.get("arch") == {"arm64": "aarch64", "amd64": "x86_64"}[image.arch]
    assert kind.get("machine") == {"arm64": "virt", "amd64": "q35"}[image.arch]
    assert (domain.findtext("vcpu"), domain.findtext("memory")) == ("4", "3891")
    assert [disk.text for disk in domain.iterfind("devices/disk/serial")] == ["root", "sessions"]
    sources = [disk.get("file") for disk in domain.iterfind("devices/disk/source")]
    assert sources == [f"/disks & more/{name}.qcow2", f"/disks & more/{name}-sessions.qcow2"]
    channel = domain.find("devices/channel/target")
    assert channel is not None
    assert channel.get("name") == "org.qemu.guest_agent.0"
    assert "20480M" in text
    assert domain.find("devices/vsock") is None


def test_a_host_gives_a_vsock_to_the_images_that_listen_on_one() -> None:
    on, off = (
        definition.load(HERE, "debian-12-amd64", [f"variables.runtime_vsock={each}"])
        for each in ("true", "false")
    )
    text = describe.describe(on, "libvirt")
    cid = ElementTree.fromstring(text).find("devices/vsock/cid")  # noqa: S314
    assert cid is not None
    assert cid.get("auto") == "yes"
    assert f"export SERAI_VM=vsock://CID:{describe.VSOCK_PORT} " in text
    assert f"port={describe.VSOCK_PORT}," in describe.describe(on, "vfkit")
    assert "vsock" in describe.describe(on, "utm")
    # Lima's templates have no key for it.
    for host in describe.TEMPLATES:
        assert "vsock" not in describe.describe(off, host)


@pytest.mark.parametrize("name", IMAGES)
def test_cloud_inits_example_lets_one_key_in_and_no_password(name: str) -> None:
    text = describe.describe(definition.load(HERE, name), "cloud-init", key="ssh-ed25519 KEY me")
    assert text.startswith("#cloud-config\n")
    data = yaml.safe_load(text)
    (admin,) = data["users"]
    assert admin["ssh_authorized_keys"] == ["ssh-ed25519 KEY me"]
    assert admin["lock_passwd"] is True
    assert data["ssh_pwauth"] is False
    assert "." not in data["hostname"]


def test_a_mac_note_names_the_disks_and_their_sizes() -> None:
    image = definition.load(HERE, "ubuntu-22.04-arm64")
    text = describe.describe(image, "utm", cpus=6, memory_mib=8192)
    for said in ("Apple Virtualization", "ubuntu-22.04-arm64.raw", "10240M", "8192 MiB", "| 6 |"):
        assert said in text


@pytest.mark.parametrize("name", IMAGES)
def test_limas_template_has_keys_that_lima_knows(name: str) -> None:
    image = definition.load(HERE, name, ["disk.sessions=20G"])
    text = describe.describe(image, "lima", cpus=6, memory_mib=8192)
    data = yaml.safe_load(text)
    assert unknown(data) == []
    arch = {"arm64": "aarch64", "amd64": "x86_64"}[image.arch]
    assert (data["arch"], data["cpus"], data["memory"]) == (arch, 6, "8192MiB")
    assert data["images"] == [{"location": f"~/{name}.qcow2", "arch": arch}]
    assert data["additionalDisks"] == [{"name": "serai-sessions", "format": False}]
    assert "limactl disk create serai-sessions --size 20480MiB" in text
    # Otherwise the host's home directory is in the VM, and a session may be given it.
    assert (data["plain"], data["mounts"]) == (True, [])
    (step,) = data["provision"]
    assert step["script"].endswith('--groups serai "{{.User}}"\n')


def test_a_key_that_lima_does_not_know_is_found() -> None:
    assert unknown({"cpus": 1, "plane": True}) == ["plane"]
    assert unknown({"images": [{"location": "x", "size": 1}]}) == ["images.size"]


@pytest.mark.parametrize("vsock", ["true", "false"])
@pytest.mark.parametrize("name", IMAGES)
def test_vfkits_script_has_options_that_vfkit_knows(name: str, vsock: str, tmp_path: Path) -> None:
    image = definition.load(HERE, name, [f"variables.runtime_vsock={vsock}"])
    script = tmp_path / "vm.sh"
    script.write_text(describe.describe(image, "vfkit"))
    programs = tmp_path / "bin"
    programs.mkdir()
    for program, does in (("vfkit", 'printf "%s\\n" "$@"'), ("qemu-img", 'cp "$4" "$5"')):
        (programs / program).write_text(f"#!/bin/sh\n{does}\n")
        (programs / program).chmod(0o755)
    (tmp_path / f"{name}.qcow2").write_text("disk")
    for _ in range(2):  # the second time the disks are there already
        done = subprocess.run(
            ["/bin/sh", script],
            env={"PATH": f"{programs}:/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=True,
        )
        (tmp_path / f"{name}.qcow2").unlink(missing_ok=True)
    words = done.stdout.split("\n")[:-1]
    options = dict(zip(words[::2], words[1::2], strict=True))
    assert options["--memory"] == str(describe.MEMORY)
    assert {word for word in words if word.startswith("--")} <= VFKIT["options"]
    devices = [value for option, value in zip(words[::2], words[1::2], strict=True)]
    for kind, *arguments in (each.split(",") for each in devices if "," in each):
        assert {each.partition("=")[0] for each in arguments} <= VFKIT[kind], kind
    sockets = [each.split(",")[2] for each in devices if each.startswith("virtio-vsock,")]
    assert sockets == ([f"socketURL={tmp_path}/{name}.sock"] if vsock == "true" else [])
    serials = [each.rpartition("deviceId=")[2] for each in devices if "deviceId" in each]
    assert serials == ["root", "sessions", "seed"]
    sizes = [(tmp_path / f"{name}{part}.raw").stat().st_size for part in ("", "-sessions")]
    assert sizes == [
        definition.megabytes(size) << 20 for size in (image.disk.size, image.disk.sessions)
    ]


@pytest.mark.parametrize("vsock", ["true", "false"])
@pytest.mark.parametrize("name", IMAGES)
def test_proxmoxs_script_has_options_that_qm_knows(name: str, vsock: str, tmp_path: Path) -> None:
    image = definition.load(HERE, name, [f"variables.runtime_vsock={vsock}", "disk.sessions=20G"])
    script, programs = tmp_path / "vm.sh", tmp_path / "bin"
    script.write_text(describe.describe(image, "proxmox", cpus=6, memory_mib=8192))
    (tmp_path / "user-data").write_text("#cloud-config\n")
    programs.mkdir()
    (programs / "qm").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (programs / "qm").chmod(0o755)
    done = subprocess.run(
        ["/bin/sh", script, "123", "fast"],
        env={"PATH": f"{programs}:/usr/bin:/bin", "SNIPPETS": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (tmp_path / f"{name}.yaml").read_text() == "#cloud-config\n"
    words = done.stdout.split("\n")[:-1]
    begin, end = words.index("create") + 2, words.index("disk")
    options = dict(zip(words[begin:end:2], words[begin + 1 : end : 2], strict=True))
    assert set(options) <= QM["create"]
    for option in ("--scsi0", "--scsi1", "--scsi2"):
        assert {each.partition("=")[0] for each in options[option].split(",")[1:]} <= QM["drive"]
    assert {each.partition("=")[0] for each in options["--efidisk0"].split(",")[1:]} <= QM[
        "efidisk"
    ]
    assert options["--scsi0"].startswith(f"fast:0,import-from={tmp_path}/{name}.qcow2,serial=root")
    assert options["--scsi1"].startswith("fast:20,serial=sessions")
    assert (options["--bios"], options["--cores"], options["--memory"]) == ("ovmf", "6", "8192")
    assert ("guest-cid=123" in options.get("--args", "")) == (vsock == "true")
    assert words[end:] == ["disk", "resize", "123", "scsi0", "10240M", "start", "123"]


def test_an_unknown_host_is_told_with_those_there_are() -> None:
    with pytest.raises(BuildError, match="no description for 'vmware'"):
        describe.describe(definition.load(HERE, IMAGES[0]), "vmware")


@pytest.mark.parametrize(
    ("text", "size"), [("3.8G", "3891M"), ("4G", "4096M"), ("512M", "512M"), ("0.5G", "512M")]
)
def test_a_size_may_have_a_fraction(text: str, size: str) -> None:
    assert definition.size(text) == size


@pytest.mark.parametrize("text", ["", "4", "G", "0M", "0.0001M", "4T", "-1G", "1e3M", "4G "])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(BuildError, match="is no size"):
        definition.size(text)


def test_several_vms_of_an_image_have_names_and_disks_of_their_own() -> None:
    image = definition.load(HERE, "debian-12-amd64")
    for host in describe.TEMPLATES:
        one, two = (describe.describe(image, host, name=name) for name in ("web-1", "web-2"))
        assert one != two
        assert "web-1" in one and "web-1" not in two
    domain = ElementTree.fromstring(describe.describe(image, "libvirt", name="web-1"))  # noqa: S314
    assert domain.findtext("name") == "web-1"
    sources = [str(disk.get("file")) for disk in domain.iterfind("devices/disk/source")]
    assert [Path(each).name for each in sources] == ["web-1.qcow2", "web-1-sessions.qcow2"]
    for wrong in ("a b", "-x", "a/b", "$(x)", "x" * 64, "a\n"):
        with pytest.raises(BuildError, match="is no name of a VM"):
            describe.describe(image, "proxmox", name=wrong)


def test_libvirt_shares_directories_by_9p_or_virtiofs(tmp_path: Path) -> None:
    image = definition.load(HERE, "debian-12-amd64")
    shares = (Share("one", tmp_path / "a&b", read_only=True), Share("two", tmp_path, virtiofs=True))
    domain = ElementTree.fromstring(describe.describe(image, "libvirt", shares=shares))  # noqa: S314
    one, two = domain.iterfind("devices/filesystem")
    assert [each.find("target").get("dir") for each in (one, two)] == ["one", "two"]  # type: ignore[union-attr]
    assert one.find("source").get("dir") == str(tmp_path / "a&b")  # type: ignore[union-attr]
    assert (one.find("readonly") is None, two.find("readonly") is None) == (False, True)
    assert (one.find("driver") is None, two.find("driver") is None) == (True, False)
    assert domain.find("memoryBacking/access") is not None
    plain = ElementTree.fromstring(describe.describe(image, "libvirt", shares=shares[:1]))  # noqa: S314
    assert plain.find("memoryBacking") is None
    with pytest.raises(BuildError, match="lima is given no --share by us"):
        describe.describe(image, "lima", shares=shares)


def test_a_key_is_a_public_one(tmp_path: Path) -> None:
    file = tmp_path / "id.pub"
    file.write_text("ssh-ed25519 AAAAC3Nz me@host\n")
    assert describe.public_key(file) == "ssh-ed25519 AAAAC3Nz me@host"
    for text in ("", "-----BEGIN OPENSSH PRIVATE KEY-----\n", "ssh-ed25519 A\nssh-ed25519 B"):
        file.write_text(text)
        with pytest.raises(BuildError, match="is no public key of ssh"):
            describe.public_key(file)
    with pytest.raises(BuildError, match="No such file"):
        describe.public_key(tmp_path / "none")


@pytest.mark.parametrize("name", IMAGES)
def test_kubevirts_pool_has_keys_that_it_knows(name: str) -> None:
    image = definition.load(HERE, name, ["disk.sessions=20G"])
    text = describe.describe(image, "kubevirt", count=3)
    pool = yaml.safe_load(text)
    assert _unknown_to_kubevirt(pool) == []
    spec = pool["spec"]["virtualMachineTemplate"]["spec"]
    vm = spec["template"]["spec"]
    assert vm["architecture"] == image.arch
    assert pool["spec"]["replicas"] == 3
    assert [disk["name"] for disk in vm["domain"]["devices"]["disks"]] == [
        each["name"] for each in vm["volumes"]
    ]
    claims = {each["dataVolume"]["name"] for each in vm["volumes"] if "dataVolume" in each}
    assert claims == {each["metadata"]["name"] for each in spec["dataVolumeTemplates"]}
    assert "storage: 20480Mi" in text


def test_no_key_is_in_a_manifest() -> None:
    """Each VM has a Secret of its own, by its number."""
    image = definition.load(HERE, "debian-12-amd64", [])
    text = describe.describe(image, "kubevirt", count=2, name="pool")
    pool = yaml.safe_load(text)
    assert pool["spec"]["nameGeneration"] == {"appendIndexToSecretRefs": True}
    volumes = pool["spec"]["virtualMachineTemplate"]["spec"]["template"]["spec"]["volumes"]
    assert volumes[-1]["cloudInitNoCloud"] == {"secretRef": {"name": "pool-user-data"}}
    assert "--vm pool-0 --vm pool-1" in text
    assert "pool-user-data-$n --from-file=userdata=F/vms/pool-$n/user-data" in text


def test_a_libvirt_domain_gets_its_seed() -> None:
    image = definition.load(HERE, "debian-12-amd64", [])
    domain = ElementTree.fromstring(describe.describe(image, "libvirt", seed=True, name="a"))  # noqa: S314
    disks = domain.findall("devices/disk")
    assert disks[2].find("source").attrib["file"].endswith("/a-seed.img")  # type: ignore[union-attr]
    assert disks[2].find("readonly") is not None


@pytest.mark.parametrize(
    ("to", "wrong"),
    [
        ("proxmox", {"seed": True}),
        ("libvirt", {"count": 2}),
        ("kubevirt", {"count": 0}),
        ("kubevirt", {"name": "a.b"}),
    ],
)
def test_what_a_host_has_no_place_for_is_an_error(to: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(BuildError):
        describe.describe(definition.load(HERE, "debian-12-amd64", []), to, **wrong)


def _unknown_to_kubevirt(found: Any, place: str = "") -> list[str]:
    """The keys that are not KubeVirt's; labels and amounts may have any."""
    if isinstance(found, list):
        return [odd for each in found for odd in _unknown_to_kubevirt(each, place)]
    if not isinstance(found, dict) or place.endswith(("abels", "requests")):
        return []
    known = KUBEVIRT.get(place or ".", set())
    odd = [f"{place}.{key}" for key in found.keys() - known]
    for key, value in found.items():
        odd += _unknown_to_kubevirt(value, f"{place}.{key}".strip("."))
    return odd
