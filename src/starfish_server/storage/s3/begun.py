"""Coroutines that run before anybody awaits them, as tasks with `eager_start` do from Python 3.12 on."""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from typing import Any, TypeVar

T = TypeVar("T")


async def _value(value: T) -> T:
    return value


def begun(work: Coroutine[Any, Any, T]) -> Coroutine[Any, Any, T]:
    """Run `work` up to its first wait, in the caller's task, and return what is left of it.

    What it raises before it waits is raised here.
    """
    try:
        waits_for = work.send(None)
    except StopIteration as ended:
        return _value(ended.value)
    return _Rest(work, waits_for)


class _Rest(Generator[Any, Any, T], Coroutine[Any, Any, T]):
    """A coroutine that waits already. Not a generator: one that has not begun would keep from `work` what is
    thrown into it, such as a cancellation.
    """

    def __init__(self, work: Coroutine[Any, Any, T], waits_for: Any) -> None:
        self._work = work
        self._waits_for = [waits_for]

    def send(self, value: Any) -> Any:
        return self._waits_for.pop() if self._waits_for else self._work.send(value)

    def throw(self, *error: Any) -> Any:
        self._waits_for.clear()
        return self._work.throw(*error)

    def close(self) -> None:
        self._work.close()

    def __await__(self) -> Generator[Any, Any, T]:
        return self
