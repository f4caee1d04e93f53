"""`surgetank sql` on a terminal, as a person has it."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.terminal import on_terminal
from surgetank import Surgetank


@pytest.mark.parametrize("options", [(), ("--as-user", "ann")], ids=["owner", "confined"])
def test_statements_are_typed_completed_repeated_and_ended(
    options: tuple[str, ...], tank: Surgetank, tmp_path: Path, database_url: str
) -> None:
    tank.sql("CREATE TABLE notes_of_tea (id BIGINT PRIMARY KEY, text TEXT)")
    tank.sql("INSERT INTO notes_of_tea VALUES (1, 'green'), (2, 'a;b')", user="ann")
    home = tank.settings.home
    settings = {"SURGETANK_HOME": str(home), "SURGETANK_DATABASE_URL": database_url}
    with on_terminal("sql", *options, home=tmp_path, settings=settings) as terminal:
        terminal.wait_for("sql> ")
        terminal.type("SELECT id, text\nFROM public.notes_of\t\n")
        terminal.wait_for("...> ")
        terminal.type("WHERE text = 'a;\n")  # no end: it is in a quote
        terminal.wait_for("...> ")
        terminal.type("b' OR id = 1;\n")
        assert "green" in terminal.wait_for("(1 row)")
        terminal.wait_for("sql> ")
        terminal.type("SELECT 1 FRM x;\n")
        assert "line 1\r\n  SELECT 1 FRM x;\r\n               " in terminal.wait_for("^\r\n")
        terminal.wait_for("sql> ")
        # a query that has no end is ended, and the program is not
        terminal.type("SELECT count(*) FROM range(1000000000000) WHERE range % 7 = 9;\n")
        terminal.wait_for("% 7 = 9;")
        terminal.wait_until_busy()  # before that, what was typed is dropped
        terminal.type("\x03")
        terminal.wait_for("ended by Ctrl-C")
        terminal.wait_for("sql> ")
        terminal.type("\x1b[A\x1b[A")  # an old one, thought better of
        terminal.wait_for("FRM x;")  # only what differs is drawn
        terminal.type("\x03")
        terminal.wait_for("sql> ")
        terminal.type("SELECT repeat('x', 120) AS wide, 7 AS n;\n")
        assert "-- 1 --" in terminal.wait_for("(1 row)")
        terminal.wait_for("sql> ")
        terminal.type("SUBSCRIBE TO notes_of_tea OPTIONS (last_rows=1);\n")
        assert '"a;b"' in terminal.wait_for("}]")
        terminal.type("\x03")
        terminal.wait_for("ended by Ctrl-C")
        terminal.wait_for("sql> ")
        terminal.type("\\q\n")
        assert terminal.process.wait(20) == 0
    assert "SELECT 1 FRM x;" in (home / "surgetank.sql-history").read_text()
