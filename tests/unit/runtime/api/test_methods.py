"""What the methods of the control socket refuse by themselves."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from serai.common.errors import NOT_PERMITTED, SeraiError
from serai.common.jsonrpc_server import Connection
from serai.common.labels import DOCTOR
from serai.runtime.api import methods


def caller(uid: int) -> Connection:
    return cast(Connection, SimpleNamespace(uid=uid))


def test_root_alone_makes_sessions_that_are_counted_nowhere() -> None:
    methods._check_doctor(caller(0), {DOCTOR: ""})
    methods._check_doctor(caller(1000), {"task": "42"})
    with pytest.raises(SeraiError, match=DOCTOR) as caught:
        methods._check_doctor(caller(1000), {DOCTOR: ""})
    assert caught.value.code == NOT_PERMITTED
