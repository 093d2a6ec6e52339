"""An image's machine in the words of other hosts."""

from __future__ import annotations

from xml.etree import ElementTree  # what is parsed is our own

import pytest
import yaml

from serai.image.definition import definition
from serai.image.errors import BuildError
from serai.image.settings import Settings
from serai.image.vm import describe

HERE = Settings.of({})
IMAGES = definition.names(HERE)


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
    assert domain.find("devices/vsock") is not None
    assert "20480M" in text


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
