"""The audit on real PostgreSQL: whatever somebody with all rights does to it by hand is found."""

from __future__ import annotations

import hashlib
import json
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import LiteralString

import psycopg
import pytest

from surgetank import Surgetank
from surgetank.acting import acting_from
from surgetank.database.migrate import MigratedDatabase
from surgetank.exceptions import InvalidRequest
from surgetank.workflows.audit import Audit, AuditFilter
from surgetank.workflows.queue import RunQueue
from surgetank.workflows.runs import NewRun, Run
from surgetank.workflows.status import Status

DAY = 86_400.0
ADA = "ada-l"  # no part of a hexadecimal number


@pytest.fixture
def database(database_url: str) -> Iterator[MigratedDatabase]:
    made = MigratedDatabase(database_url)
    yield made
    made.close()


@pytest.fixture
def queue(database: MigratedDatabase) -> RunQueue:
    return RunQueue(database, node="host-1")


@pytest.fixture
def audit(database: MigratedDatabase) -> Audit:
    return Audit(database)


def complete(queue: RunQueue, thread: str = "t", actor: str = "ada") -> Run:
    """A run from its acceptance to its end: three rows."""
    queue.accept(NewRun(thread_id=thread, assistant_id="agent"), actor=actor)
    (run,) = queue.claim("w", 1)
    queue.end(run, Status.COMPLETED, actor="w")
    return run


def by_hand(url: str, *statements: LiteralString) -> None:
    """What somebody does who may do everything: no trigger sees it."""
    with psycopg.connect(url) as connection:
        connection.execute("SET session_replication_role = replica")
        for statement in statements:
            connection.execute(statement)


def age(url: str, days: float, thread: str) -> None:
    """Make a thread's rows older, as if they had been written then."""
    with psycopg.connect(url) as connection:
        connection.execute("SET session_replication_role = replica")
        number = connection.execute(
            "SELECT number FROM surgetank.audit_names WHERE name = %s", (thread,)
        ).fetchone()
        assert number is not None
        rows = connection.execute(
            "UPDATE surgetank.audit SET at = at - make_interval(secs => %s) WHERE thread = %s"
            " RETURNING nth",
            (days * DAY, number[0]),
        ).fetchall()
        for (nth,) in sorted(rows):
            connection.execute(
                "UPDATE surgetank.audit a SET prev_hash = p.hash FROM (SELECT coalesce((SELECT hash"
                " FROM surgetank.audit WHERE thread = %(t)s AND nth = %(n)s - 1), '') AS hash) p"
                " WHERE a.thread = %(t)s AND a.nth = %(n)s",
                {"t": number[0], "n": nth},
            )
            connection.execute(
                "UPDATE surgetank.audit a SET hash = surgetank.audit_hash(a, a.nth, a.prev_hash)"
                " WHERE a.thread = %s AND a.nth = %s",
                (number[0], nth),
            )
        connection.execute(
            "UPDATE surgetank.audit_heads h SET hash = a.hash, prev_hash = a.prev_hash"
            " FROM surgetank.audit a WHERE a.thread = h.thread AND a.nth = h.nth"
        )


def broken(audit: Audit) -> tuple[str, str | None, int | None]:
    found = audit.verify().broken
    assert found is not None, "nothing was found"
    return found.what, found.thread_id, found.nth


# -- what it holds


def test_who_what_when_and_from_where_is_in_it_in_order(
    queue: RunQueue, audit: Audit, database_url: str
) -> None:
    token = acting_from.set("10.0.0.7")
    try:
        run = queue.accept(NewRun(thread_id="t", assistant_id="agent"), actor="ada")
    finally:
        acting_from.reset(token)
    (mine,) = queue.claim("w", 1)
    queue.end(mine, Status.COMPLETED, actor="w")
    rows = audit.list(AuditFilter(workflow=run.workflow_id))
    assert [(r["action"], r["actor"], r["origin"], r["thread_id"]) for r in reversed(rows)] == [
        ("run_accepted", "ada", "10.0.0.7", "t"), ("run_claimed", "w", "host-1", "t"),
        ("run_completed", "w", "host-1", "t"),
    ]  # fmt: skip
    assert audit.verify().sound
    with psycopg.connect(database_url) as connection:
        setting = connection.execute("SELECT current_setting('surgetank.origin', true)").fetchone()
    assert setting == (None,), "it was said for that transaction only"


