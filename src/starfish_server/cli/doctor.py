"""`starfish explain` and `starfish doctor`: show a store's stack, and test whether it works."""

import asyncio
import secrets
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Coroutine
from dataclasses import asdict, dataclass
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from statistics import median
from typing import Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from starfish_server.cli.output import ExitCode, one_line, print_json, print_line
from starfish_server.cli.stores import AsJson, ContextFields, StoreURL, context_of, open_source
from starfish_server.context import StoreContext
from starfish_server.errors import (
    BucketNotFoundError,
    ContextRequiredError,
    StoreAccessDeniedError,
    StoreNotSupportedError,
    StoreUnavailableError,
)
from starfish_server.explain import explain
from starfish_server.layers import Layer, Namespace
from starfish_server.layers.base import T, stores_of
from starfish_server.operations import OPERATIONS, Operation
from starfish_server.printable import printable
from starfish_server.storage.base import AbstractObjectStore
from starfish_server.store_url import open_store
from starfish_server.testing import behaviours

_PAGES = "pages lose or repeat keys: list without start_after and limit"
_CONDITIONAL = "run one server process only, or updates are lost"
CHECKS = {
    "text_comes_back_exactly": "nothing else can be checked until this works",
    "the_last_write_wins": "readers see old objects; look for a cache in front of the store",
    "a_missing_object_is_none": "without the right to list, some services refuse instead: grant it",
    "bytes_come_back_exactly": "images and other blobs are not kept faithfully",
    "the_last_write_sets_the_content_type": "content types are lost",
    "upper_and_lower_case_are_different_keys": "use a file system that distinguishes case",
    "keys_are_listed_in_byte_order": "sort lists, and do not page through them",
    "start_after_is_exclusive_and_need_not_exist": _PAGES,
    "pages_by_start_after_add_up": _PAGES,
    "an_object_is_created_only_if_there_is_none": _CONDITIONAL,
    "an_object_is_replaced_only_if_its_version_holds": _CONDITIONAL,
    "one_of_many_conditional_writers_wins": _CONDITIONAL,
    "delete_removes_one_object": "grant the right to delete objects",
    "deleting_a_missing_key_is_no_error": "delete only objects that exist",
    "delete_many_removes_all_that_are_named": "delete objects one by one, or grant the right to delete",
}
"""The conformance behaviours that are tried, each with what to do if it fails."""

# An attribute of the leaves concerned (folders, S3, any store), the error, and what to do.
_ADVICE = [
    ("base_dir", StoreAccessDeniedError, "check the owner and the permissions of the folder"),
    ("endpoint", StoreAccessDeniedError, "check the credentials in the environment, their rights, the clock"),
    ("endpoint", BucketNotFoundError, "create the bucket, or correct its name, the endpoint or the region"),
    ("endpoint", StoreUnavailableError, "check the endpoint and the network"),
    ("perform", ContextRequiredError, "give the context: --context namespace=NAME, identity=NAME and so on"),
]
_ROUNDS = 20
_MOST_SKEW = 60.0  # seconds
_CLOCK_TIMEOUT = 5.0  # seconds
_SHOWN = 300  # characters of a detail


@dataclass(frozen=True, slots=True)
class Finding:
    """One check, what was seen, and what to do if it failed."""

    check: str
    verdict: Literal["ok", "failed", "not supported", "not checked"]
    detail: str = ""
    hint: str = ""


async def explain_store(store: StoreURL, json: AsJson = False) -> int:
    """Show how a store is put together, its settings, and what it can do. Secrets are masked."""
    async with open_store(store) as opened:
        lines = explain(opened).splitlines()
        if json:
            able = [name for name in OPERATIONS if opened.supports(name)]
            unable = [name for name in OPERATIONS if not opened.supports(name)]
            depends = opened.context_dependent
            print_json({"tree": lines, "can": able, "cannot": unable, "context_dependent": depends})
        else:
            for line in lines:
                print_line(line)
    return ExitCode.OK


async def doctor(store: StoreURL, context: ContextFields = None, json: AsJson = False) -> int:
    """Try a store and report what works. A folder must exist.

    Writes, reads, lists and deletes under a new random prefix, and deletes everything there at the end, even
    if interrupted. Exit code 1 if a check failed; an operation that the store does not support is no failure.
    """
    findings = await _examine(store, context)
    for finding in findings if json else ():
        print_json(asdict(finding))
    if not json and sys.stdout.isatty():
        Console().print(_table(findings))
    elif not json:
        for finding in findings:
            detail = f": {finding.detail}" if finding.detail else ""
            hint = f" ({finding.hint})" if finding.hint else ""
            print_line(f"{finding.verdict}: {finding.check}{detail}{hint}")
    failed = any(finding.verdict == "failed" for finding in findings)
    return ExitCode.FAILED if failed else ExitCode.OK


