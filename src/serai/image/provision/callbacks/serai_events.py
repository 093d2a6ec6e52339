"""An Ansible callback that writes what happens as JSON, one event a line, to $SERAI_EVENTS.

The default callback's text goes to a log, for people; this is for
`serai.image.provision.course` and `serai.image.rehearsal.record`, which say
what each event means. Ansible loads this file by itself, so it imports nothing of ours. Ansible's
developer guide, "Callback plugins".
"""

from __future__ import annotations

import json
import os
import time
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
    name: serai_events
    type: notification
    short_description: Events as JSON lines
    description: Writes what happens on each host to the file that SERAI_EVENTS names.
    requirements: []
"""

# Of a result's hundreds of keys, those that say why a task failed.
_REASONS = ("msg", "cmd", "rc", "stderr", "stdout", "module_stderr", "module_stdout", "censored")

# The tasks of playbooks/ whose message is for who runs them.
TOLD = ("Say what this run ends", "Say what was done")


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """Appends, and flushes each line: its reader follows the file while Ansible runs."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "serai_events"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        path = os.environ.get("SERAI_EVENTS")
        self._file = open(path, "a", encoding="utf-8") if path else None  # noqa: PTH123, SIM115
        self._items: dict[str, str] = {}

    def v2_playbook_on_play_start(self, play: Any) -> None:
        """A play, or a batch of one, begins."""
        inventory = play.get_variable_manager()._inventory
        everybody = inventory.get_hosts(play.hosts, ignore_restrictions=True)
        batch = inventory.get_hosts(play.hosts)
        self._tell("batch", all=[h.name for h in everybody], hosts=[h.name for h in batch])

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:  # noqa: ARG002
        """A task begins on the hosts of the batch."""
        role = task._role.get_name() if task._role else ""
        self._items.clear()
        # "FILE:LINE", also of a handler.
        self._tell("task", role=role, name=task.name or task.action, place=task.get_path())

    def v2_playbook_on_handler_task_start(self, task: Any) -> None:
        """The same for a handler."""
        self.v2_playbook_on_task_start(task, False)

    def v2_playbook_on_stats(self, stats: Any) -> None:  # noqa: ARG002
        """The playbook has come to its end."""
        self._tell("end")

    def v2_runner_on_ok(self, result: Any) -> None:
        """A task has ended well on a host."""
        self._result(result, "changed" if result._result.get("changed") else "ok")
        if result._task.name in TOLD:
            self._tell("said", host=result._host.name, text=str(result._result.get("msg", "")))

    def v2_runner_on_skipped(self, result: Any) -> None:
        """A task had nothing to do on a host."""
        self._result(result, "skipped")

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """A task has failed on a host."""
        self._result(result, "ignored" if ignore_errors else "failed")

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """A host could not be logged in to, or not any longer."""
        self._result(result, "unreachable")

    def v2_runner_item_on_failed(self, result: Any) -> None:
        """An item of a loop has failed; the task's own result does not say which."""
        why = {key: result._result[key] for key in _REASONS if key in result._result}
        label = str(result._result.get("_ansible_item_label", ""))
        self._items[result._host.name] = f"(item={label}) => {json.dumps(why, default=str)}"

    def v2_on_file_diff(self, result: Any) -> None:
        """What a task changed, or would, with --diff."""
        outcomes = result._result.get("results", [result._result])
        for outcome in outcomes:
            if outcome.get("diff") and outcome.get("changed"):
                self._tell("diff", host=result._host.name, text=self._get_diff(outcome["diff"]))

    def _result(self, result: Any, status: str) -> None:
        why = ""
        if status in ("failed", "unreachable"):
            told = {key: result._result[key] for key in _REASONS if key in result._result}
            why = self._items.get(result._host.name) or f"=> {json.dumps(told, default=str)}"
        outcomes = result._result.get("results", [result._result])  # of a loop, or its own
        read = [path for each in outcomes for path in each.get("ansible_included_var_files", [])]
        self._tell("result", host=result._host.name, status=status, why=why, read=read)

    def _tell(self, event: str, **data: object) -> None:
        if self._file is not None:
            line = json.dumps({"event": event, "time": time.monotonic(), **data}, default=str)
            self._file.write(line + "\n")
            self._file.flush()
