"""The tables of features in the README and the docs are those of `benchmarks/features.json`."""

from __future__ import annotations

import json

from docs.snippets import ROOT
from features.rows import PEERS, ROWS
from features.table import TELLING, extract, page, table, versions

OUTCOMES = json.loads((ROOT / "benchmarks" / "features.json").read_text())


def test_the_readme_shows_an_extract_of_the_outcomes() -> None:
    assert {row.name for row in ROWS} > TELLING
    assert extract(OUTCOMES) in (ROOT / "README.md").read_text()


def test_the_docs_show_all_outcomes() -> None:
    text = (ROOT / "docs" / "when-to-use-what.md").read_text()
    assert table(OUTCOMES) in text
    assert versions(OUTCOMES) in " ".join(text.split())


def test_the_page_of_features_shows_the_outcomes() -> None:
    assert (ROOT / "benchmarks" / "features.md").read_text() == page(OUTCOMES)


def test_each_cell_was_tried_and_each_no_says_what_was_seen() -> None:
    for peer in PEERS:
        features = OUTCOMES[peer.module]["features"]
        assert list(features) == [row.name for row in ROWS]
        for found in features.values():
            assert found["cell"] != "error"
            assert found["cell"] != "no" or found["seen"]
