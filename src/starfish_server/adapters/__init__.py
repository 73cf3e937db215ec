"""Stores for other libraries: `adapters.fsspec` and `adapters.zarr`, each with its own extra."""
