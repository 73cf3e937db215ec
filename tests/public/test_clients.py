"""Both public SDKs against a running `starfish serve`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from cli.program import running

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ALICE = "alice-has-this-token"


def test_two_clients_share_a_document(public: Callable[..., Any], tmp_path: Path) -> None:
    tokens = {"STARFISH_ALICE_TOKEN": ALICE, "STARFISH_BOB_TOKEN": "bob-has-another-token"}
    with running("serve", "--port", "0", cwd=tmp_path, env=tokens) as process:
        assert process.stderr is not None
        url = next(match[0] for line in process.stderr if (match := re.search(r"http://127.0.0.1:\d+", line)))
        seen = public("client.py", f"{url}/v1", ALICE)
    merged = {"title": "again on the phone", "tags": ["a"], "city": "Bonn"}
    assert seen["empty"] == {}
    assert seen["pulled"] == {"title": "on the phone", "tags": ["a"]}
    assert seen["resolved"] == [merged, merged, True]
    assert seen["conflict"] == {"error": "hash_mismatch", "currentHash": seen["current"]}
    assert seen["config"] == [["notes", 1_048_576]]
    if "batch" in seen:
        alice, bob = seen["batch"]["collections"]["notes"]
        assert (alice["data"], alice["hash"]) == (merged, seen["current"])
        assert bob["data"] == {}
