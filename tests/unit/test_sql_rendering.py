"""Rows of SQL as JSON, CSV and files have them."""

from __future__ import annotations

import csv
import io
import json

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from surgetank.app.rendering import (
    objects,
    plain_rows,
    write_arrow,
    write_csv,
    write_ndjson,
    write_parquet,
)
from surgetank.console.drawing import chart_of
from surgetank.encode.jsontext import dumps_exact

VALUES = {
    "1::BIGINT": 1, "sum(5::BIGINT)": 5, "170141183460469231731687303715884105727::HUGEINT": 2**127 - 1,
    "1.50::DECIMAL(10, 2)": "1.50", "1.5::DOUBLE": 1.5, "'nan'::DOUBLE": "NaN", "'-inf'::DOUBLE": "-Infinity",
    "true": True, "NULL": None, "'x'": "x", "DATE '2026-01-02'": "2026-01-02", "TIME '01:02:03.5'": "01:02:03.500000",
    "TIMESTAMP '2026-01-02 03:04:05'": "2026-01-02T03:04:05",
    "TIMESTAMPTZ '2026-01-02 03:04:05+00'": "2026-01-02T03:04:05+00:00",
    "'\\xFF'::BLOB": "/w==", "uuid '00000000-0000-0000-0000-000000000007'": "00000000-0000-0000-0000-000000000007",
    """'{"a": [1, null]}'::JSON""": {"a": [1, None]}, "[1, NULL]": [1, None], "{'a': 1.5::DECIMAL(3, 1)}": {"a": "1.5"},
    "MAP {'k': 1}": [["k", 1]], "INTERVAL '1 month 2 days 3.5 seconds'": "P1M2DT3.5S", "INTERVAL '0 days'": "PT0S",
    "'a'::ENUM ('a')": "a", "12::UBIGINT": 12, "INTERVAL 12 HOUR": "PT43200S",
}  # fmt: skip


def answer(text: str) -> tuple[pa.Table, list[str]]:
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    relation = connection.sql(text)
    return relation.to_arrow_table(), [str(each) for each in relation.types]


def test_every_type_has_a_form_in_json():
    columns = ", ".join(f"{text} AS c{number}" for number, text in enumerate(VALUES))
    ((*row,),) = plain_rows(*answer(f"SELECT {columns}"))
    assert dict(zip(VALUES, row, strict=True)) == VALUES
    json.dumps(row, allow_nan=False)


def test_times_that_python_has_not_are_text():
    """A date of the year 5881580 is an answer, not the end of the request."""
    texts = (
        "DATE '12000-07-10'", "DATE '5881580-07-10'", "TIMESTAMP '290309-12-22 (BC) 00:00:00'",
        "[DATE '12000-07-10', NULL]", "{'a': DATE '12000-07-10', 'b': 1}", "'101'::BIT",
        "TIMESTAMP_NS '2026-01-02 03:04:05.123456789'",
        "MAP {'k': DATE '12000-07-10'}", "NULL::DATE", "DATE '2026-01-02'", "TIMESTAMP 'infinity'",
    )  # fmt: skip
    for text in texts:
        table, types = answer(f"SELECT {text} AS a, 1 AS b")
        ((found, one),) = plain_rows(table, types)
        assert one == 1
        json.dumps(found, allow_nan=False)
        chart_of(table, types)
    ((found,),) = plain_rows(*answer("SELECT {'a': DATE '12000-07-10', 'b': 1}"))
    assert found == {"a": "12000-07-10", "b": 1}


def test_csv_tells_null_from_an_empty_text_and_is_read_back():
    target = io.StringIO()
    write_csv(
        *answer("""SELECT NULL AS "a,b", '' AS b, 'x "y"\n' AS c, [1] AS d, true AS e"""), target
    )
    text = target.getvalue()
    assert text.splitlines()[1].startswith(',"",')
    names, row = csv.reader(io.StringIO(text, newline=""))
    assert names == ["a,b", "b", "c", "d", "e"]
    assert row == ["", "", 'x "y"\n', "[1]", "true"]


def test_ndjson_arrow_and_parquet_have_all_rows():
    table, types = answer("SELECT range AS n, 'é' AS t FROM range(3)")
    lines, stream, file = io.StringIO(), io.BytesIO(), io.BytesIO()
    write_ndjson(table, types, lines)
    write_arrow(table, stream)
    write_parquet(table, file)
    expected = [{"n": n, "t": "é"} for n in range(3)]
    assert [json.loads(line) for line in lines.getvalue().splitlines()] == expected
    assert pa.ipc.open_stream(stream.getvalue()).read_all().to_pylist() == expected
    assert pq.read_table(file).to_pylist() == expected == list(objects(table, types))


def test_a_text_is_written_as_it_is_with_nul_and_numbers_of_any_length():
    answered = answer(
        """SELECT 'a' || chr(0) || 'b' AS t, '{"k":"\\u0000"}'::JSON AS j, [2::HUGEINT ** 100] AS n"""
    )
    lines = io.StringIO()
    write_ndjson(*answered, lines)
    row = json.loads(lines.getvalue())
    assert (row["t"], row["j"]) == ("a\0b", {"k": "\0"})


def test_what_can_not_be_written_exactly_is_sanitized():
    assert dumps_exact({"a": "x\0", "n": 2**70}) == b'{"a": "x\\u0000", "n": %d}' % 2**70
    assert json.loads(dumps_exact({"a": "\ud800", "n": float("nan")}))["n"] is None
