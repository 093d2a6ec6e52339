"""`invoke provision`: the image's roles on VMs that already run, over ssh, batch by batch.

ansible-playbook(1) does the work. Its own text goes to a log, and what a person sees is made of the
events that our callback writes (course.py).
"""

from __future__ import annotations

import json
import os
import re
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from subprocess import Popen, TimeoutExpired
from typing import Any

import yaml
from rich.markup import escape
from rich.table import Table

from serai.image import ansible, cache, console
from serai.image.build.packer_program import fence
from serai.image.definition import brought, definition, variables
from serai.image.errors import BuildError
from serai.image.provision import upgrade
from serai.image.provision.chosen import PLAYBOOK, played
from serai.image.provision.course import Batch, Course, Diff, HostLost, News, Said
from serai.image.run import Argument, last_lines, search_path, started
from serai.image.settings import Settings

ROLLBACK = Path("playbooks/rollback.yml")
_CALLBACKS = Path(__file__).with_name("callbacks")
_KEEP = 20  # logs of earlier runs
_GRACE = 20.0  # seconds for Ansible to end after Ctrl-C
_POLL = 0.1
_ADDRESS = re.compile(r"(?:([^@\s]+)@)?(\[[0-9A-Fa-f:.]+\]|[^@:\s\[\]/]+)(?::(\d{1,5}))?")
_PORTS = range(1, 65536)


@dataclass(frozen=True)
class Options:
    """What to provision, and how.

    Either ``hosts`` ('[user@]address[:port]', an IPv6 address in brackets) or ``inventory`` (a file
    or a folder of Ansible's), of which ``limit`` is a pattern. ``serial`` VMs are provisioned
    at a time (0: all), ``forks`` of them at once (0: 20). ``values`` are role
    variables, 'name=value' with the value in YAML; what ``image`` chooses of them stands below
    these and below the inventory. ``only`` are the roles that are played (none: all).
    ``fast`` leaves a VM alone where what look.py sees is as it was when all was right.
    ``keep_connected`` refuses VMs where the run would end a connected command. ``rollback`` goes
    back to the version before, and plays no role. ``report`` is where the JSON goes ('': beside
    the log).
    """

    hosts: tuple[str, ...] = ()
    inventory: str = ""
    limit: str = ""
    image: str = ""
    key: str = ""
    sudo_password: str = ""
    check: bool = False
    diff: bool = False
    forks: int = 0
    serial: int = 0
    new_host_keys: bool = False
    values: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    fast: bool = False
    keep_connected: bool = False
    rollback: bool = False
    report: str = ""


