"""The metrics of a real engine: what a scrape says after flushes, failures, parked entries and an
outage."""

from __future__ import annotations

import json
import math
import os
import re
import sys
from pathlib import Path

import psycopg
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from support.commands import run_command
from support.postgres import PostgresServer
from support.savers import put, put_chain
from support.tanks import MakeTank
from support.webhook import SECRET, running_webhook
from surgetank import MissingExtra, Surgetank
from surgetank.exceptions import BufferUnavailable
from surgetank.observability.metrics import METRICS, TankCollector, render

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scrape(tank: Surgetank) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(render(tank).decode())
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples.get((name, frozenset(labels.items())), 0.0)


def refuse_step(url: str, step: int) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            f"ALTER TABLE surgetank.checkpoints ADD CONSTRAINT refuse CHECK (metadata ->> 'step' "
            f"<> '{step}')"
        )


def test_what_waits_and_what_was_flushed(tank: Surgetank):
    put_chain(tank.checkpointer(), "t1", 3)
    put_chain(tank.checkpointer(), "t2", 3)
    before = scrape(tank)
    assert value(before, "surgetank_buffer_partitions", stream="checkpoints") == 2
    waiting = value(before, "surgetank_buffer_entries", stream="checkpoints")
    assert (
        waiting
        == value(before, "surgetank_buffer_used_entries")
        == tank.parts.buffer.depth().entries
        > 0
    )
    assert value(before, "surgetank_buffer_bytes", stream="checkpoints") > 0
    assert value(before, "surgetank_buffer_oldest_age_seconds", stream="checkpoints") > 0
    assert value(before, "surgetank_buffer_limit_bytes") == tank.settings.buffer_max_bytes
    for labels in (
        {"stream": "checkpoints", "status": "failed"},
        {"stream": "thread_logs", "status": "warnings"},
    ):
        # A counter that would only appear with its first failure hides that failure from
        # `increase()`.
        assert before["surgetank_flush_jobs_total", frozenset(labels.items())] == 0
    job = tank.flush()
    after = scrape(tank)
    assert value(after, "surgetank_buffer_entries", stream="checkpoints") == 0
    assert value(after, "surgetank_buffer_oldest_age_seconds", stream="checkpoints") == 0
    assert value(after, "surgetank_flush_jobs_total", stream="checkpoints", status="completed") == 1
    assert value(after, "surgetank_flushed_entries_total", stream="checkpoints") == waiting
    assert (
        value(after, "surgetank_flushed_rows_total", stream="checkpoints")
        == job.result["rows_flushed"]
        > 0
    )
    assert (
        value(after, "surgetank_flushed_bytes_total", stream="checkpoints")
        == job.result["bytes"]
        > 0
    )
    assert value(after, "surgetank_flush_seconds_count", stream="checkpoints") == 1
    assert value(after, "surgetank_flush_seconds_bucket", stream="checkpoints", le="+Inf") == 1
    assert math.isclose(
        value(after, "surgetank_flush_seconds_sum", stream="checkpoints"), job.result["seconds"]
    )
    assert value(after, "surgetank_breaker_state", stream="checkpoints", state="closed") == 1
    tank.broadcast_run_event("tick", thread_id="t1")
    tank.meters.subscribers("sse", 1)
    told = scrape(tank)
    assert (
        value(told, "surgetank_event_log_last_id")
        == value(after, "surgetank_event_log_last_id") + 1
    )
    assert value(told, "surgetank_event_log_bytes") > 0
    assert value(told, "surgetank_event_subscribers", transport="sse") == 1
    assert value(told, "surgetank_event_subscribers", transport="websocket") == 0


def test_failures_retries_parked_and_replaced_are_counted(tank: Surgetank, database_url: str):
    saver = tank.checkpointer()
    put_chain(saver, "t", 4)
    put(saver, "odd", {"measured": math.nan})
    refuse_step(database_url, 2)
    job = tank.flush()
    samples = scrape(tank)
    assert value(samples, "surgetank_parked_entries", stream="checkpoints") == 1
    assert value(samples, "surgetank_entries_parked_total", stream="checkpoints") == 1
    assert (
        value(samples, "surgetank_flush_jobs_total", stream="checkpoints", status="warnings") == 1
    )
    replaced = value(samples, "surgetank_values_replaced_total", stream="checkpoints")
    assert replaced == job.result["values_replaced"] > 0
    assert value(samples, "surgetank_incidents", severity="critical") == 1
    assert (
        value(samples, "surgetank_notifications_total", channel="system_errors", outcome="ok") >= 1
    )


