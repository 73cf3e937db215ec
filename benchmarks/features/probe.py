"""Runs the probes of one peer, in the peer's environment: `python -m features.probe MODULE PLACE OUTPUT`.

A module of `features/peers` has a function for each feature that the peer offers, and `DISTRIBUTIONS`, whose
versions are told. For the other features nothing in its `PACKAGES` may be named like them, apart from
`OTHER_NAMES`, a regular expression of names that were looked at and mean something else.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
import tempfile
import traceback
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from faulty_proxy import FaultyProxy
from features.lab import Lab, No, Place, no_name
from features.rows import ROWS, Row

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import ModuleType

    Probe = Callable[[Lab], Awaitable[str | None]]

_SECONDS = 90.0


async def outcome(peer: ModuleType, row: Row, lab: Lab) -> dict[str, str]:
    """Return the cell, and for a no or an error what was seen.

    A probe that returns nothing has found a yes. Whatever fails without saying `No`, an assertion too, is an
    error of the probe.
    """
    probe: Probe | None = getattr(peer, row.name, None)
    try:
        async with asyncio.timeout(_SECONDS):
            if probe is None:
                no_name(peer.PACKAGES, row.names, peer.OTHER_NAMES)
            return {"cell": await probe(lab) or "yes"}
    except No as error:
        return {"cell": row.absent if probe is None else "no", "seen": str(error)}
    except Exception as error:  # noqa: BLE001 - told for all probes together
        traceback.print_exc()
        return {"cell": "error", "seen": f"{type(error).__name__}: {error}"}


async def run(module: str, place: Place) -> dict[str, object]:
    peer = importlib.import_module(f"features.peers.{module}")
    features = {}
    for row in ROWS:
        with tempfile.TemporaryDirectory() as folder:
            async with FaultyProxy(place.endpoint) as proxy:
                lab = Lab(place, proxy, Path(folder))
                features[row.name] = await outcome(peer, row, lab)
                lab.over.set()
    return {"versions": {name: version(name) for name in peer.DISTRIBUTIONS}, "features": features}


if __name__ == "__main__":
    found = asyncio.run(run(sys.argv[1], Place(**json.loads(sys.argv[2]))))
    Path(sys.argv[3]).write_text(json.dumps(found))
