"""What a run measured, and on what: kept as JSON, from which the README and the charts are made."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from bench.flame import Node
from bench.measure import Figure

if TYPE_CHECKING:
    from pathlib import Path


@dataclass
class Results:
    """Figures by row, lines of growth by chart and value, a profile, and facts of the machine."""

    machine: dict[str, str]
    rows: dict[str, list[Figure]] = field(default_factory=dict)
    growth: dict[str, dict[int, list[Figure]]] = field(default_factory=dict)
    flame: Node | None = None

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, path: Path) -> Results:
        kept = json.loads(path.read_text())
        rows = {name: _figures(row) for name, row in kept["rows"].items()}
        growth = {
            name: {int(value): _figures(point) for value, point in line.items()}
            for name, line in kept["growth"].items()
        }
        flame = kept.get("flame")
        return cls(kept["machine"], rows, growth, flame and Node.load(flame))


def _figures(kept: list[dict[str, Any]]) -> list[Figure]:
    return [Figure(**figure) for figure in kept]
