"""The tables of the pages name what is in the code, all of it."""

from __future__ import annotations

import inspect
import re
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, get_args

import pytest

from docs.snippets import ROOT
from starfish_server import (
    FilesystemStorageOptions,
    GracefulShutdownOptions,
    StoreContext,
    errors,
    layers,
)
from starfish_server.operations import OPERATIONS
from starfish_server.storage.s3 import S3StorageOptions
from starfish_server.testing import Capability

if TYPE_CHECKING:
    from collections.abc import Callable


def first_column(page: str, section: str, header: str) -> set[str]:
    """What stands in backquotes in the first column of the table under `header` in that section."""
    text = (ROOT / page).read_text()
    body = re.split(rf"^#+ {re.escape(section)}$", text, flags=re.MULTILINE)[1]
    body = re.split(r"^#+ ", body, maxsplit=1, flags=re.MULTILINE)[0]
    table = body.partition(f"| {header} |")[2].partition("\n\n")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| ")]
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


def options(made: Callable[..., object]) -> set[str]:
    return set(inspect.signature(made).parameters) - {"inner"}


@pytest.mark.parametrize(
    ("page", "section", "header", "expected"),
    [
        ("docs/leaves.md", "The context", "field", options(StoreContext)),
        ("docs/leaves.md", "FilesystemObjectStore", "option", options(FilesystemStorageOptions)),
        ("docs/leaves.md", "S3ObjectStore", "option", options(S3StorageOptions)),
        ("docs/shutdown.md", "Shutdown", "option", options(GracefulShutdownOptions)),
        *(
            ("docs/layers.md", name, "option", options(getattr(layers, name)))
            for name in (
                "AccessLog",
                "Tracing",
                "Metrics",
                "RateLimit",
                "Namespace",
                "Caching",
                "Compression",
                "Encryption",
                "Mirror",
                "CircuitBreaker",
                "Hedge",
                "Retry",
            )
        ),
        (
            "docs/audit-pushes.md",
            "What a record holds",
            "field",
            set(layers.AccessRecord._fields),
        ),
        ("docs/audit-pushes.md", "The file", "option of `JsonLinesSink`", options(layers.JsonLinesSink)),
        (
            "docs/shared-cache.md",
            "Share the cache between processes",
            "option of `RedisCache`",
            options(layers.RedisCache),
        ),
        (
            "docs/fair-shares.md",
            "One limit for all processes",
            "option of `RedisLimits`",
            options(layers.RedisLimits),
        ),
        (
            "docs/write-your-own-leaf.md",
            "Write your own leaf",
            "`lacks`",
            {f'"{name}"' for name in get_args(Capability)},
        ),
    ],
)
def test_a_table_names_all_there_is(page: str, section: str, header: str, expected: set[str]) -> None:
    assert first_column(page, section, header) == expected


def test_the_page_of_errors_names_every_error() -> None:
    text = (ROOT / "docs" / "errors.md").read_text()
    assert {name for name in errors.__all__ if name not in text} == set()


def test_the_page_for_contributors_shows_every_folder_and_no_file_that_is_gone() -> None:
    text = (ROOT / "docs" / "contributing.md").read_text()
    package = ROOT / "src" / "starfish_server"
    shown = set(re.findall(r"^  (\w+(?:/|\.py)) ", text, flags=re.MULTILINE))
    where = text.partition("### Where to look")[2].partition("\n## ")[0]
    shown |= set(re.findall(r"`([\w/]+\.py)`", where))
    folders = {f"{path.parent.name}/" for path in package.glob("*/__init__.py")}
    assert folders - shown == set()
    assert [name for name in shown if not (package / name).exists()] == []


def test_the_readme_names_every_layer_and_operation() -> None:
    named = re.findall(r"`(\w+)`", (ROOT / "README.md").read_text())
    assert {point.name for point in entry_points(group="starfish_server.layers")} - set(named) == set()
    assert set(OPERATIONS) - set(named) == set()


def test_the_page_of_layers_names_every_layer_and_instrument() -> None:
    layer_names = {point.name for point in entry_points(group="starfish_server.layers")}
    text = (ROOT / "docs" / "layers.md").read_text()
    assert layer_names == set(re.findall(r"^## (\w+)$", text, flags=re.MULTILINE))
    assert first_column("docs/layers.md", "Layers", "layer") == layer_names
    documented = set(re.findall(r"`(objectstore\.[a-z.]+)`", inspect.getdoc(layers.Metrics) or ""))
    attributes = {"objectstore.operation", "objectstore.outcome", "objectstore.cache", "objectstore.breaker"}
    assert first_column("docs/layers.md", "Metrics", "instrument") == documented - attributes


@pytest.mark.parametrize("group", ["starfish_server.leaves", "starfish_server.parts"])
def test_the_page_of_stack_files_names_every_type(group: str) -> None:
    rows = [line for line in (ROOT / "docs/layer-order.md").read_text().splitlines() if f"`{group}`" in line]
    types = rows[0].split("|")[2]
    assert {point.name for point in entry_points(group=group)} == set(re.findall(r'`"(\w+)"`', types))


def test_the_layout_of_the_code_names_each_file_and_folder() -> None:
    layout = (ROOT / "docs" / "contributing.md").read_text().split("```")[3]
    parts = {path.name for path in (ROOT / "src" / "starfish_server").glob("[a-z]*")} - {"py.typed"}
    assert {name for name in parts if name not in layout} == set()
