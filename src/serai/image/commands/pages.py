"""The pages of docs/ that are written from the code; tests hold each against it."""

from __future__ import annotations

from pathlib import Path

from serai.image.commands import roles_page, settings_page
from serai.image.rehearsal import page as rehearsal_page
from serai.image.settings import Settings
from serai.runtime.doctor import report


def write(settings: Settings) -> list[Path]:
    """Write them all; returns their paths."""
    texts = {
        "docs/doctor.md": report.page(),
        rehearsal_page.PAGE: rehearsal_page.text(settings),
        roles_page.PAGE: roles_page.text(settings),
        settings_page.PAGE: settings_page.text(),
    }
    for path, text in texts.items():
        (settings.root / path).write_text(text)
    return [settings.root / path for path in texts]
