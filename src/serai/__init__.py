"""Serai: virtual-machine images with rooms in which coding agents cannot see each other."""

__version__ = "0.1.0"

TYPE_CHECKING = False  # typing.TYPE_CHECKING without importing typing: every program starts here
if TYPE_CHECKING:
    from serai.common.errors import SeraiError as SeraiError
    from serai.runtime.library import connect as connect
    from serai.runtime.library_async import connect_async as connect_async


def __getattr__(name: str) -> object:
    """``serai.connect`` and its like, which are imported when somebody asks for them: PEP 562."""
    if name == "connect":
        from serai.runtime import library  # noqa: PLC0415  # see above

        return library.connect
    if name == "connect_async":
        from serai.runtime import library_async  # noqa: PLC0415  # see above

        return library_async.connect_async
    if name == "SeraiError":
        from serai.common import errors  # noqa: PLC0415  # see above

        return errors.SeraiError
    raise AttributeError(f"module 'serai' has no attribute {name!r}")
