"""What is accepted arrives, what PostgreSQL would refuse is refused at the door by a named error:
every argument of every accepting function, with values of the worst kinds, against a real server.
"""

from __future__ import annotations

import itertools
import math
import random
import uuid
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

from support.savers import checkpoint, config, put
from surgetank import Surgetank, SurgetankError
from surgetank.streams.errors.answers import ErrorFilter
from surgetank.streams.errors.groups import ErrorReport

LETTERS = random.Random(7)


def noise(length: int) -> str:
    """Text that no index can compress."""
    return "".join(
        LETTERS.choices("abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ", k=length)
    )


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("no text for you")

    __repr__ = __str__


HOSTILE: dict[str, Any] = {
    "two thousand bytes": noise(2000), "three thousand bytes": noise(3000), "six thousand bytes": noise(6000),
    "two thousand signs of three bytes": "".join(chr(0x4E00 + LETTERS.randrange(20000)) for _ in range(2000)),
    "a NUL": "a\x00b", "a lone surrogate": "a\ud800b", "empty": "", "a number": 7, "a large number": 10**400,
    "a float": 1e300, "nan": math.nan, "infinity": math.inf, "a dict": {"a": 1},
    "a long dict": {noise(90): noise(3000)},
    "a list of large floats": [1e300] * 30, "bytes": b"\x00\xff", "none": None, "a uuid": uuid.UUID(int=5),
    "true": True, "unprintable": Unprintable(),
}  # fmt: skip


def everything_arrives(tank: Surgetank) -> None:
    """All that was accepted is in the database: nothing waits, nothing was parked."""
    job = tank.flush()
    assert tank.parked() == [], [(e.partition[:40], e.failure.message[:200]) for e in tank.parked()]
    assert job.ok, job.result
    assert tank.parts.buffer.depth().entries == 0


def tried(
    tank: Surgetank, name: str, act: Callable[[Any], Any], *, also: tuple[type[Exception], ...] = ()
) -> None:
    """Do it with each hostile value; only the family's errors may come."""
    for kind, value in HOSTILE.items():
        problem: SurgetankError | None = None
        try:
            act(value)
        except SurgetankError as error:
            problem = error
        except RuntimeError as error:
            if "no text for you" not in str(error):  # the value's own
                raise
        except also:
            pass
        except Exception as error:
            raise AssertionError(
                f"{name} with {kind} raises {type(error).__name__}: {error}"
            ) from error
        if problem is not None:
            assert problem.remedy, (name, kind, problem)
            str(problem).encode()


def test_put_accepts_only_what_arrives(tank: Surgetank):
    saver = tank.checkpointer()
    tried(tank, "thread_id", lambda v: put(saver, v, {"n": 1}))
    tried(tank, "ns", lambda v: put(saver, "t", {"n": 1}, ns=v))
    tried(tank, "user_id in metadata", lambda v: put(saver, "t", {"n": 1}, user_id=v))
    tried(tank, "run_id", lambda v: put(saver, "t", {"n": 1}, run_id=v))
    tried(tank, "any metadata", lambda v: put(saver, "t", {"n": 1}, other=v))
    tried(
        tank,
        "parent",
        lambda v: put(saver, "t", {"n": 1}, parent={"configurable": {"checkpoint_id": v}}),
    )
    tried(tank, "a value", lambda v: put(saver, "t", {"n": v}))

    def user_in_config(value: Any) -> None:
        made = checkpoint({"n": 1})
        where = config("t")
        where["configurable"]["user_id"] = value
        saver.put(where, made, {"source": "loop", "step": 0}, {"n": 1})

    def checkpoint_id(value: Any) -> None:
        made = checkpoint({"n": 1})
        made["id"] = value
        saver.put(config("t"), made, {"source": "loop", "step": 0}, {"n": 1})

    def channel(value: Any) -> None:
        made = checkpoint({value: 1})
        saver.put(config("t"), made, {"source": "loop", "step": 0}, {value: 1})

    def version(value: Any) -> None:
        made = checkpoint({"n": 1}, {"n": value})
        saver.put(config("t"), made, {"source": "loop", "step": 0}, {"n": value})

    tried(tank, "user_id in config", user_in_config)
    tried(tank, "checkpoint id", checkpoint_id)
    tried(tank, "channel", channel, also=(TypeError,))  # a dict is no key of a dict
    tried(tank, "version", version)
    everything_arrives(tank)


