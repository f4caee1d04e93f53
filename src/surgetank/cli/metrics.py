"""`surgetank metrics`: the Prometheus metrics, as the server's `/metrics` gives them."""

from __future__ import annotations

import sys

from surgetank.cli.output import DatabaseUrl, Home, Json, engine, print_json
from surgetank.observability.metrics import render, samples


def metrics(home: Home = None, database_url: DatabaseUrl = None, json: Json = False) -> int:
    """Print the metrics of this buffer in Prometheus' text format.

    Gauges (depth, ages, limits, incidents) speak of the buffer. Counters count what a process did
    since it started, so here they are 0: scrape the processes that flush. For node_exporter's
    textfile collector and for a look.
    """
    with engine(home, database_url, start_database=False, must_exist=True) as tank:
        if json:
            print_json(samples(tank))
        else:
            sys.stdout.buffer.write(render(tank))
    return 0
