"""`surgetank metrics`: the Prometheus metrics, as the server's `/metrics` gives them."""

from __future__ import annotations

import typer

from surgetank.cli.output import DatabaseUrl, Home, engine
from surgetank.metrics import render


def metrics(home: Home = None, database_url: DatabaseUrl = None) -> int:
    """Print the metrics of this buffer in Prometheus' text format.

    Gauges (depth, ages, limits, incidents) speak of the buffer. Counters count what a process did since it started,
    so here they are empty: scrape the processes that flush. For node_exporter's textfile collector and for a look.
    """
    with engine(home, database_url, start_database=False) as tank:
        typer.echo(render(tank).decode(), nl=False)
    return 0
