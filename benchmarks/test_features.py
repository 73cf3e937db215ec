"""`make features` for this library's own column, and the ways in which a probe says no."""

from __future__ import annotations

import asyncio
import json
from types import ModuleType
from typing import Any

import pytest

from features import __main__ as program
from features.lab import Lab, No, no_name
from features.probe import outcome
from features.rows import Row

ROW = Row("feature", "", "a feature", "It is tried.", "feature_of_no_one", absent="nothing")


def test_this_library_still_does_what_its_column_says(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["ours"]) == 0
    committed = json.loads((program.ROOT / "benchmarks" / "features.json").read_text())
    assert json.loads(capsys.readouterr().out) == {"ours": committed["ours"]}


def seen_by(probe: Any) -> dict[str, str]:
    peer: Any = ModuleType("peer")
    peer.PACKAGES, peer.OTHER_NAMES = ("starfish_server",), "nothing"
    if probe is not None:
        peer.feature = probe
    lab: Any = object()
    return asyncio.run(outcome(peer, ROW, lab))


async def yes(_lab: Lab) -> None:
    """A feature that is there."""


async def limited(_lab: Lab) -> str:
    return "on Sundays"


async def no(_lab: Lab) -> None:
    raise No("it was refused")


async def broken(_lab: Lab) -> None:
    raise AssertionError("wrong")


@pytest.mark.parametrize(
    ("probe", "cell"),
    [(yes, "yes"), (limited, "on Sundays"), (no, "no"), (broken, "error"), (None, "nothing")],
)
def test_a_probe_gives_a_cell_and_only_a_no_that_it_says_itself(probe: Any, cell: str) -> None:
    assert seen_by(probe)["cell"] == cell


def test_a_name_that_turns_up_in_a_package_has_to_be_probed() -> None:
    with pytest.raises(LookupError, match="CircuitBreaker"):
        no_name(("starfish_server",), "^CircuitBreaker$", other="")


def test_a_name_that_is_about_something_else_is_told() -> None:
    with pytest.raises(No, match="but CircuitBreaker"):
        no_name(("starfish_server",), "^CircuitBreaker$", other="CircuitBreaker")
