"""Filters of our playbooks, where Ansible finds them; `serai.image.provision` has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from serai.image.provision import preflight, upgrade


class FilterModule:
    """What Ansible asks for filters."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """The filters by name."""
        return {
            "serai_problems": preflight.problems,
            "serai_look": lambda _: upgrade.PROGRAM.read_text(),
            "serai_upgrade": upgrade.plan,
            "serai_inputs": upgrade.inputs,
            "serai_is_right": upgrade.is_right,
            "serai_right": upgrade.right,
            "serai_rollback": upgrade.plan_back,
        }
