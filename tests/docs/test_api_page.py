"""`docs/api.md` has every public name, and every operation with its signature."""

from __future__ import annotations

import inspect
import re
from pkgutil import resolve_name

import pytest

import starfish_server
from docs.snippets import ROOT
from starfish_server import AbstractObjectStore, StoreUnavailableError, errors, layers
from starfish_server.operations import OPERATIONS

PAGE = (ROOT / "docs/api.md").read_text()


def rows(section: str) -> dict[str, list[str]]:
    """Return the rows of the section's table, by the first name in each."""
    body = PAGE.split(f"\n## {section}\n")[1].split("\n## ")[0]
    cells = [line.strip("| ").split(" | ") for line in body.splitlines() if line.startswith("| `")]
    return {cell[0].strip("`").partition("(")[0]: cell for cell in cells}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_each_operation_has_its_signature(operation: str) -> None:
    signature = inspect.signature(getattr(AbstractObjectStore, operation))
    kept = [
        p.replace(annotation=p.empty)
        for name, p in signature.parameters.items()
        if name not in {"self", "context"}
    ]
    assert rows("Operations")[operation][0] == f"`{operation}{inspect.Signature(kept)}`"


@pytest.mark.parametrize("name", sorted({*starfish_server.__all__, *layers.__all__}))
def test_each_public_name_is_on_the_page(name: str) -> None:
    assert re.search(rf"`{name}\b", PAGE)


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`help\((\S+)\)`", PAGE))))
def test_what_the_page_passes_to_help_is_there(path: str) -> None:
    assert inspect.isclass(resolve_name(path))


@pytest.mark.parametrize("name", [name for name in errors.__all__ if name != "StoreError"])
def test_each_error_says_whether_it_is_transient(name: str) -> None:
    transient = issubclass(getattr(errors, name), StoreUnavailableError)
    assert rows("Errors")[name][2:] == (["yes"] if transient else [])
