"""The alert rules and the digest as plain functions, and how channels are shown."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from datetime import UTC, timedelta, timezone
from typing import Any

import pytest

from surgetank.events.types import Severity
from surgetank.exceptions import ConfigurationError, MissingExtra
from surgetank.model import BufferDepth, Failure, FailureGroup, FailureKind, PartitionState
from surgetank.notify.alerts import rules
from surgetank.notify.alerts.book import Alert
from surgetank.notify.alerts.delivery import channel_names, open_channels
from surgetank.notify.alerts.rules import Facts, Limits, TroubledThread
from surgetank.notify.incidents import Facts as Failing
from surgetank.notify.incidents import Trouble, judge
from surgetank.settings import load_settings
from surgetank.streams.errors.groups import ErrorGroup
from surgetank.streams.installed import STREAMS
from surgetank.streams.stream import Streams

NOW = 1_750_000_000.0
EMPTY = BufferDepth(0, 0, 100, 1000, ())
FACTS = Facts(NOW, EMPTY)


def error(id_: str = "e1", **more: Any) -> ErrorGroup:
    group = ErrorGroup(
        id_,
        f"mark-{id_}",
        "broken",
        Severity.CRITICAL,
        "t",
        "it broke",
        "",
        {},
        NOW - 5000,
        NOW - 10,
    )
    return replace(group, **more)


def troubles(*states: PartitionState, away: FailureGroup | None = None) -> tuple[Trouble, ...]:
    groups = [away] if away is not None else []
    facts = Failing(now=NOW, critical_after_s=60.0, groups=groups, states=states)
    return tuple(judge(facts, Streams(STREAMS)))


def failing(partition: str, *, since: float) -> PartitionState:
    failure = Failure(FailureKind.FATAL, "its chain is broken", "StateCorrupt", remedy="see it.")
    return PartitionState("checkpoints", partition, 3, 300, since, 5, NOW + 5, since, failure)


def away(partitions: int, *, since: float) -> FailureGroup:
    failure = Failure(FailureKind.TRANSIENT, "connection refused", "OperationalError")
    return FailureGroup("checkpoints", failure, partitions, 6, 600, since, 5, NOW + 5, "a")  # fmt: skip


def subjects(found: list[Alert]) -> list[tuple[str, str]]:
    return [(alert.rule, alert.subject) for alert in found]


def test_nothing_is_alerted_when_all_is_well():
    assert rules.find(FACTS, Limits()) == []


@pytest.mark.parametrize(
    ("group", "told"),
    [
        (error(), True),
        (error(last_seen=NOW - 300), True),
        (error(last_seen=NOW - 301), False),
        (error(severity=Severity.ERROR), False),
        (error(resolved_at=NOW - 1), False),
        (error(snoozed_until=NOW + 1), False),
        (error(snoozed_until=NOW - 1), True),
        (error("snoozed-in-the-database"), False),
    ],
)
def test_unresolved_unsnoozed_criticals_of_the_last_five_minutes_are_alerted(
    group: ErrorGroup, told: bool
):
    facts = replace(FACTS, errors=(group,), snoozed={"snoozed-in-the-database": NOW + 60})
    assert subjects(rules.find(facts, Limits())) == ([("critical_errors", "e1")] if told else [])


def test_a_sink_that_is_away_is_one_alert_and_a_partition_s_own_trouble_another():
    facts = replace(
        FACTS,
        troubles=troubles(
            failing("new", since=NOW - 300),
            failing("c", since=NOW - 301),
            away=away(2, since=NOW - 500),
        ),
        sinks={"checkpoints": "postgresql://db/app"},
    )
    sink, own = rules.find(facts, Limits(failing_after_s=300))
    assert (sink.subject, own.subject) == ("postgresql://db/app", "checkpoints/c")
    assert "2 threads wait, the longest for 8 min; 6 entries are kept" in sink.text
    assert "connection refused" in sink.text
    assert "its chain is broken see it." in own.text


@pytest.mark.parametrize(
    ("entries", "size", "subject"),
    [
        (69, 0, None),
        (0, 700, "filling"),
        (70, 0, "filling"),
        (0, 800, "nearly full"),
        (79, 0, "filling"),
        (100, 1000, "nearly full"),
    ],
)
def test_a_buffer_that_fills_up_is_alerted_and_nearly_full_once_more(
    entries: int, size: int, subject: str | None
):
    found = rules.find(replace(FACTS, depth=replace(EMPTY, entries=entries, bytes=size)), Limits())
    assert subjects(found) == ([("filling_buffer", subject)] if subject else [])


def test_threads_with_several_errors_are_alerted():
    threads = (TroubledThread("a", 3, NOW - 5), TroubledThread("b", 2, NOW - 5))
    (alert,) = rules.find(replace(FACTS, threads=threads), Limits(thread_errors=3))
    assert (alert.subject, alert.news_at) == ("a", NOW - 5)


def test_many_alerts_of_a_rule_are_one_message_and_bounded():
    facts = replace(
        FACTS, errors=tuple(error(f"e{n}", error_message="x" * 5000) for n in range(300))
    )
    (message,) = rules.compose(rules.find(facts, Limits()), node="here", problem="it is away")
    assert message.title == "Surgetank: 300 critical errors"
    assert "... and 280 more" in message.body
    assert "may be incomplete: it is away" in message.body
    assert len(message.body) < 15_000


def test_hostile_names_and_messages_become_lines_that_every_channel_can_carry():
    hostile = error(
        error_message="a\x00b\r\nSubject: x\ud800\u202e" + "y" * 10**6, thread_id="t\n\x1b[31m"
    )
    threads = (TroubledThread("n\x00\ud800" * 1000, 9, NOW),)
    facts = replace(
        FACTS, errors=(replace(hostile, error_type="odd\r\nBcc: all"),), threads=threads
    )
    for message in rules.compose(rules.find(facts, Limits())):
        message.body.encode("utf-8")
        assert all(c.isprintable() for c in message.title + message.body)
        assert len(message.title) < 200
        assert len(message.body) < 2000


def test_the_digest_counts_by_type_and_severity_worst_first():
    trends = [
        {"at": 1.0, "error_type": "a", "severity": "error", "occurrences": 4},
        {"at": 2.0, "error_type": "a", "severity": "error", "occurrences": 1},
        {"at": 2.0, "error_type": "b", "severity": "critical", "occurrences": 2},
    ]
    counts = [
        {"error_type": "a", "severity": "error", "unresolved": 0},
        {"error_type": "old", "severity": "critical", "unresolved": 1},
    ]
    digest = rules.digest("2026-11-21", counts, trends, replace(FACTS, parked=7))
    assert digest.title == "Digest of 2026-11-21: 7 errors, 1 unresolved"
    assert digest.once
    assert [line.split(":")[0] for line in digest.text.splitlines()] == [
        "critical  b", "critical  old", "error     a", "Buffer",
    ]  # fmt: skip
    assert "a: 5 in the last 24 hours, 0 unresolved" in digest.text
    assert "7 entries are parked" in digest.text
    assert "No errors" in rules.digest("2026-11-21", [], [], FACTS).text


def test_the_digest_is_due_once_its_hour_has_come_in_its_zone():
    eight_utc = 1_750_060_800.0  # 2025-06-16 08:00 UTC
    assert rules.digest_day(eight_utc - 1, 8, UTC) is None
    assert rules.digest_day(eight_utc, 8, UTC) == "2025-06-16"
    assert (
        rules.digest_day(eight_utc, 23, timezone(timedelta(hours=15, minutes=30))) == "2025-06-16"
    )
    assert rules.digest_day(eight_utc, 1, timezone(timedelta(hours=17))) == "2025-06-17"
    assert rules.digest_day(eight_utc, None, UTC) is None


def test_channels_are_shown_without_their_secrets():
    urls = [
        "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ", "slack://other/secret/here",
        "json://user:pass@hooks.example.org:8080/token?+X-Key=k", "mailto://me:pass@gmail.com",
        "https://hooks.example.org/services/T/B/x", "json://[broken", "we ird://x",
    ]  # fmt: skip
    assert channel_names(urls) == [
        "slack://***", "slack://***#2", "json://hooks.example.org:8080", "mailto://gmail.com",
        "https://hooks.example.org", "json://***", "unknown://***",
    ]  # fmt: skip


def test_alert_urls_come_as_one_string_or_a_list_and_are_never_shown(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("SURGETANK_ALERT_URLS", " json://a/secret1\n slack://b/secret2,secret3 ")
    settings = load_settings()
    assert [url.get_secret_value() for url in settings.alert_urls] == [
        "json://a/secret1", "slack://b/secret2,secret3",
    ]  # fmt: skip
    shown = repr(settings) + settings.model_dump_json()
    assert not any(word in shown for word in ("secret1", "secret2", "secret3"))
    assert len(load_settings(alert_urls=["json://a", "json://b"]).alert_urls) == 2
    with pytest.raises(ConfigurationError, match="Number 2") as caught:
        open_channels(["json://a", "secret-without-a-scheme"])
    assert "secret-without" not in str(caught.value)
    with pytest.raises(ConfigurationError) as caught:
        load_settings(alert_urls=[{"secret": 1}])
    assert "secret" not in str(caught.value)


def test_urls_without_apprise_name_the_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert open_channels([]) == []
    with pytest.raises(MissingExtra, match=r"surgetank\[alerts\]"):
        open_channels(["json://a"])
