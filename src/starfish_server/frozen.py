"""`FrozenDict`: a read-only dict of text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Never, Self

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class FrozenDict(dict[str, str]):
    """An immutable, hashable copy of a mapping.

    A dict, because `json.dumps` and similar code take nothing else. It equals any dict with the same items.
    """

    __slots__ = ()

    def __new__(cls, items: Mapping[str, str] | Iterable[tuple[str, str]] = ()) -> Self:
        frozen = super().__new__(cls)
        dict.update(frozen, items)
        return frozen

    def __init__(self, items: object = ()) -> None:
        pass  # dict's own would add the items again, at any later call too

    def _refuse(self: Any, *args: object, **kwargs: object) -> Never:
        raise TypeError("this dict is read-only; dict(it) is a copy that can be changed")

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse

    def __hash__(self) -> int:  # type: ignore[override]  # a dict has none
        return hash(frozenset(self.items()))

    def __reduce__(self) -> tuple[type[FrozenDict], tuple[dict[str, str]]]:
        return FrozenDict, (dict(self),)


NOTHING = FrozenDict()
