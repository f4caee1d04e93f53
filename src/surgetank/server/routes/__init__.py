"""The routes, one module per noun. A new one is added to `ROUTERS`, and to the matrix in the access tests."""

from __future__ import annotations

from surgetank.server.routes import buffer, health, jobs, me, parked, threads, tokens

ROUTERS = (
    health.router,
    me.router,
    threads.router,
    jobs.router,
    parked.router,
    buffer.router,
    tokens.router,
)
