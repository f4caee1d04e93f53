"""SQL over HTTP, as JSON or as an Arrow stream."""

from __future__ import annotations

import io
from typing import Any

from anyio import to_thread
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from surgetank.app import rendering
from surgetank.app.sql import SqlOutcome, SqlResult
from surgetank.encode import jsontext
from surgetank.server.access.roles import Caller
from surgetank.server.access.statements import sql_caller
from surgetank.server.dependencies import CurrentCaller, Deps, signed_in
from surgetank.server.http.problems import Problem, documented, of_family
from surgetank.server.schemas.sql import RunStatements, StatementResults
from surgetank.server.services import Services

router = APIRouter(
    tags=["sql"],
    dependencies=signed_in(),
    responses=documented(401, 403, 404, 409, 422, 429, 501, 503),
)
ARROW = "application/vnd.apache.arrow.stream"


@router.post(
    "/sql",
    response_model=StatementResults,
    responses={200: {"content": {ARROW: {"schema": {"type": "string", "format": "binary"}}}}},
)
async def sql(
    body: RunStatements, request: Request, who: CurrentCaller, services: Deps
) -> Response:
    """Run statements over tables and over what agents did (the schema `system`).

    They run one after the other; the first that fails ends it, and the problem names it
    (`statement`), where in the text (`position`), and how many were `completed` before. With
    `Accept: application/vnd.apache.arrow.stream` the rows of the only statement that has some come
    as an Arrow stream; the headers `Surgetank-Cut` and `Surgetank-Stale` say what JSON says beside
    the rows.
    """
    arrow = ARROW in request.headers.get("accept", "")
    return await to_thread.run_sync(_run, body, who, services, arrow, limiter=services.querying)


def _run(body: RunStatements, who: Caller, services: Services, arrow: bool) -> Response:
    outcome = services.tank.sql.run(
        body.sql, sql_caller(who), parameters=body.parameters, most_rows=body.limit
    )
    if outcome.error is not None:
        raise _problem(outcome, who)
    return _as_arrow(outcome.results) if arrow else _as_json(outcome.results)


def _problem(outcome: SqlOutcome, who: Caller) -> Problem:
    assert outcome.error is not None
    problem = of_family(outcome.error, who)
    problem.more["statement"] = outcome.failed
    problem.more["completed"] = len(outcome.results)
    if outcome.position is not None:
        problem.more["position"] = outcome.position
    return problem


def _as_json(results: tuple[SqlResult, ...]) -> Response:
    body = {"results": [_shown(result) for result in results]}
    return Response(jsontext.dumps_exact(body), media_type="application/json")


def _shown(result: SqlResult) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "statement": result.number,
        "kind": result.kind,
        "affected": result.affected,
        "cut": result.cut,
        "stale": result.stale,
        "seconds": round(result.seconds, 6),
        "columns": [],
        "rows": None,
    }
    if result.rows is not None:
        names = result.rows.column_names
        shown["columns"] = [
            {"name": name, "type": kind} for name, kind in zip(names, result.types, strict=True)
        ]
        shown["rows"] = list(rendering.plain_rows(result.rows, result.types))
    return shown


def _as_arrow(results: tuple[SqlResult, ...]) -> Response:
    with_rows = [result for result in results if result.rows is not None]
    if len(with_rows) != 1:
        raise Problem(
            422, "invalid-request",
            f"An Arrow stream has the rows of one statement, and {len(with_rows)} have rows.",
            remedy="run them one by one, or ask for JSON.", completed=len(results),
        )  # fmt: skip
    (result,) = with_rows
    stream = io.BytesIO()
    rendering.write_arrow(result.rows, stream)
    headers = {"Surgetank-Stale": str(result.stale).lower()}
    if result.cut is not None:
        headers["Surgetank-Cut"] = result.cut
    return Response(stream.getvalue(), media_type=ARROW, headers=headers)
