"""What `invoke new` does: a project that builds as it stands."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from serai import __version__
from serai.image import cache, console, project
from serai.image.definition import definition, variables
from serai.image.errors import BuildError
from serai.image.settings import Settings

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


def new(settings: Settings, directory: Path, base: str) -> Path:
    """Make ``directory`` a project with one image, a flavour of ``base``, and return it.

    The image has the directory's name. Raises BuildError, also for a directory that has anything
    in it; then nothing is written.
    """
    target = directory.absolute()
    name = target.name
    if not _NAME.fullmatch(name):
        raise BuildError(
            f"{name!r} cannot be an image's name",
            hint="take a directory with a name of small letters, digits and -, such as acme-agent",
        )
    ours = replace(settings, project=None)  # wherever one stands
    role = name.replace("-", "_")
    taken = {*definition.names(ours), *(each.name for each in variables.roles(ours)), "serai"}
    if {name, role} & taken:
        raise BuildError(
            f"Serai has an image or a role {name!r}", hint="give the directory another name"
        )
    definition.load(ours, base)
    if target.exists() and not target.is_dir():
        raise BuildError(f"{target} is no directory", hint="name a new directory")
    if not target.exists():
        with cache.whole(target) as made:
            _write(made, name, base)
    elif {path.name for path in target.iterdir()} <= {".git"}:
        _write(target, name, base)  # somebody may stand in it
    else:
        raise BuildError(f"{target} is not empty", hint="name a new directory")
    console.say(f"{target} is a project; there, run:")
    console.say(f"  serai-build plan --image {name}")
    console.say(f"  serai-build build-image --image {name}")
    return target


def _write(directory: Path, name: str, base: str) -> None:
    for path, text in files(name, base).items():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_text(text)
    (directory / "files/usr/local/bin" / name).chmod(0o755)


def files(name: str, base: str) -> dict[str, str]:
    """The project's files by path."""
    role = name.replace("-", "_")
    minor = ".".join(__version__.split(".")[:2])
    return {
        project.FILE: f"""\
# Which versions of Serai build this project, as pip has versions.
serai = "=={minor}.*"

# What could be in the environment of every build, too: docs/projects.md of Serai.
# [settings]
# cache = "/srv/serai-cache"
# [build]
# https_proxy = "http://proxy.example:3128"
""",
        ".gitignore": "/dist/\n",
        f"images/{name}.toml": f"""\
name = "{name}"
summary = "{base}, and what our agents need"
flavour_of = "{base}"

# Variables of Serai's roles and of your own; 'serai-build plan' shows all values.
[variables]
project_files = ["files"]
{role}_greeting = "hello"

# Your own roles in their order; packages in 'system', what changes often in 'serai'.
[roles]
serai = ["{role}"]

# What 'serai-build verify-image' tries in the booted image, beside Serai's own checks.
[[checks]]
name = "{name} greets in a session"
command = ["{name}"]
output = "^hello$"
session = true
""",
        f"files/usr/local/bin/{name}": f"""\
#!/bin/sh
exec cat /etc/{name}
""",
        f"roles/{role}/meta/argument_specs.yml": f"""\
---
argument_specs:
  main:
    short_description: Writes the greeting
    options:
      {role}_greeting:
        description: What {name} says.
        type: str
        default: hello
""",
        f"roles/{role}/defaults/main.yml": f"---\n{role}_greeting: hello\n",
        f"roles/{role}/tasks/main.yml": f"""\
---
- name: Write the greeting
  ansible.builtin.copy:
    content: "{{{{ {role}_greeting }}}}\\n"
    dest: /etc/{name}
    owner: root
    group: root
    mode: "0644"
""",
    }
