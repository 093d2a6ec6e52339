"""Services of an installer's that are always well."""

from __future__ import annotations


class NoServices:
    """Stands for systemd where there is none."""

    def stop(self) -> None:
        """There is nothing to stop."""

    def start(self) -> None:
        """Nor to start."""

    def wrong(self, *, whole: bool, patience: float = 0) -> str:  # noqa: ARG002
        return ""

    def run(self, modules: str, *arguments: str) -> None:  # noqa: ARG002
        raise AssertionError(arguments)
