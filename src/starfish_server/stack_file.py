"""`load_stack`: the same stack as a builder's, written in TOML."""

from __future__ import annotations

import difflib
import inspect
import os
import re
import tomllib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from starfish_server.builder import check_order
from starfish_server.errors import StackError
from starfish_server.storage.base import AbstractObjectStore

__all__ = ["Lines", "load_stack", "read_toml", "unknown"]

_VARIABLE = re.compile(r"\$\$|\$\{([^}]*)\}")
_HEADER = re.compile(r"\s*\[\[?\s*([\w.]+)\s*\]\]?")


def load_stack(
    source: str | os.PathLike[str] | Mapping[str, Any], *, other_tables: Collection[str] = ()
) -> AbstractObjectStore:
    """Build the stack that a TOML file, or a mapping of the same shape, describes.

    `[leaf]` and each `[[layer]]`, outermost first, name their `type`; the rest of the table is its options.
    An option that is itself a table with a `type` is made first, as in
    `sink = {type = "JsonLinesSink", path = "audit.jsonl"}`. `${NAME}` in text is that environment variable's
    value, `$$` a dollar sign. `check_order = false` at the top turns the order check off. Paths are relative
    to the working directory.

    Types are entry points of the groups `starfish_server.leaves`, `starfish_server.layers` and
    `starfish_server.parts`, so that any package can add its own. Everything that is not understood is a
    `StackError` that names the file and the line: the option's, or its table's if no option is to blame.

    other_tables: names of tables that stand in the same file for someone else; none by default.
    """
    if isinstance(source, Mapping):
        return _build(source, other_tables, Lines("stack", ""))
    text, table = read_toml(source)
    return _build(table, other_tables, Lines(str(source), text))


