"""Rows that strangers send are read within bounds: what a body would become is known before it is made."""

from __future__ import annotations

import io
import json
import random
from contextlib import suppress
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pytest

from surgetank.exceptions import InvalidRequest
from surgetank.streams.tables import incoming
from surgetank.streams.tables.incoming import RowsForm, rows_of

pc: Any = pyarrow.compute
FORMS = pa.table(
    {
        "n": [1, 2], "s": ["x", None], "d": pa.array(["a", "b"]).dictionary_encode(),
        "v": pa.array(["a", None], pa.string_view()), "bv": pa.array([b"a", b"b"], pa.binary_view()),
        "l": [[1], [2, 3]], "ls": [["a"], None], "f": pa.array([[1, 2], [3, 4]], pa.list_(pa.int8(), 2)),
        "st": [{"q": 1}, {"q": 2}], "u": pa.array([b"0" * 16] * 2, pa.uuid()),
        "j": pa.array(["1", "2"], pa.json_(pa.string())), "e": pa.nulls(2), "b": [True, False],
        "dec": pa.array([1, 2], pa.decimal128(10, 2)), "t": pa.array([1, 2], pa.timestamp("us", "UTC")),
    }
)  # fmt: skip


def stream(table: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table)
    return sink.getvalue()


def arrow(data: bytes) -> pa.Table:
    found: pa.Table = rows_of(data, RowsForm.ARROW)
    return found


def test_arrow_of_all_types_comes_as_it_was_sent() -> None:
    assert arrow(stream(FORMS)).equals(FORMS)
    assert arrow(stream(FORMS.slice(1, 1))).num_rows == 1


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
def test_a_compressed_stream_is_refused_before_it_is_unpacked(compression: str) -> None:
    for table in (FORMS, FORMS.select(["d"])):
        with pytest.raises(InvalidRequest, match="compressed"):
            arrow(stream(table, compression=compression))


def test_what_would_be_far_longer_than_it_was_sent_is_refused() -> None:
    once = pa.array(["x" * 1_000_000])
    many = pa.DictionaryArray.from_arrays(pa.array(np.zeros(100_000, np.int8)), once)
    nulls = pa.ListArray.from_arrays(pa.array([0, 2**30], pa.int32()), pa.nulls(2**30))
    _, view, text = pa.array(["y" * 100_000], pa.string_view()).buffers()
    shown = pa.py_buffer(view.to_pybytes()[:16] * 20_000)
    views = pa.Array.from_buffers(pa.string_view(), 20_000, [None, shown, text])
    for column in (many, nulls, views):
        sent = stream(pa.table({"c": column}))
        with pytest.raises(InvalidRequest, match="times as long"):
            arrow(sent)
    with pytest.raises(InvalidRequest, match="at most"):
        arrow(stream(pa.table({"c": pa.nulls(incoming.MOST_ARROW_ROWS + 1)})))


def test_types_that_no_column_takes_are_refused_by_name() -> None:
    for column in (
        pc.run_end_encode(pa.array([1] * 10)),
        pa.array([[1]], pa.list_view(pa.int8())),
        pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int8())),
    ):
        with pytest.raises(InvalidRequest, match="'c' is sent as"):
            arrow(stream(pa.table({"c": column})))


def test_damaged_and_truncated_streams_are_refused_or_read_and_nothing_else() -> None:
    sent, rng = stream(FORMS), random.Random(7)
    for at in range(400):
        data = bytearray(sent)
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        with suppress(InvalidRequest):
            arrow(bytes(data[: rng.randrange(len(data))] if at % 3 == 0 else data))
    with pytest.raises(InvalidRequest, match="no Arrow"):
        arrow(b"")


def test_json_is_a_list_and_lines_that_are_none_are_refused_one_by_one() -> None:
    assert rows_of(b'[{"a": 1}, 2]', RowsForm.JSON) == [{"a": 1}, 2]
    for data in (b"", b"{}", b"[", b"\xff", b"[" * 100_000, b'{"a": 1}\n{"a": 2}'):
        with pytest.raises(InvalidRequest):
            rows_of(data, RowsForm.JSON)
    found = rows_of(b'{"a": 1}\n\n{"a": \r\n{"a": 2}', RowsForm.NDJSON)
    assert found[0] == {"a": 1}
    assert "no JSON" in found[1].reason
    assert found[2] == {"a": 2}


def test_a_batch_has_a_most_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incoming, "MOST_ROWS", 3)
    for data, form in (
        (json.dumps([{}] * 4).encode(), RowsForm.JSON),
        (b"{}\n" * 4, RowsForm.NDJSON),
    ):
        with pytest.raises(InvalidRequest, match="at most 3"):
            rows_of(data, form)
