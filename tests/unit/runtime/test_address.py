from __future__ import annotations

from pathlib import Path

import pytest

from serai.common.errors import GONE, SeraiError
from serai.runtime import address


def test_ssh_gets_what_the_address_says() -> None:
    found = address.parse("ssh://root@vm.example:2222").ssh
    assert found == ("-T", "-p", "2222", "-l", "root", "--", "vm.example", "serai", "stdio")
    assert address.parse("ssh://vm/").ssh == ("-T", "--", "vm", "serai", "stdio")
    assert address.parse("ssh://Build-VM").ssh[2] == "Build-VM"
    assert address.parse("ssh://root@[::1]:22").ssh[-3] == "::1"
    assert address.parse("ssh://[fe80::1]").ssh[-3] == "fe80::1"
    assert address.parse("unix:///run/a%20b.sock").path == Path("/run/a b.sock")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "vm",
        "root@vm",
        "http://vm",
        "vsock://3:1",
        "ssh://",
        "ssh://vm/path",
        "ssh://vm:0",
        "ssh://vm:65536",
        "ssh://vm:x",
        "ssh://root:secret@vm",
        "ssh://vm?x",
        "ssh://vm#x",
        "ssh://-oProxyCommand=touch%20x",
        "ssh://-oProxyCommand=x@vm",
        "unix://",
        "unix:///",
        "unix://host/path",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(SeraiError, match="is no address of a VM"):
        address.parse(text)


def test_a_host_without_ssh_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERAI_SSH", "/nowhere/ssh -v")
    with pytest.raises(SeraiError, match="there is no program '/nowhere/ssh -v' here") as caught:
        address.connect(address.parse("ssh://vm"))
    assert caught.value.code == GONE
