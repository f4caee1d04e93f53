"""A step of `surgetank demo`: rows of three users, one of whom can't be flushed for a while, and one SELECT over rows
and what the agent did."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from surgetank.app.rendering import plain_rows, shown
from surgetank.app.surgetank import Surgetank
from surgetank.cli.output import out, print_job
from surgetank.exceptions import StateCorrupt

Wait = Callable[[Callable[[], bool], str], None]
_MAKE = """
CREATE NAMESPACE demo;
CREATE TABLE demo.orders (id BIGINT PRIMARY KEY, thread_id TEXT, item TEXT NOT NULL, price DECIMAL(10, 2))
    WITH (TYPE = 'USER', FLUSH_POLICY = 'rows:1000,interval:3600');
"""
_INSERT = "INSERT INTO demo.orders VALUES ($1, $2, $3, $4)"
_PRICE = "UPDATE demo.orders SET price = $1 WHERE id = 1"
_FILE = "SELECT path FROM system.files WHERE table_name = 'orders'"
_WAITING = "SELECT entries FROM system.buffer WHERE stream = 'tables'"
_JOIN = """
SELECT o._user, o.item, o.price, e.error_type, e.error_message
FROM demo.orders o JOIN system.system_errors e USING (thread_id)
WHERE e.error_type = 'tool_failed' ORDER BY o.id
"""


def show_tables(tank: Surgetank, wait: Wait) -> dict[str, Any]:
    """Play it on an open engine."""
    tank.sql(_MAKE)
    tank.sql(_INSERT, [1, "demo-1", "a thermometer", "20.05"], user="bob")
    tank.tables.flush("demo.orders")
    ((path,),) = _rows(tank, _FILE)
    file = tank.settings.home / "tables" / path
    away = file.with_suffix(".away")
    for number, user in enumerate(("ann", "bob", "eve")):
        tank.sql(_INSERT, [2, f"demo-{number}", "a hat", "9.90"], user=user)
    tank.sql(_PRICE, ["2050"], user="bob")
    out.print("   ann, bob and eve order; bob changes a row that is in a file already. His file is")
    out.print("   taken away, as by a disk that fails. All are flushed:")
    file.rename(away)
    job = tank.tables.flush("demo.orders")
    print_job(job)
    ((left,),) = _rows(tank, _WAITING)
    out.print(
        f"   {left} changes wait, all of bob. The file is put back, and his row is corrected:"
    )
    away.rename(file)
    tank.sql(_PRICE, ["20.50"], user="bob")
    wait(lambda: tank.tables.flush("demo.orders").ok and _rows(tank, _WAITING) == [[0]], "his rows")
    tank.log_system_error("tool_failed", "the thermometer shows NaN", thread_id="demo-1")
    joined = _rows(tank, _JOIN)
    out.print("   all arrived. One SELECT over orders and the agent's errors:")
    for row in joined:
        out.print(f"     {'  '.join(shown(value) for value in row)}")
    if [row[:3] for row in joined] != [["bob", "a thermometer", "20.50"], ["bob", "a hat", "9.90"]]:
        raise StateCorrupt("The demo's rows did not arrive.", remedy="please report this.")
    return {"job": job, "waited": left, "joined": joined}


def _rows(tank: Surgetank, text: str) -> list[list[Any]]:
    (found,) = tank.sql(text)
    assert found.rows is not None
    return list(plain_rows(found.rows, found.types))
