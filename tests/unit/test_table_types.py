"""Types of tables' columns: one mapping, and what it refuses."""

from __future__ import annotations

import pyarrow as pa
import pytest

from surgetank.exceptions import InvalidRequest
from surgetank.streams.tables.types import NAMES, ColumnType


@pytest.mark.parametrize("name", NAMES)
def test_each_type_can_be_written_to_parquet_and_is_said_again_as_it_was_declared(
    name: str,
) -> None:
    for text in (name, f"{name}[]"):
        found = ColumnType.parse(text)
        assert ColumnType.parse(found.sql) == found
        assert isinstance(found.arrow, pa.DataType)
        assert found.duckdb
        assert found.ducklake
        assert found.sqlite in {"INTEGER", "REAL", "TEXT", "BLOB"}


def test_synonyms_of_other_databases_are_the_same_type() -> None:
    assert ColumnType.parse("double  precision") == ColumnType.parse("DOUBLE")
    assert ColumnType.parse("numeric(10,2)") == ColumnType.parse("DECIMAL(10, 2)")
    assert ColumnType.parse("timestamp with time zone[]").sql == "TIMESTAMPTZ[]"


@pytest.mark.parametrize(
    ("text", "instead"),
    [
        ("INTERVAL", "BIGINT"),
        ("STRUCT(a INT)", "JSON"),
        ("MAP(TEXT, INT)", "JSON"),
        ("CHAR(3)", "TEXT"),
        ("TIMESTAMP_NS", "TIMESTAMP"),
        ("HUGEINT", "DECIMAL(38, 0)"),
        ("DECIMAL(39, 0)", "38 digits"),
        ("DECIMAL(3, 4)", "digits"),
        ("VARCHAR(20)", "TEXT"),
        ("TEXT[][]", "one of"),
        ("x'; DROP TABLE", "one of"),
        ("", "one of"),
    ],
)
def test_a_type_that_could_not_be_flushed_is_refused_with_the_one_to_use(
    text: str, instead: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        ColumnType.parse(text)
    assert instead in str(caught.value)
