"""Import every module of the VM's half, with the real packages of a release (`invoke pythons`).

And speak D-Bus to nobody: no unit test has jeepney, whose versions differ.

``python3 imports_everything.py ROOM ...``
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from pathlib import Path

from jeepney import HeaderFields, Parser, new_method_call

import serai
from serai.runtime.sessions.supervising import supervisor, systemd

SOURCES = Path(serai.__file__).parent


def modules(rooms: list[str]) -> list[str]:
    found = [
        each.name
        for room in rooms
        for each in pkgutil.walk_packages([str(SOURCES / room)], f"serai.{room}.")
    ]
    return [name for name in found if not name.endswith("__main__")]


def a_unit_is_asked_for() -> None:
    """The largest message of sessiond's, there and back."""
    asked = supervisor.folder_settings("one", "outputs", ["/bin/true"])
    unit = supervisor.folder_unit("one", "outputs")
    body: tuple[object, ...] = (unit, "replace", asked, [])
    message = new_method_call(systemd.MANAGER, "StartTransientUnit", "ssa(sv)a(sa(sv))", body)
    message.header.serial = 1
    (again,) = Parser().feed(message.serialise())
    assert again.header.fields[HeaderFields.member] == "StartTransientUnit"
    name, mode, settings, auxiliary = again.body
    assert (name, mode, auxiliary) == (unit, "replace", [])
    assert [key for key, _ in settings] == [key for key, _ in asked]


if __name__ == "__main__":
    for name in modules(sys.argv[1:]):
        importlib.import_module(name)
    for path in (SOURCES / "install/programs").iterdir():
        text = path.read_text()
        if "python3" in text.partition("\n")[0]:
            compile(text, str(path), "exec")
    a_unit_is_asked_for()
