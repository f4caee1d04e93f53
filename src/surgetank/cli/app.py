"""The command line: one typer app, one module per command group, errors as a cause and a way out.

Exit codes: 0 all is well; 1 something failed or needs attention; 2 the command or a setting can't
be used as given, or what it names does not exist; 3 done, with warnings; 130 stopped by Ctrl-C.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer

from surgetank.cli import (
    adopt,
    alerts,
    analyst,
    audit,
    config,
    demo,
    dev,
    doctor,
    erase,
    errors,
    export_user,
    flush,
    graphs,
    inbox,
    jobs,
    metrics,
    move_buffer,
    originals,
    parked,
    prune,
    recover,
    repair,
    run,
    runs,
    serve,
    sql,
    status,
    storage,
    tables,
    tail,
    token,
    transfer,
    worker,
    workers,
)
from surgetank.cli.output import coded, out

EPILOG = (
    "Settings come from the options, then from SURGETANK_* variables (SURGETANK_HOME, "
    "SURGETANK_DATABASE_URL, ...), "
    "then from surgetank.toml or [tool.surgetank] in pyproject.toml in this folder; `surgetank "
    "config` shows them. "
    "Exit codes: 0 all is well, 1 something failed or needs attention, 2 wrong usage or setting, 3 "
    "done with warnings, "
    "130 ended by Ctrl-C."
)

app = typer.Typer(
    name="surgetank",
    help="A write-behind store for agent state: LangGraph checkpoints are accepted by a local "
    "buffer and drained "
    "into PostgreSQL.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",  # a paragraph is filled, whatever the width of the terminal
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("demo")(coded(demo.demo))
app.command("config")(coded(config.config))
app.command("status")(coded(status.status))
app.command("flush")(coded(flush.flush))
app.add_typer(jobs.app, name="jobs")
app.add_typer(parked.app, name="parked")
app.add_typer(errors.app, name="errors")
app.command("sql")(coded(sql.sql))
app.command("tables")(coded(tables.tables))
app.command("import-table")(coded(tables.import_table))
app.command("export-table")(coded(tables.export_table))
app.command("tail")(coded(tail.tail))
app.command("originals")(coded(originals.originals))
app.add_typer(alerts.app, name="alerts")
app.add_typer(audit.app, name="audit")
app.add_typer(analyst.app, name="analyst")
app.command("metrics")(coded(metrics.metrics))
app.command("prune")(coded(prune.prune))
app.command("storage")(coded(storage.storage))
app.command("import")(coded(transfer.import_))
app.command("export")(coded(transfer.export))
app.command()(coded(repair.repair))
app.command("erase-user")(coded(erase.erase_user))
app.command("export-user")(coded(export_user.export_user))
app.command("move-buffer")(coded(move_buffer.move_buffer))
app.command("recover")(coded(recover.recover))
app.command("graphs")(coded(graphs.graphs))
app.command("run")(coded(run.run))
app.add_typer(runs.app, name="runs")
app.command("cancel")(coded(runs.cancel))
for _answer in (inbox.inbox, inbox.approve, inbox.reject, inbox.edit, inbox.respond, inbox.ignore):
    app.command(_answer.__name__)(coded(_answer))
app.command("worker")(coded(worker.worker))
app.command("workers")(coded(workers.workers))
app.command("serve")(coded(serve.serve))
app.command("dev")(coded(dev.dev))
app.add_typer(token.app, name="token")
app.command("adopt")(coded(adopt.adopt))
app.command("migrate")(coded(doctor.migrate))
app.command("doctor")(coded(doctor.doctor))


def _version(asked: bool) -> None:
    if asked:
        out.print(f"surgetank {version('surgetank')}")
        raise typer.Exit


@app.callback()
def _options(
    _asked: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Print the version and end."
        ),
    ] = False,
) -> None:
    """What stands before a command."""


def main() -> None:
    """Run the command."""
    app()
