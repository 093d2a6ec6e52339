"""Certificates and files that an image brings are looked at before it is built."""

from __future__ import annotations

import errno
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from serai.image import digest
from serai.image.definition import brought
from serai.image.errors import BuildError


def certificate(directory: Path, *options: str) -> str:
    """A fresh one by openssl(1); its key is in ``directory``/key."""
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    made += ["-nodes", "-keyout", str(directory / "key"), "-subj", "/CN=test", *options]
    return subprocess.run(made, check=True, capture_output=True, text=True).stdout


def authority(directory: Path) -> str:
    return certificate(directory, "-addext", "basicConstraints=critical,CA:TRUE")


def with_key(directory: Path) -> str:
    return authority(directory) + (directory / "key").read_text()


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda _: "hello", "is no certificate"),
        (lambda _: "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "is no cert"),
        (lambda there: 2 * authority(there), "has 2 certificates in it"),
        (with_key, "has a private key in it"),
        (
            lambda there: certificate(there, "-addext", "basicConstraints=critical,CA:FALSE"),
            "is the certificate of no authority",
        ),
    ],
    ids=["text", "nothing inside", "two", "with a key", "a server's"],
)
def test_a_certificate_that_is_none_is_named(
    tmp_path: Path, made: Callable[[Path], str], said: str
) -> None:
    folder = tmp_path / "certificates"
    folder.mkdir()
    (folder / "good.crt").write_text(f"Grüße\n{authority(tmp_path)}\n")
    brought.check({brought.CERTIFICATES: str(folder)})
    (folder / "bad.crt").write_text(made(tmp_path))
    with pytest.raises(BuildError, match=rf"bad\.crt {said}"):
        brought.check({brought.CERTIFICATES: str(folder)})


def test_an_authority_that_has_expired_is_of_no_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "old.crt").write_text(authority(tmp_path))
    later = time.time() + 400 * 86400
    monkeypatch.setattr(time, "time", lambda: later)
    with pytest.raises(BuildError, match=r"old\.crt has expired: "):
        brought.check({brought.CERTIFICATES: str(tmp_path)})


@pytest.mark.parametrize(
    "place",
    [
        *("etc/serai/session.toml", "usr/lib/serai/x", "run/x", "tmp/x", "root/.ssh/x", "lib/x"),
        *("etc/ssh/ssh_host_rsa_key", "usr/bin/serai", "etc/systemd/system/serai-gate.service"),
        *("etc/apt/apt.conf.d/91serai-os-release", "usr/lib/os-release.serai", "var/run/x"),
    ],
)
def test_no_file_is_where_ours_are_or_nothing_stays(tmp_path: Path, place: str) -> None:
    path = tmp_path / place
    path.parent.mkdir(parents=True)
    path.touch()
    with pytest.raises(BuildError, match=f"/{place} is Serai's or the system's"):
        brought.check({brought.FILES: [str(tmp_path)]})


def test_directories_may_be_in_several_trees_and_files_in_one(tmp_path: Path) -> None:
    trees = [tmp_path / "one", tmp_path / "two"]
    for tree, name in zip(trees, "ab", strict=True):
        (tree / "etc").mkdir(parents=True)
        (tree / "etc" / name).touch()
    brought.check({brought.FILES: list(map(str, trees))})
    (trees[1] / "etc/a").symlink_to("b")
    with pytest.raises(BuildError, match=r"two files for /etc/a: in .*one and in .*two"):
        brought.check({brought.FILES: list(map(str, trees))})
    with pytest.raises(BuildError, match="is no directory"):
        brought.check({brought.FILES: [str(trees[0] / "etc/a")]})


def test_a_directory_that_cannot_be_read_is_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "etc/secret").mkdir(parents=True)
    read = Path.iterdir

    def iterdir(path: Path) -> Iterator[Path]:
        if path.name == "secret":  # to root nothing is forbidden
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    with pytest.raises(PermissionError, match="etc/secret"):
        brought.check({brought.FILES: [str(tmp_path)]})
    with pytest.raises(PermissionError, match="etc/secret"):
        digest.of_source(tmp_path)
