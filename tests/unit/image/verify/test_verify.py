"""Gathering facts and judging them, with VMs that do not come up or talk nonsense."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast
from xml.etree import ElementTree

import pytest

from serai.image import digest, layout
from serai.image.definition import definition, pins
from serai.image.definition.definition import Image
from serai.image.errors import BuildError
from serai.image.guest import probe
from serai.image.run import run
from serai.image.settings import Settings
from serai.image.verify import boot_chart, verdict, verify
from serai.image.verify.checks import CHECKS
from serai.image.verify.facts import BootFacts, Digests, ProbeFacts
from serai.image.vm.vm import VM
from tests.conftest import ROOT
from tests.support import evidence
from tests.support.reports import BOOT


@pytest.fixture
def image() -> Image:
    return definition.load(Settings.of({}), "debian-12-amd64")


@pytest.fixture
def folder(checkout: Settings, image: Image) -> Path:
    """A release folder with a disk that is none."""
    shutil.copy(ROOT / pins.FILE, checkout.root)
    shutil.copytree(ROOT / "roles/toolchain/vars", checkout.root / "roles/toolchain/vars")
    folder = checkout.dist / image.name / "0.1.0-abc"
    folder.mkdir(parents=True)
    disk = folder / f"{image.name}.qcow2"
    disk.write_bytes(b"QFI")
    sums = f"{digest.of_file(disk)}  {disk.name}\n"
    (folder / "SHA256SUMS").write_text(sums)
    return folder


def test_a_folder_without_an_image_is_one_clear_error(
    checkout: Settings, image: Image, tmp_path: Path
) -> None:
    with pytest.raises(BuildError, match=r"there is no image .*debian-12-amd64\.qcow2; run"):
        verify.verify(checkout, image, tmp_path)


def test_a_machine_that_does_not_come_up_is_failed_checks_not_an_error(
    checkout: Settings, image: Image, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dead(*_: object, **__: object) -> None:
        raise BuildError("no ssh; the console's last lines: Kernel panic")

    monkeypatch.setattr(verify, "booted", dead)
    report = verify.verify(checkout, image, folder)
    results = {result.check.name: result for result in report.checks}
    assert set(results) == {check.name for check in CHECKS}
    for name in (
        "it reaches multi-user, no unit failed",
        "it reboots, no unit failed",
        "it boots without the sessions disk",
        "a second disk that holds something else is refused",
    ):
        assert not results[name].ok
        assert "Kernel panic" in results[name].detail
    assert not results["no logs are shipped"].ok  # these bytes are no disk
    assert results["the shipped file is what SHA256SUMS says"].ok
    assert results["booting it has not changed the shipped file"].ok
    assert results["that disk is left untouched"].ok is False
    assert report.boot_seconds is None
    assert json.loads((folder / layout.VERIFIED).read_text())["failed"] == report.failed
    assert list((checkout.cache / "verify" / image.name).iterdir()) == []


def test_a_second_disk_is_not_untouched_where_nothing_touched_it(
    checkout: Settings, image: Image, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A check must not pass because what it looks at never happened."""

    def dead(*_: object, **__: object) -> None:
        raise BuildError("no ssh")

    monkeypatch.setattr(verify, "booted", dead)
    earlier = folder / layout.BOOT_CHART
    earlier.write_text("<svg></svg>")
    evidence, _ = verify.gather(checkout, image, folder / f"{image.name}.qcow2")
    assert evidence.foreign_disk == "no ssh"
    assert not earlier.exists()


