"""Every operation of the interface as a value: its keys, its properties, and the method it calls."""

from __future__ import annotations

from typing import Any

from starfish_server.operations.base import Bodies, Kind, Operation
from starfish_server.operations.interface import (
    Copy,
    Delete,
    DeleteMany,
    GetBytes,
    GetString,
    ListKeys,
    ListObjects,
    Open,
    Put,
    PutBytes,
    Read,
    SignedUrl,
    Stat,
    Upload,
    Write,
)

__all__ = [
    "OPERATIONS",
    "Bodies",
    "Copy",
    "Delete",
    "DeleteMany",
    "GetBytes",
    "GetString",
    "Kind",
    "ListKeys",
    "ListObjects",
    "Open",
    "Operation",
    "Put",
    "PutBytes",
    "Read",
    "SignedUrl",
    "Stat",
    "Upload",
    "Write",
]

OPERATIONS: dict[str, type[Operation[Any]]] = {
    operation.name: operation
    for operation in (
        *(GetString, Put, ListKeys, Delete, DeleteMany, GetBytes, PutBytes),
        *(Stat, Read, Open, Write, Upload, Copy, ListObjects, SignedUrl),
    )
}
"""The class of each operation of the interface, by its name."""
