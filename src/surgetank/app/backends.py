"""The only module that names concrete classes: which buffer, event log, alert book and database the
settings ask for. A further kind is one more branch here."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Sequence
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from surgetank.app.guards import destination
from surgetank.buffer.copies import RecentLimits
from surgetank.buffer.limits import BufferLimits
from surgetank.buffer.sqlite.buffer import SQLiteBuffer
from surgetank.database.embedded import EmbeddedPostgres
from surgetank.database.embedded_pool import EmbeddedDatabase
from surgetank.database.migrate import Gate, MigratedDatabase
from surgetank.database.password import password_source
from surgetank.database.pool import Database
from surgetank.events.protocol import EventLog
from surgetank.events.sqlite import SQLiteEventLog
from surgetank.events.sqlite_streams import SQLiteStreamLog
from surgetank.events.streams import StreamLog
from surgetank.exceptions import ConfigurationError, MissingExtra, SurgetankError
from surgetank.fallback.files import SpillFiles
from surgetank.notify.alerts.book import AlertBook
from surgetank.notify.alerts.sqlite_book import SQLiteAlertBook
from surgetank.objects import is_object_url
from surgetank.redis.address import RedisAddress, parse
from surgetank.settings import Settings
from surgetank.sqlite.shared import SharedFile
from surgetank.streams.checkpoints.cold.reader import ColdReader
from surgetank.streams.stream import Streams
from surgetank.streams.tables.file import TABLES, beside
from surgetank.telemetry import log

if TYPE_CHECKING:
    from langgraph.checkpoint.base import BaseCheckpointSaver
    from langgraph.checkpoint.serde.base import SerializerProtocol

    from surgetank.buffer.redis.buffer import RedisBuffer
    from surgetank.redis.door import RedisDoor
    from surgetank.streams.checkpoints.cold.reader import Cold
    from surgetank.streams.tables.cold.location import Location
    from surgetank.streams.tables.hot.protocol import HotTables


_OF_THIS_MACHINE = time.time  # nobody gave another clock

AnyBuffer: TypeAlias = "SQLiteBuffer | RedisBuffer"


def open_buffer(
    settings: Settings, clock: Callable[[], float], streams: Streams, path: Path | None = None
) -> AnyBuffer:
    """The buffer of the settings, or one beside it at `path`."""
    url = settings.fallback_url
    inline_keys = frozenset[bytes]().union(*(stream.inline_keys for stream in streams.values()))
    options: dict[str, Any] = {
        "durability": settings.durability,
        "limits": BufferLimits(
            max_bytes=settings.buffer_max_bytes,
            max_entries=settings.buffer_max_entries,
            when_full=settings.buffer_when_full,
            block_timeout_s=settings.buffer_block_timeout,
        ),
        "clock": clock,
        "jobs_kept": settings.jobs_kept,
        "recent": RecentLimits(settings.recent_max_bytes, settings.recent_max_age),
        "files": SpillFiles(url.get_secret_value() if url is not None else None),
        "inline_keys": inline_keys,
        "keep_s": settings.keep_acknowledged,
        "keep_bytes": settings.keep_acknowledged_bytes,
        "destination": destination(settings),
    }
    if path is None and (address := _redis(settings)) is not None:
        from surgetank.buffer.redis.buffer import RedisBuffer  # noqa: PLC0415 - an extra

        options["clock"] = None if clock is _OF_THIS_MACHINE else clock
        return RedisBuffer(address, **options)
    return SQLiteBuffer(
        path or settings.buffer_path,
        last_words=frozenset(name for name, stream in streams.items() if stream.urgent),
        reserve_bytes=settings.disk_reserve,
        **options,
    )


def clock_of(buffer: AnyBuffer, clock: Callable[[], float]) -> Callable[[], float]:
    """The clock of an engine: of a server that hosts share, so that their times can be compared."""
    return clock if isinstance(buffer, SQLiteBuffer) else buffer.clock


def _before_write(buffer: AnyBuffer) -> Callable[[], None]:
    """Makes room on the disk that the buffer watches, before something else is written to it."""
    if isinstance(buffer, SQLiteBuffer):
        return buffer.file.reserve.before_write
    return lambda: None


def open_events(settings: Settings, clock: Callable[[], float], buffer: AnyBuffer) -> EventLog:
    """The event log: in Redis, or beside the buffer on the disk that the buffer watches."""
    if (address := _redis(settings)) is not None:
        from surgetank.events.redis_log import RedisEventLog  # noqa: PLC0415 - an extra

        return RedisEventLog(
            address,
            max_events=settings.events_kept,
            max_age_s=settings.events_max_age,
            originals_max_age_s=settings.debug_originals_max_age,
            clock=clock,
        )
    return SQLiteEventLog(
        _beside_buffer(settings),
        max_events=settings.events_kept,
        max_age_s=settings.events_max_age,
        originals_max_age_s=settings.debug_originals_max_age,
        clock=clock,
        before_write=_before_write(buffer),
    )


def open_streams(settings: Settings, clock: Callable[[], float], buffer: AnyBuffer) -> StreamLog:
    """The stream log of runs: in Redis, or beside the buffer."""
    if (address := _redis(settings)) is not None:
        from surgetank.events.redis_streams import RedisStreamLog  # noqa: PLC0415 - an extra

        return RedisStreamLog(
            address,
            keep_s=settings.streams_max_age,
            max_bytes=settings.streams_max_bytes,
            clock=clock,
        )
    return SQLiteStreamLog(
        _streams_path(settings),
        keep_s=settings.streams_max_age,
        max_bytes=settings.streams_max_bytes,
        clock=clock,
        before_write=_before_write(buffer),
    )


def streams_exist(settings: Settings) -> bool:
    """Whether there is a stream log."""
    return _streams_path(settings).exists()


def _streams_path(settings: Settings) -> Path:
    path = settings.buffer_path
    return path.with_name(f"{path.stem}-streams{path.suffix}")


def open_table_file(
    settings: Settings,
    clock: Callable[[], float],
    buffer: AnyBuffer,
    location: Location,
    on_problem: Callable[[SurgetankError], None],
) -> tuple[HotTables, SharedFile]:
    """The hot rows of tables, in a file beside the buffer or in a log that hosts share; and the file of
    what is copied of the catalogue and the manifest. Needs the extra `tables`."""
    from surgetank.streams.tables.catalog.mirror import SCRIPT as CATALOG  # noqa: PLC0415 - an extra
    from surgetank.streams.tables.cold.mirror import SCRIPT as MANIFEST  # noqa: PLC0415

    path, before_write = beside(settings.buffer_path), _before_write(buffer)
    copies = SharedFile(
        path,
        kind=TABLES,
        name="table store",
        script=CATALOG + MANIFEST,
        before_write=before_write,
    )
    more: dict[str, Any] = {
        "max_bytes": settings.tables_hot_max_bytes,
        "row_max_bytes": settings.tables_row_max_bytes,
        "before_write": before_write,
        "clock": clock,
    }
    if (address := _log_of_tables(settings)) is not None:
        from surgetank.streams.tables.hot.shared.log import SharedLog  # noqa: PLC0415 - an extra
        from surgetank.streams.tables.hot.shared.store import SharedHotTables, refuse_waiting  # noqa: PLC0415

        refuse_waiting(copies)
        log_of_tables = SharedLog(address, settings.durability)
        replica = path.with_name(f"{path.stem}-shared{path.suffix}")
        return SharedHotTables(
            replica, log_of_tables, location, on_problem=on_problem, **more
        ), copies
    from surgetank.streams.tables.hot.store import SQLiteHotTables  # noqa: PLC0415

    # A file has no replica: the next best is its disk.
    durability = "process" if settings.durability == "process" else "power"
    return SQLiteHotTables(path, durability=durability, **more), copies


def _log_of_tables(settings: Settings) -> RedisAddress | None:
    """Where hosts share the hot rows of tables: they share a buffer and the files, too."""
    return _redis(settings) if settings.tables_url is not None else None


def open_table_location(settings: Settings) -> Location:
    """Where files of tables are stored. Needs the extra `tables`, and `s3` for a bucket."""
    from surgetank.streams.tables.cold.bucket import BucketLocation  # noqa: PLC0415 - an extra
    from surgetank.streams.tables.cold.location import FolderLocation  # noqa: PLC0415

    if settings.tables_url is None:
        return FolderLocation(settings.home / "tables")
    url = settings.tables_url.get_secret_value()
    if not is_object_url(url):
        raise ConfigurationError(
            "SURGETANK_TABLES_URL names no bucket.",
            remedy="use s3://BUCKET/PREFIX (or gs://, az://); without it files are in a folder of the home.",
        )
    return BucketLocation(url, settings.home / "tables-cache", settings.tables_cache_bytes)


def tables_exist(settings: Settings) -> bool:
    """Whether there are tables here: their file, or a log of all hosts."""
    return _log_of_tables(settings) is not None or beside(settings.buffer_path).exists()


def open_door(settings: Settings) -> RedisDoor | None:
    """What servers on one buffer know together of who comes in; None where the buffer is a file."""
    if (address := _redis(settings)) is None:
        return None
    from surgetank.redis.door import RedisDoor  # noqa: PLC0415 - an extra

    return RedisDoor(address)


def open_alert_book(settings: Settings, clock: Callable[[], float], buffer: AnyBuffer) -> AlertBook:
    """The alert book: in Redis, with one in the home for while that is away, or in the file of the
    event log."""
    if (address := _redis(settings)) is not None:
        from surgetank.notify.alerts.redis_book import RedisAlertBook  # noqa: PLC0415 - an extra

        away = SQLiteAlertBook(_beside_buffer(settings), clock=clock)
        return RedisAlertBook(address, clock=clock, away=away)
    return SQLiteAlertBook(
        _beside_buffer(settings), clock=clock, before_write=_before_write(buffer)
    )


def server_of(settings: Settings) -> dict[str, object]:
    """Which server the buffer is in, for people; nothing for a file."""
    address = _redis(settings)
    if address is None:
        return {}
    if address.path is not None:
        return {"path": address.path}
    return {"host": address.host, "port": address.port}


def _redis(settings: Settings) -> RedisAddress | None:
    """The server that the buffer's URL names; None for a file. Raises `ConfigurationError`,
    `MissingExtra`."""
    url = settings.buffer_url
    if url is None or not settings.buffer_is_shared:
        return None
    address = parse(url.get_secret_value())
    if importlib.util.find_spec("redis") is None:
        raise MissingExtra("redis", "redis", f"The buffer {address.name}")
    return address


def _beside_buffer(settings: Settings) -> Path:
    path = settings.buffer_path
    return path.with_name(f"{path.stem}-events{path.suffix}")


def embedded_of(settings: Settings) -> EmbeddedPostgres | None:
    """The embedded server, if no other database is configured."""
    if settings.database_url is not None:
        return None
    return EmbeddedPostgres(settings.home, on_gone=_embedded_went)


def open_database(
    settings: Settings,
    embedded: EmbeddedPostgres | None,
    *,
    gate: Gate | None,
    migrations: Sequence[Traversable],
    password: Callable[[], str] | None,
) -> MigratedDatabase:
    """The pool of connections, to the embedded server or to the configured database."""
    if embedded is not None:
        return EmbeddedDatabase(
            embedded,
            gate=gate,
            max_size=settings.database_connections,
            connect_timeout_s=settings.connect_timeout,
            statement_timeout_s=settings.statement_timeout,
            read_timeout_s=settings.read_timeout,
            migrations=migrations,
        )
    assert settings.database_url is not None
    command = settings.database_password_command
    return MigratedDatabase(
        settings.database_url.get_secret_value(),
        gate=gate,
        max_size=settings.database_connections,
        connect_timeout_s=settings.connect_timeout,
        statement_timeout_s=settings.statement_timeout,
        read_timeout_s=settings.read_timeout,
        migrations=migrations,
        password=password_source(
            password,
            settings.database_password_file,
            command.get_secret_value() if command is not None else None,
        ),
    )


def open_cold(
    database: Database,
    saver: BaseCheckpointSaver[Any] | None = None,
    serde: SerializerProtocol | None = None,
) -> Cold:
    """The reader of what was flushed: from the database, or from another saver."""
    if saver is None:
        return ColdReader(database)
    from surgetank.streams.checkpoints.any_saver.cold import SaverCold  # noqa: PLC0415 - needs the extra
    from surgetank.streams.checkpoints.serde import faithful  # noqa: PLC0415 - needs the extra

    return SaverCold(saver, faithful(serde))


def _embedded_went(*, crashed: bool, log_path: Path) -> None:
    log.error(
        "embedded_postgres_went", crashed=crashed, log=str(log_path), remedy="it is started again"
    )
