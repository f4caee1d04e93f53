"""Who is asking, and what they may do. Pure.

Roles are ordered: each may do what those before it may. What a role means is said in
docs/reference/access.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Role(StrEnum):
    """What a token is good for, from the least to the most."""

    VIEWER = "viewer"
    USER = "user"
    REVIEWER = "reviewer"
    OPERATOR = "operator"
    ADMIN = "admin"

    def covers(self, needed: Role) -> bool:
        """Whether this role may do what `needed` may."""
        order = list(Role)
        return order.index(self) >= order.index(needed)


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated caller. `token_id` is None for the token of the environment, for --no-auth,
    and for whom a project's own handler let in.

    `given` is what that handler said of the user. `filters` are what the project's handlers narrow
    this request to: by resource (`threads`, `assistants`, `crons`), what the metadata of each must
    contain. `only` is the one thread that a ticket made on behalf of its user is good for.
    """

    user: str
    role: Role
    token_id: str | None = None
    given: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)
    filters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, compare=False)
    only: str | None = None

    @property
    def scope(self) -> str:
        """Tells callers apart where something is kept for one of them."""
        if self.only is not None:  # many users come with the token of their application
            return f"ticket:{self.user}"
        if self.token_id is not None:
            return f"token:{self.token_id}"
        return f"{'project' if self.given is not None else 'user'}:{self.user}"


ENVIRONMENT_ADMIN = Caller("admin", Role.ADMIN)
LOCAL_ADMIN = Caller("local", Role.ADMIN)
