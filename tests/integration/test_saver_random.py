"""Random histories against a model in memory: whatever is put, deleted, pruned, copied and flushed in whatever order,
every remaining checkpoint is readable and equal. A failure names its seed."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import pytest

from support.savers import config, ids, put
from surgetank import Surgetank, SurgetankSaver

SPECIAL = ("__error__", "__interrupt__")


@dataclass
class Known:
    """What a checkpoint must look like."""

    ns: str
    values: dict[str, Any]
    parent: str | None
    run: str
    writes: dict[tuple[str, str], Any] = field(default_factory=dict)


class History:
    """Does random things to a saver and to a model of it."""

    def __init__(self, tank: Surgetank, seed: int) -> None:
        self.tank = tank
        self.saver: SurgetankSaver = tank.checkpointer()
        self.random = random.Random(seed)
        self.model: dict[str, dict[str, Known]] = {}
        self.copies = 0

    def step(self) -> None:
        actions = [self.put] * 10 + [self.write] * 5 + [self.flush] * 3 + [self.flush_one] * 2
        actions += [
            self.prune,
            self.delete_thread,
            self.delete_run,
            self.copy,
            self.check_some,
            self.check_some,
        ]
        self.random.choice(actions)()

    def put(self) -> None:
        thread, ns = self.random.choice("abc"), self.random.choice(("", "", "sub:1"))
        known = self.model.setdefault(thread, {})
        candidates = [cid for cid, k in known.items() if k.ns == ns]
        parent = self.random.choice([*candidates[-3:], None]) if candidates else None
        text = known[parent].values["text"] if parent else ""
        values = {"text": text + self.random.randbytes(self.random.randrange(400)).hex(), "n": len(known)}
        if self.random.random() < 0.3:
            values["rare"] = (self.random.random(), "x" * self.random.randrange(3000))
        run = f"run-{self.random.randrange(6)}"
        made = put(self.saver, thread, values, parent=config(thread, ns, parent) if parent else None, ns=ns,
                   step=len(known), run_id=run)  # fmt: skip
        known[ids([made])[0]] = Known(ns, values, parent, run)

    def pick(self) -> tuple[str, str, Known] | None:
        thread = self.random.choice([*self.model, "nobody"])
        if not self.model.get(thread):
            return None
        cid = self.random.choice(list(self.model[thread]))
        return thread, cid, self.model[thread][cid]

    def write(self) -> None:
        if (found := self.pick()) is not None:
            thread, cid, known = found
            channel, task = self.random.choice(("w", *SPECIAL)), f"task-{self.random.randrange(3)}"
            value = self.random.random()
            self.saver.put_writes(config(thread, known.ns, cid), [(channel, value)], task)
            if channel in SPECIAL or (task, channel) not in known.writes:
                known.writes[task, channel] = value

    def flush(self) -> None:
        job = self.tank.flush()
        assert job.ok, job.result

    def flush_one(self) -> None:
        job = self.tank.flush(partition=self.random.choice("abc"))
        assert job.ok, job.result

    def prune(self) -> None:
        thread = self.random.choice("abc")
        self.saver.prune([thread], strategy="keep_latest")
        known = self.model.get(thread, {})
        newest = {max(c for c, k in known.items() if k.ns == ns) for ns in {k.ns for k in known.values()}}
        self.forget(thread, set(known) - newest)

    def forget(self, thread: str, gone: set[str]) -> None:
        known = self.model.get(thread, {})
        for cid in gone:
            del known[cid]
        for k in known.values():
            if k.parent in gone:
                k.parent = None

    def delete_thread(self) -> None:
        if self.random.random() < 0.4:
            thread = self.random.choice("abc")
            self.saver.delete_thread(thread)
            self.model.pop(thread, None)

    def delete_run(self) -> None:
        run = f"run-{self.random.randrange(6)}"
        self.saver.delete_for_runs([run])
        for thread, known in self.model.items():
            self.forget(thread, {cid for cid, k in known.items() if k.run == run})

    def copy(self) -> None:
        source = self.random.choice("abc")
        self.copies += 1
        target = f"copy-{self.copies}"
        self.saver.copy_thread(source, target)
        self.model[target] = {
            cid: Known(k.ns, k.values, k.parent, k.run, dict(k.writes))
            for cid, k in self.model.get(source, {}).items()
        }

    def check_some(self) -> None:
        if (found := self.pick()) is not None:
            self.check_one(*found)

    def check_one(self, thread: str, cid: str, known: Known) -> None:
        found = self.saver.get_tuple(config(thread, known.ns, cid))
        assert found is not None, (thread, cid)
        assert found.checkpoint["channel_values"] == known.values
        assert {(w[0], w[1]): w[2] for w in found.pending_writes} == known.writes
        parent = found.parent_config["configurable"]["checkpoint_id"] if found.parent_config else None
        assert parent == known.parent

    def check_all(self) -> None:
        for thread, known in [*self.model.items(), ("nobody", {})]:
            listed = list(self.saver.list({"configurable": {"thread_id": thread}}))
            assert ids([t.config for t in listed]) == sorted(known, reverse=True)
            for cid, k in known.items():
                self.check_one(thread, cid, k)
        total = sum(map(len, self.model.values()))
        assert sum(1 for _ in self.saver.list(None)) == total

    def check_rows(self) -> None:
        """The tables hold exactly the remaining checkpoints, and no blob that nothing refers to."""
        wanted = {(t, cid) for t, known in self.model.items() for cid in known}
        channels = {(t, k.ns, c) for t, known in self.model.items() for k in known.values() for c in k.values}
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


@pytest.mark.parametrize("seed", range(12))
def test_a_random_history_is_remembered_exactly(make_tank, seed):
    history = History(make_tank(flush_batch_entries=random.Random(seed).choice((1, 3, 2000))), seed)
    for _ in range(120):
        history.step()
    history.check_all()
    history.flush()
    history.check_all()
    history.check_rows()
