"""What a probe works with: a bucket on a real S3 server, a faulty proxy before it, and ways to say no."""

from __future__ import annotations

import ast
import asyncio
import re
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import aiohttp
from aiohttp import web

from bench.sample import timed_with_memory
from faulty_proxy import cut_short, s3_error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator

    from faulty_proxy import Fault, FaultyProxy, Forward

MIB = 2**20
BODY = b"a small body"
LARGE = bytes(range(256)) * (4 * MIB // 256)
STREAMED = 192 * MIB


class No(Exception):  # noqa: N818 - an outcome
    """The peer does not have the feature, and this is how one sees it."""


@dataclass(frozen=True)
class Place:
    """A bucket: on the server itself, or as seen through the proxy."""

    endpoint: str
    bucket: str
    access_key_id: str
    secret_access_key: str


class Lab:
    """`s3` is the bucket, `faulty` the same one through the proxy, `folder` an empty folder."""

    unavailable = staticmethod(s3_error(503, "SlowDown"))
    broken = staticmethod(cut_short(MIB))
    keys = ["a-b", "a.b", "a/b", "a0"]  # noqa: RUF012 - never changed
    keys_on_s3 = ["a-b", "a.b", "a0"]  # noqa: RUF012 - and SeaweedFS itself gets a/b wrong

    def __init__(self, s3: Place, proxy: FaultyProxy, folder: Path) -> None:
        self.s3 = s3
        self.faulty = Place(proxy.endpoint, s3.bucket, s3.access_key_id, s3.secret_access_key)
        self.folder = folder
        self.proxy = proxy
        self.over = asyncio.Event()

    async def no_reply(self, _request: web.Request, _forward: Forward) -> web.StreamResponse:
        """A fault: no answer before the probe is over."""
        await self.over.wait()
        return web.Response(status=503)

    def next_replies(self, *faults: Fault) -> None:
        """Answer the next requests like this, and those after them as the server does."""
        self.proxy.next_faults.extend(faults)
        self.proxy.seen.clear()

    def last_range(self) -> str:
        """Return the range that the last GET asked for, "" if the whole object."""
        gets = [seen for seen in self.proxy.seen if seen.method == "GET"]
        headers = {name.lower(): value for name, value in gets[-1].headers.items()}
        return headers.get("range", "")

    def went_on(self) -> str | None:
        """Say how a broken read of LARGE was completed."""
        start = re.match(r"bytes=(\d+)-", self.last_range())
        return None if start and int(start[1]) > 0 else "repeats the request"

    def listed(self, files: list[str]) -> str | None:
        """Say what is wrong with the keys that were listed on files after the first one."""
        if files == self.keys[1:]:
            return None
        return "on S3; unordered on files" if set(files) == set(self.keys[1:]) else "on S3, not on files"

    async def most_in_flight(self, read: Callable[[], Awaitable[object]]) -> int:
        """Make six reads at once and return how many requests were at the server together."""
        now = most = 0

        async def count(_request: web.Request, forward: Forward) -> web.StreamResponse:
            nonlocal now, most
            now += 1
            most = max(most, now)
            await asyncio.sleep(0.1)
            now -= 1
            return (await forward()).response()

        async def one() -> None:
            await read()

        self.proxy.fault = count
        await asyncio.gather(*(one() for _ in range(6)))
        self.proxy.fault = None
        return most

    @staticmethod
    async def fetch(url: str) -> bytes:
        """Get a URL without credentials."""
        async with aiohttp.ClientSession() as session, session.get(url) as reply:
            return await reply.read()

    @staticmethod
    async def one_wins(write: Callable[[bytes], Awaitable[object]], refusal: type[Exception]) -> None:
        """Write eight bodies concurrently; all but one must be refused."""

        async def one(number: int) -> bool:
            try:
                await write(b"%d" % number)
            except refusal:
                return False
            return True

        assert sum(await asyncio.gather(*(one(number) for number in range(8)))) == 1

    @staticmethod
    async def chunks() -> AsyncIterator[bytes]:
        """192 MiB, one at a time."""
        for _ in range(STREAMED // MIB):
            yield bytes(MIB)

    @staticmethod
    @contextmanager
    def bounded_memory() -> Iterator[None]:
        """Say no if more than 96 MiB of memory are added inside."""
        with timed_with_memory() as sample:
            yield
        assert sample.memory is not None, "this system does not tell"
        added = sample.memory // MIB
        if added > 96:
            raise No(f"{added} MiB of memory for {STREAMED // MIB} MiB")


@contextmanager
def no_if(*errors: type[BaseException]) -> Iterator[None]:
    """Say no if one of these is raised inside; anything else means that the probe is wrong."""
    try:
        yield
    except errors as error:
        text = re.sub(r"\s+| at 0x\w+", " ", str(error))
        raise No(f"{type(error).__name__}: {text[:120]}") from None


def no_name(packages: tuple[str, ...], pattern: str, other: str) -> NoReturn:
    """Say no if nothing in the packages is named like it, apart from `other`; else it has to be probed."""
    names = {name for package in packages for file in _sources(package) for name in _names(file)}
    found = sorted(name for name in names if re.search(pattern, name, re.IGNORECASE))
    unknown = [name for name in found if not re.fullmatch(other, name)]
    if unknown:
        raise LookupError(f"there is {', '.join(unknown)}: probe it")
    rest = f" but {', '.join(found)}" if found else ""
    raise No(f"no class, function, parameter or option is named like `{pattern}`{rest}")


def own_methods(made: type) -> str:
    """Count the methods that a class needs besides its constructor."""
    return f"yes, {sum(callable(value) and name[:2] != '__' for name, value in vars(made).items())} methods"


def _sources(package: str) -> Iterable[Path]:
    spec = find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations
    return [
        path
        for folder in spec.submodule_search_locations
        for path in Path(folder).rglob("*.py*")
        if path.suffix in {".py", ".pyi"} and "tests" not in path.parts
    ]


def _names(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id
