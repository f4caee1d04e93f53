"""`surgetank analyst`: who reads the data in PostgreSQL, with psql, Metabase or Grafana."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from surgetank.cli.output import (
    DatabaseUrl,
    Home,
    Json,
    coded,
    engine,
    err,
    out,
    print_json,
    table,
    when,
)
from surgetank.notify.report import to_plain_data

app = typer.Typer(
    help="Add, list and remove database roles that only read, for psql, Metabase and Grafana.",
    no_args_is_help=True,
)
_BY = "command line"


@app.command()
@coded
def add(
    name: Annotated[str, typer.Argument(help="The name of the role.")],
    home: Home = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
    user: Annotated[
        list[str] | None,
        typer.Option(help="Whose data it sees, once for each user.", show_default=False),
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="It sees everybody's data.")] = False,
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read the password from stdin, make none.")
    ] = False,
    existing_role: Annotated[
        bool, typer.Option("--existing-role", help="An administrator has made the role.")
    ] = False,
    connections: Annotated[int, typer.Option(help="How many it may have at once.")] = 15,
    close_public: Annotated[
        bool,
        typer.Option("--close-public", help="Take from PUBLIC the right to make objects here."),
    ] = False,
) -> None:
    """Make a role that reads the views of the schema surgetank_views, and print its password. This
    is the only time that it is shown."""
    password = sys.stdin.readline().rstrip("\r\n") if password_stdin else None
    with engine(home, database_url) as tank:
        added = tank.analysts.add(
            name,
            users=user or (),
            everyone=all_,
            password=password,
            role_exists=existing_role,
            connections=connections,
            close_public=close_public,
            actor=_BY,
        )
    shown = added.password if password is None else None
    if json:
        print_json({**to_plain_data(added), "password": shown})
        return
    if shown is not None:
        out.print(shown)
        err.print("This is the password. It is not shown again.")
    err.print(f"{name} reads the schema surgetank_views at {added.url}")
    for statement in added.open:
        err.print(f"open to PUBLIC, closed by --close-public or: {statement};")


@app.command("list")
@coded
def list_(home: Home = None, database_url: DatabaseUrl = None, json: Json = False) -> None:
    """List analysts: whose data they see, and how many sessions they have open."""
    with engine(home, database_url) as tank:
        found = tank.analysts.list()
    if json:
        print_json(found)
        return
    table(
        ("name", "sees", "sessions", "since", "role"),
        [
            (
                one.name,
                "everyone" if one.everyone else ", ".join(one.users),
                str(one.sessions),
                when(one.created_at),
                "there" if one.has_role else "gone",
            )
            for one in found
        ],
    )


@app.command()
@coded
def refresh(home: Home = None, database_url: DatabaseUrl = None) -> None:
    """Make the views anew, after an upgrade that has more of them or another owner_key."""
    with engine(home, database_url) as tank:
        tank.analysts.refresh()
    out.print("The views are made, and all analysts may read them.")


@app.command()
@coded
def remove(
    name: Annotated[str, typer.Argument(help="The name that `analyst list` shows.")],
    home: Home = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """End an analyst: it sees nothing any more, its sessions end, its role is dropped."""
    with engine(home, database_url) as tank:
        removed = tank.analysts.remove(name, actor=_BY)
    if json:
        print_json(removed)
        return
    out.print(f"{name} is removed, {removed.sessions} sessions were ended")
    for statement in removed.left:
        err.print(f"left to an administrator of the database: {statement};")
