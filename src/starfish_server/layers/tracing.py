"""`Tracing`: an OpenTelemetry span around every operation, or around every attempt.

A leaf may name its own client spans: its method `span_of(operation)` returns the name, the fixed attributes
and the name of the attribute for the key (None for an operation without one), as in
`("S3.GetObject", {"rpc.system.name": "aws-api"}, "aws.s3.key")`. Its note "request_id" is the backend's id of
the request. The leaf does not need OpenTelemetry for this.
"""

from __future__ import annotations

import functools
import hmac
import secrets
import traceback
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from opentelemetry.context import attach, detach
from opentelemetry.trace import (
    INVALID_SPAN,
    NoOpTracer,
    SpanKind,
    StatusCode,
    get_tracer,
    set_span_in_context,
)

from starfish_server.checks import flag, secret_bytes
from starfish_server.layers.base import Layer, Operation, Slot, T
from starfish_server.layers.outcome import observe
from starfish_server.layers.streams import around_chunks
from starfish_server.logs import SafeLogger
from starfish_server.operations import OPERATIONS, Bodies
from starfish_server.printable import printable

if TYPE_CHECKING:
    from opentelemetry.trace import Span, TracerProvider

    from starfish_server.layers.outcome import Outcome
    from starfish_server.objects import Fetch
    from starfish_server.storage.base import AbstractObjectStore, Result

Recorded = Literal["off", "hashed", "plain"]
_SpanOf = tuple[str, Mapping[str, str], str | None]

_log = SafeLogger(__name__)
_NOTED = frozenset({"attempts", "cache", "hedged", "source"})
_PROCESS_KEY = secrets.token_bytes(32)


