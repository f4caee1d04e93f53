"""One module per measured thing. Each has a TITLE and `run(scene)`, which gives a `Recorder`."""

from __future__ import annotations

from types import ModuleType

from bench.measures import (
    calls,
    chains,
    console,
    console_tail,
    crowd,
    flush,
    graph,
    lists,
    loop,
    memory,
    partitions,
    queue,
    redis_crowd,
    redis_flush,
    redis_put,
    sanitizer,
    served,
    storage,
    tables_flush,
    tables_insert,
    tables_query,
    tables_upkeep,
    telling,
    threads,
)

MEASURES: dict[str, ModuleType] = {
    "calls": calls,
    "lists": lists,
    "graph": graph,
    "threads": threads,
    "storage": storage,
    "flush": flush,
    "tables_flush": tables_flush,
    "partitions": partitions,
    "redis_put": redis_put,
    "redis_crowd": redis_crowd,
    "redis_flush": redis_flush,
    "sanitizer": sanitizer,
    "chains": chains,
    "memory": memory,
    "loop": loop,
    "telling": telling,
    "queue": queue,
    "served": served,
    "crowd": crowd,
    "tables_insert": tables_insert,
    "tables_query": tables_query,
    "tables_upkeep": tables_upkeep,
    "console": console,
    "console_tail": console_tail,
}
