"""Whether a VM can be provisioned: what its look says, and its variables' names."""

from __future__ import annotations

import re

import pytest

from serai.image.definition import definition, variables
from serai.image.errors import BuildError
from serai.image.provision import preflight
from serai.image.settings import Settings
from tests.conftest import ROOT

FOR = "and the roles are for ubuntu-22.04, ubuntu-24.04, debian-12, debian-13"
GOOD = "system=debian-12 python=yes sudo=yes user=me"


@pytest.mark.parametrize(
    ("look", "has_password", "sentences"),
    [
        (GOOD, False, []),
        ("Welcome!\r\n" + GOOD.replace("debian-12", "ubuntu-22.04") + "\r\n", False, []),
        (GOOD.replace("sudo=yes", "sudo=asks"), True, []),
        (
            GOOD.replace("sudo=yes", "sudo=asks"),
            False,
            [
                "sudo wants a password of me, or refuses; "
                "allow it without one, or give one with --sudo-password FILE"
            ],
        ),
        (
            "system=slackware- python=no sudo=absent user=me",
            True,
            [
                f"this is slackware-, {FOR}",
                "sudo is not installed; install it as root: apt-get install sudo",
                "python3 is missing; install it: apt-get install python3",
            ],
        ),
        (
            "",
            False,
            [f"this is an unknown system, {FOR}"],
        ),
    ],
)
def test_what_has_to_be_done_first(look: str, has_password: bool, sentences: list[str]) -> None:
    assert preflight.problems(look, has_password) == sentences


@pytest.mark.parametrize("name", variables.FORMER_LIVE)
def test_a_former_variable_is_refused_and_not_ignored(name: str) -> None:
    (sentence,) = preflight.problems(GOOD, has_password=False, names=["other", name])
    assert sentence.startswith(f"{name} is no variable any more: ")
    with pytest.raises(BuildError, match=f"variables.{name} is no variable any more"):
        definition.load(Settings.of({}, ROOT), "debian-12-amd64", [f"variables.{name}=true"])


def test_a_misspelt_variable_of_an_inventory_is_refused() -> None:
    names = ["runtime_memory_mx", "my_own", "runtime_notes_of_ours", "runtime_memory_max"]
    assert preflight.problems(GOOD, has_password=False, names=names) == [
        "runtime_memory_mx is no role's variable; did you mean runtime_memory_max?"
    ]


def test_no_name_that_roles_use_among_themselves_is_taken_for_a_mistake() -> None:
    texts = [path.read_text() for path in (ROOT / "roles").rglob("*.yml")]
    words = {word for text in texts for word in re.findall(r"\b[a-z]+_\w+\b", text)}
    assert "gate_former" in words
    assert preflight.misspelt(words) == []


@pytest.mark.parametrize(
    ("there", "words"),
    [("no", "Serai is not there yet; provision it first"), ("cut", "the run before was cut off")],
)
def test_some_roles_alone_want_a_machine_that_is_provisioned(there: str, words: str) -> None:
    (sentence,) = preflight.problems(f"{GOOD} serai={there}", has_password=False, only=["gate"])
    assert sentence.startswith(words)
    assert preflight.problems(f"{GOOD} serai={there}", has_password=False) == []
    assert preflight.problems(f"{GOOD} serai=yes", has_password=False, only=["gate"]) == []
