"""The filter of provision.yml, where Ansible finds it; `serai.image.provision.preflight` judges."""

from __future__ import annotations

from collections.abc import Callable

from serai.image.provision import preflight


class FilterModule:
    """What Ansible asks for filters."""

    def filters(self) -> dict[str, Callable[..., list[str]]]:
        """The filters by name."""
        return {"serai_problems": preflight.problems}
