"""The figures in the README and `docs/performance.md` are those of `benchmarks/results.json`."""

from __future__ import annotations

import re

import pytest

from bench.flame import shares
from bench.results import Results
from docs.snippets import ROOT

RESULTS = Results.load(ROOT / "benchmarks" / "results.json")
FIGURE = re.compile(r"(?<![\d.,])(\d[\d.,]*\d|\d) (us|ms|op/s)(?!\w)")
UNITS = {"us": 1e6, "ms": 1e3, "MiB": 2**-20}


def took(row: str, label: str = "starfish") -> float:
    """Seconds for one operation of a row, or of the first point of a growth."""
    figures = RESULTS.rows.get(row) or next(iter(RESULTS.growth[row].values()))
    return next(figure.seconds for figure in figures if figure.label == label)


def cpu(row: str) -> float:
    return next(figure.cpu for figure in RESULTS.rows[row] if figure.label == "starfish")


def memory(row: str, label: str = "starfish") -> float:
    """Bytes that a row held at most."""
    held = next(figure.memory for figure in RESULTS.rows[row] if figure.label == label)
    assert held is not None
    return held


CONTENDERS = ("starfish", "starfish 2.3.0", "obstore", "opendal")  # the columns of the README

# Texts of a page with {} for each figure, and the seconds for one operation, or the bytes, that it shows.
MEASURED: dict[str, list[tuple[str, list[float]]]] = {
    "README.md": [
        (
            "| get 1 KiB from S3, 32 in flight | {} | {} | {} | {} |",
            [took("s3-get", name) for name in CONTENDERS],
        ),
        (
            "| put 1 KiB to S3, 32 in flight | {} | {} | {} | {} |",
            [took("s3-put", name) for name in CONTENDERS],
        ),
        (
            "| get 64 MiB from S3 over TLS | {} | {} | {} | {} |",
            [took("s3-get-64m-tls", name) for name in CONTENDERS],
        ),
        (
            "| get 1 KiB from a file in the page cache | {} | {} | {} | {} |",
            [took("file-get", name) for name in CONTENDERS],
        ),
        ("| a cache hit, through six layers | {} |", [took("layer-canonical", "canonical stack")]),
    ],
    "docs/performance.md": [
        ("takes {} from memory", [took("growth-depth", "Layer, passing through")]),
        ("{} from a file in the page\ncache", [took("file-get")]),
        ("{} from such a file through a thread", [took("file-get", "starfish, inline_reads=False")]),
        ("{} from S3 on loopback with 32 gets in flight", [took("s3-get")]),
        ("| `Layer`, which changes nothing | {} |", [took("layer-canonical", "pass-through")]),
        ("| `ReadOnly` | {} |", [took("layer-others", "read only")]),
        (
            "| `AccessLog`, for operations that its filters leave out | {} |",
            [took("layer-log-off", "access log, filtered out")],
        ),
        ("| `Retry`, when nothing fails | {} |", [took("layer-retry", "retry")]),
        ("| `Namespace` | {} |", [took("layer-namespace", "namespace")]),
        ("| `SizeLimit` | {} |", [took("layer-others", "size limit")]),
        ("| `ConcurrencyLimit` | {} |", [took("layer-others", "concurrency limit")]),
        ("| `Authorize` | {} |", [took("layer-others", "authorize")]),
        ("| `Tracing` without an SDK | {} |", [took("layer-tracing", "tracing")]),
        ("| `Metrics` without an SDK | {} |", [took("layer-others", "metrics")]),
        (
            "| `Timeout` | {} | `asyncio.timeout` alone takes {} |",
            [took("layer-timeout", "timeout"), took("layer-timeout", "asyncio.timeout")],
        ),
        ("| `AccessLog`, to a function | {} |", [took("layer-log", "access log, to a function")]),
        ("| `AccessLog`, to `logging` | {} |", [took("layer-log", "access log, to logging")]),
        ("| `Caching`, a hit | {} in all |", [took("layer-cache-hit", "cache hit")]),
        (", a hit | {} in all | `AccessLog`,", [took("layer-canonical", "canonical stack")]),
        ("A small get takes {} of CPU", [cpu("s3-get")]),
        ("uses a thread each time,\nat {} a get", [took("file-get", "starfish, inline_reads=False")]),
        ("{} in the run, against {} with `fsync=False`", [took("file-put-fsync"), took("file-put")]),
        (
            "1,000 open stores take {}, with the canonical\nstack {}",
            [memory("s3-stores"), memory("s3-stores", "canonical stack")],
        ),
        ("10,000 gets of 1 KiB in flight take {}", [memory("s3-get-10000")]),
        ("`import starfish_server` takes {} over", [took("import")]),
    ],
}

# Figures that `make bench` does not measure: assumptions, and the table of `python -m bench.holds`.
NOT_MEASURED = {
    "README.md": [],
    "docs/performance.md": [
        "takes 20 ms, 64 connections",
        "| everything | 8 us | 71 us | 0.2 ms |",
        "| folders, but no bodies | 81 us | 257 us | 0.5 ms |",
        "| nothing | 40 us | 154 us | 4.3 ms |",
    ],
}


def pattern(text: str) -> re.Pattern[str]:
    return re.compile(re.escape(text).replace(r"\{\}", r"([\d.,]+ [a-zA-Z/]+)"))


def rounded(measured: float, like: str) -> str:
    """Write seconds or bytes in the unit and with the decimals of a figure on the page."""
    number, unit = like.split(" ")
    decimals = len(number.partition(".")[2])
    value = 1 / measured if unit == "op/s" else measured * UNITS[unit]
    return f"{value:,.{decimals}f} {unit}"


@pytest.mark.parametrize(
    ("page", "text", "measured"), [(page, *each) for page, quotes in MEASURED.items() for each in quotes]
)
def test_a_figure_is_the_one_that_was_measured(page: str, text: str, measured: list[float]) -> None:
    found = pattern(text).search((ROOT / page).read_text())
    assert found, f"{page} does not say: {text}"
    assert list(found.groups()) == [
        rounded(each, like) for each, like in zip(measured, found.groups(), strict=True)
    ]


def test_the_shares_of_a_get_over_s3_are_those_that_were_sampled() -> None:
    assert RESULTS.flame is not None
    text = " ".join((ROOT / "docs" / "performance.md").read_text().split())
    assert f"callees not counted: {shares(RESULTS.flame)}." in text


@pytest.mark.parametrize("page", MEASURED)
def test_every_figure_of_a_page_is_checked(page: str) -> None:
    text = (ROOT / page).read_text()
    for known in [*(text for text, _ in MEASURED[page]), *NOT_MEASURED[page]]:
        text = pattern(known).sub("", text)
    assert FIGURE.findall(text) == []
