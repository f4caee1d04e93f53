"""Writing the Parquet files of tables: sorted by user and sequence, with field ids and statistics.

Encodings are those that were measured to be quick and small
(the decision record): a dictionary for the user, deltas for numbers and text, snappy. Row groups are as small as
large reads bear: who reads one user's rows decodes one or two of them.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from surgetank.streams.tables.cold.location import Location
from surgetank.streams.tables.cold.stats import ColumnStats, stats_of
from surgetank.streams.tables.definition import SEQ, SEQ_ID, USER, USER_ID, Column, Table

pc: Any = pyarrow.compute  # its functions are made when it is imported
ITEM_IDS = 1_000_000  # a list's items have the field id of their column, and this added
ROW_GROUP = 32_768
PATH_ID, POSITION_ID = 2147483546, 2147483545  # field ids of position deletes, as Iceberg has them
_FIELD_ID = b"PARQUET:field_id"
_NUMBERS = frozenset({"SMALLINT", "INT", "BIGINT", "DATE", "TIME", "TIMESTAMP", "TIMESTAMPTZ"})
_TEXTS = frozenset({"TEXT", "JSON", "BYTES"})


@dataclass(frozen=True, slots=True, kw_only=True)
class NewFile:
    """A Parquet file that was written, and is in no manifest yet."""

    path: str
    bucket: int = 0
    buckets: int = 1
    rows: int
    bytes: int
    footer_bytes: int
    min_user: str | None = None
    max_user: str | None = None
    min_seq: int = 0
    max_seq: int = 0
    schema_version: int = 1
    stats: tuple[ColumnStats, ...] = ()


def hash_of(user: str) -> int:
    """The number that decides in which bucket a user is. Stored files rely on it: it never
    changes."""
    return crc32(user.encode("utf-8", "surrogatepass"))


def field_of(column: Column) -> pa.Field:
    """A column as it stands in a file."""
    kind = column.type.arrow
    if column.type.is_list:
        item = {_FIELD_ID: str(ITEM_IDS + column.id).encode()}
        kind = pa.list_(pa.field("element", column.type.item.arrow, metadata=item))
    return _field(column.name, kind, column.id, nullable=column.nullable)


def _field(name: str, kind: pa.DataType, field_id: int, *, nullable: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=nullable, metadata={_FIELD_ID: str(field_id).encode()})


def schema_of(table: Table) -> pa.Schema:
    """The columns of a file of the table, hidden ones first."""
    user = [_field(USER, pa.string(), USER_ID)] if table.by_user else []
    return pa.schema([*user, _field(SEQ, pa.int64(), SEQ_ID), *map(field_of, table.columns)])


def field_ids(schema: pa.Schema) -> dict[int, str]:
    """Names of the columns of a file, by field id."""
    return {
        int(field.metadata[_FIELD_ID]): field.name
        for field in schema
        if field.metadata and _FIELD_ID in field.metadata
    }


def conform(table: Table, rows: pa.Table) -> pa.Table:
    """The rows with the columns of a file. Raises what Arrow raises for a value that can't be
    stored, `ValueError` for one that is missing."""
    columns: list[pa.ChunkedArray] = []
    schema = schema_of(table)
    for field in schema:
        values = rows.column(field.name)
        if field.name == USER:
            columns.append(_encoded(values))
        else:
            columns.append(values if values.type == field.type else cast(values, field.type))
    if table.by_user:
        schema = schema.set(0, _field(USER, pa.dictionary(pa.int32(), pa.string()), USER_ID))
    for field, values in zip(schema, columns, strict=True):
        if not field.nullable and values.null_count:
            raise ValueError(f"the column {field.name!r} has no value in {values.null_count} rows")
    return pa.table(columns, schema=schema)


def _encoded(users: pa.ChunkedArray) -> pa.ChunkedArray:
    """The users as one dictionary of text."""
    if not pa.types.is_dictionary(users.type):
        users = (
            users if users.type == pa.string() else users.cast(pa.string())
        ).dictionary_encode()
    wanted = pa.dictionary(pa.int32(), pa.string())
    return users.unify_dictionaries() if users.type == wanted else users.cast(wanted)


def cast(values: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """Values as another type that says the same: storage and extension, or names inside a list."""
    if isinstance(kind, pa.BaseExtensionType):
        chunks = [
            pa.ExtensionArray.from_storage(kind, _storage(chunk).cast(kind.storage_type))
            for chunk in values.chunks
        ]
        return pa.chunked_array(chunks, kind)
    if pa.types.is_list(kind) and pa.types.is_list(values.type):
        chunks = [_list_as(chunk, kind) for chunk in values.chunks]
        return pa.chunked_array(chunks, kind)
    return values.cast(kind)


def _storage(values: pa.Array) -> pa.Array:
    return values.storage if isinstance(values.type, pa.BaseExtensionType) else values


def _list_as(values: pa.Array, kind: pa.DataType) -> pa.Array:
    items = pa.chunked_array([values.values])
    if items.type != kind.value_type:
        items = cast(items, kind.value_type)
    return pa.ListArray.from_arrays(
        values.offsets,
        items.combine_chunks(),
        type=kind,
        mask=values.is_null() if values.null_count else None,
    )


def sort_rows(rows: pa.Table) -> pa.Table:
    """Rows (as `conform` gives them) by user and sequence; those in order already are not
    copied."""
    seqs = rows.column(SEQ).to_numpy()
    if USER in rows.column_names:
        users = rows.column(USER)
        ranks = _ranks(users)
        if _in_order(ranks, seqs):
            return rows
        order = np.lexsort((seqs, ranks))
    elif bool(np.all(seqs[1:] >= seqs[:-1])):
        return rows
    else:
        order = np.argsort(seqs, kind="stable")
    return rows.take(pa.array(order))


def _ranks(users: pa.ChunkedArray) -> np.ndarray[Any, Any]:
    """The rank of each row's user among all users, in the order of their bytes."""
    if not users.num_chunks:
        return np.empty(0, dtype=np.int32)
    names = users.chunk(0).dictionary
    ranks = np.empty(len(names), dtype=np.int32)
    ranks[pc.sort_indices(names).to_numpy()] = np.arange(len(names), dtype=np.int32)
    return np.concatenate([ranks[chunk.indices.to_numpy()] for chunk in users.chunks])


