"""A project's image: planned from outside of the checkout, and what each change rebuilds."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from serai.image import layout, project
from serai.image.build import build, layer, plan, playbook
from serai.image.build.plan import Plan
from serai.image.commands import new
from serai.image.definition import definition
from serai.image.errors import BuildError
from serai.image.provision import provision
from serai.image.settings import Settings

NAME = "acme-agent"
BASE = "debian-12-amd64"
CERTIFICATES = Path(definition.__file__).parents[1] / "rehearsal/data/project/certificates"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Of a project as `invoke new` makes it, with an authority of its own besides."""
    here = new.new(Settings.of({}), tmp_path / NAME, BASE)
    shutil.copytree(CERTIFICATES, here / "certificates")
    file = here / "images" / f"{NAME}.toml"
    text = file.read_text().replace(
        "[variables]\n", '[variables]\nbase_certificates = "certificates"\n'
    )
    file.write_text(text)
    environ = {"SERAI_CACHE": str(tmp_path / "cache")}
    return Settings.of(environ, project=project.load(here))


def made(settings: Settings, *overrides: str) -> Plan:
    return plan.make(settings, definition.load(settings, NAME, overrides))


def home(settings: Settings) -> Path:
    assert settings.project
    return settings.project.directory


def test_its_roles_come_before_ours_that_are_the_last(settings: Settings) -> None:
    other = home(settings) / "roles/acme_tools/tasks"
    other.mkdir(parents=True)
    image = definition.load(settings, NAME, ["roles.system=['acme_tools']"])
    system, serai = playbook.read(settings, image.roles)
    assert system.roles[-2:] == ("acme_tools", "hardening")
    assert serai.roles[-3:] == ("project", "acme_agent", "seal")


def test_ansible_gets_the_values_the_roles_and_where_to_fetch(
    settings: Settings, tmp_path: Path
) -> None:
    fetching = project.BuildEnvironment(https_proxy="http://proxy.test")
    assert settings.project
    proxied = dataclasses.replace(
        settings, project=dataclasses.replace(settings.project, build=fetching)
    )
    stages = made(proxied).stages
    assert [each.key for each in stages] == [each.key for each in made(settings).stages]
    assert stages[-1].chosen == {
        "project_files": [str(home(settings) / "files")],
        "acme_agent_greeting": "hello",
        "base_certificates": str(home(settings) / "certificates"),
        "seal_image_id": NAME,
        "seal_image_version": made(settings).version,
    }
    written = layer._write_playbook(definition.load(proxied, NAME), proxied, tmp_path)
    for play in yaml.safe_load(written.read_text()):
        told = {"https_proxy": "http://proxy.test", "NEEDRESTART_MODE": "a"}
        assert play["environment"] == {**playbook._TRUST, **told}


def append(path: str, text: str) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        with (directory / path).open("a") as stream:
            stream.write(text)

    return change


def chmod(path: str) -> Callable[[Path], None]:
    return lambda directory: (directory / path).chmod(0o755)


IMAGE = f"images/{NAME}.toml"


