"""What every contender offers to the rows: one bucket or one folder, as the calls that are timed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

REGION = "us-east-1"


@dataclass(frozen=True)
class Bucket:
    """Where objects are in S3, who asks, and how many connections may be open."""

    endpoint: str
    name: str
    access_key_id: str
    secret_access_key: str
    connections: int


@dataclass(frozen=True)
class Folder:
    """Where objects are on disk, and how they are written and read."""

    path: str
    fsync: bool = False
    inline_reads: bool = True


def to_json(place: Bucket | Folder) -> dict[str, Any]:
    return {"kind": type(place).__name__} | asdict(place)


def from_json(place: dict[str, Any]) -> Bucket | Folder:
    kinds: dict[str, type[Bucket | Folder]] = {"Bucket": Bucket, "Folder": Folder}
    return kinds[place["kind"]](**{name: value for name, value in place.items() if name != "kind"})


async def _missing(*_: object) -> Any:
    raise NotImplementedError("this contender has no such call")


@dataclass(frozen=True, kw_only=True)
class Objects:
    """The calls of one contender. Those that it has no equivalent of raise `NotImplementedError`.

    text: whether `put` takes a `str`; `put_bytes` and `put_typed` take `bytes` always.
    get_bytes: the body, or something as long as it.
    list_all, list_first: keys under a prefix, all or a number of them, as a list or their count.
    """

    text: bool = False
    get: Callable[[str], Awaitable[Any]] = _missing
    put: Callable[[str, Any], Awaitable[object]] = _missing
    get_bytes: Callable[[str], Awaitable[Any]] = _missing
    put_bytes: Callable[[str, bytes], Awaitable[object]] = _missing
    put_typed: Callable[[str, bytes], Awaitable[object]] = _missing
    list_all: Callable[[str], Awaitable[int]] = _missing
    list_first: Callable[[str, int], Awaitable[int]] = _missing
    delete_many: Callable[[list[str]], Awaitable[object]] = _missing
    close: Callable[[], Awaitable[object]]

    def body(self, size: int) -> str | bytes:
        return "x" * size if self.text else b"x" * size
