"""The image that tests of containers and VMs are about: SERAI_TEST_IMAGE names another one.

The container's Debian is its, and a VM boots it.
"""

from __future__ import annotations

import os

from serai.image.definition import definition
from serai.image.settings import Settings

IMAGE = os.environ.get("SERAI_TEST_IMAGE") or definition.rehearsal(Settings.of()).name
