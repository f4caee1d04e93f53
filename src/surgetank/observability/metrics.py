"""Prometheus metrics of an engine: gauges are read from buffer and event log at scrape, counters
from its `Meters`.

Gauges speak of the buffer and are the same in every process on it; counters count what this process
did. `METRICS` is the whole list, and docs/reference/metrics.md says what each means. No label ever
holds a thread or an id.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from itertools import accumulate, product
from typing import TYPE_CHECKING, Any

from surgetank.app.surgetank import Surgetank
from surgetank.events.types import Severity
from surgetank.exceptions import MissingExtra, SurgetankError
from surgetank.flush.breaker import BreakerState
from surgetank.flush.meters import Durations
from surgetank.model import FailureKind
from surgetank.observability.run_metrics import RUN_METRICS, read_run_meters, read_runs
from surgetank.observability.specs import Spec, Value, from_zero

if TYPE_CHECKING:
    from prometheus_client.core import Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


METRICS: Mapping[str, Spec] = {
    "surgetank_info": Spec("gauge", "1, with the version.", ("version",)),
    "surgetank_buffer_entries": Spec("gauge", "Entries that wait to be flushed.", ("stream",)),
    "surgetank_buffer_bytes": Spec("gauge", "Bytes that wait to be flushed.", ("stream",)),
    "surgetank_buffer_oldest_age_seconds": Spec(
        "gauge", "Age of the oldest entry that waits.", ("stream",)
    ),
    "surgetank_buffer_partitions": Spec(
        "gauge", "Partitions that have entries waiting.", ("stream",)
    ),
    "surgetank_buffer_failing_partitions": Spec(
        "gauge", "Partitions whose last flush failed.", ("stream",)
    ),
    "surgetank_parked_entries": Spec(
        "gauge", "Entries that the sink refused and that are kept.", ("stream",)
    ),
    "surgetank_buffer_used_bytes": Spec(
        "gauge", "Bytes in the buffer that count against its limit."
    ),
    "surgetank_buffer_used_entries": Spec(
        "gauge", "Entries in the buffer that count against its limit."
    ),
    "surgetank_buffer_limit_bytes": Spec("gauge", "Most bytes that may wait in the buffer."),
    "surgetank_buffer_limit_entries": Spec("gauge", "Most entries that may wait in the buffer."),
    "surgetank_buffer_file_bytes": Spec("gauge", "Size of the buffer's file."),
    "surgetank_buffer_memory_bytes": Spec(
        "gauge", "Memory that the server of the buffer uses, by all who use it."
    ),
    "surgetank_breaker_state": Spec(
        "gauge",
        "1 for the state that the sink's breaker is in, in this process.",
        ("stream", "state"),
    ),
    "surgetank_incidents": Spec(
        "gauge", "Incidents that users have been told of and that last.", ("severity",)
    ),
    "surgetank_event_log_bytes": Spec("gauge", "Size of the event log's file."),
    "surgetank_event_log_last_id": Spec("gauge", "Number of the newest run event."),
    "surgetank_event_subscribers": Spec(
        "gauge", "Who follows live events of this process now.", ("transport",)
    ),
    "surgetank_alerts_waiting": Spec("gauge", "Alerts that wait to be delivered.", ("channel",)),
    "surgetank_alert_channel_failing": Spec(
        "gauge", "1 when the last delivery failed.", ("channel",)
    ),
    "surgetank_scrape_problem": Spec(
        "gauge", "1 when a part could not be read for this scrape.", ("part",)
    ),
    "surgetank_flush_jobs_total": Spec("counter", "Flush jobs that ended.", ("stream", "status")),
    "surgetank_flush_seconds": Spec("histogram", "How long flush jobs took.", ("stream",)),
    "surgetank_flushed_entries_total": Spec("counter", "Entries that were flushed.", ("stream",)),
    "surgetank_flushed_rows_total": Spec("counter", "Rows that were written.", ("stream",)),
    "surgetank_flushed_bytes_total": Spec("counter", "Bytes that were written.", ("stream",)),
    "surgetank_flush_failures_total": Spec(
        "counter", "Flushes of a partition that failed.", ("stream", "kind")
    ),
    "surgetank_flush_retries_total": Spec(
        "counter", "Flushes of a partition that had failed before.", ("stream", "outcome")
    ),
    "surgetank_entries_parked_total": Spec("counter", "Entries that were set aside.", ("stream",)),
    "surgetank_values_replaced_total": Spec(
        "counter", "Values replaced in JSON projections.", ("stream",)
    ),
    "surgetank_notifications_total": Spec(
        "counter", "News told, by channel.", ("channel", "outcome")
    ),
    "surgetank_alerts_total": Spec("counter", "Alerts raised by this process.", ("rule",)),
    "surgetank_alert_deliveries_total": Spec(
        "counter", "Attempts of this process to deliver an alert.", ("channel", "outcome")
    ),
    **RUN_METRICS,
}

# What `Meters` counts, the metric it becomes, and the values that its label beside `stream` can
# have.
_COUNTS: Mapping[str, tuple[str, Sequence[Sequence[str]]]] = {
    "jobs": ("surgetank_flush_jobs_total", [("completed", "warnings", "failed")]),
    "entries": ("surgetank_flushed_entries_total", []),
    "rows": ("surgetank_flushed_rows_total", []),
    "bytes": ("surgetank_flushed_bytes_total", []),
    "failures": ("surgetank_flush_failures_total", [[kind.value for kind in FailureKind]]),
    "retries": ("surgetank_flush_retries_total", [("succeeded", "failed")]),
    "parked": ("surgetank_entries_parked_total", []),
    "replaced": ("surgetank_values_replaced_total", []),
}


def render(tank: Surgetank) -> bytes:
    """All metrics in Prometheus' text format (`CONTENT_TYPE`). Raises `MissingExtra` without
    prometheus-client.

    What can't be read just now is left out and counted in `surgetank_scrape_problem`.
    """
    try:
        from prometheus_client import CollectorRegistry, generate_latest  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise MissingExtra("prometheus-client", "metrics", "The metrics") from error
    registry = CollectorRegistry(auto_describe=False)
    registry.register(TankCollector(tank))  # type: ignore[arg-type, unused-ignore]
    return generate_latest(registry)


def samples(tank: Surgetank) -> list[dict[str, Any]]:
    """The same as plain values: name, labels and value of each sample. Raises as `render`."""
    text = render(tank).decode()
    from prometheus_client.parser import text_string_to_metric_families  # noqa: PLC0415 - an extra

    return [
        {"name": sample.name, "labels": sample.labels, "value": sample.value}
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]


class TankCollector:
    """A collector for a Prometheus registry of your own:
    `REGISTRY.register(TankCollector(tank))`."""

    def __init__(self, tank: Surgetank) -> None:
        self._tank = tank

    def describe(self) -> Iterable[Metric]:
        """Every metric without values, so that registering reads nothing."""
        return [_family(name, ()) for name in METRICS]

    def collect(self) -> Iterator[Metric]:
        """Every metric, in the order of `METRICS`."""
        values, problems = _read(self._tank)
        values["surgetank_scrape_problem"] = [((part,), float(part in problems)) for part in _PARTS]
        for name in METRICS:
            yield _family(name, values.get(name, ()))


def _read(tank: Surgetank) -> tuple[dict[str, Sequence[Any]], set[str]]:
    values: dict[str, Sequence[Any]] = {"surgetank_info": [((version("surgetank"),), 1.0)]}
    problems: set[str] = set()
    for part, read in _PARTS.items():
        try:
            values |= read(tank)
        except (
            SurgetankError,
            OSError,
        ):  # counted in surgetank_scrape_problem: the other parts are still told
            problems.add(part)
    return values, problems


def _buffer(tank: Surgetank) -> dict[str, Sequence[Value]]:
    depth, now = tank.buffer.depth(), tank.now()
    found = {stream.stream: stream for stream in depth.streams}
    names = list(dict.fromkeys([*tank.streams, *found]))

    def of(pick: Callable[[Any], float]) -> list[Value]:
        return [((name,), float(pick(found[name])) if name in found else 0.0) for name in names]

    return {
        "surgetank_buffer_entries": of(lambda s: s.entries),
        "surgetank_buffer_bytes": of(lambda s: s.bytes),
        "surgetank_buffer_oldest_age_seconds": of(
            lambda s: max(0.0, now - s.oldest_at) if s.entries and s.oldest_at is not None else 0.0
        ),
        "surgetank_buffer_partitions": of(lambda s: s.partitions),
        "surgetank_buffer_failing_partitions": of(lambda s: s.failing),
        "surgetank_parked_entries": of(lambda s: s.parked),
        "surgetank_buffer_used_bytes": [((), depth.bytes)],
        "surgetank_buffer_used_entries": [((), depth.entries)],
        "surgetank_buffer_limit_bytes": [((), depth.max_bytes)],
        "surgetank_buffer_limit_entries": [((), depth.max_entries)],
        "surgetank_buffer_file_bytes": [((), depth.file_bytes)],
        "surgetank_buffer_memory_bytes": [((), depth.memory_bytes)],
    }


def _events(tank: Surgetank) -> dict[str, Sequence[Value]]:
    lasting = Counter(incident.severity for incident in tank.events.incidents())
    return {
        "surgetank_incidents": [
            ((s.value,), lasting[s]) for s in (Severity.WARNING, Severity.CRITICAL)
        ],
        "surgetank_event_log_bytes": [((), tank.events.size_bytes())],
        "surgetank_event_log_last_id": [((), tank.events.last_id())],
    }


def _breakers(tank: Surgetank) -> dict[str, Sequence[Value]]:
    return {
        "surgetank_breaker_state": [
            ((stream, state.value), float(now is state))
            for stream, now in tank.breakers().items()
            for state in BreakerState
        ]
    }


def _alerts(tank: Surgetank) -> dict[str, Sequence[Value]]:
    alerts = tank.alerts
    channels = [state for state in alerts.channel_states() if state.configured]
    return {
        "surgetank_alerts_waiting": [((c.channel,), c.waiting) for c in channels],
        "surgetank_alert_channel_failing": [
            ((c.channel,), float(c.failing_since is not None)) for c in channels
        ],
        "surgetank_alerts_total": from_zero(
            [(rule,) for rule in alerts.rules], {(rule,): n for rule, n in alerts.sent().items()}
        ),
        "surgetank_alert_deliveries_total": _outcomes(alerts.channels, alerts.deliveries()),
    }


def _notified(tank: Surgetank) -> dict[str, Sequence[Value]]:
    to = tank.notifications
    return {"surgetank_notifications_total": _outcomes(to.channels, to.deliveries())}


def _meters(tank: Surgetank) -> dict[str, Sequence[Any]]:
    counts, durations, subscribers = tank.meters.snapshot()
    values: dict[str, Sequence[Any]] = {
        "surgetank_flush_seconds": [
            ((stream,), taken)
            for stream, taken in sorted(
                {**{s: Durations() for s in tank.streams}, **durations}.items()
            )
        ],
        "surgetank_event_subscribers": [((name,), n) for name, n in subscribers.items()],
    }
    for what, (name, seconds) in _COUNTS.items():
        expected = [(stream, *more) for stream in tank.streams for more in product(*seconds)]
        found = {
            labels: n
            for (kind, *rest), n in counts.items()
            if kind == what and (labels := tuple(rest))
        }
        values[name] = from_zero(expected, found)
    return values


_PARTS: Mapping[str, Callable[[Surgetank], dict[str, Sequence[Any]]]] = {
    "buffer": _buffer,
    "events": _events,
    "breakers": _breakers,
    "alerts": _alerts,
    "notifier": _notified,
    "meters": _meters,
    "runs": read_runs,
    "run_meters": read_run_meters,
}


def _outcomes(names: Iterable[str], counts: Mapping[tuple[str, bool], int]) -> list[Value]:
    outcomes = {True: "ok", False: "failed"}
    return from_zero(
        product(names, outcomes.values()),
        {(name, outcomes[ok]): n for (name, ok), n in counts.items()},
    )


def _family(name: str, values: Sequence[Any]) -> Metric:
    from prometheus_client import core  # noqa: PLC0415 - an extra

    spec = METRICS[name]
    if spec.kind == "histogram":
        histogram = core.HistogramMetricFamily(name, spec.help, labels=spec.labels)
        for labels, taken in values:
            bounds = [*map(str, taken.bounds), "+Inf"]
            buckets = list(zip(bounds, map(float, accumulate(taken.counts)), strict=True))
            histogram.add_metric(labels, buckets, taken.total_s)
        return histogram
    make = core.CounterMetricFamily if spec.kind == "counter" else core.GaugeMetricFamily
    family = make(name, spec.help, labels=spec.labels)
    for labels, value in values:
        family.add_metric(labels, value)
    return family
