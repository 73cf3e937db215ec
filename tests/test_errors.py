"""The error tree is what its drawing and its users say."""

from __future__ import annotations

import inspect
import pickle
import re

import pytest

import starfish_server
from starfish_server import MemoryObjectStore, errors
from starfish_server.errors import DeleteManyError, InvalidKeyError, StoreAccessDeniedError, StoreError

CLASSES = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, StoreError)]
BUILTINS = {
    "InvalidKeyError": ValueError,
    "ObjectNotFoundError": LookupError,
    "ObjectTooLargeError": ValueError,
    "StoreDecodeError": ValueError,
    "StoreAccessDeniedError": PermissionError,
    "ReadOnlyStoreError": PermissionError,
    "StoreTimeoutError": TimeoutError,
    "StoreClosedError": RuntimeError,
    "StoreNotSupportedError": NotImplementedError,
}


def made(cls: type[StoreError]) -> StoreError:
    if cls is DeleteManyError:
        return DeleteManyError({"k": StoreAccessDeniedError("no", operation="delete_many", key="k")})
    return cls("what happened", operation="put", key="k")


def test_the_drawing_holds_every_class_with_its_builtin_base() -> None:
    drawn = dict(re.findall(r"^[│├└─ ]*(\w+Error)(?: \((\w+)\))?", errors.__doc__ or "", re.MULTILINE))
    assert drawn == {
        cls.__name__: BUILTINS[cls.__name__].__name__ if cls.__name__ in BUILTINS else "" for cls in CLASSES
    }


@pytest.mark.parametrize("cls", CLASSES)
def test_every_error_is_public(cls: type[StoreError]) -> None:
    assert cls.__name__ in errors.__all__
    assert getattr(starfish_server, cls.__name__) is cls
    assert cls.__name__ in starfish_server.__all__


@pytest.mark.parametrize("cls", CLASSES)
def test_every_error_is_caught_by_its_builtin_base(cls: type[StoreError]) -> None:
    assert issubclass(cls, BUILTINS.get(cls.__name__, StoreError))


@pytest.mark.parametrize("cls", CLASSES)
def test_every_error_survives_pickle(cls: type[StoreError]) -> None:
    error = made(cls)
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.operation, again.key) == (
        cls,
        str(error),
        error.operation,
        error.key,
    )


REFUSALS = {
    "InvalidKeyError",
    "KeyConflictError",
    "StoreDecodeError",
    "StoreAccessDeniedError",
    "BucketNotFoundError",
    "ObjectNotFoundError",
    "ObjectTooLargeError",
    "VersionConflictError",
    "CircuitOpenError",
    "ContextRequiredError",
    "StoreNotSupportedError",
    "ReadOnlyStoreError",
}


def test_only_a_refusal_says_that_nothing_was_written() -> None:
    assert {cls.__name__ for cls in CLASSES if not made(cls).undetermined} == REFUSALS


def test_an_error_of_a_key_that_is_no_text_can_be_shown() -> None:
    assert str(StoreError("closed", operation="put", key=5)) == "put '5': closed"  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["notes/café", "my file", "/notes"])
async def test_the_error_of_an_invalid_key_names_the_function_that_makes_a_valid_one(name: str) -> None:
    with pytest.raises(InvalidKeyError, match="encode_key encodes other text"):
        await MemoryObjectStore(data={}).put(name, "text")


def test_delete_many_error_tells_which_keys_failed_and_why() -> None:
    failures = {"a": StoreAccessDeniedError("no"), "b": StoreError("odd")}
    error = DeleteManyError(failures)
    assert error.failures == failures
    assert str(error) == "2 keys were not deleted: 'a': no (and 1 more)"
    assert pickle.loads(pickle.dumps(error)).failures.keys() == failures.keys()
