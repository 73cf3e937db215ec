"""Every behaviour on every leaf."""

from __future__ import annotations

import pytest

from contract.leaves import FAILS, LEAVES, new_store
from starfish_server.testing import Behaviour, behaviours

CASES = [
    (leaf, behaviour)
    for leaf, lacks in LEAVES.items()
    for behaviour in behaviours(lacks=lacks)
    if (leaf, behaviour.name) not in FAILS
]


@pytest.mark.parametrize(("leaf", "behaviour"), CASES, ids=[f"{leaf}-{b}" for leaf, b in CASES])
async def test_leaf(leaf: str, behaviour: Behaviour, request: pytest.FixtureRequest) -> None:
    async with new_store(leaf, request) as store:
        await behaviour(store)
