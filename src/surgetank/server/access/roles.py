"""Who is asking, and what they may do. Pure.

Roles are ordered: each may do what those before it may. What a role means is said in
docs/reference/access.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """What a token is good for, from the least to the most."""

    VIEWER = "viewer"
    REVIEWER = "reviewer"
    OPERATOR = "operator"
    ADMIN = "admin"

    def covers(self, needed: Role) -> bool:
        """Whether this role may do what `needed` may."""
        order = list(Role)
        return order.index(self) >= order.index(needed)


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated caller. `token_id` is None for the token of the environment and for
    --no-auth."""

    user: str
    role: Role
    token_id: str | None = None

    @property
    def scope(self) -> str:
        """Tells callers apart where something is kept for one of them."""
        return f"token:{self.token_id}" if self.token_id is not None else f"user:{self.user}"


ENVIRONMENT_ADMIN = Caller("admin", Role.ADMIN)
LOCAL_ADMIN = Caller("local", Role.ADMIN)
