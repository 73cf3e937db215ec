"""Who asks: the resolver's answer, and whether the roles it gives are enough."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from fastapi import HTTPException, Request

from starfish_server.errors import StoreUnavailableError
from starfish_server.router.paths import is_segment
from starfish_server.router.refusal import Refusal
from starfish_server.router.resolver_threads import ResolverThreads

if TYPE_CHECKING:
    from collections.abc import Mapping

_log = logging.getLogger(__name__)

PUBLIC = "public"
SELF = "self"


@dataclass(frozen=True)
class AuthResult:
    """Whom a request comes from.

    identity: of the caller, one key segment, so that it can stand in a path; anything else is a `ValueError`.
    roles: of the caller, in any collection. "self" is not given this way.
    """

    identity: str
    roles: Iterable[str] = field(default=())

    def __post_init__(self) -> None:
        if not isinstance(self.identity, str) or not is_segment(self.identity):
            raise ValueError("identity must be one key segment of [A-Za-z0-9._:@-]")
        if isinstance(self.roles, str):
            raise TypeError("roles must be several str, not one")
        object.__setattr__(self, "roles", tuple(self.roles))


RoleResolver = Callable[[Request], Awaitable[AuthResult | None] | AuthResult | None]


@dataclass(frozen=True, slots=True)
class Caller:
    """What a store call is told of the caller; nobody, on a public route."""

    identity: str | None = None
    roles: tuple[str, ...] = ()


class Callers:
    """Admits requests. A plain function as `resolver` runs in a thread; `timeout` is in seconds.

    challenge: the scheme that a 401 asks for, in its WWW-Authenticate header.
    """

    def __init__(self, resolver: RoleResolver, *, timeout: float, challenge: str) -> None:
        self._resolver = resolver
        self._timeout = timeout
        self._threads = ResolverThreads(timeout)
        self._unauthorized = {"WWW-Authenticate": challenge}
        self._on_loop = inspect.iscoroutinefunction(resolver) or inspect.iscoroutinefunction(
            getattr(resolver, "__call__", None)  # noqa: B004 - an object whose `__call__` may be async
        )

    async def admit(self, request: Request, roles: tuple[str, ...], params: Mapping[str, str]) -> Caller:
        """The caller, who has one of `roles`; otherwise a refusal with 401, 403 or 503."""
        if PUBLIC in roles:
            return Caller()
        known = await self._resolve(request)
        if known is None:
            raise Refusal(401, "unauthorized", self._unauthorized)
        if not isinstance(known, AuthResult):
            raise TypeError(f"role_resolver gave {type(known).__name__}, not AuthResult or None")
        given = tuple(role for role in known.roles if role != SELF)
        if known.identity == params.get("identity"):
            given += (SELF,)
        if not set(given) & set(roles):
            raise Refusal(403, "forbidden")
        return Caller(known.identity, given)

    async def _resolve(self, request: Request) -> AuthResult | None:
        try:
            async with asyncio.timeout(self._timeout):
                if self._on_loop:
                    known = self._resolver(request)
                else:
                    call = self._threads.submit(partial(self._resolver, request))
                    known = await asyncio.wrap_future(call)
                return await known if inspect.isawaitable(known) else known
        except (TimeoutError, ConnectionError, StoreUnavailableError):
            _log.warning("role_resolver did not answer", exc_info=True)
            raise Refusal(503, "resolver_unavailable", {"Retry-After": "1"}) from None
        except HTTPException as error:
            if error.status_code == 403:
                raise Refusal(403, "forbidden") from None
        except Exception:  # noqa: BLE001 - whatever a resolver raises, the caller stays unknown
            _log.warning("role_resolver raised; the caller is refused", exc_info=True)
        raise Refusal(401, "unauthorized", self._unauthorized)
