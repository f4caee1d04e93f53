"""`surgetank run`: one run of a graph, worked on by this process and followed until it ends.

Progress and what the graph prints go to stderr, the result to stdout. The run is stored like every
other: when this process is killed, a worker goes on with it.
"""

from __future__ import annotations

import json as jsonlib
import signal
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from surgetank.app.surgetank import Surgetank
from surgetank.cli.inbox import edited
from surgetank.cli.inbox import show as show_question
from surgetank.cli.output import (
    INTERRUPTED,
    DatabaseUrl,
    Home,
    Json,
    StopSignals,
    engine,
    err,
    out,
    print_json,
)
from surgetank.cli.projects import open_graphs
from surgetank.cli.runs import Actor
from surgetank.exceptions import (
    DatabaseUnavailable,
    DecisionRefused,
    InvalidRequest,
    InvalidTransition,
)
from surgetank.workflows.approvals.rows import OPEN, UserCheckpoint
from surgetank.workflows.graphs.config import assistant_id, load
from surgetank.workflows.runs import NewRun, Run
from surgetank.workflows.status import Status

_POLL_S = 0.05
_UNDER_WAY = (Status.PENDING, Status.RUNNING)
_CODES = {Status.COMPLETED: 0, Status.AWAITING_CHECKPOINT: 3}


