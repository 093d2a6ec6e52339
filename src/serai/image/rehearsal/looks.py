"""What is looked at after a rehearsal: shell commands, and the lines that they have to print."""

from __future__ import annotations

from serai.image.definition import arch

_CONSOLE = arch.ARCHITECTURES[arch.native()].console.partition(",")[0]

# In the running container, of each base and playbook.
ALWAYS = {
    "sshd -T | grep ^passwordauthentication": "passwordauthentication no",
    "systemctl is-enabled serai-sessiond serai-gate sessions.mount": "enabled\nenabled\nenabled",
    "systemctl is-enabled apt-daily.timer apt-daily-upgrade.timer": "disabled\ndisabled",
    "systemd-analyze verify serai-sessiond.service serai-gate.service serai.slice 2>&1": "",
}

# Of an image that has what a project adds, see data/project.
PROJECT = {
    "cat /etc/serai-rehearsal/file": "The project's file.",
    "openssl verify /usr/local/share/ca-certificates/serai/rehearsal.crt | grep -o OK": "OK",
    "grep -c ca-certificates.crt /etc/serai/session.toml": "4",
}

UBUNTU = {
    "ls -d /usr/bin/snap /snap /var/snap /var/lib/snapd 2>/dev/null": "",
    "findmnt --noheadings --source snap": "",
    "apt-cache policy snapd | grep Candidate": "Candidate: (none)",
    "ls /lib/modules/6.8.*/kernel/fs/quota": "quota_v2.ko",
    "systemctl is-enabled apport whoopsie": "masked\nmasked",
    "grep -o '6.8.*root=.* console=[^ ]*$' /boot/grub/grub.cfg | grep -o '[^ ]*$'": (
        f"console={_CONSOLE}"
    ),
}

# By release of Ubuntu. A container shows of AppArmor that the profile is one that its parser takes.
BY_RELEASE = {
    "22.04": {
        "/usr/bin/python3 -c 'import tomli; print(tomli.__name__)'": "tomli",
        "ls /etc/apparmor.d/serai-bwrap 2>/dev/null": "",
    },
    "24.04": {
        "dpkg-query --show python3-tomli lxd-installer 2>/dev/null": "",
        "apparmor_parser --replace /etc/apparmor.d/serai-bwrap && echo loaded": "loaded",
        "systemctl is-active ssh.socket": "active",
    },
}

# It has its own network, and its tools are those of the product.
UBUNTU_IMAGE = {
    "stat -c %a /etc/netplan/60-serai.yaml": "600",
    "netplan generate && grep -h -e Name= -e DHCP= /run/systemd/network/*serai.network": (
        "Name=en*\nDHCP=ipv4"
    ),
    "node --version | cut -d. -f1; standin-agent": "v22\nthe agent",
    "gcc -dumpmachine": arch.ARCHITECTURES[arch.native()].triplet,
    "locale -a | grep en_US": "en_US.utf8",
}

# sshd writes the file when it starts, and when it reads its settings again.
VM = {
    "systemctl is-active serai-sessiond serai-gate sessions.mount": "active\nactive\nactive",
    "find /run/sshd.pid -newer /etc/ssh/sshd_config.d/10-serai.conf": "/run/sshd.pid",
}

UBUNTU_VM = {
    **VM,
    "serai create one && serai exec one -- id -un": "one\none",
    "ls /etc/netplan/60-serai.yaml 2>/dev/null": "",
}

# In the root of an image that was sealed and has powered off, on the build host.
SEALED = {
    "cat etc/machine-id": "",
    "ls home; ls etc/ssh/ssh_host_* 2>/dev/null": "",
    "grep -rlw serai-build etc": "",
}

_PORTS = arch.native() != "amd64"
_ARCHIVE = "ports.ubuntu.com/ubuntu-ports" if _PORTS else "archive.ubuntu.com/ubuntu"
_SECURITY = "ports.ubuntu.com/ubuntu-ports" if _PORTS else "security.ubuntu.com/ubuntu"

UBUNTU_SEALED = {
    **SEALED,
    "ls etc/netplan": "60-serai.yaml",
    "cat etc/cloud/cloud.cfg.d/91-serai-sources.cfg | tail -n 1": (
        "apt: {preserve_sources_list: true}"
    ),
}

_STANZAS = "grep -E '^(URIs|Suites):' etc/apt/sources.list.d/ubuntu.sources"
SEALED_BY_RELEASE = {
    "22.04": {
        "grep ^deb etc/apt/sources.list | cut -d' ' -f2,3": (
            f"http://{_ARCHIVE} jammy\nhttp://{_ARCHIVE} jammy-updates\n"
            f"http://{_SECURITY} jammy-security"
        ),
    },
    "24.04": {
        _STANZAS: (
            f"URIs: http://{_ARCHIVE}\nSuites: noble noble-updates\n"
            f"URIs: http://{_SECURITY}\nSuites: noble-security"
        ),
        "grep -v '^#' etc/apt/sources.list": "",
    },
}

# Of a VM that belongs to a fleet whose servers are not there: it goes on trying.
FLEET = {
    "systemctl is-enabled serai-fleet; systemctl is-active serai-fleet": "enabled\nactive",
    "stat -c '%a %U %G' /etc/serai/fleet /etc/serai/fleet/key.pem": (
        "750 root serai-fleet\n640 root serai-fleet"
    ),
    "systemd-analyze verify serai-fleet.service 2>&1": "",
}
