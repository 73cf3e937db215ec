"""A fleet of processes over one bucket, and its operations, which simulations and real runs share."""

from __future__ import annotations

from bisect import bisect
from dataclasses import dataclass
from itertools import accumulate
from random import Random
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

Budget = Literal["none", "each", "small", "one"]
CAPACITIES: dict[Budget, int] = {"each": 500, "small": 10, "one": 500}  # tokens; 500 is the default


class Call(NamedTuple):
    """One operation: when it begins, in which process, on which key, and whether it writes."""

    at: float
    process: int
    key: int
    writes: bool


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """Processes that read and write, and what is between them and the bucket. Times are in seconds.

    rate: operations a second of each process, at random times.
    writes: the fraction of them that write.
    keys, skew: how many objects there are; the n-th is asked for in proportion to `1 / n**skew`.
    ttl: how long a read is cached; 0.0 for no cache.
    shared: whether the caches share Redis.
    seconds: how long the fleet runs.
    backend_seconds, redis_seconds: how long a request to the bucket takes, and one to Redis.
    retries: whether failures are retried, with the defaults of `Retry`.
    budget: no `RetryBudget`, one in each process, a small one in each, or one for the whole fleet.
    outage: from when to when every request to the bucket fails.
    capacity: requests a second that the bucket serves; it refuses the others.
    """

    processes: int
    rate: float = 5.0
    writes: float = 0.002
    keys: int = 10_000
    skew: float = 1.0
    ttl: float = 30.0
    shared: bool = False
    seconds: float = 45.0
    backend_seconds: float = 0.02
    redis_seconds: float = 0.001
    retries: bool = False
    budget: Budget = "none"
    outage: tuple[float, float] = (0.0, 0.0)
    capacity: float = float("inf")

    def calls(self, seed: int) -> Iterator[Call]:
        """All operations, in the order of time."""
        chance = Random(seed)
        weights = list(accumulate(1 / number**self.skew for number in range(1, self.keys + 1)))
        now = chance.expovariate(self.processes * self.rate)
        while now < self.seconds:
            process, key = chance.randrange(self.processes), bisect(weights, chance.random() * weights[-1])
            yield Call(now, process, key, chance.random() < self.writes)
            now += chance.expovariate(self.processes * self.rate)
