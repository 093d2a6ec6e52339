"""Serai: virtual-machine images with rooms in which coding agents cannot see each other."""

__version__ = "0.1.0"

TYPE_CHECKING = False  # typing.TYPE_CHECKING without importing typing: every program starts here
if TYPE_CHECKING:
    from serai.runtime.library import connect as connect


def __getattr__(name: str) -> object:
    """``serai.connect``, which is imported when somebody asks for it: PEP 562."""
    if name == "connect":
        from serai.runtime import library  # noqa: PLC0415  # see above

        return library.connect
    raise AttributeError(f"module 'serai' has no attribute {name!r}")
