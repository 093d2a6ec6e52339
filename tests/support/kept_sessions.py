"""Prints as one JSON object what a person would ask of the sessions kept and stored.

Runs as root in a machine, on the standard library alone.
"""

from __future__ import annotations

import json
import subprocess


def say(*argv: str) -> str:
    return subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout


listed = json.loads(say("serai", "list", "--json"))["sessions"]
answers = {
    "machine": say("cat", "/etc/machine-id"),
    "uids": say("getent", "-s", "extrausers", "passwd", "kept", "stored").split(),
    "states": {each["name"]: each["state"] for each in listed},
    "labels": json.loads(say("serai", "show", "kept", "--json"))["labels"],
    "policy": json.loads(say("serai", "policy", "show", "kept", "--json")),
    "audit": say("serai", "audit", "--session", "kept").splitlines(),
    "owner": say("stat", "-c", "%u %g %a", "/sessions/kept/file", "/sessions/stored").split(),
}
print(json.dumps(answers))
