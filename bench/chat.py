"""The data that all contestants get: a chat that grows by two messages of 600 bytes in each step.

The text is made of invented words that are as unevenly frequent as real ones (Zipf), so that every
saver's compression, PostgreSQL's own included, finds in it about what it finds in a language.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import Any

from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.base.id import uuid6

MESSAGE_BYTES = 600


def messages(steps: int, seed: int) -> list[Any]:
    """Two messages for each step, with ids."""
    source = random.Random(seed)
    return [
        kind(text(source), id=f"{source.getrandbits(128):x}")
        for _ in range(steps)
        for kind in (HumanMessage, AIMessage)
    ]


def text(source: random.Random, size: int = MESSAGE_BYTES) -> str:
    """So many characters of invented words."""
    words, weights = _vocabulary()
    return " ".join(source.choices(words, cum_weights=weights, k=size // 4))[:size]


@cache
def _vocabulary() -> tuple[list[str], list[float]]:
    """Words of two to ten letters and their cumulated frequencies: the nth is n times as rare as
    the first."""
    source = random.Random(0)
    letters = "etaoinshrdlucmfwygpb"
    words = ["".join(source.choices(letters, k=source.randint(2, 10))) for _ in range(5000)]
    return words, list(accumulate(1 / (n + 1) for n in range(len(words))))


def growing(steps: int, seed: int) -> list[list[Any]]:
    """The whole list of messages at each step."""
    said = messages(steps, seed)
    return [said[: 2 * (step + 1)] for step in range(steps)]


@dataclass(slots=True)
class Thread:
    """One LangGraph thread that is put step by step, as LangGraph's loop would."""

    saver: Any
    thread_id: str
    step: int = 0
    version: Any = None
    config: Any = None

    def next_put(self, values: dict[str, Any]) -> tuple[Any, Any, Any, Any]:
        """The arguments of the next `put`; all channels changed."""
        self.version = self.saver.get_next_version(self.version, None)
        versions = dict.fromkeys(values, self.version)
        checkpoint = empty_checkpoint() | {
            "id": str(uuid6(clock_seq=self.step)),
            "channel_values": values,
            "channel_versions": versions,
        }
        metadata = {"source": "loop", "step": self.step, "parents": {}}
        config = self.config or {"configurable": {"thread_id": self.thread_id, "checkpoint_ns": ""}}
        self.step += 1
        return config, checkpoint, metadata, versions

    def put(self, values: dict[str, Any], *, writes: bool = True) -> None:
        """Put a checkpoint and, as a task of the next step would, one pending write of its newest
        value."""
        self.config = self.saver.put(*self.next_put(values))
        if writes:
            channel, value = next(iter(values.items()))
            newest = value[-2:] if isinstance(value, list) else value
            self.saver.put_writes(self.config, [(channel, newest)], str(uuid6()))
