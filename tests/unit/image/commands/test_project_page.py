"""The page about a project's images: what their files say, and nothing of Serai's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from serai.image import project
from serai.image.commands import new, project_page
from serai.image.errors import BuildError
from serai.image.settings import Settings

SPEC = """
argument_specs:
  main:
    options:
      acme_agent_greeting: {type: str, default: hello, description: [Says C(it)., Or | not.]}
      acme_agent_token: {type: str, required: true}
"""


@pytest.fixture
def here(tmp_path: Path) -> Path:
    return new.new(Settings.of({}), tmp_path / "acme-agent", "debian-12-amd64")


def written(here: Path) -> str:
    return project_page.write(Settings.of({}, project=project.load(here))).read_text()


def test_it_has_each_image_with_its_variables_roles_and_checks(here: Path) -> None:
    spec = here / "roles/acme_agent/meta/argument_specs.yml"
    spec.write_text(SPEC)
    image = here / "images/acme-agent.toml"
    token = '[variables]\nacme_agent_token = "t"\n'
    image.write_text(image.read_text().replace("[variables]\n", token))
    small = 'name = "acme-small"\nsummary = "Small"\nflavour_of = "acme-agent"\n'
    (here / "images/acme-small.toml").write_text(f"{small}disk = {{size = '4G'}}\n")
    page = written(here)
    first, second = page.index("\n## acme-agent\n"), page.index("\n## acme-small\n")
    about = page[first:second]
    assert "It is debian 12 for amd64, a flavour of `debian-12-amd64`." in about
    assert "Roles in the layer `serai`: `acme_agent`." in about
    row = r"| `acme_agent_greeting` | `hello` | images/acme-agent.toml | Says `it`. Or \| not. |"
    assert row in about
    assert "| acme-agent greets in a session | session | `acme-agent` | `^hello$` |" in about
    assert "a flavour of `acme-agent`" in page[second:]
    assert "| `acme_agent_token` | str | none, required |  |" in page[page.index("\n## role ") :]
    assert "\n## debian" not in page and "role base" not in page
    assert written(here) == page


def test_there_has_to_be_a_project() -> None:
    with pytest.raises(BuildError, match="this is no project; 'serai-build new DIR' makes one"):
        project_page.write(Settings.of({}))