def test_names_that_are_long_together_are_refused_or_arrive(tank: Surgetank):
    saver = tank.checkpointer()
    for lengths in itertools.product(
        (10, 1000, 2000), (0, 1000, 2000), (10, 1000, 2000), (10, 1000, 2000)
    ):
        thread, ns, id_, task = map(noise, lengths)
        made = checkpoint({"n": 1})
        made["id"] = id_
        with suppress(SurgetankError):  # refused
            at = saver.put(config(thread, ns), made, {"source": "loop", "step": 0}, {"n": 1})
            saver.put_writes(at, [("n", 1)], task, noise(1000))
    everything_arrives(tank)


def test_put_writes_and_deletions_accept_only_what_arrives(tank: Surgetank):
    saver = tank.checkpointer()
    at = put(saver, "t", {"n": 1})
    tried(tank, "task id", lambda v: saver.put_writes(at, [("n", 1)], v))
    tried(tank, "task path", lambda v: saver.put_writes(at, [("n", 1)], "task", v))
    tried(tank, "channel", lambda v: saver.put_writes(at, [(v, 1)], "task"))
    tried(tank, "value", lambda v: saver.put_writes(at, [("n", v)], "task"))
    tried(tank, "checkpoint id", lambda v: saver.put_writes(config("t", "", v), [("n", 1)], "task"))
    tried(tank, "delete_thread", saver.delete_thread)
    tried(tank, "copy_thread", lambda v: saver.copy_thread("t", v))
    tried(tank, "copy_thread from", lambda v: saver.copy_thread(v, "t2"))
    tried(tank, "prune", lambda v: saver.prune([v]))
    tried(tank, "delete_for_runs", lambda v: saver.delete_for_runs([v]))
    everything_arrives(tank)


def test_emit_log_accepts_only_what_arrives(tank: Surgetank):
    tried(tank, "message", lambda v: tank.emit_log(v, thread_id="t"))
    tried(tank, "thread_id", lambda v: tank.emit_log("m", thread_id=v))
    tried(tank, "user_id", lambda v: tank.emit_log("m", thread_id="t", user_id=v))
    tried(tank, "logger", lambda v: tank.emit_log("m", thread_id="t", logger=v))
    tried(tank, "level", lambda v: tank.emit_log("m", thread_id="t", level=v))
    tried(tank, "fields", lambda v: tank.emit_log("m", thread_id="t", fields=v))
    tried(tank, "a field", lambda v: tank.emit_log("m", thread_id="t", other=v))
    everything_arrives(tank)


def test_events_accept_only_what_can_be_told(tank: Surgetank):
    tried(tank, "type", lambda v: tank.broadcast_run_event(v, thread_id="t"))
    tried(tank, "thread_id", lambda v: tank.broadcast_run_event("step", thread_id=v))
    tried(tank, "a field", lambda v: tank.broadcast_run_event("step", thread_id="t", body=v))
    assert tank.events.tail(0)[1]


def test_log_system_error_accepts_only_what_arrives(tank: Surgetank):
    tried(tank, "error_type", lambda v: tank.log_system_error(v, "m"))
    tried(tank, "message", lambda v: tank.log_system_error("app", v))
    tried(tank, "severity", lambda v: tank.log_system_error("app", "m", severity=v))
    tried(tank, "thread_id", lambda v: tank.log_system_error("app", "m", thread_id=v))
    tried(tank, "stack_trace", lambda v: tank.log_system_error("app", "m", stack_trace=v))
    tried(tank, "error", lambda v: tank.log_system_error("app", "m", error=v))
    tried(tank, "context", lambda v: tank.log_system_error("app", "m", context=v))
    tried(tank, "a value", lambda v: tank.log_system_error("app", "m", context={"a": v}))
    tried(tank, "fingerprint", lambda v: tank.errors.report(ErrorReport("app", "m", fingerprint=v)))
    tried(tank, "at", lambda v: tank.errors.report(ErrorReport("app", "m", at=v)))
    everything_arrives(tank)
    assert tank.errors.find().problem is None


