"""`surgetank token`: who may use the server."""

from __future__ import annotations

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
from surgetank.server.access.roles import Role
from surgetank.server.access.tokens import Token, TokenStore, parse_span

app = typer.Typer(
    help="Create, list and revoke the tokens of `surgetank serve`. Only their SHA-256 is stored, "
    "in PostgreSQL.",
    no_args_is_help=True,
)
_BY = "command line"


@app.command()
@coded
def create(
    role: Annotated[Role, typer.Option(help="What it is good for.")],
    user: Annotated[
        str, typer.Option(help="Who comes with it: compared with the owners of threads.")
    ],
    home: Home = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
    expires: Annotated[
        str | None,
        typer.Option(
            help="For how long: 30d, 12h, 45m, 2w. For ever without it.", show_default=False
        ),
    ] = None,
    label: Annotated[str, typer.Option(help="What it is for.")] = "",
) -> None:
    """Make a token and print it. This is the only time that it is shown."""
    span = parse_span(expires) if expires is not None else None
    with engine(home, database_url) as tank:
        until = tank.now() + span if span is not None else None
        store = TokenStore(tank.database)
        made, secret = store.create(user, role, by=_BY, expires_at=until, label=label)
    if json:
        print_json({**to_plain_data(made), "token": secret})
        return
    out.print(secret)
    ends = f"until {when(made.expires_at)}" if made.expires_at else "for ever"
    err.print(f"token {made.id}: {made.role.value} {made.user!r}, {ends}. It is not shown again.")


@app.command("list")
@coded
def list_(home: Home = None, database_url: DatabaseUrl = None, json: Json = False) -> None:
    """List tokens, newest first, with their state and when they were last used."""
    with engine(home, database_url) as tank:
        store, found, last = TokenStore(tank.database), list[Token](), None
        while page := store.page(last_id=last, limit=500):
            found += page
            last = page[-1].id
        now = tank.now()
    if json:
        print_json(found)
        return
    table(
        ("id", "user", "role", "state", "created", "expires", "last used", "label"),
        [
            (
                t.id, t.user, t.role.value, _state(t, now), when(t.created_at), when(t.expires_at),
                when(t.last_used_at), t.label,
            )
            for t in found
        ],
    )  # fmt: skip


def _state(token: Token, now: float) -> str:
    if token.revoked_at is not None:
        return f"revoked by {token.revoked_by}"
    return "good" if token.usable(now) else "expired"


@app.command()
@coded
def revoke(
    token_id: Annotated[str, typer.Argument(help="The id that `token list` shows.")],
    home: Home = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """End a token for good. Running servers notice within 60 seconds."""
    with engine(home, database_url) as tank:
        revoked = TokenStore(tank.database).revoke(token_id, by=_BY)
    if json:
        print_json(revoked)
    else:
        out.print(f"token {revoked.id} of {revoked.user!r} is revoked")
