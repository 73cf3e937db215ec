"""Coroutines that run before anybody awaits them, as tasks with `eager_start` do from Python 3.12 on."""

from __future__ import annotations

import types
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

T = TypeVar("T")


def begun(work: Coroutine[Any, Any, T]) -> Coroutine[Any, Any, T]:
    """Run `work` up to its first wait, in the caller's task, and return what is left of it.

    What it raises before it waits is raised here.
    """
    return _rest(work, *_step(partial(work.send, None)))


def _step(call: Callable[[], Any]) -> tuple[bool, Any]:
    """Whether the coroutine has ended, and its result or what it waits for."""
    try:
        return False, call()
    except StopIteration as ended:
        return True, ended.value


@types.coroutine
def _rest(work: Coroutine[Any, Any, T], ended: bool, value: Any) -> Generator[Any, Any, T]:
    while not ended:
        try:
            call = partial(work.send, (yield value))
        except BaseException as error:  # noqa: BLE001 - it is for `work`, a cancellation, too
            call = partial(work.throw, error)
        ended, value = _step(call)
    return value  # type: ignore[no-any-return]
