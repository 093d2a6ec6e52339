"""Every way in which a release folder may be another than the signed one is named."""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from serai.image import sign
from serai.image.errors import BuildError
from serai.image.release import release, verify_release
from serai.image.run import run
from tests.support import releases
from tests.support.releases import IMAGE, NAMES

SIGNED = [name for name in NAMES if not name.startswith("SHA256SUMS")]


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a signed release in 1.0.0/, its key, and allowed_signers."""
    folder = tmp_path_factory.mktemp("signed")
    key, _ = releases.keys(folder)
    made = release.release(releases.build(folder), IMAGE, "1.0.0", key=key)
    made.rename(folder / "1.0.0")
    return folder


@pytest.fixture
def clone(origin: Path, tmp_path: Path) -> Path:
    """A copy of the release, of a test's own."""
    shutil.copytree(origin / "1.0.0", tmp_path / "clone")
    return tmp_path / "clone"


@pytest.fixture
def refused(origin: Path, clone: Path) -> Callable[[str], None]:
    def check(message: str) -> None:
        with pytest.raises(BuildError) as caught:
            verify_release.verify(clone, origin / "allowed_signers")
        assert message in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1

    return check


def again(clone: Path, key: Path) -> None:
    """Sum and sign ``clone`` as it is."""
    (clone / "SHA256SUMS").write_text(sign.sums(sign.digests(clone)))
    (clone / "SHA256SUMS.sig").unlink(missing_ok=True)
    sign.sign(clone, key)


def edit(path: Path, change: Callable[[dict[str, object]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_the_names_are_all_there_are(origin: Path) -> None:
    assert sorted(path.name for path in (origin / "1.0.0").iterdir()) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("where", [0.0, 0.5, 1.0])
def test_one_byte_of_any_file(
    clone: Path, refused: Callable[[str], None], name: str, where: float
) -> None:
    path = clone / name
    with path.open("r+b") as stream:
        place = int((path.stat().st_size - 1) * where)
        stream.seek(place)
        byte = stream.read(1)[0]
        stream.seek(place)
        stream.write(bytes([byte ^ 1]))
    refused(name if "SUMS" in name else f"{name} is not what was signed")


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_is_gone(clone: Path, refused: Callable[[str], None], name: str) -> None:
    (clone / name).unlink()
    refused(f"{name} is not there" if "SUMS" in name else f"{name} was signed, but is not there")


@pytest.mark.parametrize("name", SIGNED)
def test_a_file_that_is_longer(clone: Path, refused: Callable[[str], None], name: str) -> None:
    with (clone / name).open("ab") as stream:
        stream.write(b"\0")
    refused(f"{name} is not what was signed")


@pytest.mark.parametrize("name", ["extra", "SHA256SUMS2", "z.qcow2"])
def test_a_file_more(clone: Path, refused: Callable[[str], None], name: str) -> None:
    (clone / name).write_text("x")
    refused(f"{name} is there, but was not signed")


def test_two_files_that_were_swapped(clone: Path, refused: Callable[[str], None]) -> None:
    one, two = clone / "packages.txt", clone / f"{IMAGE}.cmdline"
    (clone / "third").write_bytes(one.read_bytes())
    two.replace(one)
    (clone / "third").replace(two)
    refused(f"{IMAGE}.cmdline is not what was signed")


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("link", lambda path: path.symlink_to("packages.txt"), "link is a symbolic link"),
        ("folder", Path.mkdir, "folder is a directory"),
        ("fifo", os.mkfifo, "fifo is a fifo"),
        ("line\nbreak", Path.touch, r"'line\nbreak' is no name"),
        (".hidden", Path.touch, "'.hidden' is no name"),
        ("caf\u00e9", Path.touch, r"'caf\xe9' is no name"),
        ("a" * 200, Path.touch, "is no name"),
    ],
)
def test_what_no_release_has(
    clone: Path,
    refused: Callable[[str], None],
    name: str,
    make: Callable[[Path], object],
    message: str,
) -> None:
    make(clone / name)
    refused(message)


@pytest.mark.parametrize("name", ["packages.txt", "SHA256SUMS", "SHA256SUMS.sig"])
@pytest.mark.parametrize("kind", ["link", "fifo"])
def test_a_signed_name_that_is_no_plain_file(
    clone: Path, refused: Callable[[str], None], name: str, kind: str
) -> None:
    (clone / name).rename(clone.parent / name)
    if kind == "link":
        (clone / name).symlink_to(clone.parent / name)
    else:
        os.mkfifo(clone / name)
    refused(f"{name} is a {'symbolic link' if kind == 'link' else 'fifo'}")


def test_a_socket(clone: Path, refused: Callable[[str], None]) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        descriptor = os.open(clone, os.O_PATH)
        server.bind(f"/proc/self/fd/{descriptor}/sock")  # a socket's path must be short
        os.close(descriptor)
        refused("sock is a socket")


def test_too_many_files(clone: Path, refused: Callable[[str], None]) -> None:
    for number in range(200):
        (clone / f"f{number}").touch()
    refused("more than 100 files")


@pytest.mark.parametrize("name", [f"{IMAGE}.qcow2", "provenance.json", "SHA256SUMS"])
def test_a_huge_file_costs_nothing(clone: Path, refused: Callable[[str], None], name: str) -> None:
    os.truncate(clone / name, 1 << 42)
    begin = time.process_time()
    refused(name)
    # A tebibyte takes an hour to read; this is no measurement.
    assert time.process_time() - begin < 60


def test_another_s_signature(clone: Path, refused: Callable[[str], None], tmp_path: Path) -> None:
    other, _ = releases.keys(tmp_path)
    again(clone, other)
    refused("SHA256SUMS.sig is no good signature of SHA256SUMS by a key in ")


def test_a_signature_for_something_else(
    clone: Path, refused: Callable[[str], None], origin: Path
) -> None:
    (clone / "SHA256SUMS.sig").unlink()
    run(["ssh-keygen", "-Y", "sign", "-n", "git", "-f", origin / "key", clone / "SHA256SUMS"])
    refused("SHA256SUMS.sig is no good signature of SHA256SUMS by a key in ")


def test_what_follows_a_signature_was_not_signed(
    clone: Path, refused: Callable[[str], None]
) -> None:
    with (clone / "SHA256SUMS.sig").open("ab") as stream:
        stream.write(b"and more\n")
    refused("SHA256SUMS.sig is no good signature")


def test_without_keys_nothing_is_good(clone: Path, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="there is no file"):
        verify_release.verify(clone, tmp_path / "none")
    (tmp_path / "empty").write_text("")
    with pytest.raises(BuildError, match="its key is not listed there"):
        verify_release.verify(clone, tmp_path / "empty")


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="cannot be read: No such file"):
        verify_release.verify(tmp_path / "none", tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BuildError, match="SHA256SUMS is not there"):
        verify_release.verify(tmp_path / "empty", tmp_path)


