"""`make bench` itself, quick and without peers, and its arithmetic."""

from __future__ import annotations

import asyncio
import fnmatch
import shutil
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from bench import __main__ as program
from bench import holds, table
from bench.flame import Node, Sampler, shares, tree
from bench.goals import verdicts
from bench.growth import GROWTH
from bench.machine import noise_of, spin
from bench.measure import Figure, Measure
from bench.plan import Plan
from bench.registry import NO_HOP, OBSTORE, OURS, ROOT, SEED, entrants
from bench.results import Results
from bench.row import BEST_PEER, Goal, Row, speed_at_least
from bench.rows import ROWS
from bench.rows_s3 import FLAME
from bench.stage import Stage
from redis_server import need_redis_server

if TYPE_CHECKING:
    from pathlib import Path

ROW = Row("row", "A row", "What it is.", "op/s", "files", Plan(workload="get_in_turn"), entrants(OURS))


def figure(label: str, role: str, seconds: float) -> Figure:
    return Figure(label, role, seconds, seconds, seconds, cpu=seconds, memory=None)  # type: ignore[arg-type]  # a role


@pytest.fixture
def program_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder in which programs are looked for; empty."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "pattern",
    [
        "s3-[lr]*",
        "s3-[!glpr]*",
        "s3-g*",
        "s3-p*",
        "file-*",
        "layer-*",
        "shared-*",
        "http-pull",
        "http-push",
        "http-push-p99",
        "import",
        "growth-s3-*",
        "growth-[!s]*",
        "flame",
    ],
)
def test_a_run_writes_tables_and_charts(pattern: str, tmp_path: Path) -> None:
    if pattern == "shared-*":
        need_redis_server()
    on_demand = {row.name for row in ROWS if row.on_demand}  # others of these rows, with larger bodies
    names = [name for name in fnmatch.filter(program.NAMES, pattern) if name not in on_demand]
    output = tmp_path / "new"
    assert program.main(["--quick", "--without-peers", "--output", str(output), *names]) == 0
    results = Results.load(output / "results.json")
    measured = [row for row in ROWS if row.name in results.rows]
    plots = [growth for growth in GROWTH if growth.row.name in results.growth]
    profiles = [FLAME] if results.flame else []
    assert measured or plots or profiles
    for row in measured:
        own = [each.label for each in row.entrants if not each.contender.environment]
        assert [figure.label for figure in results.rows[row.name]] == own
    readme = (output / "README.md").read_text()
    for row in [*measured, *(growth.row for growth in plots), *profiles]:
        assert f"## {row.title}\n" in readme
        assert ET.parse(output / f"{row.name}.svg").getroot().tag.endswith("svg")


def test_a_row_that_does_not_exist_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        program.main(["s3-gte"])
    assert "no such row: s3-gte" in capsys.readouterr().err


