"""`ResolverThreads`: where a plain role resolver runs, so that one that hangs holds up nothing else."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future
from contextvars import copy_context
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class ResolverThreads:
    """Calls functions in threads of its own, some at once and the others in turn.

    Not those of the event loop, which stores need, and daemon threads, which cannot keep the process from
    ending. A thread ends when no call waits.

    patience: seconds after which a call is stuck. While every thread has such a call, further ones are
        refused. most: calls at once, 32 by default.
    """

    def __init__(self, patience: float, *, most: int = 32) -> None:
        self._patience = patience
        self._most = most
        self._began: dict[Future[Any], float] = {}  # the calls under way
        self._waiting: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._lock = threading.Lock()

    def submit(self, function: Callable[[], T]) -> Future[T]:
        """The outcome of `function`, which is not called once that is cancelled.

        Raises `TimeoutError` if every thread is stuck.
        """
        outcome: Future[T] = Future()
        call = partial(copy_context().run, function)
        with self._lock:
            now = monotonic()
            if len(self._began) < self._most:
                threading.Thread(
                    target=self._work, args=(outcome, call), name="starfish-resolver", daemon=True
                ).start()
                self._began[outcome] = now
            elif now - max(self._began.values()) >= self._patience:
                raise TimeoutError(f"{self._most} calls of the role resolver are stuck")
            else:
                self._waiting.append((outcome, call))
        return outcome

    def _work(self, outcome: Future[Any], call: Callable[[], Any]) -> None:
        while True:
            if outcome.set_running_or_notify_cancel():
                try:
                    outcome.set_result(call())
                except BaseException as error:  # noqa: BLE001 - handed to whoever waits
                    outcome.set_exception(error)
            with self._lock:
                del self._began[outcome]
                if not self._waiting:
                    return
                outcome, call = self._waiting.popleft()
                self._began[outcome] = monotonic()
