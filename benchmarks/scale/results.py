"""What `make scale` measured and simulated: kept as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from scale.bill import DOLLARS_PER_READ, DOLLARS_PER_WRITE, Usage
from scale.redis_costs import RedisCosts
from scale.simulation import Counts

if TYPE_CHECKING:
    from pathlib import Path

    from scale.fleet import Budget


@dataclass(frozen=True)
class Point:
    """What a fleet of so many processes did in so many seconds."""

    processes: int
    seconds: float
    counts: Counts

    def rate(self, count: float) -> float:
        return count / self.seconds

    @property
    def _reads(self) -> int:
        return self.counts.operations - self.counts.puts

    @property
    def hits(self) -> float:
        """Fraction of the reads that the memory of the process answered."""
        return self.counts.answered / self._reads

    @property
    def remote_hits(self) -> float:
        """Fraction of the reads that Redis answered."""
        return self.counts.remote_hits / self._reads

    @property
    def stale(self) -> float:
        """Fraction of the hits that had been overwritten."""
        return self.counts.stale / max(1, self.counts.hits)

    @property
    def deliveries(self) -> float:
        """Messages a second, each counted once for every process."""
        return self.rate(self.counts.messages * self.processes)

    @property
    def request_dollars(self) -> float:
        """Dollars a second."""
        return self.rate(self.counts.gets * DOLLARS_PER_READ + self.counts.puts * DOLLARS_PER_WRITE)


@dataclass(frozen=True)
class Checked:
    """A fleet that was simulated and measured."""

    name: str
    processes: int
    simulated: Counts
    measured: Counts


@dataclass(frozen=True)
class Results:
    """All of a run.

    apart, shared: by the number of processes.
    storms: requests for one operation in an outage, by the number of processes and the budget.
    """

    machine: dict[str, str]
    redis: RedisCosts
    bills: dict[str, Usage]
    apart: dict[int, Point]
    shared: dict[int, Point]
    storms: dict[int, dict[Budget, float]]
    checked: list[Checked]

    def audit_bytes(self, point: Point) -> float:
        """Bytes a second of the audit logs of a fleet."""
        usage = self.bills["cached"]
        return point.rate(point.counts.operations) * usage.audit_bytes / usage.operations

    def message_bytes(self, point: Point) -> float:
        """Bytes a second that Redis sends in messages."""
        return point.deliveries * self.redis.message_bytes

    def redis_load(self, point: Point) -> float:
        """Return how many cores of Redis a fleet keeps busy."""
        return self.redis.load(point.processes, point.seconds, point.counts)

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Results:
        kept = json.loads(path.read_text())
        return cls(
            kept["machine"],
            RedisCosts(**kept["redis"]),
            {name: Usage(**usage) for name, usage in kept["bills"].items()},
            _points(kept["apart"]),
            _points(kept["shared"]),
            {int(number): storms for number, storms in kept["storms"].items()},
            [
                Checked(
                    each["name"], each["processes"], Counts(**each["simulated"]), Counts(**each["measured"])
                )
                for each in kept["checked"]
            ],
        )


def _points(kept: dict[str, Any]) -> dict[int, Point]:
    return {
        int(number): Point(point["processes"], point["seconds"], Counts(**point["counts"]))
        for number, point in kept.items()
    }
