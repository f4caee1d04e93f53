"""The history of questions: whose it is, page by page, and each page by an index in its order."""

from __future__ import annotations

from itertools import product
from typing import Any

import psycopg

from support.questions import ask, working
from surgetank import Surgetank
from surgetank.workflows.approvals.manager import SQL

ROWS = 240
COPY = """
INSERT INTO surgetank.user_checkpoints (thread_id, workflow_id, run_id, kind, assistant_id, step_name, interrupt_id,
    status, owner, assignee, assigned_role)
SELECT thread_id, workflow_id, run_id, kind, (ARRAY['agent', 'agent', 'other'])[1 + mod(g, 3)],
    'step' || mod(g, 2), 'i' || g, (ARRAY['approved', 'edited', 'expired', 'edited', 'approved'])[1 + mod(g, 5)],
    (ARRAY[NULL, 'u1', 'u2', 'u3'])[1 + mod(g, 4)], (ARRAY['u1', NULL, NULL, NULL, NULL, NULL, NULL])[1 + mod(g, 7)],
    (ARRAY[NULL, 'reviewer', NULL, 'operator', NULL, NULL])[1 + mod(g, 6)]
FROM surgetank.user_checkpoints, generate_series(1, %s) AS g
"""


def filled(tank: Surgetank, database_url: str) -> None:
    with working(tank):
        ask(tank, "asked", "Really?")
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(COPY, (ROWS,))


def test_pages_have_what_concerns_a_user_each_once_and_in_order(
    tank: Surgetank, database_url: str
) -> None:
    filled(tank, database_url)
    closed = tank.approvals.closed
    every = closed(limit=1000)
    assert len(every) == ROWS
    assert [row.checkpoint_number for row in every] == sorted(
        (row.checkpoint_number for row in every), reverse=True
    )
    choices = product(
        (None, "u1", "u3", "nobody"), ([], ["reviewer"], ["reviewer", "operator"]), (None, "edited"),
        (None, "u1"), (None, "other"), (None, "step1"),
    )  # fmt: skip
    for owner, roles, status, assignee, assistant, step in choices:
        expected = [
            row.checkpoint_number
            for row in every
            if (owner is None or owner in (row.owner, row.assignee) or row.assigned_role in roles)
            and status in (None, row.status)
            and assignee in (None, row.assignee)
            and assistant in (None, row.assistant_id)
            and step in (None, row.step_name)
        ]
        wanted: dict[str, Any] = {
            "owner": owner, "roles": roles, "status": status, "assignee": assignee,
            "assistant_id": assistant, "step": step,
        }  # fmt: skip
        found, before = list[int](), None
        while page := closed(before=before, limit=37, **wanted):
            found += [row.checkpoint_number for row in page]
            before = found[-1]
        assert found == expected, wanted


def test_no_page_is_found_by_reading_all_of_them(tank: Surgetank, database_url: str) -> None:
    tank.approvals.closed()
    given: dict[str, Any] = {
        "before": 2**62, "limit": 51, "status": None, "owner": "u1", "assignee": "u2", "roles": ["reviewer"],
        "assistant_id": None, "step": None,
    }  # fmt: skip
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "SET enable_seqscan = off; SET enable_sort = off; SET enable_bitmapscan = off"
        )
        for name, indexes in (
            ("closed", ["closed"]), ("closed_assigned", ["closed_assigned"]),
            ("closed_of", ["closed_of", "closed_assigned", "closed_role"]),
        ):  # fmt: skip
            plan = "\n".join(
                row[0] for row in connection.execute(f"EXPLAIN {SQL[name]}", given).fetchall()
            )
            for index in indexes:
                assert f"Index Scan Backward using user_checkpoints_{index} " in plan, plan
            assert "Seq Scan" not in plan
