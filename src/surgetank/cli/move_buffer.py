"""`surgetank move-buffer`: what waits in one buffer comes into another one."""

from __future__ import annotations

from typing import Annotated

import typer

from surgetank.app.moving import Moved
from surgetank.cli.output import DatabaseUrl, Home, Json, engine, err, out, print_json


def move_buffer(
    from_: Annotated[
        str, typer.Option("--from", help="The buffer that is emptied: sqlite:///... or redis://...")
    ],
    to: Annotated[
        str, typer.Option("--to", help="The buffer that takes it over, made if it is not there.")
    ],
    home: Home = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> int:
    """Move what waits from one buffer into another, from a file to Redis or back.

    Stop all servers, workers and applications that use one of the two before; while any is alive, nothing is
    moved. Can be killed and repeated: each entry is in one of the two buffers at any moment, and is taken over
    once. Afterwards nothing is flushed from the old buffer any more.

    Exit code 3: something can't be read, and stays where it is.
    """
    shown = -1

    def progress(done: int, of: int) -> None:
        nonlocal shown
        if of and (percent := 100 * done // of) > shown:
            shown = percent
            err.print(f"{done}/{of} entries")

    with engine(home, database_url, buffer_url=to) as tank:
        moved = tank.moving(from_, progress=progress)
    if json:
        print_json(moved)
    else:
        _show(moved)
    return 3 if moved.left else 0


def _show(moved: Moved) -> None:
    out.print(
        f"{moved.entries} entries were taken over, {moved.known} were known already, {moved.deleted} are of "
        f"threads that were deleted; {moved.parked} of them had been refused and are tried again. "
        f"{moved.jobs} records of flushes were copied."
    )
    for each in moved.left:
        out.print(f"left: {each}")
