"""Statements that are typed in `surgetank sql`: over several lines, with history and completion."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from surgetank.app.sql import is_complete
from surgetank.cli.output import echo_error, err
from surgetank.exceptions import SurgetankError
from surgetank.private import make_file

_KEYWORDS = (
    "SELECT", "FROM", "WHERE", "GROUP BY", "ORDER BY", "LIMIT", "JOIN", "WITH", "HAVING", "COUNT", "DISTINCT",
    "NOT NULL", "INSERT INTO", "VALUES", "ON CONFLICT", "UPDATE", "DELETE FROM", "CREATE TABLE", "CREATE NAMESPACE",
    "ALTER TABLE", "ADD COLUMN", "DROP TABLE", "PRIMARY KEY", "DESCRIBE", "SHOW TABLES", "SHOW STATS FOR TABLE",
    "STORAGE FLUSH TABLE", "STORAGE FLUSH ALL", "KILL JOB", "EXECUTE AS USER", "SUBSCRIBE TO",
)  # fmt: skip
_HISTORY = 2000
_PROMPT, _MORE = "sql> ", "...> "
_HELP = "A statement ends with ; and a line break. \\timing turns times on and off, \\q ends."


class Typing(Protocol):
    """Who runs what is typed."""

    timing: bool

    def run(self, text: str) -> int:
        """Run statements."""
        ...

    def names(self) -> Sequence[str]:
        """What can be completed."""
        ...


def typed(session: Typing, history: Path, ask: Callable[[str], str] = input) -> int:
    """Statements that somebody types, until the end of input."""
    with _line_editing(history, session.names):
        err.print(_HELP)
        waiting = ""
        while True:
            running = False  # Ctrl-C may come at any moment: one handler for all of them
            try:
                line = ask(_MORE if waiting else _PROMPT)
                if not waiting and line.strip().startswith("\\"):
                    if line.strip() in ("\\q", "\\quit"):
                        return 0
                    _obey(line.strip(), session)
                    continue
                text, waiting = f"{waiting}{line}\n", ""
                if not is_complete(text):
                    waiting = text if text.strip() else ""
                    continue
                running = True
                session.run(text)
            except EOFError:
                return 0
            except SurgetankError as error:
                echo_error(error)
            except KeyboardInterrupt:
                waiting = ""
                err.print("ended by Ctrl-C" if running else "")


def _obey(command: str, session: Typing) -> None:
    if command == "\\timing":
        session.timing = not session.timing
        err.print(f"timing is {'on' if session.timing else 'off'}")
    else:
        err.print(_HELP)


@contextmanager
def _line_editing(history: Path, names: Callable[[], Sequence[str]]) -> Iterator[None]:
    """Arrow keys, completion with Tab, and a history that only its owner reads. Without the
    library that does it, plain lines."""
    try:
        import readline  # noqa: PLC0415 - not on all systems
    except ImportError:
        yield
        return
    with suppress(OSError):
        make_file(history)
        readline.read_history_file(history)
    readline.set_history_length(_HISTORY)
    readline.set_completer(Completer(names))
    readline.set_completer_delims(" \t\n,;()=<>+*/")
    libedit = "libedit" in (readline.__doc__ or "")
    readline.parse_and_bind("bind ^I rl_complete" if libedit else "tab: complete")
    try:
        yield
    finally:
        readline.set_completer(None)
        with suppress(OSError):
            readline.write_history_file(history)


class Completer:
    """Words that begin with what was typed, in the case in which it was: readline asks for them one
    by one."""

    def __init__(self, names: Callable[[], Sequence[str]]) -> None:
        self._names = names
        self._found: list[str] = []

    def __call__(self, typed_so_far: str, number: int) -> str | None:
        """The word of this number."""
        if number == 0:
            folded = typed_so_far.casefold()
            words = [*self._names(), *_KEYWORDS]
            found = [word for word in words if word.casefold().startswith(folded)]
            lower = typed_so_far.islower()
            self._found = [w.lower() if lower and w in _KEYWORDS else w for w in found]
        return self._found[number] if number < len(self._found) else None
