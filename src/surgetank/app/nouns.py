"""What is found on an engine: one small object for each noun. Commands, routes and metrics use
these, and nothing of what an engine consists of."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from surgetank.app.alerts import Alerts
from surgetank.app.analysts import Analysts
from surgetank.app.approvals import Approvals, Workflows
from surgetank.app.buffer import BufferState
from surgetank.app.erasures import Erasures
from surgetank.app.hot_relations import HotRelations
from surgetank.app.incidents import Incidents
from surgetank.app.jobs import Jobs
from surgetank.app.live import LiveQueries
from surgetank.app.logs import Logs
from surgetank.app.moving import Moving
from surgetank.app.notifications import Notifications
from surgetank.app.parked import Parked
from surgetank.app.pruning import Pruning
from surgetank.app.recovery import Recoveries
from surgetank.app.relations import KnownState, Relations
from surgetank.app.run_figures import Figures, RunFigures
from surgetank.app.runs import Runs
from surgetank.app.schema import Schema
from surgetank.app.speaking import Speaks
from surgetank.app.sql import SqlResult, Statements
from surgetank.app.storage import Storage, limits_of
from surgetank.app.store import SurgetankStore
from surgetank.app.tables import Tables
from surgetank.app.threads import Threads
from surgetank.app.transfers import Transfers
from surgetank.app.webhooks import Webhooks
from surgetank.app.workers import Workers
from surgetank.database.pool import Database
from surgetank.events.protocol import EventLog
from surgetank.events.types import Severity
from surgetank.flush.breaker import BreakerState
from surgetank.model import FlushJob
from surgetank.notify.news import News
from surgetank.streams.errors.store import SystemErrors
from surgetank.workflows.approvals.rows import UserCheckpoint
from surgetank.workflows.assistants import Assistants
from surgetank.workflows.audit import Audit
from surgetank.workflows.lifetime import Lifetimes
from surgetank.workflows.meters import RunMeters

if TYPE_CHECKING:
    from surgetank.app.assembly import Parts
    from surgetank.redis.door import RedisDoor
    from surgetank.streams.checkpoints.saver import SurgetankSaver
    from surgetank.workflows.crons import Crons


class EmbeddedServer(Protocol):
    """The embedded PostgreSQL, which several engines may share."""

    def start(self) -> None:
        """Start it if it doesn't run. Raises `DatabaseUnavailable`."""
        ...

    def shut_down(self, mode: str = "fast", *, within_s: float = 60.0) -> None:
        """End it for all who use it, as `pg_ctl stop -m MODE` does."""
        ...


