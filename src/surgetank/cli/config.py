"""`surgetank config`: the settings as they are in force here, and where each comes from."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from pydantic import SecretStr

from surgetank.app.guards import engine_settings
from surgetank.cli.output import DatabaseUrl, Home, Json, print_json, table
from surgetank.database.pool import redact_url
from surgetank.settings import Settings, origins

_HIDDEN = "***"


def config(
    home: Home = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
    changed: Annotated[
        bool, typer.Option("--changed", help="Only those that are not the default.")
    ] = False,
) -> None:
    """Show every setting with its value and its origin: option, environment, file or default.
    Secrets are masked.

    An option wins over the environment, that over surgetank.toml in the current folder, that over
    [tool.surgetank] in its pyproject.toml.
    """
    given = {"home": home, "database_url": database_url}
    settings = engine_settings(**given)  # with the home that an engine would use
    used = settings.model_copy(update={"home": settings.home.absolute()})
    found = origins(**given)
    shown = {
        name: {"value": _shown(name, getattr(used, name)), "origin": found[name]}
        for name in Settings.model_fields
        if not (changed and found[name] == "default")
    }
    if json:
        print_json(shown)
    else:
        table(
            ("setting", "value", "from"),
            [(name, row["value"], row["origin"]) for name, row in shown.items()],
        )


def _shown(name: str, value: Any) -> Any:
    if isinstance(value, SecretStr):
        return redact_url(value.get_secret_value()) if name == "database_url" else _HIDDEN
    if isinstance(value, tuple):
        return [_HIDDEN if isinstance(item, SecretStr) else item for item in value]
    return value if isinstance(value, (int, float, str, bool, type(None))) else str(value)
