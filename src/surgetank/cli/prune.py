"""`surgetank prune`: delete what is not needed any more, by strategy or by limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from surgetank.app.pruning import STRATEGIES
from surgetank.app.rendering import size
from surgetank.app.surgetank import Surgetank
from surgetank.cli.output import (
    DatabaseUrl,
    Home,
    Json,
    engine,
    exit_code,
    out,
    print_job,
    print_json,
)
from surgetank.durations import seconds_of
from surgetank.exceptions import InvalidRequest
from surgetank.streams.checkpoints.retention.sweep import RetentionReport

_SHOWN = 50


@dataclass(frozen=True, slots=True)
class _Wish:
    """What is asked for, checked."""

    threads: list[str] | None
    strategy: str | None
    age_s: float | None
    keep: int | None
    max_bytes: int | None
    idle_s: float | None

    @property
    def limited(self) -> bool:
        return not (self.age_s is None and self.keep is None and self.max_bytes is None)


def prune(
    threads: Annotated[
        list[str] | None,
        typer.Argument(help="Thread ids; with limits, none means all.", show_default=False),
    ] = None,
    home: Home = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
    strategy: Annotated[
        str | None,
        typer.Option(
            help="keep_latest (the default without limits) keeps the newest checkpoint of each "
            "namespace; delete"
            " removes the threads.",
            show_default=False,
        ),
    ] = None,
    retain_age: Annotated[
        str | None,
        typer.Option(
            help="Delete checkpoints older than this: 30d, 12h, 90m or seconds.", show_default=False
        ),
    ] = None,
    keep: Annotated[
        int | None,
        typer.Option(
            min=1, help="Keep only so many of the newest of each namespace.", show_default=False
        ),
    ] = None,
    max_bytes: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Delete the oldest until a thread has about so many bytes.",
            show_default=False,
        ),
    ] = None,
    delete_threads_older_than: Annotated[
        str | None,
        typer.Option(
            help="Delete whole threads whose newest checkpoint is older than this.",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be deleted.")
    ] = False,
) -> int:
    """Prune threads by strategy or by limits and flush the deletion.

    A checkpoint goes when any limit says so. The newest of each namespace and what a DeltaChannel
    is rebuilt from are always kept; limits also spare what still waits in the buffer. With --json
    the ids are listed.
    """
    wish = _Wish(
        threads=threads or None,
        strategy=strategy,
        age_s=_seconds("--retain-age", retain_age),
        keep=keep,
        max_bytes=max_bytes,
        idle_s=_seconds("--delete-threads-older-than", delete_threads_older_than),
    )
    _check(wish)
    with engine(home, database_url) as tank:
        tank.threads.require(*(wish.threads or ()))
        if wish.limited or wish.idle_s is not None:
            shown = _by_limits(tank, wish, dry_run=dry_run, json=json)
        else:
            shown = _by_strategy(tank, wish, dry_run=dry_run, json=json)
        if dry_run:
            if json:
                print_json(shown)
            return 0
        job = tank.flush()
    if json:
        print_json({"deleted": shown, "job": job})
    else:
        print_job(job)
    return exit_code(job)


def _seconds(option: str, text: str | None) -> float | None:
    if text is None:
        return None
    try:
        value = seconds_of(text, bare=True)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise InvalidRequest(
            f"{option} {text!r} is no age.", remedy="write 30d, 12h, 90m, or seconds."
        )
    return value


def _check(wish: _Wish) -> None:
    if wish.strategy is not None and wish.strategy not in STRATEGIES:
        raise InvalidRequest(
            f"Unknown strategy {wish.strategy!r}.", remedy=f"use one of {', '.join(STRATEGIES)}."
        )
    if wish.strategy is not None and (wish.limited or wish.idle_s is not None):
        raise InvalidRequest(
            "A strategy and limits exclude each other.", remedy="give one of them."
        )
    if not wish.threads and not wish.limited and wish.idle_s is None:
        raise InvalidRequest(
            "No threads are given.",
            remedy="name threads, or give limits (--retain-age, --keep, --max-bytes) to prune all "
            "threads.",
        )


def _by_strategy(tank: Surgetank, wish: _Wish, *, dry_run: bool, json: bool) -> Mapping[str, Any]:
    threads, strategy = wish.threads or [], wish.strategy or "keep_latest"
    plan = tank.pruning.plan(threads, strategy=strategy)
    if strategy == "keep_latest":
        doomed = {t: {ns or "(root)": n for ns, n in by_ns.items()} for t, by_ns in plan.items()}
    else:
        doomed = {t: {"(all)": sum(by_ns.values())} for t, by_ns in plan.items()}
    if not json:
        for thread, counts in doomed.items():
            total = sum(counts.values())
            out.print(f"{thread}: {total} checkpoints {_verb(dry_run=dry_run)} deleted")
    if not dry_run:
        tank.pruning(threads, strategy=strategy)
    return doomed


def _by_limits(tank: Surgetank, wish: _Wish, *, dry_run: bool, json: bool) -> Mapping[str, Any]:
    shown: dict[str, Any] = {"dry_run": dry_run}
    idle: tuple[str, ...] = ()
    if wish.idle_s is not None:
        report = tank.delete_idle_threads(wish.idle_s, threads=wish.threads, dry_run=dry_run)
        idle = report.deleted_threads
        shown["threads"] = list(idle)
    if wish.limited:
        pruned = tank.retain(
            age=wish.age_s,
            keep=wish.keep,
            max_bytes=wish.max_bytes,
            threads=wish.threads,
            dry_run=dry_run,
        )
        pruned = pruned.without(idle)
        shown["checkpoints"] = {p.thread_id: p.doomed for p in pruned.plans}
        shown["freed_bytes_estimate"] = pruned.freed_bytes
        shown["left_alone"] = list(pruned.skipped)
        if not json:
            _show(pruned)
    if not json:
        for thread in idle:
            out.print(f"{thread}: the whole thread {'would be' if dry_run else 'is'} deleted")
    return shown


def _show(report: RetentionReport) -> None:
    verb = _verb(dry_run=report.dry_run)
    for p in report.plans[:_SHOWN]:
        why = ", ".join(f"{n} by {reason}" for reason, n in p.reasons.items())
        out.print(
            f"{p.thread_id}: {p.count} of {p.checkpoints} checkpoints {verb} deleted ({why}),"
            f" about {size(p.freed_bytes or 0)} of {size(p.bytes)}",
        )
    if len(report.plans) > _SHOWN:
        out.print(f"... and {len(report.plans) - _SHOWN} more threads")
    for thread in report.skipped:
        out.print(f"{thread}: can't be read and is left alone; see the log")
    out.print(
        f"{report.checkpoints} checkpoints of {len(report.plans)} threads {verb} deleted,"
        f" about {size(report.freed_bytes or 0)} (estimate); {report.threads_seen} threads looked "
        f"at"
    )


def _verb(*, dry_run: bool) -> str:
    return "would be" if dry_run else "are"