class _Trial(Layer):
    """Gives every operation the context of the command line, and records the keys that are written."""

    context_dependent = False

    def __init__(self, inner: AbstractObjectStore, context: StoreContext | None) -> None:
        super().__init__(inner)
        self.prefix = f"starfish-doctor-{secrets.token_hex(8)}/"
        self._context = context
        self._written: set[str] = set()

    def perform(self, operation: Operation[T]) -> Coroutine[Any, Any, T]:
        if operation.writes:
            self._written.update(operation.keys)
        return self.inner.perform(operation.replace(context=self._context))

    def part(self, name: str) -> AbstractObjectStore:
        """Return an empty store for one check: the objects below its own prefix."""
        return Namespace(self, f"{self.prefix}{name}/")

    async def clean_up(self) -> str:
        """Delete all that was written, whether it is listed or not."""
        await self.delete_many(sorted(self._written))
        left = await self.list_keys(self.prefix)
        await self.delete_many(left)
        if left:
            raise AssertionError(f"{len(left)} objects were still there after they were deleted")
        return f"nothing left under {self.prefix}"


async def _examine(url: str, context: list[str] | None) -> list[Finding]:
    checks = {behaviour.name: behaviour for behaviour in behaviours()}
    async with open_source(url) as store:
        trial = _Trial(store, context_of(context, "push"))
        findings = [await _clock(store)]
        try:
            for name, hint in CHECKS.items():
                readable = name.replace("_", " ")
                if len(findings) > 1 and findings[1].verdict != "ok":
                    findings.append(Finding(readable, "not checked", "nothing can be written"))
                else:
                    findings.append(await _finding(store, readable, checks[name](trial.part(name)), hint))
            if findings[1].verdict == "ok":
                latency = _latency(trial.part("latency"))
                findings.append(await _finding(store, "latency", latency, "small writes and reads fail"))
        finally:
            hint = f"delete what is under {trial.prefix}"
            cleaned = await _finding(store, "clean up", trial.clean_up(), hint)
        return [*findings, cleaned]


async def _finding(
    store: AbstractObjectStore, check: str, attempt: Awaitable[str | None], hint: str
) -> Finding:
    try:
        return Finding(check, "ok", await attempt or "")
    except StoreNotSupportedError as error:
        return Finding(check, "not supported", one_line(error), hint)
    except Exception as error:  # noqa: BLE001 - whatever a store raises is a finding
        return Finding(check, "failed", one_line(error)[:_SHOWN], _advice(store, error) or hint)


def _advice(store: AbstractObjectStore, error: Exception) -> str | None:
    """Return the advice for this error on this kind of leaf, or None."""
    for attribute, kind, advice in _ADVICE:
        if isinstance(error, kind) and any(hasattr(part, attribute) for part in stores_of(store)):
            return advice
    return None


async def _latency(store: AbstractObjectStore) -> str:
    writes, reads = [], []
    for _ in range(_ROUNDS):
        began = time.perf_counter()
        await store.put("object", "x" * 1024)
        written = time.perf_counter()
        await store.get_string("object")
        writes.append(written - began)
        reads.append(time.perf_counter() - written)
    return f"put {median(writes) * 1000:.1f} ms, get {median(reads) * 1000:.1f} ms (median of {_ROUNDS})"


async def _clock(store: AbstractObjectStore) -> Finding:
    """Compare this machine's clock with that of the leaf's server."""
    endpoints = [getattr(part, "endpoint", None) for part in stores_of(store)]
    endpoint = next(filter(None, endpoints), None)
    skew = await asyncio.to_thread(_skew, endpoint) if endpoint else None
    if skew is None:
        return Finding("clock", "not checked", "no server reports the time")
    seen = f"the server is {abs(skew):.0f} s {'ahead' if skew > 0 else 'behind'}"
    if abs(skew) > _MOST_SKEW:
        hint = "set this machine's clock: signatures fail at 15 minutes"
        return Finding("clock", "failed", seen, hint)
    return Finding("clock", "ok", seen)


def _skew(endpoint: str) -> float | None:
    """Return how many seconds the server's clock is ahead, accurate to about one; None if it is unknown.

    No credentials are needed: every response has a Date header, errors included.
    """
    request = urllib.request.Request(endpoint, method="HEAD")  # noqa: S310 - the options allow only http(s)
    began = time.time()
    try:
        with urllib.request.urlopen(request, timeout=_CLOCK_TIMEOUT) as reply:  # noqa: S310 - as above
            date = reply.headers["Date"]
    except urllib.error.HTTPError as error:
        with error:
            date = error.headers["Date"]
    except (OSError, HTTPException):
        return None
    try:
        # The header has whole seconds: on average it is half a second behind.
        return parsedate_to_datetime(date or "").timestamp() + 0.5 - (began + time.time()) / 2
    except (ValueError, OverflowError):
        return None


def _table(findings: list[Finding]) -> Table:
    styles = {"ok": "green", "failed": "bold red"}
    table = Table("check", "", "what was seen", "what to do")
    for finding in findings:
        verdict = Text(finding.verdict, style=styles.get(finding.verdict, "yellow"))
        table.add_row(finding.check, verdict, Text(printable(finding.detail)), Text(finding.hint))
    return table
