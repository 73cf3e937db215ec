"""How a callback is called: worked out once, from its signature."""

from __future__ import annotations

import functools
import inspect
import re
from inspect import Parameter
from typing import TYPE_CHECKING, Any, get_args

from starfish_server.context import StoreContext

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_CONTEXT_NAMES = frozenset({"ctx", "_ctx", "context"})
_POSITIONAL = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)


class Callback:
    """A user's callable with the plan of which value goes to which of its parameters.

    given: names of the values that the first positional parameters take, whatever these are called.
    optional: names of values that further parameters take by name, or by position if none is ambiguous.
    offered: names of values for parameters of that name, and for `**kwargs`.
    Raises `TypeError` for what cannot be called with these.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        name: str,
        given: Sequence[str],
        *,
        optional: Sequence[str] = (),
        offered: Sequence[str] = (),
    ) -> None:
        if not callable(function):
            raise TypeError(f"{name} must be callable, not {type(function).__name__}")
        self._function = function
        # Each positional argument is a value's name, or None and the default that it keeps.
        self._positional: list[tuple[str | None, Any]] = [(value, None) for value in given]
        self._keywords: dict[str, str] = {}
        try:
            parameters = inspect.signature(function).parameters.values()
        except (TypeError, ValueError) as error:
            if optional:
                raise TypeError(f"the signature of {name} cannot be read; wrap it in a lambda") from error
            parameters = ()  # type: ignore[assignment]  # a builtin without a signature gets what is given
        else:
            self._plan(name, list(parameters), len(given), (*optional, *offered), optional)
        sources = [source for source, _ in self._positional]
        self.takes_context = "context" in sources or "context" in self._keywords.values()

    async def __call__(self, values: Mapping[str, Any]) -> Any:
        positional = [default if name is None else values[name] for name, default in self._positional]
        keywords = {parameter: values[name] for parameter, name in self._keywords.items()}
        result = self._function(*positional, **keywords)
        return await result if inspect.isawaitable(result) else result

    def _plan(
        self,
        name: str,
        parameters: list[Parameter],
        given: int,
        named: tuple[str, ...],
        optional: Sequence[str],
    ) -> None:
        positional = [p for p in parameters if p.kind in _POSITIONAL]
        gathers = any(p.kind is Parameter.VAR_POSITIONAL for p in parameters)
        if len(positional) < given and not gathers:
            raise TypeError(f"{name} must take {given} positional argument(s), not {len(positional)}")
        bound = self._function.keywords if isinstance(self._function, functools.partial) else {}
        sources = {
            p.name: source
            for p in [*positional[given:], *(p for p in parameters if p.kind is Parameter.KEYWORD_ONLY)]
            if p.name not in bound and (source := _source(p, named)) is not None
        }

        # Required parameters of other names: the optional values not asked for by name, then the context.
        unnamed = [p for p in positional[given:] if p.default is Parameter.empty and p.name not in sources]
        open_values = [value for value in optional if value not in sources.values()]
        if len(unnamed) == len(open_values) + 1 and "context" not in sources.values():
            open_values.append("context")
        if unnamed:
            if len(unnamed) != len(open_values):
                names = ", ".join(p.name for p in unnamed)
                raise TypeError(
                    f"{name} requires more than it is called with, or it is unclear what: {names}"
                )
            sources |= {p.name: value for p, value in zip(unnamed, open_values, strict=True)}

        for p in parameters:
            if p.kind is Parameter.KEYWORD_ONLY:
                if p.name in sources:
                    self._keywords[p.name] = sources[p.name]
                elif p.default is Parameter.empty:
                    raise TypeError(f"{name} requires the keyword {p.name!r}, which it is not called with")
            elif p.kind is Parameter.VAR_KEYWORD:
                self._keywords |= {
                    value: value for value in named if value not in (*sources.values(), *bound)
                }
        if gathers:
            rest = [value for value in (*optional, "context") if value not in sources.values()]
            self._positional += [(sources.get(p.name), p.default) for p in positional[given:]]
            self._positional += [(value, None) for value in rest]
            for value in rest:
                self._keywords.pop(value, None)
        else:
            wanted = [i for i, p in enumerate(positional[given:], 1) if p.name in sources]
            up_to = positional[given : given + max(wanted, default=0)]
            self._positional += [(sources.get(p.name), p.default) for p in up_to]


def _source(parameter: Parameter, named: tuple[str, ...]) -> str | None:
    """The value that a parameter asks for by its name or its annotation."""
    if parameter.name in named:
        return parameter.name
    if parameter.name in _CONTEXT_NAMES or _is_context(parameter.annotation):
        return "context"
    return None


def _is_context(annotation: object) -> bool:
    if isinstance(annotation, str):
        return re.search(r"\bStoreContext\b", annotation) is not None
    return annotation is StoreContext or StoreContext in get_args(annotation)
