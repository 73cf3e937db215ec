"""Credentials and their sources."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Any, NoReturn

from aiobotocore.session import AioSession
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    MetadataRetrievalError,
)
from botocore.exceptions import ConnectionError as BotoConnectionError

from starfish_server.errors import (
    StoreAccessDeniedError,
    StoreError,
    StoreTimeoutError,
    StoreUnavailableError,
)
from starfish_server.storage.s3.errors import closed_error
from starfish_server.storage.s3.options import TOKEN

if TYPE_CHECKING:
    from starfish_server.storage.s3.options import S3StorageOptions

LOOKUP_SECONDS = 60.0
# How long a failed look-up is cached.
FAILURE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Credentials:
    """One set of credentials."""

    access_key: str
    secret_key: str = field(repr=False)
    token: str | None = field(repr=False)


class CredentialSource:
    """Returns the credentials of the options, or none for anonymous requests."""

    def __init__(self, credentials: Credentials | None = None) -> None:
        self._current = credentials

    async def get(self) -> Credentials | None:
        """Return credentials to sign the next request with; None to leave it unsigned."""
        return self._current

    def drop(self, expired: Credentials) -> bool:
        """Stop using credentials that the service calls expired; return whether there may be others."""
        return False

    async def close(self) -> None:
        """End a look-up, and the requests that wait for it."""


class CredentialChain(CredentialSource):
    """The standard credential chain of botocore, for one event loop.

    One look-up at a time serves all requests that need it, and so does its failure for `FAILURE_SECONDS`.
    While a look-up refreshes credentials that are still valid, requests go on using these.
    """

    def __init__(self) -> None:
        super().__init__()
        self._session: AioSession | None = None
        self._refresh_needed = _never
        self._lookup: asyncio.Task[Credentials | StoreError] | None = None
        self._failure_ends = -inf
        self._closed = False
        self._processes: list[asyncio.subprocess.Process] = []

    async def get(self) -> Credentials:
        """Return credentials that are valid now.

        Raises `StoreAccessDeniedError` if the chain has none, `StoreUnavailableError` if the service that
        hands them out does not answer.
        """
        while self._current is None or self._refresh_needed():
            if self._closed:
                raise closed_error()
            now = asyncio.get_running_loop().time()
            if self._lookup is None or (self._lookup.done() and now >= self._failure_ends):
                self._lookup = asyncio.create_task(self._look_up())
            if self._current is not None and not self._refresh_needed(0):
                break
            lookup = self._lookup
            await asyncio.wait([lookup])
            if lookup.cancelled():  # by `drop` or `close`
                continue
            found = lookup.result()
            if isinstance(found, StoreError):
                failure = type(found)(found.reason)  # each request raises an error of its own
                failure.undetermined = False  # nothing was sent
                raise failure from found.__cause__
            return found
        return self._current

    def drop(self, expired: Credentials) -> bool:
        if expired is self._current:  # and no other request has dropped it yet
            # A new session, since the old one caches credentials until they expire by this machine's clock.
            self._session, self._current, self._refresh_needed = None, None, _never
            if self._lookup is not None:
                self._lookup.cancel()
            self._failure_ends = -inf
        return True

    async def close(self) -> None:
        self._closed = True
        if self._lookup is not None:
            self._lookup.cancel()
            await asyncio.wait([self._lookup])

    async def _look_up(self) -> Credentials | StoreError:
        try:
            async with asyncio.timeout(LOOKUP_SECONDS):
                found = await self._find()
        except Exception as error:  # noqa: BLE001 - botocore lets through what broken programs and files raise
            self._failure_ends = asyncio.get_running_loop().time() + FAILURE_SECONDS
            return _failure(error)
        finally:
            for process in self._processes:
                await _end(process)
            self._processes.clear()
        self._failure_ends = -inf
        # The same object while the credentials are the same, so that their signer can be kept.
        if self._current is None or found != self._current:
            self._current = found
        return self._current

    async def _find(self) -> Credentials:
        session = self._session = self._session or self._open_session()
        source = await session.get_credentials()
        if source is None:
            raise StoreAccessDeniedError(
                "no credentials: the standard chain (environment, profiles, roles) has none; "
                "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or anonymous=True "
                "(in a URL, ?anonymous=true)"
            )
        found = await source.get_frozen_credentials()
        for value in (found.access_key, found.secret_key, found.token or "none"):
            if not isinstance(value, str) or not TOKEN.fullmatch(value):
                raise StoreAccessDeniedError(
                    "the standard credential chain returned a secret that is not text without spaces and "
                    "line ends"
                )
        self._refresh_needed = getattr(source, "refresh_needed", _never)
        return Credentials(found.access_key, found.secret_key, found.token)

    def _open_session(self) -> AioSession:
        """Return a botocore session that never waits for input: a prompt would block the event loop."""

        async def run(*command: str, **options: Any) -> asyncio.subprocess.Process:
            options["stdin"] = asyncio.subprocess.DEVNULL
            self._processes.append(await asyncio.create_subprocess_exec(*command, **options))
            return self._processes[-1]

        session = AioSession()
        chain = session.get_component("credential_provider")
        # botocore has no public way to say so.
        chain.get_provider("assume-role")._prompter = _refuse_prompt  # noqa: SLF001
        chain.get_provider("custom-process")._popen = run  # noqa: SLF001
        return session


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill a credential process that is still running, and close its pipes."""
    process._transport.close()  # type: ignore[attr-defined]  # noqa: SLF001 - asyncio has no public way
    with suppress(TimeoutError):
        async with asyncio.timeout(1.0):
            await process.wait()


def _refuse_prompt(_prompt: str) -> NoReturn:
    raise StoreAccessDeniedError(
        "the profile's role needs an MFA code, which a server cannot ask for: "
        "use a profile without mfa_serial, or temporary credentials in the environment"
    )


def _never(_seconds: float | None = None) -> bool:
    """Stand for `refresh_needed` of credentials that do not expire."""
    return False


def _failure(error: Exception) -> StoreError:
    """Return the error that a failed look-up means, with a cause that shows no secret."""
    if isinstance(error, StoreError):
        return error
    if isinstance(error, TimeoutError):
        return StoreTimeoutError(f"no credentials within {LOOKUP_SECONDS:g} s")
    failure: StoreError
    unanswered = isinstance(error, (BotoConnectionError, HTTPClientError))
    if unanswered or isinstance(error.__context__, MetadataRetrievalError):
        failure = StoreUnavailableError("the service that hands out credentials does not answer")
    else:
        path = f": {error.filename!r}" if isinstance(error, OSError) and error.filename else ""
        name = type(error).__name__
        failure = StoreAccessDeniedError(f"the standard credential chain failed ({name}{path})")
    # The output of a credential process may be in the error's text or beside it.
    safe = isinstance(error, (BotoCoreError, ClientError)) and not isinstance(error, CredentialRetrievalError)
    failure.__cause__ = error if safe else None
    return failure


def credential_source(options: S3StorageOptions) -> CredentialSource:
    """Return where the credentials for these options come from, for one event loop."""
    if options.anonymous:
        return CredentialSource()
    if options.access_key_id is None or options.secret_access_key is None:
        return CredentialChain()
    return CredentialSource(
        Credentials(options.access_key_id, options.secret_access_key, options.session_token)
    )
