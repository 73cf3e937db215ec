"""What every contender offers to the rows: one bucket or one folder, as the calls that are timed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from bench.filling import write_all

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

REGION = "us-east-1"
LARGE = 2**20


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

    place: where they are; the worker fills it in.
    another: opens the same contender once more; the worker fills it in.
    text: whether `put` takes a `str`; `put_bytes` and `put_typed` take `bytes` always.
    get_bytes: the body, or something as long as it.
    list_all, list_first: how many keys there are under a prefix; all are listed, or a number of them.
    list_objects: the same, each with its size.
    read: the bytes from a start to before a stop.
    stat: the size of an object.
    stream: reads a body chunk by chunk, keeps none, and returns how long it was.
    upload: stores a body that comes in chunks.
    copy_out, copy_in: between an object and a file on disk, given as key and path.
    read_chunk: one chunk of a zarr array, given by its number, as bytes.
    read_column: one column of a parquet file, by name; returns how many bytes of values it had.
    """

    place: Bucket | Folder | None = None
    another: Callable[[], Awaitable[Objects]] = _missing
    text: bool = False
    get: Callable[[str], Awaitable[Any]] = _missing
    put: Callable[[str, Any], Awaitable[object]] = _missing
    get_bytes: Callable[[str], Awaitable[Any]] = _missing
    put_bytes: Callable[[str, bytes], Awaitable[object]] = _missing
    put_typed: Callable[[str, bytes], Awaitable[object]] = _missing
    list_all: Callable[[str], Awaitable[int]] = _missing
    list_first: Callable[[str, int], Awaitable[int]] = _missing
    delete_many: Callable[[list[str]], Awaitable[object]] = _missing
    list_objects: Callable[[str], Awaitable[int]] = _missing
    read: Callable[[str, int, int], Awaitable[Any]] = _missing
    stat: Callable[[str], Awaitable[int]] = _missing
    stream: Callable[[str], Awaitable[int]] = _missing
    upload: Callable[[str, Iterable[bytes]], Awaitable[object]] = _missing
    copy_out: Callable[[str, str], Awaitable[object]] = _missing
    copy_in: Callable[[str, str], Awaitable[object]] = _missing
    read_chunk: Callable[[str, int], Awaitable[bytes]] = _missing
    read_column: Callable[[str, str], Awaitable[int]] = _missing
    close: Callable[[], Awaitable[object]]

    def body(self, size: int) -> str | bytes:
        return "x" * size if self.text else b"x" * size

    async def fill(self, keys: Iterable[str], size: int) -> None:
        """Write one object at each key."""
        large = size >= LARGE
        body = bytes(size) if large else self.body(size)
        await write_all(self.put_bytes if large else self.put, ((key, body) for key in keys))
