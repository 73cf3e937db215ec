"""An event loop whose clock jumps to the next timer: back-off and deadlines are exact and take no time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Never sleeps: with nothing ready to run, its time is that of the next timer."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0

    def time(self) -> float:
        return self._now

    def _run_once(self) -> None:
        internals: Any = self
        if not internals._ready:
            due = [timer._when for timer in internals._scheduled if not timer._cancelled]
            self._now = max(self._now, min(due, default=self._now))
        super()._run_once()  # type: ignore[misc]  # not in typeshed


def run(main: Coroutine[Any, Any, T]) -> tuple[T, float]:
    """Return the result of `main` and the virtual seconds it took."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        result = runner.run(main)
        return result, runner.get_loop().time()
