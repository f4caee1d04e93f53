"""The rules of alerting and the daily digest, as plain functions of what was found out. Pure.

A rule gives one alert per subject for as long as its condition holds; what was told already is the
alert book's to know. Alerts of one rule that come up together are one message.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, tzinfo
from typing import Any

from surgetank.durations import shown
from surgetank.events.types import Severity, timestamp
from surgetank.model import BufferDepth
from surgetank.notify.alerts.book import Alert, Message
from surgetank.notify.incidents import NEARLY_FULL, Subject, Trouble, lasts
from surgetank.streams.errors.groups import ErrorGroup

CRITICAL_WINDOW_S = 300.0
THREAD_WINDOW_S = 86_400.0
DIGEST = "digest"
RECOVERED = "recovered"
LOST_SERVER = "redis_connection_error"
_LISTED = 20


@dataclass(frozen=True, slots=True)
class TroubledThread:
    """A thread with several unresolved errors; `last` is when the newest was seen."""

    thread_id: str
    errors: int
    last: float


@dataclass(frozen=True, slots=True)
class Facts:
    """What the rules look at. `errors` are unresolved critical ones; `failing` counts partitions;
    `snoozed` maps an error's id to the end of its snooze; `sinks` a stream to where it is flushed;
    `problem` says why the picture may be incomplete.
    """

    now: float
    depth: BufferDepth
    errors: tuple[ErrorGroup, ...] = ()
    threads: tuple[TroubledThread, ...] = ()
    troubles: tuple[Trouble, ...] = ()
    failing: int = 0
    parked: int = 0
    snoozed: Mapping[str, float] = field(default_factory=dict)
    sinks: Mapping[str, str] = field(default_factory=dict)
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """From when on a rule alerts."""

    failing_after_s: float = 300.0
    buffer_share: float = 0.7
    thread_errors: int = 3


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: its name, what it is about, a heading for several alerts together, and the function
    itself."""

    name: str
    about: str
    heading: str
    find: Callable[[Facts, Limits], list[Alert]]


def critical_errors(facts: Facts, _: Limits) -> list[Alert]:
    """Critical errors of the last five minutes that nobody has resolved or snoozed."""
    return [
        Alert(
            "critical_errors", error.id, Severity.CRITICAL, f"Critical error: {error.error_type}",
            _sentence(error), news_at=error.last_seen,
        )
        for error in facts.errors
        if error.severity is Severity.CRITICAL
        and error.error_type != LOST_SERVER  # who lost it alerts that (`lost_server`)
        and not error.resolved
        and error.last_seen >= facts.now - CRITICAL_WINDOW_S
        and not _snoozed(error, facts)
    ]  # fmt: skip


def lost_server(what: str, remedy: str) -> Alert:
    """The server that the buffer is in does not answer: nothing else can be found out."""
    return Alert(
        "critical_errors", LOST_SERVER, Severity.CRITICAL, f"Critical error: {LOST_SERVER}",
        f"{_short(what)} {_short(remedy)} Nothing is known of what waits until it answers.".strip(),
    )  # fmt: skip


def found_server(now: float) -> Alert:
    """It answers again, after that was alerted."""
    return Alert(
        RECOVERED, LOST_SERVER, Severity.INFO, "Recovered: the server of the buffer",
        "It answers again, and everything goes on.", news_at=now,
    )  # fmt: skip


def failing_partitions(facts: Facts, limits: Limits) -> list[Alert]:
    """What has failed for longer than the limit. A sink that is away is one subject, not one a
    thread."""
    return [
        _of_sink(trouble, facts)
        if trouble.subject is Subject.SINK
        else _of_partition(trouble, facts)
        for trouble in facts.troubles
        if lasts(trouble.since, facts.now, limits.failing_after_s)
    ]


