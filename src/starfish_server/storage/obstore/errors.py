"""The errors of obstore as errors of this library, by type, HTTP status or text."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypeVar

from obstore import exceptions

from starfish_server.errors import (
    BucketNotFoundError,
    InvalidKeyError,
    KeyConflictError,
    ObjectNotFoundError,
    StoreAccessDeniedError,
    StoreError,
    StoreNotSupportedError,
    StoreTimeoutError,
    StoreUnavailableError,
    VersionConflictError,
    error_of_status,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

T = TypeVar("T")


class RangeError(StoreError):
    """Raised for a range that begins at or after the object's end."""


# obstore raises built-in errors beside its own. The first matching type applies.
BY_TYPE: Mapping[type[Exception], tuple[type[StoreError], str]] = {
    exceptions.AlreadyExistsError: (VersionConflictError, "there is an object already, nothing was written"),
    exceptions.PreconditionError: (
        VersionConflictError,
        "the object does not have the expected version; read it and try again",
    ),
    exceptions.NotModifiedError: (VersionConflictError, "the object does not have the expected version"),
    exceptions.PermissionDeniedError: (StoreAccessDeniedError, "the backend denied access"),
    exceptions.UnauthenticatedError: (StoreAccessDeniedError, "the backend refused the credentials"),
    exceptions.NotSupportedError: (StoreNotSupportedError, "the backend does not support it"),
    NotImplementedError: (StoreNotSupportedError, "obstore does not support it with this backend"),
    exceptions.InvalidPathError: (InvalidKeyError, "the backend cannot hold this key"),
    exceptions.UnknownConfigurationKeyError: (StoreError, "the store's configuration has an unknown option"),
    exceptions.JoinError: (StoreError, "obstore failed"),
    FileNotFoundError: (ObjectNotFoundError, "there is no such object"),
    exceptions.GenericError: (StoreError, "the backend failed"),
    exceptions.BaseError: (StoreError, "the backend failed"),
    OSError: (StoreError, "the backend failed"),
    ValueError: (InvalidKeyError, "obstore cannot address this key"),
}

# Failures for which obstore has no type, by a part of their text. The first match applies.
BY_TEXT: tuple[tuple[str, type[StoreError], str], ...] = (
    ("ertificate", StoreError, "the server's certificate was refused"),
    ("kind: Builder", StoreError, "no request could be made: see the store's URL and allow_http"),
    ("kind: Timeout", StoreTimeoutError, "no reply in time"),
    ("TimedOut", StoreTimeoutError, "no reply in time"),
    ("kind: Connect", StoreUnavailableError, "no connection could be made"),
    ("kind: Request", StoreUnavailableError, "the request could not be sent"),
    ("kind: Interrupted", StoreUnavailableError, "the connection was lost"),
    ("kind: Decode", StoreUnavailableError, "the reply was cut short"),
    ("kind: Body", StoreUnavailableError, "the reply was cut short"),
    ("IncompleteMessage", StoreUnavailableError, "the connection was lost"),
    ("kind: NotADirectory", KeyConflictError, "a segment of the key is an object"),
    ("kind: IsADirectory", KeyConflictError, "the key is a folder of other keys"),
    ("kind: PermissionDenied", StoreAccessDeniedError, "the system denied access"),
    ("kind: InvalidFilename", InvalidKeyError, "the backend cannot hold this key"),
    ("filenames containing trailing", InvalidKeyError, "the backend cannot hold this key"),
)

_NO_BUCKET = re.compile(
    r"<Code>(?:NoSuchBucket|ContainerNotFound|ContainerBeingDeleted)</Code>|container does not exist"
)
_AROUND_KEY = (("location ", " "), ("path ", ":"), ("key ", ":"))
# In the message of a request that obstore repeated: an earlier attempt may have been done.
_REPEATED = re.compile(r"after [1-9]\d* retr")
_RANGE = re.compile("Invalid range|Wanted range")
_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w{1,64})</Code>")
_URL = re.compile(r"\b[a-z]+://[^\s\"']*")
_AFTER_STATUS = re.compile(r"(status code: \d{3}[A-Za-z ]*).*", re.DOTALL)


async def ask(key: str | None, function: Callable[..., Awaitable[T]], *args: Any, **options: Any) -> T:
    """Await a function of obstore and raise its errors as errors of this library, without operation and key.

    key: the key in the request. It is removed from the text of an error before that is searched.
    """
    try:
        return await function(*args, **options)
    except tuple(BY_TYPE) as error:
        failure = store_error(error, key)
    # Outside of `except`, so that the original, whose text may hold a signed URL, is not the context.
    raise failure


def store_error(error: Exception, key: str | None) -> StoreError:
    """Return the error of this library for an error of obstore; its cause is a copy without secrets."""
    text = str(error)
    for before, after in _AROUND_KEY if key else ():  # a key may look like an error
        text = text.replace(f"{before}{key}{after}", "")
    kind, reason = next(found for base, found in BY_TYPE.items() if isinstance(error, base))
    status = _STATUS.search(text)
    if _NO_BUCKET.search(text):
        kind, reason = BucketNotFoundError, "the bucket does not exist"
    elif kind is StoreError and status is not None:
        kind = RangeError if status[1] == "416" else error_of_status(int(status[1]))
        code = _CODE.search(text)
        reason = f"the backend replied with status {status[1]}{f' ({code[1]})' if code else ''}"
    elif kind is StoreError and _RANGE.search(text):
        kind = RangeError
    elif kind is StoreError:
        for words, other, why in BY_TEXT:
            if words.lower() in text.lower():
                kind, reason = other, why
                break
    failure = kind(reason)
    failure.undetermined = failure.undetermined or _REPEATED.search(text) is not None
    # No URL, which may be signed, and nothing that the server sent.
    text = str(error).partition("\n\nDebug source")[0]
    failure.__cause__ = type(error)(_URL.sub("<url>", _AFTER_STATUS.sub(r"\1", text)))
    return failure
