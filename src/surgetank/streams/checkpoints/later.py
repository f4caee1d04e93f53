"""Checkpoints that are made here come after those that were read here, whatever this host's clock says.

LangGraph names a checkpoint by the time (UUID version 6), and the newest of a thread is the one with the largest
name. So a conversation that goes on at a host whose clock is behind would never be seen to go on. Within a
process LangGraph gives no name below its last one; reading raises that last one.
"""

from __future__ import annotations

import time

from langgraph.checkpoint.base import id as names

# Of further ahead nobody's clock is: one odd name must not be the measure of all others.
_FURTHEST_S = 86_400
_LAST = "_last_v6_timestamp"
_A_SECOND = 10_000_000  # of 100 ns
_BEFORE_1970 = 0x01B21DD213814000  # from 1582, where UUIDs begin


def come_after(checkpoint_id: str) -> None:
    """Let no checkpoint that this process makes have a smaller name than this one."""
    text = checkpoint_id.replace("-", "")
    if len(text) != 32 or text[12] != "6":
        return
    try:
        at = int(text[:12] + text[13:16], 16)
    except ValueError:
        return
    ahead = at - _BEFORE_1970 - time.time_ns() // 100
    if 0 < ahead < _FURTHEST_S * _A_SECOND:
        last = getattr(names, _LAST, None)
        setattr(names, _LAST, max(at, last or 0))
