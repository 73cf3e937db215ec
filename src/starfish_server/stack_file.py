"""`load_stack`: a stack described in TOML, as `StoreBuilder` describes it in Python."""

from __future__ import annotations

import inspect
import os
import re
import tomllib
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from difflib import get_close_matches
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from starfish_server.builder import check_order, order_first
from starfish_server.errors import StackError
from starfish_server.storage.base import AbstractObjectStore

# The place of a value in a file, as in ("layer", 0, "sink", "path").
Keys = tuple[str | int, ...]

# Errors whose text says enough without their type.
_PLAIN = (StackError, ImportError, AttributeError, TypeError, ValueError, OSError)
_ANY = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_VARIABLE = re.compile(r"\$\$|\$\{([^}]*)\}")


def load_stack(
    source: str | os.PathLike[str] | Mapping[str, Any], *, other_tables: Collection[str] = ()
) -> AbstractObjectStore:
    """Build the stack that a TOML file, or a mapping of the same shape, describes.

    `[leaf]` and each `[[layer]]`, outermost first, name their `type`; the rest of the table is its options.
    An option that is a table with a `type` is made first, as in
    `sink = {type = "JsonLinesSink", path = "audit.jsonl"}`. An option that is a table with a `leaf` is a
    stack of its own, written as `[layer.backup.leaf]` and `[[layer.backup.layer]]`; an option for several
    stores is a list of such tables. `${NAME}` in text is that environment variable's value, `$$` a dollar
    sign. `check_order = false` at the top turns the order check off. Paths are relative to the working
    directory.

    Types are entry points of the groups `starfish_server.leaves`, `starfish_server.layers` and
    `starfish_server.parts`, so that any package can add its own. Everything that is not understood is a
    `StackError` that names the file and the line.

    source: the path of the file, or the mapping.
    other_tables: names of tables in the same file that are not part of the stack; none by default.
    """
    file = StackFile("stack", "", source) if isinstance(source, Mapping) else read_stack_file(source)
    return file.build(other_tables)


