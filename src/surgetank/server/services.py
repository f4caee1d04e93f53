"""What the routes work with, made once per server and found at `app.state.services`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from anyio import CapacityLimiter

from surgetank.app.stored_threads import StoredThreads
from surgetank.app.surgetank import Surgetank
from surgetank.server.access.auth import Authenticator
from surgetank.server.access.handlers import ProjectAuth
from surgetank.server.access.tickets import Tickets
from surgetank.server.access.tokens import TokenStore
from surgetank.server.access.visibility import ThreadOwners, Visibility
from surgetank.server.agent.follow import StreamHub
from surgetank.server.http.idempotency import KeptAnswers
from surgetank.server.http.outage import PatientDatabase
from surgetank.server.live.followers import Hub
from surgetank.server.threads import ThreadList
from surgetank.settings import Settings
from surgetank.workflows.graphs import importing

if TYPE_CHECKING:
    from surgetank.workflows.graphs.graph_set import GraphSet

_FLUSHES_AT_ONCE = 2


@dataclass(frozen=True, slots=True)
class Services:
    """The parts of one server.

    `stored` reads checkpoints without deserializing them, `flushing` bounds how many flushes are
    carried out for requests at once, `querying` how many queries run or wait, and `stopping` is set
    when the server is told to stop: streams that would go on for ever end then. `project_auth` are
    handlers of the project. `graphs` are those that runs can be started of, if any; `graphs_at` is
    when their file was changed, in seconds since the epoch.
    """

    tank: Surgetank
    settings: Settings
    database: PatientDatabase
    stored: StoredThreads
    threads: ThreadList
    tokens: TokenStore
    login: Authenticator
    tickets: Tickets
    visibility: Visibility
    kept_answers: KeptAnswers
    hub: Hub
    flushing: CapacityLimiter
    querying: CapacityLimiter
    clock: Callable[[], float]
    no_auth: bool
    streams: StreamHub
    project_auth: ProjectAuth | None = None
    graphs: GraphSet | None = None
    graphs_at: float = 0.0
    stopping: threading.Event = field(default_factory=threading.Event)

    @property
    def owners(self) -> ThreadOwners:
        """The owners of threads."""
        return self.visibility.owners

    def forget_user(self, user: str) -> None:
        """Forget what this process remembers of a user who is erased. Connections that are open end
        within a minute."""
        tokens = self.login.forget_user(user)
        self.tickets.forget_user(user)
        self.tank.live.forget_user(user)
        self.owners.forget(user)
        kept = {f"user:{user}", f"project:{user}"}
        self.kept_answers.forget(kept | {*(f"token:{id_}" for id_ in tokens)})


def _project_auth(graphs: GraphSet | None) -> ProjectAuth | None:
    config = graphs.config if graphs is not None else None
    if config is None or config.auth is None:
        return None
    made = importing.loaded(config, "auth.path", config.auth)
    return ProjectAuth(made, named=config.auth.text)


def make_services(
    tank: Surgetank,
    *,
    graphs: GraphSet | None = None,
    no_auth: bool = False,
    clock: Callable[[], float] | None = None,
) -> Services:
    """The parts for an open engine, by its clock if no other one is given."""
    settings, clock = tank.settings, clock or tank.now
    database = PatientDatabase(tank.database)
    tokens, hot = TokenStore(database), tank.threads.hot()
    owners = ThreadOwners(hot, database, key=settings.owner_key, clock=clock)
    admin = settings.admin_token.get_secret_value() if settings.admin_token is not None else None
    return Services(
        tank=tank,
        settings=settings,
        database=database,
        stored=tank.threads.stored(database),
        threads=ThreadList(hot, database, owners, key=settings.owner_key),
        tokens=tokens,
        login=Authenticator(
            tokens,
            admin_token=admin,
            burst=settings.failed_logins_per_minute,
            no_auth=no_auth,
            clock=clock,
            together=tank.door,
        ),
        tickets=Tickets(clock, tank.door),
        visibility=Visibility(owners),
        kept_answers=KeptAnswers(database, clock),
        hub=Hub(tank.events, tank.incidents, per_caller=settings.server_followers),
        flushing=CapacityLimiter(_FLUSHES_AT_ONCE),
        querying=CapacityLimiter(settings.sql_waiting + 16),
        clock=clock,
        no_auth=no_auth,
        streams=StreamHub(lambda: tank.runs.streams),
        project_auth=_project_auth(graphs),
        graphs=graphs,
        graphs_at=graphs.config.path.stat().st_mtime if graphs is not None else 0.0,
    )
