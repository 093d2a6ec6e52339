"""Which image this VM was made of."""

from __future__ import annotations

import platform


def image() -> dict[str, str] | None:
    """IMAGE_ID and IMAGE_VERSION of os-release(5); None where no build of Serai wrote them."""
    try:
        release = platform.freedesktop_os_release()
    except (OSError, UnicodeDecodeError):
        return None
    if release.get("VARIANT_ID") != "serai" or not release.get("IMAGE_ID"):
        return None
    return {"id": release["IMAGE_ID"], "version": release.get("IMAGE_VERSION", "")}