def _in_order(ranks: np.ndarray[Any, Any], seqs: np.ndarray[Any, Any]) -> bool:
    steps = np.diff(ranks)
    return bool(np.all((steps > 0) | ((steps == 0) & (seqs[1:] >= seqs[:-1]))))


def split(rows: pa.Table, buckets: int) -> list[tuple[int, pa.Table]]:
    """Rows by the bucket of their user, each part in the order of `rows`."""
    if buckets == 1 or USER not in rows.column_names:
        return [(0, rows)] if rows.num_rows else []
    users = rows.column(USER).unify_dictionaries()
    names = users.chunk(0).dictionary.to_pylist() if users.num_chunks else []
    of_name = np.array([hash_of(name) % buckets for name in names], dtype=np.int32)
    of_row = np.concatenate([of_name[chunk.indices.to_numpy()] for chunk in users.chunks])
    return [(int(bucket), rows.filter(pa.array(of_row == bucket))) for bucket in np.unique(of_row)]


def encodings(table: Table) -> dict[str, str]:
    """The encoding of each column that has one of its own."""
    found = {SEQ: "DELTA_BINARY_PACKED"}
    for column in table.columns:
        if not column.type.is_list:
            if column.type.name in _NUMBERS:
                found[column.name] = "DELTA_BINARY_PACKED"
            elif column.type.name in _TEXTS:
                found[column.name] = "DELTA_LENGTH_BYTE_ARRAY"
    return found


def encode(table: Table, rows: pa.Table, where: Any) -> pq.FileMetaData:
    """Write rows (conformed and sorted) as Parquet to a path or an Arrow stream."""
    with pq.ParquetWriter(
        where,
        rows.schema,
        use_dictionary=[USER] if table.by_user else False,  # pyright: ignore[reportArgumentType]
        column_encoding=encodings(table),
        compression="snappy",
        store_schema=False,
        write_statistics=True,
    ) as writer:
        writer.write_table(rows, row_group_size=ROW_GROUP)
    return writer.writer.metadata


