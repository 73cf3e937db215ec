"""What a worker is to do in one timed run."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One row's work for one contender.

    workload: a name in `workloads.WORKLOADS`.
    prefix: what keys begin with; the run's own number is added where a workload writes.
    objects: how many keys there are, read in turn or written once each.
    per_folder: how many of them share a folder; 0 for all.
    read: how many of them, or of their parts, are read, evenly spread; 0 for all.
    size: bytes of a body.
    part: bytes of a range, chunk or column that is read of it.
    concurrency: operations in flight.
    seconds: how long a run lasts where a workload repeats; 0 runs through the keys once.
    count: keys asked for, where a list is cut short; stores opened, or gets begun, at the same time.
    layer: what is measured over a memory leaf, or imported.
    depth: how many of it are stacked.
    """

    workload: str
    prefix: str = ""
    objects: int = 1
    per_folder: int = 0
    read: int = 0
    size: int = 1024
    part: int = 64 * 1024
    concurrency: int = 1
    seconds: float = 0.0
    count: int = 0
    layer: str = ""
    depth: int = 1

    def keys(self, run: int | None = None) -> list[str]:
        prefix = self.prefix if run is None else f"{self.prefix}{run}/"
        if self.per_folder:
            return [f"{prefix}{number // self.per_folder:04}/{number:06}" for number in range(self.objects)]
        return [f"{prefix}{number:06}" for number in range(self.objects)]

    def keys_read(self) -> list[str]:
        keys = self.keys()
        return keys[:: max(1, len(keys) // self.read)] if self.read else keys

    def quick(self) -> Plan:
        """The same work, just enough of it to see that it runs."""
        return replace(
            self,
            objects=min(self.objects, 20),
            size=min(self.size, 2**20),
            part=min(self.part, 80_000),
            concurrency=min(self.concurrency, 4),
            seconds=0.0,
            count=min(self.count, 10),
        )
