"""Lives two sessions inside a booted image and prints what was seen as one JSON object.

``verify`` sends this file over ssh to ``python3 -``, as root: it runs in the image, on the standard
library and the installed runtime. It judges nothing; ``facts.ExerciseFacts`` is the shape of what
it prints. One session misbehaves, the other one looks on. Whether they are contained is asked of
``serai doctor``, and not looked at again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, "/usr/lib/serai/python")

from serai.common.errors import SeraiError
from serai.runtime.client import Client

ROGUE, WITNESS = "rogue", "witness"
UNIT = f"serai-session@{ROGUE}.service"
MEMORY, TASKS = 96 << 20, 64
DEADLINE = 120.0
DOCTOR = 600.0  # seconds that it may take where the VM is emulated
TOOLING = 600.0  # the same, for starting some twenty tools, LibreOffice among them
NOTHING = '{"checks": [], "passed": 0}'
PACE = 1.0  # seconds for which the use of CPU is watched
LIGHT = 10  # the rogue's CPUWeight while both sessions want every CPU
LOOPS = 3  # busy loops in each: more than there are CPUs
WINDOW = 5.0  # seconds for which they compete at least
QUOTA = 8 << 20  # bytes, for the session that fills its part of the disk
OWNER = 4242  # whose the attached folder is
BUSY = ["sh", "-c", "while :; do :; done"]

# Where nothing limits it, it ends by itself; the VM is to be judged, not to be lost.
HOG = f"held = [b'x' * (1 << 20) for _ in range({3 * MEMORY >> 20})]"
FILL = f"""
import errno
try:
    with open("fill", "wb", buffering=0) as file:
        for _ in range({4 * QUOTA >> 20}):
            file.write(bytes(1 << 20))
    print("it fits")
except OSError as error:
    print(errno.errorcode[error.errno])
"""
BOMB = "bomb() { bomb | bomb & }; bomb; wait; sleep 100"


def said(*argv: str, timeout: float = DEADLINE) -> str:
    done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=False, timeout=timeout)
    return done.stdout.strip()


def daemon() -> int:
    return int(said("systemctl", "show", "-P", "MainPID", "serai-sessiond.service") or 0)


def cgroup(name: str = ROGUE) -> Path:
    """The cgroup of a session that runs; cgroup v2."""
    unit = f"serai-session@{name}.service"
    return Path("/sys/fs/cgroup" + said("systemctl", "show", "-P", "ControlGroup", unit))


def counted(file: Path, key: str) -> int:
    """A number of one of a cgroup's files of keys and values; 0 if it is not there."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return 0
    return int(dict(line.split() for line in lines).get(key, 0))


def usage(folder: Path) -> int:
    """Microseconds of CPU that a cgroup and those below it have used."""
    return counted(folder / "cpu.stat", "usage_usec")


def used() -> int:
    """Microseconds of CPU that the rogue uses in a while."""
    folder = cgroup()
    before = usage(folder)
    time.sleep(PACE)
    return usage(folder) - before


def wait_for_state(client: Client, *states: str) -> str:
    """The rogue's state, as soon as it is one of ``states`` or it has been too long."""
    end = time.monotonic() + DEADLINE
    while True:
        found = str(client.call("show", name=ROGUE)["state"])
        if found in states or time.monotonic() > end:
            return found
        time.sleep(0.1)


def output(client: Client, name: str, *argv: str, timeout: float = 60) -> str:
    return client.exec(name, list(argv), timeout=timeout).stdout.decode(errors="replace").strip()


