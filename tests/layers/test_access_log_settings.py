"""The options of `AccessLog`: which are refused, and what shows of the others."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from starfish_server.audit.queued import QueuedSink
from starfish_server.layers.access_log import AccessLog
from starfish_server.storage.memory import MemoryObjectStore

if TYPE_CHECKING:
    from starfish_server.audit.records import AccessRecord


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"actions": {"psuh"}}, ValueError),
        ({"actions": set()}, ValueError),
        ({"actions": "push"}, TypeError),
        ({"operations": {"wirte"}}, ValueError),
        ({"on_sink_failure": "ignore"}, ValueError),
        ({"sink_timeout": 0}, ValueError),
        ({"sink": []}, ValueError),
        ({"sink": [1]}, TypeError),
        ({"predicate": "failed"}, TypeError),
    ],
)
def test_an_option_that_makes_no_sense_is_refused(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        AccessLog(MemoryObjectStore({}), **({"sink": print} | options))


def test_settings_show_what_is_recorded() -> None:
    log = AccessLog(MemoryObjectStore({}), actions={"push"}, on_sink_failure="fail")
    assert repr(log) == (
        "AccessLog(sink=LoggingSink('starfish_server.access', level=INFO), actions=['push'], "
        "on_sink_failure='fail', MemoryObjectStore(0 objects))"
    )


@dataclass
class Webhook:
    token: str

    def send(self, record: AccessRecord) -> bool:
        raise AssertionError


SENDING = partial(Webhook.send, Webhook("hunter2"))


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ({"sink": SENDING}, "sink='partial', "),
        ({"sink": Webhook("hunter2").send}, "sink='Webhook.send', "),
        ({"sink": [QueuedSink(SENDING), print]}, "sink=[QueuedSink('partial'), 'print'], "),
        ({"predicate": SENDING}, "predicate='partial', "),
    ],
)
def test_settings_show_no_secret_that_a_function_holds(options: dict[str, Any], shown: str) -> None:
    text = repr(AccessLog(MemoryObjectStore({}), **options))
    assert shown in text
    assert "hunter2" not in text
