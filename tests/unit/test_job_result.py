"""The result of a job: fields for programs, and the JSON form that is stored and shown."""

from __future__ import annotations

import copy
import json
import pickle
from dataclasses import FrozenInstanceError, fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgetank.buffer.stored_jobs import job_json, job_of
from surgetank.flush.classify import combine
from surgetank.job_result import JobResult
from surgetank.model import FlushJob, JobStatus, PartitionOutcome
from surgetank.notify.report import to_plain_data

ERROR = {
    "stream": "s", "partition": "p", "kind": "transient", "error_type": "OperationalError", "sqlstate": "08006",
    "message": "down", "remedy": "wait", "stack_trace": "trace", "attempts": 2, "next_attempt_at": 5.0,
}  # fmt: skip
FLUSH = {
    "entries_flushed": 2, "rows_flushed": 3, "bytes": 10, "partitions_processed": 2, "partitions_failed": 1,
    "entries_parked": 0, "entries_skipped": 0, "notes": [], "values_replaced": 1,
    "replacements": [{"path": "$.a", "reason": "NaN", "original": None}], "errors": [ERROR],
    "partitions": [{"partition": "p", "entries": 0, "rows": 0, "bytes": 0, "parked": 0, "failed": True}],
    "warnings": ["s/p: transient: down"], "seconds": 0.25, "stopped": True, "heartbeat_problem": "busy",
}  # fmt: skip
RETENTION = {
    "message": "Retention deleted 5 checkpoints.", "threads_pruned": 2, "checkpoints_deleted": 5, "threads_deleted": 0,
    "freed_bytes_estimate": None, "warnings": [],
}  # fmt: skip
FORMS: dict[str, dict[str, Any]] = {
    "flush": FLUSH,
    "failed": {**FLUSH, "warnings": [], "message": "s/p: transient: down"},
    "running": {"heartbeat_at": 1.5},
    "retention": RETENTION,
    "erased": {"rows_flushed": 3, "seconds": 1, "message": "(erased)"},
    "unreadable": {"message": "can't be read", "begins": "{"},
    "of a later version": {"rows_flushed": 3, "rows_by_table": {"a": 3}, "seconds": None},
    "with another kind of value": {"rows_flushed": "many", "warnings": "none", "errors": [1]},
    "empty": {},
}


def job(result: JobResult) -> FlushJob:
    return FlushJob("1", "s", "manual", JobStatus.COMPLETED, 1.0, "n", result=result)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form_survives_storing_and_showing(form: dict[str, Any]) -> None:
    result = JobResult.of(form)
    assert dict(result) == form
    assert result == form
    stored = job_json(job(result))
    assert json.loads(stored)["result"] == form
    assert job_of(("1", 1.0, "s", "completed", stored)).result == form
    assert to_plain_data(job(result))["result"] == form
    assert JobResult.of(result) == pickle.loads(pickle.dumps(result)) == copy.deepcopy(result)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
NAMES = st.sampled_from([f.name for f in fields(JobResult)]) | st.text(max_size=5)


@given(st.dictionaries(NAMES, JSON, max_size=8))
def test_whatever_another_version_wrote_is_kept(form: dict[str, Any]) -> None:
    result = JobResult.of(form)
    assert dict(result) == form
    assert len(result) == len(form)
    assert all(name in result and result.get(name) == form[name] for name in form)
    assert repr(result)
    assert isinstance(job(result).warnings, tuple)


def test_the_fields_are_typed_and_the_mapping_is_as_it_was() -> None:
    result = JobResult.of(FLUSH)
    assert (result.rows_flushed, result["rows_flushed"], result.get("rows_flushed")) == (3, 3, 3)
    assert result.warnings == ("s/p: transient: down",)
    assert result["warnings"] == ["s/p: transient: down"]
    assert result.errors is not None
    assert result.errors[0]["kind"] == "transient"
    assert result.message is None
    assert "message" not in result
    assert result.get("message", "fine") == "fine"
    with pytest.raises(KeyError):
        _ = result["message"]
    with pytest.raises(FrozenInstanceError):
        result.rows_flushed = 4  # type: ignore[misc]


def test_what_does_not_fit_a_field_is_only_in_the_mapping() -> None:
    result = JobResult.of({"rows_flushed": "many", "warnings": [1], "stopped": 1})
    assert (result.rows_flushed, result.warnings, result.stopped) == (None, None, None)
    assert (result["rows_flushed"], result["warnings"], result["stopped"]) == ("many", [1], 1)


def test_a_result_that_is_no_mapping_is_a_job_that_can_not_be_read() -> None:
    body = {**json.loads(job_json(job(JobResult()))), "result": [1]}
    read = job_of(("1", 1.0, "s", "completed", json.dumps(body)))
    assert "can't be read" in str(read.result.message)
    assert read.result["begins"]


def test_a_flush_says_the_same_names_as_ever() -> None:
    _, result = combine([PartitionOutcome("s", "p", entries=1, rows=2, bytes=3)])
    done = replace(result, seconds=0.1)
    assert list(done) == [
        "entries_flushed", "rows_flushed", "bytes", "partitions_processed", "partitions_failed", "entries_parked",
        "entries_skipped", "notes", "values_replaced", "replacements", "errors", "partitions", "warnings", "seconds",
    ]  # fmt: skip
