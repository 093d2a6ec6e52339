"""The one exception a person at the build host ever sees."""

from __future__ import annotations

from pathlib import Path

from serai.common.errors import SeraiError


class BuildError(SeraiError):
    """A build, verification or release cannot go on; ``log`` is where the details are."""

    def __init__(self, message: str, *, hint: str = "", log: Path | None = None) -> None:
        super().__init__(message, hint)
        self.log = log

    def __str__(self) -> str:
        text = super().__str__()
        return text if self.log is None else f"{text.rstrip('.')}; details: {self.log}"
