"""What a failure means: the table of SQLSTATEs and exceptions."""

from __future__ import annotations

import psycopg
import psycopg_pool
import pytest
from psycopg import errors as pg

from surgetank import exceptions as own
from surgetank.flush.classify import classify
from surgetank.model import FailureKind

TRANSIENT = [
    pg.ConnectionException, pg.ConnectionDoesNotExist, pg.ConnectionFailure, pg.SqlclientUnableToEstablishSqlconnection,
    pg.ProtocolViolation, pg.SerializationFailure, pg.DeadlockDetected, pg.TransactionRollback,
    pg.StatementCompletionUnknown, pg.AdminShutdown,
    pg.InsufficientResources, pg.DiskFull, pg.OutOfMemory, pg.TooManyConnections, pg.QueryCanceled,
    pg.CrashShutdown, pg.CannotConnectNow, pg.DatabaseDropped, pg.IdleSessionTimeout, pg.IoError, pg.SystemError,
    pg.LockNotAvailable, pg.ObjectInUse, pg.ReadOnlySqlTransaction, pg.InFailedSqlTransaction,
    pg.IdleInTransactionSessionTimeout,
]  # fmt: skip
FATAL = [
    pg.InvalidPassword, pg.InvalidAuthorizationSpecification, pg.InvalidCatalogName, pg.InvalidSchemaName,
    pg.InsufficientPrivilege, pg.UndefinedTable, pg.UndefinedColumn, pg.UndefinedFunction, pg.SyntaxError,
    pg.DuplicatePreparedStatement, pg.FeatureNotSupported, pg.ConfigFileError, pg.InvalidGrantor,
    pg.InvalidRoleSpecification,
]  # fmt: skip
REJECTED = [
    pg.DataException, pg.StringDataRightTruncation, pg.NumericValueOutOfRange, pg.InvalidTextRepresentation,
    pg.UntranslatableCharacter, pg.CharacterNotInRepertoire, pg.InvalidDatetimeFormat, pg.NotNullViolation,
    pg.ForeignKeyViolation, pg.UniqueViolation, pg.CheckViolation, pg.ExclusionViolation, pg.ProgramLimitExceeded,
    pg.RaiseException, pg.WithCheckOptionViolation,
]  # fmt: skip


@pytest.mark.parametrize(
    ("error", "kind"),
    [(e, FailureKind.TRANSIENT) for e in TRANSIENT]
    + [(e, FailureKind.FATAL) for e in FATAL]
    + [(e, FailureKind.REJECTED) for e in REJECTED],
)
def test_the_sqlstate_decides(error: type[psycopg.Error], kind: FailureKind) -> None:
    failure = classify(error("what the server said"))
    assert failure.kind is kind
    assert failure.sqlstate == error.sqlstate
    assert (failure.message, failure.error_type) == ("what the server said", error.__name__)


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError("reset"),
        ConnectionRefusedError(),
        TimeoutError("slow"),
        BrokenPipeError(),
        OSError(28, "No space left on device"),
        MemoryError(),
        psycopg.OperationalError("connection is lost"),
        psycopg.InterfaceError("the connection is closed"),
        psycopg_pool.PoolTimeout("no connection in time"),
        psycopg_pool.PoolClosed("closed"),
        own.DatabaseUnavailable("gone"),
        own.SinkError("some sink"),
        own.StateCorrupt("a base is missing"),
        own.BufferUnavailable("full disk"),
        own.LeaseLost("lost"),
    ],
    ids=repr,
)
def test_what_passes_by_itself_is_transient(error: Exception) -> None:
    assert classify(error).kind is FailureKind.TRANSIENT


@pytest.mark.parametrize(
    "error", [own.ConfigurationError("x"), own.SchemaTooNew("x"), own.MissingExtra("p", "e", "It")]
)
def test_what_an_operator_must_settle_is_fatal(error: Exception) -> None:
    assert classify(error).kind is FailureKind.FATAL


@pytest.mark.parametrize(
    "error",
    [
        own.EntryRejected(partition="p", path="$", reason="too wide"),
        psycopg.DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes"),
        psycopg.ProgrammingError("cannot adapt type"),
        ValueError("x"),
        KeyError("x"),
        RecursionError("x"),
        AssertionError(),
        ZeroDivisionError("nobody foresaw this"),
    ],
    ids=repr,
)
def test_the_data_or_what_nobody_foresaw_is_rejected(error: Exception) -> None:
    assert classify(error).kind is FailureKind.REJECTED


@pytest.mark.parametrize(
    "error", [pg.InvalidSqlStatementName, pg.SnapshotTooOld, pg.IndexCorrupted, pg.DataCorrupted]
)
def test_a_fault_of_the_connection_or_the_server_parks_no_data(error: type[psycopg.Error]) -> None:
    """26000 is what PgBouncer causes when a prepared statement was made on another server
    connection."""
    assert classify(error("x")).kind is not FailureKind.REJECTED


def test_the_sqlstate_is_found_behind_the_error_that_was_raised_from_it() -> None:
    try:
        try:
            raise pg.DeadlockDetected("deadlock")
        except psycopg.Error as cause:
            raise own.SinkError("the write failed") from cause
    except own.SinkError as error:
        failure = classify(error)
    assert (failure.sqlstate, failure.kind) == ("40P01", FailureKind.TRANSIENT)
    assert (failure.error_type, failure.message) == ("SinkError", "the write failed")
    assert "DeadlockDetected" in failure.stack_trace


def test_a_rejected_entry_stays_rejected_whatever_caused_it() -> None:
    try:
        raise own.EntryRejected(
            partition="p", path="$", reason="r", remedy="store it as text"
        ) from OSError("x")
    except own.EntryRejected as error:
        failure = classify(error)
    assert failure.kind is FailureKind.REJECTED
    assert failure.remedy == "store it as text"
    assert "Way out" not in failure.message


def test_the_message_is_one_bounded_line_and_never_empty() -> None:
    assert classify(ValueError("two\n  lines")).message == "two lines"
    assert len(classify(ValueError("x" * 10_000)).message) == 2000
    assert classify(ValueError()).message == "ValueError"
    assert len(classify(ValueError("x" * 100_000)).stack_trace) <= 20_000


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (pg.InsufficientPrivilege, "grant"),
        (pg.UndefinedTable, "surgetank migrate"),
        (pg.DiskFull, "free space"),
        (pg.TooManyConnections, "max_connections"),
    ],
)
def test_a_failure_with_a_known_way_out_names_it(error: type[psycopg.Error], word: str) -> None:
    assert word in classify(error("x")).remedy


def test_a_file_that_can_not_be_written_is_told_from_a_database_that_is_away() -> None:
    full = classify(OSError(28, "No space left on device", "tables/1/x.parquet"))
    assert full.kind is FailureKind.TRANSIENT
    assert "free space" in full.remedy
    assert classify(ConnectionRefusedError(111, "Connection refused")).remedy == ""
