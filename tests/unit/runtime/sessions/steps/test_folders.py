"""Which directories of the VM may be attached, and who may read where they are."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

import pytest

from serai.common import proc
from serai.common.errors import SeraiError
from serai.common.paths import Paths
from serai.runtime.sessions.steps import publish
from serai.runtime.sessions.steps.folders import Folders
from serai.runtime.settings import SessionSettings


@pytest.mark.parametrize(
    ("path", "refused"), [("/mnt", True), ("/mnt/host", True), ("/mnt/host/a", False)]
)
def test_what_has_mounts_below_it_is_not_attached_to_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, refused: bool
) -> None:
    mounted = [proc.Mount("0:1", "/", place, (), "9p", "a", ()) for place in ("/", "/mnt/host/a")]
    monkeypatch.setattr(proc, "mounts_of", lambda: mounted)
    none = cast(Any, None)
    Paths(tmp_path).state.mkdir(parents=True)
    folders = Folders(Paths(tmp_path), SessionSettings(), none, none)
    folders._allow(path, writable=False)
    if not refused:
        folders._allow(path, writable=True)
        return
    with pytest.raises(SeraiError, match="has mounts below it"):
        folders._allow(path, writable=True)


def test_hints_are_the_sessions_own(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("giving away a group takes root")
    paths, gid = Paths(tmp_path), 2000
    publish.hints(paths, "a", gid, b"{}")
    folder = paths.session("a") / "hints"
    assert (folder.stat().st_mode & 0o7777, folder.stat().st_gid) == (0o750, gid)
