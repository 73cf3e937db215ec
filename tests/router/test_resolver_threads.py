"""Threads of plain role resolvers: how many, who waits, and what becomes of those that hang."""

from __future__ import annotations

import subprocess
import sys
import threading
from contextvars import ContextVar
from typing import TYPE_CHECKING

import pytest

from starfish_server.router.resolver_threads import ResolverThreads

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = "starfish-resolver"
CALLER = ContextVar("caller", default="nobody")


class Call:
    """A call that takes until it is released."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self._released = threading.Event()

    def __call__(self) -> str:
        self.begun.set()
        assert self._released.wait(30)
        return threading.current_thread().name

    def release(self) -> None:
        self._released.set()


def join() -> None:
    """Wait until every thread has ended."""
    for thread in threading.enumerate():
        if thread.name == NAME:
            thread.join(10)
            assert not thread.is_alive()


@pytest.fixture
def calls() -> Iterator[list[Call]]:
    calls = [Call() for _ in range(4)]
    yield calls
    for call in calls:
        call.release()
    join()


def test_calls_run_side_by_side_and_the_others_in_turn(calls: list[Call]) -> None:
    threads = ResolverThreads(60.0, most=2)
    outcomes = [threads.submit(call) for call in calls]
    assert all(call.begun.wait(10) for call in calls[:2])
    assert not any(call.begun.is_set() for call in calls[2:])
    for call, outcome in zip(calls, outcomes, strict=True):
        call.release()
        assert outcome.result(10) == NAME
    join()


def test_a_call_that_is_given_up_in_line_is_never_made(calls: list[Call]) -> None:
    threads = ResolverThreads(60.0, most=1)
    stuck, given_up, last, _ = [threads.submit(call) for call in calls]
    assert given_up.cancel()
    for call in (calls[0], calls[2], calls[3]):
        call.release()
    assert (stuck.result(10), last.result(10)) == (NAME, NAME)
    assert not calls[1].begun.is_set()


def test_while_every_thread_is_stuck_calls_are_refused(calls: list[Call]) -> None:
    threads = ResolverThreads(0.0, most=2)
    for call in calls[:2]:
        threads.submit(call)
    with pytest.raises(TimeoutError, match="2 calls of the role resolver are stuck"):
        threads.submit(calls[2])
    calls[0].release()
    calls[1].release()
    join()
    assert threads.submit(threading.current_thread).result(10).name == NAME


def test_what_a_call_raises_is_handed_on() -> None:
    with pytest.raises(SystemExit):
        ResolverThreads(60.0).submit(sys.exit).result(10)


def test_a_call_sees_the_context_variables_of_the_request() -> None:
    token = CALLER.set("alice")
    try:
        outcome = ResolverThreads(60.0).submit(CALLER.get)
    finally:
        CALLER.reset(token)
    assert outcome.result(10) == "alice"


def test_after_a_thread_that_could_not_be_started_another_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    threads = ResolverThreads(60.0, most=1)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="new thread"):
            threads.submit(int)
    assert threads.submit(int).result(10) == 0


def test_a_call_that_hangs_keeps_no_process_alive() -> None:
    code = f"""if True:
        import threading
        from {ResolverThreads.__module__} import ResolverThreads
        begun = threading.Event()
        ResolverThreads(60.0).submit(lambda: (begun.set(), threading.Event().wait()))
        assert begun.wait(10)
    """
    subprocess.run([sys.executable, "-c", code], timeout=60, check=True)
