"""`Found`, an object whose header is authentic, and `integrity`, which types the errors of damaged ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from starfish_server.errors import StoreIntegrityError, VersionConflictError
from starfish_server.layers.encryption.sealed import (
    SEALED_SEGMENT,
    SEGMENT,
    DamagedError,
    Sealer,
    segments_of,
)

if TYPE_CHECKING:
    from starfish_server.objects import ObjectInfo, ObjectReader, StoredObject
    from starfish_server.operations import Operation

TOO_SHORT = "it is too short"
R = TypeVar("R", bound="ObjectReader | StoredObject")


class Found(NamedTuple):
    """An object whose header and length are authentic.

    info: with the plain size. stored: its bytes in the store inside. size: the plain size.
    """

    info: ObjectInfo
    stored: int
    size: int
    sealer: Sealer

    def offset(self, segment: int) -> int:
        """Return where a segment begins in the store inside; where the last one ends, for those behind it."""
        return min(self.sealer.header.length + segment * SEALED_SEGMENT, self.stored)

    def segments(self, start: int, stop: int | None) -> tuple[int, int, int]:
        """Return the first segment of a range, the one after its last, and the last of the object."""
        last = segments_of(self.size) - 1
        end = self.size if stop is None else min(stop, self.size)
        return (start // SEGMENT, segments_of(end), last) if start < end else (0, 0, last)

    def check_same(self, operation: Operation[Any], later: R | None) -> R:
        """Return the result of a later read; raise `VersionConflictError` if the object was replaced."""
        if later is not None:
            info = later.info
            if info.version == self.info.version and info.size in (None, self.stored):
                return later
        raise operation.error(VersionConflictError, "the object was replaced while it was read")


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
