"""From where the running code acts, for the audit: an address of a client, `cli`, the name of a node.

The server sets it for each request, a command for itself; threads that work for them have it too.
"""

from __future__ import annotations

from contextvars import ContextVar

acting_from: ContextVar[str] = ContextVar("acting_from", default="")