class Tracing(Layer):
    """One span per operation, or per attempt with `per_attempt=True`.

    Stands outside cache and retries, so that a span is one operation as the caller sees it. The span is named
    `objectstore.get_string` and so on and has the kind INTERNAL. Its attributes are the outcome, the number
    of attempts, the cache result, the store used, and whether the read was hedged. With `per_attempt=True` it
    stands innermost, under retry, limit and timeout, and each attempt has a span of kind CLIENT; over S3 that
    follows the OpenTelemetry conventions (`S3.GetObject`). One stack may have both.

    per_attempt: False by default.
    tracer_provider: the global one by default, even if it is set up later.
    record_identity, record_key: "off" (default), "hashed" or "plain": whether the caller's identity, and the
        key or prefix, are attributes of spans.
    hash_key: secret bytes or text for "hashed", without which a guess cannot be tested by hashing it. By
        default it is random, and hashes agree within one process only.

    The span of a stream ends with its last chunk, and says how many bytes were read.

    Neither a miss nor a cancellation is an error. A failure sets the status and adds an exception event with
    type and stack; the message, which may name keys and callers, is in it only if both `record_identity` and
    `record_key` are "plain". Raises `ValueError` for another word.
    """

    slot = Slot.OBSERVE
    context_dependent = False

    def __init__(
        self,
        inner: AbstractObjectStore,
        *,
        per_attempt: bool = False,
        tracer_provider: TracerProvider | None = None,
        record_identity: Recorded = "off",
        record_key: Recorded = "off",
        hash_key: bytes | str | None = None,
    ) -> None:
        super().__init__(inner)
        if flag("per_attempt", per_attempt):
            self.slot = Slot.ATTEMPT
        self._per_attempt = per_attempt
        self._kind = SpanKind.CLIENT if per_attempt else SpanKind.INTERNAL
        self._tracer = get_tracer("starfish_server", tracer_provider=tracer_provider)
        self._record_identity = record_identity
        self._record_key = record_key
        secret = _PROCESS_KEY if hash_key is None else secret_bytes("hash_key", hash_key)
        if not secret:
            raise ValueError("hash_key is empty: anyone could compare hashes of guessed values")
        self._show_identity = _recording("record_identity", record_identity, secret)
        self._show_key = _recording("record_key", record_key, secret)
        self._show_messages = record_identity == record_key == "plain"
        self._span_of = functools.cache(_span_of(inner) if per_attempt else _plain_span)

    def settings(self) -> dict[str, object]:
        shown: dict[str, object] = {"per_attempt": True} if self._per_attempt else {}
        recorded = {"record_identity": self._record_identity, "record_key": self._record_key}
        return shown | {name: how for name, how in recorded.items() if how != "off"}

    def perform(self, operation: Operation[T]) -> Result[T]:
        # Until a provider is set, the tracer is a proxy of a no-op tracer. If OpenTelemetry renames the
        # private attribute, calls only take a microsecond longer.
        if isinstance(getattr(self._tracer, "_tracer", None), NoOpTracer):
            return self._inner.perform(operation)
        return self._traced(operation)

    async def _traced(self, operation: Operation[T]) -> T:
        name, attributes, key_attribute = self._span_of(operation.name)
        span = self._start(name)
        if not span.get_span_context().is_valid:
            return await self._inner.perform(operation)
        # An unsampled span is attached as well, or its children would be sampled as roots.
        within = set_span_in_context(span)
        token = attach(within)
        try:
            if not span.is_recording():
                try:
                    return await self._inner.perform(operation)
                finally:
                    _end(span)
            span.set_attributes(attributes)
            self._describe(span, key_attribute, operation)
            result = await self._observed(span, operation.observed())
        finally:
            detach(token)

        async def traced(fetch: Fetch) -> bytes:
            token = attach(within)
            try:
                return await fetch()
            finally:
                detach(token)

        return around_chunks(result, traced)

    def _start(self, name: str) -> Span:
        try:
            return self._tracer.start_span(name, kind=self._kind)
        except Exception:  # noqa: BLE001 - a span processor that fails must not fail the operation
            _log.exception("the span could not be started")
            return INVALID_SPAN

    def _describe(self, span: Span, key_attribute: str | None, operation: Operation[Any]) -> None:
        target = operation.key if operation.prefix is None else operation.prefix
        if target is None:
            span.set_attribute("objectstore.keys.count", len(operation.keys))
        elif key_attribute is not None and self._show_key is not None:
            span.set_attribute(key_attribute, self._show_key(target))
        context = operation.context
        if context is None:
            return
        span.set_attribute("starfish.collection", printable(context.collection))
        span.set_attribute("starfish.action", printable(context.action))
        if context.namespace is not None:
            span.set_attribute("starfish.namespace", printable(context.namespace))
        if context.identity is not None and self._show_identity is not None:
            span.set_attribute("starfish.identity", self._show_identity(context.identity))

    async def _observed(self, span: Span, operation: Operation[T]) -> T:
        def ended(
            outcome: Outcome, error_type: str | None, error: BaseException | None, size: int | None
        ) -> None:
            span.set_attribute("objectstore.outcome", outcome)
            if error is not None and error_type is not None and outcome != "cancelled":
                self._record_failure(span, error, error_type)
            if operation.bodies in (Bodies.READER, Bodies.CHUNKS) and size is not None:
                span.set_attribute("objectstore.bytes", size)
            notes: dict[str, Any] = operation.notes or {}
            for name in _NOTED & notes.keys():
                span.set_attribute(f"objectstore.{name}", notes[name])
            if self._per_attempt and "request_id" in notes:
                span.set_attribute("aws.request_id", printable(notes["request_id"]))
            _end(span)

        return await observe(self._inner, operation, ended)

    def _record_failure(self, span: Span, error: BaseException, name: str) -> None:
        kind = type(error)
        span.set_attribute("error.type", name)
        span.set_status(StatusCode.ERROR, name)
        if self._show_messages:
            span.record_exception(error)
            return
        stack = "".join(traceback.format_tb(error.__traceback__))
        span.add_event(
            "exception",
            {"exception.type": f"{kind.__module__}.{kind.__qualname__}", "exception.stacktrace": stack},
        )


def _plain_span(operation: str) -> _SpanOf:
    kind = OPERATIONS.get(operation)
    key = "objectstore.prefix" if kind is not None and kind.action == "list" else "objectstore.key"
    return f"objectstore.{operation}", {}, key


def _span_of(store: AbstractObjectStore) -> Callable[[str], _SpanOf]:
    """Return how the leaf under `store` names its spans; over several leaves there is no common name."""
    while isinstance(store, Layer) and len(store.inners) == 1:
        store = store.inner
    return getattr(store, "span_of", _plain_span)


def _end(span: Span) -> None:
    try:
        span.end()
    except Exception:  # noqa: BLE001 - a span processor that fails must not fail what was done
        _log.exception("the span could not be ended")


def _recording(option: str, recorded: Recorded, hash_key: bytes) -> Callable[[str], str] | None:
    """Return a function that shows a text as the option says; None to show nothing."""
    if recorded == "off":
        return None
    if recorded == "plain":
        return printable
    if recorded != "hashed":
        raise ValueError(f'{option} is "off", "hashed" or "plain", not {recorded!r}')
    return lambda text: hmac.digest(hash_key, text.encode(errors="surrogatepass"), "sha256").hex()[:32]
