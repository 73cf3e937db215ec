"""`starfish cp`: copies from any store to any other, several objects at a time, each read back."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from starfish_server.cli.arguments import AsJson, ContextFields, context_of
from starfish_server.cli.objects import read_object, write_object
from starfish_server.cli.output import ExitCode, one_line, print_error, print_json, print_line
from starfish_server.cli.sources import LeftOut, list_left_out, open_source, print_left_out
from starfish_server.context import StoreContext
from starfish_server.errors import StoreError
from starfish_server.storage.base import AbstractObjectStore
from starfish_server.store_url import open_store


@dataclass(slots=True)
class Tally:
    """What has become of the objects so far.

    listed: objects of the source. size: bytes copied. retyped: by key, a warning about an object that was
    copied and reads back with another content type. left_out: what the source holds and does not list.
    """

    listed: int = 0
    copied: int = 0
    identical: int = 0
    size: int = 0
    retyped: dict[str, str] = field(default_factory=dict)
    failures: dict[str, Exception] = field(default_factory=dict)
    left_out: Sequence[LeftOut] = ()

    @property
    def pending(self) -> int:
        """Objects that nothing has become of, since the copy was interrupted."""
        return self.listed - self.copied - self.identical - len(self.failures)


@dataclass(frozen=True, slots=True)
class Copying:
    """A copy of every object whose key begins with `prefix`.

    An object that the destination already holds with the same bytes and content type is left alone, so that
    an interrupted copy can be continued; one that differs is replaced. At most `jobs` objects are in flight,
    each in memory as a whole. `tally` grows while the copy runs.
    """

    source: AbstractObjectStore
    destination: AbstractObjectStore
    prefix: str = ""
    jobs: int = 16
    reading: StoreContext | None = None
    writing: StoreContext | None = None
    tally: Tally = field(default_factory=Tally)

    async def run(self, step: Callable[[], None] = lambda: None) -> Tally:
        """Copy all, calling `step` once all are listed and after each object.

        Raises what listing raises. The error of an object is in the tally, and the other objects are copied.
        """
        keys = await self.source.list_keys(self.prefix, context=self.reading)
        self.tally.left_out = await list_left_out(self.source, self.prefix, self.reading)
        there = set(await self.destination.list_keys(self.prefix, context=self.reading))
        self.tally.listed = len(keys)
        step()
        left = iter(keys)
        async with asyncio.TaskGroup() as workers:
            for _ in range(min(self.jobs, len(keys))):
                workers.create_task(self._work(left, there, step))
        return self.tally

    async def _work(self, keys: Iterator[str], there: set[str], step: Callable[[], None]) -> None:
        for key in keys:
            try:
                await self._copy(key, key in there)
            except Exception as error:  # noqa: BLE001 - the error of one object leaves the others alone
                self.tally.failures[key] = error
            step()

    async def _copy(self, key: str, exists: bool) -> None:
        wanted = await read_object(self.source, key, self.reading)
        if wanted is None:
            raise StoreError("gone from the source since it was listed", operation="get_bytes", key=key)
        if exists and wanted.matches(await read_object(self.destination, key, self.reading)):
            self.tally.identical += 1
            return
        await write_object(self.destination, key, wanted, self.writing)
        stored = await read_object(self.destination, key, self.reading)
        if stored is None or stored.body != wanted.body:
            raise StoreError("reads back different from what was written", operation="put_bytes", key=key)
        if not wanted.matches(stored):  # some services guess the type from the key
            self.tally.retyped[key] = (
                f"the bytes agree, but the content type reads back as {stored.content_type!r}, "
                f"not {wanted.content_type!r}"
            )
        self.tally.copied += 1
        self.tally.size += len(wanted.body)


def cp(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A store, as STORE of the other commands.")],
    destination: Annotated[str, typer.Argument(metavar="DESTINATION", help="Another store.")],
    prefix: Annotated[
        str, typer.Option("--prefix", metavar="TEXT", help="Only keys that begin with this.")
    ] = "",
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", metavar="COUNT", min=1, max=256, help="Objects in flight.")
    ] = 16,
    context: ContextFields = None,
    json: AsJson = False,
) -> int:
    """Copy objects between any two stores, with their content types, and read each back.

    An object that is already there with the same bytes and content type is left alone, one that differs is
    replaced, and nothing is deleted, so an interrupted copy is continued by running it again. Objects that
    fail are named on stderr, and the others are copied. Files of the source that are no objects, such as a
    link or one whose name breaks the key rules, are named as well. Either makes the exit code 1. Each object
    is held in memory as a whole, and Cache-Control, which stores do not report, is not copied.
    """
    began = time.monotonic()
    tally, interrupted = Tally(), False
    try:
        asyncio.run(_copy(source, destination, prefix, jobs, context, tally))
    except KeyboardInterrupt:
        interrupted = True
    _report(tally, interrupted, time.monotonic() - began, json)
    if interrupted:
        return ExitCode.INTERRUPTED
    return ExitCode.FAILED if tally.failures or tally.left_out else ExitCode.OK


async def _copy(
    source: str, destination: str, prefix: str, jobs: int, context: list[str] | None, tally: Tally
) -> None:
    console = Console(stderr=True)
    columns = (TextColumn("copying"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    reading, writing = context_of(context, "pull"), context_of(context, "push")
    async with open_source(source) as origin, open_store(destination) as target:
        copying = Copying(origin, target, prefix, jobs, reading, writing, tally)
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
            task = progress.add_task("copying", total=None)
            await copying.run(
                lambda: progress.update(task, total=tally.listed, completed=tally.listed - tally.pending)
            )


def _report(tally: Tally, interrupted: bool, seconds: float, json: bool) -> None:
    for key, warning in sorted(tally.retyped.items()):
        print_error(f"warning: {key}: {warning}")
    for key, failure in sorted(tally.failures.items()):
        print_error(f"{key}: {one_line(failure)}")
    print_left_out(tally.left_out)
    if interrupted:
        print_error(f"interrupted, {tally.pending} objects are not copied: run it again to continue")
    if json:
        print_json(
            {
                "copied": tally.copied,
                "identical": tally.identical,
                "bytes": tally.size,
                "seconds": round(seconds, 3),
                "failed": [{"key": key, "error": one_line(e)} for key, e in sorted(tally.failures.items())],
                "left_out": [{"path": path, "reason": reason} for path, reason in tally.left_out],
                "interrupted": interrupted,
            }
        )
    else:
        print_line(
            f"{tally.copied} copied ({tally.size} bytes), {tally.identical} already there, "
            f"{len(tally.failures)} failed, {len(tally.left_out)} left out, {seconds:.1f} s"
        )