# Inside: what the tools say of themselves (the first number with a dot); which are there that no
# profile has; a document of each kind, made by Python, printed by LibreOffice and read by poppler;
# a program in C.
TOOLS = """
import glob, json, re, shutil, subprocess, sys
def said(*argv):
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, errors="replace", timeout=240)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{argv[0]}: {type(error).__name__}"
    return done.stdout.strip()
asked = {name: (name, "--version") for name in (
    "python3", "pip", "node", "npm", "gcc", "java", "git", "rg", "jq", "make", "pandoc",
    "soffice", "qpdf", "gs", "unzip")}
asked["ensurepip"] = ("python3", "-m", "ensurepip", "--version")
asked["unzip"] = ("unzip", "-v")
asked["pdftotext"] = ("pdftotext", "-v")
versions = {}
for name, argv in asked.items():
    found = re.search(r"[0-9]+([.][0-9]+)+", said(*argv)) if shutil.which(argv[0]) else None
    versions[name] = found.group() if found else ""
uninvited = [name for name in ("go", "rustc", "cargo", "docker", "podman") if shutil.which(name)]
def write():
    import docx, openpyxl, pptx
    paper, book, slides = docx.Document(), openpyxl.Workbook(), pptx.Presentation()
    paper.add_paragraph("a paper")
    book.active["A1"] = "a book"
    slides.slides.add_slide(slides.slide_layouts[5]).shapes.title.text = "a slide"
    paper.save("paper.docx"), book.save("book.xlsx"), slides.save("slides.pptx")
documents, compiled = [], ""
if versions["soffice"]:
    try:
        write()
    except Exception as error:
        documents.append(repr(error))
    printed = said("soffice", "--headless", "--convert-to", "pdf", *glob.glob("*.[dpx]*x"))
    if not glob.glob("*.pdf"):
        documents.append(printed[-500:])
    documents += [said("pdftotext", name, "-") for name in sorted(glob.glob("*.pdf"))]
if versions["gcc"]:
    with open("hello.c", "w") as source:
        source.write("#include <stdio.h>\\nint main(void) { puts(\\"compiled\\"); return 0; }")
    compiled = said("gcc", "-o", "hello", "hello.c") or said("./hello")
print(json.dumps({"versions": versions, "uninvited": uninvited, "documents": documents,
                  "compiled": compiled}))
"""


def working(client: Client) -> dict[str, Any]:
    """What a session has to work with, and that it does."""
    found: dict[str, Any] = json.loads(
        output(client, WITNESS, "python3", "-c", TOOLS, timeout=TOOLING)
    )
    return found


def filling(client: Client) -> dict[str, Any]:
    """The rogue writes more than its own quota, and the witness writes meanwhile."""
    kept = client.call("set", name=ROGUE, limits={"quota": str(QUOTA)})["quota"]
    full = output(client, ROGUE, "python3", "-c", FILL)
    other = output(client, WITNESS, "sh", "-c", "echo well >filled && sync filled && cat filled")
    output(client, ROGUE, "rm", "fill")
    client.call("set", name=ROGUE, limits={"quota": None})
    return {"quota": kept["bytes_limit"] if kept else 0, "full": full, "while_full": other}


def attaching(client: Client) -> dict[str, Any]:
    """A directory of the VM's own disk in a running session, and what is made there."""
    with tempfile.TemporaryDirectory(dir="/srv") as name:
        for path in (Path(name), Path(name, "there")):
            path.touch()
            os.chown(path, OWNER, OWNER)
        begin = time.monotonic()
        client.call("attach", name=ROGUE, role="outputs", path=name)
        took = time.monotonic() - begin
        folders = client.call("show", name=ROGUE)["folders"]
        mount = next(each["mount"] for each in folders if each["role"] == "outputs")
        look = "cd mnt/outputs && stat -c %U there && echo x >made && stat -c %U made"
        inside = output(client, ROGUE, "sh", "-c", look).split()
        client.call("detach", name=ROGUE, role="outputs")
        made = Path(name, "made")
        owner = made.stat().st_uid if made.exists() else -1
    return {
        "attached": round(took, 3),
        "mount": mount,
        "inside_owners": inside,
        "outside_owner": owner,
    }


def freezing(client: Client) -> dict[str, Any]:
    """A session that is busy, frozen by a switch, and thawed."""
    client.call("switch", name=ROGUE)
    client.call("exec", name=ROGUE, argv=BUSY, stdio="null", detach=True)
    running = used()
    client.call("switch", name=WITNESS)
    state = client.call("show", name=ROGUE)["state"]
    frozen = used()
    begin = time.monotonic()
    client.call("switch", name=ROGUE)
    thawed = time.monotonic() - begin
    return {
        "busy_usec": running,
        "frozen": state,
        "frozen_usec": frozen,
        "thawed": round(thawed, 3),
    }


def sharing(client: Client) -> dict[str, Any]:
    """Both sessions want every CPU, and the rogue has a fraction of the other one's weight."""
    client.call("reopen", name=WITNESS)
    folders = (cgroup(ROGUE), cgroup(WITNESS))
    said("systemctl", "set-property", "--runtime", UNIT, f"CPUWeight={LIGHT}")
    for name in (ROGUE, WITNESS):
        for _ in range(LOOPS):
            client.call("exec", name=name, argv=BUSY, stdio="null", detach=True)
    before = [usage(folder) for folder in folders]
    answer, known, seconds = asked_while_busy(client)
    spent = [usage(folder) - start for folder, start in zip(folders, before, strict=True)]
    for folder in folders:
        end_detached(folder)
    return {
        "light_usec": spent[0],
        "heavy_usec": spent[1],
        "busy_answer": answer,
        "busy_sessions": known,
        "busy_seconds": seconds,
    }


