"""Where a release comes from: an in-toto statement (v1) with SLSA's provenance (v1) in it.

https://in-toto.io/Statement/v1 and https://slsa.dev/spec/v1.0/provenance say what the fields mean;
docs/releases.md what ours hold.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serai.image.build import age, remote

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
# Names of ours, which no server answers to (RFC 2606, section 2).
BUILD_TYPE = "https://serai.invalid/build-image/v1"
LOCAL_BUILDER = "https://serai.invalid/builder/local"
DIGEST = "serai1"
"""The algorithm of an input's digest, ``serai.image.digest``: of a file its SHA-256, of a folder or
a value the SHA-256 of a JSON text that stands for it."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_COMMIT = re.compile(r"([0-9a-f]{40})(-dirty)?")


def text(
    manifest: Mapping[str, Any],
    version: str,
    subjects: Mapping[str, str],
    folder: Path,
    environ: Mapping[str, str] = os.environ,
) -> str:
    """The statement as JSON: that the build in ``manifest`` made ``subjects`` (digests by name).

    Their sizes are read in ``folder``. The same arguments are the same text.
    """
    described = [
        {
            "name": name,
            "digest": {"sha256": subjects[name]},
            # Lets who verifies refuse a file of another size before reading it.
            "annotations": {"size": (folder / name).stat().st_size},
        }
        for name in sorted(subjects)
    ]
    statement = {
        "_type": STATEMENT,
        "subject": described,
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": _definition(manifest, version),
            "runDetails": _details(manifest, environ),
        },
    }
    return json.dumps(statement, indent=2, sort_keys=True) + "\n"


def _definition(manifest: Mapping[str, Any], version: str) -> dict[str, Any]:
    image = manifest["definition"]
    stages = manifest["stages"]
    return {
        "buildType": BUILD_TYPE,
        "externalParameters": {
            "image": manifest["image"],
            "version": version,
            "variables": image.get("variables", {}),
        },
        "internalParameters": {
            "build": manifest["version"],
            "definition": image,
            "stages": {
                stage["stage"]: {
                    "key": stage["key"],
                    "inputs": {k: v for k, v in stage["inputs"].items() if not _is_digest(v)},
                    # When its base was made, and who signed it if another host built it.
                    **{key: stage[key] for key in (age.BASE_MADE, remote.SIGNER) if key in stage},
                }
                for stage in stages
            },
        },
        "resolvedDependencies": [
            _source(manifest["revision"]),
            _base(manifest),
            *(
                {"name": f"{stage['stage']}: {name}", "digest": {DIGEST: value}}
                for stage in stages
                for name, value in stage["inputs"].items()
                if _is_digest(value)
            ),
        ],
    }


def _source(revision: str) -> dict[str, Any]:
    """The checkout. What differed from its commit is in the stages' inputs, by digest only."""
    found = _COMMIT.fullmatch(revision)
    if found is None:
        return {"name": "source", "annotations": {"revision": revision}}
    source: dict[str, Any] = {"name": "source", "digest": {"gitCommit": found[1]}}
    return source | ({"annotations": {"dirty": True}} if found[2] else {})


def _base(manifest: Mapping[str, Any]) -> dict[str, Any]:
    base = manifest["definition"]["base"]
    if base["kind"] == "cloud-image":
        return {"name": "base", "uri": base["url"], "digest": {"sha256": base["sha256"]}}
    # It was bootstrapped here; this is the disk that came of it.
    return {"name": "base", "digest": {"sha256": manifest["base"]["sha256"]}}


def _details(manifest: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    times = {"startedOn": manifest.get("started"), "finishedOn": manifest.get("finished")}
    builder, invocation = _builder(environ)
    return {
        "builder": {"id": builder, "version": manifest["tools"]},
        "metadata": {
            "invocationId": invocation or f"{manifest['image']}/{manifest['version']}",
            **{name: value for name, value in times.items() if value},
        },
    }


def _builder(environ: Mapping[str, str]) -> tuple[str, str]:
    """Who builds and in which run; GitHub's names are in its "Variables" reference."""
    server, run = environ.get("GITHUB_SERVER_URL"), environ.get("GITHUB_RUN_ID")
    workflow, repository = environ.get("GITHUB_WORKFLOW_REF"), environ.get("GITHUB_REPOSITORY")
    if server and workflow and repository and run:
        attempt = environ.get("GITHUB_RUN_ATTEMPT", "1")
        return (
            f"{server}/{workflow}",
            f"{server}/{repository}/actions/runs/{run}/attempts/{attempt}",
        )
    return environ.get("SERAI_BUILDER") or LOCAL_BUILDER, ""


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None
