"""A VM that somebody took over says which sessions there are to back up."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, cast

import pytest

from serai.common.errors import SeraiError
from serai.runtime.cli import backup
from serai.runtime.client import Client


class LyingLister:
    peer = "the VM"

    def __init__(self, name: str) -> None:
        self.name = name

    def call(self, _: str) -> Any:
        return {"sessions": [{"name": self.name, "labels": {}, "state": "stopped"}]}

    def send(self, method: str, *_: object, **__: object) -> None:
        assert method == "backup"


@pytest.mark.parametrize("name", ["../../x", "/tmp/x", "..", "", "a/b", "a\n", "A"])
def test_no_part_is_written_elsewhere(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "one/two/backup"
    options = argparse.Namespace(directory=folder, plain=True, json=False)
    with pytest.raises(SeraiError, match="which is no name"):
        backup.run(cast("Client", LyingLister(name)), options)
    assert [each.name for each in tmp_path.rglob("*") if each.is_file()] == ["vm.tar"]
