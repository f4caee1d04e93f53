"""What each role may read of an incident, a job and the state of saving: decided here, and nowhere
else. Pure.

| | viewer, user, reviewer | operator | admin |
|---|---|---|---|
| what happened in plain words, a plain cause, the reference to quote | yes | yes | yes |
| what the database said (it names hosts and users and quotes rows), paths, nodes | no | yes | yes |
| values that a projection replaced | no | no | yes |

What stands in the events and log lines of a thread is written for its user and so for everybody who
may read the thread (`notify.channels`): it never holds the second line.
"""

from __future__ import annotations

import secrets
from typing import Any

from surgetank.events.types import EventType, Incident, timestamp
from surgetank.model import FlushJob
from surgetank.notify.report import Status, to_plain_data
from surgetank.server.access.roles import Caller, Role

UNREADABLE = "The oldest lines can't be read just now: the database can't be asked."


def reads_technical(who: Caller | None) -> bool:
    """Whether the caller may read what the database said, and where things are."""
    return who is not None and who.role.covers(Role.OPERATOR)


def reads_originals(who: Caller | None) -> bool:
    """Whether the caller may read values that a projection replaced: they are a user's data."""
    return who is not None and who.role is Role.ADMIN


def job_for(who: Caller, job: FlushJob) -> dict[str, Any]:
    """A job for who reads jobs (operators and administrators)."""
    return {**_without_originals(who, to_plain_data(job)), "warnings": list(job.warnings)}


def status_for(who: Caller, status: Status) -> dict[str, Any]:
    """The state of saving for operators and administrators."""
    body = status.to_dict()
    return {**body, "jobs": [_without_originals(who, job) for job in body["jobs"]]}


def incident_for(who: Caller, incident: Incident, *, support_url: str | None) -> dict[str, Any]:
    """An incident as an event, for the first message of a follower."""
    kind = EventType.FLUSH_CRITICAL if incident.severity == "critical" else EventType.FLUSH_ERROR
    body: dict[str, Any] = {
        "type": kind.value, "severity": incident.severity.value, "thread_id": incident.thread_id,
        "message": incident.message, "timestamp": timestamp(incident.since),
    }  # fmt: skip
    if incident.thread_id is None and reads_technical(who):
        body["affected"] = incident.affected
    if kind is EventType.FLUSH_CRITICAL:
        details = incident.public.to_dict()
        if incident.detail and reads_technical(who):
            details["error"] = incident.detail
        body["error_details"] = details | ({"support_url": support_url} if support_url else {})
    return body


def log_problem_for(who: Caller, problem: str | None) -> str | None:
    """Why lines of a log may be missing."""
    return problem if problem is None or reads_technical(who) else UNREADABLE


def new_reference() -> str:
    """A short reference that connects an answer with the server's log."""
    return secrets.token_hex(6)


def _without_originals(who: Caller, job: dict[str, Any]) -> dict[str, Any]:
    if not reads_originals(who):
        for replaced in job["result"].get("replacements", ()):
            replaced["original"] = None
    return job
