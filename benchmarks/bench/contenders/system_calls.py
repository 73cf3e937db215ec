"""The floors of files: plain system calls, each operation one hop to a thread, or no hop at all."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from bench.objects import Bucket, Folder, Objects

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

T = TypeVar("T")


async def open_one_hop(place: Bucket | Folder) -> Objects:
    """Each operation runs in a thread of the loop's default executor."""

    def hop(call: Callable[..., T]) -> Callable[..., Awaitable[T]]:
        async def hopping(*arguments: object) -> T:
            return await asyncio.get_running_loop().run_in_executor(None, call, *arguments)

        return hopping

    return _objects(place, hop)


async def open_no_hop(place: Bucket | Folder) -> Objects:
    """Each operation runs in the loop's own thread, which waits for it."""

    def direct(call: Callable[..., T]) -> Callable[..., Awaitable[T]]:
        async def calling(*arguments: object) -> T:
            return call(*arguments)

        return calling

    return _objects(place, direct)


def _objects(
    place: Bucket | Folder, wrap: Callable[[Callable[..., Any]], Callable[..., Awaitable[Any]]]
) -> Objects:
    assert isinstance(place, Folder)
    os.makedirs(place.path, exist_ok=True)
    write = partial(_write, place.path, fsync=place.fsync)

    async def close() -> None:
        """Nothing is held open."""

    return Objects(
        get=wrap(partial(_read, place.path)),
        put=wrap(write),
        put_typed=wrap(write),
        copy_out=wrap(lambda key, path: shutil.copyfile(f"{place.path}/{key}", path)),
        copy_in=wrap(partial(_copy_in, place.path)),
        put_bytes=wrap(write),
        list_all=wrap(partial(_list, place.path)),
        list_objects=wrap(partial(_list_objects, place.path)),
        list_first=wrap(partial(_list, place.path)),
        close=close,
    )


def _read(folder: str, key: str) -> bytes:
    file = os.open(f"{folder}/{key}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(file, 2**20)
    finally:
        os.close(file)


def _write(folder: str, key: str, body: bytes, *, fsync: bool) -> None:
    """A temporary file renamed into place, so that readers see whole objects."""
    path = f"{folder}/{key}"
    temporary = f"{folder}/{secrets.token_hex(8)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        file = os.open(temporary, flags, 0o666)
    except FileNotFoundError:
        os.makedirs(folder)
        file = os.open(temporary, flags, 0o666)
    try:
        os.write(file, body)
        if fsync:
            os.fsync(file)
    finally:
        os.close(file)
    try:
        os.rename(temporary, path)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.rename(temporary, path)
    if fsync:
        directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _copy_in(folder: str, key: str, path: str) -> None:
    """Copy with the standard library to a temporary file, which is renamed into place."""
    temporary = f"{folder}/{secrets.token_hex(8)}"
    shutil.copyfile(path, temporary)
    os.makedirs(os.path.dirname(f"{folder}/{key}"), exist_ok=True)
    os.rename(temporary, f"{folder}/{key}")


def _list(folder: str, prefix: str, count: int | None = None) -> int:
    keys: list[str] = []
    for key in _walk(f"{folder}/{prefix}", prefix):
        keys.append(key)
        if len(keys) == count:
            break
    return len(keys)


def _list_objects(folder: str, prefix: str) -> int:
    return len([(key, os.stat(f"{folder}/{key}").st_size) for key in _walk(f"{folder}/{prefix}", prefix)])


def _walk(folder: str, prefix: str) -> Iterator[str]:
    """Keys in byte order: folders sort as if their names ended in a slash."""
    with os.scandir(folder) as entries:
        found = [(each.name, each.is_dir(follow_symlinks=False)) for each in entries]
    names = sorted(f"{name}/" if is_folder else name for name, is_folder in found)
    for name in names:
        if name.endswith("/"):
            yield from _walk(f"{folder}/{name}", f"{prefix}{name}")
        else:
            yield f"{prefix}{name}"
