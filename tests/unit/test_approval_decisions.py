"""What an interrupt offers, and which answers it allows. Pure."""

from __future__ import annotations

from typing import Any

import pytest

from surgetank.exceptions import DecisionRefused
from surgetank.workflows.approvals.decisions import changes, decide, difference, judge
from surgetank.workflows.approvals.offers import offer_of

BATCH: dict[str, Any] = {
    "action_requests": [
        {"name": "send", "args": {"to": "ada"}, "description": "Send mail."},
        {"name": "pay", "args": {"sum": 5}},
    ],
    "review_configs": [
        {"action_name": "send", "allowed_decisions": ["approve", "edit", "reject", "respond"]},
        {"action_name": "pay", "allowed_decisions": ["approve", "reject"]},
    ],
}
ONE = {"action_requests": BATCH["action_requests"][:1], "review_configs": BATCH["review_configs"]}
TOOL = {"type": "tool_approval", "tool_call_id": "c1", "name": "send", "args": {"to": "ada"}}
TOOL_SCHEMA: dict[str, Any] = {
    "oneOf": [
        {"type": "object", "properties": {"type": {"const": "approve"}}, "required": ["type"]},
        {
            "type": "object",
            "properties": {
                "type": {"const": "edit"},
                "edited_action": {
                    "type": "object",
                    "properties": {"name": {"const": "send"}, "args": {"type": "object"}},
                    "required": ["name", "args"],
                },
            },
            "required": ["type", "edited_action"],
        },
    ]
}
INBOX = {
    "action_request": {"action": "send", "args": {"to": "ada"}},
    "config": {"allow_accept": True, "allow_edit": True, "allow_respond": True, "allow_ignore": False},
    "description": "Send it?",
}  # fmt: skip


@pytest.mark.parametrize(
    ("value", "schema", "kind"),
    [
        (BATCH, None, "batched"), (TOOL, TOOL_SCHEMA, "tool_approval"), (INBOX, None, "agent_inbox"),
        ([INBOX, INBOX], None, "agent_inbox"), ({"q": 1}, {"type": "boolean"}, "schema"),
        ("really?", None, "free"), (None, None, "free"), ([], None, "free"),
        ({"actionRequests": BATCH["action_requests"], "reviewConfigs": []}, None, "batched"),
    ],
)  # fmt: skip
def test_each_kind_is_known_by_its_form(value: Any, schema: Any, kind: str) -> None:
    assert offer_of(value, schema).kind == kind


def test_an_offer_says_what_may_be_decided_about_each_action_and_about_all() -> None:
    offer = offer_of(BATCH)
    assert [action.name for action in offer.actions] == ["send", "pay"]
    assert offer.allowed == ("approve", "reject")
    assert offer.editable == [{"to": "ada"}, {"sum": 5}]
    assert offer.instructions == "Send mail."
    assert offer_of(INBOX).allowed == ("approve", "edit", "respond")
    assert offer_of(TOOL, TOOL_SCHEMA).allowed == ("approve", "edit")


def test_terms_come_from_the_run_and_from_the_interrupt_and_nonsense_is_left_out() -> None:
    value = {"surgetank": {"expires_in": "2h", "approvals": 2, "assignee": "ada"}}
    assert offer_of(value, None, {"assignee": "ben", "role": "lead"}).terms == {
        "assignee": "ada", "role": "lead", "approvals": 2, "expires_in": 7200.0,
    }  # fmt: skip
    odd = {"expires_in": "soon", "approvals": 7, "default_action": "edit", "assignee": 1}
    assert offer_of({"surgetank": odd}).terms == {}
    for late in (True, -1, 0, float("inf"), float("nan"), "7"):
        assert offer_of({"surgetank": {"expires_in": late}}).terms == {}


@pytest.mark.parametrize(
    ("action", "more", "outcome", "resume"),
    [
        ("approve", {}, "approved", {"decisions": [{"type": "approve"}]}),
        ("reject", {"notes": "no"}, "rejected", {"decisions": [{"type": "reject", "message": "no"}]}),
        ("respond", {"response": "why?"}, "responded", {"decisions": [{"type": "respond", "message": "why?"}]}),
        (
            "edit", {"edited": {"to": "ben"}}, "edited",
            {"decisions": [{"type": "edit", "edited_action": {"name": "send", "args": {"to": "ben"}}}]},
        ),
    ],
)  # fmt: skip
def test_a_decision_becomes_what_langchain_s_middleware_takes(
    action: str, more: Any, outcome: str, resume: Any
) -> None:
    found = decide(offer_of(ONE), action, **more)
    assert (found.outcome, found.resume) == (outcome, resume)


def test_decisions_about_single_actions_of_a_batch() -> None:
    said = {
        "decisions": [
            {"type": "edit", "editedAction": {"name": "send", "args": {"toWhom": "ben"}}},
            {"type": "reject", "message": "no"},
        ]
    }
    found = decide(offer_of(BATCH), "edit", edited=[1, 2], response=said)
    assert found.outcome == "rejected"
    assert found.resume["decisions"][0] == {
        "type": "edit", "edited_action": {"name": "send", "args": {"toWhom": "ben"}},
    }, "camelCase is the protocol's; arguments stay as they are"  # fmt: skip


