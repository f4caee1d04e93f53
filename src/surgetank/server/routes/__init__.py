"""The routes, one module per noun. A new one is added to `ROUTERS`, and to the matrix in the access
tests."""

from __future__ import annotations

from surgetank.server.routes import (
    buffer,
    errors,
    health,
    jobs,
    live,
    logs,
    me,
    metrics,
    originals,
    parked,
    store,
    threads,
    tokens,
    users,
    webhooks,
)

ROUTERS = (
    health.router,
    me.router,
    threads.router,
    logs.router,
    live.router,
    jobs.router,
    parked.router,
    buffer.router,
    errors.router,
    originals.router,
    metrics.router,
    store.router,
    tokens.router,
    users.router,
    webhooks.router,
)
