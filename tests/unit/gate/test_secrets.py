"""The store of secrets: kept encrypted, read with one key only, and never shown."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from serai.common.errors import SeraiError
from serai.gate import secrets
from serai.gate.secrets import LONGEST, Store
from serai.gate.vm_key import KEY_BYTES
from tests.conftest import ROOT

KEY = bytes(range(KEY_BYTES))
OTHER = bytes(KEY_BYTES)
VALUE = "sk-ant-0123456789"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path, KEY)


def problems(store: Store) -> dict[str, str]:
    return {each["name"]: each["problem"] for each in store.list()}


def test_a_secret_outlives_the_gate(store: Store, tmp_path: Path) -> None:
    store.set("anthropic", VALUE)
    assert store.value("anthropic") == VALUE
    assert Store(tmp_path, KEY).value("anthropic") == VALUE
    assert store.value("openai") is None


def test_it_is_replaced_and_removed(store: Store, tmp_path: Path) -> None:
    store.set("one", "old")
    store.set("one", "new")
    store.set("two", "x")
    store.remove("two")
    for each in (store, Store(tmp_path, KEY)):
        assert (each.value("one"), each.value("two")) == ("new", None)
        assert [known["name"] for known in each.list()] == ["one"]
    with pytest.raises(SeraiError, match="there is no secret two"):
        store.remove("two")


def test_nothing_on_the_disk_or_in_a_text_has_the_value(store: Store, tmp_path: Path) -> None:
    store.set("one", VALUE)
    store.write("authority", b"PRIVATE KEY " + VALUE.encode())
    store.touch("one")
    store.note_uses()
    for path in tmp_path.iterdir():
        assert VALUE.encode() not in path.read_bytes()
        assert KEY not in path.read_bytes()
        assert path.stat().st_mode & 0o777 == 0o600
    shown = f"{store!r} {store.list()} {store._secrets}"
    assert VALUE not in shown
    assert "one" in shown


@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
def test_the_end_of_the_line_is_not_part_of_it(store: Store, end: str) -> None:
    store.set("one", VALUE + end)
    assert store.value("one") == VALUE


@pytest.mark.parametrize(
    "value",
    [
        *("", "\n", "a\n\n", "a\nb", "a\tb", "a\0b", "schlüssel", "a\x7f", "x" * (LONGEST + 1)),
        *("a\rb", " a", "a ", "a \n", " "),
    ],
)
def test_what_cannot_be_a_value(store: Store, value: str) -> None:
    with pytest.raises(SeraiError) as caught:
        store.set("one", value)
    assert str(caught.value).startswith(
        "this cannot be a secret's value; it is one line of 1 to 8192"
    )
    assert store.list() == []


def test_the_longest_value(store: Store) -> None:
    store.set("one", "~" * LONGEST + "\n")
    assert store.value("one") == "~" * LONGEST


@pytest.mark.parametrize(
    "name", ["", "A", "a_b", "../x", "a/b", ".a", "x" * 64, "a\n", VALUE + "!"]
)
def test_what_cannot_be_a_name_is_not_quoted(store: Store, name: str) -> None:
    for call in (partial(store.set, name, "x"), partial(store.remove, name)):
        with pytest.raises(SeraiError) as caught:
            call()
        said = f"{caught.value.message} {caught.value.hint}"
        assert said.startswith("this cannot be a secret's name")
        assert len(name) < 3 or name not in said


def test_with_another_key_all_are_listed_and_none_is_known(store: Store, tmp_path: Path) -> None:
    store.set("one", VALUE)
    store.write("authority", b"key")
    moved = Store(tmp_path, OTHER)
    assert moved.value("one") is None
    assert moved.read("authority") is None
    assert moved.list() == [
        {
            "name": "one",
            "set": None,
            "used": None,
            "problem": "it was kept with another VM's key, or is damaged: set it again",
        }
    ]
    moved.set("one", "again")
    assert moved.value("one") == "again"
    assert problems(moved) == {"one": None}
    assert Store(tmp_path, OTHER).value("one") == "again"


def test_a_damaged_file_is_told_and_can_be_removed(store: Store, tmp_path: Path) -> None:
    store.set("one", VALUE)
    file = tmp_path / "one.secret"
    for content in (b"", b"nothing", file.read_bytes()[:-9]):
        file.write_bytes(content)
        again = Store(tmp_path, KEY)
        assert again.value("one") is None
        assert "set it again" in problems(again)["one"]
    again.remove("one")
    assert Store(tmp_path, KEY).list() == []


def test_no_file_stands_for_another_secret(store: Store, tmp_path: Path) -> None:
    """Else who can write to the folder could have a secret sent to another one's hosts."""
    store.set("one", VALUE)
    store.write("authority", b"key")
    (tmp_path / "two.secret").write_bytes((tmp_path / "one.secret").read_bytes())
    (tmp_path / "other.sealed").write_bytes((tmp_path / "authority.sealed").read_bytes())
    again = Store(tmp_path, KEY)
    assert (again.value("one"), again.value("two")) == (VALUE, None)
    assert problems(again)["two"] == "this is the file of one.secret: set it again"
    assert (again.read("authority"), again.read("other")) == (b"key", None)


