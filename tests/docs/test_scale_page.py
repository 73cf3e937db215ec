"""The figures in `docs/scale.md` are those of `benchmarks/scale.json`."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING

import pytest

from docs.snippets import ROOT
from scale import page
from scale.results import Results

if TYPE_CHECKING:
    from pathlib import Path

RESULTS = Results.load(ROOT / "benchmarks" / "scale.json")
CACHED = RESULTS.bills["cached"]
HUNDRED, MOST = 100, 10_000
FIGURE = re.compile(r"\$?\d[\d.,]*(?:%| cores| [kMGT]?B\b| bytes)|\$\d[\d.,]*\d")

# Texts of the page with {} for each figure, and the figures.
MEASURED = [
    ("{} of the hits are out of date, as others", [f"{RESULTS.apart[HUNDRED].stale:.0%}"]),
    ("and {} of the hits are out of date:", [f"{RESULTS.apart[MOST].stale:.0%}"]),
    (
        "itself answers {} of the reads and Redis {}.",
        [f"{RESULTS.shared[MOST].hits:.0%}", f"{RESULTS.shared[MOST].remote_hits:.0%}"],
    ),
    ("would keep {} of Redis busy", [f"{RESULTS.redis_load(RESULTS.shared[MOST]):.1f} cores"]),
    ("alone: about {} each", [f"{CACHED.audit_bytes / CACHED.operations:.0f} bytes"]),
]
# Prices and assumptions.
NOT_MEASURED = ["$0.005", "$0.0004", "$0.09", "allows 5 and 5% of"]


def test_the_tables_and_charts_are_those_of_the_committed_results(tmp_path: Path) -> None:
    shutil.copy(ROOT / "docs" / "scale.md", tmp_path)
    page.write(RESULTS, tmp_path / "scale.md", tmp_path)
    assert (tmp_path / "scale.md").read_text() == (ROOT / "docs" / "scale.md").read_text()
    for name in page.CHARTS:
        chart = ROOT / "docs" / "charts" / f"{name}.svg"
        assert (tmp_path / f"{name}.svg").read_text() == chart.read_text()


def test_every_table_has_its_place_in_the_page() -> None:
    text = (ROOT / "docs" / "scale.md").read_text()
    assert re.findall(r"<!-- (\w+), by make scale -->\n\n\|", text) == list(page.TABLES)


@pytest.mark.parametrize(("text", "figures"), MEASURED)
def test_a_figure_in_the_text_is_the_one_that_was_measured(text: str, figures: list[str]) -> None:
    assert text.format(*figures) in prose()


def test_every_figure_in_the_text_is_checked() -> None:
    left = prose()
    for known in [*(text.format(*figures) for text, figures in MEASURED), *NOT_MEASURED]:
        left = left.replace(known, "")
    assert FIGURE.findall(left) == []


def prose() -> str:
    """The page without its tables, its lines joined."""
    lines = (ROOT / "docs" / "scale.md").read_text().splitlines()
    return " ".join(line.strip() for line in lines if not line.startswith("|"))
