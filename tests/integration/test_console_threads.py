"""What the pages of threads are made of: steps out of checkpoints, messages, differences, forms of inputs."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from support.graphs import agent, nested
from surgetank import Surgetank
from surgetank.console import comparing, forms, talk
from surgetank.server.shown import id_at, moment_of
from surgetank.server.steps import missing_parents, steps_of


def steps(tank: Surgetank, graph: Any, given: Any) -> list[Any]:
    graph.invoke(given, {"configurable": {"thread_id": "t"}})
    found = list(tank.threads.stored().history("t", None, limit=50, channels=()))
    assert missing_parents(found) == []
    return steps_of(found, {})[::-1]


def test_steps_say_which_nodes_ran_how_long_and_who_is_asked(make_tank: Any) -> None:
    tank = make_tank()
    said = {"messages": [{"role": "user", "content": "hi"}]}
    found = steps(tank, agent(tank.checkpointer()), said)
    assert [step.nodes for step in found] == [(), ()] + [("think",)] * 4
    assert [step.number for step in found] == [-1, 0, 1, 2, 3, 4]
    assert found[0].took is None
    assert all(step.took is not None and 0 <= step.took < 60 for step in found[1:])
    assert [step.asks for step in found][-2:] == [(), ("ask",)]
    assert not any(step.failed or step.path for step in found)


def test_steps_of_a_subgraph_stand_within_the_step_of_the_graph_around_it(make_tank: Any) -> None:
    tank = make_tank()
    found = steps(tank, nested(tank.checkpointer()), {"count": 1})
    inner = [step for step in found if step.ns]
    outer = {step.checkpoint_id: step for step in found if not step.ns}
    assert [step.nodes for step in inner] == [(), (), ("inc",), ("again",)]
    assert {step.path for step in inner} == {("sub",)}
    assert [outer[step.within].number for step in inner] == [0] * 4
    assert [step.nodes for step in outer.values()] == [(), (), ("sub",), ("after",)]


def test_what_a_task_raised_is_told_with_its_node(make_tank: Any) -> None:
    tank = make_tank()
    graph = nested(tank.checkpointer())
    graph.nodes["after"].bound.func = lambda _: 1 / 0
    with pytest.raises(ZeroDivisionError):
        graph.invoke({"count": 1}, {"configurable": {"thread_id": "t"}})
    (newest,) = steps_of(list(tank.threads.stored().history("t", limit=1, channels=())), {})
    assert [node for node, _ in newest.failed] == ["after"]
    assert "division by zero" in newest.failed[0][1]


def test_ids_of_checkpoints_are_in_the_order_of_time() -> None:
    now = time.time()
    at = moment_of(id_at(now))
    assert at is not None
    assert abs(at - now) < 1e-3
    assert id_at(now - 1) < id_at(now) < id_at(now + 1)


def test_messages_are_who_says_what() -> None:
    value = [
        {"type": "human", "content": [{"type": "text", "text": "<b>look"}, {"type": "image_url"}]},
        {"role": "assistant", "content": "", "tool_calls": [{"name": "find", "args": {"n": 1, "t": "x"}}]},
        {"type": "tool", "name": "find", "content": "x" * 5000},
    ]  # fmt: skip
    shown, before = talk.messages_of(value)
    assert [m.who for m in shown] == ["Person", "Assistant", "Tool find"]
    assert shown[0].text == "<b>look\n[image_url]"
    assert shown[1].calls == (("find", "n: 1, t: x"),)
    assert (len(shown[2].text), shown[2].cut, before) == (4000, 1000, 0)
    assert talk.messages_of({"$items": 100, "$tail": value})[1] == 97
    assert talk.messages_of("nothing of the kind") == ([], 0)
    assert talk.messages_of([1, None])[0] == []


def test_messages_grow_until_they_are_complete_and_are_not_there_twice() -> None:
    def sent(name: str, message: dict[str, Any]) -> tuple[str, bytes]:
        return name, json.dumps([message, {}]).encode()

    events = [
        sent("messages/partial", {"id": "a", "type": "ai", "content": "He"}),
        sent("messages/partial|sub:1", {"id": "a", "type": "ai", "content": "Hello"}),
        sent("messages", {"id": "b", "type": "AIMessageChunk", "content": "So "}),
        sent("messages", {"id": "b", "type": "AIMessageChunk", "content": "long"}),
        sent("messages/complete", {"id": "c", "type": "ai", "content": "done"}),
        ("values", b"{}"),
        ("messages/metadata", b'{"a": {}}'),
    ]
    shown = talk.growing(events, [])
    assert [(m.id, m.text, m.grows) for m in shown] == [
        ("a", "Hello", True), ("b", "So long", True), ("c", "done", False),
    ]  # fmt: skip
    known = [talk.Message("a", "Assistant", "Hello!")]
    assert [m.id for m in talk.growing(events, known)] == ["b", "c"]


def test_what_differs_is_said_place_by_place_and_a_message_in_words() -> None:
    before = {"kept": [1, 2], "n": 1, "gone": None, "flag": True, "messages": []}
    after = {
        "kept": [1, 3, {"x": 4}], "n": 1.5, "flag": False,
        "messages": [{"type": "ai", "content": "Hi", "tool_calls": [{"name": "f", "args": {"a": 1}}]}],
    }  # fmt: skip
    assert [(c.path, c.before, c.after) for c in comparing.changes(before, after)] == [
        ("kept/1", "2", "3"), ("kept/2", None, '{"x": 4}'), ("n", "1", "1.5"), ("gone", "nothing", None),
        ("flag", "yes", "no"), ("messages/0", None, "Assistant: Hi calls f with a: 1"),
    ]  # fmt: skip
    assert list(comparing.changes(after, after)) == []
    assert [c.path for c in comparing.changes(1, True)] == ["all of it"]


def test_a_form_of_an_input_asks_for_a_message_and_for_plain_values() -> None:
    schema = {
        "properties": {
            "messages": {"type": "array", "items": {}},
            "amount": {"anyOf": [{"type": "number"}, {"type": "null"}], "default": None},
            "tone": {"enum": ["kind", "short"], "type": "string"},
            "more": {"$ref": "#/$defs/More"},
        }
    }
    fields = forms.of_input("input", schema)
    assert [(f.key, f.kind) for f in fields] == [
        ("messages", "message"), ("amount", "number"), ("tone", "choice"), ("more", "json"),
    ]  # fmt: skip
    given = {"input.0": "Hi\r\nthere", "input.1": "2.5", "input.2": "", "input.3": ""}
    assert forms.read(fields, given) == {
        "messages": [{"role": "user", "content": "Hi\nthere"}], "amount": 2.5,
    }  # fmt: skip
    (whole,) = forms.of_input("input", {"type": "object"})
    assert forms.read([whole], {"input": '{"x": 1}'}) == {"x": 1}
