"""What a VM's sessions and daemons use, as OpenMetrics text for Prometheus and its like.

https://prometheus.io/docs/specs/om/open_metrics_spec/. The daemons count nothing for it but what
leaves through the gate: the rest is asked of sessiond or read from cgroups' files at each scrape.

How many series there are must not be a session's to choose. So a session's name is the only label
that comes from one, and labels that people gave it, targets and commands are none.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serai import __version__
from serai.common import proc
from serai.common.errors import GONE, SeraiError
from serai.common.labels import DOCTOR
from serai.runtime.client import Client
from serai.runtime.sandbox import usage

CONTENT_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"
MOST_SESSIONS = 1000
"""The sessions with series of their own: those that were used last."""
MEMINFO = Path("/proc/meminfo")
CGROUPS = Path("/sys/fs/cgroup")
SERVICES = {"sessiond": "serai-sessiond.service", "gate": "serai-gate.service"}

Labels = Mapping[str, str]
Samples = dict[str, list[tuple[Labels, float]]]
_USAGE = {
    "memory": "memory_bytes",
    "memory_peak": "memory_peak_bytes",
    "memory_limit": "memory_limit_bytes",
    "cpu_seconds": "cpu_seconds",
    "cpu_waited": "cpu_waited_seconds",
    "tasks": "tasks",
    "tasks_refused": "tasks_refused",
}
"""What a cgroup tells, and how the family of it ends. Services have no families of limits."""
_SUFFIXES = {"counter": "_total", "info": "_info"}
_ESCAPES = (("\\", "\\\\"), ("\n", "\\n"), ('"', '\\"'))


@dataclass(frozen=True)
class Family:
    """Samples of one meaning. A ``unit`` is the last word of the name."""

    name: str
    kind: str
    help: str
    unit: str = ""


FAMILIES = (
    Family("serai_build", "info", "The version of Serai"),
    Family("serai_healthy", "gauge", "1 if the VM can do its work, degraded or not"),
    Family("serai_health_check", "gauge", "0 for healthy, 1 for degraded, 2 for unhealthy"),
    Family("serai_sessions", "gauge", "Sessions in each state"),
    Family("serai_sessions_left_out", "gauge", "Sessions without series, as there are too many"),
    Family("serai_sessions_disk_bytes", "gauge", "Size of the sessions disk", "bytes"),
    Family("serai_sessions_disk_free_bytes", "gauge", "Free room on the sessions disk", "bytes"),
    Family("serai_memory_bytes", "gauge", "Memory of the VM", "bytes"),
    Family("serai_memory_available_bytes", "gauge", "What of it is available", "bytes"),
    Family("serai_pool_wanted", "gauge", "Sessions that are to be held ready"),
    Family("serai_pool_ready", "gauge", "Sessions that are held ready"),
    Family("serai_pool_taken", "counter", "Creates that took a session out of the pool"),
    Family("serai_pool_missed", "counter", "Creates for which the pool had none"),
    Family("serai_session_state", "gauge", "1 for the state that a session is in"),
    Family("serai_session_memory_bytes", "gauge", "Memory that a session uses", "bytes"),
    Family("serai_session_memory_peak_bytes", "gauge", "The most since it was started", "bytes"),
    Family("serai_session_memory_limit_bytes", "gauge", "What it may use", "bytes"),
    Family("serai_session_cpu_seconds", "counter", "CPU time since it was started", "seconds"),
    Family(
        "serai_session_cpu_waited_seconds",
        "counter",
        "Time that it waited because of its limit of CPUs",
        "seconds",
    ),
    Family("serai_session_tasks", "gauge", "Processes and threads of a session"),
    Family("serai_session_tasks_refused", "counter", "Processes and threads above its limit"),
    Family(
        "serai_session_out_of_memory_kills",
        "counter",
        "Processes that the kernel killed for want of memory since the session was started",
    ),
    Family("serai_session_disk_bytes", "gauge", "What a session has on the disk", "bytes"),
    Family("serai_session_disk_limit_bytes", "gauge", "What it may have there", "bytes"),
    Family("serai_session_disk_files", "gauge", "Files and directories of a session"),
    Family("serai_session_egress_open", "gauge", "Open connections through the gate"),
    Family("serai_session_egress_decisions", "counter", "Decisions of the gate"),
    Family("serai_session_egress_sent_bytes", "counter", "Bytes that left", "bytes"),
    Family("serai_session_egress_received_bytes", "counter", "Bytes that came back", "bytes"),
    Family("serai_service_up", "gauge", "1 if the service answers"),
    Family("serai_service_memory_bytes", "gauge", "Memory of a service of Serai's", "bytes"),
    Family("serai_service_memory_peak_bytes", "gauge", "The most since its start", "bytes"),
    Family("serai_service_cpu_seconds", "counter", "CPU time of a service", "seconds"),
    Family("serai_service_tasks", "gauge", "Processes and threads of a service"),
)


def collect(client: Client, disk: Path, cgroup_of: Callable[[str], Path] | None = None) -> Samples:
    """What there is to tell now. ``disk`` is the sessions disk. Raises SeraiError."""
    place = cgroup_of or session_cgroup
    sessions = [each for each in client.call("list")["sessions"] if DOCTOR not in each["labels"]]
    shown = sorted(sessions, key=lambda each: each["used_at"], reverse=True)[:MOST_SESSIONS]
    samples: Samples = {name: [] for name in (family.name for family in FAMILIES)}
    samples["serai_build"].append(({"version": __version__}, 1))
    samples["serai_sessions_left_out"].append(({}, len(sessions) - len(shown)))
    for state, count in sorted(Counter(each["state"] for each in sessions).items()):
        samples["serai_sessions"].append(({"state": state}, count))
    _health(samples, client.call("health"))
    pool = client.call("pool")
    for key in ("wanted", "ready", "taken", "missed"):
        samples[f"serai_pool_{key}"].append(({}, pool[key]))
    for each in shown:
        _of_session(samples, each, place(each["name"]))
    _egress(samples, client, {each["name"] for each in shown})
    for service, unit in SERVICES.items():
        _usage(samples, "serai_service", {"service": service}, CGROUPS / "system.slice" / unit)
    memory = proc.memory(MEMINFO.read_text())
    samples["serai_memory_bytes"].append(({}, memory["MemTotal"] << 10))
    samples["serai_memory_available_bytes"].append(({}, memory["MemAvailable"] << 10))
    with contextlib.suppress(OSError):
        whole = os.statvfs(disk)
        samples["serai_sessions_disk_bytes"].append(({}, whole.f_frsize * whole.f_blocks))
        samples["serai_sessions_disk_free_bytes"].append(({}, whole.f_frsize * whole.f_bavail))
    return samples


def text(samples: Samples) -> str:
    """Samples as OpenMetrics has them."""
    lines = []
    for family in FAMILIES:
        found = samples.get(family.name)
        if not found:
            continue
        lines.append(f"# TYPE {family.name} {family.kind}")
        if family.unit:
            lines.append(f"# UNIT {family.name} {family.unit}")
        lines.append(f"# HELP {family.name} {family.help}.")
        name = family.name + _SUFFIXES.get(family.kind, "")
        lines += [f"{name}{_labels(labels)} {value}" for labels, value in found]
    return "\n".join([*lines, "# EOF", ""])


def session_cgroup(name: str) -> Path:
    """The cgroup of a session's unit, which is there while it runs."""
    return CGROUPS / "serai.slice" / f"serai-session@{name}.service"