def asked_while_busy(client: Client) -> tuple[str, list[str], float]:
    """What a busy session and the daemon answer, and the seconds that it took; lasts a while."""
    begin = time.monotonic()
    answer = said("serai", "exec", WITNESS, "--timeout", "60", "--", "echo", "well")
    known = [str(each["name"]) for each in client.call("list")["sessions"]]
    seconds = time.monotonic() - begin
    time.sleep(max(0.0, WINDOW - seconds))
    return answer, known, round(seconds, 3)


def end_detached(folder: Path) -> None:
    """Kill the detached payloads of a session; cgroup v2, cgroup.kill."""
    for payload in folder.glob("detached-*"):
        (payload / "cgroup.kill").write_text("1")


def limit(client: Client) -> None:
    """Give the rogue so little that an emulated VM gets to the limits in seconds."""
    client.call("set", name=ROGUE, limits={"memory": str(MEMORY), "tasks": str(TASKS)})


def bombed(client: Client) -> int:
    """Start a fork bomb; how often it was refused to fork. Where nothing limits it: not at all."""
    if not (cgroup() / "pids.max").exists():
        return 0
    client.call("exec", name=ROGUE, argv=["bash", "-c", BOMB], stdio="null", detach=True)
    end = time.monotonic() + 20
    while not (refused := counted(cgroup() / "pids.events", "max")) and time.monotonic() < end:
        time.sleep(0.2)
    return refused


def misbehaving(client: Client) -> dict[str, Any]:
    """A memory hog, then a fork bomb, with the witness asked while each of them goes on."""
    limit(client)
    beside = client.call("exec", name=ROGUE, argv=["sleep", "999"], stdio="null", detach=True)
    with Client(timeout=DEADLINE) as other:
        try:
            done = other.exec(ROGUE, ["python3", "-c", HOG], timeout=60)
            hog, told = done.status, done.out_of_memory
        except SeraiError:
            hog, told = -1, False  # it ended with its session
    answers = [output(client, WITNESS, "echo", "well")]
    spared = Path("/proc", str(beside["pid"])).exists()
    wait_for_state(client, "stopped", "ready", "active")
    client.call("stop", name=ROGUE)
    client.call("reopen", name=ROGUE)
    refused = bombed(client)
    answers.append(output(client, WITNESS, "echo", "well"))
    client.call("stop", name=ROGUE)
    return {
        "hog": hog,
        "hog_told": told,
        "hog_spared": spared,
        "after_hog": answers[0],
        "bomb_refused": refused,
        "after_bomb": answers[1],
        "processes_left": len(said("ps", "-o", "pid=", "-u", ROGUE).split()),
    }


def removed(client: Client) -> dict[str, Any]:
    """Both sessions are removed; which of them are still there when it has been long enough."""
    for name in (ROGUE, WITNESS):
        client.call("remove", name=name)
    end = time.monotonic() + DEADLINE
    while (left := remaining(client)) and time.monotonic() < end:
        time.sleep(0.1)
    return {"sessions_left": left}


def doctored() -> dict[str, Any]:
    """What ``serai doctor`` says, before anything here has changed the VM."""
    told = json.loads(said("serai", "doctor", "--json", timeout=DOCTOR) or NOTHING)
    wrong = [f"{each['name']}: {each['detail']}" for each in told["checks"] if not each["ok"]]
    return {"doctor_passed": told["passed"], "doctor_failed": wrong}


def remaining(client: Client) -> list[str]:
    """Which of the two the daemon still knows, or has a home."""
    known = {each["name"] for each in client.call("list")["sessions"]}
    both = (ROGUE, WITNESS)
    return [name for name in both if name in known or Path("/sessions", name).exists()]


PARTS = (working, filling, attaching, freezing, sharing, misbehaving, removed)


def main() -> None:
    pid = daemon()
    found = doctored()
    with Client(timeout=DEADLINE) as client:
        for name in (ROGUE, WITNESS):
            client.call("create", name=name)
        for part in PARTS:
            found.update(part(client))
    print(json.dumps({**found, "same_daemon": daemon() == pid != 0}))


if __name__ == "__main__":
    main()
