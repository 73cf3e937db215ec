"""`starfish serve` on its embedded default: two identities push and pull, and leave an audit trail."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
from rich.table import Table

from starfish_server.layers import verify_audit_log

if TYPE_CHECKING:
    from rich.console import Console

TOKENS = {"alice": "the-demo-token-of-alice", "bob": "the-demo-token-of-bob"}
_LISTENING = re.compile(r"Running on (http://[0-9.:]+)")


async def run(folder: Path, console: Console) -> list[str]:
    """Start the server in `folder`, use it as two callers, stop it; returns what went wrong."""
    program = Path(sys.executable).with_name("starfish")
    variables = {f"STARFISH_{name.upper()}_TOKEN": token for name, token in TOKENS.items()}
    process = await asyncio.create_subprocess_exec(
        *(program, "serve", "--port", "0"),
        cwd=folder,
        env=os.environ | variables,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(20.0):
            address = await _address(process)
        problems = await _use(address, console)
    finally:
        process.terminate()
        await process.communicate()
    audit = folder / "audit.jsonl"
    _show_audit(audit, console)
    if process.returncode != 0 or not verify_audit_log(audit).ok:
        problems.append(f"the server ended with {process.returncode}, or its audit chain is broken")
    return problems


async def _address(process: asyncio.subprocess.Process) -> str:
    assert process.stderr is not None
    while line := await process.stderr.readline():
        if match := _LISTENING.search(line.decode()):
            return match[1]
    raise RuntimeError("starfish serve ended before it listened")


async def _use(address: str, console: Console) -> list[str]:
    asked = [
        ("alice", "POST", "/push/notes/alice", {"data": {"text": "hello"}, "baseHash": None}, 200),
        ("bob", "GET", "/pull/notes/alice", None, 200),
        ("bob", "POST", "/push/notes/alice", {"data": {"text": "mine now"}, "baseHash": None}, 403),
        ("bob", "POST", "/push/notes/bob", {"data": {"text": "hi"}, "baseHash": None}, 200),
        ("bob", "POST", "/push/notes/bob", {"data": {"text": "again"}, "baseHash": None}, 409),
        ("alice", "GET", "/list/notes", None, 200),
    ]
    problems = []
    console.print(f"Two callers with bearer tokens at {address}: both read every note, each writes only one.")
    table = Table("caller", "request", "status", "answer")
    async with aiohttp.ClientSession(address) as client:
        for caller, method, path, body, expected in asked:
            headers = {"Authorization": f"Bearer {TOKENS[caller]}"}
            async with client.request(method, path, json=body, headers=headers) as reply:
                answer: Any = await reply.json()
            table.add_row(caller, f"{method} {path}", str(reply.status), json.dumps(answer)[:60])
            if reply.status != expected:
                problems.append(f"{method} {path} as {caller} answered {reply.status}, not {expected}")
    console.print(table)
    return problems


def _show_audit(audit: Path, console: Console) -> None:
    columns = ("identity", "action", "operation", "keys", "outcome")
    console.print("The audit log that the server wrote: every operation on the store, and who asked for it.")
    table = Table(*columns)
    for line in audit.read_text().splitlines():
        record = json.loads(line)
        table.add_row(*(str(record[column]) for column in columns))
    console.print(table)
