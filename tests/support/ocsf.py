"""What is wrong with an event of OCSF, by the part of its schema in ocsf-1.8.0.json.

That file has the attributes of the classes and objects that serai.runtime.ocsf writes, out of
github.com/ocsf/ocsf-schema at v1.8.0, with what they inherit and what profiles add.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SCHEMA = json.loads(Path(__file__).with_name("ocsf-1.8.0.json").read_text())
_TYPES: dict[str, type] = {"boolean_t": bool, "object": dict}
_NUMBERS = {"integer_t": 1 << 31, "long_t": 1 << 63, "timestamp_t": 1 << 63, "port_t": 1 << 16}


def problems(event: dict[str, Any]) -> list[str]:
    """Every attribute that is missing, unknown, or of a wrong type or value."""
    found = SCHEMA["classes"].get(str(event.get("class_uid")))
    if found is None:
        return [f"class {event.get('class_uid')}"]
    profiles = event.get("metadata", {}).get("profiles", [])
    wrong = list(_problems(event, found, "", profiles))
    for key, wanted in (
        ("category_uid", event["class_uid"] // 1000),
        ("type_uid", event["class_uid"] * 100 + event["activity_id"]),
    ):
        if event[key] != wanted:
            wrong.append(f"{key} is {event[key]}, not {wanted}")
    return wrong


def _problems(
    value: dict[str, Any], table: dict[str, Any], at: str, profiles: list[str]
) -> Iterator[str]:
    known = table["attributes"]
    # An attribute of a profile is there where the event says that it has that profile.
    there = {k: a for k, a in known.items() if a.get("profile") in (None, *profiles)}
    if not at and value["class_uid"] == 6003:  # it has these of its own
        there |= {key: known[key] for key in ("actor", "api")}
    for key in value.keys() - there.keys():
        yield f"{at}{key} is not known"
    for key, attribute in there.items():
        if attribute.get("required") and key not in value:
            yield f"{at}{key} is missing"
    if (choice := table.get("at_least_one")) and not value.keys() & set(choice):
        yield f"{at} has none of {choice}"
    for key in value.keys() & there.keys():
        attribute = there[key]
        several = attribute.get("array", False)
        if several and not isinstance(value[key], list):
            yield f"{at}{key} is no list"
            continue
        for each in value[key] if several else [value[key]]:
            yield from _wrong(each, attribute, f"{at}{key}")


def _wrong(value: Any, attribute: dict[str, Any], at: str) -> Iterator[str]:
    kind = attribute["type"]
    if kind in _NUMBERS:
        good = type(value) is int and 0 <= value < _NUMBERS[kind]
    elif kind == "ip_t":
        good = _is_address(value)
    elif kind.endswith("_t") and kind not in _TYPES:
        good = isinstance(value, str)
    elif kind in _TYPES:
        good = isinstance(value, _TYPES[kind])
    else:
        good = isinstance(value, dict)
        if good and kind in SCHEMA["objects"]:
            yield from _problems(value, SCHEMA["objects"][kind], f"{at}.", [])
        elif good:
            yield f"{at}: the object {kind} is not in the excerpt"
    if not good or value not in attribute.get("enum", [value]):
        yield f"{at} is {value!r}, no {kind}"


def _is_address(value: Any) -> bool:
    try:
        return bool(ipaddress.ip_address(value))
    except ValueError:
        return False