def test_it_is_listed_by_thread_actor_and_time_a_page_at_a_time(
    queue: RunQueue, audit: Audit
) -> None:
    complete(queue, "a", "ada")
    complete(queue, "b", "bob")
    assert {r["actor"] for r in audit.list(AuditFilter(thread="a"))} == {"ada", "w"}
    assert [r["thread_id"] for r in audit.list(AuditFilter(actor="bob"))] == ["b"]
    assert audit.list(AuditFilter(actor="nobody")) == []
    assert audit.list(AuditFilter(since=time.time() + 60)) == []
    first = audit.list(limit=4)
    rest = audit.list(before=first[-1]["id"])
    assert (len(first), len(rest)) == (4, 2)
    assert [r["id"] for r in first + rest] == sorted((r["id"] for r in first + rest), reverse=True)


def test_rows_of_a_thread_count_without_holes_though_transactions_are_rolled_back(
    queue: RunQueue, audit: Audit, database_url: str
) -> None:
    complete(queue)
    with psycopg.connect(database_url) as connection:
        connection.execute("SELECT surgetank.note('x', 'eve', 't', NULL, NULL, '{}')")
        connection.rollback()
    complete(queue)
    lines = [json.loads(line) for line in audit.export()]
    assert [line["nth"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert lines[-1]["id"] > lines[0]["id"] + 5, "the identity has a hole"
    assert audit.verify().sound


def test_what_is_exported_has_all_that_the_hashes_are_made_of(
    queue: RunQueue, audit: Audit
) -> None:
    """Computed again from the lines alone, as docs/how-to/audit.md says."""
    queue.accept(
        NewRun(thread_id="t \u00e9 \U0001f600 '\"\\", assistant_id='a"\u2028\\'), actor="ad\u00e4"
    )
    audit.note(
        "something", "ada", detail={"b": [1, 2.5, None, True, {"z": "\u00e4"}], "aa": 10**30}
    )
    for line in map(json.loads, audit.export()):
        numbers = line["numbers"]
        at = line["at"].replace("+00:00", "")
        said = [
            line["prev_hash"], line["nth"], line["id"], at, line["action"], numbers["actor"],
            numbers["thread"], line["workflow_id"], line["run_id"], numbers["origin"], line["detail"],
        ]  # fmt: skip
        text = json.dumps(said, ensure_ascii=False)
        assert hashlib.sha256(text.encode()).hexdigest() == line["hash"], text


def test_racing_runs_of_many_threads_leave_sound_chains(
    database: MigratedDatabase, queue: RunQueue, audit: Audit
) -> None:
    def work(number: int) -> None:
        own = RunQueue(database, node=f"host-{number}")
        for step in range(15):
            own.accept(NewRun(thread_id=f"t{step % 3}", assistant_id="agent"), actor=f"u{number}")
            for run in own.claim(f"w{number}", 5):
                own.end(run, Status.COMPLETED, actor=f"w{number}")
            if step % 5 == 0:
                audit.seal()

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    while runs := queue.claim("w", 10):
        for run in runs:
            queue.end(run, Status.COMPLETED, actor="w")
    audit.seal()
    found = audit.verify()
    assert found.sound, found
    assert found.rows == 6 * 15 * 3


# -- what is found


def test_a_changed_row_is_found(queue: RunQueue, audit: Audit, database_url: str) -> None:
    complete(queue, "a")
    complete(queue, "b")
    by_hand(database_url, "UPDATE surgetank.audit SET detail = '{}' WHERE nth = 2 AND thread ="
            " (SELECT number FROM surgetank.audit_names WHERE name = 'b')")  # fmt: skip
    assert broken(audit) == ("the row was changed", "b", 2)


def test_a_changed_row_with_a_new_hash_is_found_at_the_row_after_it(
    queue: RunQueue, audit: Audit, database_url: str
) -> None:
    complete(queue)
    by_hand(
        database_url,
        "UPDATE surgetank.audit SET actor = 999 WHERE nth = 2",
        "UPDATE surgetank.audit a SET hash = surgetank.audit_hash(a, a.nth, a.prev_hash)"
        " WHERE nth = 2",
    )
    assert broken(audit) == ("the row before it was changed, or it was put in", "t", 3)


def test_a_removed_row_is_found(queue: RunQueue, audit: Audit, database_url: str) -> None:
    complete(queue)
    by_hand(database_url, "DELETE FROM surgetank.audit WHERE nth = 2")
    assert broken(audit) == ("the rows 2 to 2 before it are gone", "t", 3)


def test_a_removed_first_row_is_found_and_so_it_is_when_the_head_was_changed_to_fit(
    queue: RunQueue, audit: Audit, database_url: str
) -> None:
    complete(queue)
    by_hand(database_url, "DELETE FROM surgetank.audit WHERE nth = 1")
    assert broken(audit) == ("the rows 1 to 1 before it are gone", "t", 2)
    by_hand(
        database_url,
        "UPDATE surgetank.audit_heads h SET pruned_nth = 1, pruned_hash = a.prev_hash"
        " FROM surgetank.audit a WHERE a.thread = h.thread AND a.nth = 2",
    )
    assert broken(audit) == ("the first rows of the chain are gone, and no seal says so", "t", 1)


def test_a_row_that_was_put_in_is_found(queue: RunQueue, audit: Audit, database_url: str) -> None:
    complete(queue)
    put_in = (
        "INSERT INTO surgetank.audit (action, actor, thread, nth, prev_hash, hash)"
        " SELECT 'run_cancelled', actor, thread, 4, hash, hash FROM surgetank.audit WHERE nth = 3"
    )
    by_hand(database_url, put_in)
    assert broken(audit) == ("the row was changed", "t", 4)
    by_hand(
        database_url,
        "UPDATE surgetank.audit a SET hash = surgetank.audit_hash(a, a.nth, a.prev_hash)"
        " WHERE nth = 4",
    )
    assert broken(audit) == ("the row was put in at the end", "t", 4)


def test_a_removed_end_is_found_and_after_a_seal_also_when_the_head_was_changed_to_fit(
    queue: RunQueue, audit: Audit, database_url: str
) -> None:
    complete(queue)
    assert audit.seal() == 1
    assert audit.seal() is None, "nothing is new"
    by_hand(database_url, "DELETE FROM surgetank.audit WHERE nth = 3")
    assert broken(audit) == ("the rows after it are gone", "t", 2)
    by_hand(
        database_url,
        "UPDATE surgetank.audit_heads h SET nth = 2, hash = a.hash, prev_hash = a.prev_hash"
        " FROM surgetank.audit a WHERE a.thread = h.thread AND a.nth = 2",
    )
    assert broken(audit) == ("rows are gone that the seal 1 has seen", "t", 3)


def test_a_chain_that_is_gone_is_found(queue: RunQueue, audit: Audit, database_url: str) -> None:
    complete(queue, "a")
    complete(queue, "b")
    audit.seal()
    rows = (
        "DELETE FROM surgetank.audit WHERE thread ="
        " (SELECT number FROM surgetank.audit_names WHERE name = 'a')"
    )
    by_hand(database_url, rows)
    assert broken(audit) == ("the last rows of the chain are gone", "a", 3)
    by_hand(
        database_url,
        "DELETE FROM surgetank.audit_heads WHERE thread ="
        " (SELECT number FROM surgetank.audit_names WHERE name = 'a')",
    )
    assert broken(audit) == ("rows are gone that the seal 1 has seen", "a", 3)


def test_a_changed_or_removed_seal_is_found(
    queue: RunQueue, audit: Audit, database_url: str
) -> None:
    for thread in "abc":
        complete(queue, thread)
        audit.seal()
    noted = audit.verify()
    assert audit.verify(seal=f"{noted.seal}:{noted.seal_hash}").sound
    by_hand(database_url, "DELETE FROM surgetank.audit_seal_points WHERE seal = 2")
    assert broken(audit)[0] == "the seal 2 was changed"
    by_hand(database_url, "DELETE FROM surgetank.audit_seals WHERE number = 2")
    assert broken(audit)[0] == "the seal 3 doesn't follow the one before it"
    by_hand(database_url, "DELETE FROM surgetank.audit_seals WHERE number = 3",
            "DELETE FROM surgetank.audit_seal_points WHERE seal = 3")  # fmt: skip
    assert audit.verify().sound, "a last seal alone is missed by nobody but who noted it"
    found = audit.verify(seal=f"{noted.seal}:{noted.seal_hash}").broken
    assert found is not None
    assert found.what == "the seal 3 is gone"
    with pytest.raises(InvalidRequest):
        audit.verify(seal="3;DROP")


# -- what the database refuses


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE surgetank.audit SET action = 'x'",
        "DELETE FROM surgetank.audit",
        "TRUNCATE surgetank.audit",
        "SET LOCAL surgetank.pruning = 'on'; DELETE FROM surgetank.audit",
    ],
)
def test_the_database_refuses_to_change_it(
    queue: RunQueue, audit: Audit, database_url: str, statement: LiteralString
) -> None:
    complete(queue)
    with (
        psycopg.connect(database_url) as connection,
        pytest.raises(psycopg.Error, match="only added"),
    ):
        connection.execute(statement)
    assert audit.verify().rows == 3


