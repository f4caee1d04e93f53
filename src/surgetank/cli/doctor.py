"""`surgetank doctor` and `surgetank migrate`: is everything in place, and what to do if not."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from surgetank.app.doctor import Finding, examine, examine_program
from surgetank.buffer.salvage import salvage as bring_out
from surgetank.cli.output import DatabaseUrl, Home, Json, engine, out, print_json
from surgetank.exceptions import SurgetankError
from surgetank.settings import load_settings


def doctor(
    home: Home = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
    salvage: Annotated[
        Path | None,
        typer.Option(
            "--salvage",
            help="Copy all that is whole of a damaged buffer into a new one in this folder, and do "
            "nothing else. No"
            " process may use the buffer meanwhile.",
            show_default=False,
        ),
    ] = None,
) -> int:
    """Check everything that Surgetank needs and say what to do about what is wrong.

    Exit code 0 when all is well (warnings included), 1 when there is a problem. With --salvage: 0
    when everything came out, 3 when something is lost.
    """
    if salvage is not None:
        return _salvage(home, salvage, json=json)
    findings = examine_program()
    try:
        with engine(home, database_url, must_exist=True) as tank:
            findings += examine(tank)
    except SurgetankError as error:
        findings.append(Finding("open", "problem", error.what, error.remedy))
    if json:
        print_json(findings)
    else:
        for f in findings:
            out.print(f"{f.state:8} {f.check:12} {f.detail}")
            if f.remedy and f.state != "ok":
                out.print(f"{'':21} way out: {f.remedy}")
    return 1 if any(f.state == "problem" for f in findings) else 0


def _salvage(home: Path | None, folder: Path, *, json: bool) -> int:
    found = bring_out(load_settings(home=home).buffer_path, folder)
    if json:
        print_json(found)
    else:
        for stream, partition, seq in found.lost:
            out.print(f"lost: entry {seq} of {stream}/{partition}")
        for table in found.unreadable:
            out.print(f"not read whole: {table}")
        out.print(
            f"{found.entries} entries ({found.parked} parked) are in {found.path}; flush them with"
            f" `surgetank flush --home {found.path.parent}`, or put that file in the place of the "
            f"damaged one"
        )
    return 3 if found.lost or found.unreadable else 0


def migrate(home: Home = None, database_url: DatabaseUrl = None, json: Json = False) -> None:
    """Bring the database's schema up to date. Does nothing when it already is; safe to run from
    many places. When that fails and there is no buffer yet, none is made."""
    with engine(home, database_url, opened=False) as tank:
        done = tank.schema.migrate()
        version = tank.schema.version()
    if json:
        print_json({"applied": done, "version": version})
    else:
        out.print(f"applied: {', '.join(done) or 'nothing to do'}; schema version {version}")