def test_the_text_above_the_figures_is_kept(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# How to run\n")
    Results({"date": "today"}).save(tmp_path / "results.json")
    for _ in range(2):
        assert program.main(["--report", "--output", str(tmp_path)]) == 0
    readme = (tmp_path / "README.md").read_text()
    assert readme.startswith("# How to run\n")
    assert readme.count("- date: today") == 1


def test_the_published_page_is_that_of_the_published_results(tmp_path: Path) -> None:
    for name in ("README.md", "results.json"):
        shutil.copy(ROOT / "benchmarks" / name, tmp_path)
    assert program.main(["--report", "--output", str(tmp_path)]) == 0
    assert (tmp_path / "README.md").read_text() == (ROOT / "benchmarks" / "README.md").read_text()


def test_rows_on_demand_are_measured_only_when_they_are_named(program_folder: Path) -> None:
    on_demand = [row.name for row in ROWS if row.on_demand]
    assert "s3-open-1g" in on_demand
    for needed in {row.needs for row in ROWS if row.needs}:
        (program_folder / needed).touch(0o755)
    assert set(program.full_run()) == set(program.NAMES) - set(on_demand)


def test_rows_over_s3_are_measured_over_tls_too() -> None:
    names = {row.name for row in ROWS}
    over_tls = [row for row in ROWS if row.place == "s3 tls"]
    plain = {row.name for row in ROWS if row.place == "s3" and not row.on_demand}
    assert {row.name.removesuffix("-tls") for row in over_tls} == plain - {"s3-stores", "s3-get-10000"}
    assert all("starfish, uvloop" in [each.label for each in row.entrants] for row in over_tls)
    assert len(names) == len(ROWS)


@pytest.mark.usefixtures("program_folder")
def test_a_full_run_leaves_out_rows_whose_program_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert not {"shared-hit", "shared-delay"} & set(program.full_run())
    assert "without shared-hit: needs redis-server" in capsys.readouterr().err


def test_the_bytes_that_a_relay_carried_are_counted() -> None:
    (row,) = (row for row in ROWS if row.name == "s3-zarr")
    with Stage() as stage:
        (ours,) = Measure(1, quick=True, peers=False).row(row, stage)
    assert ours.moved is not None
    assert row.plan.part < ours.moved < 2 * row.plan.part


def test_figures_far_apart_are_marked() -> None:
    steady = figure("starfish", "ours", 1.0)
    noisy = replace(steady, fastest=0.85, slowest=1.1)
    assert [each.noisy for each in (steady, replace(steady, slowest=1.2), noisy)] == [False, False, True]
    assert "1.00 op/s ±" in "\n".join(table.terminal(ROW, [noisy]))
    assert "| 1.00 ± |" in "\n".join(table.markdown(ROW, [noisy]))
    assert "±" not in "\n".join([*table.terminal(ROW, [steady]), *table.markdown(ROW, [steady])])


def test_the_noise_of_the_machine_is_told() -> None:
    assert noise_of([0.05, 0.08, 0.06]) == "50 ms before, 60 ms after, 50 to 80 ms in all, median 60 ms"
    assert spin() > 0


def test_a_profile_finds_what_takes_the_time() -> None:
    with Sampler() as sampler:
        while sampler.stacks.total() < 5:
            spin()
    ((stack, _),) = sampler.stacks.most_common(1)
    assert stack[-1] == "bench.machine:spin"


def test_stacks_become_a_tree_without_what_is_too_narrow() -> None:
    stacks = [(("main", "loop", "a", "b"), 600), (("main", "loop", "a"), 100), (("main", "loop", "c"), 300)]
    root = tree([*stacks, (("main", "loop", "d"), 1), (("main",), 50)], below="loop")
    a = Node("a", 700, [Node("b", 600)])
    assert root == Node("event loop", 1001, [a, Node("c", 300)])
    assert [(node.name, depth, left) for node, depth, left in root.walk()] == [
        ("event loop", 0, 0),
        ("a", 1, 0),
        ("b", 2, 0),
        ("c", 1, 700),
    ]


def test_shares_of_a_profile_leave_out_what_a_call_has_called() -> None:
    leaf = Node("starfish_server.storage.s3:get", 80, [Node("aiohttp.client:request", 50)])
    root = Node("event loop", 100, [Node("starfish_server.layers.retry:Retry", 100, [leaf])])
    assert shares(root) == "aiohttp 50%, the leaf 30%, the layers 20%, event loop 0%"


def test_a_contender_that_fails_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    broken = replace(NO_HOP, name="broken", module="by_hand:open_objects")
    row = replace(ROW, entrants=entrants(OURS, broken), filled_by="entrant")
    with Stage() as stage:
        figures = Measure(1, quick=True).row(row, stage)
    assert [figure.label for figure in figures] == ["starfish"]
    assert "row: without broken: NotImplementedError" in capsys.readouterr().err


async def test_how_long_a_read_holds_the_loop_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    await holds.main(10, drop_all=False)
    assert [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()] == [
        "in memory",
        "bodies dropped",
    ]


def test_goals_compare_with_the_best_peer() -> None:
    figures = [
        figure("starfish", "ours", 2.0),
        figure(SEED.name, "seed", 1.0),
        figure("slow", "peer", 9.0),
        figure(OBSTORE.name, "peer", 4.0),
        figure("floor", "floor", 0.5),
    ]
    row = replace(
        ROW, goals=(speed_at_least(1.0, BEST_PEER), speed_at_least(4.0, SEED.name), Goal(3.0, "floor"))
    )
    best, seed, floor = verdicts(row, figures)
    assert (best.measured, best.met) == ("2.00x", True)
    assert (seed.measured, str(seed)) == ("0.50x", "missed by 88%")
    assert (floor.measured, str(floor)) == ("4.00x", "missed by 33%")


def test_a_goal_missed_by_less_than_the_page_shows_is_met() -> None:
    row = replace(ROW, goals=(Goal(1e6),))
    measured = [verdicts(row, [figure("starfish", "ours", seconds)])[0].met for seconds in (1.004, 1.006)]
    assert measured == [True, False]


@pytest.mark.parametrize(
    ("seconds", "shown"), [(1.104, ("1.10x", "met")), (1.106, ("1.11x", "missed by 1%"))]
)
def test_a_ratio_is_judged_as_it_is_shown(seconds: float, shown: tuple[str, str]) -> None:
    figures = [figure("starfish", "ours", seconds), figure(OBSTORE.name, "peer", 1.0)]
    (verdict,) = verdicts(replace(ROW, goals=(Goal(1.1, OBSTORE.name),)), figures)
    assert (verdict.measured, str(verdict)) == shown


def test_goals_compare_bytes_moved() -> None:
    figures = [
        replace(figure("starfish", "ours", 1.0), moved=120.0),
        replace(figure(OBSTORE.name, "peer", 1.0), moved=100.0),
    ]
    row = replace(ROW, goals=(Goal(1.1, OBSTORE.name, metric="moved"),))
    (verdict,) = verdicts(row, figures)
    assert (verdict.goal, verdict.measured, verdict.met) == ("≤ 1.1x the bytes of obstore", "1.20x", False)


def test_goals_of_several_entrants_are_named() -> None:
    row = replace(ROW, goals=(Goal(5e6), Goal(5e6, ours="other")))
    found = verdicts(row, [figure("starfish", "ours", 1.0), figure("other", "ours", 2.0)])
    assert [verdict.goal.partition(":")[0] for verdict in found] == ["starfish", "other"]


def test_goals_without_their_contender_are_not_judged() -> None:
    row = replace(ROW, goals=(speed_at_least(1.0, BEST_PEER), Goal(3_000_000)))
    (limit,) = verdicts(row, [figure("starfish", "ours", 2.0)])
    assert limit.met


async def test_the_relay_carries_bytes_both_ways() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.readexactly(3)).upper())
        writer.write_eof()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    relay = subprocess.Popen(  # noqa: ASYNC220 - waits for nothing but its end
        [sys.executable, "-m", "bench.relay", "127.0.0.1", str(port), "0.001"],
        cwd=ROOT / "benchmarks",
        stdout=subprocess.PIPE,
    )
    try:
        assert relay.stdout is not None
        entrance = int(await asyncio.to_thread(relay.stdout.readline))
        reader, writer = await asyncio.open_connection("127.0.0.1", entrance)
        writer.write(b"abc")
        assert await reader.read() == b"ABC"
        writer.close()
    finally:
        relay.terminate()
        relay.communicate()
        server.close()
