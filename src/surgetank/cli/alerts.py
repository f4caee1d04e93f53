"""`surgetank alerts`: what operators are alerted of, whether it reaches them, and a test of the way
there."""

from __future__ import annotations

from typing import Annotated

import typer

from surgetank.cli.output import (
    DatabaseUrl,
    Home,
    Json,
    coded,
    engine,
    err,
    out,
    print_json,
    table,
    when,
)

app = typer.Typer(
    help="Test the alert channels, list the rules with their present state, and read the delivery "
    "log. Channels are "
    "apprise URLs in SURGETANK_ALERT_URLS; they are never shown whole.",
    no_args_is_help=True,
)


@app.command("test")
@coded
def send_test(home: Home = None, database_url: DatabaseUrl = None, json: Json = False) -> int:
    """Send a test message to every channel and say what became of it.

    Exit code 0 when every channel took it, 1 when one did not, 2 when no channel is set.
    """
    with engine(home, database_url, start_database=False, must_exist=True) as tank:
        outcome = tank.alerts.test()
    if json:
        print_json(
            [{"channel": name, "ok": error is None, "error": error} for name, error in outcome]
        )
    else:
        for name, error in outcome:
            out.print(f"{'ok    ' if error is None else 'failed'}  {name}  {error or ''}".rstrip())
    return 1 if any(error is not None for _, error in outcome) else 0


@app.command("list")
@coded
def list_(home: Home = None, database_url: DatabaseUrl = None, json: Json = False) -> int:
    """List the rules, what each finds now, when each last alerted, and how the channels are doing.

    Exit code 1 when a rule finds something or a channel fails.
    """
    with engine(home, database_url, start_database=False, must_exist=True) as tank:
        states, problem = tank.alerts.states()
        channels = tank.alerts.channel_states()
    if json:
        print_json({"rules": states, "channels": channels, "problem": problem})
    else:
        for state in states:
            mark = "ALERT" if state.alerts else "ok"
            out.print(
                f"{mark:5}  {state.rule}: {state.about}; last sent {when(state.last_sent_at)}"
            )
            for alert in state.alerts[:10]:
                out.print(f"       {alert.severity.value}: {alert.title}. {alert.text}")
            if len(state.alerts) > 10:
                out.print(f"       ... and {len(state.alerts) - 10} more")
        for c in channels:
            state_of = f"fails: {c.last_error}" if c.failing_since else "ok"
            last = when(c.last_ok_at) if c.last_ok_at else "never"
            out.print(
                f"channel  {c.channel}: {state_of}; last delivery {last}; {c.waiting} wait",
            )
        if not any(c.configured for c in channels):
            out.print("no channel is set (SURGETANK_ALERT_URLS): nothing is sent")
        if problem:
            err.print(f"the database can't be asked just now, so this may be incomplete: {problem}")
    return 1 if any(s.alerts for s in states) or any(c.failing_since for c in channels) else 0


@app.command()
@coded
def log(
    home: Home = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
    limit: Annotated[int, typer.Option(min=1, max=5000, help="How many attempts.")] = 50,
) -> int:
    """Show every attempt to deliver an alert, newest first: when, where to, and what became of
    it."""
    with engine(home, database_url, start_database=False, must_exist=True) as tank:
        attempts = tank.alerts.attempts(limit=limit)
    if json:
        print_json([{"id": a.id, "at": a.at, "channel": a.channel, "rule": a.rule, "title": a.title,
                     "attempt": a.attempt, "ok": a.ok, "outcome": a.outcome.value, "error": a.error}
                    for a in attempts])  # fmt: skip
    else:
        table(
            ("at", "channel", "rule", "attempt", "outcome", "title", "error"),
            [
                (when(a.at), a.channel, a.rule, a.attempt, a.outcome.value, a.title, a.error)
                for a in attempts
            ],
        )
    return 0
