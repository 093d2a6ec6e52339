"""What every task starts from: the settings of where one stands, and the image for this host."""

from __future__ import annotations

from serai.image import console, project
from serai.image.definition import definition
from serai.image.settings import Settings

with console.reported():
    SETTINGS = Settings.of(project=project.here())
IMAGE = definition.DEFAULT_IMAGE
