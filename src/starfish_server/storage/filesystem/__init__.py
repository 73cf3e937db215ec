"""The leaf over a folder of files."""

from starfish_server.storage.filesystem.options import FilesystemStorageOptions
from starfish_server.storage.filesystem.store import FilesystemObjectStore
from starfish_server.storage.filesystem.unlistable import Unlistable

__all__ = ["FilesystemObjectStore", "FilesystemStorageOptions", "Unlistable"]
