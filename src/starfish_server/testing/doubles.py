"""Stores for tests: one that records what reaches it, one that fails on purpose."""

from __future__ import annotations

import asyncio
import math
import random
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starfish_server.layers.base import Layer, Operation, T
from starfish_server.objects import ObjectReader
from starfish_server.operations import OPERATIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence

    from starfish_server.storage.base import AbstractObjectStore


class RecordingStore(Layer):
    """Appends every operation to `calls` before passing it on; counts `close()` in `closed`."""

    context_dependent = False

    def __init__(self, inner: AbstractObjectStore) -> None:
        super().__init__(inner)
        self.calls: list[Operation[Any]] = []
        self.closed = 0

    def perform(self, operation: Operation[T]) -> Coroutine[Any, Any, T]:
        self.calls.append(operation)
        return super().perform(operation)

    async def close(self) -> None:
        self.closed += 1
        await super().close()


@dataclass(frozen=True, slots=True)
class Fault:
    """How one operation fails.

    error: makes the exception to raise, such as an exception class; None raises nothing.
    delay: seconds before anything else happens; `math.inf` hangs until cancelled.
    after: the operation is done first and its reply is lost, as when a server wrote and then failed.
    after_bytes: for `open`: the stream begins and breaks after so many bytes.
    """

    error: Callable[[str], BaseException] | None = None
    delay: float = 0.0
    after: bool = False
    after_bytes: int | None = None

    def __post_init__(self) -> None:
        if not (self.error is None or callable(self.error)):
            raise TypeError(
                "error must be an exception class or a function that makes an exception, "
                f"not {type(self.error).__name__}"
            )


class FaultyStore(Layer):
    """Fails on purpose, by script or by chance; everything else passes on to `inner`.

    script: by operation name, the faults of the first, second, ... operation of this name; None lets one
        pass, and so does the end of the script.
    chance: probability (0 to 1) that an operation without a scripted fault gets one of `faults`.
    seed: of the random choice, so that a run can be repeated.

    `injected` counts the faults so far, by operation name. An unknown operation is a `ValueError`.
    """

    context_dependent = False

    def __init__(
        self,
        inner: AbstractObjectStore,
        script: Mapping[str, Iterable[Fault | None]] | None = None,
        *,
        chance: float = 0.0,
        faults: Sequence[Fault] = (),
        seed: int = 0,
    ) -> None:
        super().__init__(inner)
        if unknown := set(script or ()) - set(OPERATIONS):
            raise ValueError(f"no such operation: {', '.join(sorted(unknown))}")
        if chance and not faults:
            raise ValueError("chance without faults: say which faults may be drawn")
        self._script = {name: iter(planned) for name, planned in (script or {}).items()}
        self._chance = chance
        self._faults = faults
        self._random = random.Random(seed)  # noqa: S311 - repeatable, not secret
        self.injected: defaultdict[str, int] = defaultdict(int)

    async def perform(self, operation: Operation[T]) -> T:
        fault = self._next_fault(operation.name)
        if fault is None:
            return await self._inner.perform(operation)
        self.injected[operation.name] += 1
        if math.isinf(fault.delay):
            await asyncio.Event().wait()
        if fault.delay:
            await asyncio.sleep(fault.delay)
        if fault.error is None:
            return await self._inner.perform(operation)
        if fault.after_bytes is not None:
            result = await self._inner.perform(operation)
            return _breaking(result, fault)  # type: ignore[no-any-return]  # a reader of another reader
        if fault.after:
            await self._inner.perform(operation)
        raise fault.error(f"injected fault in {operation.name}")

    def _next_fault(self, operation: str) -> Fault | None:
        for planned in self._script.get(operation, ()):
            return planned
        if self._chance and self._random.random() < self._chance:
            return self._random.choice(self._faults)
        return None


def _breaking(reader: Any, fault: Fault) -> Any:
    """Return a reader in place of `reader` that raises the fault's error after its bytes; None as it is."""
    if not isinstance(reader, ObjectReader):
        return reader
    left = fault.after_bytes or 0

    async def fetch() -> bytes:
        nonlocal left
        chunk = (await reader.next_chunk())[:left] if left else b""
        left -= len(chunk)
        if chunk or fault.error is None:
            return chunk
        raise fault.error("injected fault in open")

    return ObjectReader(reader.info, fetch, reader.aclose)