@pytest.mark.parametrize(
    ("resume", "said"),
    [
        ({"decisions": [{"type": "approve"}]}, "1 decisions for 2 actions"),
        ({"decisions": []}, "0 decisions for 2"),
        ("approve", "no list of decisions"),
        ({"decisions": [{"type": "approve"}, {"type": "edit"}]}, "'edit' is not allowed for 'pay'"),
        ({"decisions": [{"type": "approve"}, None]}, "not allowed for 'pay'"),
        (
            {"decisions": [
                {"type": "edit", "edited_action": {"name": "pay", "args": {}}}, {"type": "approve"},
            ]},
            "not which tool is called",
        ),
        ({"decisions": [{"type": "respond"}, {"type": "approve"}]}, "no text"),
    ],
)  # fmt: skip
def test_what_a_batch_does_not_allow_is_refused(resume: Any, said: str) -> None:
    with pytest.raises(DecisionRefused, match=said):
        judge(offer_of(BATCH), resume)


def test_a_tool_approval_is_one_decision_that_matches_its_schema() -> None:
    offer = offer_of(TOOL, TOOL_SCHEMA)
    assert decide(offer, "approve").resume == {"type": "approve"}
    edited = decide(offer, "edit", edited={"to": "ben"})
    assert edited.resume["edited_action"] == {"name": "send", "args": {"to": "ben"}}
    for wrong in (
        {"type": "reject"},
        {"type": "edit", "edited_action": {"name": "pay", "args": {}}},
        [{"type": "approve"}],
    ):
        with pytest.raises(DecisionRefused):
            judge(offer, wrong)


def test_agent_inbox_has_words_of_its_own() -> None:
    offer = offer_of(INBOX)
    assert decide(offer, "approve").resume == [{"type": "accept", "args": None}]
    assert decide(offer, "respond", response="later").resume == [
        {"type": "response", "args": "later"}
    ]
    edited = decide(offer, "edit", edited={"to": "ben"})
    assert edited.resume == [{"type": "edit", "args": {"action": "send", "args": {"to": "ben"}}}]
    assert decide(offer, "reject", notes="no").resume == [{"type": "response", "args": "no"}]
    with pytest.raises(DecisionRefused, match="'ignore' is not allowed"):
        decide(offer, "ignore")
    with pytest.raises(DecisionRefused, match="not which action"):
        judge(offer, [{"type": "edit", "args": {"action": "pay", "args": {}}}])


def test_a_schema_is_what_the_answer_must_match_and_a_broken_one_says_so() -> None:
    offer = offer_of({"q": 1}, {"type": "object", "required": ["ok"]})
    assert decide(offer, "respond", response={"ok": True}).resume == {"ok": True}
    with pytest.raises(DecisionRefused, match="doesn't match"):
        decide(offer, "respond", response={})
    with pytest.raises(DecisionRefused):
        judge(offer_of({"q": 1}, {"type": 7}), 1)


def test_free_questions_take_anything() -> None:
    offer = offer_of("really?")
    assert [decide(offer, a).resume for a in ("approve", "reject", "ignore")] == [True, False, None]
    assert decide(offer, "respond", notes="yes").resume == "yes"
    assert decide(offer, "edit", edited={"a": 1}).edited == {"a": 1}
    with pytest.raises(DecisionRefused, match="no action 'delete'"):
        decide(offer, "delete")


def test_a_difference_names_what_was_changed() -> None:
    before = {"a": 1, "b": [1, 2], "c/d": {"x": 1}, "gone": 1}
    after = {"a": 1, "b": [1, 3], "c/d": {"x": 2}, "new": 0}
    assert difference(before, after) == [
        {"op": "replace", "path": "/b/1", "before": 2, "value": 3},
        {"op": "replace", "path": "/c~1d/x", "before": 1, "value": 2},
        {"op": "remove", "path": "/gone", "before": 1},
        {"op": "add", "path": "/new", "value": 0},
    ]
    assert len(difference(list(range(1000)), list(range(1, 1001)))) == 200


@pytest.mark.parametrize("decided", ["approve", "reject"])
def test_what_edits_of_a_batch_change_is_known_whatever_else_is_decided(decided: str) -> None:
    offer = offer_of(
        {
            "action_requests": [
                {"name": "send", "args": {"to": "ada"}},
                {"name": "wait", "args": {}},
            ],
            "review_configs": [],
        }
    )
    edit = {"type": "edit", "edited_action": {"name": "send", "args": {"to": "ben"}}}
    found = decide(offer, "edit", response={"decisions": [edit, {"type": decided}]})
    assert changes(offer, found) == [
        {"op": "replace", "path": "/0/to", "before": "ada", "value": "ben"}
    ]
    found = decide(offer, decided, response={"decisions": [{"type": decided}] * 2})
    assert changes(offer, found) is None


def test_what_an_edit_changes_is_known_in_each_form() -> None:
    change = [{"op": "replace", "path": "/to", "before": "ada", "value": "ben"}]
    tool = offer_of({"type": "tool_approval", "name": "send", "args": {"to": "ada"}})
    assert changes(tool, decide(tool, "edit", edited={"to": "ben"})) == change
    free = offer_of({"to": "ada"})
    assert changes(free, decide(free, "edit", edited={"to": "ben"})) == change
    assert changes(free, decide(free, "approve")) is None
    inbox = offer_of(
        {
            "action_request": {"action": "send", "args": {"to": "ada"}},
            "config": {"allow_edit": True, "allow_accept": True},
        }
    )
    found = changes(inbox, decide(inbox, "edit", edited={"to": "ben"}))
    assert found == [{**change[0], "path": "/0/to"}]
