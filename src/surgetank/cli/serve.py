"""`surgetank serve`: the HTTP server, until SIGTERM or Ctrl-C."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from surgetank.app.surgetank import Surgetank
from surgetank.cli.output import INTERRUPTED, DatabaseUrl, Home, announce, start_logging
from surgetank.cli.process import keep_what_is_loaded
from surgetank.cli.projects import open_graphs
from surgetank.exceptions import MissingExtra
from surgetank.workflows.graphs.config import load


def serve(
    home: Home = None,
    database_url: DatabaseUrl = None,
    host: Annotated[
        str | None,
        typer.Option(help="Address to listen on; 127.0.0.1 by default.", show_default=False),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65535, help="Port; 8321 by default, 0 for any free one.", show_default=False
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            "-c",
            help="A langgraph.json: its graphs are served, and run in this process.",
            show_default=False,
        ),
    ] = None,
    runs: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Most runs at once in this process; 0 leaves them to `surgetank worker --runs N`.",
            show_default=False,
        ),
    ] = None,
    no_auth: Annotated[
        bool,
        typer.Option(
            "--no-auth", help="Ask nobody for a token. On loopback only, for development."
        ),
    ] = False,
) -> int:
    """Serve threads, jobs, parked entries and tokens over HTTP, and flush in the background.

    With --config it is an agent server: clients of LangGraph's server start runs of the graphs that
    the file names. Runs that are under way when it is told to stop are given back and go on from
    their last checkpoint.

    It starts and serves what is hot while PostgreSQL is down. Beyond loopback it refuses to start
    without a token or SURGETANK_ADMIN_TOKEN. On SIGTERM it finishes what is under way, drains the
    buffer and ends, in bounded time.
    """
    try:
        from surgetank.console.app import Console  # noqa: PLC0415 - needs the extra
        from surgetank.server import serve as serving  # noqa: PLC0415
        from surgetank.server.app import create_app  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("surgetank"):
            raise
        raise MissingExtra(error.name or "fastapi", "server", "The server") from error
    project = load(config) if config is not None else None
    tank = Surgetank(home, database_url=database_url, server_host=host, server_port=port)
    settings = tank.settings
    start_logging(settings)
    # The port is taken first: where it is another's, no buffer is opened and no PostgreSQL started.
    with serving.bind(settings.server_host, settings.server_port) as bound, tank:
        graphs = open_graphs(tank, project) if project is not None else None
        worker = tank.runs.service(graphs, most=runs) if graphs is not None and runs != 0 else None
        app = create_app(tank, graphs=graphs, no_auth=no_auth, worker=worker, mounts=[Console])
        warning = serving.check_access(app.state.services, settings.server_host)
        if warning is not None:
            announce(f"surgetank serve: {warning}", "server_warning", warning=warning)
        serving.start_listening(bound)
        address, number = bound.getsockname()[:2]
        url = f"http://[{address}]:{number}" if ":" in address else f"http://{address}:{number}"

        def started() -> None:
            keep_what_is_loaded()
            said = f"surgetank serve: {url}, node {settings.node}"
            announce(said, "server_started", url=url, node=settings.node)

        server = serving.make_server(app, settings, started=started)
        server.run(sockets=[bound])
        announce("surgetank serve: stopping", "server_stopping")
        with serving.end_within(serving.longest_stop_s(settings)):
            if worker is not None:  # the application has stopped it, unless Ctrl-C came twice
                worker.stop(settings.shutdown_timeout)
            tank.close()
    return INTERRUPTED if server.interrupted else 0
