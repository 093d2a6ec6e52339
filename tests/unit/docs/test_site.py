"""The site of the docs: `invoke lint` builds it, and what is wrong with it is an error."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from serai.image.commands import docs_site
from serai.image.errors import BuildError
from serai.image.settings import Settings
from tests.conftest import ROOT


def test_a_dead_link_and_a_page_that_nothing_leads_to_are_errors(tmp_path: Path) -> None:
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    (tmp_path / "docs/lost.md").write_text("# Lost\n\n[gone](gone.md), [gate](gate.md#gone)\n")
    with pytest.raises(BuildError) as caught:
        docs_site.build(Settings.of({}, tmp_path))
    said = str(caught.value)
    assert "lost.md" in said
    assert "gone" in said
