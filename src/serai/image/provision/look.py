"""What runs on a VM, as far as an upgrade is concerned, as one line of JSON.

It is sent to the VM and run there by the Python that it has, so it imports nothing of ours. What it
reads has been the same since Serai 0.1.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

SLICES = ("sys/fs/cgroup", "sys/fs/cgroup/systemd", "sys/fs/cgroup/unified")
"""Where cgroup v2 may be, or v1's name=systemd."""


def look(root: Path) -> dict[str, object]:
    """Which version there is ('' without one), the one before, and what runs with it.

    ``connected``: commands that a client waits for. ``detached`` and ``jobs``: those that need
    nobody. ``cut_off``: the run before did not come to its end.
    """
    link = root / "usr/lib/serai/python"
    found: dict[str, set[str]] = {"sessions": set(), "exec": set(), "detached": set(), "job": set()}
    for top in SLICES:
        for unit in root.glob(f"{top}/serai.slice/serai-session@*.service"):
            found["sessions"].add(unit.name)
            for path in unit.iterdir():
                kind = path.name.partition("-")[0]
                if kind in found and path.is_dir():
                    found[kind].add(f"{unit.name}/{path.name}")
    try:
        kept = json.loads((root / "var/lib/serai/previous/about.json").read_text())["version"]
    except (OSError, ValueError, KeyError):
        kept = ""
    return {
        "version": _version(link),
        "modules": link.resolve().name if link.is_symlink() else "",
        "kept": kept,
        "sessions": len(found["sessions"]),
        "connected": len(found["exec"]),
        "detached": len(found["detached"]),
        "jobs": len(found["job"]),
        "cut_off": (root / "var/lib/serai/provisioning").exists(),
    }


def _version(link: Path) -> str:
    try:
        text = (link / "serai/__init__.py").read_text()
    except OSError:
        return ""
    match = re.search(r'__version__ = "([^"]*)"', text)
    return match[1] if match else "?"


if __name__ == "__main__":
    print(json.dumps(look(Path("/"))))
