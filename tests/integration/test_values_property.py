"""Random values and names through the whole of it: put, read hot, flush, read cold. Equal, or
refused by place."""

from __future__ import annotations

from itertools import count
from random import Random
from typing import Any

import psycopg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.types.json import Jsonb

from support.savers import checkpoint, config, put
from support.values import TEXT, VALUES, same
from surgetank import EntryRejected, Surgetank
from surgetank.encode.sanitize import dumps_jsonb, sanitize_for_json

RELAXED = settings(
    deadline=None,
    suppress_health_check=list(HealthCheck),
    max_examples=60,
    derandomize=False,
    database=None,
)
_THREADS = count()


@RELAXED
@given(values=st.lists(VALUES, min_size=1, max_size=5))
def test_what_is_put_comes_back_the_same_hot_and_cold_or_is_refused_by_name(
    tank: Surgetank, values: list[Any]
) -> None:
    saver, thread = tank.checkpointer(), f"values-{next(_THREADS)}"
    kept: dict[str, Any] = {}
    refusals: list[tuple[str, EntryRejected]] = []
    for number, value in enumerate(values):
        name = f"v{number}"
        try:
            put(saver, f"{thread}-alone", {name: value}, about=value)
        except EntryRejected as error:
            refusals.append((name, error))
        else:
            kept[name] = value
    for name, refused in refusals:
        assert refused.path.startswith(("$.metadata.about", f"$.channel_values.{name}")), refused
        assert refused.partition == f"{thread}-alone"
    made = put(saver, thread, kept)
    saver.put_writes(made, list(kept.items()), "task")
    for _ in ("hot", "cold"):
        found = saver.get_tuple(made)
        assert found is not None
        assert same(found.checkpoint["channel_values"], kept)
        assert same([w[2] for w in found.pending_writes or []], list(kept.values()))
        job = tank.flush()
        assert job.ok, job.result


@RELAXED
@given(value=VALUES)
def test_postgresql_takes_as_jsonb_whatever_sanitize_made(postgres_url: str, value: Any) -> None:
    with psycopg.connect(postgres_url) as connection:
        for clean in (Jsonb(sanitize_for_json(value)), Jsonb(dumps_jsonb(value)[0], dumps=bytes)):
            row = connection.execute("SELECT jsonb_typeof(%s::jsonb)", (clean,)).fetchone()
            assert row is not None


# What can't be compressed, as long as it may be.
LONG = st.sampled_from([900, 1300, 2048]).map(
    lambda size: "".join(
        Random(size).choices(
            "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789", k=size
        )
    )
)
NAMES = (
    TEXT
    | LONG
    | st.text(max_size=40)
    | st.sampled_from(["", "/", "..", "é", "e\u0301", "%s", "'; --", "|", ":", "\n"])
)


@RELAXED
@given(
    thread=NAMES,
    ns=NAMES,
    checkpoint_id=NAMES,
    task=NAMES,
    path=NAMES,
    channel=NAMES,
    run=NAMES,
    parent=NAMES,
)
def test_a_name_is_refused_or_leads_back_to_what_was_put(
    tank: Surgetank,
    thread: str, ns: str, checkpoint_id: str, task: str, path: str, channel: str, run: str, parent: str,
) -> None:  # fmt: skip
    saver, thread = tank.checkpointer(), f"{thread}{next(_THREADS)}"[-2048:]
    made = {**checkpoint({channel: (1,)}, {channel: "1"}), "id": checkpoint_id}
    try:
        at = saver.put(config(thread, ns, parent), made, {"step": 1, "run_id": run}, {channel: "1"})  # type: ignore[arg-type]
        saver.put_writes(at, [(channel, {1})], task, path)
    except EntryRejected:
        assert tank.flush().ok
        return
    for _ in ("hot", "cold"):
        for by in (at, config(thread, ns)):
            found = saver.get_tuple(by)
            assert found is not None
            assert found.checkpoint["id"] == checkpoint_id
            assert found.checkpoint["channel_values"] == {channel: (1,)}
            assert found.pending_writes == [(task, channel, {1})]
        assert [t.config for t in saver.list({"configurable": {"thread_id": thread}})] == [at]
        job = tank.flush()
        assert job.ok, job.result
