"""Every type that a column can be declared with: what is stored comes back as it was declared, hot and from files, and
what does not fit is refused whatever statement brings it."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import pytest

from surgetank import Surgetank
from surgetank.app.sql import SqlCaller
from surgetank.exceptions import EntryRejected, SurgetankError
from surgetank.streams.tables.types import NAMES

UTC = dt.UTC
# The declared type, DuckDB's name, a literal, the value as Python has it, and a query's value that does not fit.
TYPES: list[tuple[str, str, str, Any, str]] = [
    ("BOOLEAN", "BOOLEAN", "true", True, "2"),
    ("SMALLINT", "SMALLINT", "-32768", -32768, "32768"),
    ("INT", "INTEGER", "2147483647", 2147483647, "1.5"),
    ("BIGINT", "BIGINT", "-9223372036854775808", -(2**63), "9223372036854775808"),
    ("REAL", "FLOAT", "1.5", 1.5, "1e300::DOUBLE"),
    ("DOUBLE", "DOUBLE", "0.1", 0.1, "9007199254740993"),
    ("DECIMAL(10, 2)", "DECIMAL(10,2)", "9.99", Decimal("9.99"), "9.999"),
    ("TEXT", "VARCHAR", "'tea'", "tea", "5"),
    ("DATE", "DATE", "'2026-11-28'", dt.date(2026, 11, 28), "TIMESTAMP '2026-11-28 01:00:00'"),
    ("TIME", "TIME", "'07:15:00.5'", dt.time(7, 15, 0, 500000), "'25:00:00'"),
    ("TIMESTAMP", "TIMESTAMP", "'2026-11-28 07:15:00'", dt.datetime(2026, 11, 28, 7, 15), "now()"),
    ("TIMESTAMPTZ", "TIMESTAMP WITH TIME ZONE", "'2026-11-28T09:15:00+02:00'",
     dt.datetime(2026, 11, 28, 7, 15, tzinfo=UTC), "'tomorrow'"),
    ("JSON", "JSON", """'{"b": [1, null], "a": "x"}'""", '{"a":"x","b":[1,null]}', "'{a}'"),
    ("BYTES", "BLOB", r"'\x00ff'", b"\x00\xff", "'text'"),
    ("UUID", "UUID", "'00000000-0000-4000-8000-000000000001'", "00000000-0000-4000-8000-000000000001", "'x'"),
]  # fmt: skip
ANN = SqlCaller(user="ann")


@pytest.fixture
def typed(tank: Surgetank) -> Surgetank:
    columns = [f"c{n} {name}, l{n} {name}[]" for n, (name, *_) in enumerate(TYPES)]
    tank.sql(f"CREATE TABLE typed (id BIGINT PRIMARY KEY, {', '.join(columns)})")
    return tank


def test_values_come_back_as_declared_hot_and_from_files(typed: Surgetank) -> None:
    assert {name.partition("(")[0] for name, *_ in TYPES} == set(NAMES)
    names = ", ".join(f"c{n}, l{n}" for n in range(len(TYPES)))
    values = ", ".join(f"{literal}, [{literal}, NULL]" for _, _, literal, *_ in TYPES)
    typed.sql(f"INSERT INTO typed (id, {names}) VALUES (1, {values})", user="ann")
    typed.sql(f"INSERT INTO typed SELECT 2 AS id, {names} FROM typed", user="ann")
    expected = [each for _, _, _, value, _ in TYPES for each in (value, [value, None])]
    kinds = [each for _, kind, *_ in TYPES for each in (kind, f"{kind}[]")]
    for flushed in (False, True):
        if flushed:
            assert typed.tables.flush("typed").ok
        for caller in (ANN, SqlCaller(user="ann", trusted=True)):
            (result,) = typed.sql.run(f"SELECT {names} FROM typed ORDER BY id", caller).done()
            assert result.rows is not None
            assert list(result.types) == kinds
            found = [_plain(list(row.values())) for row in result.rows.to_pylist()]
            assert found == [expected, expected], flushed


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return value if isinstance(value, (bool, int, float, Decimal, str, bytes, dt.date, dt.time)) or (
        value is None
    ) else str(value)  # fmt: skip


def test_what_does_not_fit_is_refused_by_every_statement(typed: Surgetank) -> None:
    typed.sql("INSERT INTO typed (id) VALUES (1)", user="ann")
    for at, (name, _, _, _, misfit) in enumerate(TYPES):
        for column, value in ((f"c{at}", misfit), (f"l{at}", f"[{misfit}]")):
            for text in (
                f"INSERT INTO typed (id, {column}) VALUES (2, {value})",
                f"INSERT INTO typed (id, {column}) SELECT 2, {value}",
                f"UPDATE typed SET {column} = {value}",
            ):
                error = typed.sql.run(text, SqlCaller(user="ann", trusted=True)).error
                assert isinstance(error, SurgetankError), (name, text)
    (result,) = typed.sql("SELECT count(*) AS n, count(COLUMNS('^[cl]')) FROM typed", user="ann")
    assert result.rows is not None
    assert set(result.rows.to_pylist()[0].values()) == {1, 0}, "nothing was changed"


def test_a_value_is_never_rounded_or_cut_on_its_way(tank: Surgetank) -> None:
    tank.sql("CREATE TABLE few (id INT PRIMARY KEY, price DECIMAL(10, 2), n INT, j JSON, u TEXT)")
    with pytest.raises(EntryRejected, match="no integer") as refused:
        tank.sql("INSERT INTO few (id, n) SELECT i, i / 2 FROM range(4) r (i)", user="ann")
    assert refused.value.path == "$[1].n", "the row and the column are named"
    tank.sql(
        "INSERT INTO few (id, n, j, u) SELECT i, sum(i * 2), {'k': [i, NULL]}, CAST(i AS TEXT)"
        " FROM range(3) r (i) GROUP BY i; UPDATE few SET price = round(n * 1.005, 2), n = '7'",
        user="ann",
    )
    (result,) = tank.sql("SELECT * FROM few ORDER BY id", user="ann")
    assert result.rows is not None
    assert [tuple(row.values()) for row in result.rows.to_pylist()] == [
        (0, Decimal("0.00"), 7, '{"k":[0,null]}', "0"),
        (1, Decimal("2.01"), 7, '{"k":[1,null]}', "1"),
        (2, Decimal("4.02"), 7, '{"k":[2,null]}', "2"),
    ]
