"""The outcomes as Markdown: the table that the README shows, and a page with what was seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from features.rows import PEERS, ROWS

if TYPE_CHECKING:
    from collections.abc import Mapping

_HEAD = """# Features beside peers

`make features` makes this page. It tries each feature for real, on SeaweedFS where S3 is needed, with what
the package itself offers. A "no" says how one sees it: what the peer did instead, or that nothing in it has
such a name. The probes are in [`features/peers`](features/peers), a file a column and a function a cell.
"""


def versions(outcomes: Mapping[str, Any]) -> str:
    """All packages with their versions, in the order of the columns."""
    found = {name: version for each in outcomes.values() for name, version in each["versions"].items()}
    return ", ".join(f"{name} {version}" for name, version in found.items())


def table(outcomes: Mapping[str, Any]) -> str:
    """A line a feature and a column a package."""
    titles = " | ".join(peer.title for peer in PEERS)
    lines = [f"| | feature | {titles} |", "|---" * (len(PEERS) + 2) + "|"]
    for row in ROWS:
        cells = " | ".join(outcomes[peer.module]["features"][row.name]["cell"] for peer in PEERS)
        lines.append(f"| {row.group} | {row.title} | {cells} |".replace("|  |", "| |"))
    return "\n".join(lines) + "\n"


def page(outcomes: Mapping[str, Any]) -> str:
    parts = [_HEAD, f"Versions: {versions(outcomes)}.\n", table(outcomes), "## What was tried and seen\n"]
    for row in ROWS:
        parts.append(f"**{row.title[0].upper()}{row.title[1:]}.** {row.tried}\n")
        for peer in PEERS:
            found = outcomes[peer.module]["features"][row.name]
            seen = f" ({found['seen']})" if "seen" in found else ""
            parts.append(f"- {peer.title}: {found['cell']}{seen}")
        parts.append("")
    return "\n".join(parts)