def test_an_outage_shows_in_breaker_failures_and_retries(
    make_tank: MakeTank, private_postgres: PostgresServer
):
    tank = make_tank(database_url=private_postgres.url_of(private_postgres.create_database()))
    put_chain(tank.checkpointer(), "t", 2)
    tank.flush()
    private_postgres.kill()
    put_chain(tank.checkpointer(), "u", 2)
    for _ in range(3):
        assert not tank.flush("checkpoints").ok
    down = scrape(tank)
    assert (
        value(down, "surgetank_flush_failures_total", stream="checkpoints", kind="transient") == 3
    )
    assert value(down, "surgetank_flush_retries_total", stream="checkpoints", outcome="failed") == 2
    assert value(down, "surgetank_flush_jobs_total", stream="checkpoints", status="failed") == 3
    assert value(down, "surgetank_breaker_state", stream="checkpoints", state="closed") == 0
    assert value(down, "surgetank_buffer_failing_partitions", stream="checkpoints") == 1
    assert value(down, "surgetank_incidents", severity="warning") == 1
    private_postgres.start()
    assert tank.flush("checkpoints").ok
    up = scrape(tank)
    assert (
        value(up, "surgetank_flush_retries_total", stream="checkpoints", outcome="succeeded") == 1
    )
    assert value(up, "surgetank_breaker_state", stream="checkpoints", state="closed") == 1
    assert value(up, "surgetank_incidents", severity="warning") == 0


def test_alerts_are_counted_by_rule_and_redacted_channel(make_tank: MakeTank):
    with running_webhook() as webhook:
        webhook.status = 500
        tank = make_tank(alert_urls=[webhook.url])
        tank.log_system_error("hot", "hot", severity="critical")
        tank.parts.reporting.alerts.check()
        tank.parts.reporting.alerts.deliver()
        samples = scrape(tank)
        assert value(samples, "surgetank_alerts_total", rule="critical_errors") == 1
        assert value(samples, "surgetank_alerts_waiting", channel=webhook.name) == 1
        assert value(samples, "surgetank_alert_channel_failing", channel=webhook.name) == 1
        counted = value(
            samples, "surgetank_alert_deliveries_total", channel=webhook.name, outcome="failed"
        )
        assert counted == 1
        assert SECRET not in render(tank).decode()


def test_every_metric_is_told_and_none_has_an_unbounded_label(tank: Surgetank):
    for n in range(50):
        put_chain(tank.checkpointer(), f"thread-{n}", 1)
        tank.emit_log("line", thread_id=f"thread-{n}")
        tank.log_system_error("odd", "odd", thread_id=f"thread-{n}")
    tank.flush()
    text = render(tank).decode()
    assert "thread-" not in text
    told = dict(re.findall(r"^# TYPE (\S+) (\w+)$", text, re.MULTILINE))
    assert told == {name: spec.kind for name, spec in METRICS.items()}
    assert len(text.splitlines()) < 400


def test_a_part_that_cannot_be_read_is_told_and_the_rest_still_comes(
    tank: Surgetank, monkeypatch: pytest.MonkeyPatch
):
    def broken() -> None:
        raise BufferUnavailable("The disk is gone.")

    monkeypatch.setattr(tank.parts.buffer, "depth", broken)
    samples = scrape(tank)
    assert value(samples, "surgetank_scrape_problem", part="buffer") == 1
    assert value(samples, "surgetank_scrape_problem", part="events") == 0
    assert ("surgetank_event_log_last_id", frozenset()) in samples
    assert ("surgetank_buffer_used_bytes", frozenset()) not in samples


def test_it_stands_beside_an_application_s_own_metrics(tank: Surgetank):
    registry = CollectorRegistry()
    registry.register(TankCollector(tank))
    assert registry.get_sample_value("surgetank_buffer_used_entries") == 0


def test_without_prometheus_client_the_extra_is_named(
    tank: Surgetank, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(MissingExtra, match=r"surgetank\[metrics\]"):
        render(tank)


def test_the_command_line_prints_them(tank: Surgetank, database_url: str, tmp_path: Path):
    put_chain(tank.checkpointer(), "t", 3)

    def cli(*arguments: str) -> str:
        done = run_command(
            ("metrics", *arguments),
            {
                **os.environ,
                "SURGETANK_HOME": str(tmp_path / "home"),
                "SURGETANK_DATABASE_URL": database_url,
            },
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    waiting = float(tank.parts.buffer.depth().entries)
    assert f'surgetank_buffer_entries{{stream="checkpoints"}} {waiting}' in cli()
    sample = {
        "name": "surgetank_buffer_entries",
        "labels": {"stream": "checkpoints"},
        "value": waiting,
    }
    assert sample in json.loads(cli("--json"))
