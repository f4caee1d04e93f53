"""`surgetank erase-user`: all data of a user goes, and the report says what can't be reached."""

from __future__ import annotations

from typing import Annotated

import typer

from surgetank.cli.output import By, DatabaseUrl, Home, Json, engine, err, out, print_json
from surgetank.exceptions import InvalidRequest


def erase_user(
    by: By,
    user: Annotated[str, typer.Argument(help="The user, as threads and tokens name it.")],
    home: Home = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
    yes: Annotated[bool, typer.Option("--yes", help="Erase; without it nothing is done.")] = False,
) -> int:
    """Erase all data of a user: threads, log lines, events, errors' texts, tokens. It can't be
    undone.

    Buffer and event log are rewritten, and so are the database's tables (each is locked meanwhile;
    what is written waits in the buffer). Interrupted, or with exit code 3, it goes on in the
    background of whoever flushes this buffer, or when it is run again. Run it once for each buffer
    of the database.
    """
    if not yes:
        raise InvalidRequest(
            f"This erases everything that belongs to {user!r}, for ever.",
            remedy="run it again with --yes.",
        )
    with engine(home, database_url) as tank:
        report = tank.erase_user(user, by=by)
    if json:
        print_json(report.to_dict())
    else:
        out.print(f"{report.state}: {report.threads} threads")
        for kind, count in sorted(report.removed.items()):
            out.print(f"  {count} {kind}")
        for reason in report.unfinished:
            err.print(f"not finished: {reason}")
        for what in report.out_of_reach:
            out.print(f"out of reach: {what}")
    return 0 if report.state == "completed" else 3
