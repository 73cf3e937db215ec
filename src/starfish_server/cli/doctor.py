"""`starfish doctor`."""

import asyncio
import sys
from collections.abc import Awaitable
from dataclasses import asdict, dataclass
from enum import StrEnum

from rich.console import Console
from rich.table import Table
from rich.text import Text

from starfish_server.cli.arguments import AsJson, ContextFields, StoreName, context_of
from starfish_server.cli.clock import clock_skew
from starfish_server.cli.doctor_checks import CHECKS, Trial
from starfish_server.cli.exit_codes import ExitCode
from starfish_server.cli.output import json_line, line, one_line
from starfish_server.cli.stores import open_store
from starfish_server.errors import (
    BucketNotFoundError,
    ContextRequiredError,
    StoreAccessDeniedError,
    StoreNotSupportedError,
    StoreUnavailableError,
)
from starfish_server.printable import printable
from starfish_server.storage.base import AbstractObjectStore

_MOST_SKEW = 60.0
_HINTS = {
    BucketNotFoundError: "create the bucket, or correct its name, the endpoint or the region",
    StoreAccessDeniedError: "check the credentials in the environment and their rights, and the clock",
    ContextRequiredError: "say who asks: --context namespace=NAME, identity=NAME and so on",
    StoreUnavailableError: "check the endpoint and the network, and try again",
}


class Verdict(StrEnum):
    """What became of a check."""

    OK = "ok"
    FAILED = "failed"
    NOT_SUPPORTED = "not supported"
    NOT_CHECKED = "not checked"


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: what was seen, and, if it failed, what to do."""

    check: str
    verdict: Verdict
    detail: str
    hint: str = ""


def doctor(store: StoreName, context: ContextFields = None, json: AsJson = False) -> int:
    """Try a store and report what works.

    Writes, reads, lists and deletes under a new random prefix, and deletes all of it in the end, also when
    interrupted. Exit code 1 if a check failed; what a store does not support is not a failure.
    """
    findings = asyncio.run(_examine(store, context))
    for finding in findings if json else ():
        json_line(asdict(finding))
    if not json and sys.stdout.isatty():
        Console().print(_table(findings))
    elif not json:
        for finding in findings:
            hint = f" ({finding.hint})" if finding.hint else ""
            line(f"{finding.verdict}: {finding.check}: {finding.detail}{hint}")
    failed = any(finding.verdict is Verdict.FAILED for finding in findings)
    return ExitCode.FAILED if failed else ExitCode.OK


async def _examine(name: str, context: list[str] | None) -> list[Finding]:
    async with open_store(name) as store:
        trial = Trial(store, context_of(context, "push"))
        findings = [await _clock(store)]
        try:
            for check, (attempt, hint) in CHECKS.items():
                findings.append(await _finding(check, attempt(trial), hint))
                if check == "write and read" and findings[-1].verdict is not Verdict.OK:
                    rest = list(CHECKS)[1:]
                    findings += [
                        Finding(skipped, Verdict.NOT_CHECKED, "nothing can be written") for skipped in rest
                    ]
                    break
        finally:
            cleaned = await _finding("clean up", trial.clean_up(), f"delete what is under {trial.prefix}")
        return [*findings, cleaned]


async def _finding(check: str, attempt: Awaitable[str], hint: str) -> Finding:
    try:
        return Finding(check, Verdict.OK, await attempt)
    except StoreNotSupportedError as error:
        return Finding(check, Verdict.NOT_SUPPORTED, one_line(error), hint)
    except Exception as error:  # noqa: BLE001 - whatever a store raises is a finding
        known = next((text for kind, text in _HINTS.items() if isinstance(error, kind)), hint)
        return Finding(check, Verdict.FAILED, one_line(error), known)


async def _clock(store: AbstractObjectStore) -> Finding:
    skew = await clock_skew(store)
    if skew is None:
        return Finding("clock", Verdict.NOT_CHECKED, "no server told the time")
    seen = f"the server is {abs(skew):.0f} s {'ahead' if skew > 0 else 'behind'}"
    if abs(skew) > _MOST_SKEW:
        return Finding(
            "clock", Verdict.FAILED, seen, "set this machine's clock: signatures fail at 15 minutes"
        )
    return Finding("clock", Verdict.OK, seen)


def _table(findings: list[Finding]) -> Table:
    styles = {Verdict.OK: "green", Verdict.FAILED: "bold red"}
    table = Table("check", "", "what was seen", "what to do")
    for finding in findings:
        verdict = Text(finding.verdict, style=styles.get(finding.verdict, "yellow"))
        table.add_row(finding.check, verdict, Text(printable(finding.detail)), Text(finding.hint))
    return table