@pytest.mark.parametrize(
    ("change", "rebuilt"),
    [
        (append("roles/acme_agent/tasks/main.yml", "# more\n"), ["serai"]),
        (append("roles/acme_agent/defaults/main.yml", "acme_agent_x: 1\n"), ["serai"]),
        (append("files/usr/local/bin/acme-agent", "# more\n"), ["serai"]),
        (chmod("files/etc-is-new"), ["serai"]),
        (append("certificates/rehearsal.crt", "\n"), ["system", "serai"]),
        (append(IMAGE, '[base]\npackages = ["jq"]\n'), ["base", "system", "serai"]),
        (append(IMAGE, "[budget]\nroot_mib = 2000\n"), []),
        (append(IMAGE, '[[checks]]\nname = "true"\ncommand = ["true"]\n'), []),
        (append(".gitignore", "x\n"), []),
        (append(project.FILE, '[build]\nhttp_proxy = "http://proxy.test"\n'), []),
        (append(project.FILE, '[build]\npip_index_url = "http://i.test"\n'), ["system", "serai"]),
    ],
)
def test_a_change_rebuilds_what_it_goes_into_and_no_more(
    settings: Settings, change: Callable[[Path], None], rebuilt: list[str]
) -> None:
    (home(settings) / "files/etc-is-new").write_text("")
    before = {each.name: each.key for each in made(settings).stages}
    change(home(settings))
    again = dataclasses.replace(settings, project=project.load(home(settings)))
    after = {each.name: each.key for each in made(again).stages}
    assert [name for name in before if before[name] != after[name]] == rebuilt


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("roles.system=['absent']", "names 'absent', and the project has no such role; its roles"),
        ("roles.system=['seal']", "names 'seal', and the project has no such role"),
        ("roles.system=['acme_agent']", "names 'acme_agent' twice"),
        ("roles.serai=[]", "is of the role acme_agent, which .roles. does not name"),
        ("variables.project_files=['~nobody-at-all/x']", "variables.project_files: .~nobody"),
        ("variables.project_files=['']", "variables.project_files: there is no"),
        ("variables.acme_agent_greting=1", "is no role's variable; did you mean acme_agent_gre"),
        ("variables.acme_agent_greeting=1", "must be a text, it is 1"),
        ("variables.project_files=['nowhere']", "variables.project_files: there is no .*nowhere"),
        ("variables.project_files=['files','files']", "two files for /usr/local/bin/acme-agent"),
        ("variables.base_certificates=images", r"has no file \*\.crt"),
        ("flavour_of=debian-99", "flavour_of is not a known key"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_built(
    settings: Settings, override: str, said: str
) -> None:
    with pytest.raises(BuildError, match=said) as caught:
        made(settings, override)
    assert "\n" not in str(caught.value)


def test_flavours_of_flavours_but_no_circle(settings: Settings) -> None:
    images = home(settings) / "images"
    small = f'name = "acme-small"\nsummary = "s"\nflavour_of = "{NAME}"\ndisk = {{size = "4G"}}\n'
    (images / "acme-small.toml").write_text(small)
    assert definition.load(settings, "acme-small").variables["acme_agent_greeting"] == "hello"
    text = (images / f"{NAME}.toml").read_text()
    (images / f"{NAME}.toml").write_text(text.replace(f'"{BASE}"', '"acme-small"'))
    with pytest.raises(BuildError, match=rf"circle: {NAME} → acme-small → {NAME}"):
        definition.load(settings, NAME)


def test_no_name_is_taken_twice(settings: Settings) -> None:
    roles, images = home(settings) / "roles", home(settings) / "images"
    (roles / "gate").mkdir()
    with pytest.raises(BuildError, match=r"roles/gate: Serai has a role of that name"):
        made(settings)
    (roles / "gate").rmdir()
    shutil.copy(images / f"{NAME}.toml", images / f"{BASE}.toml")
    with pytest.raises(BuildError, match="Serai has an image of that name"):
        definition.load(settings, BASE)


def test_a_role_that_declares_nonsense_is_named(settings: Settings) -> None:
    spec = home(settings) / "roles/acme_agent/meta/argument_specs.yml"
    spec.write_text("- x\n")
    with pytest.raises(BuildError, match=r"acme_agent/meta/argument_specs.yml is no table"):
        made(settings)
    for text in ("argument_specs: [1]", "argument_specs: {main: {options: {a: 1}}}"):
        spec.write_text(text)
        with pytest.raises(BuildError, match=r"argument_specs.yml: "):
            made(settings)
    clash = {"argument_specs": {"main": {"options": {"base_packages": {"type": "list"}}}}}
    spec.write_text(yaml.safe_dump(clash))
    with pytest.raises(BuildError, match="base_packages is a variable of the role base already"):
        made(settings)


def test_a_variable_that_a_role_requires_is_asked_for(settings: Settings) -> None:
    role = home(settings) / "roles/acme_agent"
    spec = yaml.safe_load((role / "meta/argument_specs.yml").read_text())
    asked = {"type": "str", "required": True, "description": "x"}
    spec["argument_specs"]["main"]["options"]["acme_agent_token"] = asked
    (role / "meta/argument_specs.yml").write_text(yaml.safe_dump(spec))
    said = f"{NAME}.toml: variables.acme_agent_token is not set, and its role requires it; add it"
    with pytest.raises(BuildError, match=said):
        made(settings)
    made(settings, "variables.acme_agent_token=t")
    (role / "vars").mkdir()
    (role / "vars/main.yml").write_text("acme_agent_token: t\n")
    made(settings)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a", "defaults/main.yml is no table of names and values"),
        ("a: [", "defaults/main.yml is not YAML"),
        ("acme_agent_packages: [{name: jq}]", "acme_agent_packages has {'name': 'jq'} in it"),
        ("acme_agent_packages: ['no such!']", "acme_agent_packages has 'no such!' in it"),
    ],
)
def test_a_roles_defaults_that_are_none_are_named(settings: Settings, text: str, said: str) -> None:
    (home(settings) / "roles/acme_agent/defaults/main.yml").write_text(text)
    with pytest.raises(BuildError, match=said):
        made(settings)


