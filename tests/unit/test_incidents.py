"""The judgement of trouble: what is wrong, how bad it is, and what that changes. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from surgetank.events.types import Incident, Severity
from surgetank.flush.classify import classify
from surgetank.model import (
    Failure,
    FailureGroup,
    FailureKind,
    ParkedEntry,
    PartitionState,
    StreamDepth,
)
from surgetank.notify import wording
from surgetank.notify.incidents import (
    ALONE,
    Facts,
    Subject,
    Trouble,
    diff,
    is_judged,
    judge,
    streams_of,
)
from surgetank.streams.installed import STREAMS
from surgetank.streams.stream import Streams

NOW = 1000.0
STREAM_MAP = Streams(STREAMS)
DOWN = Failure(FailureKind.TRANSIENT, "connection refused", "OperationalError", sqlstate="08006")
REFUSED = Failure(FailureKind.FATAL, "no such role", "InvalidPassword", sqlstate="28000")
BROKEN = Failure(FailureKind.FATAL, "its chain is broken", "StateCorrupt", remedy="see it.")
LOCKED = Failure(FailureKind.TRANSIENT, "a lock", "LockNotAvailable", sqlstate="55P03")


def group(
    stream: str = "checkpoints", failure: Failure = DOWN, partitions: int = 3, since: float = 990.0
) -> FailureGroup:
    return FailureGroup(stream, failure, partitions, 6, 60, since, 2, 1005.0, "t0")  # fmt: skip


def state(
    partition: str, failure: Failure | None, *, stream: str = "checkpoints", since: float = 990.0
) -> PartitionState:
    return PartitionState(stream, partition, 3, 30, since, 1, 1005.0, since, failure)


def depth(stream: str, partitions: int, oldest_at: float) -> StreamDepth:
    return StreamDepth(stream, 2 * partitions, 20, partitions, oldest_at, 0, 0)


def facts(
    *,
    groups: Sequence[FailureGroup] = (),
    waiting: Sequence[StreamDepth] = (),
    down: Mapping[str, str] | None = None,
    states: Sequence[PartitionState] = (),
    parked: Sequence[ParkedEntry] = (),
    known: Sequence[str] = (),
) -> Facts:
    return Facts(
        now=NOW, critical_after_s=60.0, groups=groups, waiting=waiting, down=down or {},
        states=states, parked=parked, known=known,
    )  # fmt: skip


def judged(**known: object) -> list[Trouble]:
    return judge(facts(**known), STREAM_MAP)  # type: ignore[arg-type]


def incident(key: str, severity: Severity = Severity.WARNING, affected: int = 1) -> Incident:
    return Incident(key, "checkpoints", None, severity, 990.0, "m", affected=affected)  # fmt: skip


def test_nothing_is_wrong_when_nothing_is_known() -> None:
    assert judged() == []
    assert judged(states=[state("t", None)]) == []


def test_a_sink_that_is_away_is_one_trouble_of_all_streams_that_wait_for_it() -> None:
    (found,) = judged(groups=[group(partitions=10_000), group("thread_logs", partitions=4)])
    assert (found.key, found.subject, found.severity) == (
        "sink:database", Subject.SINK, Severity.WARNING,
    )  # fmt: skip
    assert (found.thread_id, found.partition) == (None, None)
    assert (found.affected, found.unit, found.entries) == (10_000, "thread", 12)


def test_what_waits_for_a_sink_that_is_down_counts_although_it_was_not_tried() -> None:
    waiting = [depth("checkpoints", 500, 995.0), depth("thread_logs", 700, 998.0)]
    down = {"checkpoints": "refused", "thread_logs": "refused"}
    (found,) = judged(waiting=waiting, down=down)
    assert (found.affected, found.entries, found.since) == (700, 2400, 995.0)
    assert found.failure.message == "refused"
    assert judged(waiting=[depth("checkpoints", 5, 999.5)], down=down) == [], "for a second only"
    assert judged(waiting=[depth("checkpoints", 5, 999.5)], down=down, known=["sink:database"])
    assert judged(down=down) == [], "nothing waits"


@pytest.mark.parametrize(
    ("failure", "since", "severity"),
    [
        (DOWN, 990.0, Severity.WARNING),
        (DOWN, 940.0, Severity.WARNING),
        (DOWN, 939.0, Severity.CRITICAL),
        (REFUSED, 999.0, Severity.CRITICAL),
        (DOWN, 1100.0, Severity.WARNING),  # the clock was set back
    ],
)
def test_what_passes_is_a_warning_until_it_lasts(
    failure: Failure, since: float, severity: Severity
) -> None:
    (found,) = judged(groups=[group(failure=failure, since=since)])
    assert found.severity is severity


def test_a_sink_that_refuses_is_no_outage() -> None:
    (found,) = judged(
        groups=[group(failure=REFUSED)],
        waiting=[depth("checkpoints", 9, 900.0)],
        down={"checkpoints": "no such role"},
    )
    assert (found.key, found.affected) == ("refused:database", 9)


def test_a_partition_s_own_trouble_is_told_of_it_alone() -> None:
    (found,) = judged(groups=[group(failure=BROKEN, partitions=1)], states=[state("t", BROKEN)])
    assert (found.key, found.thread_id, found.partition) == ("thread:t", "t", "t")
    assert found.subject is Subject.PARTITION
    (both,) = judged(states=[state("t", LOCKED), state("t", BROKEN, stream="thread_logs")])
    assert both.failure is BROKEN, "the gravest of a thread"


def test_many_partitions_that_fail_alike_are_one_trouble() -> None:
    few = [state(f"t{n}", LOCKED) for n in range(ALONE)]
    found = judged(groups=[group(failure=LOCKED, partitions=ALONE)], states=few)
    assert len(found) == ALONE
    (one,) = judged(groups=[group(failure=LOCKED, partitions=ALONE + 1)], states=few)
    assert (one.key, one.affected) == ("sink:database", ALONE + 1)


def test_a_stream_whose_partitions_nobody_knows_is_told_once_and_only_if_it_is_hard() -> None:
    assert judged(states=[state("hash", LOCKED, stream="system_errors")]) == []
    hard = [state(name, BROKEN, stream="system_errors") for name in ("one", "two")]
    (found,) = judged(states=hard)
    assert (found.key, found.thread_id) == ("stream:system_errors", None)


def test_a_parked_entry_is_critical_and_its_own() -> None:
    entry = ParkedEntry(7, "checkpoints", "t", 3, 10, 990.0, 995.0, BROKEN)
    (found,) = judged(parked=[entry])
    assert (found.key, found.severity, found.thread_id) == ("parked:7", Severity.CRITICAL, "t")


def changes(before: list[Incident], **known: object) -> tuple[list[str], ...]:
    seen = facts(**known)  # type: ignore[arg-type]
    found = diff(before, judge(seen, STREAM_MAP), seen, STREAM_MAP)
    return (
        [t.key for t in found.raised],
        [t.key for t in found.counted],
        [i.key for i in found.ended],
        [i.key for i in found.absorbed],
    )


def test_what_is_new_or_graver_is_raised_and_what_is_over_ends() -> None:
    assert changes([], groups=[group()]) == (["sink:database"], [], [], [])
    known = incident("sink:database", affected=3)
    assert changes([known], groups=[group()]) == ([], [], [], [])
    assert changes([known], groups=[group(partitions=5)]) == ([], ["sink:database"], [], [])
    assert changes([known], groups=[group(since=1.0)]) == (["sink:database"], [], [], [])
    assert changes([known]) == ([], [], ["sink:database"], [])
    milder = incident("sink:database", Severity.CRITICAL, affected=3)
    assert changes([milder], groups=[group()]) == ([], [], [], [])


def test_a_partition_s_incident_is_part_of_the_sink_s_when_that_goes_away() -> None:
    mine = incident("thread:t")
    assert changes([mine], groups=[group()], states=[state("t", DOWN)]) == (
        ["sink:database"], [], [], ["thread:t"],
    )  # fmt: skip
    assert changes([mine], states=[state("t", None)])[2:] == (["thread:t"], [])


def test_which_streams_wait_for_a_sink_is_known_of_its_incident() -> None:
    assert streams_of(incident("sink:database"), STREAM_MAP) == list(STREAM_MAP)
    assert streams_of(incident("sink:elsewhere"), STREAM_MAP) == []
    assert incident("refused:database").is_of_sink
    assert not incident("thread:sink").is_of_sink
    assert [is_judged(incident(key)) for key in ("fork:t", "time:buffer", "thread:t")] == [
        False, False, True,
    ]  # fmt: skip


@pytest.mark.parametrize("lasting", [False, True])
@pytest.mark.parametrize("failure", [DOWN, REFUSED, BROKEN])
@pytest.mark.parametrize("subject", [Subject.SINK, Subject.PARTITION])
def test_every_sentence_says_what_is_safe_and_nothing_of_what_the_database_said(
    subject: Subject, failure: Failure, lasting: bool
) -> None:
    trouble = Trouble(
        key="k", subject=subject, stream="checkpoints", severity=Severity.WARNING, since=1.0,
        failure=failure, label="the database", lasting=lasting, thread_id="t", entries=2,
    )  # fmt: skip
    message = wording.trouble(trouble)
    assert wording.SAFE in message
    assert failure.message not in message
    assert "you can go on working" in message or "is saved by itself" in message
    assert wording.SAFE in wording.for_operators(trouble, NOW)


def test_a_disk_that_is_full_is_not_called_a_database_that_is_away() -> None:
    trouble = Trouble(
        key="k", subject=Subject.SINK, stream="tables", severity=Severity.WARNING, since=1.0,
        failure=classify(OSError(28, "No space left on device", "tables/1/x.parquet")),
        label="the database", lasting=False, entries=2,
    )  # fmt: skip
    shown = wording.for_operators(trouble, NOW)
    assert "a file can't be written" in shown
    assert "free space there" in shown
    assert "database" not in shown
