"""The end of `invoke demo`: what was made, and how to go on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from serai.image.commands.demo import summary


def test_the_summary_says_what_was_made_and_what_to_do_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.qcow2").write_bytes(bytes(3 << 20))
    (tmp_path / "manifest.json").write_text(json.dumps({"packages": 243}))
    verified = {"boot_seconds": 12.0, "passed": 60, "failed": 0}
    (tmp_path / "verify.json").write_text(json.dumps(verified))
    summary(tmp_path, "x")
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said] == [
        "image",
        "size",
        "packages",
        "boot",
        "checks",
        "next",
    ]
    assert said[-1].endswith("invoke boot --image x")
