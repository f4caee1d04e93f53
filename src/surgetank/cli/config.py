"""`surgetank config`: the settings as they are in force here, and where each comes from."""

from __future__ import annotations

from typing import Annotated

import typer

from surgetank.app.effective import effective
from surgetank.app.guards import engine_settings
from surgetank.cli.output import DatabaseUrl, Home, Json, print_json, table


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
    named = [name for name, value in given.items() if value is not None]
    shown = {
        each.name: {"value": each.value, "origin": each.origin}
        for each in effective(settings, named)
        if not (changed and each.origin == "default")
    }
    if json:
        print_json(shown)
    else:
        table(
            ("setting", "value", "from"),
            [(name, row["value"], row["origin"]) for name, row in shown.items()],
        )
