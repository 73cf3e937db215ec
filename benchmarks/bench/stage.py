"""Where rows take place: the S3 server, the relay before it, and a folder, each made on first use."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

from bench.contenders import by_hand
from bench.filling import make_tree, write_all
from bench.objects import Bucket, Folder
from bench.registry import ROOT
from servers import start_seaweedfs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Self

    from bench.plan import Plan
    from bench.row import Entrant, Row
    from servers import S3Server

ONE_WAY_SECONDS = 0.010


class Stage:
    """Gives each entrant of a row its place, and fills it where the coordinator does so."""

    def __init__(self) -> None:
        self._open = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    @cached_property
    def folder(self) -> str:
        """A new folder, in TMPDIR or where that says."""
        return self._open.enter_context(tempfile.TemporaryDirectory(prefix="starfish-bench-"))

    @cached_property
    def _server(self) -> S3Server:
        return self._open.enter_context(start_seaweedfs())

    @cached_property
    def _far_endpoint(self) -> str:
        return self._open.enter_context(_relayed(self._server.endpoint))

    @cached_property
    def _bucket(self) -> str:
        return self._server.make_bucket()

    def place(self, row: Row, entrant: Entrant, plan: Plan) -> Bucket | Folder | None:
        match row.place:
            case "s3" | "s3 far":
                endpoint = self._server.endpoint if row.place == "s3" else self._far_endpoint
                keys = self._server.access_key_id, self._server.secret_access_key
                return Bucket(endpoint, self._bucket, *keys, max(64, plan.concurrency))
            case "files":
                path = f"{self.folder}/{row.name}-{uuid.uuid4().hex[:8]}"
                return Folder(path, fsync=row.fsync, inline_reads=entrant.inline_reads)
            case "tree":
                return Folder(self._tree(plan), inline_reads=entrant.inline_reads)
            case "none":
                return None

    def fill(self, place: Bucket, keys: list[str], size: int) -> None:
        """Write objects with the fastest contender."""

        async def write() -> None:
            objects = await by_hand.open_objects(place)
            try:
                await write_all(objects, keys, size)
            finally:
                await objects.close()

        asyncio.run(write())

    def leave(self, place: Bucket | Folder | None) -> None:
        """Remove what one entrant wrote."""
        if isinstance(place, Folder) and not os.path.basename(place.path).startswith("tree"):
            for path in (place.path, f"{place.path}-temporary"):
                shutil.rmtree(path, ignore_errors=True)

    def _tree(self, plan: Plan) -> str:
        path = f"{self.folder}/tree-{plan.objects}"
        if not os.path.isdir(path):
            make_tree(f"{path}/{plan.prefix}", plan.objects, plan.per_folder)
        return path


@contextmanager
def _relayed(endpoint: str) -> Iterator[str]:
    address = urlsplit(endpoint)
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.relay", str(address.hostname), str(address.port), str(ONE_WAY_SECONDS)],
        env=os.environ | {"PYTHONPATH": str(ROOT / "benchmarks")},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        port = cast("str", process.stdout and process.stdout.readline()).strip()
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.communicate()
