"""Options that would be taken for something else are refused when a layer or leaf is made."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

import obstore.store
import pytest

from starfish_server import MemoryObjectStore, StoreBuilder
from starfish_server.adapters.fsspec import StarfishFileSystem
from starfish_server.adapters.zarr import StarfishStore
from starfish_server.layers import (
    Encryption,
    JsonLinesSink,
    KeyRing,
    LoggingSink,
    Metrics,
    QueuedSink,
    Tracing,
)
from starfish_server.storage.custom import CustomObjectStore
from starfish_server.storage.filesystem import FilesystemStorageOptions
from starfish_server.storage.obstore import ObstoreObjectStore
from starfish_server.storage.s3 import S3StorageOptions

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LEAF = MemoryObjectStore({})


@pytest.mark.parametrize("value", ["", "false", "true", 0, 1, None])
@pytest.mark.parametrize(
    ("make", "name"),
    [
        (partial(FilesystemStorageOptions, "data"), "fsync"),
        (partial(FilesystemStorageOptions, "data"), "inline_reads"),
        (partial(S3StorageOptions, bucket="b"), "anonymous"),
        (partial(S3StorageOptions, bucket="b"), "portable_keys"),
        (CustomObjectStore, "portable_keys"),
        (StoreBuilder, "check_order"),
        (partial(Encryption, LEAF, KeyRing({"k": bytes(32)}, active="k")), "allow_plain"),
        (partial(StarfishFileSystem, LEAF), "encode_keys"),
        (partial(StarfishStore, LEAF), "read_only"),
        (partial(Metrics, LEAF), "namespace_attribute"),
        (partial(Tracing, LEAF), "per_attempt"),
        (partial(JsonLinesSink, "audit.jsonl"), "fsync"),
        (partial(JsonLinesSink, "audit.jsonl"), "chain"),
    ],
)
def test_a_switch_is_true_or_false(
    make: Callable[..., object], name: str, value: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As from an environment variable, which is always text: "false" would turn it on and "" off."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TypeError, match=f"{name} must be True or False"):
        make(**{name: value})


@pytest.mark.parametrize("value", ["", "false", 0, 1])
def test_the_order_of_a_backend_is_a_switch(value: Any) -> None:
    with pytest.raises(TypeError, match="listed_in_order must be True or False"):
        ObstoreObjectStore(obstore.store.MemoryStore(), listed_in_order=value)


def test_a_memory_store_takes_a_dict() -> None:
    with pytest.raises(TypeError, match="data must be a dict"):
        MemoryObjectStore(5)  # type: ignore[arg-type]  # the mistake


def test_a_queued_sink_takes_a_function() -> None:
    with pytest.raises(TypeError, match="a function of a record, not int"):
        QueuedSink(5)  # type: ignore[arg-type]  # the mistake


@pytest.mark.parametrize("backups", [2.0, float("nan"), float("inf"), "2", True])
def test_backups_that_rotation_could_not_count_are_refused(tmp_path: Path, backups: Any) -> None:
    with pytest.raises(TypeError, match="backups must be an int"):
        JsonLinesSink(tmp_path / "audit.jsonl", max_bytes=100, backups=backups)


def test_an_empty_hash_key_is_no_random_one() -> None:
    with pytest.raises(ValueError, match="hash_key is empty"):
        Tracing(LEAF, record_key="hashed", hash_key="")


def test_a_logging_sink_takes_names() -> None:
    assert repr(LoggingSink("my.audit", level="WARNING")) == "LoggingSink('my.audit', level=WARNING)"
    assert repr(LoggingSink(logging.getLogger("x"))) == "LoggingSink('x', level=INFO)"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"logger": None}, TypeError, "logger must be a logger or its name, not NoneType"),
        ({"level": "LOUD"}, ValueError, "level must be a number or one of CRITICAL"),
        ({"level": 2.5}, TypeError, "level must be an int"),
    ],
)
def test_a_logging_sink_refuses_what_would_lose_every_record(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        LoggingSink(**options)
