"""What all commands share: their options, the engine that they look at, tables and JSON on
stdout."""

from __future__ import annotations

import functools
import getpass
import json
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from surgetank import telemetry
from surgetank.acting import acting_from
from surgetank.app.rendering import size
from surgetank.app.surgetank import Surgetank
from surgetank.durations import seconds_of, shown
from surgetank.encode.sanitize import sanitize_for_json
from surgetank.encode.terminal import block, inline
from surgetank.exceptions import (
    ConfigurationError,
    DatabaseUnavailable,
    InvalidRequest,
    SurgetankError,
)
from surgetank.model import FlushJob
from surgetank.notify.report import to_plain_data
from surgetank.settings import Settings

INTERRUPTED = 130  # the exit code of a program that Ctrl-C ended


class Terminal:
    """Where commands print. Whatever text they print may come from outside: it is never markup, and
    what a terminal would obey is escaped (`encode.terminal`).
    """

    def __init__(self, *, stderr: bool = False) -> None:
        # Without emoji: a thread called "a:smile:b" is shown as it is called.
        self._console = Console(
            stderr=stderr, highlight=False, soft_wrap=True, emoji=False, markup=False
        )

    @property
    def console(self) -> Console:
        """For progress bars. Nothing that comes from outside may be printed with it."""
        return self._console

    def print(
        self,
        text: str = "",
        *,
        end: str = "\n",
        style: str | None = None,
        markup: Literal[False] = False,
    ) -> None:
        """One line: a line break in it is shown by its escape. There is no `markup`."""
        assert not markup
        self._console.print(inline(text), end=end, style=style)

    def block(self, text: str) -> None:
        """Text of several lines."""
        self._console.print(block(text))

    def clear(self) -> None:
        """Clear the screen."""
        self._console.clear()

    def use_stderr(self) -> None:
        """Print to stderr from now on."""
        self._console.file = sys.stderr


class StopSignals:
    """SIGTERM and Ctrl-C, for commands that end in order: `event` is set, `exit_code` says which
    one it was."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self.exit_code = 0
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        self.exit_code = INTERRUPTED if number == signal.SIGINT else 0
        self.event.set()


def start_logging(settings: Settings) -> None:
    """Write the program's log to stderr, in the form that the settings say."""
    telemetry.use_json(settings.log_format == "json")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        telemetry.JsonFormatter()
        if telemetry.is_json()
        else SafeFormatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S%z")
    )
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def announce(text: str, event: str, **fields: object) -> None:
    """A line on stderr about the program itself: `text` for people, `event` with its fields for
    JSON."""
    if telemetry.is_json():
        telemetry.log.info(event, **fields)
    else:
        err.print(text)


def _say_stopped() -> None:
    announce("surgetank: stopped by Ctrl-C", "stopped_by_ctrl_c")


class SafeFormatter(logging.Formatter):
    """Log lines for a terminal: of an exception's text too nothing is obeyed."""

    def format(self, record: logging.LogRecord) -> str:
        return block(super().format(record))


out = Terminal()
err = Terminal(stderr=True)

Home = Annotated[
    Path | None,
    typer.Option(
        "--home", help="Folder of the buffer and the embedded database.", show_default=False
    ),
]
DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        "--database-url",
        help="PostgreSQL URL (better in SURGETANK_DATABASE_URL).",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]


def this_user() -> str:
    """Who runs this; in a container whose user has no name its number."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


By = Annotated[
    str,
    typer.Option("--by", help="Who does it.", default_factory=this_user, show_default="you"),
]


def coded(command: Callable[..., int | None]) -> Callable[..., None]:
    """A command whose result is its exit code, and whose problems are messages instead of
    tracebacks."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            code = command(*args, **kwargs) or 0
            sys.stdout.flush()
        except SurgetankError as error:
            echo_error(error)
            if kwargs.get("json"):
                print_json(
                    {
                        "error": {
                            "type": type(error).__name__,
                            "what": error.what,
                            "remedy": error.remedy,
                        }
                    }
                )
            code = error.exit_code
        except KeyboardInterrupt:
            _say_stopped()
            code = INTERRUPTED
        except BrokenPipeError:  # the reader of our output has gone
            # Python flushes once more at its end, and would complain.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = 1
        except UnicodeEncodeError as error:
            err.print(f"surgetank: {ascii(error.object)[:200]} is not valid text ({error.reason})")
            code = 2
        except Exception:  # noqa: BLE001 - a bug: shown whole, and nothing in it obeyed
            if telemetry.is_json():
                telemetry.log.error("command_crashed", stack_trace=traceback.format_exc())
            else:
                err.block(traceback.format_exc())
            code = 1
        raise typer.Exit(code)

    return run


