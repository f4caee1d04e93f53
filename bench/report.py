"""What is shown of a result: tables on the terminal, and the same tables between two markers of a
Markdown page."""

from __future__ import annotations

from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table as RichTable

from bench.harness import BenchError, Figure
from bench.machine import is_busy
from bench.measures import MEASURES
from bench.peers import ALL, OURS
from bench.result import Result, Table, number

BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"
SAVER_MEASURES = ("calls", "graph", "threads", "storage")
_NOISE = 1.05
NOTE = "Median / 99th percentile where there are at least 50 samples."


def show(result: Result, *, judged: bool) -> None:
    """Print every table; the bars last, unless the run was too small to judge."""
    console = Console(width=170)
    for name in dict.fromkeys(f.measure for f in result.figures):
        _print(console, result.table(name))
    console.print(f"{NOTE} {_machine(result)}", style="dim")
    if judged and result.verdicts:
        _print(console, result.bars)


def _print(console: Console, table: Table) -> None:
    shown = RichTable(
        title=table.title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold"
    )
    for index, name in enumerate(table.head):
        shown.add_column(name, justify="left" if index == 0 or table.title == "Bars" else "right")
    for row in table.rows:
        style = "red" if row[-1] == "missed" else None
        shown.add_row(*row, style=style)
    console.print(shown)


def rewrite(page: Path, result: Result) -> None:
    """Put the result between the page's markers. Raises `BenchError` when the page has none."""
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise BenchError(
            f"{page} has no markers {BEGIN} and {END}: put both in, each on a line of its own."
        )
    page.write_text(f"{before}{BEGIN}\n\n{markdown(result)}\n{END}{after}", encoding="utf-8")


def markdown(result: Result) -> str:
    """The generated part of the page."""
    measured = dict.fromkeys(f.measure for f in result.figures)
    parts = [
        _machine(result),
        _markdown_table(result.bars),
        "### Where a peer is better",
        _peers_ahead(result),
    ]
    for name in measured:
        module = MEASURES[name]
        parts += [
            f"### {module.TITLE}",
            (module.__doc__ or "").strip().partition("\n\n`python -m")[0],
        ]
        parts.append(_markdown_table(result.table(name)))
        if name in result.parts:
            parts.append(f"Measured {result.parts[name]}.")
    parts.append(NOTE)
    return "\n\n".join(parts) + "\n"


def _markdown_table(table: Table) -> str:
    lines = [table.head, ["---", *["---:"] * (len(table.head) - 1)], *table.rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _machine(result: Result) -> str:
    m, packages = result.machine, result.machine["packages"]
    busy = " **The machine was busy with other work: expect noise.**" if is_busy(m) else ""
    versions = ", ".join(f"{name} {version}" for name, version in packages.items())
    return (
        f"Measured {result.date} in {result.took_s / 60:.0f} minutes on {m['cores']} cores "
        f"({m['processor']}), "
        f"{m['memory_gb']} GB, {m['system']}, {m['file_system']} (fdatasync {m['fdatasync_us']} "
        f"us), load at the "
        f"start {m['load_at_start']}. PostgreSQL {result.server['server_version']} on the same "
        f"machine, fsync "
        f"{result.server['fsync']}; Python {m['python']}; {versions}. {result.scale['rounds']} "
        f"rounds.{busy}"
    )


def _peers_ahead(result: Result) -> str:
    """Every thing where one of LangGraph's savers did better, largest lead first. A twentieth is
    noise."""
    found = {(f.measure, f.key, f.contestant): f for f in result.figures}
    lines: list[tuple[float, str]] = []
    for ours in result.figures:
        if ours.contestant != OURS or ours.measure not in SAVER_MEASURES:
            continue
        theirs = [f for name in ALL if (f := found.get((ours.measure, ours.key, name))) is not None]
        leads = sorted(
            ((_lead(f, ours), f) for f in theirs if _lead(f, ours) > _NOISE), key=lambda x: -x[0]
        )
        if leads:
            told = ", ".join(f"{f.contestant} {number(f.p50)} ({lead:.1f} x)" for lead, f in leads)
            lines.append(
                (leads[0][0], f"- {ours.label}, {ours.unit}: {told}; {OURS} {number(ours.p50)}.")
            )
    ordered = sorted(lines, key=lambda line: -line[0])
    return "\n".join(text for _, text in ordered) or "Nowhere in this run."


def _lead(theirs: Figure, ours: Figure) -> float:
    """How many times better they did than we."""
    return theirs.p50 / ours.p50 if ours.unit.endswith("/s") else ours.p50 / theirs.p50
