"""How `Namespace` gets the prefix of a caller: from a template, or from a function."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from string import Formatter
from typing import TYPE_CHECKING

from starfish_server.checks import check_key, is_key
from starfish_server.context import StoreContext
from starfish_server.errors import ContextRequiredError, InvalidKeyError, StoreError
from starfish_server.layers.fields import context_field, context_fields

if TYPE_CHECKING:
    from collections.abc import Hashable

PrefixOf = Callable[[StoreContext], str]

MAX_KNOWN = 1024  # cached prefixes of one layer; a full cache is emptied
_FIELD = "\0"  # stands for a field in a template's shape; no key contains it


class Prefix:
    """A tenant's prefix.

    add: returns a key with this prefix.
    """

    __slots__ = ("add", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.add: Callable[[str], str] = text.__add__  # bound once, since that takes as long as the call

    def remove(self, key: str) -> str:
        """Return `key` without this prefix; raises `StoreError` for a key outside it."""
        if not key.startswith(self.text):
            raise StoreError("the store inside returned a key outside the namespace")
        return key[len(self.text) :]


class TemplatePrefix:
    """Makes prefixes by filling the fields of a template, each with one key segment or a part of one.

    A template has a fixed number of segments and no two fields in one of them, so callers whose values differ
    never get the same prefix, nor one that begins with another's. Raises `ValueError` for a template that is
    malformed, that breaks the key rules, that names an unknown field or that `without_context` overlaps.
    """

    def __init__(self, template: str, without_context: str | None) -> None:
        self._literals, self._names = _parsed(template)
        self._values = context_fields(self._names)
        self._cached_by = context_field(self._names[0]) if len(self._names) == 1 else self._values
        shape = self._filled([_FIELD] * len(self._names))
        check_prefix_option(template, shape.replace(_FIELD, "x"))
        segments = shape[:-1].split("/")
        if any(segment.count(_FIELD) > 1 for segment in segments):
            raise ValueError(
                f"prefix {template!r}: put a '/' between fields, or two callers could get the same prefix"
            )
        if without_context is not None and all(map(_may_be, segments, without_context[:-1].split("/"))):
            raise ValueError(
                f"without_context {without_context!r} and prefix {template!r} overlap: calls without a"
                " context would share objects with a tenant"
            )
        self._without_context = None if without_context is None else Prefix(without_context)
        self._known: dict[Hashable, Prefix] = {}

    def of(self, context: StoreContext | None) -> Prefix:
        """Return the prefix of this caller. Raises `ContextRequiredError` or `InvalidKeyError`."""
        if context is None:
            return _required(self._without_context)
        cached_by = self._cached_by(context)
        try:
            return self._known[cached_by]
        except (KeyError, TypeError):
            prefix = self._checked(self._values(context))
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        self._known[cached_by] = prefix
        return prefix

    def _checked(self, values: tuple[object, ...]) -> Prefix:
        segments: list[str] = []
        for name, value in zip(self._names, values, strict=True):
            if value is None:
                raise ContextRequiredError(f"the context has no {name}, which the prefix needs")
            if not isinstance(value, str) or not is_key(value) or "/" in value:
                raise InvalidKeyError(f"{name} {value!r:.100} is not one segment of a key")
            segments.append(value)
        prefix = self._filled(segments)
        if not is_key(prefix[:-1]):
            raise InvalidKeyError(f"the prefix of this caller, {len(prefix)} characters, is too long")
        return Prefix(prefix)

    def _filled(self, values: list[str]) -> str:
        return "".join(literal + value for literal, value in zip(self._literals, [*values, ""], strict=True))


class FunctionPrefix:
    """Calls a function of the context for each prefix and checks it against the key rules."""

    def __init__(self, function: PrefixOf, without_context: str | None) -> None:
        if inspect.iscoroutinefunction(function):
            raise TypeError("prefix must be a plain function: it is called for every operation")
        self._function = function
        self._without_context = None if without_context is None else Prefix(without_context)

    def of(self, context: StoreContext | None) -> Prefix:
        """Return the prefix of this caller. Raises `ContextRequiredError` or `InvalidKeyError`."""
        if context is None:
            return _required(self._without_context)
        prefix = self._function(context)
        if not isinstance(prefix, str) or not prefix.endswith("/") or not is_key(prefix[:-1]):
            raise InvalidKeyError(
                f"the prefix function returned {prefix!r:.100}, not key segments that end with '/'"
            )
        system = self._without_context
        if system is not None and (prefix.startswith(system.text) or system.text.startswith(prefix)):
            raise InvalidKeyError(
                f"the prefix function returned {prefix!r:.100}, which overlaps without_context"
            )
        return Prefix(prefix)


def check_prefix_option(shown: str, prefix: str) -> None:
    """Raise `ValueError`, or `TypeError`, unless `prefix` is key segments, each ended by a '/'."""
    if not isinstance(prefix, str):
        raise TypeError(f"a prefix must be a str, not {type(prefix).__name__}")
    if not prefix.endswith("/"):
        raise ValueError(f"prefix {shown!r} must end with '/', or `t1` would see what is under `t10`")
    try:
        check_key(prefix[:-1], "Namespace")
    except InvalidKeyError as error:
        raise ValueError(f"prefix {shown!r}: {error}") from None


def _parsed(template: str) -> tuple[list[str], list[str]]:
    """Return the literal texts around the fields, and the names of the fields."""
    literals, names = [""], []
    try:
        for literal, name, specification, conversion in Formatter().parse(template):
            if specification or conversion:
                raise ValueError("a field takes no format or conversion")
            literals[-1] += literal
            if name is not None:
                names.append(name)
                literals.append("")
    except ValueError as error:
        raise ValueError(f"prefix {template!r}: {error}") from None
    return literals, names


def _required(without_context: Prefix | None) -> Prefix:
    if without_context is None:
        raise ContextRequiredError(
            "the prefix needs a context and there is none; without_context= sets a prefix for that case"
        )
    return without_context


def _may_be(segment: str, text: str) -> bool:
    """Return whether filling the field of `segment`, if it has one, could give `text`."""
    head, field, tail = segment.partition(_FIELD)
    if not field:
        return text == segment
    return len(text) > len(head + tail) and text.startswith(head) and text.endswith(tail)
