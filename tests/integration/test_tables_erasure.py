"""Who is erased is in no table, hot or in files, at no snapshot; everybody else's rows stay."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
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
        for user in ("ada", "bob"):
            text = SECRET if user == "ada" else "plain"
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
        file for file in files if {w for w in (SECRET.encode(), b"ada") if w in file.read_bytes()}
    ]


def test_an_erased_user_is_in_no_table_and_the_erasure_ends_when_old_files_are_gone(
    notes: Surgetank,
) -> None:
    home = notes.parts.settings.home
    assert has_the_secret(home)
    first = notes.erase_user("ada")
    assert first.state == "running"
    assert "old files of tables" in first.unfinished[0]
    assert first.removed["rows of tables"] == 3
    assert (texts(notes, "ada"), texts(notes, "bob")) == ([], ["other", "plain 1", "plain 2"])
    again = notes.erase_user("ada")
    assert again.state == "running"
    cold = notes.parts.tables.open().cold
    with mock.patch.object(cold, "_keeping", AT_ONCE):
        assert cold.sweep() >= 2
    done = notes.erase_user("ada")
    assert (done.state, done.unfinished) == ("completed", ())
    assert has_the_secret(home) == []
    assert texts(notes, "bob") == ["other", "plain 1", "plain 2"]


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
