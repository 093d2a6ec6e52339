"""Entries of the audit log as events of the Open Cybersecurity Schema Framework. Pure.

https://schema.ocsf.io/1.8.0/. What a session asked of the gate is Network Activity, or HTTP
Activity where the gate saw the request; what sessiond was asked is API Activity; what the log says
of itself is a Base Event. What has no place in the schema is in ``unmapped``, so nothing is lost.
"""

from __future__ import annotations

import ipaddress
import json
from datetime import datetime, timezone
from typing import Any

from serai.runtime import entries
from serai.runtime.entries import Entry

VERSION = "1.8.0"
BASE, NETWORK, HTTP, API = 0, 4001, 4002, 6003
OPEN, CLOSE, FAIL, REFUSE = 1, 2, 4, 5
CREATE, UPDATE, DELETE = 1, 3, 4
OTHER = 99
UNKNOWN, SUCCESS, FAILURE = 0, 1, 2
INFORMATIONAL, LOW, CRITICAL = 1, 2, 5
SHA256 = 3
OUTBOUND = 2
TCP = 6

_METHODS = {"CONNECT": 1, "DELETE": 2, "GET": 3, "HEAD": 4, "OPTIONS": 5, "POST": 6, "PUT": 7}
_METHODS |= {"TRACE": 8, "PATCH": 9}
_OPERATIONS = {"create": CREATE, "secret.set": CREATE, "remove": DELETE, "secret.remove": DELETE}
_OPERATIONS |= dict.fromkeys(
    ("set", "switch", "stop", "archive", "reopen", "freeze", "finish", "attach", "detach"), UPDATE
)
_OPERATIONS |= dict.fromkeys(
    ("policy.set", "policy.allow", "policy.deny", "policy.bind", "policy.unbind"), UPDATE
)
_OWN = {"pruned": INFORMATIONAL, "recovered": LOW}
"""What the log says of itself and is no sign that somebody changed it."""
_MAPPED = frozenset(("seq", "time", "event", "session", "uid", "error"))
_MAPPED_OF = {"operation": frozenset(("operation",))}
_MAPPED_OF["decision"] = frozenset(
    ("host", "port", "address", "allowed", "rule", "method", "path", "status")
)
_MAPPED_OF["closed"] = _MAPPED_OF["decision"] | {"sent", "received", "seconds"}


def line(entry: Entry) -> str:
    """The event that an entry is, as JSON."""
    return json.dumps(event(entry))


def event(entry: Entry) -> dict[str, Any]:
    """The event that an entry is."""
    kind = entry["event"]
    if kind == "operation":
        mapped = _operation(entry)
    elif kind in ("decision", "closed"):
        mapped = _request(entry)
    else:
        severity = _OWN.get(kind, CRITICAL)
        mapped = {**_class(BASE, OTHER, kind), "severity_id": severity, "message": kind}
    metadata: dict[str, Any] = {
        "version": VERSION,
        "product": {"name": "Serai", "vendor_name": "Serai"},
        "log_name": "audit",
        "event_code": kind,
        "sequence": entry["seq"],
    }
    if "action_id" in mapped:
        metadata["profiles"] = ["security_control"]
    if digest := entries.digest(entry):
        mapped["raw_data_hash"] = {"algorithm_id": SHA256, "value": digest}
    if "time" in entry:
        metadata["original_time"] = entry["time"]
    known = _MAPPED | _MAPPED_OF.get(kind, frozenset())
    rest = {key: value for key, value in entry.items() if key not in known}
    return {
        **mapped,
        "time": _milliseconds(entry.get("time")),
        "metadata": metadata,
        **({"unmapped": rest} if rest else {}),
    }


def _class(number: int, activity: int, name: str = "") -> dict[str, Any]:
    """What says which kind of event it is; ``name`` is of an activity that the schema lacks."""
    return {
        "category_uid": number // 1000,
        "class_uid": number,
        "activity_id": activity,
        "type_uid": number * 100 + activity,
        **({"activity_name": name} if activity == OTHER else {}),
    }


def _request(entry: Entry) -> dict[str, Any]:
    decided, error = entry["event"] == "decision", entry.get("error")
    refused = decided and not entry["allowed"]
    activity = CLOSE
    if decided:
        activity = REFUSE if refused else FAIL if error else OPEN
    mapped = _class(NETWORK, activity)
    if "method" in entry or "status" in entry:
        method = entry.get("method", "")
        mapped = _class(HTTP, _METHODS.get(method, OTHER), method or entry["event"])
        mapped |= _http(entry)
    mapped |= {
        "severity_id": LOW if refused else INFORMATIONAL,
        "status_id": FAILURE if refused or error else SUCCESS,
        "src_endpoint": {"name": entry["session"], "uid": str(entry["uid"])},
        "connection_info": {
            "direction_id": OUTBOUND, "protocol_num": TCP, "protocol_name": "tcp",
        },
    }  # fmt: skip
    if target := _target(entry):
        mapped["dst_endpoint"] = target
    if decided:
        mapped["action_id"] = mapped["disposition_id"] = 2 if refused else 1
        mapped["firewall_rule"] = {"name": entry["rule"]}
        what = "denied" if refused else "allowed"
    else:
        sent, received = entry["sent"], entry["received"]
        traffic = {"bytes": sent + received, "bytes_out": sent, "bytes_in": received}
        mapped |= {"traffic": traffic, "duration": round(entry["seconds"] * 1000)}
        what = "closed"
    mapped["message"] = f"{what}: {entry['session']} to {entry['host']}:{entry['port']}"
    return mapped | ({"status_detail": error} if error else {})


def _target(entry: Entry) -> dict[str, Any]:
    host, address = entry["host"], entry["address"]
    if host is None:
        return {}
    named = {} if _is_address(host) else {"hostname": host}
    ip = address if address is not None else host if not named else None
    return {**named, **({"ip": ip} if ip else {}), "port": entry["port"]}


def _http(entry: Entry) -> dict[str, Any]:
    """The request that the gate saw, without its query, and the answer's status."""
    mapped: dict[str, Any] = {}
    if "method" in entry:
        url = {"scheme": "https" if entry.get("tls") else "http", "port": entry["port"]}
        url |= {"hostname": entry["host"], "path": entry.get("path", "")}
        mapped["http_request"] = {"http_method": entry["method"], "url": url}
    if (status := entry.get("status")) is not None:
        mapped["http_response"] = {"code": status}
    return mapped


def _operation(entry: Entry) -> dict[str, Any]:
    operation, by, error = entry["operation"], entry["by"], entry.get("error")
    came = by.get("from", "")
    place = {"name": by["via"], **({"ip": came} if _is_address(came) else {})}
    mapped = {
        **_class(API, _OPERATIONS.get(operation, OTHER), operation),
        "severity_id": INFORMATIONAL,
        # It is noted before it is done, and once more if that fails.
        "status_id": FAILURE if error else UNKNOWN,
        "message": f"{operation} {entry.get('session', '')}".strip(),
        "actor": {"user": {"uid": str(by["uid"])}, "process": {"pid": by["pid"]}},
        "api": {"operation": operation, "service": {"name": "sessiond"}},
        "src_endpoint": place,
    }
    if "session" in entry:
        of = {"type": "session", "name": entry["session"], "uid": str(entry["uid"])}
        mapped["resources"] = [of]
    if error:
        mapped["status_detail"] = error
    return mapped


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _milliseconds(time: str | None) -> int:
    if time is None:  # of a line that nobody can read
        return 0
    parsed = datetime.strptime(time, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=timezone.utc)
    return round(parsed.timestamp() * 1000)
