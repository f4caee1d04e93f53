"""Who sees what graphs ask people, and who decides.

Who may see a thread sees what it asks; who owns it, is named as the one who shall answer, or has the
role that shall, sees it and decides.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from surgetank.server.access.roles import Caller, Role
from surgetank.server.http.problems import Problem, not_found
from surgetank.server.services import Services
from surgetank.workflows.approvals.rows import UserCheckpoint


def visible(services: Services, who: Caller, checkpoint_id: UUID) -> UserCheckpoint:
    """One question that the caller may see. Raises `Problem` 404, `CheckpointNotFound`."""
    row = services.tank.approvals.get(checkpoint_id)
    if not seen(services, who, [row]):
        raise not_found("user checkpoint", str(checkpoint_id), remedy="list those that wait.")
    return row


def seen(services: Services, who: Caller, rows: list[UserCheckpoint]) -> list[UserCheckpoint]:
    """Those of threads that the caller may read, and those that the caller shall answer; of both
    what the filters of the project's handlers let through."""
    theirs = {row.thread_id for row in rows if _is_for(who, row)}
    theirs = services.visibility.let_through(who, theirs)
    own = {row.thread_id for row in rows if not _is_for(who, row)}
    own = services.visibility.readable(who, own)
    return [r for r in rows if r.thread_id in (theirs if _is_for(who, r) else own)]


def asked_of(who: Caller) -> dict[str, Any]:
    """Whose questions the caller's inbox has, for `tank.approvals`."""
    if who.role is Role.ADMIN:
        return {"owner": None}
    return {"owner": who.user, "roles": [role.value for role in Role if who.role.covers(role)]}


def _is_for(who: Caller, row: UserCheckpoint) -> bool:
    """Whether the question is for the caller, or for a role that the caller has."""
    return row.assignee == who.user or (
        row.assigned_role is not None and _has_role(who, row.assigned_role)
    )


def check_may_decide(who: Caller, row: UserCheckpoint) -> None:
    """Raise `Problem` 403 for a question that somebody else shall answer."""
    if row.assigned_role is not None and not _has_role(who, row.assigned_role):
        raise Problem(
            403, "role-needed", f"This is for the role {row.assigned_role!r}.",
            remedy="ask somebody who has it.",
        )  # fmt: skip
    if row.assignee is not None and row.assignee != who.user and who.role is not Role.ADMIN:
        raise Problem(
            403, "not-yours", "Somebody else shall answer this.",
            remedy="let it be assigned to you.",
        )  # fmt: skip


def _has_role(who: Caller, role: str) -> bool:
    """A role of ours covers those below it; any other name is for administrators to give out."""
    if role in list(Role):
        return who.role.covers(Role(role))
    return who.role is Role.ADMIN
