"""`surgetank serve`: the HTTP server, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import logging
import sys
from typing import Annotated

import typer

from surgetank.cli.output import DatabaseUrl, Home, SafeFormatter, err
from surgetank.engine import Surgetank
from surgetank.exceptions import MissingExtra


def serve(
    home: Home = None,
    database_url: DatabaseUrl = None,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on; 127.0.0.1 by default.", show_default=False)
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Port; 8321 by default, 0 for any free one.", show_default=False),
    ] = None,
    no_auth: Annotated[
        bool,
        typer.Option("--no-auth", help="Ask nobody for a token. On loopback only, for development."),
    ] = False,
) -> int:
    """Serve threads, jobs, parked entries and tokens over HTTP, and flush in the background.

    It starts and serves what is hot while PostgreSQL is down. Beyond loopback it refuses to start without a token or
    SURGETANK_ADMIN_TOKEN. On SIGTERM it finishes what is under way, drains the buffer and ends, in bounded time.
    """
    try:
        from surgetank.server import serve as serving  # noqa: PLC0415 - needs the extra
        from surgetank.server.app import create_app  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("surgetank"):
            raise
        raise MissingExtra("fastapi", "server", "The server") from error
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(SafeFormatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    tank = Surgetank(home, database_url=database_url, server_host=host, server_port=port)
    settings = tank.settings
    with tank:
        app = create_app(tank, no_auth=no_auth)
        warning = serving.check_access(app.state.services, settings.server_host)
        if warning is not None:
            err.print(f"surgetank serve: {warning}")
        with serving.listen(settings.server_host, settings.server_port) as listening:
            address, bound = listening.getsockname()[:2]
            shown = f"[{address}]" if ":" in address else address
            err.print(f"surgetank serve: http://{shown}:{bound}, node {settings.node}")
            serving.make_server(app, settings).run(sockets=[listening])
        err.print("surgetank serve: stopping")
        with serving.end_within(serving.longest_stop_s(settings)):
            tank.close()
    return 0
