from __future__ import annotations

import dataclasses
import json
import posix
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serai.common import errors, tables
from serai.common.paths import Paths
from serai.runtime import client
from serai.runtime.api.exec import Exec
from serai.runtime.cli import exec, exec_core, exec_json, main

TEXTS = st.dictionaries(st.text(), st.text(), max_size=2)
SOURCES = Path(exec.__file__).parents[3]


def test_the_command_line_is_read() -> None:
    line = [
        "foo",
        "--timeout",
        "2.5",
        "--env",
        "A=1",
        "--env=B=x=y",
        "--cwd",
        "/tmp",
        "--tty",
        "--",
        "ls",
        "--",
        "--env",
    ]
    options = exec.parse(line)
    assert (options.name, options.argv) == ("foo", ["ls", "--", "--env"])
    assert (options.timeout, options.cwd, options.tty) == (2.5, "/tmp", True)
    assert options.env == {"A": "1", "B": "x=y"}
    assert not options.detach


def test_without_dashes_before_the_command_it_says_what_is_missing() -> None:
    with pytest.raises(exec_core.Failure, match="there is no -- before 'ls'; usage: serai exec"):
        exec.parse(["foo", "ls", "-l"])


@pytest.mark.parametrize(
    "line",
    [
        "",
        "foo",
        "foo ls",
        "-- ls",
        "foo --",
        "foo --bogus -- ls",
        "foo --timeout -- ls",
        "foo --timeout 0 -- ls",
        "foo --timeout nan -- ls",
        "foo --timeout inf -- ls",
        "foo --env A -- ls",
        "foo --env =1 -- ls",
        "foo --tty=yes -- ls",
        "foo --cwd",
    ],
)
def test_what_it_does_not_understand_is_said_in_one_line(
    line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exec.main(line.split()) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("serai: ")
    assert said.err.count("\n") == 1


@given(
    st.lists(st.text(), min_size=1, max_size=3), st.dictionaries(st.text(), st.text(), max_size=2)
)
def test_its_json_is_json(argv: list[str], env: dict[str, str]) -> None:
    options = exec_core.Options()
    options.name, options.argv, options.env, options.timeout = "foo", argv, env, 1.5
    assert json.loads(exec_core.request(options, "fds")) == {
        "name": "foo",
        "argv": argv,
        "env": env,
        "cwd": "",
        "timeout": 1.5,
        "tty": False,
        "detach": False,
        "stdio": "fds",
        "rows": 24,
        "columns": 80,
    }


def test_the_server_knows_every_parameter() -> None:
    options = exec_core.Options()
    options.name, options.argv = "foo", ["ls"]
    assert tables.read(Exec, json.loads(exec_core.request(options, "fds"))).argv == ["ls"]


def test_both_ways_of_asking_have_the_fields_of_the_method() -> None:
    options = exec_core.Options()
    fields = [field.name for field in dataclasses.fields(Exec)]
    asked = json.loads(exec_core.request(options, "fds"))
    assert sorted(asked) == sorted(fields)
    of_its_bytes = {"detach", "stdio", "rows", "columns"}
    assert {*exec_json.parameters(options), *of_its_bytes} == set(fields)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), JSON))
def test_it_reads_json(value: dict[str, Any]) -> None:
    assert exec_core.decoded(json.dumps(value)) == value


def test_what_it_does_not_import_is_what_it_says() -> None:
    assert str(Paths().control) == exec_core.CONTROL
    assert exec_core.STATUSES == {errors.NO_COMMAND: 127, errors.NOT_EXECUTABLE: 126}


def test_exec_imports_next_to_nothing() -> None:
    code = (
        "import sys; before = set(sys.modules); sys.path.insert(0, sys.argv[1]);"
        "import serai.runtime.cli.exec; print(*sorted(set(sys.modules) - before))"
    )
    loaded = subprocess.run(
        [sys.executable, "-IS", "-c", code, SOURCES], check=True, capture_output=True, text=True
    ).stdout.split()
    rooms = {"serai", "serai.common", "serai.runtime", "serai.runtime.cli"}
    own = {
        "serai.common.printing",
        "serai.common.stdio",
        "serai.runtime.cli.exec",
        "serai.runtime.cli.exec_core",
    }
    # All in C, and part of the interpreter itself in the VM.
    others = {"__future__", "_json", "_socket", "_signal", "errno", "fcntl", "posix", "select"}
    assert set(loaded) - rooms - own <= others


def test_without_a_daemon_it_says_so(tmp_path: Path) -> None:
    env = {"SERAI_CONTROL": str(tmp_path / "none.sock"), "PYTHONPATH": str(SOURCES)}
    code = "import sys; from serai.runtime.cli.exec import main; sys.exit(main(sys.argv[1:]))"
    argv = [sys.executable, "-c", code, "foo", "--", "ls"]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 125
    assert "cannot reach sessiond" in done.stderr
    assert "systemctl start serai-sessiond" in done.stderr


@pytest.mark.parametrize("name", ["create", "list", "show", "switch", "gc", *main.SIMPLE])
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main.main([name, "--help"])
    assert caught.value.code == 0
    assert "--json" in capsys.readouterr().out


def test_exec_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["exec", "--help"]) == 0
    assert "--timeout" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("answer", "terminal", "said"),
    [
        ({"status": 0, "out_of_memory": False, "left": 0}, True, ""),
        ({"status": 0, "out_of_memory": True, "left": 2}, False, ""),
        ({"status": 137, "out_of_memory": True, "left": 0}, False, "serai: out of memory: "),
        ({"status": 0, "out_of_memory": False, "left": 2}, True, "serai: 2 process(es) ended with"),
        ({"exec": "1-2", "pid": 7}, True, ""),
        ({"status": 3, "signal": None, "timed_out": False}, True, ""),  # of an older sessiond
    ],
)
def test_what_an_answer_says_besides_its_status(
    answer: dict[str, Any],
    terminal: bool,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(posix, "isatty", lambda _: terminal)
    assert exec_core.status_of(answer) == answer.get("status", 0)
    shown = capsys.readouterr().err
    assert shown.startswith(said)
    assert shown.count("\n") == bool(said)


def test_json_with_a_terminal_says_all_that_sessiond_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = {"status": 137, "signal": 9, "timed_out": False, "out_of_memory": True, "left": 2}
    ended |= {"refused": []}  # type: ignore[dict-item]

    class Stub:
        def __init__(self, _path: Path) -> None:
            pass

        def __enter__(self) -> Stub:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def exec(self, **_parameters: object) -> client.Completed:
            return client.Completed(**ended, stdout=b"out", stderr=b"\xff")  # type: ignore[arg-type]

    handler = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(exec_json, "Client", Stub)
    monkeypatch.setattr(posix, "isatty", lambda _: False)
    options = exec.parse(["one", "--tty", "--json", "--", "hog"])
    try:
        assert exec_json.run(options) == 137
    finally:
        signal.signal(signal.SIGINT, handler)
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {**ended, "stdout": "out", "stderr": "\ufffd"}
    assert shown.err.startswith("serai: out of memory: ")


@pytest.mark.parametrize(("times", "said"), [(1, "once"), (2, "2 times")])
def test_what_was_refused_is_told_to_a_person(times: int, said: str) -> None:
    refused = {"what": "Unix sockets", "times": times, "programs": ["node", "tmux"]}
    assert exec_core.refusal(refused).startswith(f"refused: Unix sockets ({said}, node, tmux);")
