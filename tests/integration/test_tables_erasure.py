"""Who is erased is in no table, hot or in files, at no snapshot; everybody else's rows stay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from surgetank import Surgetank
from surgetank.streams.tables.cold.upkeep import KEEPING

SECRET = "b41d-secret"
AT_ONCE = replace(KEEPING, snapshots_s=0.0, grace_s=0.0)


@pytest.fixture
def notes(tank: Surgetank) -> Surgetank:
    tank.sql("CREATE TABLE notes (id BIGINT PRIMARY KEY, text TEXT)")
    for number in range(3):
        for user in ("yves", "bob"):
            text = SECRET if user == "yves" else "plain"
            tank.sql("INSERT INTO notes VALUES (?, ?)", [number, f"{text} {number}"], user=user)
        assert number == 2 or tank.flush().ok  # the last ones stay hot
    tank.sql("UPDATE notes SET text = 'other' WHERE id = 0", user="bob")
    return tank


def texts(tank: Surgetank, user: str) -> list[str]:
    found = tank.sql("SELECT text FROM notes ORDER BY id", user=user)[-1].rows
    assert found is not None
    return [row["text"] for row in found.to_pylist()]


def has_the_secret(home: Path) -> list[Path]:
    """Files of tables with the secret, and those that name the user."""
    files = [*(home / "tables").glob("*/*"), *home.glob("*-tables.db*"), *home.glob("*-segments/*")]
    return [
        file for file in files if {w for w in (SECRET.encode(), b"yves") if w in file.read_bytes()}
    ]


def test_an_erased_user_is_in_no_table_and_the_erasure_ends_when_old_files_are_gone(
    notes: Surgetank,
) -> None:
    home = notes.parts.settings.home
    assert has_the_secret(home)
    first = notes.erase_user("yves")
    assert first.state == "running"
    assert "old files of tables" in first.unfinished[0]
    assert first.removed["rows of tables"] == 3
    assert (texts(notes, "yves"), texts(notes, "bob")) == ([], ["other", "plain 1", "plain 2"])
    again = notes.erase_user("yves")
    assert again.state == "running"
    cold = notes.parts.tables.open().cold
    with mock.patch.object(cold, "_keeping", AT_ONCE):
        assert cold.sweep() >= 2
    done = notes.erase_user("yves")
    assert (done.state, done.unfinished) == ("completed", ())
    assert has_the_secret(home) == []
    assert texts(notes, "bob") == ["other", "plain 1", "plain 2"]


STATEMENTS = {
    "UPDATE notes SET text = text || '!'": [],
    "UPDATE notes SET id = id + 100": [],
    "DELETE FROM notes": [],
    "INSERT INTO notes VALUES (1, 'new', 7) ON CONFLICT DO UPDATE SET n = excluded.n": ["new"],
    "INSERT INTO copies SELECT id, text FROM notes": [],
    "INSERT INTO keyed SELECT id, text FROM notes": [],
    "INSERT INTO notes (id, text) SELECT id + 100, text FROM notes ON CONFLICT DO NOTHING": [],
    "INSERT INTO copies SELECT r, text FROM notes, range(3000) AS many (r)": [],
}


def test_what_was_read_of_a_user_is_not_written_again_after_they_were_erased(
    tank: Surgetank,
) -> None:
    tank.sql("CREATE TABLE notes (id BIGINT PRIMARY KEY, text TEXT, n BIGINT)")
    tank.sql(
        "CREATE TABLE copies (id BIGINT, text TEXT) WITH (TYPE='SHARED', ACCESS_LEVEL='write')"
    )
    tank.sql("CREATE TABLE keyed (id BIGINT PRIMARY KEY, text TEXT)")
    opened = tank.parts.tables.open()
    for number, (statement, left) in enumerate(STATEMENTS.items()):
        user, calls = f"u{number}", list[str]()

        def late(accept: Callable[..., Any], of: str = user, calls: list[str] = calls) -> Any:
            def accepts(*given: Any, **more: Any) -> Any:
                if not calls:
                    assert opened.erase_user(of) != (0, 0)
                calls.append(of)
                return accept(*given, **more)

            return accepts

        tank.sql("INSERT INTO notes (id, text) VALUES (1, ?)", [SECRET], user=user)
        assert number % 2 or tank.flush().ok  # hot, and in files
        with (
            mock.patch.object(opened.hot, "accept", late(opened.hot.accept)),
            mock.patch.object(opened.hot, "accept_arrow", late(opened.hot.accept_arrow)),
        ):
            tank.sql(statement, user=user)
        assert (calls[:1], texts(tank, user)) == ([user], left), statement
        with opened.hot.snapshot() as snapshot:
            rows = [snapshot.rows(table).to_pylist() for table in opened.catalog.tables()]
        assert SECRET not in repr(rows), statement
        assert not [row for each in rows for row in each if row.get("_user") == user and not left]


def test_files_are_merged_in_the_background(notes: Surgetank) -> None:
    for number in range(3, 11):
        notes.sql("INSERT INTO notes VALUES (?, 'more')", [number], user="bob")
        assert notes.flush().ok
    opened = notes.parts.tables.open()
    (table,) = opened.catalog.tables()
    before = texts(notes, "bob")
    assert len(opened.cold.live(table, stores=()).files) > 8
    notes.parts.housekeep()
    assert len(opened.cold.live(table, stores=()).files) == 1
    assert texts(notes, "bob") == before
