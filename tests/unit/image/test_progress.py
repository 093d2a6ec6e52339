"""What Packer 1.6.6 and ansible-core 2.17 really said, shortened, and what we make of it."""

from __future__ import annotations

import pytest

from serai.image.progress import (
    Note,
    PackerLine,
    Tasks,
    TaskStarted,
    TaskTiming,
    packer_line,
    reason,
    step,
)

FAILED = (
    'fatal: [vm]: FAILED! => {"changed": true, "cmd": ["sh", "-c", "exit 3"], "rc": 3, '
    '"msg": "non-zero return code", "stderr": "first\\nlast words", "stdout": ""}'
)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "1795301214,,ui,say,==> qemu.layer: Starting VM%!(PACKER_COMMA) booting disk image",
            PackerLine("say", "Starting VM, booting disk image"),
        ),
        (
            '1795301216,,ui,message,    qemu.layer:     "msg": "hello%!(PACKER_COMMA) world"',
            PackerLine("message", '    "msg": "hello, world"'),
        ),
        (
            r'1795301216,,ui,message,    qemu.layer: {"stderr": "a\nb"}',
            PackerLine("message", r'{"stderr": "a\nb"}'),
        ),
        (
            r"1795301218,,ui,error,\n==> Some builds didn't complete",
            PackerLine("error", "Some builds didn't complete"),
        ),
        (
            "1795301218,qemu.layer,error,Timeout waiting for SSH.",
            PackerLine("failure", "Timeout waiting for SSH."),
        ),
        ("1795301218,,error-count,1", None),
        ("1795301214,,ui,message,    qemu.layer:", PackerLine("message", "")),
        ("panic: runtime error", PackerLine("message", "panic: runtime error")),
        ("", None),
    ],
)
def test_packer_lines(line: str, expected: PackerLine | None) -> None:
    assert packer_line(line) == expected


def test_only_steps_that_people_care_for_are_told() -> None:
    assert step("Starting VM, booting disk image") == Note("booting")
    assert step("Creating required virtual machine disks") is None


def test_a_task_lasts_until_the_next_begins_or_the_play_ends() -> None:
    tasks = Tasks()
    assert tasks.feed("PLAY [System] *****", 0.0) == []
    first = tasks.feed("TASK [base : Set the locale, with a comma] *****", 1.0)
    assert first == [TaskStarted("base", "Set the locale, with a comma")]
    tasks.feed("changed: [vm]", 2.0)
    second = tasks.feed("RUNNING HANDLER [base : Restart journald] ***", 3.5)
    assert second == [
        TaskTiming("base", "Set the locale, with a comma", "changed", 2.5),
        TaskStarted("base", "Restart journald"),
    ]
    tasks.feed("ok: [vm]", 4.0)
    last = tasks.feed("PLAY RECAP *********", 4.25)
    assert last == [TaskTiming("base", "Restart journald", "ok", 0.75)]
    assert tasks.end(9.0) == []
    assert tasks.done == [second[0], last[0]]
    assert tasks.failure == ""


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (["skipping: [vm]"], "skipped"),
        (["skipping: [vm] => (item=a)", "ok: [vm] => (item=b)"], "ok"),
        (["ok: [vm] => (item=a)", "changed: [vm] => (item=b)", "ok: [vm] => (item=c)"], "changed"),
        (["changed: [vm] => {", '    "msg": "ok: [vm]"', "}"], "changed"),
        ([FAILED, "...ignoring"], "ignored"),
        ([FAILED], "failed"),
        (["included: /somewhere/seal.yml for vm"], "ok"),
    ],
)
def test_the_status_is_the_worst_of_what_was_said(lines: list[str], status: str) -> None:
    tasks = Tasks()
    tasks.feed("TASK [A task] ***", 0.0)
    for line in lines:
        tasks.feed(line, 0.0)
    tasks.end(1.0)
    assert [task.status for task in tasks.done] == [status]


def test_what_is_ignored_is_not_why_the_play_stopped() -> None:
    tasks = Tasks()
    for line in ("TASK [One] ***", FAILED, "...ignoring", "TASK [Two] ***", "ok: [vm]"):
        tasks.feed(line, 0.0)
    assert tasks.failure == ""


def test_the_failure_names_the_task_the_program_and_its_last_words() -> None:
    tasks = Tasks()
    tasks.feed("TASK [base : Run it] ***", 0.0)
    tasks.feed(FAILED, 1.0)
    assert tasks.failure == (
        "the task 'base : Run it' failed: 'sh -c exit 3' ended with status 3: first | last words"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (': FAILED! => {"changed": false, "msg": "no good"}', "no good"),
        (' (item=nginx) => {"msg": "No package matching"}', "for nginx: No package matching"),
        (
            ': FAILED! => {"msg": "MODULE FAILURE", "module_stderr": "python3: not found\\n"}',
            "MODULE FAILURE: python3: not found",
        ),
        (
            ': UNREACHABLE! => {"msg": "Connection refused", "unreachable": true}',
            "Connection refused",
        ),
        (
            ': FAILED! => {"censored": "the output has been hidden"}',
            "its output is hidden (no_log)",
        ),
        (
            ': FAILED! => {"msg": "failed to validate: rc:1 error:Traceback (most recent call last)'
            ':\\n  in load\\nserai.common.errors.SeraiError: x.toml: size is wrong; see y\\n"}',
            "x.toml: size is wrong; see y",
        ),
        (": FAILED! => {not json", "{not json"),
        (": FAILED!", ": FAILED!"),
        ("", "it gave no reason"),
    ],
)
def test_reasons(text: str, expected: str) -> None:
    assert reason(text) == expected