def _health(samples: Samples, answer: Mapping[str, Any]) -> None:
    samples["serai_healthy"].append(({}, int(answer["status"] != "unhealthy")))
    for each in answer["checks"]:
        level = ("healthy", "degraded", "unhealthy").index(each["status"])
        samples["serai_health_check"].append(({"check": each["name"]}, level))


def _of_session(samples: Samples, session: Mapping[str, Any], cgroup: Path) -> None:
    labels = {"session": session["name"]}
    samples["serai_session_state"].append(({**labels, "state": session["state"]}, 1))
    if _usage(samples, "serai_session", labels, cgroup):
        kills = session["out_of_memory"]
        samples["serai_session_out_of_memory_kills"].append((labels, kills))
    if quota := session["quota"]:
        samples["serai_session_disk_bytes"].append((labels, quota["bytes"]))
        samples["serai_session_disk_files"].append((labels, quota["files"]))
        if quota["bytes_limit"]:
            samples["serai_session_disk_limit_bytes"].append((labels, quota["bytes_limit"]))


def _egress(samples: Samples, client: Client, names: set[str]) -> None:
    """What the gate counted since it was started; a gate that is down is a fact like others."""
    try:
        found = client.call("egress")["sessions"]
    except SeraiError as error:
        if error.code != GONE or client.hung_up():
            raise
        found = None
    samples["serai_service_up"] += [
        ({"service": "sessiond"}, 1),
        ({"service": "gate"}, int(found is not None)),
    ]
    for name, counts in sorted((found or {}).items()):
        if name not in names:
            continue
        labels = {"session": name}
        samples["serai_session_egress_open"].append((labels, counts["open"]))
        for verdict in ("allowed", "denied"):
            verdicts = samples["serai_session_egress_decisions"]
            verdicts.append(({**labels, "verdict": verdict}, counts[verdict]))
        for way in ("sent", "received"):
            samples[f"serai_session_egress_{way}_bytes"].append((labels, counts[way]))


def _usage(samples: Samples, prefix: str, labels: Labels, cgroup: Path) -> bool:
    """What a cgroup uses, as far as the kernel counts it there; whether there is one."""
    used = usage.used(cgroup)
    for key, ending in _USAGE.items():
        family = samples.get(f"{prefix}_{ending}")
        if family is not None and used[key] is not None:
            family.append((labels, used[key]))
    return cgroup.is_dir()


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{key}="{_escaped(value)}"' for key, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    for character, escape in _ESCAPES:
        value = value.replace(character, escape)
    return value.encode(errors="replace").decode()


def names(families: Iterable[Family] = FAMILIES) -> list[str]:
    """The names of all samples, as a query has them."""
    return [family.name + _SUFFIXES.get(family.kind, "") for family in families]
