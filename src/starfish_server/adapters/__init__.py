"""Stores as other programs expect them: `adapters.fsspec` and `adapters.zarr`, each with its own extra."""
