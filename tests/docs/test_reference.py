"""The API reference has every public name, and its docstring says what a caller must know."""

from __future__ import annotations

import ast
import builtins
import importlib
import inspect
import re
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

import starfish_server
from docs.snippets import ROOT, snippets
from starfish_server import AbstractObjectStore, errors
from starfish_server.operations import OPERATIONS

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGES = sorted((ROOT / "docs" / "reference").glob("*.md"))
PATHS = [path for page in PAGES for path in re.findall(r"^::: (\S+)$", page.read_text(), flags=re.MULTILINE)]
LEAF_PAGE = (ROOT / "docs" / "write-your-own-leaf.md").read_text()
MODULES = [
    "starfish_server",
    "starfish_server.layers",
    "starfish_server.operations",
    "starfish_server.storage.s3",
    "starfish_server.storage.obstore",
    "starfish_server.adapters.fsspec",
    "starfish_server.adapters.zarr",
    "starfish_server.router",
    "starfish_server.testing",
    "starfish_server.lifecycle",
]


def resolve(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


REFERENCE = {path: resolve(path) for path in PATHS}
CLASSES = {path: found for path, found in REFERENCE.items() if inspect.isclass(found)}
FUNCTIONS = {path: found for path, found in REFERENCE.items() if inspect.isfunction(found)}


def imported_in_the_docs() -> Iterator[str]:
    """Every name that a page imports from the package."""
    for snippet in snippets("python"):
        for node in ast.walk(ast.parse(snippet.code)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "starfish_server":
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


PUBLIC = {f"{module}.{name}" for module in MODULES for name in importlib.import_module(module).__all__}
NAMES = sorted(path for path in PUBLIC | set(imported_in_the_docs()) if not inspect.ismodule(resolve(path)))


@pytest.mark.parametrize("path", NAMES)
def test_a_public_name_is_in_the_reference(path: str) -> None:
    assert path in REFERENCE or any(found is resolve(path) for found in REFERENCE.values())


@pytest.mark.parametrize("name", re.findall(r"`((?:check|encode)_\w+)\(", LEAF_PAGE))
def test_each_check_that_the_page_of_leaves_names_is_in_the_reference(name: str) -> None:
    assert f"starfish_server.checks.{name}" in REFERENCE


def test_no_name_is_in_the_reference_twice() -> None:
    assert sorted({id(found): path for path, found in REFERENCE.items()}.values()) == sorted(PATHS)


@cache
def documented_constants() -> set[str]:
    """The names at the top of a module of the package that are followed by a docstring."""
    found = set()
    for file in (ROOT / "src").rglob("*.py"):
        body = ast.parse(file.read_text()).body
        for statement, following in pairwise(body):
            if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
                targets = getattr(statement, "targets", [getattr(statement, "target", None)])
                found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


@pytest.mark.parametrize("path", PATHS)
def test_a_name_of_the_reference_has_a_docstring(path: str) -> None:
    found = REFERENCE[path]
    if inspect.isclass(found) or inspect.isfunction(found):
        assert vars(found).get("__doc__") if inspect.isclass(found) else found.__doc__
        assert not str(found.__doc__).startswith(f"{found.__name__}("), "written by dataclass, not by us"
    else:
        assert path.rpartition(".")[2] in documented_constants()


@pytest.mark.parametrize("path", CLASSES)
def test_each_public_method_has_a_docstring_or_the_one_it_overrides(path: str) -> None:
    shown = (property, staticmethod, classmethod, type(lambda: None))
    methods = {
        name: method
        for name, method in vars(CLASSES[path]).items()
        if isinstance(method, shown) and not name.startswith("_")
    }
    inherited = {name for base in CLASSES[path].__mro__[1:] for name in vars(base)}
    assert [name for name, method in methods.items() if not method.__doc__ and name not in inherited] == []


@pytest.mark.parametrize("path", PATHS)
def test_a_name_of_the_reference_is_not_that_of_a_module_too(path: str) -> None:
    file = (ROOT / "src").joinpath(*path.split(".")).with_suffix(".py")
    assert not file.exists(), "the site would show the docstring of the module"


@pytest.mark.parametrize("path", [*FUNCTIONS, *CLASSES])
def test_a_docstring_has_no_text_that_a_browser_takes_for_a_tag(path: str) -> None:
    found = REFERENCE[path]
    text = "".join(d for d in (found.__doc__, *(v.__doc__ for v in vars(found).values())) if d)
    assert re.findall(r"<\w+>", re.sub(r"`[^`]*`", "", text)) == []


def parameters(call: Any) -> set[str]:
    """The names of a function's parameters, or of the options of a class."""
    if inspect.isclass(call):
        if fields := getattr(call, "model_fields", None) or getattr(call, "_fields", None):
            return set(fields)
        call = call.__init__
    names = set(inspect.signature(call).parameters) - {"self", "args", "kwargs", "kwds"}
    return {name for name in names if not name.startswith("_")}


def undescribed(call: Any, *docstrings: str | None) -> set[str]:
    """The parameters of `call` that none of the docstrings names, as `name: ...` or in backquotes."""
    text = "\n".join(inspect.cleandoc(docstring) for docstring in docstrings if docstring)
    described = set(re.findall(r"`(\w+)`", text))
    for names in re.findall(r"^ *(\w+(?:, \w+)*): ", text, flags=re.MULTILINE):
        described |= set(names.split(", "))
    return parameters(call) - described


@pytest.mark.parametrize("path", [path for path in CLASSES if ".operations." not in path])
def test_each_option_of_a_class_is_described(path: str) -> None:
    assert undescribed(CLASSES[path], *(base.__doc__ for base in CLASSES[path].__mro__)) == set()


@pytest.mark.parametrize("path", FUNCTIONS)
def test_each_parameter_of_a_function_is_described(path: str) -> None:
    assert undescribed(FUNCTIONS[path], FUNCTIONS[path].__doc__) == set()


@pytest.mark.parametrize("path", CLASSES)
def test_each_option_of_a_method_is_described(path: str) -> None:
    bases = CLASSES[path].__mro__
    missing = [
        (name, option)
        for name, method in vars(CLASSES[path]).items()
        if inspect.isfunction(method) and method.__doc__ and not name.startswith("_")
        for option in undescribed(
            method, *(d.__doc__ for base in bases for d in (base, vars(base).get(name)))
        )
        if inspect.signature(method).parameters[option].default is not inspect.Parameter.empty
    ]
    assert missing == []


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_operation_says_which_errors_it_raises(operation: str) -> None:
    docstring = inspect.getdoc(getattr(AbstractObjectStore, operation)) or ""
    assert re.search(r"[Rr]aises(?: \w+)* `(\w+Error)`", docstring)


@pytest.mark.parametrize("path", FUNCTIONS)
def test_a_function_says_which_errors_it_raises(path: str) -> None:
    assert re.search(r"`(\w+Error|ExceptionGroup)`", FUNCTIONS[path].__doc__ or "")


@pytest.mark.parametrize("path", [*FUNCTIONS, *CLASSES])
def test_the_errors_and_pages_that_a_docstring_names_exist(path: str) -> None:
    found = REFERENCE[path]
    text = "".join(d for d in (found.__doc__, *(v.__doc__ for v in vars(found).values())) if d)
    known = {*errors.__all__, *vars(builtins), *starfish_server.layers.__all__, "ValidationError"}
    assert set(re.findall(r"\b[A-Z]\w+Error\b", text)) - known == set()
    assert [page for page in re.findall(r"docs/\S+?\.md", text) if not (ROOT / page).exists()] == []
