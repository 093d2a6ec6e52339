"""How ansible-playbook is run, whoever runs it for us: Packer, a test's container, provision."""

from __future__ import annotations

import os
from pathlib import Path

import ansible_mitogen

FORKS = "20"
"""VMs at once: most of the time each waits for its own."""
_STRATEGIES = Path(str(ansible_mitogen.__file__)).parent / "plugins" / "strategy"


def environment(root: Path) -> dict[str, str]:
    """What it finds in its environment (ansible-config(1)); ``root`` is the checkout."""
    return {"ANSIBLE_CONFIG": str(root / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}


def many_environment(root: Path) -> dict[str, str]:
    """The same for many VMs, which are somebody's: one interpreter in each serves all tasks.

    Without it each task starts another one and sends Ansible's modules along; see "Mitogen for
    Ansible" in mitogen's documentation. Who sets ANSIBLE_STRATEGY has that instead. A connection
    that mitogen does not know is Ansible's own.
    """
    chosen = {"ANSIBLE_STRATEGY": "mitogen_linear", "ANSIBLE_FORKS": FORKS}
    own = {name: value for name, value in chosen.items() if name not in os.environ}
    return {**environment(root), "ANSIBLE_STRATEGY_PLUGINS": str(_STRATEGIES), **own}


def build_environment(root: Path) -> dict[str, str]:
    """The same for a VM of our own, which is emulated at times, and needs 3 s for a new Python."""
    return {
        **environment(root),
        "ANSIBLE_STRATEGY_PLUGINS": str(_STRATEGIES),
        "ANSIBLE_STRATEGY": "mitogen_linear",
        # Its host key is minutes old and never seen again.
        "ANSIBLE_HOST_KEY_CHECKING": "false",
    }
