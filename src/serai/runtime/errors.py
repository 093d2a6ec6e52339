"""What the runtime adds to serai.common.errors."""

from __future__ import annotations

import errno

from serai.common.errors import *  # noqa: F403
from serai.common.errors import GONE, SeraiError


def unreachable(path: object, error: OSError) -> SeraiError:
    """What to say when connecting to sessiond's socket ``path`` failed."""
    hint = "'systemctl start serai-sessiond' starts it; its journal says why it ended"
    if error.errno == errno.EACCES:
        hint = "this takes root or the group serai"
    return SeraiError(f"cannot reach sessiond at {path}: {error.strerror or error}", hint, GONE)
