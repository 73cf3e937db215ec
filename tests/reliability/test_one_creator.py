"""Ten creators in four processes write bytes under one key, only if there is none: one of them wins."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

CREATORS = (3, 3, 2, 2)  # of each process


async def test_one_of_ten_creators_wins_each_round(tmp_path: Path, full: bool) -> None:
    rounds = 100 if full else 15
    program = str(Path(__file__).with_name("creating.py"))
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, program, str(creators), str(tmp_path), stdin=PIPE, stdout=PIPE
        )
        for creators in CREATORS
    ]
    winners = []
    for number in range(rounds):
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(b"round/%d\n" % number)
        won = [await process.stdout.readline() for process in processes if process.stdout is not None]
        winners.append(sum(map(int, won)))
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()
    assert winners == [1] * rounds
