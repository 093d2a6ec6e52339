"""The roles' own files, as text."""

from __future__ import annotations

import ast
import glob
import itertools
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml

from serai.gate import profiles
from serai.image.build import base_bootstrap
from serai.image.build.playbook import BUILD_USER
from serai.image.commands import roles_page
from serai.image.definition import definition, tools, variables
from serai.image.settings import Settings
from tests.conftest import ROOT

ROLES = ROOT / "roles"


@pytest.mark.parametrize("role", sorted(path.name for path in ROLES.iterdir() if path.is_dir()))
def test_every_default_is_documented_and_every_option_has_its_default(role: str) -> None:
    defaults = yaml.safe_load((ROLES / role / "defaults/main.yml").read_text()) or {}
    specs = yaml.safe_load((ROLES / role / "meta/argument_specs.yml").read_text())
    options = specs["argument_specs"]["main"]["options"]
    assert set(defaults) <= set(options)
    told = {name: option["default"] for name, option in options.items() if "default" in option}
    assert told.items() <= {name: defaults[name] for name in told}.items()
    assert all(name.startswith(f"{role}_") for name in defaults)


def test_the_page_about_roles_is_what_their_specs_say() -> None:
    page = (ROOT / roles_page.PAGE).read_text()
    assert page == roles_page.text(Settings.of({})), "run 'invoke docs'"
    for role in ROLES.iterdir():
        assert f"\n## {role.name}\n" in page


def test_only_builtin_modules_are_used() -> None:
    modules = re.compile(r"^\s+(?:- )?(\w+\.\w+\.\w+):", re.MULTILINE)
    for path in ROLES.glob("*/tasks/*.yml"):
        found = modules.findall(path.read_text())
        assert found, path
        assert all(name.startswith("ansible.builtin.") for name in found), path


def test_what_is_made_on_the_controller_is_made_for_each_machine_apart_or_once() -> None:
    """They do it at the same time. Hashed: it is looked for by patterns, and names may have any."""
    here, apart = 0, "{{ inventory_hostname | hash('sha256') }}"
    for path in sorted(ROLES.glob("*/tasks/*.yml")):
        variables = path.parents[1] / "vars/main.yml"
        known = yaml.safe_load(variables.read_text()) if variables.exists() else {}
        own = [name for name, value in known.items() if apart in str(value)]
        for task in yaml.safe_load(path.read_text()):
            if task.get("delegate_to") == "localhost" and "ansible.builtin.find" not in task:
                here += 1
                is_apart = any(word in str(task) for word in (apart, *own))
                assert is_apart or task.get("run_once"), task["name"]
    assert here


@pytest.mark.parametrize("image", ["debian-12-amd64", "debian-12-arm64", "debian-13-amd64"])
def test_a_bootstrapped_base_has_the_packages_of_all_roles(image: str) -> None:
    """In the base they cost a second each, in an emulated machine half a minute."""
    loaded = definition.load(Settings.of({}), image)
    own = [*ROLES.glob("*/vars/Debian.yml"), *ROLES.glob(f"*/vars/Debian-{loaded.release}.yml")]
    for path in [*ROLES.glob("*/defaults/main.yml"), *own]:
        variables = yaml.safe_load(path.read_text()) or {}
        for name, value in variables.items():
            if name.endswith("_packages") and isinstance(value, list):
                assert set(value) <= set(base_bootstrap.packages(loaded)), f"{path}: {name}"


