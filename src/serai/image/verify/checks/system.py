"""What a VM has of its own, what sessions need, and who can come in."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from serai.common.checks import Absent, Check, Finding, the
from serai.image.build.playbook import BUILD_USER
from serai.image.definition.definition import BootstrapBase
from serai.image.verify.facts import Evidence

HOSTNAME = "serai"  # of an image that chooses none: roles/seal/defaults/main.yml
PORTS = ("22", "68", "546")  # ssh, and a DHCP client's
_URL = re.compile(r"\w+://\S*[^\s/]")  # without slashes at the end
CLOCK = 120.0  # seconds that an emulated VM's clock may be off


def _machine_id(evidence: Evidence) -> Finding:
    one, again, other = (
        the(machine).facts.identity.machine_id
        for machine in (evidence.first, evidence.second, evidence.foreign)
    )
    problems = [] if len(one) == 32 else [f"it is {one!r}"]  # noqa: PLR2004 - machine-id(5)
    if one == other:
        problems.append(f"two fresh machines share {one}")
    if one != again:
        problems.append("it changes with a reboot")
    return Finding(problems, f"{one[:8]}… and {other[:8]}…")


def _host_keys(evidence: Evidence) -> Finding:
    one, again, other = (
        the(machine).facts.identity.host_keys
        for machine in (evidence.first, evidence.second, evidence.foreign)
    )
    problems = [] if "ssh-ed25519" in one else [f"no ed25519 key among {sorted(one)}"]
    shared = [kind for kind in one if one[kind] == other.get(kind)]
    if shared:
        problems.append(f"two fresh machines share {', '.join(shared)}")
    if one != again:
        problems.append("they change with a reboot")
    return Finding(problems, ", ".join(sorted(one)))


def _hostname(evidence: Evidence) -> Finding:
    found = the(evidence.first).facts.identity
    problems = []
    if found.hostname in ("", "localhost", "(none)") or found.hostname != found.hostname_file:
        problems.append(f"it is {found.hostname!r}, /etc/hostname says {found.hostname_file!r}")
    chosen = evidence.image.variables
    wanted = chosen.get("seal_hostname") or chosen.get("identity_hostname") or HOSTNAME
    if found.hostname != wanted:
        problems.append(f"it is {found.hostname!r}, and the image's is {wanted!r}")
    if not found.address:
        problems.append(f"{found.hostname!r} does not resolve")
    return Finding(problems, f"{found.hostname}, {found.address}")


def _named(evidence: Evidence) -> Finding:
    found, image = the(evidence.first).facts.system, evidence.image
    wrong = f"IMAGE_ID is {found.image!r}, not {image.name!r}"
    problems = [] if found.image == image.name else [wrong]
    if not found.version:
        problems.append("there is no IMAGE_VERSION")
    return Finding(problems, f"{found.image} {found.version}")


def _sources(evidence: Evidence) -> Finding:
    apt, image = the(evidence.first).facts.apt, evidence.image
    suites = {source.split()[1] for source in apt.sources if len(source.split()) > 1}
    wanted = [apt.codename, f"{apt.codename}-updates", f"{apt.codename}-security"]
    problems = [f"apt has no source of {suite}" for suite in wanted if suite not in suites]
    own = "\n".join(image.variables.get("seal_sources", ()))
    if isinstance(image.base, BootstrapBase):
        mirrors = _URL.findall(f"{image.base.mirror} {image.base.security_mirror}")
        problems += [
            f"apt has the build's mirror, {site}"
            for site in sorted({source.split()[0] for source in apt.sources if source})
            if site.rstrip("/") in mirrors
            and site not in own
            and urlsplit(site).hostname not in apt.usual
        ]
    return Finding(problems, ", ".join(sorted(suites)))


def _listening(evidence: Evidence) -> Finding:
    machine = the(evidence.first).facts
    strange = [each for each in machine.listening if each.rpartition(":")[2] not in PORTS]
    return Finding([f"{each} can be reached" for each in strange], "ssh alone")


def _clock(evidence: Evidence) -> Finding:
    machine = the(evidence.first)
    off = machine.facts.system.now - machine.clock
    problems = [f"it is off by {off:.0f} s"] if abs(off) > CLOCK else []
    zone = machine.facts.system.timezone
    if zone != (wanted := evidence.image.variables.get("identity_timezone", "Etc/UTC")):
        problems.append(f"the time zone is {zone or 'none'}, and not {wanted}")
    return Finding(problems, f"{off:+.0f} s")


def _swap(evidence: Evidence) -> Finding:
    swaps = the(evidence.first).facts.system.swaps
    return Finding([f"{', '.join(swaps)} is in use"] if swaps else [], "none")


def _bwrap(evidence: Evidence) -> Finding:
    bwrap = the(evidence.first).facts.bwrap
    wanted = f"uid={bwrap.uid}"
    well = bwrap.status == 0 and wanted in bwrap.output and "pid=1 " not in bwrap.output + " "
    return Finding([] if well else [f"status {bwrap.status}: {bwrap.output}"], bwrap.version)


def _bwrap_rights(evidence: Evidence) -> Finding:
    bwrap = the(evidence.first).facts.bwrap
    if not bwrap.mode:
        raise Absent("/usr/bin/bwrap is not there")
    problems = [f"it is setuid or setgid ({bwrap.mode:04o})"] if bwrap.mode & 0o6000 else []
    if bwrap.capabilities:
        problems.append("its file has capabilities")
    return Finding(problems, f"mode {bwrap.mode:04o}")


def _socat(evidence: Evidence) -> Finding:
    socat = the(evidence.first).facts.socat
    well = socat.status == 0 and socat.output == "through"
    return Finding([] if well else [f"status {socat.status}: {socat.output}"], socat.version)


def _build_user(evidence: Evidence) -> Finding:
    problems = [f"{path} names {BUILD_USER}" for path in the(evidence.shipped).mentions]
    people = the(evidence.first).facts.accounts.people
    if BUILD_USER in people:
        problems.append(f"{BUILD_USER} has an account after booting")
    return Finding(problems, f"people: {', '.join(people) or 'none'}")


def _keys(evidence: Evidence) -> Finding:
    machine = the(evidence.first)
    seeded = machine.key.split()[1]
    found = machine.facts.accounts.authorized_keys
    strange = [path for path, lines in found.items() if any(seeded not in line for line in lines)]
    problems = [f"{path} holds a key that nobody seeded" for path in strange]
    return Finding(problems, ", ".join(found) or "no key at all")


def _passwords(evidence: Evidence) -> Finding:
    names = the(evidence.first).facts.accounts.passwords
    return Finding([f"{name} has one" for name in names], "all locked")


def _journal(evidence: Evidence) -> Finding:
    boots = the(evidence.first).facts.journal_boots
    return Finding([f"{boots} boots are in it"] if boots != 1 else [], "one boot")


CHECKS: tuple[Check[Evidence], ...] = (
    Check("foreign", "every machine gets its own machine-id, and keeps it", _machine_id),
    Check("foreign", "every machine gets its own ssh host keys, and keeps them", _host_keys),
    Check("identity", "the host name is the image's and resolves", _hostname),
    Check("system", "it says which image it is", _named),
    Check("apt", "apt has the release, its updates and its security updates", _sources),
    Check("listening", "nothing can be reached from outside but ssh", _listening),
    Check("system", "the clock is right and in the image's time zone", _clock),
    Check("system", "swap is off", _swap),
    Check("bwrap", "bwrap runs as an ordinary user", _bwrap),
    Check("bwrap", "bwrap has no rights of its own", _bwrap_rights),
    Check("socat", "socat carries data", _socat),
    Check("shipped", "nothing is left of the build's user", _build_user),
    Check("accounts", "only the seeded key lets somebody in", _keys),
    Check("accounts", "no password opens an account", _passwords),
    Check("journal_boots", "the journal knows of this boot only", _journal),
)
