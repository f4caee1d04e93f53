"""The example projects, driven as a user would: through their `langgraph.json`, with a tank's
checkpointer, and by another process's engine after an interrupt."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from langgraph.types import Command

from surgetank import Surgetank
from surgetank.workflows.graphs.config import load
from surgetank.workflows.graphs.graph_set import GraphSet

EXAMPLES = Path(__file__).parents[2] / "examples"
pytestmark = pytest.mark.usefixtures("imports_undone")
MAIL = {"messages": [("user", "weather in Oslo, mail ada: bring a coat")]}


@asynccontextmanager
async def opened(tank: Surgetank, name: str, config: Any) -> AsyncIterator[Any]:
    """An example's graph; each time with a set and a checkpointer of its own."""
    graphs = GraphSet(
        load(EXAMPLES / name / "langgraph.json"), checkpointer=tank.checkpointer(), timeout_s=30
    )
    async with graphs.open(name, config) as graph:
        yield graph


def thread(name: str, **more: Any) -> Any:
    return {"configurable": {"thread_id": name, **more}}


class TestAgent:
    async def test_a_tool_that_needs_nobody_is_called_at_once(self, tank):
        config = thread("1")
        async with opened(tank, "agent", config) as graph:
            state = await graph.ainvoke({"messages": [("user", "weather in Rome")]}, config)
        assert state["messages"][-1].content == "19 degrees"
        assert "__interrupt__" not in state

    @pytest.mark.parametrize(
        ("decision", "said"),
        [
            ({"type": "approve"}, "4 degrees; sent to ada: bring a coat"),
            (
                {"type": "edit", "edited_action": {"name": "send_mail", "args": {"to": "ben", "text": "hi"}}},
                "4 degrees; sent to ben: hi",
            ),
            ({"type": "reject", "message": "too cold"}, "too cold; 4 degrees"),
            ({"type": "respond", "message": "I told her"}, "I told her; 4 degrees"),
        ],
    )  # fmt: skip
    async def test_mail_waits_for_a_person_and_is_answered_elsewhere(
        self, make_tank, decision, said
    ):
        config, tank = thread("1"), make_tank()
        async with opened(tank, "agent", config) as graph:
            state = await graph.ainvoke(MAIL, config)
            (asked,) = state["__interrupt__"]
            assert [request["name"] for request in asked.value["action_requests"]] == ["send_mail"]
            assert asked.value["review_configs"][0]["allowed_decisions"]
        assert tank.flush().ok
        tank.close()
        async with opened(make_tank(), "agent", config) as graph:
            assert (await graph.aget_state(config)).next == ("approve",)
            resume: Any = Command(resume={"decisions": [decision]})
            state = await graph.ainvoke(resume, config)
        assert state["messages"][-1].content == said


async def reviewed(graph: Any, config: Any, *decisions: dict[str, Any]) -> dict[str, Any]:
    """The state after the reviewers, in their order, decided."""
    waiting = (await graph.aget_state(config)).interrupts
    by_text = sorted(waiting, key=lambda each: each.value["action_requests"][0]["description"])
    resume = {
        asked.id: {"decisions": [decision]}
        for asked, decision in zip(by_text, decisions, strict=False)
    }
    state: dict[str, Any] = await graph.ainvoke(Command(resume=resume), config)
    return state


YES = {"type": "approve"}


class TestPlanReview:
    async def test_a_plan_is_revised_until_all_agree_and_edits_are_kept(self, make_tank):
        config, tank = thread("1"), make_tank()
        async with opened(tank, "plan_review", config) as graph:
            await graph.ainvoke({"topic": "tides"}, config)
            no = {"type": "reject", "message": "the moon"}
            state = await reviewed(graph, config, YES, no)
            assert state["round"] == 2
            assert state["prompts"][0] == "Collect what is known of tides. Mind: the moon"
        assert tank.flush().ok
        tank.close()
        prompts = ["edited", *state["prompts"][1:]]
        edit = {"type": "edit", "edited_action": {"name": "run_plan", "args": {"prompts": prompts}}}
        async with opened(make_tank(), "plan_review", config) as graph:
            state = await reviewed(graph, config, edit, YES)
        assert state["status"] == "approved"
        assert state["result"].splitlines()[0] == "[edited]"
        assert [(each["reviewer"], each["decision"]) for each in state["reviews"]] == [
            ("ada", "approve"), ("ben", "reject"), ("ada", "edit"), ("ben", "approve"),
        ]  # fmt: skip

    async def test_one_answer_leaves_the_others_open(self, tank):
        config = thread("1", reviewers=["ada", "ben", "eve"])
        async with opened(tank, "plan_review", config) as graph:
            await graph.ainvoke({"topic": "tides"}, config)
            state = await reviewed(graph, config, YES)
            assert len(state["__interrupt__"]) == 2
            state = await reviewed(graph, config, YES, YES)
        assert state["status"] == "approved"

    async def test_after_five_rounds_it_is_given_up(self, tank):
        config = thread("1")
        async with opened(tank, "plan_review", config) as graph:
            await graph.ainvoke({"topic": "tides"}, config)
            for _ in range(5):
                state = await reviewed(graph, config, {"type": "respond", "message": "no"}, YES)
        assert (state["status"], state["round"], state.get("result")) == ("given up", 5, None)


@pytest.mark.parametrize(
    ("name", "answers", "end"),
    [
        ("agent", "approve\n", "4 degrees; sent to ada: bring a coat\n"),
        ("plan_review", "approve\nthe moon\napprove\napprove\n", "Mind: the moon]\n"),
    ],
)
def test_its_terminal_program_runs_offline(name, answers, end, database_url, tmp_path):
    done = subprocess.run(
        [sys.executable, "-B", str(EXAMPLES / name / "run.py")],
        input=answers, capture_output=True, text=True, timeout=100, check=False, cwd=tmp_path,
        env={**os.environ, "SURGETANK_HOME": str(tmp_path / "home"), "SURGETANK_DATABASE_URL": database_url},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(end)