def test_a_quick_look_boots_once_and_can_be_no_release(
    checkout: Settings, image: Image, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = []
    monkeypatch.setattr(verify, "_kept", lambda *_, **__: begun.append("kept"))
    monkeypatch.setattr(verify, "_others", lambda *_: begun.append("others"))
    report = verify.verify(checkout, image, folder, quick=True)
    assert begun == ["kept"]
    left = [check for check in CHECKS if check.part in verify.LATER]
    assert {check.name for check in left} >= {
        "it reboots, no unit failed",
        "it boots without the sessions disk",
        "that disk is left untouched",
        "the journal says why that disk is refused",
    }
    assert len(report.checks) == len(CHECKS) - len(left)
    assert not (folder / layout.VERIFIED).exists()


def test_a_report_names_the_bytes_it_speaks_of(
    checkout: Settings, image: Image, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "_kept", lambda *_, **__: None)
    monkeypatch.setattr(verify, "_others", lambda *_: None)
    disk = folder / f"{image.name}.qcow2"
    evidence, _ = verify.gather(checkout, image, disk)
    assert verdict.report_of(evidence, "0.1.0-abc", []).sha256 == digest.of_file(disk)
    for found in ("there is no SHA256SUMS", Digests(promised="abc", before="abc", after="def")):
        other = evidence.model_copy(update={"digests": found})
        assert not verdict.report_of(other, "0.1.0-abc", []).sha256


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "there is no SHA256SUMS"),
        ("abc  other.qcow2\n", "SHA256SUMS does not name disk.qcow2"),
        ("\n", "SHA256SUMS does not name disk.qcow2"),
        ("abc *disk.qcow2\n", None),
        ("def  packages.txt\nabc  disk.qcow2\n", None),
    ],
)
def test_digests(tmp_path: Path, content: str | None, reason: str | None) -> None:
    disk = tmp_path / "disk.qcow2"
    disk.write_bytes(b"x")
    if content is not None:
        (tmp_path / "SHA256SUMS").write_text(content)
    found = verify.digests(disk, "before")
    if reason:
        assert found == reason
    else:
        assert found == Digests(promised="abc", before="before", after=digest.of_file(disk))


class FakeSsh:
    """An ssh whose guest says ``output`` to everything."""

    def __init__(self, output: str) -> None:
        self.output = output
        self.key = Path()
        self.asked: list[tuple[str, str]] = []

    def run(
        self, command: str, *, stdin: str = "", **_: object
    ) -> subprocess.CompletedProcess[str]:
        self.asked.append((command, stdin))
        return subprocess.CompletedProcess([command], 0, self.output, "")


class FakeMachine:
    def __init__(self, output: str) -> None:
        self.ssh = FakeSsh(output)


@pytest.mark.parametrize("seconds", ["NaN", "Infinity", "1e999"])
def test_a_number_that_json_does_not_have_is_no_fact(seconds: str) -> None:
    """It would be none of verify.json either."""
    told = json.dumps(evidence.good()["first"]["facts"])
    machine = FakeMachine(told.replace('"took": {"boot": 5.0}', f'"took": {{"boot": {seconds}}}'))
    with pytest.raises(BuildError, match=r"make no sense: took\.boot: .* finite number"):
        verify.probed(cast(VM, machine))


@pytest.mark.parametrize("output", ["", "Welcome!", "{}", '{"boot": 1}'])
def test_a_guest_that_talks_nonsense_is_one_clear_error(output: str) -> None:
    with pytest.raises(BuildError, match="the guest's facts make no sense"):
        verify.probed(cast(VM, FakeMachine(output)))


def test_the_probe_goes_over_stdin_and_the_token_with_it() -> None:
    machine = FakeMachine("")
    with pytest.raises(BuildError):
        verify.probed(cast(VM, machine), "abcd")
    with pytest.raises(BuildError):
        verify.probed_again(cast(VM, machine))
    source = Path(probe.__file__).read_text()
    assert machine.ssh.asked == [("python3 - abcd", source), ("python3 - --boot", source)]


