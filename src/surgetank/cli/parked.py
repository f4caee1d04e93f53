"""`surgetank parked`: entries that the database refused."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import orjson
import typer

from surgetank.app.rendering import size
from surgetank.cli.output import (
    By,
    DatabaseUrl,
    Home,
    Json,
    coded,
    engine,
    err,
    exit_code,
    out,
    print_job,
    print_json,
    table,
    when,
)
from surgetank.exceptions import InvalidRequest
from surgetank.model import ParkedEntry
from surgetank.private import open_file

app = typer.Typer(
    help="List, show, retry, export and discard entries that the database refused. They stay "
    "readable by the application, and are only dropped by who says so.",
    no_args_is_help=True,
)
ParkedId = Annotated[int, typer.Argument(help="The number that `parked list` shows.")]


@app.command("list")
@coded
def list_(home: Home = None, database_url: DatabaseUrl = None, json: Json = False) -> int:
    """List parked entries with the reason. Exit code 1 when there are any."""
    with engine(home, database_url, start_database=False, must_exist=True) as tank:
        entries = tank.parked()
    if json:
        print_json(entries)
    else:
        table(
            ("id", "stream", "thread", "parked", "size", "retries", "reason"),
            [
                (
                    e.id,
                    e.stream,
                    e.partition,
                    when(e.parked_at),
                    size(e.bytes),
                    e.retries,
                    e.failure.message,
                )
                for e in entries
            ],
        )
    return 1 if entries else 0


def _find(entries: list[ParkedEntry], parked_id: int) -> ParkedEntry:
    for entry in entries:
        if entry.id == parked_id:
            return entry
    raise InvalidRequest(
        f"There is no parked entry {parked_id}.", remedy="see `surgetank parked list`."
    )


@app.command()
@coded
def show(
    parked_id: ParkedId, home: Home = None, database_url: DatabaseUrl = None, json: Json = False
) -> None:
    """Show one parked entry: its records and why it was refused."""
    with engine(home, database_url, start_database=False, must_exist=True) as tank:
        parked = _find(tank.parked(), parked_id)
        records: list[dict[str, Any]] = [
            {"key": record.key, "bytes": record.bytes} for record in tank.parked.records(parked_id)
        ]
    if json:
        print_json({"parked": parked, "records": records})
        return
    failure = parked.failure
    out.print(
        f"{parked.stream}/{parked.partition}, entry {parked.seq}, parked {when(parked.parked_at)}",
    )
    out.print(f"reason: {failure.message} ({failure.error_type}, SQLSTATE {failure.sqlstate})")
    for record in records:
        out.print(f"  {record['key']}  {size(record['bytes'])}")
    out.block(failure.stack_trace)


@app.command()
@coded
def retry(
    by: By,
    parked_id: Annotated[
        list[int] | None, typer.Argument(help="Which; all when none is named.")
    ] = None,
    home: Home = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> int:
    """Try parked entries again, after what stood in their way was mended."""
    with engine(home, database_url, must_exist=True) as tank:
        for one in parked_id or ():
            _find(tank.parked(), one)
        job = tank.parked.retry(parked_id or None, by=by)
    if json:
        print_json(job)  # null when nothing is parked
    elif job is None:
        err.print("nothing is parked")
    else:
        print_job(job)
    return exit_code(job) if job is not None else 0


@app.command()
@coded
def discard(
    by: By,
    parked_id: Annotated[list[int], typer.Argument(help="Which: the numbers of `parked list`.")],
    home: Home = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Remove them; without it nothing is done.")
    ] = False,
) -> None:
    """Remove parked entries for good. The application reads them no more. It can't be undone:
    `parked export` keeps a copy. What is not there any more is no error."""
    if not yes:
        raise InvalidRequest(
            f"This removes {len(set(parked_id))} of what users gave, for ever.",
            remedy="keep a copy with `surgetank parked export FILE`, then run it again with --yes.",
        )
    with engine(home, database_url, must_exist=True) as tank:
        gone = [entry.id for entry in tank.parked.discard(parked_id, by=by)]
    if json:
        print_json({"discarded": gone})
    else:
        out.print(f"discarded {len(gone)}")


@app.command()
@coded
def export(
    file: Annotated[Path, typer.Argument(help="File to write, one JSON object a line.")],
    home: Home = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """Copy all parked entries to a file (keys and values in base64). Nothing is removed."""
    with (
        engine(home, database_url, start_database=False, must_exist=True) as tank,
        _new_file(file) as target,
    ):
        entries = tank.parked()
        for parked in entries:
            entry = tank.parked.data(parked.id)
            records = [
                [base64.b64encode(r.key).decode(), base64.b64encode(r.value).decode()]
                for r in (entry.records if entry else ())
            ]
            body = {
                "id": parked.id,
                "stream": parked.stream,
                "partition": parked.partition,
                "seq": parked.seq,
                "accepted_at": parked.accepted_at,
                "parked_at": parked.parked_at,
                "reason": parked.failure.message,
                "records": records,
            }
            target.write(orjson.dumps(body) + b"\n")
    if json:
        print_json({"file": str(file), "entries": len(entries)})
    else:
        err.print(f"{len(entries)} entries written to {file}")


def _new_file(file: Path) -> BinaryIO:
    try:
        return open_file(file, "xb")
    except OSError as error:
        raise InvalidRequest(
            f"The file {file} can't be written ({error.strerror}).",
            remedy="name a file that does not exist yet, in a folder that this user may write.",
        ) from error