def read_toml(path: str | os.PathLike[str]) -> tuple[str, dict[str, Any]]:
    """Text and content of a TOML file; `StackError` for one that cannot be read."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        return text, tomllib.loads(text)
    except OSError as error:
        raise StackError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise StackError(f"{path}: {error}") from error
    except RecursionError:
        raise StackError(f"{path}: the values are nested too deeply") from None


def unknown(what: str, name: object, known: Iterable[str]) -> str:
    """Return the text of an error about a name that is not one of `known`, with the closest one of them."""
    known = list(known)
    close = difflib.get_close_matches(str(name), known, n=1)
    suggestion = f"; did you mean {close[0]!r}?" if close else ""
    return f"unknown {what} {name!r}; there are {', '.join(known)}{suggestion}"


def _build(table: Mapping[str, Any], other_tables: Collection[str], lines: Lines) -> AbstractObjectStore:
    leaf, layers, checked = table.get("leaf"), table.get("layer", []), table.get("check_order", True)
    known = ("leaf", "layer", "check_order", *other_tables)
    for name in table:
        if name not in known:
            raise StackError(f"{lines.place(option=name)}: {unknown('table', name, known)}")
    if not isinstance(leaf, Mapping):
        raise StackError(f"{lines.place(option='leaf')}: a stack needs a [leaf]")
    if not isinstance(layers, list) or not all(isinstance(layer, Mapping) for layer in layers):
        raise StackError(f"{lines.place(option='layer')}: layers are written as [[layer]]")
    if not isinstance(checked, bool):
        raise StackError(f"{lines.place(option='check_order')}: check_order is true or false")
    store = _Table("leaf", 0, leaf, lines).make("starfish_server.leaves")
    for number, layer in reversed(list(enumerate(layers))):
        store = _Table("layer", number, layer, lines).make("starfish_server.layers", store)
    if checked:
        with _errors_at(lines.place("layer")):
            check_order(store, turned_off_by="check_order = false")
    return store


class Lines:
    """The lines of the file, to say where something stands."""

    def __init__(self, name: str, text: str) -> None:
        self._name = name
        self._lines = text.split("\n")  # not splitlines, which knows more ends of lines than TOML

    def place(self, table: str = "", number: int = 0, option: str | None = None) -> str:
        """`file:line` of an option of the `number`-th table of a name, or else of the table's header.

        Without a table: of what stands at the top of the file, be it an option or a table.
        """
        current, seen, header = "", {"": 0}, 0
        for line, content in enumerate(self._lines, 1):
            if match := _HEADER.match(content):
                current = match[1]
                seen[current] = seen.get(current, -1) + 1
            if not table and current == option:
                return f"{self._name}:{line}"
            if current != table or seen[current] != number:
                continue
            header = header or line
            if option is not None and re.match(rf"\s*[\"']?{re.escape(option)}[\"']?\s*[=.]", content):
                return f"{self._name}:{line}"
        return f"{self._name}:{header}" if table and header else self._name


class _Table:
    """One `[leaf]` or `[[layer]]`."""

    def __init__(self, name: str, number: int, content: Mapping[str, Any], lines: Lines) -> None:
        self._content = dict(content)
        self._place: Callable[[str | None], str] = lambda option: lines.place(name, number, option)

    def make(self, group: str, *inner: AbstractObjectStore) -> AbstractObjectStore:
        with _errors_at(self._place("type")):
            kind = _loaded(group, self._content.pop("type", None))
        # A leaf whose options are one object says of which class.
        options_type = getattr(kind, "options_type", kind)
        options = {}
        for name, value in self._content.items():
            with _errors_at(self._place(name)):
                _check_name(options_type, name)
                options[name] = _filled(value)
        with _errors_at(self._place(None)):
            _check_missing(options_type, options)
        try:
            made = kind(*inner, **options) if options_type is kind else kind(options_type(**options))
        except _ERRORS as error:
            # Most errors name the option that they are about.
            to_blame = (name for name in options if re.search(rf"\b{re.escape(name)}\b", str(error)))
            raise StackError(f"{self._place(next(to_blame, None))}: {error}") from error
        if not isinstance(made, AbstractObjectStore):
            raise StackError(f"{self._place('type')}: {kind!r} does not make a store")
        return made


_ERRORS = (StackError, ImportError, AttributeError, TypeError, ValueError, OSError)


@contextmanager
def _errors_at(place: str) -> Iterator[None]:
    try:
        yield
    except _ERRORS as error:
        # A StackError is repeated whole, so a traceback need not show it twice.
        cause = error.__cause__ if isinstance(error, StackError) else error
        raise StackError(f"{place}: {error}") from cause


def _parameters(kind: Any) -> list[inspect.Parameter]:
    return [p for p in inspect.signature(kind).parameters.values() if p.name != "inner"]


def _check_name(kind: Any, name: str) -> None:
    known = [p.name for p in _parameters(kind)]
    if name not in known:
        raise StackError(unknown("option", name, known))


def _check_missing(kind: Any, options: Collection[str]) -> None:
    for p in _parameters(kind):
        required = p.default is p.empty and p.kind not in {p.VAR_POSITIONAL, p.VAR_KEYWORD}
        if required and p.name not in options:
            raise StackError(f"the option {p.name!r} is missing")


def _loaded(group: str, name: object) -> Any:
    """The class that an entry point registers under `name`."""
    registered = entry_points(group=group)
    if not isinstance(name, str):
        raise StackError(f"no type; there are {', '.join(sorted(registered.names))}")
    found = registered.select(name=name)
    if not found:
        raise StackError(unknown("type", name, sorted(registered.names)))
    if len({point.value for point in found}) > 1:
        raise StackError(f"{name!r} is registered more than once: {', '.join(p.value for p in found)}")
    return next(iter(found)).load()


def _filled(value: Any) -> Any:
    """`value` with variables filled in and nested parts made."""
    if isinstance(value, str):
        return _VARIABLE.sub(_variable, value)
    if isinstance(value, list):
        return [_filled(item) for item in value]
    if isinstance(value, Mapping):
        options = {name: _filled(item) for name, item in value.items() if name != "type"}
        if "type" not in value:
            return options
        kind = _loaded("starfish_server.parts", value["type"])
        for name in options:
            _check_name(kind, name)
        _check_missing(kind, options)
        return kind(**options)
    return value


def _variable(match: re.Match[str]) -> str:
    if match[1] is None:
        return "$"
    try:
        return os.environ[match[1]]
    except KeyError:
        raise StackError(f"the environment variable {match[1]!r} is not set") from None
