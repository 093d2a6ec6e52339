from __future__ import annotations

import os
from pathlib import Path

from serai.runtime.sessions import spares
from serai.runtime.sessions.registry import Registry


def test_a_daemon_that_died_while_it_took_them_leaves_no_second_name_of_a_file(
    tmp_path: Path,
) -> None:
    """Else a spare would have what was in the file, and the next start would read that again."""
    path = tmp_path / "registry.sqlite"
    Registry(path).close()
    for file, spare in spares._beside(path):
        os.link(spare, file)
    for name in ("one", "two"):
        book = Registry(path)
        book.add(name, {}, 1.0)
        book.forget(book.get(name).uid)
        book.close()
        assert [spare.stat().st_size for _, spare in spares._beside(path)] == [0, 0]
    book = Registry(path)
    assert book.all() == []
    book.close()
