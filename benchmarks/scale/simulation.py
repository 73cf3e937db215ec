"""A simulation of a fleet in discrete events: hit rates, coherence traffic and retry storms.

Operations, requests and replies are events. A message to all subscribers is one event, however many there
are, so the work does not grow with the square of the fleet. Redis is assumed to keep up and to lose nothing.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from math import inf
from random import Random
from typing import TYPE_CHECKING, Any

from scale.fleet import CAPACITIES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from scale.fleet import Call, Fleet

ATTEMPTS, FIRST_WAIT, LONGEST_WAIT = 4, 0.1, 5.0  # the defaults of `Retry`
RETRY_COST, REFUND = 5, 1  # the defaults of `RetryBudget`, in tokens
LEASE_SECONDS = 5.0  # of a reader that fills an entry in Redis
BURST_SECONDS = 0.1  # the bucket serves so much of its capacity at once


@dataclass
class Counts:
    """What happened from `since` on.

    operations, failed: asked of the fleet, and failed in the end.
    hits: answered from the memory of the process; joined: shared the read of another caller there.
    remote_hits: answered from Redis.
    stale: hits that were older than a finished write.
    gets, puts: requests to the bucket, with those that failed.
    commands: sent to Redis for operations. messages: published, each of them to every process.
    by_second, refused: requests to the bucket in each second from the beginning, and those that failed.
    """

    operations: int = 0
    failed: int = 0
    hits: int = 0
    joined: int = 0
    remote_hits: int = 0
    stale: int = 0
    gets: int = 0
    puts: int = 0
    commands: int = 0
    messages: int = 0
    by_second: dict[int, int] = field(default_factory=dict)
    refused: dict[int, int] = field(default_factory=dict)

    @property
    def answered(self) -> int:
        """Reads that the process answered from its memory; timing decides which of the two a read is."""
        return self.hits + self.joined

    @property
    def requests(self) -> int:
        """Requests to the bucket."""
        return self.gets + self.puts


class Events:
    """Calls in the order of their virtual time."""

    def __init__(self) -> None:
        self.now = 0.0
        self._queue: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = count()

    def after(self, seconds: float, call: Callable[..., None], *arguments: Any) -> None:
        heappush(self._queue, (self.now + seconds, next(self._order), call, arguments))

    def run_until(self, time: float) -> None:
        while self._queue and self._queue[0][0] <= time:
            self.now, _, call, arguments = heappop(self._queue)
            call(*arguments)
        self.now = time


class Bucket:
    """Answers after a while, and fails in an outage or over its capacity; `Retry` is in front of it."""

    def __init__(self, fleet: Fleet, events: Events, counts: Counts, chance: Random) -> None:
        self._fleet, self._events, self._counts, self._chance = fleet, events, counts, chance
        self._burst = self._left = fleet.capacity * BURST_SECONDS
        self._seen = 0.0
        self._capacity = CAPACITIES.get(fleet.budget, 0)
        # Tokens of each process, or of the whole fleet.
        self._tokens = [self._capacity] * (1 if fleet.budget == "one" else fleet.processes)

    def ask(self, call: Call, done: Callable[[bool], None], attempt: int = 1, paid: int = 0) -> None:
        """Send a request, and others if it fails; `done` is told whether one succeeded."""
        if call.writes:
            self._counts.puts += 1
        else:
            self._counts.gets += 1
        second, served = int(self._events.now), self._serves()
        for counted, more in ((self._counts.by_second, 1), (self._counts.refused, not served)):
            counted[second] = counted.get(second, 0) + more
        self._events.after(self._fleet.backend_seconds, self._reply, call, done, attempt, paid, served)

    def _serves(self) -> bool:
        now = self._events.now
        if self._fleet.outage[0] <= now < self._fleet.outage[1]:
            return False
        if self._fleet.capacity == inf:
            return True
        self._left = min(self._burst, self._left + (now - self._seen) * self._fleet.capacity)
        self._seen = now
        served = self._left >= 1.0
        self._left -= served
        return served

    def _reply(
        self, call: Call, done: Callable[[bool], None], attempt: int, paid: int, succeeded: bool
    ) -> None:
        budget = call.process % len(self._tokens)
        if succeeded:
            self._tokens[budget] = min(self._capacity, self._tokens[budget] + (paid or REFUND))
            done(True)
            return
        retries = self._fleet.retries and attempt < ATTEMPTS
        if retries and self._fleet.budget != "none":
            paid = RETRY_COST
            retries = self._tokens[budget] >= paid
            self._tokens[budget] -= paid * retries
        if not retries:
            done(False)
            return
        wait = self._chance.uniform(0.0, min(LONGEST_WAIT, FIRST_WAIT * 2 ** (attempt - 1)))
        self._events.after(wait, self.ask, call, done, attempt + 1, paid)


class Caches:
    """The first level of each process, and Redis; without `shared` only the former."""

    def __init__(self, fleet: Fleet, events: Events, counts: Counts, bucket: Bucket) -> None:
        self._fleet, self._events, self._counts, self._bucket = fleet, events, counts, bucket
        self._one_way = fleet.redis_seconds / 2
        # By process and key: when that which is cached was read, and when a read in flight began.
        self._cached: dict[tuple[int, int], float] = {}
        self._reading: dict[tuple[int, int], float] = {}
        # When a process last dropped a key; by key alone where a message tells all processes.
        self._dropped: defaultdict[object, float] = defaultdict(lambda: -1.0)
        self._written: defaultdict[int, float] = defaultdict(lambda: -1.0)
        self._entries: dict[int, float] = {}
        self._leases: dict[int, tuple[Call, float]] = {}
        self._writers: Counter[int] = Counter()

    def _place(self, call: Call) -> object:
        return call.key if self._fleet.shared else (call.process, call.key)

    def read(self, call: Call) -> None:
        now, here = self._events.now, (call.process, call.key)
        dropped = self._dropped[self._place(call)]
        read = self._cached.get(here, -inf)
        if read > dropped and read > now - self._fleet.ttl:
            self._counts.hits += 1
            self._counts.stale += self._written[call.key] > read
        elif self._reading.get(here, -inf) > dropped:
            self._counts.joined += 1
        else:
            self._reading[here] = now
            if self._fleet.shared:
                self._command(self._find, call)
            else:
                self._ask(call, now, False, True)

    def _command(self, at_redis: Callable[..., None], *arguments: Any) -> None:
        self._counts.commands += 1
        self._events.after(self._one_way, at_redis, *arguments)

    def _find(self, call: Call) -> None:
        read = self._entries.get(call.key, -inf)
        if read > self._events.now - self._fleet.ttl:
            self._counts.remote_hits += 1
            self._events.after(self._one_way, self._keep, call, read)
        else:
            self._events.after(self._one_way, self._command, self._lease, call)

    def _lease(self, call: Call) -> None:
        now = self._events.now
        writer = self._writers[call.key] > 0
        leased = not writer and self._leases.get(call.key, (None, -inf))[1] < now
        if leased:
            self._leases[call.key] = (call, now + LEASE_SECONDS)
        self._events.after(self._one_way, self._ask, call, now, leased, not writer)

    def _ask(self, call: Call, read: float, leased: bool, cacheable: bool) -> None:
        def done(succeeded: bool) -> None:
            if succeeded and cacheable:
                self._keep(call, read)
            else:
                self._reading.pop((call.process, call.key), None)
                self._counts.failed += not succeeded
            if leased:
                self._command(self._fill, call, read if succeeded else None)

        self._bucket.ask(call, done)

    def _keep(self, call: Call, read: float) -> None:
        here = (call.process, call.key)
        if self._reading.pop(here, -inf) > self._dropped[self._place(call)]:
            self._cached[here] = read

    def _fill(self, call: Call, read: float | None) -> None:
        if self._leases.get(call.key, (None, 0.0))[0] is call:
            del self._leases[call.key]
            if read is not None:
                self._entries[call.key] = read

    def write(self, call: Call) -> None:
        self._dropped[self._place(call)] = self._events.now
        if self._fleet.shared:
            self._command(self._tell, call, 1)
            self._events.after(self._fleet.redis_seconds, self._put, call)
        else:
            self._put(call)

    def _put(self, call: Call) -> None:
        def done(succeeded: bool) -> None:
            self._counts.failed += not succeeded
            self._written[call.key] = self._events.now
            if self._fleet.shared:
                self._command(self._tell, call, -1)
            else:
                self._drop(call)

        self._bucket.ask(call, done)

    def _tell(self, call: Call, writers: int) -> None:
        """Let Redis forget a key, and publish that a write of it begins or ended."""
        self._counts.messages += 1
        self._writers[call.key] += writers
        self._entries.pop(call.key, None)
        self._leases.pop(call.key, None)
        self._events.after(self._one_way, self._drop, call)

    def _drop(self, call: Call) -> None:
        self._dropped[self._place(call)] = self._events.now


def simulate(fleet: Fleet, seed: int, *, since: float = 0.0, calls: Iterable[Call] | None = None) -> Counts:
    """Return what a fleet does from `since` on; `by_second` counts from the beginning."""
    events, counts = Events(), Counts()
    bucket = Bucket(fleet, events, counts, Random(seed))
    caches = Caches(fleet, events, counts, bucket)

    def finished(succeeded: bool) -> None:
        counts.failed += not succeeded

    for call in fleet.calls(seed) if calls is None else calls:
        if since and call.at >= since:
            events.run_until(since)
            vars(counts).update(vars(Counts(by_second=counts.by_second, refused=counts.refused)))
            since = 0.0
        events.run_until(call.at)
        counts.operations += 1
        if not fleet.ttl:
            bucket.ask(call, finished)
        elif call.writes:
            caches.write(call)
        else:
            caches.read(call)
    events.run_until(inf)
    return counts