@pytest.mark.parametrize(
    ("distribution", "version", "release"),
    [
        ("Debian", "12.11", "12"),
        ("Debian", "13", "13"),
        ("Ubuntu", "22.04", "22.04"),
        ("Ubuntu", "24.04", "24.04"),
    ],
)
@pytest.mark.parametrize("playbook", ["image.yml", "provision.yml"])
def test_ansible_reads_the_variables_that_definitions_are_made_with(
    playbook: str, distribution: str, version: str, release: str
) -> None:
    """Those of the distribution, and over them those of the release."""
    plays = yaml.safe_load((ROOT / "playbooks" / playbook).read_text())
    facts = {"distribution": distribution, "distribution_version": version}
    facts["distribution_major_version"] = version.partition(".")[0]
    for play, role in itertools.product(plays, ROLES.glob("*/vars")):
        told = play["vars"]
        known = {"ansible_facts": facts, "role_path": role.parent, "query": _query}
        known["serai_release"] = _rendered(told["serai_release"], known)
        assert known["serai_release"] == f"{distribution}-{release}"
        found: dict[str, Any] = {}
        for path in ast.literal_eval(_rendered(told["serai_variables"], known)):
            if (role / path).exists():
                found |= yaml.safe_load((role / path).read_text())
        assert found == variables.of_distribution(role.parent, distribution.lower(), release)


def _query(lookup: str, pattern: str) -> list[str]:
    assert lookup == "ansible.builtin.fileglob"
    return glob.glob(pattern)  # noqa: PTH207 - as Ansible does


def test_every_role_reads_what_differs_and_every_system_says_the_same_things() -> None:
    """What one release's file has, each other's has, or the distribution's."""
    found = [path for path in ROLES.iterdir() if [*path.glob("vars/[A-Z]*.yml")]]
    assert len(found) > 5
    for role in found:
        tasks = "".join(path.read_text() for path in role.glob("tasks/*.yml"))
        assert 'loop: "{{ serai_variables }}"' in tasks, role
        for distribution in ("debian", "ubuntu"):
            systems = [each for each in tools.VERSIONS if each.startswith(distribution)]
            known = [set(variables.of_distribution(role, *each.split("-"))) for each in systems]
            assert all(each == known[0] for each in known), role


def test_the_seal_takes_the_builds_own_user_away() -> None:
    defaults = yaml.safe_load((ROLES / "seal/defaults/main.yml").read_text())
    assert defaults["seal_build_user"] == BUILD_USER


def test_seal_is_the_last_role_of_the_last_layer() -> None:
    plays = yaml.safe_load((ROOT / "playbooks/image.yml").read_text())
    assert plays[-1]["roles"][-1] == "seal"
    assert not any("seal" in play["roles"] for play in plays[:-1])


def _rendered(text: str, known: dict[str, Any]) -> str:
    """A template of Ansible's: what it expands to may be one again."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False)  # noqa: S701
    while "{{" in text:
        text = environment.from_string(text).render(known)
    return text


def test_the_sealing_program_is_plain_shell(tmp_path: Path) -> None:
    template = (ROLES / "seal/templates/seal.sh.j2").read_text()
    script = tmp_path / "seal.sh"
    script.write_text(re.sub(r"\{\{.*?\}\}", "serai", template))
    shellcheck = shutil.which("shellcheck")
    assert shellcheck is not None, "the package shellcheck is not installed"
    done = subprocess.run([shellcheck, script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_a_profile_is_written_as_the_gate_reads_it(tmp_path: Path) -> None:
    rules = {"allow": ["a.test GET /**", "10.0.0.0/8"], "deny": ["b.test"]}
    bind = [
        {"secret": "one", "hosts": ["a.test"], "header": "X-Key: {}", "variable": "KEY"},
        {"secret": "two", "hosts": ["b.test:8443"], "basic": 'a"user'},
    ]
    # As ansible.builtin.template does.
    environment = jinja2.Environment(trim_blocks=True, keep_trailing_newline=True)  # noqa: S701
    environment.filters["to_json"] = json.dumps
    template = environment.from_string((ROLES / "gate/templates/policy.toml.j2").read_text())
    file = tmp_path / "web.toml"
    for profile in ({}, {"summary": 'The "web"', **rules}, {**rules, "bind": bind}):
        file.write_text(template.render(item={"value": profile}))
        found = profiles.read(file)
        assert [each.text for each in found.allow] == profile.get("allow", [])
        assert [each.text for each in found.deny] == profile.get("deny", [])
        assert [each.as_dict() for each in found.bind] == profile.get("bind", [])