# -- forgetting


def test_an_erased_user_is_not_in_it_any_more_and_it_verifies(
    tank: Surgetank, database_url: str
) -> None:
    for user in (ADA, "bob"):
        token = acting_from.set("10.0.0.7")
        tank.runs.accept(
            NewRun(thread_id=f"of-{user}", assistant_id="agent", owner=user), actor=user
        )
        acting_from.reset(token)
    tank.audit.seal()
    tank.erase_user(ADA)
    lines = "\n".join(tank.audit.export())
    assert ADA not in lines
    found = tank.audit.list()
    kept = {row["action"]: (row["actor"], row["origin"]) for row in found if row["thread_id"]}
    assert kept["run_accepted"] == ("bob", "10.0.0.7"), "the same address of somebody else stays"
    assert [(r["actor"], r["origin"]) for r in found if r["action"] == "run_accepted"][1] == (
        None, None,
    )  # fmt: skip
    assert tank.audit.verify().sound


def test_old_rows_are_pruned_whole_beginnings_only_and_it_verifies_and_says_from_when(
    queue: RunQueue, audit: Audit, database_url: str
) -> None:
    complete(queue, "old")
    complete(queue, "long")
    age(database_url, 40, "old")
    age(database_url, 40, "long")
    assert audit.verify().sound
    audit.seal()
    complete(queue, "long")
    complete(queue, "new")
    assert audit.prune(time.time() - 30 * DAY, actor="ops") == 6
    assert audit.prune(time.time() - 30 * DAY, actor="ops") == 0
    found = audit.verify()
    assert found.sound, found
    assert found.since is not None
    assert found.since > time.time() - DAY
    assert audit.list()[0]["action"] == "audit_pruned"
    assert [r["nth"] for r in map(json.loads, audit.export()) if r["thread_id"] == "long"] == [
        4,
        5,
        6,
    ]
    complete(queue, "old")
    audit.seal()
    assert audit.verify().sound, "a chain that went begins again"
    by_hand(database_url, "DELETE FROM surgetank.audit WHERE nth = 4")
    assert broken(audit) == ("the rows 4 to 4 before it are gone", "long", 5)


