"""Authentication: the role resolver, and bearer tokens."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import re
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass

from fastapi import HTTPException, Request

from starfish_server.errors import StoreUnavailableError
from starfish_server.logs import SafeLogger
from starfish_server.router.config import is_segment
from starfish_server.router.responses import HTTPError
from starfish_server.threads import start_in_thread

_log = SafeLogger(__package__)

PUBLIC = "public"
SELF = "self"
_RESOLVER_THREADS = 32
_SHORTEST_TOKEN = 16
_TOKEN = re.compile(r"[\x21-\x7e]+")  # what an HTTP header carries unchanged


@dataclass(frozen=True)
class AuthResult:
    """An authenticated caller.

    identity: one key segment, so that it can stand in a path; anything else is a `ValueError`.
    roles: the caller's roles in any collection. The role "self" cannot be given here.
    """

    identity: str
    roles: Iterable[str] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.identity, str) or not is_segment(self.identity):
            raise ValueError("identity must be one key segment of [A-Za-z0-9._:@-]")
        if isinstance(self.roles, str):
            raise TypeError("roles must be several str, not one")
        object.__setattr__(self, "roles", tuple(self.roles))


RoleResolver = Callable[[Request], Awaitable[AuthResult | None] | AuthResult | None]


class BearerTokens:
    """Finds callers by the bearer token in their Authorization header; use `resolve` as a `role_resolver`.

    tokens: pairs of a token and its caller. A token has at least 16 characters, all of them visible ASCII,
        since a header carries nothing else unchanged, and belongs to one caller.

    Raises `ValueError` or `TypeError`, which name the caller and never the token. Keeps SHA-256 digests only.
    """

    def __init__(self, tokens: Iterable[tuple[str, AuthResult]]) -> None:
        self._callers: dict[bytes, AuthResult] = {}
        for token, caller in tokens:
            the_token = f"the token of {caller.identity}"
            if not isinstance(token, str):
                raise TypeError(f"{the_token} must be a str, not {type(token).__name__}")
            if len(token) < _SHORTEST_TOKEN:
                raise ValueError(f"{the_token} has fewer than {_SHORTEST_TOKEN} characters")
            if not _TOKEN.fullmatch(token):
                raise ValueError(
                    f"{the_token} has a space, a line break or another character that is not visible ASCII,"
                    " so no Authorization header can match it"
                )
            if _digest(token) in self._callers:
                raise ValueError(f"{the_token} is another caller's as well")
            self._callers[_digest(token)] = caller

    def __repr__(self) -> str:
        return f"BearerTokens({len(self._callers)} tokens)"

    async def resolve(self, request: Request) -> AuthResult | None:
        """Return the caller whose token the request carries, or None."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        # The duration of a look-up by digest reveals nothing about the tokens.
        return self._callers.get(_digest(token.strip(" "))) if scheme.lower() == "bearer" else None


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


class Authenticator:
    """Finds the caller of a request by calling `resolver`.

    timeout: seconds for the resolver to answer. A plain function runs in a worker thread, 32 calls at a time.
    challenge: the authentication scheme that a 401 names in its WWW-Authenticate header.
    """

    def __init__(self, resolver: RoleResolver, *, timeout: float, challenge: str) -> None:
        self._resolver = resolver
        self._timeout = timeout
        self._challenge = challenge
        self._threads = ThreadPoolExecutor(_RESOLVER_THREADS, thread_name_prefix="starfish-resolver")
        self._is_async = inspect.iscoroutinefunction(resolver) or inspect.iscoroutinefunction(
            getattr(resolver, "__call__", None)  # noqa: B004 - an object whose `__call__` may be async
        )

    async def find_caller(self, request: Request) -> AuthResult:
        """Return the caller. Raises a 401 for an unknown one, and a 503 if the resolver cannot answer."""
        caller = await self._resolve(request)
        if caller is None:
            raise self._unauthorized("the role resolver knows no such caller")
        if not isinstance(caller, AuthResult):
            raise TypeError(f"role_resolver returned {type(caller).__name__}, not AuthResult or None")
        return caller

    async def _resolve(self, request: Request) -> object:
        try:
            async with asyncio.timeout(self._timeout):
                if self._is_async:
                    found = self._resolver(request)
                else:
                    run = copy_context().run
                    found = await start_in_thread(lambda: run(self._resolver, request), self._threads)
                return await found if inspect.isawaitable(found) else found
        except HTTPException as error:
            if error.status_code == 403:
                raise HTTPError(403, "forbidden", "the role resolver refused the caller") from None
        except Exception as error:  # a caller stays unknown whatever a resolver raises
            if _is_outage(error):
                reason = f"the role resolver did not answer: {type(error).__name__}"
                raise HTTPError(503, "resolver_unavailable", reason) from error
            _log.warning("role_resolver raised; the caller is refused", exc_info=True)
        raise self._unauthorized("the role resolver raised")

    def _unauthorized(self, reason: str) -> HTTPError:
        return HTTPError(401, "unauthorized", reason, {"WWW-Authenticate": self._challenge})


def _is_outage(error: Exception) -> bool:
    """Return whether a resolver's error means that it cannot answer now, and not that the caller is unknown.

    A host name that does not resolve and too many open files are OSErrors, like a refused connection.
    """
    if isinstance(error, PermissionError | FileNotFoundError):
        return False
    return isinstance(error, OSError | MemoryError | StoreUnavailableError)
