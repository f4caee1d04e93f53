"""`python -m bench.flush_path`: the way from the buffer to PostgreSQL and back, by itself.

- **copy**: flushed rows/s against COPY of the same rows into the same tables with the same indexes, from Python, in one
  transaction. Once with the values as they were put (what a flush without compression would have to write), once as
  they lie in the tables (patched and compressed beforehand, at no cost to COPY).
- **threads**: one thread with many entries against as many threads with one entry each.
- **cold**: `get_tuple` with nothing hot, against PostgresSaver on the same server.
- **memory**: peak resident memory of a process that flushes a full buffer; entries of a few KB, then of 100 MB.

Everything is interleaved, medians of several rounds, PostgreSQL embedded with fsync on.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.base.id import uuid6
from langgraph.checkpoint.postgres import PostgresSaver
from psycopg import Connection
from psycopg.types.json import Jsonb

from surgetank import Surgetank
from surgetank.encode.differences import patch
from surgetank.encode.differences.patch import Blob

TABLES: dict[str, tuple[str, list[str]]] = {
    "checkpoints": (
        "ns_pk, checkpoint_id, parent_id, codec, body, metadata, scalars, blob_numbers",
        ["int8", "text", "text", "int2", "bytea", "jsonb", "jsonb", "jsonb"],
    ),
    "checkpoint_blobs": (
        "ns_pk, n, base_n, raw_bytes, position, codec, channel, version, type, data",
        ["int8", "int4", "int4", "int4", "int2", "int2", "text", "text", "text", "bytea"],
    ),
    "checkpoint_writes": (
        "ns_pk, idx, codec, checkpoint_id, task_id, task_path, channel, type, data, others",
        ["int8", "int4", "int2", "text", "text", "text", "text", "text", "bytea", "bytea"],
    ),
}
_ALL = "surgetank.threads, surgetank.checkpoint_namespaces, surgetank.partition_progress"
Fill = Callable[[Any], None]


# -- what is flushed


def put(saver: Any, thread: str, step: int, values: dict[str, Any], parent: Any = None) -> Any:
    """One checkpoint whose values are all new."""
    config: Any = parent or {"configurable": {"thread_id": thread, "checkpoint_ns": ""}}
    versions: dict[str, str | int | float] = dict.fromkeys(values, f"{step + 1:032}.{0.5:.16f}")
    checkpoint: Any = empty_checkpoint() | {
        "id": str(uuid6(clock_seq=step)),
        "channel_values": values,
        "channel_versions": versions,
    }
    return saver.put(config, checkpoint, {"source": "loop", "step": step, "parents": {}}, versions)


def one_thread(entries: int) -> Fill:
    """One thread with many entries."""

    def fill(saver: Any) -> None:
        source, parent = random.Random(1), None
        for step in range(entries):
            parent = put(saver, "only", step, _small(source, step), parent)

    return fill


def many_threads(entries: int) -> Fill:
    """As many threads, one entry each."""

    def fill(saver: Any) -> None:
        source = random.Random(1)
        for number in range(entries):
            put(saver, f"thread-{number:06}", 0, _small(source, number))

    return fill


def chats(threads: int, steps: int) -> Fill:
    """Growing chats: two messages of 600 bytes a step, and a write for each."""

    def fill(saver: Any) -> None:
        source = random.Random(1)
        for number in range(threads):
            messages: list[Any] = []
            parent = None
            for step in range(steps):
                messages += [message(source, HumanMessage), message(source, AIMessage)]
                parent = put(
                    saver,
                    f"chat-{number}",
                    step,
                    {"messages": list(messages), "step": step},
                    parent,
                )
                saver.put_writes(parent, [("messages", messages[-2:])], str(uuid6()))

    return fill


def kilobytes(entries: int, size: int, threads: int = 100) -> Fill:
    """Entries of a fixed size that hardly compress, over some threads."""

    def fill(saver: Any) -> None:
        source = random.Random(1)
        for number in range(entries):
            put(
                saver,
                f"t{number % threads}",
                number,
                {"data": source.randbytes(size), "note": f"note {number}"},
            )

    return fill


def message(source: random.Random, kind: Any) -> Any:
    """A message of 600 bytes."""
    return kind(f"{source.getrandbits(2400):0600x}", id=f"{source.getrandbits(128):x}")


def _small(source: random.Random, number: int) -> dict[str, Any]:
    return {"question": f"{source.getrandbits(1200):0300x}", "count": number}


# -- running


class Place:
    """An engine with an embedded PostgreSQL, and buffers that were filled once and are put back for
    each round."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.engine = Surgetank(home / "engine", flush_in_process=False, flush_on_close=False)
        self.engine.open()
        self.engine.parts.database.ping()
        embedded = self.engine.parts.embedded
        assert embedded is not None
        self.url = embedded.url
        self._filled: dict[str, Path] = {}

    def close(self) -> None:
        self.engine.close()

    def fill(self, name: str, fill: Fill) -> None:
        """Fill a buffer, to be flushed many times."""
        path = self.home / f"{name}.db"
        for file in self.home.glob(f"{name}.db*"):
            file.unlink()
        with self.tank(path) as tank:
            fill(tank.checkpointer())
            tank.parts.buffer.maintain()
        self._filled[name] = path

    def tank(self, buffer: Path, **settings: Any) -> Surgetank:
        return Surgetank(
            self.home / "other",
            database_url=self.url,
            buffer_url=f"sqlite://{buffer}",
            flush_in_process=False,
            flush_on_close=False,
            **settings,
        )

    @contextmanager
    def refilled(self, name: str) -> Iterator[Surgetank]:
        """The buffer as it was filled, and an empty database."""
        path = self.home / "round.db"
        for file in self.home.glob("round.db*"):
            file.unlink()
        shutil.copy(self._filled[name], path)
        self.empty()
        with self.tank(path) as tank:
            tank.parts.database.ping()
            yield tank

    def connect(self) -> Any:
        return self.engine.parts.database.connection()

    def empty(self) -> None:
        """Remove all rows, and have the database quiet before the next measurement."""
        with self.connect() as connection:
            connection.execute(
                f"TRUNCATE {_ALL}, surgetank.checkpoints, surgetank.checkpoint_blobs, "
                f"surgetank.checkpoint_writes"
            )
        with self.connect() as connection:
            connection.execute("CHECKPOINT")


