"""A user's data as one archive: what an erasure removes is in it, and nothing of anybody else."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from support.erasing import MARK, USER, leave_traces
from support.savers import put
from surgetank import Surgetank
from surgetank.app.user_export import UserExporter
from surgetank.exceptions import InvalidRequest, NotFound
from surgetank.workflows.queue import RunQueue
from surgetank.workflows.runs import NewRun
from surgetank.workflows.status import Status

# What an erasure counts as removed, and which members have it.
MEMBERS = {
    "lines of logs": "logs", "texts of errors": "errors", "tokens": "tokens", "names in tokens": "tokens",
    "kept answers": "answers", "items of the store": "store", "rows of tables": "tables/app.notes.parquet",
    "names in the audit": "audit", "names in errors": "errors", "names in approvals": "approvals",
    "names in runs": "runs", "counts of runs": "rates", "webhooks": "webhooks", "names in webhooks": "webhooks",
    "assistants": "assistants", "crons": "crons", "names given to analysts": "analysts",
    "owners of tables": "owned_tables",
}  # fmt: skip
# Copies of what is in the database, and how far it was written.
BESIDE = {"partitions of the buffer", "rows that name threads"}


def unpacked(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


def lines(members: dict[str, bytes], name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in members[f"{name}.ndjson"].splitlines()]


@pytest.fixture
def filled(tank: Surgetank) -> Surgetank:
    leave_traces(tank)
    put(tank.checkpointer(), "bobs", {"secret": "of bob"}, user_id="bob")
    tank.sql(
        "CREATE NAMESPACE app; CREATE TABLE app.notes (n BIGINT, s TEXT); CREATE TABLE app.empty (n BIGINT)"
    )
    tank.tables.insert("app.notes", [{"n": 1, "s": MARK}], user=USER)
    assert tank.tables.flush().ok
    tank.tables.insert("app.notes", [{"n": 2, "s": MARK}], user=USER)
    tank.tables.insert("app.notes", [{"n": 3, "s": "of bob"}], user="bob")
    with tank.parts.database.connection() as connection:
        connection.execute("INSERT INTO surgetank.run_rates VALUES (%s, now(), 1)", (USER,))
        connection.execute("UPDATE surgetank.tables SET owner = %s WHERE name = 'empty'", (USER,))
    return tank


def test_what_an_erasure_removes_is_in_the_archive_and_nothing_of_others(filled, tmp_path):
    seen: list[str] = []
    target = tmp_path / "ada.zip"
    done = filled.transfers.export_user(USER, target, progress=lambda name, _: seen.append(name))
    members = unpacked(target)
    manifest = json.loads(members["manifest.json"])
    assert manifest["user"] == USER
    assert done.flushed
    assert [each["name"] for each in manifest["members"]] == [
        n for n in members if n != "manifest.json"
    ]
    for each in manifest["members"]:
        data = members[each["name"]]
        assert each["sha256"] == hashlib.sha256(data).hexdigest()
        assert each["bytes"] == len(data)
        assert each["rows"] > 0
        if each["name"].endswith(".ndjson"):
            assert each["rows"] == len(data.splitlines())
        assert each["name"] in seen
    assert b"of bob" not in b"".join(members.values())
    assert b'"hash"' not in members["tokens.ndjson"]
    threads = {f"t{n}-{MARK}" for n in (0, 1, 2, 9)}
    assert {line["thread_id"] for line in lines(members, "threads")} == threads
    assert {line["message"] for line in lines(members, "logs")} >= {
        f"said {MARK}",
        f"a guest's line {MARK}",
    }
    (tmp_path / "rows.parquet").write_bytes(members["tables/app.notes.parquet"])
    rows = pq.read_table(tmp_path / "rows.parquet").to_pylist()
    assert sorted(row["n"] for row in rows) == [1, 2]
    assert "tables/app.empty.parquet" not in members
    assert target.stat().st_mode & 0o77 == 0
    removed = filled.erase_user(USER).removed
    for kind in removed.keys() - BESIDE:
        name = MEMBERS[kind]
        assert name in members or f"{name}.ndjson" in members, kind
    with pytest.raises(NotFound):
        filled.transfers.export_user(USER, tmp_path / "again.zip")
    assert not (tmp_path / "again.zip").exists()


def test_checkpoints_have_each_value_once(tank, tmp_path):
    saver = tank.checkpointer()
    first = put(saver, "t", {"a": [1], "b": "x"}, user_id="ada")
    second = put(saver, "t", {"a": [1, 2]}, parent=first, step=1, user_id="ada")
    saver.put_writes(second, [("a", "pending")], task_id="task")
    tank.transfers.export_user("ada", tmp_path / "ada.zip")
    newest, oldest = lines(unpacked(tmp_path / "ada.zip"), "checkpoints")
    assert (newest["values"]["a"], newest["parent_id"]) == ([1, 2], oldest["checkpoint_id"])
    assert [write["value"] for write in newest["writes"]] == ["pending"]
    values = {
        (n, line["versions"][n]): v for line in (newest, oldest) for n, v in line["values"].items()
    }
    state = {name: values[name, version] for name, version in oldest["versions"].items()}
    assert (state["a"], state["b"]) == ([1], "x")


def test_runs_and_questions_are_in_it(tank, tmp_path):
    tank.runs.accept(NewRun(thread_id="t", assistant_id="agent", owner="ada"), actor="ada")
    queue = RunQueue(tank.parts.database)
    (claimed,) = queue.claim("w", 1)
    question = [{"id": "q", "value": "sure?", "task_id": "1", "node": "n"}]
    queue.end(claimed, Status.AWAITING_CHECKPOINT, interrupts=question, actor="w")
    tank.transfers.export_user("ada", tmp_path / "x.zip")
    members = unpacked(tmp_path / "x.zip")
    for name in ("runs", "workflows", "approvals", "thread_status"):
        assert [line["thread_id"] for line in lines(members, name)] == ["t"], name
    assert "ada" in {line["actor"] for line in lines(members, "audit")}


def test_what_is_not_flushed_is_in_it(tank, tmp_path):
    first = put(tank.checkpointer(), "t", {"a": 1}, user_id="ada")
    exporter = UserExporter(tank.parts, tank.threads.stored, lambda: tank.flush("system_errors"))
    assert exporter.export("ada", tmp_path / "ada.zip").threads == 1
    (line,) = lines(unpacked(tmp_path / "ada.zip"), "checkpoints")
    assert line["checkpoint_id"] == first["configurable"]["checkpoint_id"]
    assert line["values"]["a"] == 1


def test_an_archive_is_there_when_it_is_complete(filled, tmp_path):
    def fail(_name: str, _rows: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        filled.transfers.export_user(USER, tmp_path / "ada.zip", progress=fail)
    assert list(tmp_path.glob("*.zip*")) == list(tmp_path.glob(".ada*")) == []
    (tmp_path / "ada.zip").write_text("mine")
    with pytest.raises(InvalidRequest, match="there already"):
        filled.transfers.export_user(USER, tmp_path / "ada.zip")
    assert filled.transfers.export_user(USER, tmp_path / "ada.zip", replace=True).rows > 0
