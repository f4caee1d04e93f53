"""`make bench`, or `python -m bench`: Surgetank beside LangGraph's own savers, in one run on this
machine.

All write the same data to the same PostgreSQL server (embedded, fsync on), take turns in every
round, and the medians are shown with their ratios and the bars that Surgetank sets itself.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from bench import machine, plot, report
from bench.bars import unjudged
from bench.harness import SMOKE, BenchError, Scale, Scene
from bench.measures import MEASURES
from bench.result import Result
from bench.server import running_server

ROOT = Path(__file__).parents[1]
LATEST = ROOT / "bench/results/latest.json"
PAGE = ROOT / "docs/reference/benchmarks.md"
_NAMES = "\n".join(f"  {name:11} {module.TITLE}" for name, module in MEASURES.items())
EPILOG = f"""what is measured (NAME):
{_NAMES}

examples:
  python -m bench                              everything, written to bench/results/latest.json and latest.svg
  python -m bench --only calls --rounds 20     one measure, more rounds for a quieter median
  python -m bench --memory-mb 1024 --docs      the full run; rewrites docs/reference/benchmarks.md as well
  python -m bench --docs --from bench/results/latest.json      rewrites the page from a run that was made before
  python -m bench --only redis_put --json bench/results/redis.json      a part, when the machine is quiet
  python -m bench --docs --from bench/results/latest.json bench/results/redis.json      the page from several runs
  python -m bench --smoke                      a few steps of everything, to show that it works (part of make test)

A run with --only or --smoke leaves the latest result alone, unless --json names a file. The exit code is 0 also
when a bar is missed: a figure is a finding, not a failure. It is 1 when a measurement can't be believed.
"""


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    plain = Scale()
    parser.add_argument(
        "--smoke", action="store_true", help="everything tiny; its figures mean nothing"
    )
    parser.add_argument(
        "--only",
        action="append",
        metavar="NAME",
        choices=MEASURES,
        help="measure just this (again for more)",
    )
    parser.add_argument(
        "--rounds", type=_positive, help=f"rounds that count (default {plain.rounds})"
    )
    parser.add_argument(
        "--steps", type=_positive, help=f"steps of calls and graph (default {plain.steps})"
    )
    parser.add_argument(
        "--entries",
        type=_positive,
        help=f"entries of many threads or one (default {plain.entries:,})",
    )
    parser.add_argument(
        "--memory-mb",
        type=_positive,
        help=f"waiting megabytes of memory (default {plain.memory_mb})",
    )
    parser.add_argument(
        "--query-rows",
        type=_positive,
        help=f"rows of a table that is read (default {plain.query_rows:,})",
    )
    parser.add_argument(
        "--home",
        type=Path,
        help="folder on the disk to measure (default the system's temporary folder)",
    )
    parser.add_argument(
        "--json", type=Path, metavar="PATH", help="write the result here, and the plot beside it"
    )
    parser.add_argument(
        "--docs", action="store_true", help=f"rewrite the table in {PAGE.relative_to(ROOT)}"
    )
    parser.add_argument(
        "--from",
        dest="sources",
        type=Path,
        nargs="+",
        metavar="JSON",
        help="measure nothing, show this result; of several, the newest figures of each measure",
    )
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is too few")
    return number


def checked(parser: argparse.ArgumentParser, given: list[str] | None = None) -> argparse.Namespace:
    """The options; those that make no sense together are refused."""
    options = parser.parse_args(given)
    if options.docs and (options.smoke or options.only):
        parser.error(
            "--docs shows a whole run: leave out --smoke and --only, or name a result with --from"
        )
    if options.home is not None and not options.home.is_dir():
        parser.error(f"--home {options.home} is no folder")
    for source in options.sources or ():
        if not source.is_file():
            parser.error(f"--from {source} is no file: `python -m bench --json PATH` makes one")
    return options


def scale_of(options: argparse.Namespace) -> Scale:
    """The scale that was asked for."""
    asked = {
        name: getattr(options, name)
        for name in ("rounds", "steps", "entries", "memory_mb", "query_rows")
    }
    return dataclasses.replace(
        SMOKE if options.smoke else Scale(),
        **{name: value for name, value in asked.items() if value is not None},
    )


def measure(names: list[str], scale: Scale, where: Path | None) -> Result:
    """Run the named measures, one after the other, on one server."""
    with tempfile.TemporaryDirectory(
        prefix="stk-bench-", dir=where, ignore_cleanup_errors=True
    ) as folder:
        home = Path(folder).resolve()
        told = machine.describe(home)
        if machine.is_busy(told):
            print(
                f"note: the machine is busy (load {told['load_at_start']}); expect noise",
                file=sys.stderr,
            )
        with running_server(home / "server") as server:
            start, figures = time.monotonic(), []
            for name in names:
                begun = time.monotonic()
                own = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=home))
                figures += MEASURES[name].run(Scene(scale, own, server)).figures()
                print(f"{name}: {time.monotonic() - begun:.1f} s", file=sys.stderr, flush=True)
            missing = [bar.key for bar in unjudged(figures, names, scale)]
            if missing:
                raise BenchError(
                    f"nothing was measured for {missing}: bench/bars.py names keys that are gone"
                )
            took = time.monotonic() - start
            date = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
            return Result(
                date,
                round(took, 1),
                told,
                server.settings(),
                dataclasses.asdict(scale),
                tuple(figures),
            )


def main() -> int:
    """Measure, show, write."""
    options = checked(arguments())
    try:
        if options.sources:
            result = Result.joined([Result.read(source) for source in options.sources])
        else:
            result = measure(options.only or list(MEASURES), scale_of(options), options.home)
        report.show(result, judged=not options.smoke)
        whole = not options.sources and not options.only and not options.smoke
        target = options.json or (LATEST if whole else None)
        if target is not None:
            result.write(target)
            target.with_suffix(".svg").write_text(plot.svg(result), encoding="utf-8")
            print(f"written: {target} and {target.with_suffix('.svg').name}")
        if options.docs:
            report.rewrite(PAGE, result)
            PAGE.with_suffix(".svg").write_text(plot.svg(result), encoding="utf-8")
            print(f"written: {PAGE}")
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
