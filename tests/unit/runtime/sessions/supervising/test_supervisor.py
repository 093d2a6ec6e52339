"""What is limited of a session, of all sessions, and of what serves their folders."""

from __future__ import annotations

import configparser

from serai.runtime.sessions.supervising.supervisor import drop_in, folder_settings
from serai.runtime.settings import SessionSettings
from tests.conftest import ROOT

UNITS = ROOT / "src/serai/install/units"


def test_all_sessions_together_leave_memory_and_tasks_to_the_vm() -> None:
    slice_ = configparser.ConfigParser(interpolation=None)
    slice_.read(UNITS / "serai.slice")
    assert (slice_["Slice"]["MemoryMax"], slice_["Slice"]["TasksMax"]) == ("80%", "60%")
    assert "Slice=serai.slice\n" in (UNITS / "serai-session@.service").read_text()


def test_a_session_gets_no_swap() -> None:
    assert "MemorySwapMax=0\n" in drop_in(SessionSettings())


def test_what_serves_a_folder_is_limited_and_filtered() -> None:
    limits = {name: value for name, (_, value) in folder_settings("one", "outputs", ["/bin/x"])}
    assert limits["MemoryMax"] <= 256 << 20
    assert (limits["MemorySwapMax"], limits["TasksMax"]) == (0, 64)
    assert limits["NoNewPrivileges"] is True
    assert limits["RestrictAddressFamilies"] == (True, ["AF_NETLINK", "AF_UNIX"])
    allow, calls = limits["SystemCallFilter"]
    assert not allow
    assert {"@module", "@keyring", "@raw-io"} <= set(calls)