# --- signed by the right key, but not what a release is


@pytest.mark.parametrize(
    "line",
    [
        f"{'a' * 64}  ../escape\n",
        f"{'a' * 64}  /etc/passwd\n",
        f"{'a' * 64} *packages.txt\n",
        f"{'A' * 64}  upper\n",
        "nonsense\n",
        f"\\{'a' * 64}  a\\nb\n",
        f"{'a' * 64}  packages.txt\n",  # twice
        f"{'a' * 64}  no-line-end",
    ],
)
def test_signed_sums_that_are_no_release_s(
    clone: Path, refused: Callable[[str], None], origin: Path, line: str
) -> None:
    with (clone / "SHA256SUMS").open("a") as stream:
        stream.write(line)
    (clone / "SHA256SUMS.sig").unlink()
    sign.sign(clone, origin / "key")
    refused("SHA256SUMS is signed, but not a release's")


def test_provenance_of_other_bytes(
    clone: Path, refused: Callable[[str], None], origin: Path
) -> None:
    (clone / "packages.txt").write_text("other\n")
    again(clone, origin / "key")
    refused("provenance.json is signed, but wrong: it does not speak of 'packages.txt'")


@pytest.mark.parametrize("name", ["provenance.json", "sbom.cdx.json", "verify.json"])
def test_a_release_without_one_of_its_documents(
    clone: Path, refused: Callable[[str], None], origin: Path, name: str
) -> None:
    (clone / name).unlink()
    again(clone, origin / "key")
    refused(f"{name} is not there, a release has one")


def reprovenanced(clone: Path, key: Path) -> None:
    """Let the provenance speak of ``clone`` as it is, and sign that."""
    found = sign.digests(clone)
    found.pop("provenance.json")
    subjects = [
        {
            "name": name,
            "digest": {"sha256": value},
            "annotations": {"size": (clone / name).stat().st_size},
        }
        for name, value in found.items()
    ]
    edit(clone / "provenance.json", lambda content: content.update(subject=subjects))
    again(clone, key)


def test_a_bill_of_another_disk(clone: Path, refused: Callable[[str], None], origin: Path) -> None:
    with (clone / f"{IMAGE}.qcow2").open("ab") as stream:
        stream.write(b"x")
    reprovenanced(clone, origin / "key")
    refused("sbom.cdx.json is signed, but wrong: it is not that of debian-12-amd64 1.0.0")


@pytest.mark.parametrize(
    "change", [{"failed": 1}, {"passed": 0}, {"sha256": "a" * 64}, {"image": "other"}]
)
def test_a_verification_that_failed(
    clone: Path, refused: Callable[[str], None], origin: Path, change: dict[str, object]
) -> None:
    edit(clone / "verify.json", lambda content: content.update(change))
    reprovenanced(clone, origin / "key")
    refused("verify.json is signed, but wrong")


@pytest.mark.parametrize("content", ["", "[]", "[" * 100_000, "{", '{"metadata": 3}'])
def test_documents_that_make_no_sense(
    clone: Path, refused: Callable[[str], None], origin: Path, content: str
) -> None:
    (clone / "sbom.cdx.json").write_text(content)
    reprovenanced(clone, origin / "key")
    refused("sbom.cdx.json is signed, but ")
