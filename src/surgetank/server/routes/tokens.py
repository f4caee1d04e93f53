"""Tokens, for administrators. A token is shown once, when it is made."""

from __future__ import annotations

from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Path

from surgetank.exceptions import InvalidRequest
from surgetank.notify.report import to_plain_data
from surgetank.server.access.identify import Asked
from surgetank.server.access.roles import Role
from surgetank.server.access.tokens import Token, parse_span
from surgetank.server.dependencies import Admin, After, Deps, Limit, asked_of, require, signed_in
from surgetank.server.http.paging import cursor, position
from surgetank.server.http.problems import Problem, documented
from surgetank.server.schemas.answers import CreatedToken, NewToken, TokenInfo, Tokens

router = APIRouter(
    prefix="/admin/tokens",
    tags=["admin"],
    dependencies=signed_in(Depends(require(Role.ADMIN))),
    responses=documented(401, 403, 404, 422, 429, 503),
)
TokenId = Annotated[
    str, Path(min_length=1, max_length=100, pattern=r"^[^\x00]+$", examples=["9c1f0e2d3b4a"])
]


def _body(token: Token) -> dict[str, Any]:
    body: dict[str, Any] = to_plain_data(token)
    return body


@router.get("", response_model=Tokens)
def tokens(services: Deps, limit: Limit = 100, after: After = None) -> dict[str, Any]:
    """Tokens, newest first; expired and revoked ones included."""
    at = position(after, str)
    found = services.tokens.page(last_id=at[0] if at else None, limit=limit + 1)
    return {
        "tokens": [_body(token) for token in found[:limit]],
        "next": cursor(found[limit - 1].id) if len(found) > limit else None,
    }


@router.post("", response_model=CreatedToken, status_code=201, responses=documented(409))
def create(
    wanted: NewToken, who: Admin, services: Deps, asked: Annotated[Asked, Depends(asked_of)]
) -> dict[str, Any]:
    """Make a token. This answer is the only place where it is ever shown.

    An answer kept for an `Idempotency-Key` has no token: revoke that one and make another.
    """
    try:
        until = (
            services.clock() + parse_span(wanted.expires_in)
            if wanted.expires_in is not None
            else None
        )
        made, secret = services.tokens.create(
            wanted.user, wanted.role, by=who.user, expires_at=until, label=wanted.label
        )
    except InvalidRequest as error:
        raise Problem(422, "invalid-request", error.what, remedy=error.remedy) from error
    body = _body(made)
    asked.keep_instead = orjson.dumps({**body, "token": None})
    return {**body, "token": secret}


@router.delete("/{token_id}", response_model=TokenInfo)
def revoke(token_id: TokenId, who: Admin, services: Deps) -> dict[str, Any]:
    """End a token for good. Other servers on the same database notice within 60 seconds."""
    revoked = services.tokens.revoke(token_id, by=who.user)
    services.login.forget(token_id=token_id)
    services.tickets.forget(token_id)
    return _body(revoked)
