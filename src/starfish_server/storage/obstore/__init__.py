"""`ObstoreObjectStore`: any store of the obstore package: GCS, Azure Blob Storage, HTTP, S3 and others."""

try:
    import obstore  # noqa: F401 - imported to say clearly what is missing
except ImportError as error:
    raise ImportError("ObstoreObjectStore needs obstore: pip install 'starfish-server[obstore]'") from error

from starfish_server.storage.obstore.store import ObstoreObjectStore

__all__ = ["ObstoreObjectStore"]
