"""No key, identity or param can forge a log line or send a control character."""

from __future__ import annotations

import json
import logging
import random
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from layers.access_records import hostile_record, record
from starfish_server.audit.json_lines import JsonLinesSink
from starfish_server.audit.sinks import LoggingSink

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

RECORDS = 10_000


def logger_to(handler: logging.Handler) -> logging.Logger:
    """A logger at INFO apart from all others."""
    logger = logging.Logger("app", logging.INFO)  # noqa: LOG001 - one that no other test can see
    logger.addHandler(handler)
    return logger


async def test_hostile_records_are_one_line_of_json_each(tmp_path: Path) -> None:
    chance = random.Random(15)
    records = [hostile_record(chance) for _ in range(RECORDS)]
    sink = JsonLinesSink(tmp_path / "audit.jsonl", max_queued=RECORDS)
    for each in records:
        sink(each)
    await sink.close()
    text = (tmp_path / "audit.jsonl").read_bytes()
    assert not set(text) - {0x0A, *range(0x20, 0x7F)}
    lines = text.decode("ascii").splitlines()
    assert len(lines) == RECORDS
    for each, line in zip(records, lines, strict=True):
        read = json.loads(line)
        assert (tuple(read["keys"]), read["identity"]) == (each.keys, each.identity)
        assert (tuple(read["roles"]), read["params"]) == (each.roles, dict(each.params))
        assert (read["action"], read["namespace"]) == (each.action, each.namespace)


def test_hostile_records_are_one_printable_line_of_a_log_each(tmp_path: Path) -> None:
    """The formatter shows each extra field raw, as a careless one would."""
    chance = random.Random(15)
    path = tmp_path / "app.log"
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(
        logging.Formatter(
            "%(levelname)s %(message)s %(keys)s %(identity)s %(params)s %(namespace)s %(action)s"
            " %(collection)s %(roles)s"
        )
    )
    logger = logger_to(handler)
    sink = LoggingSink(logger)
    for _ in range(RECORDS):
        sink(hostile_record(chance))
    handler.close()
    lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    assert len(lines) == RECORDS
    assert all(line.isprintable() and line.startswith("INFO put ") for line in lines)


def test_json_has_the_fields_in_their_order_and_utc_time() -> None:
    read = json.loads(record().to_json())
    assert list(read) == list(record()._fields)
    assert datetime.fromisoformat(read["timestamp"]) == datetime.fromtimestamp(1_700_000_000.25, UTC)
    assert read["timestamp"].endswith("Z")


def test_a_logged_record_has_its_fields_as_extra() -> None:
    lines: list[logging.LogRecord] = []

    class Keeping(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record)

    LoggingSink(logger_to(Keeping()), level=logging.WARNING)(record("a/b"))
    (line,) = lines
    assert line.levelno == logging.WARNING
    assert line.getMessage() == (
        "put 'a/b' ok action='push' identity='alice' collection='notes' namespace=None bytes=3 1.5 ms"
    )
    expected = record("a/b")
    assert {name: line.__dict__[name] for name in expected._fields} == {
        name: getattr(expected, name) for name in expected._fields
    }


def test_a_logged_line_tells_what_explains_its_duration(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    LoggingSink()(record("a/b")._replace(attempts=4, cache="miss", source="backup"))
    assert caplog.messages[0].endswith(" bytes=3 1.5 ms attempts=4 cache='miss' source='backup'")


def test_nothing_is_formatted_for_a_level_that_is_off() -> None:
    class Untouchable(type(record())):  # type: ignore[misc]  # a class made at run time
        def __getattribute__(self, name: str) -> object:
            raise AssertionError(name)

    LoggingSink(logger_to(logging.NullHandler()), level=logging.INFO - 1)(tuple.__new__(Untouchable))