def test_nothing_of_the_last_day_is_pruned(queue: RunQueue, audit: Audit) -> None:
    complete(queue)
    assert audit.prune(time.time() + DAY, actor="eve") == 0
    assert audit.verify().rows == 3


def test_seals_end_with_what_they_are_about(
    queue: RunQueue, audit: Audit, database_url: str
) -> None:
    complete(queue, "old")
    age(database_url, 40, "old")
    audit.seal()
    audit.seal()
    # The seals are as old as what they are about.
    by_hand(database_url, "UPDATE surgetank.audit_seals SET at = at - interval '40 days'")
    audit.prune(time.time() - 30 * DAY, actor="ops")
    with psycopg.connect(database_url) as connection:
        numbers = connection.execute("SELECT number, kind FROM surgetank.audit_seals").fetchall()
        points = connection.execute(
            "SELECT DISTINCT seal FROM surgetank.audit_seal_points"
        ).fetchall()
    assert numbers == [(2, "pruned")]
    assert points == [(2,)]


def test_what_concerns_no_thread_has_a_chain_of_its_own(audit: Audit, database_url: str) -> None:
    audit.note("token_created", "ada", detail={"token": "abc"})
    audit.note("token_revoked", "ada", detail={"token": "abc"})
    assert [r["thread_id"] for r in audit.list()] == [None, None]
    by_hand(database_url, "DELETE FROM surgetank.audit WHERE nth = 1")
    found = audit.verify().broken
    assert found is not None
    assert (found.thread, found.thread_id) == (0, None)