def test_each_boot_is_asked_for_what_may_differ_and_the_first_for_all(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("boot", "system", "identity", "apt", "listening", "disks", "mounted", "sessions")
    more = ("accounts", "journal_boots", "login", "bwrap", "socat")
    for part in (*given, *more):
        monkeypatch.setattr(probe, part, lambda *_: None)
    for argument, facts in (("abcd", ProbeFacts), (probe.OF_A_BOOT, BootFacts)):
        monkeypatch.setattr(sys, "argv", ["-", argument])
        probe.main()
        assert set(json.loads(capsys.readouterr().out)) == set(facts.model_fields)


def test_where_there_is_no_room_for_two_each_vm_waits_for_the_last(
    checkout: Settings, image: Image, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, boots = evidence.good(), []

    class Machine(FakeMachine):
        boot_seconds = 60.0

        def __init__(self, work: Path) -> None:
            super().__init__("")
            self.name = work.name
            self.ssh.key = work / "key"

        def reboot(self) -> float:
            boots.append(f"{self.name} again")
            return 50.0

    @contextmanager
    def booted(*_: object, work: Path, **__: object) -> Iterator[VM]:
        work.mkdir()
        (work / "key.pub").write_text("a key")
        boots.append(work.name)
        yield cast(VM, Machine(work))
        boots.append(f"{work.name} ends")

    monkeypatch.setattr(verify, "booted", booted)
    monkeypatch.setattr(verify, "guests_at_once", lambda _: 1)
    monkeypatch.setattr(
        verify, "probed", lambda *_: ProbeFacts.model_validate(good["first"]["facts"])
    )
    facts = BootFacts.model_validate(good["second"]["facts"])
    monkeypatch.setattr(verify, "probed_again", lambda _: facts)
    found, _ = verify.gather(checkout, image, folder / f"{image.name}.qcow2")
    assert boots == [
        *("kept", "kept again", "kept ends"),
        *("foreign", "foreign ends"),
        *("alone", "alone ends"),
    ]
    for part in (found.first, found.second, found.alone, found.foreign, found.foreign_disk):
        assert not isinstance(part, str), part


class Drawing:
    """A machine whose systemd-analyze draws ``output``, or whose ssh fails."""

    def __init__(self, output: str | None) -> None:
        self.ssh = self
        self.output = output

    def run(self, command: str, **_: object) -> subprocess.CompletedProcess[str]:
        assert command == "systemd-analyze plot"
        if self.output is None:
            raise BuildError("Bootup is not yet finished")
        return subprocess.CompletedProcess([command], 0, self.output, "")


def test_the_chart_of_the_boot_is_kept(tmp_path: Path) -> None:
    verify.draw_boot(cast(VM, Drawing(BOOT)), tmp_path / "boot.svg")
    kept = (tmp_path / "boot.svg").read_text()
    assert boot_chart.boot(kept) == boot_chart.boot(BOOT)


HOSTILE = """<svg onload="alert(1)"><script>alert(2)</script><a href="javascript:alert(3)">
<foreignObject><iframe src="https://evil.example/"/></foreignObject>
<image href="https://evil.example/"/><rect class="box" x="0" y="0" width="500"/>
<rect class="activating" x="1" onclick="alert(4)" width="20"/>
<text>&lt;script&gt;alert(5)&lt;/script&gt;\x1b]0;x\x07 a.service</text></a></svg>"""


def test_nothing_of_the_guests_drawing_is_kept_but_names_and_numbers(tmp_path: Path) -> None:
    verify.draw_boot(cast(VM, Drawing(HOSTILE)), tmp_path / "boot.svg")
    kept = (tmp_path / "boot.svg").read_text()
    found = ElementTree.fromstring(kept)  # noqa: S314 - that it is our own is what is tested
    names = {element.tag.rpartition("}")[2] for element in found.iter()}
    assert names == {"svg", "style", "text", "g", "rect"}
    allowed = {"width", "height", "version", "x", "y", "class", "transform"}
    assert {name for element in found.iter() for name in element.attrib} == allowed
    assert "\x1b" not in kept
    assert "evil.example" not in kept


def test_a_drawing_that_is_made_to_take_for_ever_does_not() -> None:
    for piece in ('<rect class="activating" x="1"', "<text ", '<rect class="box" ', "<text> \n"):
        assert boot_chart.redrawn(f"{piece * 20000}</svg>") == ""


@pytest.mark.parametrize("output", [None, "", "<svg><rect"])
def test_a_machine_that_draws_no_chart_is_a_warning(
    tmp_path: Path, output: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    verify.draw_boot(cast(VM, Drawing(output)), tmp_path / "boot.svg")
    assert not list(tmp_path.iterdir())
    assert "there will be no boot.svg" in capsys.readouterr().err


def test_the_probe_needs_the_standard_library_alone() -> None:
    names = set()
    for node in ast.walk(ast.parse(Path(probe.__file__).read_text(), feature_version=(3, 10))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(str(node.module).split(".")[0])
    assert names <= sys.stdlib_module_names


def test_the_probe_reads_an_ext4_superblock(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    run(["mke2fs", "-q", "-t", "ext4", "-b", "4096", "-L", "sessions", disk, "64M"])
    found = probe.superblock(str(disk))
    assert found is not None
    assert (found["bytes"], found["label"]) == (64 << 20, "sessions")
    told = run(["dumpe2fs", "-h", disk]).stdout
    assert found["uuid"] in told.replace("-", "")
    disk.write_bytes(b"\0" * 4096)
    assert probe.superblock(str(disk)) is None


def test_the_probe_tells_what_a_program_said(tmp_path: Path) -> None:
    assert probe.said("sh", "-c", "echo a; echo b >&2; exit 3") == (3, "a\nb")
    assert probe.said("no-such-program")[0] == 127
    assert probe.said("sleep", "60", timeout=0.1)[0] == 124
    assert probe.text(str(tmp_path / "nothing")) == ""