def test_what_is_encrypted_is_left_to_ansible(settings: Settings) -> None:
    text = "acme_agent_key: !vault |\n  $ANSIBLE_VAULT;1.1;AES256\n"
    (home(settings) / "roles/acme_agent/defaults/main.yml").write_text(text)
    made(settings)


def test_a_role_that_another_one_includes_is_part_of_the_key(settings: Settings) -> None:
    common = home(settings) / "roles/acme_common/tasks/main.yml"
    common.parent.mkdir(parents=True)
    common.write_text("# one\n")
    before = made(settings).stages
    common.write_text("# two\n")
    after = made(settings).stages
    changed = [a.name for a, b in zip(after, before, strict=True) if a.key != b.key]
    assert changed == ["serai"]


def test_a_build_is_published_again_where_only_its_checks_differ(settings: Settings) -> None:
    """Else a release would be made of what an older check has seen."""
    one, other = made(settings), made(settings, "checks=[{name='a', command=['true']}]")
    assert one.folder == other.folder
    one.folder.mkdir(parents=True)
    manifest = {"definition": one.image.model_dump(mode="json")}
    (one.folder / layout.MANIFEST).write_text(json.dumps(manifest))
    assert build._is_defined_as(one)
    assert not build._is_defined_as(other)


def test_roles_of_its_own_are_not_left_out_of_a_provision_in_silence(
    settings: Settings, tmp_path: Path
) -> None:
    options = provision.Options(hosts=("root@192.0.2.1",), image=NAME)
    with pytest.raises(BuildError, match="has roles of its own, which 'provision' does not play"):
        provision.command(settings, options, tmp_path)


def test_a_link_out_of_a_role_is_refused(settings: Settings) -> None:
    (home(settings) / "roles/acme_agent/files").mkdir()
    (home(settings) / "roles/acme_agent/files/shared").symlink_to("../../../files")
    with pytest.raises(BuildError, match="files/shared is a link out of"):
        made(settings)


def test_an_existing_repository_may_become_a_project(tmp_path: Path) -> None:
    (tmp_path / "acme/.git").mkdir(parents=True)
    here = new.new(Settings.of({}), tmp_path / "acme", BASE)
    assert (here / ".git").is_dir() and (here / project.FILE).is_file()
    for name in ("serai", "seal", "base"):
        with pytest.raises(BuildError, match="Serai has an image or a role"):
            new.new(Settings.of({}), tmp_path / name, BASE)


def test_a_directory_that_has_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").touch()
    for name, said in (("mine", "is not empty"), ("Wrong", "cannot be an image's name")):
        with pytest.raises(BuildError, match=said):
            new.new(Settings.of({}), tmp_path / name, BASE)
    with pytest.raises(BuildError, match="there is no image 'no-such'"):
        new.new(Settings.of({}), tmp_path / "acme", "no-such")
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "file"]


def test_a_new_project_passes_ansibles_own_linter(tmp_path: Path) -> None:
    here = new.new(Settings.of({}), tmp_path / NAME, BASE)
    ran = subprocess.run(
        [Path(sys.executable).with_name("ansible-lint"), "--offline", "--strict", "roles"],
        cwd=here,
        env={
            "PATH": f"{Path(__import__('sys').executable).parent}:/usr/bin:/bin",
            "HOME": str(tmp_path),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout
