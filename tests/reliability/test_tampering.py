"""10,000 ways to tamper with encrypted objects, each read whole, in ranges and as a stream."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from starfish_server import MemoryObjectStore, StoreIntegrityError
from starfish_server.layers import Encryption, KeyRing

if TYPE_CHECKING:
    from collections.abc import Callable

RING = KeyRing({"2026": b"n" * 32, "2025": b"o" * 32}, active="2026")
SEGMENT, TAG = 65_536, 16
SEALED = SEGMENT + TAG
FIXED = 58  # bytes of a header before its key id; those of its parts are in docs of the format
SIZES = [0, 1, 5000, SEGMENT, SEGMENT + 1, 3 * SEGMENT, 3 * SEGMENT + 1000]


@dataclass
class Stored:
    """What the bucket holds at a key now, held before the last write, and holds at a key of the same size."""

    key: str
    plain: bytes
    now: bytes
    before: bytes
    other: bytes
    header: int = field(init=False)

    def __post_init__(self) -> None:
        self.header = int.from_bytes(self.now[9:11], "big")

    def edges(self, body: bytes) -> list[int]:
        """Where the segments of a sealed body begin, and where it ends."""
        return [*range(self.header, len(body), SEALED), len(body)]


def flip_header(choose: random.Random, it: Stored) -> bytes:
    return _flipped(choose, it.now, 0, it.header)


def flip_body(choose: random.Random, it: Stored) -> bytes:
    return _flipped(choose, it.now, it.header, len(it.now))


def flip_last_tag(choose: random.Random, it: Stored) -> bytes:
    return _flipped(choose, it.now, len(it.now) - TAG, len(it.now))


def swap_with_another_key(choose: random.Random, it: Stored) -> bytes:
    return it.other


def truncate(choose: random.Random, it: Stored) -> bytes:
    return it.now[: choose.randrange(len(it.now))]


def truncate_at_an_edge(choose: random.Random, it: Stored) -> bytes:
    return it.now[: choose.choice(it.edges(it.now)[:-1]) + choose.choice([-1, 0, 1, TAG])]


def extend(choose: random.Random, it: Stored) -> bytes:
    return it.now + choose.randbytes(choose.choice([1, TAG, 100, SEALED]))


def extend_by_a_sealed_segment(choose: random.Random, it: Stored) -> bytes:
    return it.now + _segment(choose, choose.choice([it.now, it.before, it.other]), it)


def reorder(choose: random.Random, it: Stored) -> bytes:
    segments = _segments(it)
    choose.shuffle(segments)
    return it.now[: it.header] + b"".join(segments)


def repeat(choose: random.Random, it: Stored) -> bytes:
    segments = _segments(it)
    segments[choose.randrange(len(segments))] = choose.choice(segments)
    return it.now[: it.header] + b"".join(segments)


def leave_out(choose: random.Random, it: Stored) -> bytes:
    segments = _segments(it)
    del segments[choose.randrange(len(segments))]
    return it.now[: it.header] + b"".join(segments)


def put_in_a_segment_of_another(choose: random.Random, it: Stored) -> bytes:
    edges = it.edges(it.now)
    number = choose.randrange(len(edges) - 1)
    source = choose.choice([it.before, it.other])
    begin, end = edges[number], edges[number + 1]
    return it.now[:begin] + source[begin:end] + it.now[end:]


def roll_the_header_back(choose: random.Random, it: Stored) -> bytes:
    return it.before[: it.header] + it.now[it.header :]


def change_the_key_id(choose: random.Random, it: Stored) -> bytes:
    key_id = choose.choice([b"2025", b"2099", b"\xff" * 4])
    return it.now[: FIXED + 2] + key_id + it.now[FIXED + 6 :]


def change_the_size(choose: random.Random, it: Stored) -> bytes:
    size = choose.choice([2**64 - 1, 0, len(it.plain) + 1, max(0, len(it.plain) - 1), 2**63])
    return it.now[:11] + size.to_bytes(8, "big") + it.now[19:]


def change_the_content_type(choose: random.Random, it: Stored) -> bytes:
    at = it.now.index(b"a/b", FIXED, it.header)
    return it.now[:at] + b"a/c" + it.now[at + 3 :]


TAMPERINGS: list[Callable[[random.Random, Stored], bytes]] = [
    flip_header,
    flip_body,
    flip_last_tag,
    swap_with_another_key,
    truncate,
    truncate_at_an_edge,
    extend,
    extend_by_a_sealed_segment,
    reorder,
    repeat,
    leave_out,
    put_in_a_segment_of_another,
    roll_the_header_back,
    change_the_key_id,
    change_the_size,
    change_the_content_type,
]


@pytest.mark.parametrize("uploaded", [False, True])
@pytest.mark.parametrize("tampering", TAMPERINGS)
async def test_no_byte_that_was_tampered_with_is_returned(
    tampering: Callable[[random.Random, Stored], bytes], uploaded: bool, full: bool
) -> None:
    choose = random.Random(26)
    leaf = MemoryObjectStore(data={})
    store = Encryption(leaf, RING)
    objects = [await _store(store, leaf, choose, size, uploaded) for size in SIZES]
    for _ in range(320 if full else 12):  # of 16 tamperings, twice: 10,240 when full
        it = choose.choice(objects)
        changed = tampering(choose, it)
        if changed == it.now:
            continue
        await leaf.write(it.key, changed)
        await _read_whole(store, it)
        await _read_ranges(choose, store, it)
    for it in objects:
        await leaf.write(it.key, it.now)
        assert await store.get_bytes(it.key) == (it.plain, "a/b")


async def _read_whole(store: Encryption, it: Stored) -> None:
    with pytest.raises(StoreIntegrityError) as caught:
        await store.read(it.key)
    assert (caught.value.operation, caught.value.key) == ("read", it.key)
    with pytest.raises(StoreIntegrityError):
        await store.get_bytes(it.key)
    streamed, complete = await _stream(store, it.key, 0, None)
    assert it.plain.startswith(streamed)
    assert not complete


async def _read_ranges(choose: random.Random, store: Encryption, it: Stored) -> None:
    """A range may not touch what was changed: then it is right."""
    start = choose.randrange(len(it.plain) + 2)
    stop = choose.choice([None, start + 1, start + choose.randrange(2 * SEGMENT)])
    wanted = it.plain[start:stop]
    try:
        found = await store.read(it.key, start=start, stop=stop)
    except StoreIntegrityError:
        pass
    else:
        assert found is not None
        assert (found.body, found.info.size) == (wanted, len(it.plain))
    streamed, complete = await _stream(store, it.key, start, stop)
    assert wanted.startswith(streamed)
    assert streamed == wanted or not complete
    try:
        info = await store.stat(it.key)
    except StoreIntegrityError:
        return
    assert info is not None
    assert (info.size, info.content_type) == (len(it.plain), "a/b")


async def _stream(store: Encryption, key: str, start: int, stop: int | None) -> tuple[bytes, bool]:
    """Return what a stream gave, and whether it ended without an error."""
    streamed = b""
    try:
        reader = await store.open(key, start=start, stop=stop)
        assert reader is not None
        async for chunk in reader:
            streamed += chunk
    except StoreIntegrityError:
        return streamed, False
    return streamed, True


async def _store(
    store: Encryption, leaf: MemoryObjectStore, choose: random.Random, size: int, uploaded: bool
) -> Stored:
    async def sealed(key: str, body: bytes) -> bytes:
        if uploaded:
            await store.upload(key, [body], content_type="a/b")
        else:
            await store.write(key, body, content_type="a/b")
        found = await leaf.read(key)
        assert found is not None
        return found.body

    key, plain = f"k/{size}", choose.randbytes(size)
    before, now = await sealed(key, choose.randbytes(size)), await sealed(key, plain)
    return Stored(key, plain, now, before, await sealed(f"other/{size}", choose.randbytes(size)))


def _flipped(choose: random.Random, body: bytes, start: int, stop: int) -> bytes:
    at = choose.randrange(start, stop)
    return body[:at] + bytes([body[at] ^ (1 << choose.randrange(8))]) + body[at + 1 :]


def _segments(it: Stored) -> list[bytes]:
    edges = it.edges(it.now)
    return [it.now[begin:end] for begin, end in pairwise(edges)]


def _segment(choose: random.Random, body: bytes, it: Stored) -> bytes:
    edges = it.edges(body)
    number = choose.randrange(len(edges) - 1)
    return body[edges[number] : edges[number + 1]]