class Nouns(Speaks):
    """The objects of a `Surgetank`. Each opens the engine, unless it says otherwise, and raises
    `EngineClosed` when that was closed."""

    run_meters: RunMeters
    lifetimes: Lifetimes
    _run_figures: RunFigures
    _kept_runs: tuple[Parts, Runs] | None = None
    _kept_sql: Statements | None = None

    def flush(
        self, stream: str | None = None, partition: str | None = None, *, trigger: str = "manual"
    ) -> FlushJob:
        """Flush what waits now."""
        raise NotImplementedError

    def now(self) -> float:
        """The engine's clock."""
        raise NotImplementedError

    def checkpointer(self) -> SurgetankSaver:
        """A LangGraph checkpointer on this store."""
        raise NotImplementedError

    def store(self) -> SurgetankStore:
        """A LangGraph store in this database."""
        raise NotImplementedError

    def _migrate_alone(self) -> list[str]:
        """Migrate before the first opening."""
        raise NotImplementedError

    def _flush_as(self, trigger: str) -> Callable[[], FlushJob]:
        return lambda: self.flush(trigger=trigger)

    # -- what is kept

    @property
    def buffer(self) -> BufferState:
        """The buffer: how full it is, whether it is sound, to which database it belongs."""
        return BufferState(self.parts.backlog)

    @property
    def threads(self) -> Threads:
        """Whether anything is known of a thread, and reading threads as they are stored."""
        return Threads(self.parts, self.checkpointer)

    @property
    def logs(self) -> Logs:
        """The threads' logs: `tank.logs(thread_id)`."""
        return Logs(self.parts.reporting.logs)

    @property
    def errors(self) -> SystemErrors:
        """The system errors: find, read, resolve."""
        return self.parts.reporting.errors

    @property
    def events(self) -> EventLog:
        """The run events of this buffer."""
        return self.parts.reporting.events

    @property
    def sql(self) -> Statements:
        """SQL over tables and what agents did: `tank.sql("SELECT * FROM system.runs")`."""
        parts, kept = self.parts, self._kept_sql
        if kept is None:
            kept = self._kept_sql = Statements(
                self.parts.tables.open,
                self._relations,
                parts.settings,
            )
        return kept

    def _relations(self) -> Relations:
        parts = self.parts
        hot = HotRelations(parts.buffer, self.threads, self.errors)
        return Relations(
            parts.database, self.jobs, KnownState(parts), hot, owner_key=self.settings.owner_key
        )

    @property
    def live(self) -> LiveQueries:
        """Live queries: `tank.live("SUBSCRIBE TO app.notes")`."""
        return self.parts.live

    @property
    def asql(self) -> Callable[..., Awaitable[tuple[SqlResult, ...]]]:
        """`sql` for an event loop: `await tank.asql("SELECT ...")`."""
        return self.sql.wait

    @property
    def tables(self) -> Tables:
        """Tables of users' rows: create, list, describe, insert, flush, drop."""
        return Tables(self.parts.tables.open, self.parts.tables.location)

    @property
    def storage(self) -> Storage:
        """Who uses the space: `tank.storage()`."""
        parts = self.parts
        return Storage(parts.buffer, parts.database, limits_of(self.settings), clock=self.now)

    # -- what is done

    @property
    def jobs(self) -> Jobs:
        """The records of flushes and retention: list, get, retry."""
        return Jobs(self.parts.backlog, self.parts.flushers, self.settings.jobs_kept)

    @property
    def pruning(self) -> Pruning:
        """Deleting checkpoints of named threads by a strategy. Raises `MissingExtra`."""
        return Pruning(self.checkpointer())

    @property
    def runs(self) -> Runs:
        """Runs of graphs: accept, claim, cancel, who did what."""
        parts, kept = self.parts, self._kept_runs
        if kept is None or kept[0] is not parts:
            parts.forwarding.begin()
            kept = self._kept_runs = parts, self._runs_of(parts)
        return kept[1]

    def _runs_of(self, parts: Parts) -> Runs:
        return Runs(
            parts.database,
            parts.run_room,
            self.settings,
            tell=parts.tell_of_runs,
            announce=parts.reporting.notifier.tell,
            each_second=[self._expire_approvals],
            make_saver=self.checkpointer,
            webhooks=lambda: self.webhooks,
            buffer_id=parts.buffer.id,
            meters=self.run_meters,
            changed=parts.forwarding.wake,
            lifetimes=lambda: self.lifetimes,
            presence=parts.presence,
        )

    @property
    def approvals(self) -> Approvals:
        """What graphs ask people: `tank.approvals(status="pending")`, resolve, assign."""
        after = self.settings.approval_escalate_after
        return Approvals(self.parts.database, self.runs, self._escalate, after)

    @property
    def assistants(self) -> Assistants:
        """Graphs with what they are given in each run: make, change, versions."""
        settings = self.settings
        return Assistants(
            self.parts.database, most=settings.assistants_per_user, node=settings.node
        )

    @property
    def crons(self) -> Crons:
        """Runs that are accepted at their times: make, change, delete."""
        return self.runs.crons()

    def _expire_approvals(self) -> None:
        self.approvals.expire_due()

    def _escalate(self, row: UserCheckpoint) -> None:
        self.parts.reporting.notifier.tell(
            News(
                f"A question of the step {row.step_name or 'unknown'} waits for a person since "
                f"{row.created_at:%Y-%m-%d %H:%M} UTC.",
                Severity.WARNING,
                row.thread_id,
                error_type="approval_waits",
                context={"checkpoint_id": str(row.checkpoint_id), "assignee": row.assignee},
            )
        )

    @property
    def workflows(self) -> Workflows:
        """Chains of runs, each resume a new one: `tank.workflows()`, cancel, retry."""
        return Workflows(self.parts.database, self.runs)

    @property
    def webhooks(self) -> Webhooks:
        """What is sent to other servers when a run ends: `tank.webhooks()`, send, try again."""
        return Webhooks(self.parts, self.run_meters, state_of=self._state_of_run)

    def run_figures(self) -> Figures:
        """How many runs, approvals and webhooks there are, ten seconds old at most. Raises
        `DatabaseUnavailable`."""
        return self._run_figures.read(self.parts.database)

    def _state_of_run(self, thread_id: str, run_id: str) -> Mapping[str, Any] | None:
        found = self.checkpointer().get_tuple({"configurable": {"thread_id": thread_id}})
        if found is None or found.metadata.get("run_id") != run_id:
            return None
        values = found.checkpoint["channel_values"]
        return {
            name: value
            for name, value in values.get("__root__", values).items()
            if not name.startswith(("__", "branch:"))  # LangGraph's own
        }

    @property
    def audit(self) -> Audit:
        """Who did what: list, export, verify."""
        return Audit(self.parts.database)

    @property
    def erasures(self) -> Erasures:
        """Which users are or were erased: `tank.erasures()`. `erase_user` begins one."""
        return Erasures(self.parts.database)

    @property
    def analysts(self) -> Analysts:
        """Database roles of people who read with psql, Metabase or Grafana: add, list, remove."""
        return Analysts(self.parts.database, owner_key=self.settings.owner_key)

    @property
    def parked(self) -> Parked:
        """Entries that the database refused: list, get, retry, discard."""
        return Parked(
            self.parts.backlog, self.parts.streams, self._flush_as("retry"), audit=self.audit,
            stored=self.threads.stored, changed=lambda: self.parts.reporting.sweep(self.parts.flushers),
        )  # fmt: skip

    @property
    def recovery(self) -> Recoveries:
        """What was spilled and no buffer has any more comes back: `tank.recovery(url)`."""
        return Recoveries(self.parts, self._flush_as("recover"))

    @property
    def moving(self) -> Moving:
        """What waits in another buffer comes into this one: `tank.moving(url)`."""
        return Moving(self.parts)

    @property
    def transfers(self) -> Transfers:
        """Imports from LangGraph's own savers, and exports to them. The engine is opened by the
        first of them."""
        return Transfers(
            lambda: self.parts,
            self._flush_as("import"),
            self.settings,
            other_saver=self._other_saver,
        )

    @property
    def _other_saver(self) -> bool:
        """Whether another saver keeps the checkpoints."""
        return False

    # -- who is told

    @property
    def alerts(self) -> Alerts:
        """What operators are alerted of, and whether it reaches them."""
        return Alerts(self.parts.reporting.alerts)

    @property
    def incidents(self) -> Incidents:
        """What people were told of and is not over: `tank.incidents(thread_id)`."""
        reporting = self.parts.reporting
        return Incidents(reporting.banners, clock=self.now)

    @property
    def workers(self) -> Workers:
        """Which processes flush, run graphs or serve, on all hosts: `tank.workers()`."""
        return Workers(self.parts.database, self.parts.presence)

    @property
    def door(self) -> RedisDoor | None:
        """What servers on one buffer know together of who comes in; None where the buffer is a file."""
        return self.parts.door

    @property
    def notifications(self) -> Notifications:
        """Whom news reach in this process."""
        return Notifications(self.parts.reporting.notifier.telling)

    # -- what runs

    @property
    def streams(self) -> tuple[str, ...]:
        """The names of the streams that are flushed."""
        return tuple(self.parts.flushers)

    @property
    def flushing(self) -> bool:
        """Whether the flush thread of this process runs."""
        return self.parts.scheduler.running

    def breakers(self) -> dict[str, BreakerState]:
        """The state of each stream's circuit breaker, in this process."""
        return {stream: flusher.breaker.state() for stream, flusher in self.parts.flushers.items()}

    # -- the database

    @property
    def database(self) -> Database:
        """Connections to the database, its address, and whether it answers (`ping`)."""
        return self.parts.database

    @property
    def schema(self) -> Schema:
        """The version of the database's tables, and bringing them up to date."""
        return Schema(lambda: self.parts.database, self._migrate_alone)

    @property
    def embedded(self) -> EmbeddedServer | None:
        """The embedded PostgreSQL; None with another database."""
        return self.parts.embedded
