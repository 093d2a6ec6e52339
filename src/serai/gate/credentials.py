"""What the programs of a session are given: placeholders of secrets, and certificates.

The gate writes the certificates where the session reads them, and the environment into the state of
the session, from where sessiond takes it for each payload.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from serai.gate.policy.rules import Rules
from serai.gate.secrets import Store
from serai.gate.tls import certificates
from serai.gate.tls.authority import Authority


@dataclass(frozen=True)
class Credentials:
    """Gives them out; ``roots`` are the certificates that sessions trust besides ours."""

    store: Store
    authority: Authority
    roots: Path

    def give(self, uid: int, policy: Rules, folder: Path) -> dict[str, str]:
        """Write the certificates of a session into its ``folder``, and return its environment.

        A session of before there were any has no such folder. Raises OSError.
        """
        hosts = ended_hosts(policy)
        environment = {
            each.variable: self.store.placeholder(uid, each.secret)
            for each in policy.bind
            if each.variable
        }
        if not folder.is_dir():
            return environment
        if not hosts:
            certificates.remove(folder)
            return environment
        certificates.write(folder, self.roots, self.authority.roots(hosts))
        return {**certificates.environment(), **environment}


def ended_hosts(policy: Rules) -> list[str]:
    """The hosts, as names and patterns, for which TLS may be ended by this policy."""
    bound = {host.partition(":")[0] for each in policy.bind for host in each.hosts}
    seen = {each.name for each in (*policy.allow, *policy.deny) if each.request is not None}
    return sorted(bound | seen)
