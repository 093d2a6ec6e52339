"""A shared cache: what one host built another one takes, if a key that it trusts signed it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from serai.image import digest, oci, sign
from serai.image.build import age, build, plan, remote
from serai.image.build.remote_places import Repository
from serai.image.definition import definition
from serai.image.errors import BuildError
from serai.image.run import run
from serai.image.settings import Settings
from tests.support import projects
from tests.support.projects import IMAGE, Builder

ALL = ["base", "one", "two"]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two keys, ``ci`` and ``other``, and the file ``trusted`` that has the first."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("ci", "other"):
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", folder / name])
    public = (folder / "ci.pub").read_text()
    (folder / "trusted").write_text(f"ci@example.org {public}")
    return folder


@pytest.fixture
def builder(monkeypatch: pytest.MonkeyPatch) -> Builder:
    return Builder(monkeypatch)


class Hosts:
    """Build hosts with the same checkout and the same shared cache."""

    def __init__(self, checkout: Settings, keys: Path, name: str) -> None:
        projects.fill(checkout)
        self._shared = replace(
            checkout, cache_remote=name, cache_signers=str(keys / "trusted"), cache_sign_key=""
        )
        self.keys, self.home = keys, checkout.root.parent

    def settings(self, host: str, key: str = "", **changed: str) -> Settings:
        folder, signing = self.home / host, str(self.keys / key) if key else ""
        own = replace(
            self._shared, cache=folder / "cache", dist=folder / "dist", cache_sign_key=signing
        )
        return replace(own, **changed)  # type: ignore[arg-type]

    def build(self, host: str, key: str = "", **changed: str) -> str:
        folder = build.build(self.settings(host, key, **changed), IMAGE)
        return (folder / f"{IMAGE}.qcow2").read_text()

    def stages(self, host: str) -> tuple[plan.Stage, ...]:
        settings = self.settings(host)
        return plan.make(settings, definition.load(settings, IMAGE)).stages


@pytest.fixture(params=["directory", "file", "oci"])
def hosts(request: pytest.FixtureRequest, checkout: Settings, keys: Path, tmp_path: Path) -> Hosts:
    shared = tmp_path / "shared"
    shared.mkdir()
    name = {"directory": "{}", "file": "file://{}", "oci": "oci:{}/layout"}[request.param]
    return Hosts(checkout, keys, name.format(shared))


@pytest.fixture
def folder_hosts(checkout: Settings, keys: Path, tmp_path: Path) -> Hosts:
    (tmp_path / "shared").mkdir()
    return Hosts(checkout, keys, str(tmp_path / "shared"))


def test_a_second_host_builds_no_stage(
    hosts: Hosts, builder: Builder, capsys: pytest.CaptureFixture[str]
) -> None:
    made = hosts.build("first", "ci")
    assert builder.built == ALL
    assert hosts.build("second") == made
    assert builder.built == ALL
    assert capsys.readouterr().err == ""
    for one, two in zip(hosts.stages("first"), hosts.stages("second"), strict=True):
        assert (one.folder.parent.name, one.folder.name) == (
            two.folder.parent.name,
            two.folder.name,
        )
        assert two.record() == {**one.record(), "signer": "ci@example.org"}
        names = sorted(path.name for path in two.folder.iterdir())
        assert names == ["build.log", "disk.qcow2", "stage.json", "users"]
    manifest = json.loads(next((hosts.home / "second/dist").glob("*/*/manifest.json")).read_text())
    assert {stage["signer"] for stage in manifest["stages"]} == {"ci@example.org"}


def test_without_a_key_nothing_is_put_there(hosts: Hosts, builder: Builder) -> None:
    hosts.build("first")
    assert list((hosts.home / "shared").iterdir()) == []
    hosts.build("second")
    assert builder.built == [*ALL, *ALL]


def test_stages_that_are_cached_already_are_put_there_too(
    folder_hosts: Hosts, builder: Builder
) -> None:
    hosts = folder_hosts
    made = hosts.build("first", cache_remote="")
    shutil.rmtree(hosts.home / "first/dist")
    assert hosts.build("first", "ci") == made
    assert hosts.build("second") == made
    assert builder.built == ALL


def entry(hosts: Hosts, stage: str) -> Path:
    (found,) = (path for path in (hosts.home / "shared" / stage).glob("[!.]*") if path.is_dir())
    return found


def other_bytes(hosts: Hosts) -> None:
    (entry(hosts, "one") / "disk.qcow2").write_text("other\n")


def longer(hosts: Hosts) -> None:
    with (entry(hosts, "one") / "disk.qcow2").open("a") as stream:
        stream.truncate(11 << 30)  # sparse


def other_list(hosts: Hosts) -> None:
    other_bytes(hosts)
    sums = entry(hosts, "one") / "SHA256SUMS"
    sums.write_text(sign.sums({each: digest.of_file(sums.parent / each) for each in FILES}))


FILES = ("stage.json", "build.log", "disk.qcow2")


def by_another_key(hosts: Hosts, key: str = "other", namespace: str = remote.NAMESPACE) -> None:
    other_list(hosts)
    folder = entry(hosts, "one")
    (folder / "SHA256SUMS.sig").unlink()
    sign.sign(folder, hosts.keys / key, namespace)


def for_something_else(hosts: Hosts) -> None:
    by_another_key(hosts, "ci", sign.NAMESPACE)


def of_another_stage(hosts: Hosts) -> None:
    """A whole entry that is signed well, in the place of another one."""
    target = entry(hosts, "one")
    shutil.rmtree(target)
    shutil.copytree(entry(hosts, "base"), target)


def of_no_age(hosts: Hosts) -> None:
    """A record that has another host take the file's own time for the base's."""
    folder = entry(hosts, "one")
    record = json.loads((folder / "stage.json").read_text())
    del record[age.BASE_MADE]
    (folder / "stage.json").write_text(json.dumps(record))
    by_ci(hosts)


def by_ci(hosts: Hosts) -> None:
    folder = entry(hosts, "one")
    sums = sign.sums({each: digest.of_file(folder / each) for each in FILES})
    (folder / "SHA256SUMS").write_text(sums)
    (folder / "SHA256SUMS.sig").unlink()
    sign.sign(folder, hosts.keys / "ci", remote.NAMESPACE)


def a_list_of_less(hosts: Hosts) -> None:
    folder = entry(hosts, "one")
    (folder / "SHA256SUMS").write_text(sign.sums({FILES[0]: digest.of_file(folder / FILES[0])}))
    (folder / "SHA256SUMS.sig").unlink()
    sign.sign(folder, hosts.keys / "ci", remote.NAMESPACE)


def no_signature(hosts: Hosts) -> None:
    (entry(hosts, "one") / "SHA256SUMS.sig").unlink()


def a_link(hosts: Hosts) -> None:
    disk = entry(hosts, "one") / "disk.qcow2"
    disk.unlink()
    disk.symlink_to("/etc/passwd")


def a_pipe(hosts: Hosts) -> None:
    (entry(hosts, "one") / "disk.qcow2").unlink()
    os.mkfifo(entry(hosts, "one") / "disk.qcow2")


@pytest.mark.parametrize(
    ("tamper", "why"),
    [
        (other_bytes, "disk.qcow2 is not the file that ci@example.org signed"),
        (longer, "disk.qcow2 has more than the 10804527104 bytes it may have"),
        (other_list, "SHA256SUMS.sig is no good signature of SHA256SUMS"),
        (by_another_key, "its key is not listed there"),
        (for_something_else, "SHA256SUMS.sig is no good signature"),
        (of_another_stage, "it is another stage that ci@example.org signed, base "),
        (of_no_age, "stage.json, as ci@example.org signed it, cannot be read"),
        (a_list_of_less, "SHA256SUMS lists other files than a stage has"),
        (no_signature, "SHA256SUMS.sig: No such file"),
        (a_link, "disk.qcow2: Too many levels of symbolic links"),
        (a_pipe, "disk.qcow2 is not a plain file"),
    ],
)
def test_what_was_tampered_with_is_refused_in_one_line_and_built_here(
    folder_hosts: Hosts,
    builder: Builder,
    capsys: pytest.CaptureFixture[str],
    tamper: Callable[[Hosts], None],
    why: str,
) -> None:
    hosts = folder_hosts
    hosts.build("first", "ci")
    tamper(hosts)
    capsys.readouterr()
    made = hosts.build("second", "ci")
    # The layer after it was built on the base that is still good.
    assert builder.built == [*ALL, "one"]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: one ")
    assert why in line
    assert "other" not in made
    # What was built took the place of what was refused.
    hosts.build("third")
    assert builder.built == [*ALL, "one"]
    assert capsys.readouterr().err == ""


def test_without_a_look_at_signatures_a_foreign_stage_is_built_on(
    folder_hosts: Hosts, builder: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts = folder_hosts
    hosts.build("first", "ci")
    by_another_key(hosts)
    monkeypatch.setattr(sign, "signer", lambda *_: "anybody")
    hosts.build("second")
    assert builder.built == ALL
    assert hosts.stages("second")[1].disk.read_text() == "other\n"


def test_a_fresh_build_takes_nothing_from_there(
    folder_hosts: Hosts, builder: Builder, capsys: pytest.CaptureFixture[str]
) -> None:
    hosts = folder_hosts
    hosts.build("first", "ci")
    capsys.readouterr()
    build.build(hosts.settings("second"), IMAGE, fresh=True)
    assert builder.built == [*ALL, *ALL]
    assert capsys.readouterr().err == ""


def test_what_is_too_old_is_not_taken(
    folder_hosts: Hosts, builder: Builder, capsys: pytest.CaptureFixture[str]
) -> None:
    hosts = folder_hosts
    hosts.build("first", cache_remote="")
    for stage in hosts.stages("first"):
        record = stage.record() | {age.BASE_MADE: "2026-01-01T00:00:00Z"}
        (stage.folder / plan.RECORD).write_text(json.dumps(record))
    shutil.rmtree(hosts.home / "first/dist")
    hosts.build("first", "ci")
    assert builder.built == ALL
    capsys.readouterr()
    hosts.build("second", cache_max_age="20")
    assert builder.built == [*ALL, *ALL]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert all("older than 20 days (SERAI_CACHE_MAX_AGE)" in line for line in lines)


def test_a_stage_of_no_age_is_not_put_there(folder_hosts: Hosts, builder: Builder) -> None:
    hosts = folder_hosts
    hosts.build("first")
    for stage in hosts.stages("first"):
        record = {key: value for key, value in stage.record().items() if key != age.BASE_MADE}
        (stage.folder / plan.RECORD).write_text(json.dumps(record))
    shutil.rmtree(hosts.home / "first/dist")
    hosts.build("first", "ci")
    assert builder.built == ALL
    assert list((hosts.home / "shared").iterdir()) == []


def test_nobody_vouches_for_what_another_one_signed(
    folder_hosts: Hosts, builder: Builder, tmp_path: Path
) -> None:
    hosts = folder_hosts
    hosts.build("first", "ci")
    hosts.build("second")
    shutil.rmtree(hosts.home / "second/dist")
    (tmp_path / "elsewhere").mkdir()
    hosts.build("second", "other", cache_remote=str(tmp_path / "elsewhere"))
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert builder.built == ALL


def test_a_shared_cache_that_fails_stops_no_build(
    checkout: Settings,
    keys: Path,
    builder: Builder,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").touch()
    hosts = Hosts(checkout, keys, f"oci:{tmp_path}/file/layout")
    hosts.build("first", "ci")
    assert builder.built == ALL
    lines = capsys.readouterr().err.splitlines()
    # Neither the look at what is there nor the try to put it there worked.
    told = [line.split(": ")[1].split()[0] for line in lines]
    assert told == ["base", "base", "one", "two", "one", "two"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"cache_signers": ""}, "nothing says whose stages to trust; SERAI_CACHE_SIGNERS=FILE"),
        ({"cache_signers": "/nowhere"}, "SERAI_CACHE_SIGNERS: there is no file /nowhere"),
        ({"cache_sign_key": "/nowhere"}, "SERAI_CACHE_SIGN_KEY: there is no file /nowhere"),
        ({"cache_remote": "/nowhere"}, "there is no directory /nowhere; make it, or mount it"),
        ({"cache_remote": "s3://bucket"}, "there is no shared cache of the kind 's3'; a directory"),
        ({"cache_remote": "docker://host/name:tag"}, "is not a repository; docker://HOST/NAME"),
        ({"cache_remote": "docker://host/name@sha256:1"}, "is not a repository"),
        ({"cache_remote": "oci:"}, "is not a repository"),
    ],
)
def test_a_shared_cache_that_is_wrong_is_one_line(
    folder_hosts: Hosts, changed: dict[str, str], said: str
) -> None:
    with pytest.raises(BuildError) as raised:
        remote.of(folder_hosts.settings("first", **changed))
    assert said in str(raised.value)


def pushed(folder: Path, content: dict[str, str], **changed: Any) -> Repository:
    """A layout whose image for the entry one/key has these files, its manifest ``changed``."""
    paths = {}
    for number, (name, text) in enumerate(content.items()):
        paths[name] = folder / str(number)
        paths[name].write_text(text)
    layout = folder / "layout"
    oci.lay_out(paths, layout, arch="amd64", tag="one-key", stamp=0)
    index = json.loads((layout / "index.json").read_text())
    described = index["manifests"][0]
    path = layout / "blobs/sha256" / described["digest"].removeprefix("sha256:")
    manifest = json.loads(path.read_text()) | changed
    path.write_text(json.dumps(manifest))
    described |= {"digest": f"sha256:{digest.of_file(path)}", "size": path.stat().st_size}
    path.rename(path.with_name(digest.of_file(path)))
    (layout / "index.json").write_text(json.dumps(index))
    return Repository(f"oci:{layout}")


@pytest.mark.parametrize(
    ("content", "changed", "most", "why"),
    [
        ({"a": "1", "b": "2"}, {}, 1 << 20, "holds something else than a stage"),
        ({"../a": "1"}, {}, 1 << 20, "holds something else than a stage"),
        ({"a": "1"}, {"layers": []}, 1 << 20, "not one of an image of one layer"),
        ({"a": "1"}, {"layers": [{"digest": "sha256:../x", "size": 1}]}, 1 << 20, "of one layer"),
        ({"a": "1" * 4000}, {}, 3000, "more than the 3000 it may have"),
    ],
)
def test_an_image_that_is_no_stage_is_refused(
    tmp_path: Path, content: dict[str, str], changed: dict[str, Any], most: int, why: str
) -> None:
    place, into = pushed(tmp_path, content, **changed), tmp_path / "into"
    into.mkdir()
    with pytest.raises(BuildError, match=why):
        place.get(Path("one/key"), into, ["a"], most=most)


def test_what_unpacks_to_more_than_it_may_is_refused(tmp_path: Path) -> None:
    place, into = pushed(tmp_path, {"a": "1" * 100_000}), tmp_path / "into"
    into.mkdir()
    small = Repository(f"oci:{tmp_path}/compressed")
    copy = ["skopeo", "--insecure-policy", "copy", "-q"]
    run([*copy, f"oci:{tmp_path}/layout:one-key", f"oci:{tmp_path}/compressed:one-key"])
    with pytest.raises(BuildError, match="a has more than the 50000 bytes it may have"):
        small.get(Path("one/key"), into, ["a"], most=50_000)
    assert place.get(Path("one/key"), into, ["a"], most=200_000)
    assert (into / "a").read_text() == "1" * 100_000
    assert not place.get(Path("one/other"), into, ["a"], most=1)
