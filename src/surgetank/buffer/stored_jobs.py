"""A flush job as it is stored: JSON. Pure."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import fields
from typing import Any

from surgetank.encode import jsontext
from surgetank.job_result import JobResult
from surgetank.model import FlushJob, JobStatus

_ERASED = "(erased)"


def job_json(job: FlushJob) -> str:
    """A job as it is stored."""
    body = {f.name: getattr(job, f.name) for f in fields(job)}
    return jsontext.dumps({**body, "result": dict(job.result)}).decode()


def job_of(row: Sequence[Any]) -> FlushJob:
    """A job, from its id, when it was made, its stream, its status, and itself as it is stored."""
    id_, created_at, stream, status, text = row
    try:
        body = jsontext.loads(text)
        result = JobResult.of(body.get("result", {}))
        return FlushJob(**{**body, "status": JobStatus(body["status"]), "result": result})
    except (TypeError, ValueError, KeyError) as error:  # its neighbours are read
        message = f"the record of this job can't be read ({error})"
        known = status in list(JobStatus)
        return FlushJob(
            id=id_,
            stream=stream,
            trigger="unknown",
            status=JobStatus(status if known else "failed"),
            created_at=created_at,
            node="unknown",
            result=JobResult(message=message, more={"begins": jsontext.preview(text.encode())}),
        )


def without(stored: str, spelled: Collection[str]) -> str | None:
    """A stored job without originals and, if one of these words is in it, without what it says; None
    where nothing changes."""
    job = json.loads(stored)
    if not _clean_job(job, named=any(word in stored for word in spelled)):
        return None
    return json.dumps(job)


def _clean_job(job: dict[str, Any], *, named: bool) -> bool:
    result = job.get("result") or {}
    changed = False
    for replaced in result.get("replacements", ()):
        changed = changed or replaced.get("original") is not None
        replaced["original"] = None
    if named:
        job["partition"] = None
        kept = {name: value for name, value in result.items() if isinstance(value, int | float)}
        job["result"] = kept | ({"message": _ERASED} if result.get("message") else {})
    return changed or named
