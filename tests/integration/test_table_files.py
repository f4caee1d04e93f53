"""Tables out into files and in from them: every type comes back, an interrupted import stores no row twice, a bad
file stores nothing, an export is there when it is complete."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from surgetank import Surgetank
from surgetank.app import table_files
from surgetank.exceptions import Conflict, EntryRejected, InvalidRequest, NotFound
from surgetank.streams.tables import insertion
from surgetank.streams.tables.exchange import reading

ALL = """(id BIGINT, b BOOLEAN, s SMALLINT, i INT, r REAL, d DOUBLE, m DECIMAL(12, 3), t TEXT, da DATE, ti TIME,
    ts TIMESTAMP, tz TIMESTAMPTZ, j JSON, y BYTES, u UUID, lt TEXT[], lj JSON[], ly BYTES[], lm DECIMAL(6, 2)[])"""
VALUES = """(1, true, -7, 8, 0.1, 2.5, 9.125, 'te"a,\n', '2026-11-28', '07:15:00.000001', '2026-11-28T07:15:00.5',
    '2026-11-28T07:15:00Z', '{"a": [1, null, "x"]}', '\\x00ff', '00000000-0000-0000-0000-00000000002a', ['a', NULL, ''],
    ['1', '"x"', '[null]'], ['\\x01'], [1.25]),
    (2, NULL, NULL, NULL, NULL, 'NaN', NULL, '', NULL, NULL, NULL, NULL, 'null', '\\x', NULL, [], NULL, NULL, NULL),
    (3, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)"""


@pytest.fixture
def shop(tank: Surgetank) -> Surgetank:
    tank.sql(f"CREATE NAMESPACE shop; CREATE TABLE shop.all {ALL}; CREATE TABLE shop.copy {ALL}")
    return tank


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_ROWS", 3)


def rows(tank: Surgetank, text: str) -> list[tuple[Any, ...]]:
    found = tank.sql(text)[0].rows
    assert found is not None
    return [tuple(row.values()) for row in found.to_pylist()]


def lines(path: Path, *found: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in found))
    return path


@pytest.mark.parametrize("form", ["parquet", "csv", "ndjson"])
def test_every_type_comes_back_as_it_went(shop, tmp_path, form):
    shop.sql(f"INSERT INTO shop.all VALUES {VALUES}", user="ann")
    assert shop.tables.flush("shop.all").ok
    shop.sql("INSERT INTO shop.all (id, t) VALUES (1, 'bob''s')", user="bob")
    shop.sql("UPDATE shop.all SET i = 9 WHERE id = 3", user="ann")
    file = tmp_path / f"all.{form}"
    done = shop.tables.export_to("shop.all", file, form=form)
    assert (done.rows, done.bytes) == (4, file.stat().st_size)
    came = shop.tables.import_from("shop.copy", file)
    assert (came.rows, came.repeated, came.bad_rows) == (4, 0, 0)
    every = "SELECT _user, * FROM shop.{} ORDER BY _user, id"
    before = str(rows(shop, every.format("all")))
    if form == "ndjson":  # JSON has one null
        before = before.replace("'null'", "None")
    assert str(rows(shop, every.format("copy"))) == before
    assert shop.tables.export_to("shop.all", tmp_path / "bob", form=form, user="bob").rows == 1


def test_a_delta_table_is_read_by_others(shop, tmp_path):
    shop.sql(f"INSERT INTO shop.all VALUES {VALUES}", user="ann")
    assert shop.tables.flush("shop.all").ok
    shop.sql("DELETE FROM shop.all WHERE id = 3", user="ann")
    done = shop.tables.export_to("shop.all", tmp_path / "delta", form="delta")
    found = import_module("deltalake").DeltaTable(str(tmp_path / "delta")).to_pyarrow_table()
    assert (found.num_rows, done.rows) == (2, 2)
    row = found.sort_by("id").to_pylist()[0]
    assert (row["_user"], row["m"], row["u"][-2:]) == ("ann", Decimal("9.125"), "2a")
    assert (row["ti"], json.loads(row["j"]), row["lt"]) == (
        "07:15:00.000001",
        {"a": [1, None, "x"]},
        ["a", None, ""],
    )
    with pytest.raises(InvalidRequest, match="there already"):
        shop.tables.export_to("shop.all", tmp_path / "delta", form="delta")
    again = shop.tables.export_to(
        "shop.all", tmp_path / "delta", form="delta", user="bob", replace=True
    )
    assert again.rows == 0
    assert (
        import_module("deltalake").DeltaTable(str(tmp_path / "delta")).to_pyarrow_table().num_rows
        == 0
    )


def test_an_export_is_one_moment_and_there_when_it_is_complete(shop, tmp_path):
    shop.tables.insert("shop.all", [{"id": n} for n in range(5)], user="ann")
    folder = tmp_path / "out"
    target = folder / "all.ndjson"

    def fail(_at: int, _of: int) -> None:
        assert not target.exists()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shop.tables.export_to("shop.all", target, form="ndjson", progress=fail)
    assert list(folder.iterdir()) == []
    (folder / ".all.ndjson.partial-dead").write_text("what a killed process left")

    def insert(_at: int, _of: int) -> None:
        shop.tables.insert("shop.all", [{"id": 99}], user="ann")

    assert shop.tables.export_to("shop.all", target, form="ndjson", progress=insert).rows == 5
    assert len(target.read_text().splitlines()) == 5
    assert [path.name for path in folder.iterdir()] == ["all.ndjson"]
    with pytest.raises(InvalidRequest, match="there already"):
        shop.tables.export_to("shop.all", target, form="csv")
    with pytest.raises(KeyboardInterrupt):
        shop.tables.export_to("shop.all", target, form="csv", progress=_interrupt, replace=True)
    assert len(target.read_text().splitlines()) == 5  # what was there before
    assert shop.tables.export_to("shop.all", target, form="csv", replace=True).rows >= 6
    assert target.stat().st_mode & 0o77 == 0
    with pytest.raises(NotFound):
        shop.tables.export_to("shop.nothing", tmp_path / "x", form="csv")


@pytest.mark.parametrize("form", ["ndjson", "delta"])
def test_an_export_begins_again_when_somebody_is_erased_and_old_files_go(shop, tmp_path, form):
    opened = shop.parts.tables.open()
    for n in range(3):
        for user in ("ann", "bob"):
            shop.tables.insert("shop.all", [{"id": n, "t": user}], user=user)
        assert shop.flush().ok
    erased: list[str] = []

    def erase(at: int, of: int) -> None:
        erased.append(f"{at} of {of}")
        if len(erased) <= often:
            opened.erase_user(["bob", "nobody", "cay"][len(erased) - 1])
            for file in Path(opened.cold.address).glob("*/*"):
                if f"{file.parent.name}/{file.name}" not in named(opened):
                    file.unlink()  # as a sweep does after a quarter of an hour

    often = 1
    target = tmp_path / "all"
    done = shop.tables.export_to("shop.all", target, form=form, progress=erase)
    assert (done.rows, erased[0], erased[1:]) == (3, "2 of 6", ["1 of 3", "2 of 3", "3 of 3"])
    found = b"".join(
        each.read_bytes() for each in ([target] if target.is_file() else target.rglob("*.parquet"))
    )
    assert (b"ann" in found, b"bob" in found) == (True, False)
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith((".all", "all"))] == [
        "all"
    ]


def test_the_archive_of_a_user_goes_on_where_files_of_a_table_go(shop, tmp_path, monkeypatch):
    shop.tables.insert("shop.all", [{"id": 1, "t": "hers"}], user="ann")
    assert shop.flush().ok
    scan, gone = table_files._scan, [True]

    def once(*given):
        if gone.pop() if gone else False:
            raise table_files._Rewritten
        return scan(*given)

    monkeypatch.setattr(table_files, "_scan", once)
    done = shop.transfers.export_user("ann", tmp_path / "ann.zip")
    assert [(each.name, each.rows) for each in done.members if each.name.startswith("tables/")] == [
        ("tables/shop.all.parquet", 1)
    ]
    assert [each.name for each in tmp_path.glob(".ann*")] == []


def test_an_export_that_finds_no_peace_says_so(shop, tmp_path, monkeypatch):
    shop.tables.insert("shop.all", [{"id": 1}], user="ann")
    assert shop.flush().ok
    monkeypatch.setattr(table_files, "_scan", mock.Mock(side_effect=table_files._Rewritten))
    with pytest.raises(Conflict, match="rewritten while it was exported, 3 times"):
        shop.tables.export_to("shop.all", tmp_path / "all.csv", form="csv")
    assert list(tmp_path.glob("*all.csv*")) == []


def named(opened: Any) -> set[str]:
    (table,) = [each for each in opened.catalog.tables() if each.name == "all"]
    files = opened.cold.live(table, stores=()).files
    return {path for file in files for path in (file.path, file.delete_path) if path}


def _interrupt(_at: int, _of: int) -> None:
    raise KeyboardInterrupt


def test_an_import_that_is_interrupted_anywhere_goes_on_and_stores_no_row_twice(
    shop, tmp_path, small, monkeypatch
):
    file = lines(tmp_path / "rows.ndjson", *({"_user": f"u{n % 3}", "id": n} for n in range(10)))
    hot = shop.parts.tables.open().hot
    plain, calls = hot.accept, 0
    for kill_before, at in ((True, 1), (False, 1), (True, 2), (False, 2)):

        def accept(*given: Any, kill: bool = kill_before, number: int = at, **more: Any) -> Any:
            nonlocal calls
            calls += 1
            if kill and calls == number:
                raise KeyboardInterrupt
            done = plain(*given, **more)
            if calls == number:
                raise KeyboardInterrupt
            return done

        calls = 0
        monkeypatch.setattr(hot, "accept", accept)
        with pytest.raises(KeyboardInterrupt):
            shop.tables.import_from("shop.copy", file)
    monkeypatch.setattr(hot, "accept", plain)
    done = shop.tables.import_from("shop.copy", file)
    assert (done.rows + done.repeated, done.repeated > 0) == (10, True)
    assert rows(shop, "SELECT id FROM shop.copy ORDER BY id") == [(n,) for n in range(10)]
    assert shop.tables.import_from("shop.copy", file).repeated == 10
    assert shop.tables.import_from("shop.copy", file, again="once more").rows == 10


BAD = [
    {"id": 1},
    {"id": 2},
    {"id": 3},
    {"id": "x"},
    {"id": 5, "b": 7},
    {"id": 6, "colour": 1},
    {"id": 7},
]


def test_a_file_with_a_bad_row_stores_nothing_or_all_others(shop, tmp_path, small):
    file = lines(tmp_path / "rows.ndjson", *BAD)
    with pytest.raises(EntryRejected) as refused:
        shop.tables.import_from("shop.copy", file, user="ann")
    assert refused.value.path == "$[3].id"
    assert rows(shop, "SELECT id FROM shop.copy") == []
    listed: list[Any] = []
    for repeated in (0, 4):
        listed.clear()
        done = shop.tables.import_from(
            "shop.copy", file, user="ann", on_bad="skip", bad=listed.append
        )
        assert (done.rows + done.repeated, done.repeated, done.bad_rows) == (4, repeated, 3)
        assert [(each.index, each.path) for each in listed] == [
            (3, "$[3].id"), (4, "$[4].b"), (5, "$[5].colour"),
        ]  # fmt: skip
    assert rows(shop, "SELECT id FROM shop.copy ORDER BY id") == [(1,), (2,), (3,), (7,)]
    pq.write_table(
        pa.table({"id": ["1", "x", "3", "4", "y"]}), tmp_path / "rows.parquet", row_group_size=2
    )
    with pytest.raises(EntryRejected) as refused:
        shop.tables.import_from("shop.copy", tmp_path / "rows.parquet", user="ann")
    assert refused.value.path == "$[0].id"  # a text is no number


@pytest.mark.parametrize("form", ["ndjson", "csv", "parquet"])
def test_a_row_that_is_too_large_is_a_bad_row(shop, tmp_path, monkeypatch, form):
    accepting = shop.parts.tables.open().hot.accept.__self__
    monkeypatch.setattr(accepting, "_row_max_bytes", 2_000)
    monkeypatch.setattr(insertion, "SEGMENT_ROWS", 4)  # Parquet comes in as one batch
    ids, texts = list(range(8)), ["short"] * 5 + ["long" * 600] + ["short"] * 2
    file = tmp_path / f"rows.{form}"
    if form == "parquet":
        pq.write_table(pa.table({"id": ids, "t": texts}), file)
    elif form == "csv":
        file.write_text("id,t\n" + "".join(f"{n},{t}\n" for n, t in zip(ids, texts, strict=True)))
    else:
        lines(file, *({"id": n, "t": t} for n, t in zip(ids, texts, strict=True)))
    if form != "parquet":
        monkeypatch.setattr(reading, "_ROWS", 3)
    with pytest.raises(EntryRejected, match="2000 are the most") as refused:
        shop.tables.import_from("shop.copy", file, user="ann")
    assert refused.value.path == "$[5]"
    assert rows(shop, "SELECT id FROM shop.copy") == []
    done = shop.tables.import_from("shop.copy", file, user="ann", on_bad="skip")
    assert (done.rows, done.bad_rows, [each.index for each in done.bad]) == (7, 1, [5])
    with pytest.raises(EntryRejected, match=r"\$\[1\].*2000 are the most"):
        shop.tables.insert("shop.copy", [{"id": 1}, {"t": "x" * 2000}], user="ann")


def test_a_key_that_is_there_is_named_by_its_row_in_the_file(shop, tmp_path, small):
    shop.sql("CREATE TABLE shop.keyed (id BIGINT PRIMARY KEY, t TEXT)")
    shop.tables.insert("shop.keyed", [{"id": 5, "t": "old"}], user="ann")
    file = lines(tmp_path / "rows.ndjson", *({"id": n, "t": "new"} for n in range(7)))
    with pytest.raises(Conflict, match=r"Row 5: .* id = 5 already"):
        shop.tables.import_from("shop.keyed", file, user="ann")
    done = shop.tables.import_from("shop.keyed", file, user="ann", on_conflict="update")
    assert (done.repeated, done.rows, done.updated) == (3, 3, 1)
    assert rows(shop, "SELECT count(*), count(*) FILTER (t = 'new') FROM shop.keyed") == [(7, 7)]


@pytest.mark.parametrize("form", ["parquet", "csv", "ndjson"])
def test_a_file_that_is_cut_off_stores_nothing(shop, tmp_path, form):
    shop.tables.insert("shop.all", [{"id": n, "t": "tea" * 9} for n in range(50)], user="ann")
    file = tmp_path / f"all.{form}"
    shop.tables.export_to("shop.all", file, form=form)
    data = file.read_bytes()
    for length in (0, 3, len(data) // 2, len(data) - 3):
        file.write_bytes(data[:length])
        if form == "ndjson" and not length:
            assert shop.tables.import_from("shop.copy", file).rows == 0
            continue
        with pytest.raises((InvalidRequest, EntryRejected)):
            shop.tables.import_from("shop.copy", file)
    assert rows(shop, "SELECT count(*) FROM shop.copy") == [(0,)]
    flipped = bytearray(data)
    flipped[len(data) // 3] ^= 0xFF
    file.write_bytes(flipped)
    with pytest.raises((InvalidRequest, EntryRejected)):
        shop.tables.import_from("shop.copy", file)
    assert rows(shop, "SELECT count(*) FROM shop.copy") == [(0,)]


def test_hostile_csv_is_refused_by_row_or_as_a_file(shop, tmp_path):
    file = tmp_path / "rows.csv"
    for head in (b"", b"\n", b"id,id\n1,2\n", b"id,\n1,2\n", b"\xff\xfe\n", b'"id\n1'):
        file.write_bytes(head)
        with pytest.raises(InvalidRequest):
            shop.tables.import_from("shop.copy", file, user="ann")
    file.write_bytes(
        b'\xef\xbb\xbfid,t\r\n1,"a\nb"\r\n2\r\n3,"\xff"\r\n4,x,y\r\n5,\x00\r\n6,""\r\n7,\r\nx,8\r\n'
        b'=1+1,"\'; DROP TABLE x"\r\n'
    )
    done = shop.tables.import_from("shop.copy", file, user="ann", on_bad="skip")
    assert [each.index for each in done.bad] == [1, 2, 3, 7, 8]
    assert rows(shop, "SELECT id, t FROM shop.copy ORDER BY id") == [
        (1, "a\nb"), (5, "\x00"), (6, ""), (7, None),
    ]  # fmt: skip


def test_whose_the_rows_are_is_said_once(shop, tmp_path):
    file = tmp_path / "rows.csv"
    file.write_text("id,who\n1,ann\n2,bob\n3,\n")
    for wrong in ({}, {"user": "ann", "user_column": "who"}, {"user_column": "nobody"}):
        with pytest.raises(InvalidRequest):
            shop.tables.import_from("shop.copy", file, **wrong)
    with pytest.raises(EntryRejected) as refused:
        shop.tables.import_from("shop.copy", file, user_column="who")
    assert refused.value.path == "$[2]._user"
    assert shop.tables.import_from("shop.copy", file, user_column="who", on_bad="skip").rows == 2
    assert rows(shop, "SELECT _user, id FROM shop.copy ORDER BY id") == [("ann", 1), ("bob", 2)]
    with pytest.raises(InvalidRequest, match="can't be told"):
        shop.tables.import_from("shop.copy", tmp_path / "rows.xls", user="ann")
    with pytest.raises(InvalidRequest, match="can't be read"):
        shop.tables.import_from("shop.copy", tmp_path / "missing.csv", user="ann")


def test_a_table_is_made_for_a_file(shop, tmp_path):
    kinds: dict[str, Callable[[Path], object]] = {
        "parquet": lambda path: pq.write_table(
            pa.table(
                {
                    "_user": ["ann"],
                    "n": pa.array([1], pa.uint64()),
                    "s": [{"a": 1}],
                    "l": [["x"]],
                    "f": [1.5],
                }
            ),
            path,
        ),
        "csv": lambda path: path.write_text(
            "_user,n,f,d,z,t,o\nann,1,1.5,2026-11-28,2026-11-28T07:00:00Z,007,\n"
        ),
        "ndjson": lambda path: lines(
            path, {"_user": "ann", "n": 1, "s": {"a": 1}}, {"_user": "bob", "f": 2, "n": 2}
        ),
    }
    found = {}
    for form, write in kinds.items():
        write(tmp_path / f"made.{form}")
        done = shop.tables.import_from(f"made.{form}", tmp_path / f"made.{form}", create=True)
        assert done.created, form
        assert done.rows == (2 if form == "ndjson" else 1)
        columns = shop.tables.describe(f"made.{form}").columns
        found[form] = {column.name: column.type.sql for column in columns}
    assert found == {
        "parquet": {"n": "DECIMAL(20, 0)", "s": "JSON", "l": "TEXT[]", "f": "DOUBLE"},
        "csv": {
            "n": "BIGINT",
            "f": "DOUBLE",
            "d": "DATE",
            "z": "TIMESTAMPTZ",
            "t": "TEXT",
            "o": "TEXT",
        },
        "ndjson": {"n": "BIGINT", "s": "JSON", "f": "BIGINT"},
    }
    file = lines(tmp_path / "odd.ndjson", {"no name; DROP": 1})
    with pytest.raises(InvalidRequest, match="can't be called"):
        shop.tables.import_from("made.odd", file, create=True, user="ann")


@pytest.mark.parametrize("form", ["ndjson", "csv"])
def test_numbers_that_are_not_finite_come_back_as_numbers(shop, tmp_path, form):
    shop.sql("CREATE TABLE shop.numbers (r REAL, d DOUBLE, n DOUBLE, t TEXT, m TEXT)")
    found = [
        {"r": math.inf, "d": math.nan, "n": 10.0**30, "t": "NaN", "m": "Infinity"},
        {"r": -math.inf, "d": 1.5, "n": math.nan, "t": "word", "m": "-Infinity"},
    ]
    shop.tables.insert("shop.numbers", found, user="ann")
    file = tmp_path / f"numbers.{form}"
    shop.tables.export_to("shop.numbers", file, form=form)
    assert shop.tables.import_from("made.numbers", file, create=True).rows == 2
    columns = {
        column.name: column.type.sql for column in shop.tables.describe("made.numbers").columns
    }
    assert columns == {"r": "DOUBLE", "d": "DOUBLE", "n": "DOUBLE", "t": "TEXT", "m": "DOUBLE"}
    text = "SELECT CAST(r AS TEXT), CAST(d AS TEXT), CAST(n AS TEXT), t FROM {}.numbers ORDER BY t"
    assert rows(shop, text.format("made")) == rows(shop, text.format("shop"))


def test_a_store_that_is_full_is_flushed_and_the_import_goes_on(
    make_tank: Any, tmp_path: Path
) -> None:
    tank = make_tank(tables_hot_max_bytes=1024**2)
    tank.sql("CREATE NAMESPACE shop; CREATE SHARED TABLE shop.long (id BIGINT, t TEXT)")
    pq.write_table(
        pa.table({"id": range(60_000), "t": ["x" * 40] * 60_000}), tmp_path / "long.parquet"
    )
    done = tank.tables.import_from("shop.long", tmp_path / "long.parquet")
    assert (done.rows, done.job.ok) == (60_000, True)
    assert rows(tank, "SELECT count(*), count(DISTINCT id) FROM shop.long") == [(60_000, 60_000)]


_KILLED = """
import os, signal, sys
from surgetank import Surgetank
home, url, what = sys.argv[1:4]

