"""`surgetank tail`: events and log lines as they happen, from every process on the buffer."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from surgetank.app.surgetank import Surgetank
from surgetank.cli.output import DatabaseUrl, Home, StopSignals, engine, out, print_json, when
from surgetank.events.types import EventType, Gap, Incident, RunEvent, Severity, timestamp

_POLL_S = 0.1


def tail(
    thread: Annotated[
        str | None, typer.Argument(help="Only this thread.", show_default=False)
    ] = None,
    home: Home = None,
    database_url: DatabaseUrl = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    after: Annotated[
        int | None,
        typer.Option(
            help="Begin after this number instead of with the last lines.", show_default=False
        ),
    ] = None,
    lines: Annotated[
        int, typer.Option("-n", "--lines", min=0, help="How many past events are shown first.")
    ] = 20,
    follow: Annotated[
        bool, typer.Option("--follow/--no-follow", "-f/-F", help="Go on until Ctrl-C.")
    ] = True,
) -> int:
    """Follow events and log lines, of one thread or of all.

    Numbers are the event's `seq` within a thread, or its `id` without one: `--after` goes on where
    you were. Events that are no longer kept are told as a gap.
    """
    stop = StopSignals()
    with engine(home, database_url, start_database=False, must_exist=True) as tank:
        if thread is not None and not follow:  # one that is followed may only begin
            tank.threads.require(thread)
        events = tank.events
        in_thread = thread is not None
        begin = max(0, events.last_seq(thread) - lines) if in_thread else events.before_last(lines)
        at = after if after is not None else begin
        banners = _Banners(tank, thread) if thread is not None else None
        while not stop.event.is_set():
            at, found = _show_next(tank, thread, at, json=json, quiet=after is None and at == begin)
            if banners is not None and not found:
                banners.show(json=json)
            if not found and (not follow or stop.event.wait(_POLL_S)):
                break
    return stop.exit_code


class _Banners:
    """The banners of a thread that come from a sink's trouble: they are no events of the thread."""

    def __init__(self, tank: Surgetank, thread: str) -> None:
        self._tank = tank
        self._thread = thread
        self._shown: dict[str, Severity] = {}
        self._asked_at = float("-inf")

    def show(self, *, json: bool) -> None:
        """Print those that are new or graver, once a second at most."""
        if time.monotonic() - self._asked_at < 1.0:
            return
        self._asked_at = time.monotonic()
        found = {i.key: i for i in self._tank.incidents(self._thread) if i.is_of_sink}
        for key, incident in found.items():
            if self._shown.get(key) != incident.severity:
                self._print(incident, json=json)
        self._shown = {key: incident.severity for key, incident in found.items()}

    def _print(self, incident: Incident, *, json: bool) -> None:
        if json:
            body = {"type": "banner", "severity": incident.severity.value}
            at = timestamp(incident.since)
            more = {"thread_id": self._thread, "message": incident.message, "timestamp": at}
            print_json({**body, **more}, one_line=True)
        else:
            out.print(
                f"{when(incident.since)}  {self._thread}  [{incident.severity.value}]"
                f" {incident.message}"
            )


def _show_next(
    tank: Surgetank, thread: str | None, at: int, *, json: bool, quiet: bool
) -> tuple[int, bool]:
    """Print what comes after a number; returns the new number and whether there was anything."""
    gap, found = (
        tank.events.thread_events(thread, at) if thread is not None else tank.events.tail(at)
    )
    if gap is not None and not quiet:
        _show_gap(gap, json=json)
    if gap is not None:
        at = gap.missed_to
    for event in found:
        _show(event, json=json)
        at = event.seq if thread is not None else event.id
    return at, bool(found) or gap is not None


def _show_gap(gap: Gap, *, json: bool) -> None:
    if json:
        print_json(gap.to_dict(), one_line=True)
    else:
        out.print(f"-- events {gap.after + 1} to {gap.missed_to} are no longer kept --")


def _show(event: RunEvent, *, json: bool) -> None:
    if json:
        print_json(event.to_dict(), one_line=True)
        return
    data = event.data
    if event.type == EventType.LOG:
        what = f"{data.get('level', ''):8} {data.get('message', '')}"
    else:
        what = f"[{event.type}] {data.get('message') or dict(data)}"
    out.print(f"{when(event.at)}  {event.thread_id or '-'}#{event.seq}  {what}")
