"""What SQL may do on behalf of a caller of the server."""

from __future__ import annotations

from surgetank.app.sql import Cancellation, SqlCaller
from surgetank.server.access.roles import Caller, Role


def sql_caller(who: Caller, cancellation: Cancellation | None = None) -> SqlCaller:
    """What a caller of the server may do in SQL."""
    return SqlCaller(
        user=who.user,
        defines=who.role.covers(Role.OPERATOR),
        administers=who.role.covers(Role.ADMIN),
        reads_only=not who.role.covers(Role.USER),
        cancellation=cancellation,
    )
