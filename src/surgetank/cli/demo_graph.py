"""The agent of `surgetank demo`: a scripted model, a tool behind a subgraph, and values that break
naive savers."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

from surgetank.exceptions import MissingExtra

if TYPE_CHECKING:
    from surgetank import SurgetankSaver


def scripted_agent(
    saver: SurgetankSaver, *, pause_s: float = 0.0, go_on: Callable[[], bool] = lambda: False
) -> Any:
    """A compiled LangGraph graph on `saver`. Its model waits `pause_s` seconds before each answer,
    and asks itself the next question while `go_on()` says so, which makes one long run.

    The state has a growing list of messages, NaNs (a broken sensor) and a NUL character. Raises
    `MissingExtra`.
    """
    try:
        from langchain_core.messages import AIMessage, HumanMessage, ToolMessage  # noqa: PLC0415
        from langgraph.graph import END, START, StateGraph  # noqa: PLC0415
        from langgraph.graph.message import add_messages  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtra("langgraph", "langgraph", "The demo") from error

    fields: dict[str, Any] = {
        "messages": Annotated[list[Any], add_messages],
        "turn": int,
        "measured": dict[str, Any],
        "note": str,
    }
    state: Any = TypedDict("state", fields)  # type: ignore[misc]

    def model(values: dict[str, Any]) -> dict[str, Any]:
        time.sleep(pause_s)
        last, turn = values["messages"][-1], values.get("turn", 0)
        if isinstance(last, HumanMessage):
            call = {
                "name": "thermometer",
                "args": {"places": ("Oslo", "Rome")},
                "id": f"call-{turn}",
            }
            return {"messages": [AIMessage("I will measure.", tool_calls=[call])]}
        answer = AIMessage(f"I measured: {last.content}")
        more = [HumanMessage("Measure it again, please.")] if go_on() else []
        return {"messages": [answer, *more], "turn": turn + 1}

    def read_sensor(_: dict[str, Any]) -> dict[str, Any]:
        # What PostgreSQL's jsonb refuses: NaN, and a NUL character.
        return {
            "measured": {"neighbor_bounding_box": [math.nan] * 4, "celsius": 21.5},
            "note": "raw\u0000line",
        }

    def answer_call(values: dict[str, Any]) -> dict[str, Any]:
        call = values["messages"][-1].tool_calls[0]
        return {"messages": [ToolMessage("21.5 degrees " + "." * 400, tool_call_id=call["id"])]}

    def next_step(values: dict[str, Any]) -> str:
        last = values["messages"][-1]
        if isinstance(last, HumanMessage):
            return "model"
        return "tools" if last.tool_calls else END

    tools: Any = StateGraph(state)
    tools.add_node("read_sensor", read_sensor)
    tools.add_node("answer_call", answer_call)
    tools.add_edge(START, "read_sensor")
    tools.add_edge("read_sensor", "answer_call")

    graph: Any = StateGraph(state)
    graph.add_node("model", model)
    graph.add_node("tools", tools.compile())
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", next_step, ["model", "tools", END])
    graph.add_edge("tools", "model")
    return graph.compile(checkpointer=saver)
