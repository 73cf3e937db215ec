"""A contender in a process of its own: commands in, samples out, one JSON value a line.

`python -m bench.worker MODULE:FUNCTION`, with the Python of the contender's environment. Needs only the
standard library and the contender's own package, and uvloop if `BENCH_UVLOOP` is among its variables. Between
commands nothing runs, so that waiting workers take no time from the one that is measured.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import sys
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from bench.flame import Sampler
from bench.objects import from_json
from bench.plan import Plan
from bench.workloads import WORKLOADS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from bench.flame import Stack
    from bench.objects import Objects
    from bench.sample import Sample


UVLOOP = "BENCH_UVLOOP"


class Worker:
    """Opens a contender for one row or more, each under a name, and makes its runs."""

    def __init__(self, opener: str, runner: asyncio.Runner) -> None:
        module, _, function = opener.partition(":")
        self._opener = getattr(importlib.import_module(module), function)
        self._runner = runner
        self._objects: list[Objects] = []
        self._runs: dict[str, Callable[[int], Awaitable[Sample]]] = {}

    def open(self, name: str, plan: dict[str, Any], place: dict[str, Any] | None, *, fill: bool) -> None:
        self._runs[name] = self._runner.run(self._prepare(Plan(**plan), place, fill=fill))

    async def _prepare(
        self, plan: Plan, place: dict[str, Any] | None, *, fill: bool
    ) -> Callable[[int], Awaitable[Sample]]:
        """Without a place, opening gives the run itself."""
        if place is None:
            run: Callable[[int], Awaitable[Sample]] = await self._opener(plan)
            return run
        where = from_json(place)
        objects: Objects = replace(
            await self._opener(where), place=where, another=partial(self._opener, where)
        )
        self._objects.append(objects)
        if fill:
            await objects.fill(plan.keys(), plan.size)
        workload = WORKLOADS[plan.workload]
        return lambda number: workload(objects, plan, number)

    def run(self, name: str, number: int) -> dict[str, Any]:
        async def once() -> Sample:
            return await self._runs[name](number)

        return asdict(self._runner.run(once()))

    def profile(self, name: str, number: int) -> list[tuple[Stack, int]]:
        """Make a run, and return the stacks in which its processor time went."""
        with Sampler() as sampler:
            self.run(name, number)
        return list(sampler.stacks.items())

    def close(self) -> None:
        async def close() -> None:
            for objects in self._objects:
                await objects.close()

        self._runner.run(close())


def main() -> None:
    # What a contender prints must not end up between the answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        worker: Worker | None = None
        for line in sys.stdin:
            command, arguments = json.loads(line)
            try:
                worker = worker or Worker(sys.argv[1], runner)
                commands: tuple[Callable[..., object], ...] = (worker.open, worker.run, worker.profile)
                (call,) = (each for each in commands if each.__name__ == command)
                answer = {"value": call(**arguments)}
            except Exception as error:  # noqa: BLE001 - told to the coordinator, who decides
                answer = {"error": f"{type(error).__name__}: {error}"}
            answers.write(json.dumps(answer) + "\n")
        if worker is not None:
            worker.close()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if UVLOOP not in os.environ:
        return None
    import uvloop

    return uvloop.new_event_loop


if __name__ == "__main__":
    main()
