"""Free ports: nobody has them, and no two askers get the same one."""

from __future__ import annotations

import socket

import pytest

from serai.image import ports


def test_a_port_is_given_once_and_its_neighbour_is_free_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second = ports.unused(2)
    assert {first, second}.isdisjoint(ports.unused(2))
    with socket.create_server((ports.HOST, second)):
        monkeypatch.setattr(ports, "_next", iter((second, first, second - 7)))
        assert ports.unused(1) == [first]
        assert ports.unused(1, beside=7) == []