def read_stack_file(path: str | os.PathLike[str]) -> StackFile:
    """Read a TOML file. Raises `StackError` if it cannot be read."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        return StackFile(str(path), text, tomllib.loads(text))
    except OSError as error:
        raise StackError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise StackError(f"{path}: {error}") from error
    except RecursionError:
        raise StackError(f"{path}: values are nested too deep") from None


class StackFile:
    """Builds what a file describes; errors name the line. `at` is the path to a value in the file.

    name: the file's name in errors.
    text: its text; empty for a mapping, which has no lines.
    table: the content of the text.
    """

    def __init__(self, name: str, text: str, table: Mapping[str, Any]) -> None:
        self.name = name
        self.table = table
        self._text = text
        self._checked = True

    def build(self, other_tables: Collection[str]) -> AbstractObjectStore:
        """Return the store that the whole file describes."""
        checked = self.table.get("check_order", True)
        with self.errors_at("check_order"):
            if not isinstance(checked, bool):
                raise StackError("check_order must be true or false")
        self._checked = checked
        try:
            store = self._stack((), self.table, "leaf", "layer", "check_order", *other_tables)
            if checked:
                with self.errors_at("layer"):
                    check_order(store)
        except RecursionError:
            raise StackError(f"{self.name}: tables are nested too deep") from None
        return store

    def _stack(self, at: Keys, table: Mapping[str, Any], *known: str) -> AbstractObjectStore:
        for name in table:
            with self.errors_at(*at, name):
                if name not in known:
                    raise StackError(f"unknown: {hint(name, known)}")
        leaf, layers = table.get("leaf"), table.get("layer", [])
        with self.errors_at(*at, "leaf"):
            if not isinstance(leaf, Mapping):
                raise StackError("a stack needs a [leaf]")
        with self.errors_at(*at, "layer"):
            if not isinstance(layers, list) or not all(isinstance(layer, Mapping) for layer in layers):
                raise StackError("layers are written as [[layer]]")
        store: AbstractObjectStore = self._make((*at, "leaf"), leaf, "leaves")
        for number, layer in reversed(list(enumerate(layers))):
            store = self._make((*at, "layer", number), layer, "layers", store)
        return store

    def _make(self, at: Keys, table: Mapping[str, Any], group: str, *inner: AbstractObjectStore) -> Any:
        """Return what a table describes: a leaf, a layer over `inner`, or a part."""
        with self.errors_at(*at, "type"):
            kind = _load(f"starfish_server.{group}", table.get("type"))
        with self.errors_at(*at):
            # A leaf that takes its options as one object names their class.
            options_type = getattr(kind, "options_type", kind)
            parameters = list(inspect.signature(options_type).parameters.values())[len(inner) :]
        options = {}
        for name, value in table.items():
            if name != "type":
                with self.errors_at(*at, name):
                    known = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]
                    if name not in known and not any(p.kind is p.VAR_KEYWORD for p in parameters):
                        raise StackError(f"unknown option {hint(name, known)}")
                options[name] = self._value((*at, name), value)
        with self.errors_at(*at, options=options):
            missing = [p.name for p in parameters if p.default is p.empty and p.kind not in _ANY]
            if missing := [name for name in missing if name not in options]:
                raise StackError(f"{table['type']} needs the option {missing[0]!r}")
            several = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), None)
            stores: Any = []
            if several in options:
                if not isinstance(options[several], list):
                    raise StackError(f"{several!r} must be an array, not {type(options[several]).__name__}")
                stores = options.pop(several)
            with order_first(kind, *inner) if inner and self._checked else nullcontext():
                if options_type is kind:
                    made = kind(*inner, *stores, **options)
                else:
                    made = kind(options_type(**options))
            if group != "parts" and not isinstance(made, AbstractObjectStore):
                raise StackError(f"{table['type']} does not make a store")
            return made

    def _value(self, at: Keys, value: Any) -> Any:
        """Return `value` with variables filled in, and nested parts and stacks made."""
        if isinstance(value, str):
            with self.errors_at(*at):
                return _VARIABLE.sub(_variable, value)
        if isinstance(value, list):
            return [self._value((*at, number), item) for number, item in enumerate(value)]
        if not isinstance(value, Mapping):
            return value
        if "type" in value:
            return self._make(at, value, "parts")
        if isinstance(value.get("leaf"), Mapping):
            return self._stack(at, value, "leaf", "layer")
        return {name: self._value((*at, name), item) for name, item in value.items()}

    @contextmanager
    def errors_at(self, *at: str | int, options: Iterable[str] = ()) -> Iterator[None]:
        """Raise errors as a `StackError` with the line of `at`, or of the first of `options` it names."""
        try:
            yield
        except RecursionError:
            raise
        except Exception as error:
            text = str(error) if isinstance(error, _PLAIN) else f"{type(error).__name__}: {error}"
            named = next((word for word in re.findall(r"\w+", text) if word in options), None)
            line = _line_of(self._text, at if named is None else (*at, named))
            raise StackError(f"{self.name}{line}: {text}") from error


def _load(group: str, name: object) -> Any:
    """Return the class that an entry point registers under `name`."""
    registered = entry_points(group=group)
    known = sorted(registered.names)
    if name is None:
        raise StackError(f"no type; expected one of {', '.join(known)}")
    found = registered.select(name=name) if isinstance(name, str) else ()
    if not found:
        raise StackError(f"unknown type {hint(name, known)}")
    if len({point.value for point in found}) > 1:
        raise StackError(f"{name!r} is registered more than once: {', '.join(p.value for p in found)}")
    return next(iter(found)).load()


def hint(name: object, known: Collection[str]) -> str:
    """Return `name` with the closest known name or, if none is close, with all of them."""
    close = get_close_matches(name, known, 1) if isinstance(name, str) else []
    return (
        f"{name!r}; did you mean {close[0]!r}?" if close else f"{name!r}; expected one of {', '.join(known)}"
    )


def _variable(match: re.Match[str]) -> str:
    if match[1] is None:
        return "$"
    if match[1] not in os.environ:
        raise StackError(f"the environment variable {match[1]!r} is not set")
    return os.environ[match[1]]


def _line_of(text: str, at: Keys) -> str:
    """Return ":" and the number of the line on which the value at `at` begins.

    If there is no such value, return that of the last table on the way to it. A binary search parses growing
    parts of the text, and finds the first line that the value needs.
    """
    lines = text.split("\n")  # not splitlines, which knows more ends of lines than TOML

    def depth(count: int) -> int:
        """Return how many steps of `at` exist in the first `count` lines, completed to valid TOML."""
        for end in range(count, len(lines) + 1):
            with suppress(tomllib.TOMLDecodeError):
                return _depth(tomllib.loads("\n".join(lines[:end])), at)
        return 0

    found = depth(len(lines))
    return f":{bisect_left(range(len(lines)), found, key=depth)}" if found else ""


def _depth(value: Any, at: Keys) -> int:
    """Return how many steps of `at` there are in `value`."""
    for steps, key in enumerate(at):
        try:
            value = value[key]
        except (LookupError, TypeError):
            return steps
    return len(at)
