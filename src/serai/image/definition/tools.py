"""The tools that an image promises to sessions, and their versions."""

from __future__ import annotations

from serai.image.definition import pins, variables
from serai.image.definition.definition import Image
from serai.image.definition.variables import TOOLCHAIN
from serai.image.settings import Settings

# By profile, the tools that it adds.
MINIMAL = ("python3", "pip", "ensurepip", "git", "rg", "jq")
STANDARD = (
    *("node", "npm", "gcc", "make", "java", "pandoc", "soffice", "pdftotext", "qpdf", "gs"),
    "unzip",
)
PROFILES = {
    "none": (),
    "minimal": MINIMAL,
    "standard": MINIMAL + STANDARD,
    "full": MINIMAL + STANDARD,
}
# What a version begins with, by distribution and release; node's and npm's are in pins.yml.
VERSIONS: dict[str, dict[str, str]] = {
    "ubuntu-22.04": {"python3": "3.10", "pip": "22.0", "gcc": "11.4", "java": "11"},
    "ubuntu-24.04": {"python3": "3.12", "pip": "24.0", "gcc": "13.3", "java": "21"},
    "debian-12": {"python3": "3.11", "pip": "23.0", "gcc": "12.2", "java": "17"},
    "debian-13": {"python3": "3.13", "pip": "25.1", "gcc": "14.2", "java": "21"},
}
_PINS = {"official": "node", "wheel": "node_wheel"}


def profile(image: Image) -> str:
    """The profile that the image chooses."""
    return str(image.variables.get("toolchain_profile", "none"))


def promised(settings: Settings, image: Image) -> dict[str, str]:
    """What the version of each tool of the image begins with; '' is any."""
    pin = pins.read(settings)[_PINS[_node_source(settings, image)]]
    versions = VERSIONS.get(f"{image.distribution}-{image.release}", {})
    versions = {**versions, "node": pin.version, "npm": pin.npm or ""}
    return {name: versions.get(name, "") for name in PROFILES[profile(image)]}


def _node_source(settings: Settings, image: Image) -> str:
    """Where the role gets Node.js: as the image chooses, or else as the distribution has it."""
    role = settings.root / "roles" / TOOLCHAIN
    own = variables.of_distribution(role, image.distribution, image.release)
    default = own["toolchain_distribution_node_source"]
    return str(image.variables.get("toolchain_node_source") or default)
