"""Tries each feature on this library and its peers: `python -m features [--output FOLDER] [PEER ...]`."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from features.lab import Place
from features.rows import PEERS, Peer
from features.table import page
from servers import S3Server, start_seaweedfs

ROOT = Path(__file__).resolve().parents[2]


def python_of(peer: Peer) -> str:
    folder = ROOT / ".venv-peers" / peer.environment
    return str(folder / "bin" / "python") if peer.environment else sys.executable


def probe(peer: Peer, server: S3Server) -> dict[str, Any]:
    """Run the probes of one peer, on a bucket of its own, in a process with the peer's environment."""
    place = Place(server.endpoint, server.make_bucket(), server.access_key_id, server.secret_access_key)
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "found.json"
        task = [peer.module, json.dumps(asdict(place)), found.name]
        path = os.pathsep.join(str(ROOT / part) for part in ("tests", "benchmarks"))
        command = [python_of(peer), "-m", "features.probe", *task]
        subprocess.run(command, check=True, cwd=folder, env=os.environ | {"PYTHONPATH": path})
        outcomes: dict[str, Any] = json.loads(found.read_text())
    return outcomes


def main(arguments: list[str]) -> int:
    """Write `features.json` and `features.md`; return 1 if a probe itself is wrong."""
    parser = argparse.ArgumentParser(prog="python -m features", description=__doc__)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks", help="folder for the results")
    parser.add_argument("peers", nargs="*", help="only these columns, printed instead of written")
    options = parser.parse_args(arguments)
    chosen = [peer for peer in PEERS if not options.peers or peer.module in options.peers]
    with start_seaweedfs() as server:
        outcomes = {peer.module: probe(peer, server) for peer in chosen}
    wrong = [
        f"{peer}, {name}: {each['seen']}"
        for peer, found in outcomes.items()
        for name, each in found["features"].items()
        if each["cell"] == "error"
    ]
    if options.peers:
        print(json.dumps(outcomes, indent=1))
    elif not wrong:
        (options.output / "features.json").write_text(json.dumps(outcomes, indent=1) + "\n")
        (options.output / "features.md").write_text(page(outcomes))
    print(*wrong, sep="\n", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
