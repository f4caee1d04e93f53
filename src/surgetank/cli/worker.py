"""`surgetank worker`: flush until told to stop."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, assert_never

import typer

from surgetank.app.surgetank import Surgetank
from surgetank.cli.output import (
    DatabaseUrl,
    Home,
    Json,
    StopSignals,
    announce,
    print_json,
    start_logging,
)
from surgetank.cli.process import keep_what_is_loaded
from surgetank.cli.projects import open_graphs
from surgetank.exceptions import InvalidRequest
from surgetank.flush.events import (
    EntryParked,
    FlushEvent,
    JobFinished,
    PartitionFailed,
    PartitionForked,
    PartitionRecovered,
    ValuesReplaced,
)
from surgetank.workflows.graphs.config import load


class _Lines:
    """Tells stdout, one JSON object a line."""

    def say(self, event: str, **fields: object) -> None:
        print_json({"event": event, "at": time.time(), **fields}, one_line=True)

    def on_flush(self, event: FlushEvent) -> None:
        """One line for each event; values that were replaced are in the job's."""
        match event:
            case PartitionFailed(job=job, outcome=outcome):
                self.say("partition_failed", job=job.id, outcome=outcome)
            case PartitionRecovered(job=job, outcome=outcome):
                self.say("partition_recovered", job=job.id, outcome=outcome)
            case EntryParked(job=job, entry=entry):
                self.say("entry_parked", job=job.id, entry=entry)
            case PartitionForked(job=job, fork=fork):
                self.say("thread_forked", job=job.id, fork=fork)
            case JobFinished(job=job):
                self.say("job_finished", job=job)
            case ValuesReplaced():
                pass
            case _:
                assert_never(event)


def worker(
    home: Home = None,
    database_url: DatabaseUrl = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            "-c",
            help="A langgraph.json: runs of its graphs are worked on too.",
            show_default=False,
        ),
    ] = None,
    runs: Annotated[
        int | None,
        typer.Option(
            min=1, help="Most runs at once; 50 by default. Needs --config.", show_default=False
        ),
    ] = None,
    json: Json = False,
) -> int:
    """Flush a buffer in the background until SIGTERM or Ctrl-C; with --config run graphs too.

    Runs that are under way when it is told to stop are given back: another worker goes on with them
    from their last checkpoint.

    Any number of workers and applications may share one buffer. When it is told to stop, a worker
    finishes the group that it is writing, gives the rest back, and ends. Applications that leave
    flushing to workers set SURGETANK_FLUSH_IN_PROCESS=false. With --json each event (started,
    job_finished, partition_failed, partition_recovered, entry_parked, stopping, stopped) is one
    line of JSON on stdout.
    """
    if runs is not None and config is None:
        raise InvalidRequest(
            "--runs says how many runs of which graphs?",
            remedy="add --config langgraph.json.",
        )
    project = load(config) if config is not None else None
    stop = StopSignals()
    lines = _Lines() if json else None
    engine = Surgetank(home, database_url=database_url, flush_in_process=True, flush_on_close=False)
    start_logging(engine.settings)
    node, buffer = engine.settings.node, engine.settings.buffer_name
    announce(
        f"surgetank worker {node} flushes {buffer}", "worker_started", node=node, buffer=buffer
    )
    if lines is not None:
        engine.add_observer(lines.on_flush)
        lines.say("started", node=node, buffer=buffer)
    with engine as tank:
        graphs = open_graphs(tank, project) if project is not None else None
        working = tank.runs.service(graphs, most=runs) if graphs is not None else None
        if working is not None:
            working.start()
            keep_what_is_loaded()
        while not stop.event.wait(1.0):
            if not tank.flushing:
                announce("the flush thread ended unexpectedly; see the log", "flush_thread_ended")
                return 1
            if working is not None and not working.running:
                announce("the worker of runs ended unexpectedly; see the log", "runs_ended")
                return 1
        announce("stopping: finishing what is being written", "worker_stopping")
        if lines is not None:
            lines.say("stopping")  # the job that is running ends after this line
        if working is not None:
            working.stop(engine.settings.shutdown_timeout)
    if lines is not None:
        lines.say("stopped")
    return stop.exit_code