def _of_partition(trouble: Trouble, facts: Facts) -> Alert:
    name = f"{trouble.stream}/{_short(trouble.partition or '', 200)}"
    failure = trouble.failure
    text = (
        f"{name} has failed for {shown(facts.now - trouble.since)} ({trouble.entries} entries wait,"
        f" all are kept): {_short(failure.message)} {failure.remedy}"
    )
    return Alert(
        "failing_partitions", name, Severity.CRITICAL, f"{name} can't be flushed", text.strip()
    )


def _of_sink(trouble: Trouble, facts: Facts) -> Alert:
    sink, failure = facts.sinks.get(trouble.stream, trouble.stream), trouble.failure
    what = f"{trouble.affected} {trouble.unit}{'s wait' if trouble.affected != 1 else ' waits'}"
    text = (
        f"{what}, the longest for {shown(facts.now - trouble.since)}; {trouble.entries} entries are"
        f" kept and are flushed by themselves when it is back. {_short(failure.message)}"
        f" {failure.remedy}"
    )
    return Alert(
        "failing_partitions", sink, Severity.CRITICAL, f"Nothing can be flushed to {sink}",
        text.strip(),
    )  # fmt: skip


def recovered(subjects: Collection[str], facts: Facts) -> list[Alert]:
    """What was alerted as failing and is well again."""
    return [
        Alert(
            RECOVERED,
            subject,
            Severity.INFO,
            f"Recovered: {subject}",
            f"{subject} is flushed again; {facts.depth.entries} entries wait just now.",
            news_at=facts.now,
        )
        for subject in sorted(subjects)
    ]


def filling_buffer(facts: Facts, limits: Limits) -> list[Alert]:
    """The buffer is filling up: what flows in is not flushed. Nearly full is told anew, and is
    critical."""
    share = facts.depth.fullness
    if share < limits.buffer_share:
        return []
    full = share >= max(NEARLY_FULL, limits.buffer_share)
    return [
        Alert(
            "filling_buffer",
            "nearly full" if full else "filling",
            Severity.CRITICAL if full else Severity.WARNING,
            f"The buffer is {share:.0%} full",
            f"{facts.depth.entries} entries, {facts.depth.bytes} bytes wait to be flushed. At 100 "
            f"% new writes wait or"
            " fail: see `surgetank status` for what keeps them from being flushed.",
        )
    ]


def thread_errors(facts: Facts, limits: Limits) -> list[Alert]:
    """Threads with several unresolved errors of the last day."""
    found = [thread for thread in facts.threads if thread.errors >= limits.thread_errors]
    return [
        Alert(
            "thread_errors", thread.thread_id, Severity.WARNING, f"{_thread(thread.thread_id)} has "
            f"several errors",
            f"{_thread(thread.thread_id)}: {thread.errors} unresolved errors, the newest at "
            f"{timestamp(thread.last)}.",
            news_at=thread.last,
        )
        for thread in found
    ]  # fmt: skip


RULES = (
    Rule(
        "critical_errors",
        "unresolved critical errors of the last five minutes",
        "critical errors",
        critical_errors,
    ),
    Rule(
        "failing_partitions",
        "partitions that have failed for longer than `alert_failing_after`",
        "partitions can't be flushed",
        failing_partitions,
    ),
    Rule(
        "filling_buffer",
        "a buffer that is fuller than `alert_buffer_share`",
        "alerts about the buffer",
        filling_buffer,
    ),
    Rule(
        "thread_errors",
        "threads with `alert_thread_errors` unresolved errors or more",
        "threads with several errors",
        thread_errors,
    ),
)


def find(facts: Facts, limits: Limits) -> list[Alert]:
    """What all rules have to tell now."""
    return [alert for rule in RULES for alert in rule.find(facts, limits)]


