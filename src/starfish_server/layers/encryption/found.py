"""`Found`, an object whose header is authentic, and `integrity`, which types the errors of damaged ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from starfish_server.errors import StoreIntegrityError
from starfish_server.layers.encryption.sealed import SEGMENT, DamagedError, Sealer, segments_of

if TYPE_CHECKING:
    from starfish_server.objects import ObjectInfo
    from starfish_server.operations import Operation


class Found(NamedTuple):
    """An object whose header is authentic.

    info: with the plain size. start: what was read of it so far. stored: its bytes in the store inside.
    plain: the body of an object that is not encrypted in this format; None for others.
    """

    info: ObjectInfo
    start: bytes
    stored: int
    size: int
    sealer: Sealer
    plain: bytes | None = None

    def segments(self, start: int, stop: int | None) -> tuple[int, int, int]:
        """Return the first segment of a range, the one after its last, and the last of the object."""
        last = segments_of(self.size) - 1
        end = self.size if stop is None else min(stop, self.size)
        if start == 0 and end == self.size:
            return 0, last + 1, last  # of an empty body too: it has one empty segment
        if start >= end:
            return 0, 0, last
        return start // SEGMENT, segments_of(end), last


class integrity:  # noqa: N801 - used as a function; `contextmanager` would take five times as long
    """Raises `DamagedError` as the `StoreIntegrityError` of an operation."""

    __slots__ = ("_operation",)

    def __init__(self, operation: Operation[Any]) -> None:
        self._operation = operation

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, DamagedError):
            raise self._operation.error(StoreIntegrityError, str(error)) from error