def run(
    graph: Annotated[str, typer.Argument(help="The graph's name in langgraph.json.")],
    actor: Actor,
    given: Annotated[str, typer.Option("--input", "-i", help="JSON, or @FILE with it.")] = "{}",
    config: Annotated[
        Path, typer.Option("--config", "-c", help="The project's langgraph.json.")
    ] = Path("langgraph.json"),
    thread: Annotated[
        str | None, typer.Option(help="Its thread; a new one by default.", show_default=False)
    ] = None,
    home: Home = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> int:
    """Run a graph in this process, show each node as it ends, and print the values at the end.

    For example: `surgetank run agent --input '{"messages": []}'`. What the graph asks is asked in
    the terminal; without a terminal, or with --json, the run is left waiting (exit code 3, answer
    with `surgetank inbox`). Ctrl-C cancels the run for good (130). Exit code 1 when it failed or was
    cancelled. This process also works on other runs of the project's graphs that are waiting.
    """
    value = _input(given)
    project = load(config)
    if graph not in project.names:
        raise InvalidRequest(
            f"{project.path} has no graph {graph!r}.",
            remedy=f"name one of: {', '.join(project.names)}.",
        )
    new = NewRun(
        thread_id=thread or str(uuid.uuid4()), assistant_id=str(assistant_id(graph)), graph_id=graph,
        kwargs={"input": value, "stream_mode": ["values", "updates", "custom"]},
    )  # fmt: skip
    asks = not json and sys.stdin.isatty()
    with redirect_stdout(sys.stderr):  # what the graph prints is not the result
        stop = StopSignals()
        with engine(home, database_url, flush_in_process=True, flush_on_close=True) as tank:
            working = tank.runs.service(open_graphs(tank, project))
            accepted = tank.runs.accept(new, actor=actor)
            err.print(f"run {accepted.run_id} on thread {accepted.thread_id}")
            working.start()
            try:
                following = _Following(tank, stop, actor)
                ended = following.until_end(accepted, asks=asks)
            finally:
                working.stop(tank.settings.shutdown_timeout)
    if json:
        print_json(
            {"run_id": str(ended.run_id), "thread_id": ended.thread_id, "status": ended.status.value,
             "error": ended.error, "values": following.values}
        )  # fmt: skip
    elif ended.status is Status.COMPLETED:
        out.block(jsonlib.dumps(following.values, indent=2, ensure_ascii=False))
    err.print(
        f"run {ended.run_id}: {ended.status.value}" + (f": {ended.error}" if ended.error else "")
    )
    if stop.event.is_set():
        return stop.exit_code or 1
    return _CODES.get(ended.status, 1)


class _Following:
    """A run and those that go on with it, shown as they go. `values` are the newest."""

    def __init__(self, tank: Surgetank, stop: StopSignals, actor: str) -> None:
        self._tank, self._stop, self._actor = tank, stop, actor
        self.values: Any = None
        self._after = 0
        self._cancelled = False
        self._asked_at: float | None = None

    def until_end(self, run: Run, *, asks: bool) -> Run:
        """The last run of the chain: it has ended, or waits for a person, or goes on without us."""
        while True:
            ended = self._follow(run)
            if ended.status is not Status.AWAITING_CHECKPOINT:
                return ended
            questions = self._tank.approvals(status=OPEN, thread_id=run.thread_id)
            if not asks or not questions:
                for question in questions:
                    err.print(f"waits for a person: {question.checkpoint_id}")
                return ended
            try:
                with _interruptible():
                    goes_on = self._ask(questions)
            except (typer.Abort, KeyboardInterrupt):
                err.print("The run is left waiting; `surgetank inbox` shows what it asks.")
                return ended
            if goes_on is None:
                return ended
            run = goes_on

    def _follow(self, run: Run) -> Run:
        away, last, pause = False, run, threading.Event()
        while True:
            pause.wait(_POLL_S)
            stopped = self._stop.event.is_set()
            if stopped and self._stop.exit_code != INTERRUPTED:
                err.print("The run is given back; a worker goes on with it.")
                return last
            try:
                if stopped:
                    self._cancel(run)
                last = self._tank.runs.get(run.run_id)
                away = False
            except DatabaseUnavailable as error:
                if not away:
                    err.print(f"The database is away: {error.what}")
                away = True
            self._show(run)
            if last.status not in _UNDER_WAY:
                return last
            if stopped and self._waited_enough():
                return last

    def _cancel(self, run: Run) -> None:
        if self._asked_at is None:
            self._asked_at = time.monotonic()
            err.print("cancelling ...")
        if self._cancelled:
            return
        with suppress(InvalidTransition):  # it has ended meanwhile
            self._tank.runs.cancel(run.run_id, actor=self._actor)
        self._cancelled = True

    def _waited_enough(self) -> bool:
        limit = self._tank.settings.shutdown_timeout
        if self._asked_at is None or time.monotonic() < self._asked_at + limit:
            return False
        err.print(
            "The run has not ended yet; the request is stored, and is obeyed later."
            if self._cancelled
            else "The run is not cancelled, for the database is away; a worker goes on with it."
        )
        return True

    def _show(self, run: Run) -> None:
        while True:
            page = self._tank.runs.streams.read(
                run.thread_id, run_id=str(run.run_id), after=self._after
            )
            for event in page.events:
                self._after = event.seq
                self._show_one(event.event, event.data)
            if not page.events:
                return

    def _show_one(self, name: str, data: bytes) -> None:
        value = jsonlib.loads(data) if data else None
        if name == "values":
            self.values = value
        elif name == "updates" and isinstance(value, dict):
            for node in value:
                if node != "__interrupt__":
                    err.print(f"  {node}")
        elif name in ("custom", "error"):
            err.print(f"  {name}: {jsonlib.dumps(value, ensure_ascii=False)[:500]}")

    def _ask(self, questions: list[UserCheckpoint]) -> Run | None:
        goes_on = None
        for question in questions:
            show_question(question)
            while True:
                action = typer.prompt("Your decision", default=question.offer.allowed[0], err=True)
                more: dict[str, Any] = {}
                if action == "edit":
                    more["edited"] = edited(question.editable_content)
                elif action in ("respond", "reject"):
                    words = typer.prompt("Your answer", err=True)
                    more["response" if action == "respond" else "notes"] = words
                try:
                    _, run = self._tank.approvals.resolve(
                        question.checkpoint_id, action, actor=self._actor, **more
                    )
                except DecisionRefused as error:
                    err.print(f"{error.what} {error.remedy}")
                    continue
                goes_on = run or goes_on
                break
        return goes_on


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C ends a prompt. `StopSignals` would only note it, and the prompt would go on."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _input(given: str) -> Any:
    try:
        text = Path(given[1:]).read_text(encoding="utf-8") if given.startswith("@") else given
        return jsonlib.loads(text)
    except (OSError, ValueError) as error:
        raise InvalidRequest(
            f"The input can't be used: {error}",
            remedy="""write JSON, --input '{"text": "hello"}', or --input @FILE.""",
        ) from None
