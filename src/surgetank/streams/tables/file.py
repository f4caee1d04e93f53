"""The SQLite file of tables, beside the buffer: hot rows, and what is mirrored of catalogue and manifest.

    SharedFile(beside(settings.buffer_path), kind=TABLES, name="table store", script=...)

Each of its users brings a `script` that makes its own tables where they are missing (`CREATE TABLE IF NOT
EXISTS`): hot rows `hot_*`, the catalogue `catalog_*`, the manifest `cold_*`.
"""

from __future__ import annotations

from pathlib import Path

from surgetank.sqlite.kind import Kind

_SCHEMA = """
CREATE TABLE identity (id INTEGER PRIMARY KEY CHECK (id = 1), buffer_id TEXT NOT NULL) STRICT;
"""
TABLES = Kind("table store", application_id=0x53545442, version=3, schema=_SCHEMA)  # "STTB"


def beside(buffer_path: Path) -> Path:
    """The file of tables of a buffer."""
    return buffer_path.with_name(f"{buffer_path.stem}-tables{buffer_path.suffix}")
