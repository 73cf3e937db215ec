"""What importing a package takes over bare asyncio, each time in a new process of this Python."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

from bench.sample import Sample

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from bench.plan import Plan

_CODE = """if True:
    import asyncio, importlib, json, resource, sys, time
    def resident():
        return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
    before, cpu, started = resident(), time.process_time(), time.perf_counter()
    importlib.import_module(sys.argv[1])
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    print(json.dumps({"seconds": seconds, "cpu": cpu, "operations": 1, "memory": resident() - before}))
"""


# pip compiles what it installs; an editable package is compiled at its first import, which is not timed.
_COMPILING = os.environ | {"PYTHONDONTWRITEBYTECODE": ""}


async def open_import(plan: Plan) -> Callable[[int], Awaitable[Sample]]:
    async def run(number: int) -> Sample:
        command = [sys.executable, "-c", _CODE, plan.layer]
        answer = subprocess.run(command, check=True, capture_output=True, text=True, env=_COMPILING)  # noqa: ASYNC221 - nothing else runs
        return Sample(**json.loads(answer.stdout))

    await run(1)
    return run
