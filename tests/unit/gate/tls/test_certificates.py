"""The certificates of a session, as files and variables."""

from __future__ import annotations

import re
import stat
from pathlib import Path

import pytest

from serai.gate.tls import certificates
from tests.conftest import ROOT

OURS = b"-----BEGIN CERTIFICATE-----\nours\n-----END CERTIFICATE-----\n"


@pytest.mark.parametrize("roots", [b"", b"the VM's\n", b"the VM's"])
def test_a_bundle_has_the_vm_s_and_ours(roots: bytes, tmp_path: Path) -> None:
    vm, folder = tmp_path / "roots", tmp_path / "blue"
    folder.mkdir()
    if roots:
        vm.write_bytes(roots)
    certificates.write(folder, vm, OURS)
    assert {each.name for each in folder.iterdir()} == {"bundle.pem", "ca.pem"}
    assert (folder / "ca.pem").read_bytes() == OURS
    assert (folder / "bundle.pem").read_bytes() == (b"the VM's\n" if roots else b"") + OURS
    assert {stat.S_IMODE(each.stat().st_mode) for each in folder.iterdir()} == {0o644}
    certificates.remove(folder)
    certificates.remove(folder)
    assert not list(folder.iterdir())


def test_who_has_a_file_open_goes_on_reading_it(tmp_path: Path) -> None:
    certificates.write(tmp_path, tmp_path / "none", OURS)
    with (tmp_path / "bundle.pem").open("rb") as file:
        certificates.write(tmp_path, tmp_path / "none", OURS + OURS)
        assert file.read() == OURS


def test_variables_lead_to_the_files() -> None:
    folder = "/run/serai/certificates"
    assert set(certificates.environment().values()) == {f"{folder}/bundle.pem", f"{folder}/ca.pem"}


def test_the_page_names_each_variable() -> None:
    _, _, section = (ROOT / "docs/clients.md").read_text().partition("## Certificates\n")
    told = re.findall(r"^\| `(\w+)` \|.*`(\w+\.pem)` \|$", section, re.MULTILINE)
    wanted = {name: Path(path).name for name, path in certificates.environment().items()}
    assert dict(told) == wanted
