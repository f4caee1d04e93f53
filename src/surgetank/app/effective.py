"""The settings as they are in force, and where each comes from. Secrets are masked."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from pydantic import SecretStr

from surgetank.database.pool import redact_url
from surgetank.settings import Settings, origins

_HIDDEN = "***"


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectiveSetting:
    """A setting: its `value` as JSON has it, its `origin` (`argument`, a variable's or a file's name,
    `default`), and what it is about."""

    name: str
    value: Any
    origin: str
    about: str


def effective(settings: Settings, given: Collection[str]) -> list[EffectiveSetting]:
    """All of them. `given` are the names of those that were arguments."""
    found = origins(**dict.fromkeys(given, True))
    used = settings.model_copy(update={"home": settings.home.absolute()})
    return [
        EffectiveSetting(
            name=name,
            value=_shown(name, getattr(used, name)),
            origin=found[name],
            about=field.description or "",
        )
        for name, field in Settings.model_fields.items()
    ]


def _shown(name: str, value: Any) -> Any:
    if isinstance(value, SecretStr):
        return redact_url(value.get_secret_value()) if name == "database_url" else _HIDDEN
    if isinstance(value, tuple):
        return [_HIDDEN if isinstance(item, SecretStr) else item for item in value]
    return value if isinstance(value, (int, float, str, bool, type(None))) else str(value)
