"""The routes, one module per noun. A new one is added to `ROUTERS`, and to the matrix in the access
tests."""

from __future__ import annotations

from surgetank.server.routes import (
    assistants,
    audit,
    buffer,
    crons,
    errors,
    health,
    jobs,
    live,
    logs,
    me,
    metrics,
    originals,
    parked,
    protocol,
    runs,
    store,
    thread_state,
    threads,
    tokens,
    user_checkpoints,
    users,
    webhooks,
    workflows,
)

ROUTERS = (
    health.router,
    health.agent_router,
    me.router,
    threads.router,
    assistants.router,
    crons.router,
    runs.router,
    protocol.router,
    thread_state.router,
    logs.router,
    live.router,
    jobs.router,
    parked.router,
    buffer.router,
    errors.router,
    audit.router,
    originals.router,
    metrics.router,
    store.router,
    tokens.router,
    users.router,
    webhooks.router,
    user_checkpoints.router,
    workflows.router,
    threads.item_router,  # the last one: a thread's id may be any text, slashes among it
)
