"""All contenders, and the environments that they need."""

from __future__ import annotations

import sys
from pathlib import Path

from bench.row import Contender, Entrant

ROOT = Path(__file__).resolve().parents[2]

OURS = Contender("starfish", "ours", "", "starfish:open_objects")
NEWEST = Contender("starfish, newest Python", "ours", "newest", "starfish:open_objects")
SEED = Contender("starfish 2.3.0", "seed", "starfish", "starfish:open_paged")
OBSTORE = Contender("obstore", "peer", "shared", "obstore:open_objects")
OPENDAL = Contender("opendal", "peer", "shared", "opendal:open_objects")
AIOBOTOCORE = Contender("aiobotocore", "peer", "shared", "aiobotocore:open_objects")
S3FS = Contender("s3fs", "peer", "shared", "s3fs:open_objects")
CANONICAL = Contender("canonical stack", "ours", "", "layers:open_canonical")
ADAPTERS = (
    Contender("starfish", "ours", "", "adapters:open_starfish"),
    Contender("obstore", "peer", "shared", "adapters:open_obstore"),
)
BY_HAND = Contender("signed by hand", "floor", "", "by_hand:open_objects")
ONE_HOP = Contender("one thread hop", "floor", "", "system_calls:open_one_hop")
NO_HOP = Contender("system calls", "floor", "", "system_calls:open_no_hop")


def entrants(*contenders: Contender) -> tuple[Entrant, ...]:
    return tuple(Entrant(contender, contender.name) for contender in contenders)


def python_of(contender: Contender) -> str | None:
    """The Python that runs it, or None where its environment is not there."""
    if not contender.environment:
        return sys.executable
    python = ROOT / ".venv-peers" / contender.environment / "bin" / "python"
    return str(python) if python.exists() else None
