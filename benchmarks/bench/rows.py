"""All rows, in the order of the table."""

from __future__ import annotations

from bench import rows_files, rows_import, rows_layers, rows_s3

ROWS = (*rows_s3.ROWS, *rows_files.ROWS, *rows_layers.ROWS, *rows_import.ROWS)
