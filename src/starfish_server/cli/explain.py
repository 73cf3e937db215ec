"""`starfish explain`."""

import asyncio

from starfish_server.cli.arguments import AsJson, StoreName
from starfish_server.cli.exit_codes import ExitCode
from starfish_server.cli.output import json_line, line
from starfish_server.cli.stores import open_store
from starfish_server.explain import explain
from starfish_server.operations import OPERATIONS


def explain_store(store: StoreName, json: AsJson = False) -> int:
    """Show how a store is put together, its settings, and what it can do. Secrets are masked."""
    asyncio.run(_explain(store, json))
    return ExitCode.OK


async def _explain(store: str, json: bool) -> None:
    async with open_store(store) as opened:
        lines = explain(opened).splitlines()
        if json:
            names = OPERATIONS
            json_line(
                {
                    "tree": lines,
                    "can": [name for name in names if opened.supports(name)],
                    "cannot": [name for name in names if not opened.supports(name)],
                    "context_dependent": opened.context_dependent,
                }
            )
        else:
            for text in lines:
                line(text)
