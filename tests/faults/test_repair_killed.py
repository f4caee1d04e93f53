"""A repair that is killed at any of its steps: done again, the thread is as it is when nothing disturbed it,
and goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, cast

import pytest
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt

from integration.test_approvals import State, answer, asked, asking, ended, new, working
from support.commands import run_module
from surgetank import Surgetank
from surgetank.workflows import repair
from surgetank.workflows.status import Status

WRITES = "writes"  # beside the names of the statements
Stuck = Callable[[Surgetank, str], Awaitable[None]]


class Killed(BaseException):
    """What ends the process here."""


def sql(tank: Surgetank, text: str, thread: str) -> None:
    with tank.database.connection() as connection:
        connection.execute(cast("Any", text), {"thread": thread})


def refusing(tank: Surgetank) -> Any:
    """A graph whose node takes no other answer than 1."""

    def node(_: State) -> State:
        if (given := interrupt("a number?")) != 1:
            raise ValueError(given)
        return {"said": [given]}

    builder = StateGraph(State).add_node("node", cast("Any", node)).add_edge(START, "node")
    return builder.compile(checkpointer=tank.checkpointer())


async def answer_refused(tank: Surgetank, thread: str) -> None:
    async with working(tank, refusing(tank)):
        await asked(tank, thread=thread)
        failed = await ended(tank, tank.runs.accept(answer(thread, "x"), actor="ada"))
    assert failed.status is Status.FAILED


async def waits(tank: Surgetank, thread: str) -> None:
    """Nothing is wrong with it: what it asks is given up."""
    async with working(tank, asking(tank, "a?", "b?")):
        await asked(tank, thread=thread)


async def question_lost(tank: Surgetank, thread: str) -> None:
    await waits(tank, thread)
    lost = "UPDATE surgetank.user_checkpoints SET status = 'superseded', resolved_at = now()"
    sql(tank, f"{lost} WHERE thread_id = %(thread)s", thread)


async def not_asked(tank: Surgetank, thread: str) -> None:
    await waits(tank, thread)
    tank.checkpointer().delete_thread(thread)
    busy = "UPDATE surgetank.thread_status SET status = 'busy' WHERE thread_id = %(thread)s"
    sql(tank, busy, thread)


async def silent(tank: Surgetank, thread: str) -> None:
    run = tank.runs.accept(new(thread), actor="ada")
    claimed = tank.runs._queue.claim("dead", 100)  # those of other threads as well
    assert run.run_id in {each.run_id for each in claimed}
    past = "UPDATE surgetank.runs SET lease_until = now() - interval '1 second'"
    sql(tank, f"{past} WHERE thread_id = %(thread)s", thread)


KINDS: dict[str, tuple[Stuck, bool]] = {
    "answer_refused": (answer_refused, False), "forgotten": (waits, True),
    "question_lost": (question_lost, False), "question_not_asked": (not_asked, False),
    "worker_silent": (silent, False),
}  # fmt: skip


def picture(tank: Surgetank, thread: str) -> dict[str, Any]:
    """All that is known of a thread, without what is another one each time."""
    row = tank.threads.rows.find(thread)
    assert row is not None
    tip = tank.checkpointer().get_tuple({"configurable": {"thread_id": thread}})
    lines = [line for line in tank.audit.list(limit=1000) if line["thread_id"] == thread]
    return {
        "thread": (row.status, len(row.interrupts), row.error),
        "runs": [(run.status, run.attempts, run.error) for run in tank.runs.of_thread(thread)],
        "workflows": sorted(flow.status for flow in tank.workflows(thread_id=thread)),
        "questions": sorted(str(q.status) for q in tank.approvals(thread_id=thread)),
        "said": tip and tip.checkpoint["channel_values"].get("said"),
        "asks": tip and len(tip.pending_writes or ()),
        "step": tip and tip.metadata.get("step"),
        "repaired": [line["action"] for line in lines].count("thread_repaired"),
    }


def repaired(tank: Surgetank, thread: str, *, forget: bool) -> repair.Repair:
    return tank.threads.repair(thread, actor="op", dry_run=False, forget=forget)


class Points(Mapping[str, Any]):
    """The statements of a repair. From its first change on each of them is a point, and so are the
    moments around what it puts into the buffer; it is killed at the nth, if there are so many."""

    READS = ("lock", "unfinished", "newest", "open", "held", "waiting")

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._statements, self._write = repair.SQL, repair._write_clean
        self._at, self._changes = 0, False
        self.passed: list[str] = []
        monkeypatch.setattr(repair, "SQL", self)
        monkeypatch.setattr(repair, "_write_clean", self.write_clean)

    def kill_at(self, point: int) -> None:
        """The nth from now on; 0: none."""
        self._at, self._changes, self.passed = point, False, []

    def _pass(self, name: str) -> None:
        self._changes = self._changes or name not in self.READS
        if self._changes:
            self.passed.append(name)
            if len(self.passed) == self._at:
                raise Killed(name)

    def __getitem__(self, name: str) -> Any:
        self._pass(name)
        return self._statements[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._statements)

    def __len__(self) -> int:
        return len(self._statements)

    def write_clean(self, *arguments: Any) -> None:
        self._pass(WRITES)
        self._write(*arguments)
        self._pass(WRITES)


@pytest.mark.parametrize("kind", list(KINDS))
async def test_a_repair_that_was_cut_off_anywhere_is_done_again(
    tank: Surgetank, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    stuck, forget = KINDS[kind]
    points = Points(monkeypatch)
    await stuck(tank, "whole")
    points.kill_at(0)
    assert kind in {found.kind for found in repaired(tank, "whole", forget=forget).findings}
    expected, steps = picture(tank, "whole"), points.passed
    assert expected["repaired"] == 1
    assert "note" in steps
    if kind in ("answer_refused", "forgotten"):
        assert steps.count(WRITES) == 2
    for point in range(1, len(steps) + 1):
        thread = f"cut at {point}"
        await stuck(tank, thread)
        points.kill_at(point)
        with pytest.raises(Killed):
            repaired(tank, thread, forget=forget)
        points.kill_at(0)
        repaired(tank, thread, forget=forget)
        assert picture(tank, thread) == expected, steps[:point]
        assert repaired(tank, thread, forget=forget).findings == ()
        assert picture(tank, thread) == expected, "done twice it does nothing more"
    print(f"{kind}: cut off at {len(steps)} points")


def kill_in(when: str, point: str, forget: bool, tank: Surgetank, database_url: str) -> None:
    """`surgetank repair t`, which kills itself at that point."""
    options = ["--yes", *(["--forget"] if forget else [])]
    killed = run_module(
        "support.killed", when, point, 1, "repair", "t", *options,
        SURGETANK_HOME=str(tank.settings.home), SURGETANK_DATABASE_URL=database_url,
    )  # fmt: skip
    assert killed.returncode == -9, killed.stderr


@pytest.mark.parametrize("kind", ["answer_refused", "forgotten"])
@pytest.mark.parametrize(
    ("when", "point"),
    [
        ("after", "surgetank.streams.checkpoints.saver:SurgetankSaver.put"),
        ("after", "surgetank.workflows.repair:ThreadRepair._act"),
    ],
)
async def test_a_repair_whose_process_was_killed_is_done_again_and_the_thread_goes_on(
    tank: Surgetank, database_url: str, kind: str, when: str, point: str
) -> None:
    stuck, forget = KINDS[kind]
    await stuck(tank, "whole")
    repaired(tank, "whole", forget=forget)
    await stuck(tank, "t")
    await asyncio.to_thread(kill_in, when, point, forget, tank, database_url)
    repaired(tank, "t", forget=forget)
    assert picture(tank, "t") == picture(tank, "whole")
    graph = refusing(tank) if kind == "answer_refused" else asking(tank, "a?", "b?")
    async with working(tank, graph):
        again = await ended(tank, tank.runs.accept(new("t", kwargs={"input": None}), actor="ada"))
        assert again.status is Status.AWAITING_CHECKPOINT
        if kind == "answer_refused":
            good = await ended(tank, tank.runs.accept(answer("t", 1), actor="ada"))
            assert good.status is Status.COMPLETED
