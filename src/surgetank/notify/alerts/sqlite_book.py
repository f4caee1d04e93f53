"""The alert book in the event log's SQLite file: alerts work while PostgreSQL is down, and survive
a restart.

Two processes that see the same trouble race for one row: the claim and the outbox are one
transaction.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from surgetank.events.sqlite import EVENTS
from surgetank.events.types import Severity
from surgetank.notify.alerts.book import (
    HORIZON_S,
    LONGEST_THROTTLE_S,
    MAX_CLAIMS,
    MAX_LOG,
    MAX_WAITING,
    ORPHANED_S,
    Alert,
    AlertBook,
    Attempt,
    ChannelHealth,
    Claim,
    Delivery,
    Message,
    Outcome,
    Sent,
)
from surgetank.sqlite.shared import SharedFile

# Added to files of this format that were made without them.
_TABLES = """
CREATE TABLE IF NOT EXISTS alert_claims (
    rule TEXT NOT NULL, subject TEXT NOT NULL, at REAL NOT NULL, news_at REAL, PRIMARY KEY (rule, subject)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS alert_outbox (
    id INTEGER PRIMARY KEY AUTOINCREMENT, channel TEXT NOT NULL, rule TEXT NOT NULL, severity TEXT NOT NULL,
    title TEXT NOT NULL, body TEXT NOT NULL, posted_at REAL NOT NULL, attempts INTEGER NOT NULL,
    due_at REAL NOT NULL, held_until REAL NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS alert_outbox_by_channel ON alert_outbox (channel, id);
CREATE TABLE IF NOT EXISTS alert_log (
    id INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, channel TEXT NOT NULL, rule TEXT NOT NULL,
    title TEXT NOT NULL, attempt INTEGER NOT NULL, outcome TEXT NOT NULL, error TEXT
) STRICT;
CREATE TABLE IF NOT EXISTS alert_channels (
    channel TEXT PRIMARY KEY, delivered INTEGER NOT NULL, failed INTEGER NOT NULL, failing_since REAL,
    last_ok_at REAL, last_at REAL NOT NULL, last_error TEXT
) STRICT, WITHOUT ROWID;
"""


class SQLiteAlertBook:
    """An `AlertBook` in the event log's file at `path`. Raises `BufferUnavailable`,
    `BufferCorrupt`."""

    away: AlertBook | None = None

    def __init__(
        self,
        path: Path,
        *,
        clock: Callable[[], float] = time.time,
        before_write: Callable[[], None] = lambda: None,
    ) -> None:
        self.path = Path(path)
        self._clock = clock
        self._file = SharedFile(
            self.path, kind=EVENTS, name="alert book", script=_TABLES, before_write=before_write
        )

    # -- claims and outbox

    def post(
        self,
        alerts: Sequence[Alert],
        channels: Sequence[str],
        compose: Callable[[Sequence[Alert]], Sequence[Message]],
        *,
        throttle_s: float,
    ) -> list[Alert]:
        # mostly there is nothing new: then nothing is locked
        with self._file.read() as reader:
            if not any(self._new(reader, alert, throttle_s) for alert in alerts):
                return []
        with self._file.write() as writer:
            claimed = [alert for alert in alerts if self._new(writer, alert, throttle_s)]
            now = self._clock()
            writer.executemany(
                "INSERT OR REPLACE INTO alert_claims VALUES (?, ?, ?, ?)",
                [(alert.rule, alert.subject, now, alert.news_at) for alert in claimed],
            )
            for message in compose(claimed) if claimed else ():
                for channel in channels:
                    writer.execute(
                        "INSERT INTO alert_outbox VALUES (NULL, ?, ?, ?, ?, ?, ?, 0, ?, 0)",
                        (
                            channel,
                            message.rule,
                            message.severity.value,
                            message.title,
                            message.body,
                            now,
                            now,
                        ),
                    )
            for channel in channels:
                self._drop_oldest(writer, channel, now)
        return claimed

    def _new(self, connection: sqlite3.Connection, alert: Alert, throttle_s: float) -> bool:
        row = connection.execute(
            "SELECT at, news_at FROM alert_claims WHERE rule = ? AND subject = ?",
            (alert.rule, alert.subject),
        ).fetchone()
        return row is None or Claim(*row).allows(alert, now=self._clock(), throttle_s=throttle_s)

    def _drop_oldest(self, writer: sqlite3.Connection, channel: str, now: float) -> None:
        rows = writer.execute(
            "DELETE FROM alert_outbox WHERE channel = ?1 AND id NOT IN"
            " (SELECT id FROM alert_outbox WHERE channel = ?1 ORDER BY id DESC LIMIT ?2) RETURNING "
            "rule, title",
            (channel, MAX_WAITING),
        ).fetchall()
        for rule, title in rows:
            self._log(
                writer, now, channel, (rule, title, 0), Outcome.DROPPED, "too many messages wait"
            )

    def take(self, channel: str, *, hold_s: float) -> Delivery | None:
        now = self._clock()
        due = (
            "SELECT id FROM alert_outbox WHERE channel = ?1 AND NOT due_at BETWEEN ?2 AND ?3"
            " AND NOT held_until BETWEEN ?2 AND ?3 ORDER BY id LIMIT 1"
        )
        window = (channel, now + 1e-6, now + HORIZON_S)
        with self._file.read() as reader:
            if reader.execute(due, window).fetchone() is None:
                return None
        with self._file.write() as writer:
            row = writer.execute(
                f"UPDATE alert_outbox SET held_until = ?4, attempts = attempts + 1 WHERE id = "
                f"({due})"
                " RETURNING id, rule, severity, title, body, posted_at, attempts",
                (*window, now + hold_s),
            ).fetchone()
        if row is None:
            return None
        id_, rule, severity, title, body, posted_at, attempt = row
        return Delivery(
            id_, channel, Message(rule, Severity.of(severity), title, body), posted_at, attempt
        )

    def record(
        self, delivery: Delivery, error: str | None, *, retry_at: float | None = None
    ) -> None:
        again = error is not None and retry_at is not None
        outcome = (
            Outcome.DELIVERED if error is None else Outcome.FAILED if again else Outcome.GAVE_UP
        )
        mine = (
            delivery.id,
            delivery.attempt,
        )  # whoever took it over meanwhile decides what becomes of it
        with self._file.write() as writer:
            if again:
                writer.execute(
                    "UPDATE alert_outbox SET due_at = ?3, held_until = 0 WHERE id = ?1 AND "
                    "attempts = ?2",
                    (*mine, retry_at),
                )
            else:
                writer.execute("DELETE FROM alert_outbox WHERE id = ? AND attempts = ?", mine)
            self._record(
                writer, delivery.channel, delivery.message, delivery.attempt, outcome, error
            )

    def note(self, channel: str, message: Message, error: str | None) -> None:
        outcome = Outcome.DELIVERED if error is None else Outcome.GAVE_UP
        with self._file.write() as writer:
            self._record(writer, channel, message, 1, outcome, error)

    def _record(
        self,
        writer: sqlite3.Connection,
        channel: str,
        message: Message,
        attempt: int,
        outcome: Outcome,
        error: str | None,
    ) -> None:
        now = self._clock()
        self._log(writer, now, channel, (message.rule, message.title, attempt), outcome, error)
        ok = error is None
        writer.execute(
            "INSERT INTO alert_channels VALUES (?1, ?2, 1 - ?2, iif(?2, NULL, ?3), iif(?2, ?3, "
            "NULL), ?3, ?4)"
            " ON CONFLICT (channel) DO UPDATE SET delivered = delivered + excluded.delivered,"
            " failed = failed + excluded.failed, last_at = excluded.last_at,"
            " failing_since = iif(?2, NULL, coalesce(failing_since, excluded.last_at)),"
            " last_ok_at = coalesce(excluded.last_ok_at, last_ok_at), last_error = "
            "excluded.last_error",
            (channel, int(ok), now, error),
        )

    @staticmethod
    def _log(
        writer: sqlite3.Connection,
        at: float,
        channel: str,
        what: tuple[str, str, int],
        outcome: Outcome,
        error: str | None,
    ) -> None:
        writer.execute(
            "INSERT INTO alert_log (at, channel, rule, title, attempt, outcome, error) VALUES (?, "
            "?, ?, ?, ?, ?, ?)",
            (at, channel, *what, outcome.value, error),
        )

    # -- reading

    def sent(self) -> list[Sent]:
        return [
            Sent(*row)
            for row in self._read("SELECT rule, subject, at FROM alert_claims ORDER BY at DESC")
        ]

    def attempts(self, *, limit: int = 100) -> list[Attempt]:
        rows = self._read(
            "SELECT id, at, channel, rule, title, attempt, outcome, error FROM alert_log ORDER BY "
            "id DESC LIMIT ?",
            limit,
        )
        return [
            Attempt(
                id=id_,
                at=at,
                channel=channel,
                rule=rule,
                title=title,
                attempt=attempt,
                outcome=Outcome(outcome),
                error=error,
            )
            for id_, at, channel, rule, title, attempt, outcome, error in rows
        ]

    def health(self) -> list[ChannelHealth]:
        return [
            ChannelHealth(*row)
            for row in self._read("SELECT * FROM alert_channels ORDER BY channel")
        ]

    def waiting(self) -> dict[str, int]:
        return dict(
            self._read(
                "SELECT channel, count(*) FROM alert_outbox GROUP BY channel ORDER BY channel"
            )
        )

    def _read(self, sql: str, *arguments: object) -> list[tuple[Any, ...]]:
        with self._file.read() as reader:
            return reader.execute(sql, arguments).fetchall()

    # -- life

    def maintain(self) -> None:
        now = self._clock()
        with self._file.write() as writer:
            orphans = writer.execute(
                "DELETE FROM alert_outbox WHERE posted_at < ? RETURNING channel, rule, title, "
                "attempts",
                (now - ORPHANED_S,),
            ).fetchall()
            for channel, rule, title, attempts in orphans:
                why = "no process has this channel any more"
                self._log(writer, now, channel, (rule, title, attempts), Outcome.GAVE_UP, why)
            writer.execute(
                "DELETE FROM alert_claims WHERE at < ?", (now - LONGEST_THROTTLE_S - 86_400,)
            )
            writer.execute(
                "DELETE FROM alert_claims WHERE at < (SELECT at FROM alert_claims ORDER BY at DESC "
                "LIMIT 1 OFFSET ?)",
                (MAX_CLAIMS,),
            )
            writer.execute(
                "DELETE FROM alert_log WHERE id <= (SELECT max(id) FROM alert_log) - ?", (MAX_LOG,)
            )

    def close(self) -> None:
        self._file.close()
