"""A plan that several people review, each in an interrupt of their own, until all agree.

Who reviews is said by `configurable`. The planner and the writer are scripts: put models in their
stead."""

from __future__ import annotations

import operator
from typing import Annotated, Any, TypedDict

from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send, interrupt

MOST_ROUNDS = 5
STEPS = ("Collect", "Compare", "Conclude")


class Review(TypedDict):
    """What one person said in one round."""

    reviewer: str
    round: int
    decision: str
    notes: str
    prompts: list[str]


class State(TypedDict):
    """What is planned, and how it is judged."""

    topic: str
    reviewers: list[str]
    prompts: list[str]
    round: int
    reviews: Annotated[list[Review], operator.add]
    status: str
    result: str


class Asked(TypedDict):
    """What one reviewer is asked."""

    reviewer: str
    round: int
    prompts: list[str]


def of_this_round(state: State) -> list[Review]:
    """The reviews of the present plan, in the order of the reviewers."""
    found = [review for review in state.get("reviews", []) if review["round"] == state["round"]]
    return sorted(found, key=lambda review: state["reviewers"].index(review["reviewer"]))


def review(state: Asked) -> dict[str, Any]:
    """Wait for one person."""
    answer = interrupt(
        {
            "action_requests": [
                {
                    "name": "run_plan",
                    "args": {"prompts": state["prompts"]},
                    "description": f"Round {state['round']}, for {state['reviewer']}.",
                }
            ],
            "review_configs": [
                {
                    "action_name": "run_plan",
                    "allowed_decisions": ["approve", "edit", "reject", "respond"],
                }
            ],
        }
    )
    decision = answer["decisions"][0]
    edited = decision.get("edited_action") or decision.get("editedAction")
    return {
        "reviews": [
            Review(
                reviewer=state["reviewer"],
                round=state["round"],
                decision=decision["type"],
                notes=decision.get("message") or "",
                prompts=edited["args"]["prompts"] if edited else state["prompts"],
            )
        ]
    }


def decide(state: State) -> dict[str, Any]:
    """Approved when nobody sends it back; each prompt is as the last of its editors wrote it."""
    reviews = of_this_round(state)
    if any(each["decision"] in ("reject", "respond") for each in reviews):
        return {"status": "given up" if state["round"] >= MOST_ROUNDS else "revise"}
    prompts = list(state["prompts"])
    for each in reviews:
        for number, prompt in enumerate(each["prompts"][: len(prompts)]):
            if prompt != state["prompts"][number]:
                prompts[number] = prompt
    return {"status": "approved", "prompts": prompts}


def write(state: State) -> dict[str, Any]:
    """Do what was approved."""
    return {"result": "\n".join(f"[{prompt}]" for prompt in state["prompts"])}


def to_reviewers(state: State) -> list[Send]:
    """All are asked at once."""
    return [
        Send("review", Asked(reviewer=name, round=state["round"], prompts=state["prompts"]))
        for name in state["reviewers"]
    ]


def after_decision(state: State) -> str:
    """Write it, plan again, or give it up."""
    return {"approved": "write", "revise": "plan"}.get(state["status"], END)


def make_graph(config: RunnableConfig) -> StateGraph[State]:
    """The graph, with the reviewers of `configurable` (those of a thread that began stay)."""
    reviewers = config.get("configurable", {}).get("reviewers") or ["ada", "ben"]

    def plan(state: State) -> dict[str, Any]:
        """The first plan, or one that minds what the reviewers said."""
        if not state.get("round"):
            prompts = [f"{step} what is known of {state['topic']}." for step in STEPS]
            return {"round": 1, "reviewers": reviewers, "prompts": prompts}
        notes = "; ".join(each["notes"] for each in of_this_round(state) if each["notes"])
        return {
            "round": state["round"] + 1,
            "prompts": [f"{prompt} Mind: {notes}" if notes else prompt for prompt in state["prompts"]],
        }  # fmt: skip

    graph = StateGraph(State)
    graph.add_node("plan", plan)
    graph.add_node("review", review)
    graph.add_node("decide", decide)
    graph.add_node("write", write)
    graph.add_edge(START, "plan")
    graph.add_conditional_edges("plan", to_reviewers, ["review"])
    graph.add_edge("review", "decide")
    graph.add_conditional_edges("decide", after_decision, ["plan", "write", END])
    graph.add_edge("write", END)
    return graph
