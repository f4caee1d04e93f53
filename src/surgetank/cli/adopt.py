"""`surgetank adopt`: let a buffer belong to another database than before."""

from __future__ import annotations

from typing import Annotated

import typer

from surgetank.app.guards import destination
from surgetank.cli.output import DatabaseUrl, Home, Json, engine, out, print_json
from surgetank.exceptions import InvalidRequest


def adopt(
    home: Home = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
) -> int:
    """Let the buffer belong to the configured database, and flush what waits into that one from now
    on.

    A buffer belongs to the first database that it met, by an id in the schema. It refuses every
    other one, so that entries of customer A never reach the database of customer B. That is right
    after a wrong setting: correct SURGETANK_DATABASE_URL, or use another SURGETANK_HOME. Adopt only
    when the new database is meant to take over: its predecessor is gone, its schema was dropped, or
    the data was moved with `surgetank export` and `import`.

    Nothing in either database is changed. What was flushed before stays where it is; what waits
    goes into the new one. A database that was restored, moved or copied with its schema needs no
    adoption: it is known again by its id.
    """
    with engine(home, database_url) as tank:
        buffer = tank.buffer
        before, waiting = buffer.binding(), buffer.depth().entries
        where = destination(tank.settings)
        if not json:
            known = "no database yet"
            if before is not None:
                known = (
                    f"{before.address} (id {before.database_id or 'unknown: it was never reached'})"
                )
            out.print(f"buffer    {buffer.name}", markup=False)
            out.print(f"belongs   to {known}", markup=False)
            out.print(f"adopts    {where}: {waiting} entries that wait go there", markup=False)
        if not yes:
            if json:
                raise InvalidRequest("Adopting needs a yes.", remedy="add --yes.")
            typer.confirm("Shall the buffer belong to this database?", abort=True)
        now = tank.adopt()
        if json:
            print_json(
                {"before": before and before._asdict(), "now": now._asdict(), "waiting": waiting}
            )
        else:
            out.print(f"done      it belongs to {now.address} (id {now.database_id})", markup=False)
            out.print("          `surgetank flush` saves what waits", markup=False)
    return 0