def flush(tank: Surgetank) -> tuple[int, float]:
    """Flush all that waits; rows and seconds."""
    start = time.perf_counter()
    job = tank.flush()
    seconds = time.perf_counter() - start
    if not job.ok:
        raise RuntimeError(f"the flush failed: {job.result}")
    return int(job.result["rows_flushed"]), seconds


def stored(connection: Connection[Any]) -> dict[str, list[tuple[Any, ...]]]:
    """The rows of the checkpoint tables."""
    rows = {}
    for table, (columns, types) in TABLES.items():
        found = connection.execute(
            f"SELECT {columns} FROM surgetank.{table}".encode(), binary=True
        ).fetchall()
        places = [i for i, type_ in enumerate(types) if type_ == "jsonb"]
        rows[table] = [
            tuple(
                Jsonb(json.dumps(v).encode(), dumps=bytes) if i in places else v
                for i, v in enumerate(row)
            )
            for row in found
        ]
    return rows


def whole(rows: dict[str, list[tuple[Any, ...]]]) -> dict[str, list[tuple[Any, ...]]]:
    """The same rows with their values as they were put: neither compressed nor patched."""
    chains: dict[tuple[int, str], list[tuple[Any, ...]]] = {}
    for row in rows["checkpoint_blobs"]:
        chains.setdefault((row[0], row[6]), []).append(row)
    blobs = []
    for chain in chains.values():
        coded = [Blob(r[1], r[2], r[4], r[5], r[3], r[9]) for r in chain]
        values = patch.decode_all(coded, {b.n for b in coded})
        blobs += [(*r[:2], None, r[3], 0, 0, *r[6:9], values[r[1]]) for r in chain]
    return {
        "checkpoints": [
            (*r[:3], 0, patch.decompress(r[3], r[4]), *r[5:]) for r in rows["checkpoints"]
        ],
        "checkpoint_blobs": blobs,
        "checkpoint_writes": [
            (*r[:2], 0, *r[3:8], patch.decompress(r[2], r[8]), r[9])
            for r in rows["checkpoint_writes"]
        ],
    }


def copy(place: Place, rows: dict[str, list[tuple[Any, ...]]]) -> float:
    """COPY the rows into the emptied tables; seconds."""
    place.empty()
    start = time.perf_counter()
    with place.connect() as connection, connection.cursor() as cursor:
        for table, (columns, types) in TABLES.items():
            with cursor.copy(
                f"COPY surgetank.{table} ({columns}) FROM STDIN (FORMAT BINARY)"
            ) as target:
                target.set_types(types)
                for row in rows[table]:
                    target.write_row(row)
    return time.perf_counter() - start


# -- measurements


def against_copy(place: Place, fill: Fill, rounds: int) -> dict[str, float]:
    """Flushed rows/s, and the ratios to COPY of the values as they were put and as they are
    stored."""
    place.fill("copy", fill)
    flushed, put_speed, stored_speed = [], [], []
    for _ in range(rounds):
        with place.refilled("copy") as tank:
            rows, seconds = flush(tank)
        flushed.append(rows / seconds)
        with place.connect() as connection:
            data = stored(connection)
        assert sum(map(len, data.values())) == rows
        stored_speed.append(rows / copy(place, data))
        put_speed.append(rows / copy(place, whole(data)))
    return _ratio("flush rows/s", flushed, "COPY as put rows/s", put_speed) | {
        "COPY as stored rows/s": round(statistics.median(stored_speed)),
        "ratio to stored": round(statistics.median(flushed) / statistics.median(stored_speed), 3),
    }


