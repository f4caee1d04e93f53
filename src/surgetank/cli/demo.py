"""`surgetank demo`: a real LangGraph agent on the store, the database killed under it, and
everything arriving.

No network and no model key: the model is a script. What is shown is read from the running system.
"""

from __future__ import annotations

import logging
import math
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from surgetank.app.rendering import size
from surgetank.app.surgetank import Surgetank
from surgetank.cli.demo_approval import show_approval
from surgetank.cli.demo_console import say_how, show_console, stays
from surgetank.cli.demo_graph import scripted_agent
from surgetank.cli.demo_tables import show_tables
from surgetank.cli.output import Json, err, out, print_job, print_json, seconds
from surgetank.exceptions import InvalidRequest, StateCorrupt
from surgetank.model import FlushJob
from surgetank.setting_sources import isolated

if TYPE_CHECKING:
    from surgetank import SurgetankSaver

_QUESTIONS = (
    "How warm is it in Oslo?",
    "And in Rome?",
    "Which is warmer?",
    "Measure it again, please.",
)

_LONGEST_S = 120.0


def demo(
    home: Annotated[
        Path | None,
        typer.Option("--home", help="Keep everything in this folder; default a temporary one."),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, max=64, help="Conversations at once.")] = 6,
    json: Json = False,
    leave: Annotated[
        bool, typer.Option("--exit", help="End after the story, in a terminal too.")
    ] = False,
) -> int:
    """Run an agent graph, flush it, stop PostgreSQL while a run goes on, start it again; kill the
    worker of a run that waits for a person, and answer; flush a table in which one user's rows
    can't be. Takes about 10 seconds.

    In a terminal it then stays up, with the web console over all of it, until Ctrl-C. With --json
    what is shown goes to stderr, and a summary to stdout.
    """
    if json:
        out.use_stderr()
    if home is not None and home.exists() and any(home.iterdir()):
        raise InvalidRequest(
            f"The folder {home} is not empty, and the demo touches nothing but what it made.",
            remedy="name a new folder, or none.",
        )
    stay = stays(json=json, leave=leave)
    # whatever database or buffer is configured here is none of the demo's business
    with isolated():
        if home is not None:
            summary = _play(home, threads, stay=stay)
        else:
            with tempfile.TemporaryDirectory(
                prefix="surgetank-demo-", ignore_cleanup_errors=True
            ) as folder:
                summary = _play(Path(folder), threads, stay=stay)
    if json:
        print_json(summary)
    return 0


def _play(home: Path, threads: int, *, stay: bool) -> dict[str, Any]:
    started = time.monotonic()
    # what the log would say is shown below
    logging.getLogger("surgetank").setLevel(logging.CRITICAL)
    _title("1. Start: buffer and embedded PostgreSQL")
    settings: dict[str, Any] = {
        "flush_age": 3600.0,
        "flush_entries": 10**9,
        "flush_bytes": 2**40,
        "breaker_max": 1.0,
        "retry_max": 1.0,
    }
    with Surgetank(home, **settings) as tank:
        saver = tank.checkpointer()
        version = tank.database.ping()
        out.print(f"   {version} in {home}, ready after {seconds(time.monotonic() - started)}")
        _run_agents(saver, threads)
        _show_buffer(tank)
        job = _show_flush(tank)
        _show_values(tank, saver)
    # From here on the background flush works as it does in production.
    with Surgetank(home, flush_age=0.3, breaker_max=1.0, retry_base=0.2, retry_max=1.0) as tank:
        outage = _outage(tank)
        _title("6. A run waits for a person, and its worker is killed")
        approval = show_approval(tank, home, _wait)
        if approval["sent"] != "sent to ada@example.com":
            raise StateCorrupt("The demo's answer got lost.", remedy="please report this.")
        _title("7. A table of users' rows: one user's flush fails")
        tables = show_tables(tank, _wait)
        took = time.monotonic() - started
        _title(f"Done in {seconds(took)}")
        if stay:
            show_console(tank, home)
        else:
            say_how()
    return {
        "seconds": round(took, 3),
        "database": version,
        "threads": threads,
        "flush": job,
        "outage": outage,
        "approval": approval,
        "tables": tables,
    }


def _title(text: str) -> None:
    out.print()
    out.print(text, style="bold")


# -- the conversations


def _run_agents(saver: SurgetankSaver, threads: int) -> None:
    _title(f"2. {threads} conversations at once, {len(_QUESTIONS)} questions each")
    graph = scripted_agent(saver)
    bars = (TextColumn("   {task.description}"), BarColumn(30), MofNCompleteColumn())
    with (
        Progress(*bars, console=err.console, transient=False) as progress,
        ThreadPoolExecutor(threads) as pool,
    ):
        task = progress.add_task("questions", total=threads * len(_QUESTIONS))

        def talk(number: int) -> None:
            for question in _QUESTIONS:
                graph.invoke({"messages": [("user", question)]}, _config(f"demo-{number}"))
                progress.advance(task)

        list(pool.map(talk, range(threads)))


def _config(thread_id: str) -> Any:
    return {"configurable": {"thread_id": thread_id}}


# -- what is shown


def _show_buffer(tank: Surgetank) -> None:
    _title("3. In the buffer: accepted, safe against kill -9, not yet in PostgreSQL")
    picture = tank.status()
    for stream in picture.buffer.streams:
        out.print(
            f"   {stream.stream}: {stream.entries} entries, {size(stream.bytes)}, "
            f"{stream.partitions} threads;"
            f" lag {seconds(picture.lag_s)}",
        )