class _FailedError(Exception):
    """Ansible ended with ``status``."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def provision(settings: Settings, options: Options) -> Course:
    """Provision the VMs, tell of each step, and print and write the summary.

    Raises BuildError if the options cannot be used, or a VM failed; KeyboardInterrupt, after
    the summary, when somebody interrupts.
    """
    folder = settings.cache / "provision"
    folder.mkdir(parents=True, exist_ok=True)
    stamp = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S.%fZ")
    log = folder / f"{stamp}.log"
    report = Path(options.report).absolute() if options.report else folder / f"{stamp}.json"
    with tempfile.TemporaryDirectory(prefix="serai-provision-") as work_name:
        work = Path(work_name)
        argv = command(settings, options, work)
        _prune(folder)
        # What a task shows with --diff may be a secret (a parent proxy's password).
        log.touch(mode=0o600)
        course, status, interrupted = Course(), 0, False
        try:
            _play(argv, course, work=work, log=log, settings=settings, options=options)
        except _FailedError as failed:
            status = failed.status
        except KeyboardInterrupt:
            interrupted = True
            course.interrupt()
    if course.hosts:
        console.out.print(summary(course))
        _write(report, {**course.report(), "check": options.check, "log": str(log)})
        console.say(f"log: {log}\nreport: {report}")
    if interrupted:
        raise KeyboardInterrupt(
            "interrupted; run the same again to finish the VMs that were under way"
        )
    _judge(course, status, log)
    return course


def command(settings: Settings, options: Options, work: Path) -> list[Argument]:
    """The command line of Ansible; writes the inventory of ``options.hosts`` to ``work``.

    What the image chooses is an inventory, too, of variables alone: Ansible lets a later one win.

    Raises BuildError if the options contradict each other or name what is not there.
    """
    _check(options)
    known = variables.options(settings)
    inventory = work / "inventory.yml"
    if options.hosts:
        entries = dict(map(address, options.hosts))
        inventory.write_text(yaml.safe_dump({"all": {"hosts": entries}}))
    else:
        inventory = _existing("--inventory", options.inventory)
    argv: list[Argument] = ["ansible-playbook"]
    if options.image:
        chosen = _of_image(settings, options.image, work / "image.yml")
        argv += ["--inventory", chosen]
    argv += ["--inventory", inventory]
    if options.limit:
        argv += ["--limit", options.limit]
    if options.key:
        argv += ["--private-key", _existing("--key", options.key)]
    if options.sudo_password:
        password = _existing("--sudo-password", options.sudo_password)
        argv += ["--become-password-file", password]
    if options.forks:
        argv += ["--forks", str(options.forks)]
    argv += ["--check"] * options.check + ["--diff"] * options.diff
    if extra := _values(settings, options, known):
        argv += ["--extra-vars", json.dumps(extra)]
    if options.new_host_keys:
        argv += ["--ssh-extra-args=-o StrictHostKeyChecking=accept-new"]
    if options.rollback:
        return [*argv, settings.root / ROLLBACK]
    if chosen_roles := played(settings, options.only):
        argv += ["--tags", ",".join(chosen_roles)]
    return [*argv, settings.root / PLAYBOOK]


def _check(options: Options) -> None:
    """Raise BuildError if the options contradict each other."""
    if bool(options.hosts) == bool(options.inventory):
        raise BuildError("say which VMs: either --host USER@ADDRESS[:PORT] or --inventory FILE")
    if options.rollback and (options.only or options.image or options.values):
        raise BuildError("--rollback plays no role: it goes without --only, --image and --set")
    if options.forks < 0 or options.serial < 0:
        raise BuildError("--forks and --serial are numbers from 1 on")


def _of_image(settings: Settings, name: str, target: Path) -> Path:
    """Write what an image chooses as an inventory of variables. Raises BuildError."""
    image = definition.load(settings, name)
    if image.roles != definition.Additions():
        raise BuildError(
            f"{image.name} has roles of its own, which 'provision' does not play",
            hint="provision with a flavour without them, and play them yourself",
        )
    every = {each.role for each in variables.options(settings).values()}
    found = variables.of_roles(settings, image.variables, every)
    brought.check(found)
    target.write_text(yaml.safe_dump({"all": {"vars": found}}))
    return target


def address(text: str) -> tuple[str, dict[str, Any]]:
    """Ansible's name and variables for '[user@]address[:port]'. Raises BuildError."""
    match = _ADDRESS.fullmatch(text)
    if match is None or text.startswith("-") or (match[3] and int(match[3]) not in _PORTS):
        raise BuildError(f"--host {text!r} is not USER@ADDRESS[:PORT]")
    user, where, port = match.groups()
    found: dict[str, Any] = {"ansible_host": where.strip("[]")}
    if user:
        found["ansible_user"] = user
    if port:
        found["ansible_port"] = int(port)
    return text, found


def recording(events: Path) -> dict[str, str]:
    """What lets Ansible write its events to that file; callbacks/serai_events.py says how."""
    return {
        "ANSIBLE_CALLBACK_PLUGINS": str(_CALLBACKS),
        "ANSIBLE_CALLBACKS_ENABLED": "serai_events",
        "SERAI_EVENTS": str(events),
    }


def summary(course: Course) -> Table:
    """A line a VM."""
    table = Table("host", "state", box=None, header_style="bold", pad_edge=False)
    for name in ("ok", "changed", "failed", "unreachable", "seconds"):
        table.add_column(name, justify="right")
    for host in course.hosts.values():
        row = host.row()
        colour = {"ok": "green", "not reached": "dim"}.get(host.state, "red")
        numbers = [row[name] for name in ("ok", "changed", "failed", "unreachable", "seconds")]
        table.add_row(escape(host.name), f"[{colour}]{host.state}[/]", *map(str, numbers))
    return table


