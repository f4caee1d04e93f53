"""What a route asks for: the services, the caller, a role, a thread that the caller may read.

    @router.get("/threads/{thread_id:name}/logs")      # any text, slashes too
    def logs(thread_id: VisibleThread, services: Deps) -> ...

    @router.websocket("/ws/threads/{thread_id:name}")   # denied before it is opened: 401, 403, 404
    async def live(socket: WebSocket, thread_id: VisibleThread, who: CurrentCaller, services: Deps) -> ...

Each route needs a caller unless it is public by being listed so;
tests/integration/test_access_matrix.py holds every route against every role.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import Depends, Path, Query
from fastapi.security import HTTPBearer
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection

from surgetank.server.access.authorizing import authorize
from surgetank.server.access.identify import Asked, identify
from surgetank.server.access.reading import only_reads
from surgetank.server.access.roles import Caller, Role
from surgetank.server.http.names import accept_names
from surgetank.server.http.problems import check_role
from surgetank.server.services import Services

accept_names()  # each module with routes imports this one

BEARER = HTTPBearer(
    auto_error=False, scheme_name="token", description="A token of `surgetank token create`."
)
MAX_PAGE = 500


# What a route depends on is async even where nothing is awaited: FastAPI gives the rest to a thread.
async def services_of(connection: HTTPConnection) -> Services:
    """The services of this server."""
    return _services(connection)


def _services(connection: HTTPConnection) -> Services:
    found: Services = connection.app.state.services
    return found


Deps = Annotated[Services, Depends(services_of)]


async def asked_of(connection: HTTPConnection) -> Asked:
    """What is known of this request."""
    found: Asked = connection.scope["surgetank.asked"]
    return found


async def caller(connection: HTTPConnection) -> Caller:
    """Who is asking, for HTTP routes and WebSockets alike: `Authorization: Bearer`, or `?ticket=`
    from POST /ws/ticket. A viewer only where nothing is changed.

    Raises `Problem` (401, 403, 429, 503).
    """
    path = connection.scope["route"].path
    if connection.scope["type"] == "websocket":  # for others the route did it
        await authorize(connection, "WS", path)
        return await identify(connection.scope, _services(connection))
    who = await identify(connection.scope, _services(connection))
    if not only_reads(connection.scope["method"], path):
        check_role(who, Role.USER)
    return who


CurrentCaller = Annotated[Caller, Depends(caller)]


def require(role: Role) -> Callable[[Caller], Awaitable[Caller]]:
    """A dependency: the caller, who has at least this role."""

    async def needed(who: CurrentCaller) -> Caller:
        check_role(who, role)
        return who

    return needed


Reviewer = Annotated[Caller, Depends(require(Role.REVIEWER))]
Operator = Annotated[Caller, Depends(require(Role.OPERATOR))]
Admin = Annotated[Caller, Depends(require(Role.ADMIN))]

ThreadId = Annotated[
    str,
    Path(
        min_length=1,
        max_length=2048,
        pattern=r"^[^\x00]+$",
        description="The thread's id.",
        examples=["chat-7"],
    ),
]


async def visible_thread(thread_id: ThreadId, who: CurrentCaller, services: Deps) -> str:
    """A thread that the caller may read. Raises `Problem` (404, for operators 403)."""
    await run_in_threadpool(services.visibility.check, who, thread_id)
    return thread_id


VisibleThread = Annotated[str, Depends(visible_thread)]

Limit = Annotated[int, Query(ge=1, le=MAX_PAGE, description="Most items in one answer.")]
After = Annotated[
    str | None,
    Query(
        max_length=4096,
        description="The `next` of the page before; leave it out for the first page.",
    ),
]


def signed_in(*roles: Any) -> list[Any]:
    """What a router depends on so that OpenAPI tells of the token."""
    return [Depends(BEARER), *roles]