def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)

tank = Surgetank(home, database_url=url, flush_in_process=False, flush_on_close=False).open()
if what == "import":
    tank.tables.import_from("shop.copy", sys.argv[4], progress=kill)
elif what == "delta":
    tank.tables.export_to("shop.copy", sys.argv[4], form="delta", progress=kill)
else:
    tank.transfers.export_user("ann", sys.argv[4], progress=kill)
"""


def test_killed_there_is_no_half_file_and_no_row_twice(shop, database_url, tmp_path):
    file, out = tmp_path / "rows.parquet", tmp_path / "out"
    pq.write_table(pa.table({"id": range(50_000), "_user": ["ann"] * 50_000}), file)

    def started(what: str, path: Path) -> subprocess.Popen[bytes]:
        home = str(shop.settings.home)
        return subprocess.Popen([sys.executable, "-c", _KILLED, home, database_url, what, path])

    assert started("import", file).wait(60) == -signal.SIGKILL
    done = shop.tables.import_from("shop.copy", file)
    assert (done.repeated, done.rows) == (20_000, 30_000)
    assert rows(shop, "SELECT count(*), count(DISTINCT id) FROM shop.copy") == [(50_000, 50_000)]
    exporting = [started(what, out / what) for what in ("delta", "user")]
    assert [process.wait(60) for process in exporting] == [-signal.SIGKILL] * 2
    assert [path.name for path in out.iterdir() if not path.name.startswith(".")] == []
    shop.tables.export_to("shop.copy", out / "delta", form="delta")
    shop.transfers.export_user("ann", out / "user")
    assert sorted(path.name for path in out.iterdir()) == ["delta", "user"]
