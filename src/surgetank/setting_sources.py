"""Where settings come from: arguments, the environment, files in the current folder; and names that
are none.

An argument wins over the environment, that over `surgetank.toml`, that over `[tool.surgetank]` in
`pyproject.toml`, and that over the default.
"""

from __future__ import annotations

import difflib
import logging
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from surgetank.exceptions import ConfigurationError

PREFIX = "SURGETANK_"
_ALIKE = 0.8
# What Kubernetes puts into every container of a namespace with a service called "surgetank".
_KUBERNETES = re.compile(
    r"(.*_)?(SERVICE_HOST|SERVICE_PORT(_.*)?|PORT(_\d+_(TCP|UDP)(_.*)?)?)", re.IGNORECASE
)
_isolated: ContextVar[bool] = ContextVar("surgetank_isolated", default=False)


@contextmanager
def isolated() -> Iterator[None]:
    """Within this block neither the environment nor a file sets anything: for the demo."""
    token = _isolated.set(True)
    try:
        yield
    finally:
        _isolated.reset(token)


def is_isolated() -> bool:
    """Whether only arguments count."""
    return _isolated.get()


def environment() -> dict[str, str]:
    """The variables with our prefix that are not empty, by the setting's name; and their own
    name."""
    found = {
        name[len(PREFIX) :].lower(): name for name in os.environ if name.upper().startswith(PREFIX)
    }
    return {setting: name for setting, name in found.items() if os.environ[name]}


def check_environment(known: Iterable[str]) -> None:
    """Refuse variables that are misspelt settings, and warn of others that set nothing. Raises
    `ConfigurationError`."""
    names = list(known)
    for setting, variable in environment().items():
        if setting in names or _KUBERNETES.fullmatch(setting):
            continue
        guess = closest(setting, names)
        if guess is not None:
            raise ConfigurationError(
                f"{variable} is set, and there is no such setting.",
                remedy=f"did you mean {PREFIX}{guess.upper()}?",
            )
        logging.getLogger("surgetank").warning("%s is set, and there is no such setting", variable)


def closest(name: str, known: Iterable[str]) -> str | None:
    """The setting that a name is most like, if it is like one."""
    return next(
        iter(difflib.get_close_matches(name.lower(), list(known), n=1, cutoff=_ALIKE)), None
    )


def from_files(known: Iterable[str]) -> dict[str, tuple[Any, str]]:
    """Values with the file they come from. Raises `ConfigurationError` for a file that can't be
    read, or with names in it that are no settings.
    """
    found: dict[str, tuple[Any, str]] = {}
    names = list(known)
    pyproject = _table("pyproject.toml").get("tool", {})
    sections = (
        (
            "[tool.surgetank] in pyproject.toml",
            pyproject.get("surgetank", {}) if isinstance(pyproject, dict) else {},
        ),
        ("surgetank.toml", _table("surgetank.toml")),
    )
    for where, section in sections:
        for name, value in section.items():
            if name not in names:
                guess = closest(name, names)
                raise ConfigurationError(
                    f"There is no setting {name!r}, which {where} sets.",
                    remedy=f"did you mean {guess!r}?"
                    if guess
                    else "see `surgetank config` for the settings.",
                )
            found[name] = (value, where)
    return found


def _table(name: str) -> Mapping[str, Any]:
    try:
        with Path(name).open("rb") as file:
            return tomllib.load(file)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        if name == "pyproject.toml":  # somebody else's file, in which nothing may be said of us
            return {}
        raise ConfigurationError(
            f"{name} can't be read: {error}.", remedy="mend it, or move it away."
        ) from error
