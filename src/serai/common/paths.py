"""Where things lie in the VM. Tests put all of it below a folder of their own."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

CERTIFICATES = "/run/serai/certificates"
"""Where a session's certificates are inside; a folder, since they are replaced while it runs."""


@dataclass(frozen=True)
class Paths:
    """Every place the runtime reads or writes; ``root`` is '/' but in tests."""

    root: Path = Path("/")

    @property
    def sessions(self) -> Path:
        """The sessions disk; each session's home is <sessions>/<name>."""
        return self.root / "sessions"

    @property
    def state(self) -> Path:
        """Root's own folder on the sessions disk, 0700."""
        return self.sessions / ".serai"

    @property
    def registry(self) -> Path:
        return self.state / "registry.sqlite"

    @property
    def making(self) -> Path:
        """Homes that are not whole yet, by UID."""
        return self.state / "making"

    @property
    def arriving(self) -> Path:
        """Sessions that come from an export and are not whole yet, by UID."""
        return self.state / "arriving"

    @property
    def removing(self) -> Path:
        """Homes whose session is gone, by UID, until their data is deleted."""
        return self.state / "removing"

    @property
    def jobs(self) -> Path:
        """Jobs and their output: <UID>/<ID>/."""
        return self.state / "jobs"

    @property
    def run(self) -> Path:
        return self.root / "run/serai"

    @property
    def holders(self) -> Path:
        """The sockets of the jobs' holders: <UID>-<version of their protocol>.sock."""
        return self.run / "jobs"

    @property
    def control(self) -> Path:
        """The JSON-RPC socket."""
        return self.run / "control.sock"

    @property
    def lock(self) -> Path:
        """Held with flock(2) by the one daemon there may be."""
        return self.run / "sessiond.lock"

    @property
    def users(self) -> Path:
        """passwd and group for libnss-extrausers; /var/lib/extrausers is a link to it."""
        return self.run / "users"

    @property
    def settings(self) -> Path:
        """What a session may see and use."""
        return self.root / "etc/serai/session.toml"

    @property
    def hints(self) -> Path:
        """A product's own template for what agents are told about their folders."""
        return self.root / "etc/serai/hints.j2"

    @property
    def shares(self) -> Path:
        """What the host's shares are for."""
        return self.root / "etc/serai/shares.toml"

    @property
    def host(self) -> Path:
        """Where they are mounted, by their tag."""
        return self.root / "mnt/host"

    @property
    def profiles(self) -> Path:
        """The gate's named policies."""
        return self.root / "etc/serai/policy.d"

    @property
    def gate_settings(self) -> Path:
        return self.root / "etc/serai/gate.toml"

    @property
    def gate_run(self) -> Path:
        """The gate's own folder, 0700."""
        return self.root / "run/serai-gate"

    @property
    def gate_control(self) -> Path:
        """Where sessiond tells the gate about sessions."""
        return self.gate_run / "control.sock"

    @property
    def gate_state(self) -> Path:
        """What a gate that is started again takes up: a file a session."""
        return self.gate_run / "sessions"

    @property
    def audit(self) -> Path:
        """The audit log, for the gate; its unit binds this to a folder on the sessions disk."""
        return self.gate_run / "audit"

    @property
    def secrets(self) -> Path:
        """The store of secrets, for the gate; its unit binds this as it does the audit log."""
        return self.gate_run / "secrets"

    @property
    def gate_key(self) -> Path:
        """The VM's key for the gate: there from its unit's start until the gate has read it."""
        return self.gate_run / "key"

    @property
    def vm_keys(self) -> Path:
        """Root's own folder on the root disk, where that key is kept; the role seal empties it."""
        return self.root / "var/lib/serai/keys"

    def home(self, name: str) -> Path:
        return self.sessions / name

    def session(self, name: str) -> Path:
        """What a session's unit and sandbox read: args, users/."""
        return self.run / "sessions" / name

    def certificates(self, name: str) -> Path:
        """Where the gate puts the certificates that the session trusts."""
        return self.run / "certificates" / name

    def gate(self, name: str) -> Path:
        """Where the gate puts the session's two sockets."""
        return self.run / "gate" / name

    def filters(self, machine: str = platform.machine()) -> Path:
        """The seccomp filters of an architecture (uname -m)."""
        return self.root / "usr/lib/serai/seccomp" / machine
