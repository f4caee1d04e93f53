"""`make bench`: put, put_writes and get_tuple of Surgetank and of LangGraph's savers, interleaved, as ratios.

All savers get the same checkpoints (two messages of 600 bytes a step, each step puts the grown list) and the same
PostgreSQL (embedded, fsync on). Each figure is the median over all steps of all rounds. `--smoke` runs a few steps to
show that the bench still works; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.base.id import uuid6
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.sqlite import SqliteSaver
from rich.console import Console
from rich.table import Table

from surgetank import Surgetank

FIGURES = ("put", "put_writes", "get_tuple", "get_tuple cold")
OURS = "Surgetank"
Samples = dict[str, dict[str, list[float]]]


def chat(steps: int, seed: int) -> list[list[Any]]:
    """The growing list of messages at each step."""
    source = random.Random(seed)
    messages: list[Any] = []
    states = []
    for _ in range(steps):
        messages += [
            kind(f"{source.getrandbits(2400):0600x}", id=f"{source.getrandbits(128):x}")
            for kind in (HumanMessage, AIMessage)
        ]
        states.append(list(messages))
    return states


def play(saver: Any, states: list[list[Any]], samples: dict[str, list[float]]) -> Any:
    """Put every state, write to it, read it; returns the config of the newest."""
    config: Any = {"configurable": {"thread_id": str(uuid6()), "checkpoint_ns": ""}}
    version = None
    for step, messages in enumerate(states):
        version = saver.get_next_version(version, None)
        checkpoint = empty_checkpoint() | {
            "id": str(uuid6(clock_seq=step)),
            "channel_values": {"messages": messages, "step": step},
            "channel_versions": {"messages": version, "step": version},
        }
        new, metadata = checkpoint["channel_versions"], {"source": "loop", "step": step, "parents": {}}
        config = timed(samples["put"], lambda: saver.put(config, checkpoint, metadata, new))  # noqa: B023
        writes = [("messages", messages[-2:])]
        timed(samples["put_writes"], lambda: saver.put_writes(config, writes, str(uuid6())))  # noqa: B023
        timed(samples["get_tuple"], lambda: saver.get_tuple(config))  # noqa: B023
    return config


def timed(into: list[float], action: Callable[[], Any]) -> Any:
    """Run the action and note its milliseconds."""
    start = time.perf_counter()
    result = action()
    into.append((time.perf_counter() - start) * 1000)
    return result


def measure(steps: int, rounds: int, home: Path) -> Samples:
    """All savers in turn, `rounds` times."""
    with ExitStack() as stack:
        tank = stack.enter_context(Surgetank(home, flush_in_process=False, flush_on_close=False))
        embedded = tank.parts.embedded
        assert embedded is not None
        peers: dict[str, Any] = {
            "InMemorySaver": InMemorySaver(),
            "SqliteSaver": stack.enter_context(SqliteSaver.from_conn_string(str(home / "peer.db"))),
            "PostgresSaver": stack.enter_context(PostgresSaver.from_conn_string(embedded.url)),
            OURS: tank.checkpointer(),
        }
        peers["PostgresSaver"].setup()
        samples: Samples = {name: {figure: [] for figure in FIGURES} for name in peers}
        for number in range(rounds):
            states = chat(steps, seed=number)
            for name, saver in peers.items():
                newest = play(saver, states, samples[name])
                if name == OURS:
                    job = tank.flush()
                    if not job.ok:
                        raise RuntimeError(f"the flush failed: {job.result}")
                for _ in range(max(3, steps // 5)):
                    timed(samples[name]["get_tuple cold"], lambda: saver.get_tuple(newest))  # noqa: B023
        return samples


def show(samples: Samples) -> None:
    """A table of medians with the ratio to InMemorySaver."""
    table = Table("ms, median (x InMemorySaver)", *FIGURES, box=None)
    medians = {
        name: {f: statistics.median(v) for f, v in figures.items()} for name, figures in samples.items()
    }
    for name, figures in medians.items():
        base = medians["InMemorySaver"]
        table.add_row(name, *(f"{figures[f]:.3f} ({figures[f] / base[f]:.2f})" for f in FIGURES))
    Console(width=140).print(table)


def main() -> None:
    """Run the bench."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="a few steps, to show that it works")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write all samples to this file")
    options = parser.parse_args()
    steps, rounds = (5, 1) if options.smoke else (options.steps, options.rounds)
    with tempfile.TemporaryDirectory(prefix="stk-bench-", ignore_cleanup_errors=True) as home:
        samples = measure(steps, rounds, Path(home))
    show(samples)
    if options.json:
        options.json.write_text(json.dumps(samples))


if __name__ == "__main__":
    main()
