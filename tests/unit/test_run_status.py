"""The states of runs and workflows. Pure."""

from __future__ import annotations

import pytest

from surgetank.exceptions import InvalidTransition
from surgetank.workflows.status import (
    ENDED,
    RUN_TRANSITIONS,
    WORKFLOW_TRANSITIONS,
    Status,
    check_transition,
    wire_status,
)


@pytest.mark.parametrize("table", [RUN_TRANSITIONS, WORKFLOW_TRANSITIONS])
def test_every_state_is_in_the_table_and_can_be_reached(table) -> None:
    assert set(table) == set(Status)
    reached, todo = set[Status](), [Status.PENDING]
    while todo:
        state = todo.pop()
        if state not in reached:
            reached.add(state)
            todo += table[state]
    assert reached == set(Status)


def test_what_has_ended_stays_so_but_a_failed_workflow_can_be_tried_again() -> None:
    assert {s for s in Status if not RUN_TRANSITIONS[s]} == {*ENDED, Status.AWAITING_CHECKPOINT}
    assert {s for s in ENDED if WORKFLOW_TRANSITIONS[s]} == {Status.FAILED}


def test_a_step_that_is_not_there_names_where_it_stands_and_what_is_possible() -> None:
    check_transition(Status.PENDING, Status.RUNNING, RUN_TRANSITIONS, "The run 7")
    with pytest.raises(InvalidTransition, match="The run 7 is pending and can't become completed"):
        check_transition(Status.PENDING, Status.COMPLETED, RUN_TRANSITIONS, "The run 7")
    with pytest.raises(InvalidTransition, match="cancelled or failed or running"):
        check_transition(Status.PENDING, Status.COMPLETED, RUN_TRANSITIONS, "The run 7")
    with pytest.raises(InvalidTransition, match="completed is an end"):
        check_transition(Status.COMPLETED, Status.RUNNING, RUN_TRANSITIONS, "The run 7")


def test_the_wire_knows_each_state() -> None:
    assert {wire_status(status) for status in Status} == {
        "pending", "running", "success", "error", "interrupted",
    }  # fmt: skip
    assert wire_status(Status.FAILED, timed_out=True) == "timeout"
    assert wire_status(Status.AWAITING_CHECKPOINT) == "success"