def compose(
    alerts: Sequence[Alert], *, node: str = "", problem: str | None = None
) -> list[Message]:
    """One message per rule out of the alerts that came up together."""
    headings = {rule.name: rule.heading for rule in RULES}
    by_rule: dict[str, list[Alert]] = {}
    for alert in alerts:
        by_rule.setdefault(alert.rule, []).append(alert)
    foot = [f"(Told by {node}.)"] if node else []
    if problem:
        foot.insert(
            0, f"The database could not be asked, so this may be incomplete: {_short(problem)}"
        )
    messages: list[Message] = []
    for rule, members in by_rule.items():
        worst = max((alert.severity for alert in members), key=lambda severity: severity.rank)
        first = members[0].title
        title = first if len(members) == 1 else f"{len(members)} {headings.get(rule, 'alerts')}"
        lines = _listed([_lines(alert.text) for alert in members])
        body = "\n".join([*lines, "", *foot]).strip()
        messages.append(Message(rule, worst, f"Surgetank: {_short(title, 150)}", body))
    return messages


# -- the digest


def digest_day(now: float, hour: int | None, zone: tzinfo | None = None) -> str | None:
    """The day whose digest is due: today, once the clock has passed the hour (local time without a
    zone)."""
    here = datetime.fromtimestamp(now, zone) if zone else datetime.fromtimestamp(now).astimezone()
    return here.date().isoformat() if hour is not None and here.hour >= hour else None


def digest(
    day: str, counts: Iterable[Mapping[str, Any]], trends: Iterable[Mapping[str, Any]], facts: Facts
) -> Alert:
    """The day's summary. `counts`: groups by type and severity with `unresolved`; `trends`:
    `occurrences` of the last 24 hours by type and severity, in any number of rows.
    """
    seen: dict[tuple[str, str], list[int]] = {}
    for row in trends:
        seen.setdefault((row["error_type"], row["severity"]), [0, 0])[0] += row["occurrences"]
    for row in counts:
        if row["unresolved"]:
            seen.setdefault((row["error_type"], row["severity"]), [0, 0])[1] += row["unresolved"]
    worst_first = sorted(seen, key=lambda key: (-Severity(key[1]).rank, -seen[key][0], key[0]))
    lines = [
        f"{severity:8}  {_short(type_, 200)}: {seen[type_, severity][0]} in the last 24 hours,"
        f" {seen[type_, severity][1]} unresolved"
        for type_, severity in worst_first
    ]
    total = sum(occurred for occurred, _ in seen.values())
    unresolved = sum(open_ for _, open_ in seen.values())
    state = (
        f"Buffer: {facts.depth.fullness:.0%} full, {facts.depth.entries} entries wait; "
        f"{facts.failing} partitions"
        f" fail; {facts.parked} entries are parked."
    )
    text = "\n".join([*(_listed(lines) or ["No errors in the last 24 hours."]), state])
    return Alert(
        DIGEST,
        day,
        Severity.INFO,
        f"Digest of {day}: {total} errors, {unresolved} unresolved",
        text,
        once=True,
    )


# -- words


def _sentence(error: ErrorGroup) -> str:
    where = f" in thread {_short(error.thread_id, 200)}" if error.thread_id else ""
    times = f", {error.occurrences} times" if error.occurrences > 1 else ""
    back = " (it came back after it had been resolved)" if error.regressions else ""
    what = f"{_short(error.error_type, 100)}{where} at {timestamp(error.last_seen)}{times}{back}"
    return f"{what}: {_short(error.error_message)} See `surgetank errors show {error.id}`."


def _thread(name: str) -> str:
    return f"Thread {_short(name, 200)}"


def _snoozed(error: ErrorGroup, facts: Facts) -> bool:
    return max(error.snoozed_until or 0.0, facts.snoozed.get(error.id, 0.0)) > facts.now


def _short(text: str, most: int = 400) -> str:
    """One bounded line that every channel can carry, whatever an application put into a name or a
    message."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 2 * most]).split())
    return line if len(line) <= most else f"{line[:most]} ..."


def _lines(text: str) -> str:
    return "\n".join(_short(line, 1000) for line in text.split("\n"))


def _listed(lines: Sequence[str]) -> list[str]:
    more = len(lines) - _LISTED
    return [*lines[:_LISTED], *([f"... and {more} more"] if more > 0 else [])]
