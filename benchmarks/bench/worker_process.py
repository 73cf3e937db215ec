"""The coordinator's end of a worker: starts it, sends commands, reads answers, ends it."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING, Any

from bench.objects import Bucket, Folder, to_json
from bench.registry import ROOT
from bench.sample import Sample

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from bench.flame import Stack
    from bench.plan import Plan

_END_SECONDS = 5.0


class WorkerError(Exception):
    """A contender raised, or its process ended."""


class WorkerProcess:
    """One contender, running as `python -m bench.worker`."""

    def __init__(self, python: str, module: str, environment: dict[str, str] | None = None) -> None:
        path = {"PYTHONPATH": str(ROOT / "benchmarks")}
        self._process = subprocess.Popen(
            [python, "-m", "bench.worker", f"bench.contenders.{module}"],
            env=os.environ | path | (environment or {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def open(self, name: str, plan: Plan, place: Bucket | Folder | None, *, fill: bool = False) -> None:
        self._ask(
            "open", name=name, plan=vars(plan), place=None if place is None else to_json(place), fill=fill
        )

    def run(self, name: str, number: int) -> Sample:
        return Sample(**self._ask("run", name=name, number=number))

    def profile(self, name: str, number: int) -> list[tuple[Stack, int]]:
        return [(tuple(stack), samples) for stack, samples in self._ask("profile", name=name, number=number)]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.close()
            self._process.wait(_END_SECONDS)
        except (OSError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def _ask(self, command: str, **arguments: object) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps([command, arguments]) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise WorkerError(f"the process ended with {self._process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer["value"]