def test_tokens_that_are_made_and_revoked_are_in_it(audit: Audit, database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "INSERT INTO surgetank.api_tokens (id, hash, user_name, role, label, created_by)"
            " VALUES ('abc', '\\x00', 'bob', 'viewer', '', 'ada')"
        )
        for _ in range(2):
            connection.execute(
                "UPDATE surgetank.api_tokens SET revoked_at = coalesce(revoked_at, now()),"
                " revoked_by = coalesce(revoked_by, 'eve')"
            )
    assert [(r["action"], r["actor"], r["detail"]) for r in audit.list()] == [
        ("token_revoked", "eve", {"token": "abc"}),
        ("token_created", "ada", {"token": "abc", "role": "user"}),
    ]
    assert audit.verify().sound


def test_the_role_of_the_docs_can_work_and_can_t_change_it(
    queue: RunQueue, audit: Audit, database_url: str
) -> None:
    text = (Path(__file__).parents[2] / "docs/how-to/audit.md").read_text()
    grants = text.split("```sql\n")[1].split("```")[0]
    role = f"app_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {role}".encode())
        try:
            connection.execute(grants.replace(" app;", f" {role};").encode())
            complete(queue)
            connection.execute(f"SET ROLE {role}".encode())
            connection.execute("SELECT surgetank.note('x', 'ada', 't', NULL, NULL, '{}')")
            connection.execute("SELECT surgetank.seal_audit()")
            connection.execute("SELECT surgetank.prune_audit(now(), 10, 'ada')")
            for statement in (
                "UPDATE surgetank.audit SET action = 'x'", "DELETE FROM surgetank.audit",
                "TRUNCATE surgetank.audit", "UPDATE surgetank.audit_heads SET nth = 1",
                "DELETE FROM surgetank.audit_seals", "SET session_replication_role = replica",
            ):  # fmt: skip
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute(statement.encode())
        finally:
            connection.execute("RESET ROLE")
            connection.execute(f"DROP OWNED BY {role}".encode())
            connection.execute(f"DROP ROLE {role}".encode())
    assert audit.verify().sound
    assert audit.verify().rows == 4
