"""Where the processor time of a run goes: stacks sampled by a timer, and how they are drawn."""

from __future__ import annotations

import signal
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import FrameType
    from typing import Self

INTERVAL = 0.001  # seconds of processor time between samples
EVENT_LOOP = "asyncio.base_events:BaseEventLoop._run_once"
LEAST = 0.005  # of all samples; a narrower frame is not kept
SHOWN = 4  # packages

Stack = tuple[str, ...]


class Sampler:
    """Counts the stacks of the main thread, from the outermost call to the innermost."""

    def __init__(self) -> None:
        self.stacks: Counter[Stack] = Counter()

    def __enter__(self) -> Self:
        signal.signal(signal.SIGPROF, self._take)
        signal.setitimer(signal.ITIMER_PROF, INTERVAL, INTERVAL)
        return self

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0.0)

    def _take(self, _: int, frame: FrameType | None) -> None:
        names: list[str] = []
        while frame is not None:
            code = frame.f_code
            name = getattr(code, "co_qualname", code.co_name).replace(".<locals>", "")
            names.append(f"{frame.f_globals.get('__name__', '')}:{name}")
            frame = frame.f_back
        self.stacks[tuple(reversed(names))] += 1


@dataclass
class Node:
    """A call, with the samples in which it was running and what it called; by `module:name`."""

    name: str
    samples: int = 0
    calls: list[Node] = field(default_factory=list)

    @classmethod
    def load(cls, kept: dict[str, Any]) -> Node:
        return cls(kept["name"], kept["samples"], [cls.load(each) for each in kept["calls"]])

    def walk(self, depth: int = 0, left: int = 0) -> Iterator[tuple[Node, int, int]]:
        """This and all below it, each with its depth and the samples to its left."""
        yield self, depth, left
        for each in self.calls:
            yield from each.walk(depth + 1, left)
            left += each.samples


def tree(stacks: Iterable[tuple[Stack, int]], *, below: str) -> Node:
    """Merge stacks into a tree of what `below`, a call that all have in common, has called."""
    root = Node("event loop")
    for stack, samples in stacks:
        if below not in stack:
            continue
        node = root
        node.samples += samples
        for name in stack[stack.index(below) + 1 :]:
            for called in node.calls:
                if called.name == name:
                    break
            else:
                node.calls.append(called := Node(name))
            called.samples += samples
            node = called
    _prune(root, LEAST * root.samples)
    return root


def shares(root: Node) -> str:
    """Return the packages in which the most time went, callees not counted: "aiohttp 40%, asyncio 20%"."""
    own: Counter[str] = Counter()
    for node, _, _ in root.walk():
        parts = node.name.partition(":")[0].split(".")
        package = {"storage": "the leaf", "layers": "the layers"}.get(parts[1] if parts[1:] else "", parts[0])
        own[package] += node.samples - sum(each.samples for each in node.calls)
    return ", ".join(f"{name} {count / root.samples:.0%}" for name, count in own.most_common(SHOWN))


def _prune(node: Node, least: float) -> None:
    node.calls = sorted(
        (each for each in node.calls if each.samples >= least), key=lambda each: -each.samples
    )
    for each in node.calls:
        _prune(each, least)
