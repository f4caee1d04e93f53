"""Answers kept for requests that are sent again with the same `Idempotency-Key`, for 24 hours and
per caller.

Kept in PostgreSQL, where every server finds them; while it is down in this server's memory,
bounded.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from psycopg.rows import dict_row

from surgetank.bounded import BoundedMap
from surgetank.database.queries import queries
from surgetank.exceptions import ConfigurationError, SinkError
from surgetank.server.http.outage import Connections
from surgetank.server.http.problems import Problem
from surgetank.telemetry import log

KEPT_S = 24 * 3600.0
ABANDONED_S = 600.0  # a claim whose server died may be taken over
MAX_BODY = 1024 * 1024
_MAX_KEYS = 10_000
_MAX_BYTES = 64 * 1024 * 1024
_FORGET_EVERY_S = 600.0
_SQL = queries("server/http/idempotency.sql")


@dataclass(frozen=True, slots=True)
class Answer:
    """What was answered."""

    status: int
    media_type: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to carry out the request with this key. `in_memory` tells where the answer goes."""

    scope: str
    key: str
    fingerprint: bytes
    id: str
    in_memory: bool = False


@dataclass(slots=True)
class _Row:
    fingerprint: bytes
    claim: str
    at: float
    answer: Answer | None = None


def _weight(row: _Row) -> int:
    return len(row.answer.body) if row.answer is not None else 0


class KeptAnswers:
    """Claims of keys and the answers behind them. Methods block."""

    def __init__(self, database: Connections, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._clock = clock
        self._lock = threading.Lock()
        self._memory = BoundedMap[tuple[str, str], _Row](
            _MAX_KEYS, most_weight=_MAX_BYTES, weigh=_weight
        )
        self._forgot_at = float("-inf")

    def forget(self, scopes: Collection[str]) -> None:
        """Drop the answers that are kept in memory for these callers."""
        with self._lock:
            for slot in [slot for slot in self._memory if slot[0] in scopes]:
                del self._memory[slot]

    def claim(self, scope: str, key: str, fingerprint: bytes) -> Claim | Answer:
        """The right to carry out the request, or the answer that it got before.

        Raises `Problem`: 422 when the key came with another request, 409 while the first one is
        under way.
        """
        wanted = Claim(scope, key, fingerprint, secrets.token_hex(8))
        with self._lock:
            row = self._memory.get((scope, key))
            if row is not None and self._clock() - row.at < KEPT_S:
                return _judge(fingerprint, row.fingerprint, row.answer)
        try:
            self._forget()
            return self._claim_in_database(wanted)
        except (SinkError, ConfigurationError) as error:
            log.info("idempotency_key_in_memory", error=error.what)
            return self._claim_in_memory(wanted)

    def finish(self, claim: Claim, answer: Answer) -> None:
        """Keep the answer. One that is too large is told as such when it is asked for again."""
        if len(answer.body) > MAX_BODY:
            body = b'{"detail": "This was carried out; its answer was too large to be kept."}'
            answer = Answer(answer.status, "application/json", body)
        if claim.in_memory:
            with self._lock:
                row = self._memory.get((claim.scope, claim.key))
                if row is not None and row.claim == claim.id:
                    self._memory[claim.scope, claim.key] = replace(row, answer=answer)
            return
        try:
            with self._database.connection() as connection:
                connection.execute(
                    _SQL["keep_answer"],
                    {
                        "scope": claim.scope,
                        "key": claim.key,
                        "claim": claim.id,
                        "status": answer.status,
                        "media_type": answer.media_type,
                        "body": answer.body,
                    },
                )
        except (SinkError, ConfigurationError) as error:
            log.info("idempotency_key_in_memory", error=error.what)
            with self._lock:
                row = _Row(claim.fingerprint, claim.id, self._clock(), answer)
                self._memory[claim.scope, claim.key] = row

    def release(self, claim: Claim) -> None:
        """Give the key back: the request failed, and may be tried again with it."""
        if claim.in_memory:
            with self._lock:
                row = self._memory.get((claim.scope, claim.key))
                if row is not None and row.claim == claim.id:
                    del self._memory[(claim.scope, claim.key)]
            return
        try:
            with self._database.connection() as connection:
                connection.execute(
                    _SQL["release_key"], {"scope": claim.scope, "key": claim.key, "claim": claim.id}
                )
        except (
            SinkError,
            ConfigurationError,
        ) as error:  # it is given back by itself after ABANDONED_S
            log.info("idempotency_key_not_released", error=error.what)

    def _claim_in_database(self, wanted: Claim) -> Claim | Answer:
        slot = {"scope": wanted.scope, "key": wanted.key}
        with (
            self._database.connection() as connection,
            connection.cursor(binary=True, row_factory=dict_row) as cursor,
        ):
            got = cursor.execute(
                _SQL["claim_key"],
                {**slot, "fingerprint": wanted.fingerprint, "claim": wanted.id, "kept_s": KEPT_S,
                 "abandoned_s": ABANDONED_S},
            ).fetchone()  # fmt: skip
            if got is not None:
                return wanted
            row = cursor.execute(_SQL["kept_answer"], slot).fetchone()
        if row is None:  # given back between the two looks
            return _judge(wanted.fingerprint, wanted.fingerprint, None)
        answer = None
        if row["status"] is not None:
            answer = Answer(row["status"], row["media_type"], bytes(row["body"]))
        return _judge(wanted.fingerprint, bytes(row["fingerprint"]), answer)

    def _claim_in_memory(self, wanted: Claim) -> Claim:
        claim = Claim(wanted.scope, wanted.key, wanted.fingerprint, wanted.id, in_memory=True)
        with self._lock:
            row = self._memory.get((claim.scope, claim.key))
            if row is not None and self._clock() - row.at < KEPT_S:
                _judge(claim.fingerprint, row.fingerprint, row.answer)
            self._memory[(claim.scope, claim.key)] = _Row(
                claim.fingerprint, claim.id, self._clock()
            )
        return claim

    def _forget(self) -> None:
        if self._clock() - self._forgot_at < _FORGET_EVERY_S:
            return
        self._forgot_at = self._clock()
        with self._database.connection() as connection:
            connection.execute(_SQL["forget_keys"], {"kept_s": KEPT_S})


def _judge(fingerprint: bytes, kept: bytes, answer: Answer | None) -> Answer:
    if fingerprint != kept:
        raise Problem(
            422, "idempotency-key-reused", "This Idempotency-Key came with another request before.",
            remedy="use a new key for a new request.",
        )  # fmt: skip
    if answer is None:
        raise Problem(
            409, "still-running", "The request with this Idempotency-Key is still being carried "
            "out.",
            remedy="ask again in a moment.", headers={"Retry-After": "1"},
        )  # fmt: skip
    return answer