def _values(
    settings: Settings, options: Options, known: Mapping[str, variables.Option]
) -> dict[str, Any]:
    """The variables of --set, checked as those of an image are, and our own for the playbook."""
    values: dict[str, Any] = {}
    for text in options.values:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise BuildError(f"--set {text!r} is not NAME=VALUE for a role's variable")
        try:
            values[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise BuildError(f"--set {name}: {value!r} is not YAML") from None
        if not name.startswith("ansible_"):  # how to connect
            variables.check_one(known, name, values[name], f"--set {name}")
    if not options.rollback:
        values["provision_sources"] = upgrade.sources(settings)
        values["provision_fast"] = options.fast
    if options.only:
        values["provision_only"] = list(options.only)
    if options.keep_connected:
        values["provision_keep_connected"] = True
    if options.serial:
        values["provision_serial"] = options.serial
    if options.sudo_password:
        values["provision_sudo_password"] = True
    return values


def _existing(option: str, name: str) -> Path:
    path = Path(name).expanduser().absolute()
    if not path.exists():
        raise BuildError(f"{option}: there is no {path}")
    if not os.access(path, os.R_OK):
        raise BuildError(f"{option}: {path} cannot be read")
    return path


def _play(
    argv: Sequence[Argument],
    course: Course,
    *,
    work: Path,
    log: Path,
    settings: Settings,
    options: Options,
) -> None:
    """Run Ansible to its end, telling what it does. Raises _FailedError."""
    events = work / "events"
    events.touch()
    environment = {
        **ansible.many_environment(settings.root),
        **recording(events),
        "PATH": search_path(),
    }
    name = "rolling back" if options.rollback else "provisioning"
    name = "checking" if options.check else name
    also = set(played(settings, options.only)) - set(options.only) if options.only else set()
    if also:
        console.say(f"with {', '.join(options.only)} also {', '.join(sorted(also))}")
    with (
        # Ansible's workers and ssh's shared connections have sessions of their own: the fence ends
        # them all with it.
        started([*fence(), *argv], log=log, env=environment) as process,
        _interrupting(process),
        console.step(name),
        events.open() as stream,
    ):
        try:
            while process.poll() is None:
                _follow(stream, course)
                time.sleep(_POLL)
        finally:  # also what it said right before Ctrl-C
            _follow(stream, course)
        for news in course.end():
            _tell(news)
        if process.returncode != 0:
            raise _FailedError(process.returncode)  # the step shows it, the summary says why


def _follow(stream: Any, course: Course) -> None:
    """Tell what Ansible has done since the last time."""
    for line in _whole_lines(stream):
        for news in course.feed(line):
            _tell(news)


def _whole_lines(stream: Any) -> Iterator[str]:
    """The lines that are complete by now; the rest of one that is not is read again later."""
    while True:
        place = stream.tell()
        line = stream.readline()
        if not line.endswith("\n"):
            stream.seek(place)
            return
        yield line


@contextmanager
def _interrupting(process: Popen[bytes]) -> Iterator[None]:
    """Ctrl-C becomes Ansible's own: it ends its workers and removes what it put on VMs."""
    try:
        yield
    except KeyboardInterrupt:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(_GRACE)
        except TimeoutExpired:
            console.warn("ansible-playbook does not end by itself")
        raise


def _tell(news: News) -> None:
    if isinstance(news, Batch):
        rest = f", {news.rest} to follow" if news.rest else ""
        console.say(f"batch {news.number}: {', '.join(news.hosts)}{rest}")
    elif isinstance(news, HostLost):
        host = news.host
        where = f" in '{host.task}'" if host.state == "failed" else ""
        text = console.clean(f"  {host.name} {host.state}{where}: {host.why}")
        console.out.print(text, style="red", markup=False)
    elif isinstance(news, Said):
        console.say(console.clean(f"  {news.host}: {news.text}"))
    elif isinstance(news, Diff):
        console.say(f"{news.host}\n{news.text}")
    else:
        console.show_timing(news.name, news.status, news.told(), news.seconds)


def _judge(course: Course, status: int, log: Path) -> None:
    """Raise BuildError unless all went well."""
    if not course.hosts:
        said = log.read_text(errors="replace")
        if "no hosts matched" in said.lower() or "--limit" in said:
            raise BuildError("no VM matches", hint="see --inventory and --limit", log=log)
        raise BuildError(f"ansible-playbook did not begin: {last_lines(said)}", log=log)
    lost = course.failed
    if lost:
        untouched = sum(host.state == "not reached" for host in course.hosts.values())
        rest = f", {untouched} not reached" if untouched else ""
        first = f"{lost[0].name} {lost[0].state}: {lost[0].why}"
        raise BuildError(f"{len(lost)} of {len(course.hosts)} failed{rest}; {first}", log=log)
    if status != 0:
        said = log.read_text(errors="replace")
        raise BuildError(f"ansible-playbook failed: {last_lines(said)}", log=log)


def _write(report: Path, data: dict[str, Any]) -> None:
    report.parent.mkdir(parents=True, exist_ok=True)
    cache.write(report, json.dumps(data, indent=2) + "\n")


def _prune(folder: Path) -> None:
    for ending in ("log", "json"):
        for old in sorted(folder.glob(f"*.{ending}"))[:-_KEEP]:
            old.unlink(missing_ok=True)
