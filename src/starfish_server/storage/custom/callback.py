"""How a callback is called, worked out once from its signature."""

from __future__ import annotations

import functools
import inspect
import re
from dataclasses import dataclass
from inspect import BoundArguments, Parameter, Signature
from typing import TYPE_CHECKING, Any

from starfish_server.errors import mark_undetermined

if TYPE_CHECKING:
    from collections.abc import Callable

_CONTEXT_NAMES = frozenset({"ctx", "_ctx", "context"})
# Parameters of these names never receive the context: they are arguments of operations or, in the last line,
# options of mappings and caches that are written in Python, such as `ChainMap.get(key, default=None)`.
_OTHER_MEANINGS = frozenset(
    """
    body cache_control chunks content_type delimiter expires if_version key keys limit metadata method prefix
    source start start_after stop target version
    default encoding timeout ttl
    """.split()  # noqa: SIM905 - a literal would have 22 lines
)


@dataclass(frozen=True, slots=True)
class Shape:
    """The arguments that a callback is called with.

    name: the callback's name in errors.
    first: arguments for the first parameters, whatever the names of these.
    placed: arguments for parameters of the same name or, in this order, for parameters of other names.
    named: arguments for parameters of the same name only.
    returns: the types that the result may have; empty if it is ignored or checked elsewhere.
    """

    name: str
    first: tuple[str, ...]
    placed: tuple[str, ...] = ("context",)
    named: tuple[str, ...] = ()
    returns: tuple[type, ...] = ()


class _Argument(str):
    """The name of an argument, which each call replaces by its value."""

    __slots__ = ()


class Callback:
    """A function, and which argument goes to which of its parameters.

    name: its name in errors.
    takes: names of the arguments that it receives.

    Raises `TypeError` for a function that cannot be called with the arguments of its shape.
    """

    def __init__(self, function: Callable[..., Any], shape: Shape) -> None:
        if not callable(function):
            raise TypeError(f"{shape.name} must be callable, not {type(function).__name__}")
        self._function = function
        self._args: tuple[object, ...] = tuple(map(_Argument, shape.first))
        self._kwargs: dict[str, str] = {}
        try:
            signature = inspect.signature(function)
        except (TypeError, ValueError) as error:  # some builtins have no signature
            if len(shape.placed) > 1:
                reason = f"the parameters of {shape.name} cannot be inspected; wrap it in a lambda"
                raise TypeError(reason) from error
        else:
            plan = _plan(function, signature, shape)
            self._args, self._kwargs = plan.args, plan.kwargs
            try:
                signature.bind(*plan.args, **plan.kwargs)
            except TypeError as error:
                raise TypeError(
                    f"{shape.name} is not called with the arguments it requires: {error}"
                ) from None
        self.name = shape.name
        given = (*self._args, *self._kwargs.values())
        self.takes = frozenset(str(argument) for argument in given if isinstance(argument, _Argument))

    async def __call__(self, **values: object) -> Any:
        """Call the function with these arguments, and await what it returns if that is awaitable."""
        args = [values[arg] if isinstance(arg, _Argument) else arg for arg in self._args]
        kwargs = {name: values[arg] for name, arg in self._kwargs.items()}
        try:
            result = self._function(*args, **kwargs)
            return await result if inspect.isawaitable(result) else result
        except (TypeError, ValueError) as error:
            # Not a check of arguments: perhaps a reply could not be read, after the write was done.
            if type(error) in (TypeError, ValueError):
                mark_undetermined(error)
            raise


def _plan(function: Callable[..., Any], signature: Signature, shape: Shape) -> BoundArguments:
    """Bind an `_Argument` to each parameter that receives one, and defaults to those in front of it."""
    preset = function.keywords if isinstance(function, functools.partial) else {}
    parameters = [p for p in signature.parameters.values() if p.name not in preset]
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    args = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), None)
    kwargs = next((p.name for p in parameters if p.kind is p.VAR_KEYWORD), None)
    if args is None and len(positional) < len(shape.first):
        raise TypeError(f"{shape.name} must accept the positional arguments {', '.join(shape.first)}")

    plan: dict[str, Any] = {p.name: _Argument(name) for p, name in zip(positional, shape.first, strict=False)}
    extra = positional[len(shape.first) :]
    for p in [*extra, *(p for p in parameters if p.kind is p.KEYWORD_ONLY)]:
        if p.name in (*shape.placed, *shape.named):
            plan[p.name] = _Argument(p.name)
        elif p.name in _CONTEXT_NAMES or re.search(r"\bStoreContext\b", str(p.annotation)):
            plan[p.name] = _Argument("context")
    left = [_Argument(name) for name in shape.placed if name not in plan.values()]
    python = _is_python(function)
    others = [p for p in extra if p.name not in plan and p.name not in _OTHER_MEANINGS]
    others = [p for p in others if p.default is p.empty or (p.default is None and python)]
    plan |= _place(others, left, shape)

    given = set(plan.values())
    rest = [_Argument(name) for name in (*shape.first[len(positional) :], *left) if name not in given]
    if args is not None and rest:
        plan[args] = rest
        given.update(rest)
    if kwargs is not None:
        names = {*shape.placed, *shape.named} - {"context", *given, *preset}
        plan[kwargs] = {name: _Argument(name) for name in names}
    last = max((place for place, p in enumerate(positional) if p.name in plan), default=0)
    for p in positional if args in plan else positional[:last]:
        if p.default is not p.empty:
            plan.setdefault(p.name, p.default)
    return BoundArguments(signature, plan)


def _place(others: list[Parameter], left: list[_Argument], shape: Shape) -> dict[str, _Argument]:
    """Assign what is left, in order, to parameters of other names. A single optional one gets the context."""
    page = [argument for argument in left if argument != "context"]
    if len(others) == 1 and others[0].default is None:
        left = left[len(page) :]
    elif 0 < len(others) < len(page):
        raise TypeError(f"{shape.name}: parameter {others[0].name!r} must be named {' or '.join(page)}")
    return {p.name: argument for p, argument in zip(others, left, strict=False)}


def _is_python(function: Callable[..., Any]) -> bool:
    """Return whether a callable is written in Python; what a wrapper or a partial calls counts."""
    while isinstance(function, functools.partial):
        function = function.func
    function = inspect.unwrap(function)
    return hasattr(function, "__code__") or hasattr(type(function).__call__, "__code__")