@contextmanager
def engine(
    home: Path | None,
    database_url: str | None,
    *,
    start_database: bool = True,
    must_exist: bool = False,
    opened: bool = True,
    **settings: Any,
) -> Iterator[Surgetank]:
    """An engine for one command: it flushes only what the command asks for.

    `must_exist` is for commands that look: they make no home. Without `opened` the engine is opened
    by its first use. Raises `ConfigurationError`.
    """
    settings = {"flush_in_process": False, "flush_on_close": False, **settings}
    tank = Surgetank(home, database_url=database_url, start_database=start_database, **settings)
    if must_exist:
        check_exists(tank)
    acts = acting_from.set("cli")
    try:
        yield tank.open() if opened else tank
    finally:
        acting_from.reset(acts)
        tank.close()


@contextmanager
def reading_engine(home: Path | None, database_url: str | None) -> Iterator[Surgetank]:
    """An engine for looking at what is in the database too: an embedded one that doesn't run is
    started, and when that fails, or another database is away, what is in the buffer is shown.
    """
    tank = Surgetank(home, database_url=database_url, flush_in_process=False, flush_on_close=False)
    check_exists(tank)
    try:
        tank.open()
    except DatabaseUnavailable as error:
        echo_error(error)
        tank = Surgetank(
            home,
            database_url=database_url,
            start_database=False,
            flush_in_process=False,
            flush_on_close=False,
        )
    with tank:
        yield tank


def check_exists(tank: Surgetank) -> None:
    """Raises `ConfigurationError` for a buffer that isn't there: looking makes none."""
    if not tank.settings.buffer_exists:
        raise ConfigurationError(
            f"There is no Surgetank here: {tank.settings.buffer_path} does not exist.",
            remedy="name the right folder with --home or SURGETANK_HOME; applications and "
            "`surgetank serve` make it.",
        )


def print_json(value: Any, *, one_line: bool = False) -> None:
    """JSON on stdout, whatever stdout's encoding is; `one_line` for a stream of objects, one
    each."""
    plain = sanitize_for_json(to_plain_data(value))
    sys.stdout.write(json.dumps(plain, allow_nan=False, indent=None if one_line else 2) + "\n")
    sys.stdout.flush()


def echo_error(error: SurgetankError) -> None:
    """A problem on stderr: what happened, and the way out."""
    if telemetry.is_json():
        telemetry.log.error("command_failed", error=error.what, remedy=error.remedy)
        return
    err.print(f"surgetank: {error.what}")
    if error.remedy:
        err.print(f"way out: {error.remedy}")


def table(
    headings: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    right: Collection[int] = (),
    width: int = 240,
) -> None:
    """A plain table on stdout. Columns of these numbers end together on the `right`. Where there is
    no terminal it may be as wide as `width`."""
    shown = Table(*headings, box=None, pad_edge=False, header_style="bold")
    for number in right:
        shown.columns[number].justify = "right"
    for row in rows:
        shown.add_row(*("" if cell is None else inline(str(cell)) for cell in row))
    widest = None if sys.stdout.isatty() else max(240, width)
    Console(highlight=False, emoji=False, markup=False, width=widest).print(shown)


def when(at: float | None) -> str:
    """A moment in local time, with its offset from UTC."""
    if not at:
        return "-"
    try:
        return datetime.fromtimestamp(at).astimezone().isoformat(" ", timespec="seconds")
    except (
        ValueError,
        OverflowError,
        OSError,
    ):  # a time that no calendar has, from a row that somebody else wrote
        return f"{at:.0f} s since 1970 UTC"


def seconds(value: float) -> str:
    """A span for people."""
    return shown(value, digits=1)


def span(text: str) -> float:
    """The seconds that 90s, 30m, 12h, 7d or 2w mean. Raises `ConfigurationError`."""
    try:
        value = seconds_of(text.strip())
    except ValueError:
        raise InvalidRequest(
            f"{text!r} is no span of time.", remedy="write 90s, 30m, 12h, 7d or 2w."
        ) from None
    if not 0 < value < 1e10:
        raise InvalidRequest(
            f"The span {text!r} can't be used.", remedy="use one between 0 and 300 years."
        )
    return value


def exit_code(job: FlushJob) -> int:
    """What a flush means to a script: 0 clean, 3 with warnings, 1 failed."""
    if job.ok:
        return 0
    return 3 if job.warnings else 1


def print_job(job: FlushJob) -> None:
    """One job for a person, its errors and what to do included."""
    result = job.result
    took = f" in {result.seconds:.2f} s" if result.seconds is not None else ""
    mark = "completed with warnings" if job.warnings else job.status.value
    out.print(f"job {job.id}  {mark}{took}")
    if job.stream == "retention":
        out.print(f"  {result.message or ''}")
        for warning in job.warnings:
            out.print(f"  ! {warning}")
        return
    out.print(
        f"  {result.entries_flushed or 0} entries, {result.rows_flushed or 0} rows,"
        f" {size(result.bytes or 0)} written; {result.partitions_processed or 0} partitions,"
        f" {result.partitions_failed or 0} failed; {result.entries_parked or 0} entries parked;"
        f" {result.values_replaced or 0} values replaced in projections",
    )
    for message in [*job.warnings, *([result.message] if result.message else [])]:
        out.print(f"  ! {message}")
    for remedy in dict.fromkeys(e["remedy"] for e in result.errors or () if e.get("remedy")):
        out.print(f"  way out: {remedy}")
