"""Tables of users' rows: which there are, and inserting rows as JSON, lines of JSON or Arrow."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query
from starlette.requests import Request
from starlette.responses import Response

from surgetank.app.caller_tables import ARROW, JSON, NDJSON, ROW_FORMS, refused_row
from surgetank.app.tables import Table
from surgetank.exceptions import Conflict, EntryRejected
from surgetank.server.access.roles import Caller
from surgetank.server.access.statements import sql_caller
from surgetank.server.dependencies import After, CurrentCaller, Deps, Limit, signed_in
from surgetank.server.http.middleware import check_key
from surgetank.server.http.paging import cursor, position
from surgetank.server.http.problems import Problem, documented, of_family
from surgetank.server.schemas.tables import (
    RowsInserted,
    ShownTable,
    TableDescription,
    TableList,
)

router = APIRouter(
    prefix="/tables",
    tags=["tables"],
    dependencies=signed_in(),
    responses=documented(401, 403, 404, 422, 429, 501, 503),
)
Namespace = Annotated[str, Path(min_length=1, max_length=100, examples=["app"])]
Name = Annotated[str, Path(min_length=1, max_length=100, examples=["notes"])]
_ROWS_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            JSON: {
                "schema": {"type": "array", "items": {"type": "object"}},
                "example": [{"id": 1, "text": "tea"}, {"id": 2, "text": "cake"}],
            },
            NDJSON: {
                "schema": {"type": "string", "format": "binary"},
                "example": '{"id": 1, "text": "tea"}\n{"id": 2, "text": "cake"}\n',
            },
            ARROW: {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


@router.get("", response_model=TableList)
def tables(
    who: CurrentCaller,
    services: Deps,
    limit: Limit = 100,
    after: After = None,
) -> dict[str, Any]:
    """The tables that the caller may read, by name."""
    at = position(after, str, str)
    found = services.tank.tables.for_caller(sql_caller(who)).list()
    rest = [table for table in found if at is None or _order(table) > tuple(at)]
    shown, more = rest[:limit], len(rest) > limit
    return {
        "tables": [ShownTable(**ShownTable.fields_of(table)) for table in shown],
        "next": cursor(*_order(shown[-1])) if more else None,
    }


def _order(table: Table) -> tuple[str, str]:
    return table.namespace.casefold(), table.name.casefold()


@router.get("/{namespace}/{name}", response_model=TableDescription)
def table(namespace: Namespace, name: Name, who: CurrentCaller, services: Deps) -> TableDescription:
    """A table: its columns, policy, and, for operators, how much waits and is in files."""
    mine = services.tank.tables.for_caller(sql_caller(who))
    found = mine.describe(namespace, name)
    return TableDescription.of(found, mine.figures(found))


@router.post(
    "/{namespace}/{name}/rows",
    response_model=RowsInserted,
    openapi_extra=_ROWS_BODY,
    responses=documented(409, 413, 415),
)
def insert(
    namespace: Namespace,
    name: Name,
    request: Request,
    response: Response,
    who: CurrentCaller,
    services: Deps,
    on_bad: Annotated[
        Literal["refuse", "skip"],
        Query(
            description="At a row that can't be stored: refuse all, or leave it out and list it."
        ),
    ] = "refuse",
    on_conflict: Annotated[
        Literal["refuse", "nothing", "update"],
        Query(description="At a PRIMARY KEY that is there: refuse, leave the row out, or update."),
    ] = "refuse",
    update: Annotated[
        list[str] | None,
        Query(max_length=1000, description="Columns that `on_conflict=update` sets; none: all."),
    ] = None,
    as_user: Annotated[
        str | None,
        Query(
            min_length=1,
            max_length=200,
            pattern=r"^[^\x00]+$",
            description="Whose rows they are, for administrators; it is in the audit.",
        ),
    ] = None,
) -> RowsInserted:
    """Insert rows of the caller's, all or none.

    They are a list of objects (JSON), an object in each line (NDJSON) or an Arrow IPC stream. A row
    that can't be stored is named by `index`, `column` and `reason`. With an `Idempotency-Key` a
    batch that is sent again within a day is stored once, also while the database is away.
    """
    key = request.headers.get("idempotency-key")
    if key is not None:
        check_key(key)
    mine = services.tank.tables.for_caller(sql_caller(who))
    try:
        done = mine.insert(
            namespace,
            name,
            request.scope["surgetank.asked"].body,
            form=_form(request),
            on_bad=on_bad,
            on_conflict=on_conflict,
            updates=update or (),
            key=key,
            as_user=as_user,
        )
    except (EntryRejected, Conflict) as error:
        raise _refused(error, who) from error
    if done.repeated:
        response.headers["Idempotency-Replayed"] = "true"
    return RowsInserted.of(done)


def _form(request: Request) -> str:
    sent = request.headers.get("content-type", JSON).partition(";")[0].strip().lower()
    if sent not in ROW_FORMS:
        raise Problem(
            415, "unsupported-media-type", "Rows can't be sent in this form.",
            remedy=f"send them with the Content-Type {', '.join(ROW_FORMS[:-1])} or {ROW_FORMS[-1]}.",
        )  # fmt: skip
    return sent


def _refused(error: EntryRejected | Conflict, who: Caller) -> Problem:
    problem = of_family(error, who)
    if (bad := refused_row(error)) is not None:
        problem.more |= {"index": bad[0], "column": bad[1], "reason": bad[2]}
    return problem
