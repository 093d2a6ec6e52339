"""Which build a command takes: what build-image said last, or the one that is asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from serai.image import layout
from serai.image.build import build, builds, layer, plan
from serai.image.definition import definition
from serai.image.definition.definition import Image
from serai.image.errors import BuildError
from serai.image.settings import Settings
from serai.image.vm import accelerator
from tests.unit.image.build.test_plan import project

__all__ = ["project"]  # the fixture

IMAGE = "debian-12-amd64"


def put(settings: Settings, *overrides: str) -> plan.Plan:
    """A finished build with these values, as `_publish` leaves it."""
    made = plan.make(settings, definition.load(settings, IMAGE, overrides))
    made.folder.mkdir(parents=True)
    manifest = {"image": IMAGE, "definition": made.image.model_dump(mode="json")}
    (made.folder / layout.MANIFEST).write_text(json.dumps(manifest))
    return made


def test_the_latest_build_is_what_the_last_command_said_it_was(project: Settings) -> None:
    plain, other = put(project), put(project, "disk.size=12G")
    for overrides, expected in (((), plain), (("disk.size=12G",), other), ((), plain)):
        assert build.build(project, IMAGE, overrides=overrides) == expected.folder
        assert builds.find(project, IMAGE).folder == expected.folder


@pytest.fixture
def made(project: Settings, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is made by the whole recipe, but for what makes disks; a layer 'two' fails if told."""
    made: list[str] = []

    def base(image: Image, _settings: Settings, target: Path, *, log: Path) -> None:
        made.append("base")
        target.touch()

    def layers(image: Image, _settings: Settings, **given: Any) -> None:
        assert given["disk"].exists()
        together = given["layers"]
        made.append(f"{' and '.join(each.name for each in together)} of {image.name}")
        for each in together:
            if (project.root / f"{each.name} fails").exists():
                raise BuildError(f"layer {each.name}: it broke")
            given["made"](each, given["disk"], [])

    def publish(_settings: Settings, made: plan.Plan, _started: object) -> None:
        made.folder.mkdir(parents=True)

    monkeypatch.setattr(build, "_BASES", {"bootstrap": base})
    monkeypatch.setattr(layer, "run_layers", layers)
    monkeypatch.setattr(layer, "compress", lambda _disk, target, _log: target.touch())
    monkeypatch.setattr(accelerator, "choose", lambda *_: "tcg")
    monkeypatch.setattr(build, "_publish", publish)
    monkeypatch.setattr(build, "_HEADROOM_GIB", 0)
    return made


def test_images_make_a_stage_that_they_share_once(project: Settings, made: list[str]) -> None:
    flavour = f'name = "{IMAGE}-lean"\nsummary = "lean"\nflavour_of = "{IMAGE}"\n'
    (project.root / "images" / f"{IMAGE}-lean.toml").write_text(
        f"{flavour}[disk]\nbus = 'virtio'\n"
    )
    build.build(project, IMAGE)
    build.build(project, f"{IMAGE}-lean")
    assert made == ["base", *(f"one and two of {i}" for i in (IMAGE, f"{IMAGE}-lean"))]
    for size in ("11G", "12G", "13G"):  # neither evicts what the other needs
        build.build(project, f"{IMAGE}-lean", overrides=(f"disk.size={size}",))
    made.clear()
    (project.root / "roles/third/tasks/main.yml").write_text("# other\n")
    build.build(project, IMAGE)
    assert made == [f"two of {IMAGE}"]


def test_a_failure_in_the_second_layer_leaves_the_first_in_the_cache(
    project: Settings, made: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    broken = project.root / "two fails"
    broken.touch()
    with pytest.raises(BuildError, match="layer two: it broke"):
        build.build(project, IMAGE)
    told = capsys.readouterr().out
    assert "✓ one: never built here" in told
    assert "✗ two: never built here" in told
    broken.unlink()
    build.build(project, IMAGE)
    assert made == ["base", f"one and two of {IMAGE}", f"two of {IMAGE}"]


def test_a_build_is_found_by_its_version_with_what_was_chosen_for_it(project: Settings) -> None:
    plain, other = put(project), put(project, "disk.size=12G", "machine.cpus=4")
    build.build(project, IMAGE)
    found = builds.find(project, IMAGE, other.version)
    assert found.folder == other.folder
    assert found.image.disk.size == "12G"
    assert found.image.machine.cpus == 2  # it leaves no trace: the definition's of today
    assert found.disk == other.folder / f"{IMAGE}.qcow2"
    assert builds.find(project, IMAGE, "latest").folder == plain.folder
    assert builds.versions(project, IMAGE) == sorted([plain.version, other.version])


@pytest.mark.parametrize("version", ["1.0.0", "..", "../debian-12-amd64", "/etc", "a/b"])
def test_a_version_that_is_not_there_is_told_with_those_that_are(
    project: Settings, version: str
) -> None:
    made = put(project)
    with pytest.raises(BuildError) as caught:
        builds.find(project, IMAGE, version)
    assert str(caught.value) == f"{IMAGE} has no build {version!r}; there are: {made.version}"


def test_an_image_that_is_not_built_is_told_with_what_to_do(project: Settings) -> None:
    with pytest.raises(BuildError, match=r"debian-12-amd64 is not built; run 'invoke build-image"):
        builds.find(project, IMAGE)


@pytest.mark.parametrize("text", ["", "{}", '{"definition": {"name": 1}}'])
def test_a_manifest_that_nobody_can_read_is_one_line(project: Settings, text: str) -> None:
    made = put(project)
    Path(made.folder / layout.MANIFEST).write_text(text)
    with pytest.raises(BuildError, match=r"that this Serai can read; build it again"):
        builds.find(project, IMAGE, made.version)