def threads(place: Place, entries: int, rounds: int) -> dict[str, float]:
    """Rows/s of many threads with one entry each, of one thread with as many, and the ratio."""
    place.fill("one", one_thread(entries))
    place.fill("many", many_threads(entries))
    speeds: dict[str, list[float]] = {"one": [], "many": []}
    for number in range(rounds):
        for name in ("one", "many") if number % 2 else ("many", "one"):
            with place.refilled(name) as tank:
                rows, seconds = flush(tank)
            speeds[name].append(rows / seconds)
    return _ratio("many threads rows/s", speeds["many"], "one thread rows/s", speeds["one"])


def cold(place: Place, steps: int, rounds: int) -> dict[str, float]:
    """Milliseconds of `get_tuple` on the newest checkpoint of a chat, ours and PostgresSaver's."""
    place.empty()
    ours: list[float] = []
    theirs: list[float] = []
    with (
        place.tank(place.home / "cold.db") as tank,
        PostgresSaver.from_conn_string(place.url) as peer,
    ):
        peer.setup()
        for number in range(rounds):
            for saver, samples in ((tank.checkpointer(), ours), (peer, theirs)):
                source, messages, config = random.Random(number), list[Any](), None
                thread = f"cold-{number}"
                for step in range(steps):
                    messages += [message(source, HumanMessage), message(source, AIMessage)]
                    config = put(
                        saver, thread, step, {"messages": list(messages), "step": step}, config
                    )
                tank.flush()
                newest: Any = {"configurable": {"thread_id": thread, "checkpoint_ns": ""}}
                saver.get_tuple(newest)
                for _ in range(60):
                    start = time.perf_counter()
                    found = saver.get_tuple(newest)
                    samples.append((time.perf_counter() - start) * 1000)
                    assert found is not None
                    assert len(found.checkpoint["channel_values"]["messages"]) == 2 * steps
    return _ratio("Surgetank ms", ours, "PostgresSaver ms", theirs)


def memory(place: Place, fill: Fill) -> dict[str, float]:
    """Megabytes that waited, and the peak of a process that flushes them."""
    place.fill("memory", fill)
    with place.refilled("memory") as tank:
        waiting = tank.parts.buffer.depth().bytes
    environment = {
        **os.environ,
        "SURGETANK_DATABASE_URL": place.url,
        "SURGETANK_BUFFER_URL": f"sqlite://{place.home / 'round.db'}",
        "SURGETANK_HOME": str(place.home / "other"),
    }
    done = subprocess.run(
        [sys.executable, "-m", "bench.flush_path", "--flush-here"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    answer: dict[str, float] = json.loads(done.stdout)
    return {"waiting MB": waiting / 1e6, **answer}


def _flush_here() -> None:
    """Flush what the environment names and say how much memory it took (the child of `memory`)."""
    with Surgetank(flush_in_process=False, flush_on_close=False) as tank:
        tank.parts.database.ping()
        before = _peak()
        _, seconds = flush(tank)
        print(json.dumps({"before MB": before, "peak MB": _peak(), "seconds": round(seconds, 1)}))


def _peak() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6


def _ratio(
    name: str, values: Sequence[float], peer: str, peers: Sequence[float]
) -> dict[str, float]:
    ours, theirs = statistics.median(values), statistics.median(peers)
    return {name: round(ours, 3), peer: round(theirs, 3), "ratio": round(ours / theirs, 3)}


def measure(place: Place, wanted: Sequence[str], rounds: int, *, smoke: bool) -> dict[str, Any]:
    """The wanted measurements."""
    results: dict[str, Any] = {}
    scale = 100 if smoke else 1
    if "copy" in wanted:
        fills = {
            "small entries": one_thread(10_000 // scale),
            "chats": chats(20, 100 // scale + 1),
            "3 KB entries": kilobytes(10_000 // scale, 3000),
        }
        for name, fill in fills.items():
            results[f"copy: {name}"] = against_copy(place, fill, rounds)
    if "threads" in wanted:
        results["threads"] = threads(place, 10_000 // scale, rounds)
    if "cold" in wanted:
        results["cold"] = cold(place, 100 // scale + 1, rounds)
    if "memory" in wanted:
        results["memory: 10 KB entries"] = memory(place, kilobytes(100_000 // scale, 10_000))
        results["memory: 100 MB entries"] = memory(place, kilobytes(10, 100_000_000 // scale, 2))
    return results


def main() -> None:
    """Run the bench."""
    parser = argparse.ArgumentParser(prog="python -m bench.flush_path", description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="a few rows, to show that it works")
    parser.add_argument(
        "--only", default="copy,threads,cold,memory", help="measurements, with commas"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--flush-here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.flush_here:
        _flush_here()
        return
    with tempfile.TemporaryDirectory(prefix="stk-", ignore_cleanup_errors=True) as home:
        place = Place(Path(home))
        try:
            rounds = 1 if options.smoke else options.rounds
            results = measure(place, options.only.split(","), rounds, smoke=options.smoke)
        finally:
            place.close()
    for name, figures in results.items():
        print(name, json.dumps(figures))


if __name__ == "__main__":
    main()
