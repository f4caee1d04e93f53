"""`surgetank prune`: delete what is not needed any more."""

from __future__ import annotations

from typing import Annotated

import typer

from surgetank.checkpoints.maintenance import STRATEGIES
from surgetank.checkpoints.steps import run
from surgetank.cli.output import DatabaseUrl, Home, Json, engine, exit_code, out, print_job, print_json
from surgetank.exceptions import ConfigurationError


def prune(
    threads: Annotated[list[str], typer.Argument(help="Thread ids.")],
    home: Home = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
    strategy: Annotated[
        str,
        typer.Option(
            help="keep_latest keeps the newest checkpoint of each namespace; delete removes the threads."
        ),
    ] = "keep_latest",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be deleted.")] = False,
) -> int:
    """Prune threads and flush the deletion. What a DeltaChannel is rebuilt from is always kept."""
    if strategy not in STRATEGIES:
        raise ConfigurationError(
            f"Unknown strategy {strategy!r}.", remedy=f"use one of {', '.join(STRATEGIES)}."
        )
    with engine(home, database_url) as tank:
        saver = tank.checkpointer()
        if strategy == "keep_latest":
            plan = {t: run(saver.maintenance.plan_prune(t, saver.metadata_of)) for t in threads}
            doomed = {t: {ns or "(root)": len(ids) for ns, ids in by_ns.items()} for t, by_ns in plan.items()}
        else:
            doomed = {
                t: {"(all)": sum(1 for _ in saver.list({"configurable": {"thread_id": t}}))} for t in threads
            }
        if json and dry_run:
            print_json(doomed)
        elif not json:
            for thread, counts in doomed.items():
                total = sum(counts.values())
                out.print(
                    f"{thread}: {total} checkpoints {'would be' if dry_run else 'are'} deleted", markup=False
                )
        if dry_run:
            return 0
        saver.prune(threads, strategy=strategy)
        job = tank.flush()
    if json:
        print_json({"deleted": doomed, "job": job})
    else:
        print_job(job)
    return exit_code(job)
