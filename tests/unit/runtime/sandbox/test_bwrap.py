"""The sandbox's options as text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

import pytest

from serai.common import bridge
from serai.image.guest import exercise, measure_gate
from serai.runtime.folders import bindfs
from serai.runtime.folders.path_roles import ROLES
from serai.runtime.sandbox import bwrap
from serai.runtime.settings import Resources, SessionSettings
from tests.conftest import ROOT
from tests.support import known_options

SESSION = bwrap.Session(
    "blue-cat",
    2000,
    2000,
    Path("/sessions/blue-cat"),
    Path("/run/serai/sessions/blue-cat"),
    Path("/run/serai/gate/blue-cat"),
    Path("/run/serai/certificates/blue-cat"),
)
GOLDEN = """\
--unshare-user --unshare-pid --unshare-net --unshare-ipc --unshare-uts --unshare-cgroup
--hostname serai --die-with-parent --new-session --cap-drop ALL --as-pid-1
--clearenv --setenv PATH /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/games
--setenv HOME / --setenv SHELL /bin/bash
--setenv SERAI_BRIDGE 3128:/run/serai/gate/http.sock+1080:/run/serai/gate/socks.sock
--dev /dev --perms 1777 --tmpfs /dev/shm --remount-ro /dev
--proc /proc
--ro-bind-try /dev/null /proc/interrupts --ro-bind-try /dev/null /proc/keys
--ro-bind-try /dev/null /proc/key-users
--ro-bind-try /dev/null /proc/1/oom_score_adj --ro-bind-try /dev/null /proc/1/oom_adj
--ro-bind-try /dev/null /proc/1/task/1/oom_score_adj --ro-bind-try /dev/null /proc/1/task/1/oom_adj
--symlink usr/bin /bin --symlink usr/sbin /sbin --symlink usr/lib /lib --symlink usr/lib64 /lib64
--ro-bind-try /usr /usr --ro-bind-try /etc /etc
--perms 1777 --tmpfs /tmp --perms 1777 --tmpfs /var/tmp
--perms 0755 --tmpfs /run --perms 0755 --tmpfs /home --perms 0700 --tmpfs /root
--symlink /run /var/run
--ro-bind /run/serai/sessions/blue-cat/hosts /etc/hosts
--ro-bind-try /run/serai/sessions/blue-cat/ssh_config /etc/ssh/ssh_config
--ro-bind /run/serai/sessions/blue-cat/users /run/serai/users
--symlink /run/serai/users /var/lib/extrausers
--ro-bind /run/serai/sessions/blue-cat/hints /run/serai/hints
--ro-bind /run/serai/gate/blue-cat /run/serai/gate
--ro-bind /run/serai/certificates/blue-cat /run/serai/certificates
--bind /sessions/blue-cat /sessions/blue-cat
--bind /sessions/blue-cat/mnt /sessions/blue-cat/mnt
--bind /sessions/blue-cat/mnt/.skills /sessions/blue-cat/mnt/.skills
--ro-bind /sessions/blue-cat/mnt/uploads /sessions/blue-cat/mnt/uploads
--ro-bind /sessions/blue-cat/mnt/.skills/skills /sessions/blue-cat/mnt/.skills/skills
--remount-ro / --chdir /sessions/blue-cat
"""


def test_the_options_are_these() -> None:
    settings = SessionSettings(visible=("/usr", "/etc"))
    assert bwrap.arguments(settings, SESSION) == [word.replace("+", " ") for word in GOLDEN.split()]


def options(words: Iterable[str]) -> set[str]:
    return {word[2:] for word in words if word.startswith("--")}


def bubblewraps(words: Sequence[str]) -> Sequence[str]:
    """Those words of a command line that bubblewrap reads itself."""
    return words[: words.index("--")]


def test_only_options_of_the_oldest_bubblewrap_are_used() -> None:
    (known,) = known_options.read("bubblewrap-0.6.1").values()
    script = (ROOT / "src/serai/install/programs/session-start").read_text()
    (started,) = re.findall(r"^exec bwrap (.*?) -- ", script.replace("\\\n", ""), re.MULTILINE)
    for words in (
        bwrap.arguments(SessionSettings(), SESSION),
        bubblewraps(bindfs.command("/a", (1, 2), 3, writable=True)),
        bubblewraps(bindfs.command("/a", (1, 2), 3, writable=False)),
        started.split(),
    ):
        assert options(words) <= known
        assert options(words)
    assert "size" not in known, "but only where it is known, see bwrap.room"


def test_only_what_the_oldest_socat_knows_is_used() -> None:
    known = known_options.read("socat-1.7.4.1")
    script = (ROOT / "src/serai/install/programs/bridge").read_text().replace("\\\n", "")
    (started,) = re.findall(r"^ *LD_BIND_NOW=1 socat (.*) &$", script, re.MULTILINE)
    listening = re.findall(r"family=(\S+) options=(\S+)$", script, re.MULTILINE)
    proxy = re.search(r"socat - '(\w+):[^']*?,(\w+)=", bwrap.ssh_config(SessionSettings()))
    assert proxy
    (common,) = re.findall(r"\$options,([\w,=]+)", started)
    assert set(re.findall(r"(?<!\S)-\w+", started)) == {"-lf", "-b", "-t"} <= known["options"]
    heads = {family.lower() for family, _ in listening} | {proxy[1].lower(), "unix-connect"}
    assert "UNIX-CONNECT:" in started
    assert heads <= known["addresses"]
    used = ",".join([*(each for _, each in listening), common, proxy[2]]).split(",")
    assert len(used) >= 6
    assert {each.partition("=")[0] for each in used} <= known["address options"]


@pytest.mark.parametrize(
    ("version", "memory_max", "room"),
    [
        ("bubblewrap 0.8.0\n", "50%", 1 << 28),
        ("bubblewrap 0.11.0\n", "64M", 32 << 20),
        ("bubblewrap 1.0.0\n", "64M", 32 << 20),
        ("bubblewrap 0.8.0\n", "infinity", None),
        ("bubblewrap 0.6.1\n", "50%", None),
        ("", "50%", None),
    ],
)
def test_a_file_system_in_memory_holds_half_of_the_sessions_where_it_can_be_set(
    version: str, memory_max: str, room: int | None
) -> None:
    settings = SessionSettings(resources=Resources(memory_max=memory_max))
    assert bwrap.room(settings, version, 1 << 30) == room
    args = bwrap.arguments(settings, SESSION, room)
    sizes = [args[at + 1] for at, word in enumerate(args) if word == "--size"]
    assert sizes == ([] if room is None else [str(room)] * args.count("--tmpfs"))


def test_the_settings_decide_hostname_and_what_is_visible() -> None:
    args = bwrap.arguments(SessionSettings(hostname="vm-7", visible=("/data",)), SESSION)
    assert args[args.index("--hostname") + 1] == "vm-7"
    assert args[args.index("/data") - 1 :][:3] == ["--ro-bind-try", "/data", "/data"]
    assert "/usr" not in args
    assert bwrap.hosts(SessionSettings(hostname="vm-7")).endswith("127.0.1.1 vm-7\n")


def test_arguments_are_passed_with_a_nul_after_each() -> None:
    assert bwrap.encode(["--dir", "/a b", ""]) == b"--dir\0/a b\0\0"
    with pytest.raises(ValueError, match="NUL"):
        bwrap.encode(["--dir", "/a\0--bind\0/\0/"])


def test_the_environment_is_all_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERAI_TEST_SECRET", "1")
    env = bwrap.environment(
        SessionSettings(environment={"LANG": "de_DE.UTF-8", "MINE": "1"}), SESSION
    )
    assert env["HOME"] == "/sessions/blue-cat"
    assert env["USER"] == env["LOGNAME"] == "blue-cat"
    assert env["TMPDIR"] == "/sessions/blue-cat/tmp"
    assert (env["LANG"], env["MINE"]) == ("de_DE.UTF-8", "1")
    assert "SERAI_TEST_SECRET" not in env
    for name in ("http", "https", "all"):
        assert env[f"{name}_proxy"] == env[f"{name.upper()}_PROXY"] == "http://127.0.0.1:3128"
    assert env["FTP_PROXY"] == env["ftp_proxy"] == "socks5h://127.0.0.1:1080"
    assert env["NODE_USE_ENV_PROXY"] == "1"
    # By these gcloud would ask the gate for the session's own servers, too: it reads the others.
    assert not [key for key in env if key.startswith("CLOUDSDK_")]
    assert not re.search(r"10\.|172\.|192\.", env["NO_PROXY"])


def test_a_session_s_own_names_are_reached_without_the_proxy() -> None:
    def direct(hostname: str) -> list[str]:
        return bwrap.environment(SessionSettings(hostname=hostname), SESSION)["NO_PROXY"].split(",")

    own = ["localhost", "127.0.0.1", "127.0.1.1", "0.0.0.0", "::1"]  # noqa: S104
    assert direct("serai") == [*own, "serai"]
    assert direct("vm-7") == [*own, "vm-7"]
    assert direct("dev") == own, "names that end in .dev would have no way out"


def test_the_programs_have_the_ports_of_the_bridge_from_its_one_home() -> None:
    for name in ("bridge", "session-start"):
        script = (ROOT / "src/serai/install/programs" / name).read_text()
        assert not re.search(r"\b(3128|1080)\b|serai/gate", script), name
    assert f"${{{bridge.VARIABLE}:?}}" in (ROOT / "src/serai/install/programs/bridge").read_text()
    for line in Path(exercise.__file__).read_text().splitlines():
        # It runs alone in a machine, and has copies.
        if "HTTPConnection(" in line:
            assert f'"127.0.0.1", {bridge.HTTP_PORT},' in line
        if "http" in line and "socks" in line:
            assert f"{bridge.GATE}/{{name}}.sock" in line
    assert measure_gate.LANES["gate"] == bridge.HTTP_PORT


def test_the_environment_of_payloads_has_nothing_of_the_bridges() -> None:
    assert bridge.VARIABLE not in bwrap.environment(SessionSettings(), SESSION)


def test_every_directory_that_is_only_read_is_a_mount_and_so_is_what_is_above_it() -> None:
    readers = {role.folder for role in ROLES.values() if not role.writable}
    assert {name for name, writable in bwrap.PINNED.items() if not writable} == readers
    above = {str(each) for name in readers for each in PurePosixPath(name).parents} - {"."}
    assert above == {name for name, writable in bwrap.PINNED.items() if writable}
