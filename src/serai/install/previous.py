"""The version before: what an upgrade is about to replace, kept so that one step leads back.

Modules stay in the folder that they are in. All other files are copied to /var/lib/serai/previous,
which is whole or absent:

    about.json   the modules' folder, the version, the registry's tables, whether all was well
    proven       there once the version that replaced it was well
    by           a link to the modules of the version that replaced it, and can go back
    files/       programs, units, filters, settings
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from serai.common import files, versions
from serai.common.paths import Paths
from serai.install.table import FILES

LINK = "usr/lib/serai/python"
STATE = "var/lib/serai"
PROGRAMS = ("usr/bin/serai", "usr/lib/serai", "etc/systemd/system")
SETTINGS = "etc/serai"
_NOT_COPIED = re.compile(
    r"usr/lib/serai/(\.?python.*|serai\.whl)(/.*)?|etc/systemd/system/serai-fleet\..*"
)
"""Of a fleet's member there is one version alone, its unit included."""


@dataclass(frozen=True)
class About:
    """``schema`` is the version of the registry's tables, 0 if nobody knows.

    ``well``: it passed the check that is made after an upgrade.
    """

    modules: str
    version: str
    schema: int
    well: bool


class Previous:
    """What is kept below ``root`` ('/' but in tests)."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / STATE / "previous"
        self.went_back = root / STATE / "went-back"

    @property
    def proven(self) -> Path:
        """There once what replaced it was well: from then on only a person goes back."""
        return self.folder / "proven"

    @property
    def current(self) -> str:
        """The folder of the modules that are installed; '' if none are."""
        link = self.root / LINK
        return link.readlink().name if link.is_symlink() else ""

    @property
    def by(self) -> str:
        """The folder of the modules that replaced the version that is kept."""
        link = self.folder / "by"
        return link.readlink().name if link.is_symlink() else ""

    def about(self) -> About | None:
        """What is kept; None if nothing is."""
        try:
            told = json.loads((self.folder / "about.json").read_text())
            found = About(**{each.name: told[each.name] for each in fields(About)})
        except (FileNotFoundError, KeyError, ValueError, TypeError):  # a damaged one leads nowhere
            return None
        return found if (self.root / LINK).with_name(found.modules).is_dir() else None

    def keep(self, new: str, well: bool) -> None:
        """Keep what is installed, before the modules in ``new`` take its place."""
        current, kept = self.current, self.about()
        if not current or current == new:
            return
        if kept is not None and kept.modules == current:
            # An upgrade of this version was cut off: files may be the newer one's by now.
            files.link(self.folder / "by", self._modules(new))
            return
        with whole(self.folder) as made:
            for path in self._programs():
                _copy(self.root, path, made / "files")
            for path in self._settings():
                _copy(self.root, path, made / "files")
            version = self.label(current)
            modules = self.root / LINK
            # What it can read, which the registry need not be: a newer one may have written that.
            schema = _schema_of(modules.resolve()) or _schema(Paths(self.root).registry)
            about = About(current, version, schema, well)
            (made / "about.json").write_text(json.dumps(asdict(about)) + "\n")
            (made / "by").symlink_to(self._modules(new))

    def put_back_programs(self) -> None:
        """Programs, units and filters as they were, each in one step."""
        for path in _within(self.folder / "files", PROGRAMS):
            self._put_back(path)

    def put_back_settings(self) -> None:
        """The settings as they were; what is not among them is removed."""
        for path in _within(self.folder / "files", (SETTINGS,)):
            self._put_back(path)
        for path in self._settings():
            if not (self.folder / "files" / path).is_file():
                (self.root / path).unlink()

    def remove_newer(self) -> None:
        """Programs and units of this version that the one that is kept did not have."""
        for file in FILES:
            if not (self.folder / "files" / file.target).is_file():
                (self.root / file.target).unlink(missing_ok=True)

    def forget(self) -> None:
        """Keep nothing any more."""
        remove(self.folder)

    def label(self, modules: str) -> str:
        """'0.2.0 (1a2b3c4d)': the version and a part of its content's digest."""
        package = (self.root / LINK).parent / modules / "serai/__init__.py"
        try:
            text = package.read_text()
        except OSError:
            text = ""
        return versions.label(versions.written(text) or "?", modules)

    def _modules(self, name: str) -> Path:
        return Path("/", LINK).with_name(name)

    def _programs(self) -> Iterator[str]:
        for path in _within(self.root, PROGRAMS):
            is_unit = path.startswith("etc/systemd/system/serai")
            if _NOT_COPIED.fullmatch(path) is None and (is_unit or not path.startswith("etc/")):
                yield path

    def _settings(self) -> Iterator[str]:
        return _within(self.root, (SETTINGS,))

    def _put_back(self, path: str) -> None:
        source, target = self.folder / "files" / path, self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        with files.draft(target) as draft:
            _copy_one(source, draft)
            files.fsync(draft)


class whole:  # noqa: N801  # used as a function
    """A folder that takes the place of ``path`` if the block succeeds."""

    def __init__(self, path: Path) -> None:
        self._path, self._made = path, path.with_name(f".{path.name}.new")

    def __enter__(self) -> Path:
        shutil.rmtree(self._made, ignore_errors=True)
        self._made.mkdir(parents=True, mode=0o700)
        return self._made

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            shutil.rmtree(self._made, ignore_errors=True)
            return
        os.sync()
        # Between the two there is none: whoever is killed here has changed nothing else yet.
        remove(self._path)
        self._made.rename(self._path)
        files.fsync(self._path.parent)


def remove(folder: Path) -> None:
    """Remove a folder, of which no part is ever seen alone."""
    gone = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(gone, ignore_errors=True)
    if folder.exists():
        folder.rename(gone)
        files.fsync(folder.parent)
        shutil.rmtree(gone)


def _within(root: Path, places: tuple[str, ...]) -> Iterator[str]:
    """The paths of all plain files at or below ``places``, sorted; links are left out."""
    for place in places:
        top = root / place
        for path in [top] if top.is_file() else sorted(top.rglob("*")):
            if path.is_file() and not path.is_symlink():
                yield str(path.relative_to(root))


def _copy(root: Path, path: str, to: Path) -> None:
    target = to / path
    target.parent.mkdir(parents=True, exist_ok=True)
    _copy_one(root / path, target)


def _copy_one(source: Path, target: Path) -> None:
    shutil.copy2(source, target)
    found = source.stat()
    os.chown(target, found.st_uid, found.st_gid)
    target.chmod(found.st_mode & 0o7777)


def _schema_of(modules: Path) -> int:
    """The version that a Serai would make: there may be no registry because it never ran."""
    for name in ("schema.py", "registry.py"):  # where it was before
        with suppress(OSError):
            text = (modules / "serai/runtime/sessions" / name).read_text(errors="replace")
            if found := re.search(r"^(?:SCHEMA_)?VERSION = ([0-9]{1,4})$", text, re.MULTILINE):
                return int(found[1])
    return 0


def _schema(registry: Path) -> int:
    """The version of the registry's tables, which a daemon may be using; 0 if there are none."""
    if not registry.exists():
        return 0
    try:
        with closing(sqlite3.connect(registry, timeout=30)) as db:
            return int(db.execute("PRAGMA user_version").fetchone()[0])
    except sqlite3.Error:
        return 0
