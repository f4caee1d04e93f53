"""Every error as RFC 9457 `application/problem+json`: what happened, to what, and the way out.

Inputs are never repeated in an answer: they may hold secrets.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.websockets import WebSocket

from surgetank import exceptions as family
from surgetank.encode import jsontext
from surgetank.server.access.disclosure import new_reference, reads_technical
from surgetank.server.access.roles import Caller, Role
from surgetank.telemetry import log

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 5
_PATIENCE = "try again in a moment; if it lasts, tell your operator."


class Problem(Exception):
    """An answer that is an error. `code` is stable and meant for programs; `detail` and `remedy`
    are for people."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        remedy: str = "",
        headers: Mapping[str, str] | None = None,
        **more: Any,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.remedy = remedy
        self.headers = dict(headers or {})
        self.more = more

    def response(self, path: str) -> Response:
        """The answer to a request for `path`."""
        body = {
            "type": f"urn:surgetank:problem:{self.code}",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "instance": path,
            "code": self.code,
            **({"remedy": self.remedy} if self.remedy else {}),
            **self.more,
        }
        data = jsontext.dumps(body)
        return Response(data, self.status, headers=self.headers, media_type=MEDIA_TYPE)


class ProblemBody(BaseModel):
    """An error (RFC 9457)."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [
                {
                    "type": "urn:surgetank:problem:not-found",
                    "title": "Not Found",
                    "status": 404,
                    "code": "not-found",
                    "detail": "There is no thread 't-1'.",
                    "instance": "/threads/t-1/state",
                    "remedy": "see GET /threads for those that you may see.",
                }
            ]
        },
    )

    type: str = Field(
        description="Identifies the kind of problem: `urn:surgetank:problem:` and the code."
    )
    title: str = Field(description="The status in words.")
    status: int
    detail: str = Field(description="What happened.")
    instance: str = Field(description="The path that was asked for.")
    code: str = Field(description="Stable, for programs.")
    remedy: str | None = Field(None, description="What to do about it.")
    errors: list[dict[str, Any]] | None = Field(
        None, description="Which parts of the request are wrong."
    )


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that can answer with these errors."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemBody"}}}
    return {s: {"description": HTTPStatus(s).phrase, "content": content} for s in (400, *statuses)}


def documented_text(*statuses: int) -> dict[str, dict[str, Any]]:
    """The same for a finished OpenAPI document, whose statuses are text."""
    return {str(status): shown for status, shown in documented(*statuses).items()}


def not_found(noun: str, name: str, *, remedy: str = "") -> Problem:
    """404 for something that is not there, or that the caller may not know of: the answers are the
    same."""
    return Problem(404, "not-found", f"There is no {noun} {name[:200]!r}.", remedy=remedy)


def check_role(who: Caller, role: Role) -> None:
    """Raises `Problem` for a caller who has not at least this role."""
    if not who.role.covers(role):
        raise Problem(
            403, "role-needed",
            f"This needs the role {role.value}; the token has the role {who.role.value}.",
            remedy="use a token with that role.",
        )  # fmt: skip


def install(app: FastAPI) -> None:
    """Answer every exception of a route with a problem."""

    async def problem(connection: HTTPConnection, error: Exception) -> Response | None:
        assert isinstance(error, Problem)
        return await answer(connection, error)

    async def own(connection: HTTPConnection, error: Exception) -> Response | None:
        assert isinstance(error, family.SurgetankError)
        who: Caller | None = getattr(connection.scope.get("surgetank.asked"), "caller", None)
        return await answer(connection, of_family(error, who))

    async def invalid(connection: HTTPConnection, error: Exception) -> Response | None:
        assert isinstance(error, RequestValidationError)
        return await answer(connection, of_validation(error.errors()))

    async def plain(connection: HTTPConnection, error: Exception) -> Response | None:
        assert isinstance(error, HTTPException)
        return await answer(connection, of_http(error))

    app.add_exception_handler(Problem, problem)  # type: ignore[arg-type]
    app.add_exception_handler(family.SurgetankError, own)  # type: ignore[arg-type]
    app.add_exception_handler(RequestValidationError, invalid)  # type: ignore[arg-type]
    app.add_exception_handler(HTTPException, plain)  # type: ignore[arg-type]


async def answer(connection: HTTPConnection, problem: Problem) -> Response | None:
    """The problem as an answer; a WebSocket that is not open yet is denied with it."""
    response = problem.response(connection.scope["path"])
    if not isinstance(connection, WebSocket):
        return response
    if "websocket.http.response" in connection.scope.get("extensions", {}):
        await connection.send_denial_response(response)
    else:
        await connection.close(1008, problem.code)
    return None


def of_http(error: HTTPException) -> Problem:
    """Errors of the framework: unknown paths and methods, bodies that are no JSON."""
    code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "-")
    remedies = {
        400: "send a body of JSON with the header Content-Type: application/json.",
        404: "see /openapi.json for what there is.",
        405: "the header Allow lists what is allowed.",
    }
    return Problem(
        error.status_code, code, str(error.detail), remedy=remedies.get(error.status_code, ""),
        headers=error.headers,
    )  # fmt: skip


def of_validation(errors: Sequence[Any]) -> Problem:
    """A request whose parts can't be used, without what they were."""
    shown = [
        {"place": ".".join(str(p) for p in e["loc"]), "message": e["msg"], "type": e["type"]}
        for e in errors
    ]
    return Problem(
        422, "invalid-request", "Parts of the request can't be used.", remedy="mend the parts that "
        "`errors` names.",
        errors=shown[:50],
    )  # fmt: skip


def of_family(error: family.SurgetankError, caller: Caller | None) -> Problem:
    """One of our own errors. What it says of addresses and paths, and what the database said, is
    for operators only."""
    shown = reads_technical(caller)
    if error.http_status != HTTPStatus.INTERNAL_SERVER_ERROR:
        hidden = error.public_message and not shown
        if error.public_message:
            log.warning("request_not_possible", problem=error.problem, error=error.what)
        unavailable = error.http_status == HTTPStatus.SERVICE_UNAVAILABLE
        return Problem(
            error.http_status,
            error.problem,
            error.public_message if hidden else error.what,
            remedy=_PATIENCE if hidden else error.remedy,
            headers={"Retry-After": str(RETRY_AFTER_S)} if unavailable else None,
        )
    if shown:
        log.error("request_failed", error=error.what, stack_trace=_trace(error))
        return Problem(500, "internal-error", error.what, remedy=error.remedy)
    reference = new_reference()
    log.error("request_failed", reference=reference, error=error.what, stack_trace=_trace(error))
    return Problem(
        500, "internal-error", "This can't be shown: something that is stored can't be read.",
        remedy=f"tell your operator, and quote {reference}.", reference=reference,
    )  # fmt: skip


def unexpected(error: BaseException, method: str, path: str) -> Problem:
    """A bug of ours: told to the log with its trace, and to the caller by a reference to it."""
    reference = new_reference()
    log.error(
        "request_crashed", reference=reference, method=method, path=path, stack_trace=_trace(error)
    )
    return Problem(
        500, "internal-error", "Something unexpected went wrong in the server.",
        remedy=f"look for {reference} in the server's log, and report it.", reference=reference,
    )  # fmt: skip


def _trace(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))