def test_what_is_left_of_a_write_that_was_cut_off_is_no_secret(tmp_path: Path) -> None:
    (tmp_path / ".one.secret.new").write_bytes(b"half")
    (tmp_path / ".x.secret").write_bytes(b"no name")
    (tmp_path / "README").write_bytes(b"hello")
    assert Store(tmp_path, KEY).list() == []


def test_the_list_has_times(store: Store, tmp_path: Path) -> None:
    before = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    store.set("one", VALUE)
    (shown,) = store.list()
    assert before <= shown["set"] <= time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    assert shown["used"] is None
    store.touch("one")
    (shown,) = store.list()
    assert shown["used"] >= shown["set"]
    assert Store(tmp_path, KEY).list()[0]["used"] is None, "a request must not write"
    store.note_uses()
    assert Store(tmp_path, KEY).list() == [shown]
    store.set("one", "another")
    assert store.list()[0]["used"] is None, "this value was not used yet"


def test_uses_are_written_only_if_there_are_new_ones(store: Store, tmp_path: Path) -> None:
    store.set("one", VALUE)
    store.note_uses()
    assert not (tmp_path / "uses.json").exists()
    store.touch("one")
    store.note_uses()
    first = (tmp_path / "uses.json").stat().st_ino
    store.note_uses()
    assert (tmp_path / "uses.json").stat().st_ino == first


@pytest.mark.parametrize("content", ["", "[]", '{"one": "x"}', '{"two": 1}', "{", "\xff"])
def test_damaged_uses_are_none(store: Store, tmp_path: Path, content: str) -> None:
    store.set("one", VALUE)
    (tmp_path / "uses.json").write_bytes(content.encode("latin-1"))
    assert [each["used"] for each in Store(tmp_path, KEY).list()] == [None]


def test_a_placeholder_is_a_sessions_own_and_stays(store: Store, tmp_path: Path) -> None:
    one = store.placeholder(70000, "one")
    assert one.startswith("serai-one-")
    assert len(one) == len("serai-one-") + 40
    assert set(one[10:]) <= set("0123456789abcdef")
    assert Store(tmp_path, KEY).placeholder(70000, "one") == one
    others = [store.placeholder(70001, "one"), store.placeholder(70000, "two")]
    others.append(Store(tmp_path, OTHER).placeholder(70000, "one"))
    assert len({one[-40:], *(each[-40:] for each in others)}) == 4


def test_a_placeholder_does_not_come_from_the_key_that_encrypts(store: Store) -> None:
    assert store._marking not in (KEY, store._sealing)


def test_what_is_kept_is_read_again(store: Store, tmp_path: Path) -> None:
    assert store.read("authority") is None
    store.write("authority", b"\0key\n")
    assert Store(tmp_path, KEY).read("authority") == b"\0key\n"
    assert Store(tmp_path, KEY).list() == []


def test_the_key_is_taken_away_at_once(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_bytes(KEY)
    found = secrets.opened(tmp_path / "secrets", key)
    assert found is not None
    assert not key.exists()


@pytest.mark.parametrize("content", [None, b"", b"short", KEY + b"x"])
def test_without_a_key_there_is_no_store(
    tmp_path: Path, content: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    key = tmp_path / "key"
    if content is not None:
        key.write_bytes(content)
    assert secrets.opened(tmp_path / "secrets", key) is None
    assert not key.exists()
    assert "there are no secrets" in caplog.text


def test_what_is_kept_is_fernets(store: Store, tmp_path: Path) -> None:
    store.set("one", VALUE)
    token = (tmp_path / "one.secret").read_bytes()
    name, _, data = Fernet(store._sealing).decrypt(token).partition(b"\0")
    assert (name, json.loads(data)["value"]) == (b"one.secret", VALUE)


def test_a_gate_without_secrets_does_not_import_the_package(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from serai.gate import server, secrets\n"
        "store = secrets.Store(Path(sys.argv[1]), bytes(32)); store.placeholder(1, 'one')\n"
        "print('cryptography' in sys.modules); store.set('one', 'x')\n"
        "print('cryptography' in sys.modules)"
    )
    argv = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, cwd=ROOT / "src")
    assert done.stdout.split() == ["False", "True"]


def test_without_the_package_the_gate_starts_and_says_so(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.set("one", VALUE)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    lame = Store(tmp_path, KEY)
    assert "python3-cryptography" in problems(lame)["one"]
    with pytest.raises(SeraiError, match="python3-cryptography"):
        lame.set("two", VALUE)
