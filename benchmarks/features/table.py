"""The outcomes as Markdown: the whole table, an extract for the README, and a page with what was seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from features.rows import PEERS, ROWS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from features.rows import Row

# The rows of the extract: what tells the packages apart, the rows that speak for others included.
TELLING = {
    "resume",
    "breaker",
    "tenants",
    "audit",
    "tracing",
    "cache",
    "encryption",
    "streams",
    "order",
    "backends",
}
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
    lines = [f"| {_TITLES}", "|---" * (len(PEERS) + 2) + "|"]
    lines += [f"| {row.group} {_line(outcomes, row)}".replace("|  |", "| |") for row in ROWS]
    return "\n".join(lines) + "\n"


def extract(outcomes: Mapping[str, Any]) -> str:
    """The telling lines of the table."""
    lines = [_TITLES, "|---" * (len(PEERS) + 1) + "|"]
    lines += [_line(outcomes, row) for row in ROWS if row.name in TELLING]
    return "\n".join(lines) + "\n"


_TITLES = f"| feature | {' | '.join(peer.title for peer in PEERS)} |"


def _line(outcomes: Mapping[str, Any], row: Row) -> str:
    cells = (outcomes[peer.module]["features"][row.name]["cell"] for peer in PEERS)
    return f"| {row.title} | {' | '.join(cells)} |"


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
