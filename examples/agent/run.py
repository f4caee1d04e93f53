"""Talk to the agent in a terminal: python run.py "weather in Oslo, mail ada: bring a coat"."""

from __future__ import annotations

import asyncio
import sys
import uuid
from pathlib import Path
from typing import Any

from langgraph.types import Command

from surgetank import Surgetank
from surgetank.workflows.graphs.config import load
from surgetank.workflows.graphs.graph_set import GraphSet


def decide(request: dict[str, Any]) -> dict[str, Any]:
    """Ask the person at the terminal."""
    answer = input(f"{request['name']} {request['args']}: approve, or why not? ")
    return {"type": "approve"} if answer == "approve" else {"type": "reject", "message": answer}


async def main(text: str) -> None:
    """One message, with all the approvals that it needs."""
    async with Surgetank() as tank:
        graphs = GraphSet(
            load(Path(__file__).with_name("langgraph.json")), checkpointer=tank.checkpointer()
        )
        config: Any = {"configurable": {"thread_id": str(uuid.uuid4())}}
        async with graphs.open("agent", config) as graph:
            state = await graph.ainvoke({"messages": [("user", text)]}, config)
            while asked := state.get("__interrupt__"):
                requests = asked[0].value["action_requests"]
                resume = {"decisions": [decide(request) for request in requests]}
                state = await graph.ainvoke(Command(resume=resume), config)
        print(state["messages"][-1].content)


if __name__ == "__main__":
    asyncio.run(main(" ".join(sys.argv[1:]) or "weather in Oslo, mail ada: bring a coat"))