class Folder:
    """The files of all tables, in one location. Names of files are random: no text of a user's is in
    them. `begins` is called with the name of a file before it is written."""

    def __init__(
        self,
        location: Location,
        *,
        new_id: Callable[[], str] = lambda: uuid.uuid4().hex,
        begins: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.location = location
        self._new_id = new_id
        self._begins = begins

    def address(self, name: str) -> str:
        """Where a file is, for people and for other readers."""
        return f"{self.location.address}/{name}"

    def write(self, table: Table, rows: pa.Table, *, bucket: int = 0, buckets: int = 1) -> NewFile:
        """Write rows (conformed and sorted) as one data file, durably."""
        if table.by_user:
            rows = _only_their_users(rows)
        name = f"{table.id}/{self._new_id()}.parquet"
        self._begins(name)
        written = self.location.store(name, lambda where: encode(table, rows, where))
        seqs = pc.min_max(rows.column(SEQ)).as_py()
        least, greatest = _bounds(rows) if table.by_user else (None, None)
        return NewFile(
            path=name,
            bucket=bucket,
            buckets=buckets,
            rows=rows.num_rows,
            bytes=written.bytes,
            footer_bytes=written.footer_bytes,
            min_user=least,
            max_user=greatest,
            min_seq=seqs["min"],
            max_seq=seqs["max"],
            schema_version=table.schema_version,
            stats=stats_of(table, written.result),
        )

    def write_deletes(
        self, table_id: int, data_path: str, positions: np.ndarray[Any, Any]
    ) -> NewFile:
        """Write the deleted positions of a data file, in order, durably."""
        name = f"{table_id}/{self._new_id()}.deletes.parquet"
        paths = pa.DictionaryArray.from_arrays(
            pa.array(np.zeros(len(positions), np.int32)), [self.address(data_path)]
        )
        schema = pa.schema(
            [
                _field("file_path", paths.type, PATH_ID),
                _field("pos", pa.int64(), POSITION_ID),
            ]
        )
        rows = pa.table([paths, pa.array(positions.astype(np.int64))], schema=schema)
        self._begins(name)
        written = self.location.store(name, lambda where: _write_plain(rows, where))
        return NewFile(
            path=name,
            rows=len(positions),
            bytes=written.bytes,
            footer_bytes=written.footer_bytes,
        )

    def read(self, name: str) -> pa.Table:
        """All of a file, as it is stored."""
        with self.location.open(name) as file:
            return pq.read_table(file)

    def replace(self, name: str, rows: pa.Table) -> None:
        """Write a file again that is in no manifest."""
        self.location.store(name, lambda where: pq.write_table(rows, where, compression="zstd"))

    def unlink(self, names: Sequence[str]) -> int:
        """Remove files, and what was written of them; those that are gone already don't count.
        Returns how many there were."""
        return self.location.unlink(names) if names else 0

    def found(self) -> Mapping[str, float]:
        """All files, and when each was written, in seconds since the epoch."""
        return self.location.found()


def _only_their_users(rows: pa.Table) -> pa.Table:
    """The rows with no other users in the dictionary: a file must not name who has no row in it."""
    users = rows.column(USER).unify_dictionaries()
    named = len(users.chunk(0).dictionary) if users.num_chunks else 0
    indices = pa.chunked_array([chunk.indices for chunk in users.chunks], pa.int32())
    if pc.count_distinct(indices).as_py() < named:
        users = users.cast(pa.string()).dictionary_encode()
    return rows.set_column(0, rows.schema.field(0), users)


def _bounds(rows: pa.Table) -> tuple[str | None, str | None]:
    """The first and the last user; nothing where PostgreSQL could not store them."""
    users = rows.column(USER)
    least, greatest = users[0].as_py(), users[-1].as_py()
    return (None, None) if "\x00" in least + greatest else (least, greatest)


def _write_plain(rows: pa.Table, where: Any) -> None:
    pq.write_table(
        rows,
        where,
        use_dictionary=["file_path"],  # pyright: ignore[reportArgumentType]
        column_encoding={"pos": "DELTA_BINARY_PACKED"},
        compression="zstd",
        store_schema=False,
    )
