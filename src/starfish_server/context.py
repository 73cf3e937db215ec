"""`StoreContext`, which every operation carries, and variables that layers set for the leaf."""

from __future__ import annotations

from collections.abc import Mapping, Sequence  # noqa: TC003 - for get_type_hints(StoreContext)
from contextvars import ContextVar
from dataclasses import dataclass

from starfish_server.frozen import FrozenDict


@dataclass(frozen=True)
class StoreContext:
    """The caller of an operation and the route it came through. Frozen, hashable and picklable.

    collection: name of the collection in the configuration, as in "profile".
    params: path parameters, as in {"identity": "alice"}; copied into a read-only dict.
    identity: the authenticated caller, or None on a public route.
    roles: the caller's roles.
    action: "pull", "push", "list", "delete" or any other text.
    namespace: the namespace mount that the route lives under, or None.

    An operation that no caller asked for has no context at all. Raises `TypeError` if `params` does not
    map str to str, or `roles` is one str.
    """

    collection: str
    params: Mapping[str, str]
    identity: str | None
    roles: tuple[str, ...]
    action: str
    namespace: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.roles, str):
            raise TypeError("roles must be a tuple of str, not one str")
        object.__setattr__(self, "roles", tuple(self.roles))
        params = FrozenDict(self.params)
        for name, value in params.items():
            if not (isinstance(name, str) and isinstance(value, str)):
                raise TypeError(
                    f"params must map str to str, not {type(name).__name__} to {type(value).__name__}"
                )
        object.__setattr__(self, "params", params)


retries_outside: ContextVar[Sequence[None]] = ContextVar("starfish_retries_outside", default=())
"""Not empty while a `Retry` layer repeats the running operation, so that a leaf makes one attempt only.

The list is emptied when the attempt ends: a task that the attempt started shares it, and may outlive it.
"""

notes_of_call: ContextVar[dict[str, object] | None] = ContextVar("starfish_notes_of_call", default=None)
"""The notes of the running operation, or None if no layer observes it."""


def note(name: str, value: object) -> None:
    """Record a fact about the running operation, such as `note("request_id", "4442587FB7D0A2F9")`.

    For leaves. Costs nothing if no layer observes the operation.
    """
    notes = notes_of_call.get()
    if notes is not None:
        notes[name] = value
