"""What makes an importer refuse an OVF descriptor, as far as its text shows.

The rules are those of DSP0243 1.1 and of its schema DSP8023 (the children of System and Item come
in the order of their names), and of VirtualBox' src/VBox/Main/xml/ovfreader.cpp.
"""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree import ElementTree  # what is parsed is our own

OVF = "{http://schemas.dmtf.org/ovf/envelope/1}"
RASD = "{http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData}"
VMW = "{http://www.vmware.com/schema/ovf}"
VSSD = "{http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData}"

_MEMORY, _ETHERNET, _CD, _DISK, _STORAGE = "4", "10", "15", "17", "20"
_KNOWN = {"3", _MEMORY, "5", "6", _ETHERNET, "14", _CD, _DISK, _STORAGE, "23", "35"}
_STORAGES = {"vmware.sata.ahci", "vmware.nvme.controller", "AHCI", "NVMe", "VirtioSCSI"}
_NEEDED = ("ElementName", "InstanceID", "ResourceType")


def faults(text: str) -> list[str]:
    """A line for each rule that the descriptor breaks."""
    root = ElementTree.fromstring(text)  # noqa: S314
    return [*_outline(root), *_disks(root), *_items(root)]


def items(root: ElementTree.Element) -> list[dict[str, str]]:
    """The items of the hardware: what each has, by name."""
    found = root.iterfind(f"{OVF}VirtualSystem/{OVF}VirtualHardwareSection/{OVF}Item")
    return [{child.tag.removeprefix(RASD): child.text or "" for child in item} for item in found]


def _outline(root: ElementTree.Element) -> Iterator[str]:
    names = [child.tag.removeprefix(OVF) for child in root]
    if names != ["References", "DiskSection", "NetworkSection", "VirtualSystem"]:
        yield f"the envelope has {names}"
    for section in root.iter():
        if section.tag.endswith("Section") and section[0].tag != f"{OVF}Info":
            yield f"{section.tag} does not begin with Info"
        if section.tag in (f"{OVF}Item", f"{OVF}System"):
            children = [child.tag for child in section]
            if children != sorted(children):
                yield f"the children of an item are out of order: {children}"


def _disks(root: ElementTree.Element) -> Iterator[str]:
    files = {file.get(f"{OVF}id") for file in root.iterfind(f"{OVF}References/{OVF}File")}
    for disk in root.iterfind(f"{OVF}DiskSection/{OVF}Disk"):
        name = disk.get(f"{OVF}diskId")
        if disk.get(f"{OVF}fileRef", next(iter(files))) not in files:
            yield f"the disk {name} is in no file"
        if not (disk.get(f"{OVF}capacity") or "").isdecimal() or not disk.get(f"{OVF}format"):
            yield f"the disk {name} has no capacity or format"
        if disk.get(f"{OVF}capacityAllocationUnits") != "byte":
            yield f"the capacity of {name} is not in bytes"


def _items(root: ElementTree.Element) -> Iterator[str]:
    disks = {f"ovf:/disk/{disk.get(f'{OVF}diskId')}" for disk in root.iter(f"{OVF}Disk")}
    networks = {network.get(f"{OVF}name") for network in root.iter(f"{OVF}Network")}
    found = items(root)
    parents = {each["InstanceID"] for each in found if each.get("ResourceType") == _STORAGE}
    if len({each.get("InstanceID") for each in found}) != len(found):
        yield "two items have one InstanceID"
    used = [each.get("HostResource") for each in found if each.get("ResourceType") == _DISK]
    if sorted(str(each) for each in used) != sorted(disks):
        yield f"the items use the disks {used}"
    for each in found:
        kind, subtype = each.get("ResourceType", ""), each.get("ResourceSubType", "")
        if not all(each.get(name) for name in _NEEDED) or kind not in _KNOWN:
            yield f"no importer knows {each}"
        if kind == _STORAGE and subtype not in _STORAGES:
            yield f"no importer knows the controller {subtype}"
        if kind in (_DISK, _CD) and each.get("Parent") not in parents:
            yield f"{each['ElementName']} is on no controller"
        if kind == _ETHERNET and each.get("Connection") not in networks:
            yield f"{each['ElementName']} is on no network"
        if kind == _MEMORY and int(each["VirtualQuantity"]) % 4:
            yield "the memory is no multiple of 4 MiB"
        if kind == _MEMORY and each.get("AllocationUnits") != "byte * 2^20":
            yield "the memory is not in MiB"
