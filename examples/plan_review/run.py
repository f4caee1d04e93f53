"""Review a plan in a terminal, as each of its reviewers: python run.py "tides"."""

from __future__ import annotations

import asyncio
import sys
import uuid
from pathlib import Path
from typing import Any

from langgraph.types import Command, Interrupt

from surgetank import Surgetank
from surgetank.workflows.graphs.config import load
from surgetank.workflows.graphs.graph_set import GraphSet


def answer(asked: Interrupt) -> dict[str, Any]:
    """Ask the person at the terminal."""
    (request,) = asked.value["action_requests"]
    print(request["description"], *request["args"]["prompts"], sep="\n  ")
    said = input("approve, or what should change? ")
    decision = {"type": "approve"} if said == "approve" else {"type": "reject", "message": said}
    return {"decisions": [decision]}


async def main(topic: str) -> None:
    """One plan, until it is approved or given up."""
    async with Surgetank() as tank:
        graphs = GraphSet(
            load(Path(__file__).with_name("langgraph.json")), checkpointer=tank.checkpointer()
        )
        config: Any = {"configurable": {"thread_id": str(uuid.uuid4())}}
        async with graphs.open("plan_review", config) as graph:
            state = await graph.ainvoke({"topic": topic}, config)
            while waiting := state.get("__interrupt__"):
                resume = {asked.id: answer(asked) for asked in waiting}
                state = await graph.ainvoke(Command(resume=resume), config)
        print(state["status"], state.get("result", ""), sep="\n")


if __name__ == "__main__":
    asyncio.run(main(" ".join(sys.argv[1:]) or "tides"))