def _show_flush(tank: Surgetank) -> FlushJob:
    _title("4. Flush")
    job = tank.flush()
    print_job(job)
    for replaced in (job.result.replacements or ())[:4]:
        out.print(
            f"   replaced in the SQL projection: {replaced['path']}: {replaced['reason']} "
            f"({replaced['original']})",
        )
    with tank.database.connection() as connection:
        out.print("   in PostgreSQL:")
        for name in ("threads", "checkpoints", "checkpoint_blobs", "checkpoint_writes"):
            rows, used = connection.execute(
                f"SELECT (SELECT count(*) FROM surgetank.{name}), "
                f"pg_total_relation_size('surgetank.{name}')"
            ).fetchone() or (0, 0)
            out.print(f"     {name:18} {rows:6} rows  {size(used)}")
        row = connection.execute(
            "SELECT thread_id, state -> 'measured' FROM surgetank.threads ORDER BY thread_id LIMIT "
            "1"
        ).fetchone()
        out.print(f"   SQL sees the state:  {row}")
    out.print("   flush jobs:")
    for one in tank.jobs(limit=3):
        out.print(
            f"     {one.id[:12]} {one.trigger:9} {one.status.value} {one.result.rows_flushed} rows",
        )
    return job


def _show_values(tank: Surgetank, saver: SurgetankSaver) -> None:
    values = scripted_agent(saver).get_state(_config("demo-0")).values
    box = values["measured"]["neighbor_bounding_box"]
    same = all(math.isnan(x) for x in box) and values["note"] == "raw\u0000line"
    out.print(f"   the application sees: {values['measured']}, note {values['note']!r}")
    if not same or tank.status().buffer.entries:
        raise StateCorrupt(
            "The demo's values did not come back as they were put.", remedy="please report this."
        )


def _outage(tank: Surgetank) -> dict[str, Any]:
    _title("5. PostgreSQL stops while a run goes on")
    saver = tank.checkpointer()
    enough = threading.Event()
    ends = time.monotonic() + _LONGEST_S
    graph = scripted_agent(
        saver, pause_s=0.05, go_on=lambda: not enough.is_set() and time.monotonic() < ends
    )

    def long_run() -> int:
        """One run of the graph; a failing checkpointer would end it with an error."""
        limits = {**_config("demo-outage"), "recursion_limit": 10_000}
        return int(graph.invoke({"messages": [("user", _QUESTIONS[0])]}, limits)["turn"])

    # Whatever happens meanwhile, the run ends: leaving the pool waits for it.
    with ThreadPoolExecutor(1) as pool, _at_the_end(enough.set):
        run = pool.submit(long_run)
        _wait(lambda: tank.jobs(limit=1)[0].trigger == "schedule", "the first background flush")
        embedded = tank.embedded
        assert embedded is not None
        embedded.shut_down("immediate")
        out.print("   PostgreSQL is stopped.")
        _wait(lambda: bool(tank.status().notices), "the notice")
        for notice in tank.status().notices:
            out.print(f"   the user sees ({notice.severity}): {notice.message}")
        _wait(lambda: bool(tank.errors.find().errors), "the system error")
        (error,) = tank.errors.find(limit=1).errors
        out.print(
            f"   the operator sees (`surgetank errors`): {error.error_type}, "
            f"{error.severity.value},"
            f" with its stack trace: {error.stack_trace.rstrip().splitlines()[-1][:90]} ...",
        )
        before = tank.status().buffer.entries
        _wait(lambda: run.done() or tank.status().buffer.entries > before + 30, "the run to go on")
        state = "has failed" if run.done() else "goes on"
        last = tank.jobs(limit=1)[0]
        out.print(
            f"   the run {state}: {tank.status().buffer.entries} entries wait; the last flush job:"
            f" {last.status.value}, {last.result.rows_flushed or 0} rows",
        )
        embedded.start()
        out.print("   PostgreSQL is started again.")
        enough.set()
        out.print(f"   the run ended by itself after {run.result(_LONGEST_S)} answers.")
    _wait(lambda: tank.status().buffer.entries == 0, "everything to arrive")
    picture = tank.status()
    with tank.database.connection() as connection:
        (rows,) = connection.execute(
            "SELECT count(*) FROM surgetank.checkpoint_history WHERE thread_id = 'demo-outage'"
        ).fetchone() or (0,)
    listed = sum(1 for _ in saver.list({"configurable": {"thread_id": "demo-outage"}}))
    out.print(
        f"   everything arrived: {rows} checkpoints in PostgreSQL, {listed} listed by the saver,"
        f" {picture.buffer.entries} entries wait, notices: {len(picture.notices)}",
    )
    if rows != listed or not picture.healthy:
        raise StateCorrupt("The demo's run did not arrive whole.", remedy="please report this.")
    return {
        "waited_in_buffer": before,
        "checkpoints_in_database": rows,
        "checkpoints_listed": listed,
    }


@contextmanager
def _at_the_end(act: Callable[[], None]) -> Iterator[None]:
    try:
        yield
    finally:
        act()


def _wait(condition: Callable[[], bool], what: str, timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise StateCorrupt(
                f"The demo waited {timeout_s:.0f} s for {what}.", remedy="please report this."
            )
        time.sleep(0.02)
