"""How ansible-playbook is run, whoever runs it for us: Packer, a test's container, a fleet."""

from __future__ import annotations

from pathlib import Path

import ansible_mitogen

_STRATEGIES = Path(str(ansible_mitogen.__file__)).parent / "plugins" / "strategy"


def environment(root: Path) -> dict[str, str]:
    """What it finds in its environment (ansible-config(1)); ``root`` is the checkout."""
    return {"ANSIBLE_CONFIG": str(root / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}


def build_environment(root: Path) -> dict[str, str]:
    """The same for a VM of our own: one interpreter in it serves all tasks.

    An emulated VM needs 3 s to start another one and to read Ansible's own modules; see
    "Mitogen for Ansible" in mitogen's documentation. VMs of other people get Ansible's own
    strategy, which tells better why one cannot be reached.
    """
    return {
        **environment(root),
        "ANSIBLE_STRATEGY_PLUGINS": str(_STRATEGIES),
        "ANSIBLE_STRATEGY": "mitogen_linear",
        # Its host key is minutes old and never seen again.
        "ANSIBLE_HOST_KEY_CHECKING": "false",
    }