def test_readers_answer_or_refuse_by_name(tank: Surgetank):
    asked = {"thread_id": "t", "checkpoint_ns": ""}
    saver = tank.checkpointer()

    def found_by(name: str, value: Any) -> object:
        return tank.errors.find(ErrorFilter(**{name: value}))

    def got_by(name: str, value: Any) -> object:
        return saver.get_tuple({"configurable": {**asked, name: value}})

    def listed_by(name: str, value: Any) -> object:
        return list(saver.list({"configurable": {**asked, name: value}}))

    tried(tank, "logs", tank.logs)
    for name in ("error_type", "severity", "thread_id", "since", "until", "text"):
        tried(tank, name, partial(found_by, name))
    for name in ("thread_id", "checkpoint_ns", "checkpoint_id"):
        tried(tank, name, partial(got_by, name))
        tried(tank, name, partial(listed_by, name))
    tried(tank, "before", lambda v: list(saver.list(config("t"), before=config("t", "", v))))
    tried(tank, "filter", lambda v: list(saver.list(config("t"), filter={"source": v})))
    tried(tank, "filter", lambda v: list(saver.list(config("t"), filter={v: 1})), also=(TypeError,))
    tried(tank, "storage", lambda v: tank.storage(thread=v))
    tried(tank, "job", tank.jobs.get)
    tried(tank, "flush", lambda v: tank.flush(partition=v))


def test_actions_on_errors_accept_only_what_arrives(tank: Surgetank):
    made = itertools.count()

    def on_new(kind: str, actor: Any = "me", **more: Any) -> None:
        error_id = tank.log_system_error(f"app{next(made)}", "m")
        tank.errors.act(error_id, kind, actor, **more)

    tried(tank, "actor", lambda v: on_new("resolve", v))
    tried(tank, "notes", lambda v: on_new("resolve", notes=v))
    tried(tank, "until", lambda v: on_new("snooze", until=v))
    tried(tank, "kind", on_new)
    tried(tank, "id", lambda v: tank.errors.act(v, "resolve", "me"))
    everything_arrives(tank)


@pytest.mark.parametrize("size", [2048, 2049])
def test_the_limit_of_a_user_id_is_told_by_name(tank: Surgetank, size: int):
    saver = tank.checkpointer()
    if size <= 2048:
        put(saver, "t", {"n": 1}, user_id=noise(size))
    else:
        with pytest.raises(SurgetankError) as caught:
            put(saver, "t", {"n": 1}, user_id=noise(size))
        assert "$.metadata.user_id" in str(caught.value)
        assert "2048" in str(caught.value)
    everything_arrives(tank)


def test_metadata_beyond_what_a_jsonb_holds_is_refused(
    tank: Surgetank, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("surgetank.encode.limits.MAX_JSON_BYTES", 10_000)
    saver = tank.checkpointer()
    with pytest.raises(SurgetankError) as caught:
        put(saver, "t", {"n": 1}, notes=["x" * 6000, "y" * 6000])
    assert "$.metadata" in str(caught.value)
    put(saver, "t", {"n": 1}, notes=["x" * 3000])
    everything_arrives(tank)


def test_an_error_s_message_and_context_have_two_names_each(tank: Surgetank):
    tank.log_system_error("one", error_message="said so", error_context={"order": 7})
    tank.log_system_error("two", "said so", context={"order": 7})
    tank.log_system_error("three", error=RuntimeError("its own words"))
    found = {group.error_type: group for group in tank.errors.find().errors}
    assert found["one"].error_message == found["two"].error_message == "said so"
    assert found["one"].error_context == found["two"].error_context == {"order": 7}
    assert "its own words" in found["three"].error_message
    pairs: list[dict[str, Any]] = [{"error_message": "b"}, {"context": {}, "error_context": {}}]
    for both in pairs:
        with pytest.raises(TypeError, match="not both"):
            tank.log_system_error("app", "a", **both)
