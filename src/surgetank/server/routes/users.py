"""Erasing users, for administrators."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Response

from surgetank.server.access.roles import Role
from surgetank.server.dependencies import CurrentCaller, Deps, require, signed_in
from surgetank.server.http.problems import documented
from surgetank.server.schemas.answers import Erased

router = APIRouter(
    prefix="/admin/users",
    tags=["admin"],
    dependencies=signed_in(Depends(require(Role.ADMIN))),
    responses=documented(401, 403, 422, 429, 503),
)
User = Annotated[
    str,
    Path(
        min_length=1,
        max_length=200,
        pattern=r"^[^\x00]+$",
        examples=["ada"],
        description="The user.",
    ),
]


@router.delete(
    "/{user:name}",
    response_model=Erased,
    responses={
        202: {
            "model": Erased,
            "description": "Not finished: `unfinished` says why. It goes on in the background.",
        }
    },
)
def erase(user: User, services: Deps, who: CurrentCaller, response: Response) -> dict[str, Any]:
    """Erase all data of a user: threads, log lines, events, texts of errors, tokens. It can't be
    undone.

    Files and tables are rewritten, which takes a while. The answer names what can't be reached from
    here.
    """
    services.forget_user(user)
    report = services.tank.erase_user(user, by=who.user)
    services.forget_user(user)
    if report.state != "completed":
        response.status_code = 202
    return report.to_dict()
