"""Random histories against a model in memory: a saver and what must remain of all that was done to
it.

Thread `d` (and its copies) has a DeltaChannel `log`: mostly without a value of its own, rebuilt
from the writes of ancestors. `hot` marks what the buffer still holds.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from langgraph.checkpoint.base.id import uuid6

from support.chain_costs import check_chain_costs
from support.savers import checkpoint, config, ids
from surgetank import Surgetank, SurgetankSaver
from surgetank.streams.checkpoints.cold.rows import SMALL_BYTES
from surgetank.streams.checkpoints.retention.plan import Limits
from surgetank.streams.checkpoints.retention.sweep import Budget, RetentionReport

SPECIAL = ("__error__", "__interrupt__")
AGE_S = 30 * 86400.0


@dataclass
class Known:
    """What a checkpoint must look like, and where it is."""

    ns: str
    values: dict[str, Any]
    parent: str | None
    run: str
    writes: dict[tuple[str, str], Any] = field(default_factory=dict)
    delta: bool = False
    hot: bool = True
    hot_writes: bool = False
    old: bool = False


class History:
    """Does random things to a saver and to a model of it."""

    def __init__(self, tank: Surgetank, seed: int) -> None:
        self.tank = tank
        self.saver: SurgetankSaver = tank.checkpointer()
        self.random = random.Random(seed)
        self.model: dict[str, dict[str, Known]] = {}
        self.copies = 0

    def step(self) -> None:
        actions = [self.put] * 12 + [self.write] * 6 + [self.flush] * 3 + [self.flush_one] * 2
        actions += [self.prune, self.retain, self.retain, self.sweep, self.shrink, self.grow_old]
        actions += [
            self.delete_thread,
            self.delete_run,
            self.copy,
            self.check_some,
            self.check_some,
        ]
        self.random.choice(actions)()

    # -- writing

    def put(self) -> None:
        thread, ns = self.random.choice("abcd"), self.random.choice(("", "", "sub:1"))
        known = self.model.setdefault(thread, {})
        candidates = [cid for cid, k in known.items() if k.ns == ns]
        parent = self.random.choice([*candidates[-3:], None]) if candidates else None
        values = self._values(known[parent].values["text"] if parent else "", len(known))
        delta = thread == "d"
        if delta and self.random.random() < 0.2:
            values["log"] = [f"snapshot {len(known)}"]
        run = "run-of-delta" if delta else f"run-{self.random.randrange(6)}"
        metadata: dict[str, Any] = {
            "source": "loop",
            "step": len(known),
            "parents": {},
            "run_id": run,
        }
        if delta and "log" not in values:
            metadata["counters_since_delta_snapshot"] = {"log": [1, 1]}
        channels = {*values, "log"} if delta else set(values)
        versions = {c: f"{len(known) + 1:032}.{uuid6().hex}" for c in channels}
        made = checkpoint(values, versions)
        self.saver.put(config(thread, ns, parent), made, metadata, versions)  # type: ignore[arg-type]
        known[made["id"]] = Known(ns, values, parent, run, delta=delta)

    def _values(self, text: str, number: int) -> dict[str, Any]:
        chance = self.random.random()
        if chance < 0.1:
            text = text[-300:]  # a state that was trimmed
        elif chance < 0.15:
            text = "long " * 30_000 + text
        values = {
            "text": text + self.random.randbytes(self.random.randrange(400)).hex(),
            "n": number,
        }
        if self.random.random() < 0.3:
            values["rare"] = (self.random.random(), "x" * self.random.randrange(3000))
        return values

    def pick(self) -> tuple[str, str, Known] | None:
        thread = self.random.choice([*self.model, "nobody"])
        if not self.model.get(thread):
            return None
        cid = self.random.choice(list(self.model[thread]))
        return thread, cid, self.model[thread][cid]

    def write(self) -> None:
        if (found := self.pick()) is not None:
            thread, cid, known = found
            channel = self.random.choice(("log" if known.delta else "w", *SPECIAL))
            task, value = f"task-{self.random.randrange(3)}", self.random.random()
            self.saver.put_writes(config(thread, known.ns, cid), [(channel, value)], task)
            known.hot_writes = True
            if channel in SPECIAL or (task, channel) not in known.writes:
                known.writes[task, channel] = value

    def flush(self) -> None:
        self._flushed(None)

    def flush_one(self) -> None:
        self._flushed(self.random.choice("abcd"))

    def _flushed(self, thread: str | None) -> None:
        job = self.tank.flush(partition=thread)
        assert job.ok, job.result
        for name, known in self.model.items():
            for k in known.values() if thread in (None, name) else ():
                k.hot = k.hot_writes = False

    # -- deleting

    def prune(self) -> None:
        thread = self.random.choice("abcd")
        self.saver.prune([thread], strategy="keep_latest")
        known = self.model.get(thread, {})
        self.forget(thread, set(known) - needed(known, newest(known)))

    def forget(self, thread: str, gone: Iterable[str]) -> None:
        known, gone = self.model.get(thread, {}), set(gone)
        for cid in gone:
            del known[cid]
        for k in known.values():
            if k.parent in gone:
                k.parent = None

    def grow_old(self) -> None:
        """What is in the database of a thread was written long ago."""
        if not self.model:
            return
        thread = self.random.choice(list(self.model))
        cold = [cid for cid, k in self.model[thread].items() if not k.hot]
        with self.tank.parts.database.connection() as connection:
            connection.execute(
                "UPDATE surgetank.checkpoints c SET written_at = now() - interval '40 days'"
                " FROM surgetank.checkpoint_namespaces s"
                " WHERE s.ns_pk = c.ns_pk AND s.thread_id = %s AND c.checkpoint_id = ANY(%s)",
                (thread, cold),
            )
        for cid in cold:
            self.model[thread][cid].old = True

    def _limits(self) -> Limits:
        keep = self.random.choice((None, 1, 2, 5))
        return Limits(AGE_S if keep is None or self.random.random() < 0.5 else None, keep)

    def expected(self, limits: Limits) -> dict[str, set[str]]:
        """What retention must delete, told from the model alone."""
        doomed: dict[str, set[str]] = {}
        for thread, known in self.model.items():
            kept = newest(known) | {cid for cid, k in known.items() if k.hot or k.hot_writes}
            kept |= {k.parent for k in known.values() if k.hot and k.parent is not None}
            for cid, k in known.items():
                rank = sum(1 for other, o in known.items() if o.ns == k.ns and other > cid)
                if not (limits.keep is not None and rank >= limits.keep) and not (
                    limits.age_s and k.old
                ):
                    kept.add(cid)
            gone = set(known) - needed(known, kept)
            if gone:
                doomed[thread] = gone
        return doomed

    def retain(self) -> None:
        limits = self._limits()
        expected = self.expected(limits)
        options: dict[str, Any] = {"age": limits.age_s, "keep": limits.keep}
        planned = self.tank.retain(**options, dry_run=True)
        assert self.tank.retain(**options).plans == replace(planned).plans
        assert gone(planned) == expected
        for thread, ids_ in expected.items():
            self.forget(thread, ids_)

    def sweep(self) -> None:
        """A whole pass of the background, which judges threads by what is in the database."""
        self.flush()
        limits = self._limits()
        expected = self.expected(limits)
        budget = Budget(
            threads=self.random.choice((1, 2, 100)),
            checkpoints=self.random.choice((1, 3, 5000)),
            seconds=60,
        )
        for _ in range(1000):
            if self.tank.parts.retention.tick(limits, interval_s=0.0, budget=budget) == 0:
                break
            self._check_what_is_left_of_delta()
        else:
            raise AssertionError("a pass has no end")
        for thread, ids_ in expected.items():
            self.forget(thread, ids_)

    def _check_what_is_left_of_delta(self) -> None:
        """In the middle of a pass, what is still there is readable as well."""
        for found in self.saver.list(config("d") if self.model.get("d") else None):
            at = found.config["configurable"]
            known = self.model.get(at["thread_id"], {})[at["checkpoint_id"]]
            if known.delta and "log" not in known.values:
                self._check_delta(at["thread_id"], at["checkpoint_id"], known)

    def shrink(self) -> None:
        most = self.random.choice((0, 1000, 5000, 20_000))
        everything = self.expected(Limits(keep=1))
        report = gone(self.tank.retain(max_bytes=most))
        for thread, ids_ in report.items():
            assert ids_ <= everything[thread]
            if most == 0:
                assert ids_ == everything[thread]
            self.forget(thread, ids_)

    def delete_thread(self) -> None:
        if self.random.random() < 0.4:
            thread = self.random.choice("abcd")
            self.saver.delete_thread(thread)
            self.model.pop(thread, None)

    def delete_run(self) -> None:
        run = f"run-{self.random.randrange(6)}"
        self.saver.delete_for_runs([run])
        for thread, known in self.model.items():
            self.forget(thread, {cid for cid, k in known.items() if k.run == run})

    def copy(self) -> None:
        source = self.random.choice("abcd")
        self.copies += 1
        target = f"copy-{self.copies}"
        self.saver.copy_thread(source, target)
        self.model[target] = {
            cid: replace(k, writes=dict(k.writes), hot=True, hot_writes=bool(k.writes), old=False)
            for cid, k in self.model.get(source, {}).items()
        }

    # -- checking

    def check_some(self) -> None:
        if (found := self.pick()) is not None:
            self.check_one(*found)

    def check_one(self, thread: str, cid: str, known: Known) -> None:
        found = self.saver.get_tuple(config(thread, known.ns, cid))
        assert found is not None, (thread, cid)
        assert found.checkpoint["channel_values"] == known.values
        assert {(w[0], w[1]): w[2] for w in found.pending_writes or ()} == known.writes
        parent = (
            found.parent_config["configurable"]["checkpoint_id"] if found.parent_config else None
        )
        assert parent == known.parent
        if known.delta and "log" not in known.values:
            self._check_delta(thread, cid, known)

    def _check_delta(self, thread: str, cid: str, known: Known) -> None:
        writes: list[tuple[str, str, Any]] = []
        ancestors, parent, seed = self.model[thread], known.parent, None
        while parent is not None and seed is None:
            k = ancestors[parent]
            writes[:0] = sorted((t, c, v) for (t, c), v in k.writes.items() if c == "log")
            parent, seed = k.parent, k.values.get("log")
        history = self.saver.get_delta_channel_history(
            config=config(thread, known.ns, cid), channels=["log"]
        )
        assert history["log"].get("seed") == seed
        assert list(history["log"]["writes"]) == writes

    def check_all(self) -> None:
        for thread, known in [*self.model.items(), ("nobody", {})]:
            listed = list(self.saver.list({"configurable": {"thread_id": thread}}))
            assert ids([t.config for t in listed]) == sorted(known, reverse=True)
            for cid, k in known.items():
                self.check_one(thread, cid, k)
        total = sum(map(len, self.model.values()))
        assert sum(1 for _ in self.saver.list(None)) == total
        check_chain_costs(self.tank)

    def check_rows(self) -> None:
        """The tables hold exactly the remaining checkpoints, and no blob that nothing refers to."""
        wanted = {(t, cid) for t, known in self.model.items() for cid in known}
        channels = {
            (t, k.ns, channel)
            for t, known in self.model.items()
            for k in known.values()
            for channel, value in k.values.items()
            if len(self.saver.serde.dumps_typed(value)[1])
            > SMALL_BYTES  # others lie in the checkpoint's row
        }
        with self.tank.parts.database.connection() as connection:
            rows = connection.execute(
                "SELECT thread_id, checkpoint_id FROM surgetank.checkpoint_history"
            ).fetchall()
            blobs = connection.execute(
                "SELECT DISTINCT thread_id, checkpoint_ns, channel FROM surgetank.checkpoint_blobs"
                " JOIN surgetank.checkpoint_namespaces USING (ns_pk)"
            ).fetchall()
        assert sorted(rows) == sorted(wanted)
        assert set(blobs) == channels


def newest(known: dict[str, Known]) -> set[str]:
    """The newest checkpoint of each namespace."""
    return {max(c for c, k in known.items() if k.ns == ns) for ns in {k.ns for k in known.values()}}


def needed(known: dict[str, Known], kept: set[str]) -> set[str]:
    """The kept ones and what their DeltaChannels are rebuilt from."""
    result = set(kept)
    for cid in kept:
        current = known[cid]
        while current.delta and "log" not in current.values and current.parent is not None:
            result.add(current.parent)
            current = known[current.parent]
    return result


def gone(report: RetentionReport) -> dict[str, set[str]]:
    """What a report says that goes, by thread."""
    return {p.thread_id: {cid for ids_ in p.doomed.values() for cid in ids_} for p in report.plans}
