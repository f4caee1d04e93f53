"""An agent with tools. Its model is a script, so it needs no network; put a real one in its place.

Before it sends mail, it asks: `approve` interrupts with the value that LangChain's human-in-the-loop
middleware has, so that inboxes that know that form show it."""

from __future__ import annotations

import re
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import tool
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import interrupt

DEGREES = {"Oslo": 4, "Rome": 19}


@tool
def weather(city: str) -> str:
    """The temperature in a city."""
    return f"{DEGREES[city]} degrees" if city in DEGREES else f"nobody measures in {city}"


@tool
def send_mail(to: str, text: str) -> str:
    """Send a mail. (It only says so.)"""
    return f"sent to {to}: {text}"


TOOLS = {each.name: each for each in (weather, send_mail)}
NEED_APPROVAL = {"send_mail": ["approve", "edit", "reject", "respond"]}


class ScriptedModel(BaseChatModel):
    """Answers by rules: `weather in Oslo`, `mail ada: text`, or both in one message."""

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self._next(messages))])

    def _next(self, messages: list[BaseMessage]) -> AIMessage:
        last = messages[-1]
        if not isinstance(last, HumanMessage):
            said: list[str] = []
            for message in reversed(messages):
                if not isinstance(message, ToolMessage):
                    break
                said.insert(0, str(message.content))
            return AIMessage("; ".join(said))
        text = str(last.content)
        wanted: list[tuple[str, dict[str, str]]] = [
            ("weather", {"city": city}) for city in re.findall(r"weather in (\w+)", text)
        ]
        wanted += [
            ("send_mail", {"to": to, "text": mail})
            for to, mail in re.findall(r"mail (\w+): (.+)", text)
        ]
        if not wanted:
            return AIMessage("Ask me for the 'weather in Oslo', or to 'mail ada: hello'.")
        calls = [
            {"name": name, "args": args, "id": f"call-{len(messages)}-{number}"}
            for number, (name, args) in enumerate(wanted)
        ]
        return AIMessage("", tool_calls=calls)


def model(state: MessagesState) -> dict[str, Any]:
    """Say what to do next, or the answer."""
    return {"messages": [ScriptedModel().invoke(state["messages"])]}


def approve(state: MessagesState) -> dict[str, Any]:
    """Ask a person about the calls that need it, all in one interrupt."""
    message = state["messages"][-1]
    assert isinstance(message, AIMessage)
    asked = [call for call in message.tool_calls if call["name"] in NEED_APPROVAL]
    if not asked:
        return {}
    answer = interrupt(
        {
            "action_requests": [
                {"name": call["name"], "args": call["args"], "description": "The agent wants to send mail."}
                for call in asked
            ],
            "review_configs": [
                {"action_name": name, "allowed_decisions": NEED_APPROVAL[name]}
                for name in dict.fromkeys(call["name"] for call in asked)
            ],
        }
    )  # fmt: skip
    decisions = dict(zip((call["id"] for call in asked), answer["decisions"], strict=True))
    calls, answers = [], []
    for call in message.tool_calls:
        decision = decisions.get(call["id"], {"type": "approve"})
        if decision["type"] == "edit":
            edited = decision.get("edited_action") or decision["editedAction"]
            call = {**call, "args": edited["args"]}  # noqa: PLW2901 - the edited one is called
        elif decision["type"] in ("reject", "respond"):
            refused = decision["type"] == "reject"
            answers.append(
                ToolMessage(
                    decision.get("message") or "a person refused it",
                    tool_call_id=call["id"],
                    status="error" if refused else "success",
                )
            )
        calls.append(call)
    return {"messages": [message.model_copy(update={"tool_calls": calls}), *answers]}


def tools(state: MessagesState) -> dict[str, Any]:
    """Make the calls that nobody answered yet."""
    answered = {m.tool_call_id for m in state["messages"] if isinstance(m, ToolMessage)}
    message = next(m for m in reversed(state["messages"]) if isinstance(m, AIMessage))
    return {
        "messages": [
            TOOLS[call["name"]].invoke({**call, "type": "tool_call"})
            for call in message.tool_calls
            if call["id"] not in answered
        ]
    }


def wants_tools(state: MessagesState) -> str:
    """Whether the model called a tool."""
    return "approve" if getattr(state["messages"][-1], "tool_calls", None) else END


graph = StateGraph(MessagesState)
graph.add_node(model)
graph.add_node(approve)
graph.add_node(tools)
graph.add_edge(START, "model")
graph.add_conditional_edges("model", wants_tools, ["approve", END])
graph.add_edge("approve", "tools")
graph.add_edge("tools", "model")
