"""How a database is named: its URL without the password, and what is wrong with one that can't be
read."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import conninfo

from surgetank.exceptions import ConfigurationError


def redact_url(url: str) -> str:
    """The URL without its password. Raises `ConfigurationError` for something that is no URL."""
    parts = parse_url(url)
    host, port, name = (parts.get(k, "") for k in ("host", "port", "dbname"))
    user = f"{parts['user']}@" if parts.get("user") else ""
    if str(host).startswith("/"):  # the folder of a Unix socket
        return f"postgresql://{user}/{name}?host={host}{f'&port={port}' if port else ''}"
    return f"postgresql://{user}{host}{f':{port}' if port else ''}/{name}"


def parse_url(url: str) -> dict[str, Any]:
    """The URL's parameters. Raises `ConfigurationError`, which repeats nothing of it."""
    try:
        parts = conninfo.conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        # Not chained: libpq's message may repeat the URL, and with it the password.
        raise ConfigurationError(
            "The database URL can't be read.",
            remedy="use postgresql://user:password@host:5432/database (special characters "
            "percent-encoded).",
        ) from None
    if not url.strip() or not parts:
        raise ConfigurationError(
            "The database URL is empty.",
            remedy="use postgresql://user:password@host:5432/database, or leave it out.",
        )
    ports, hosts = (str(parts.get(name) or "").split(",") for name in ("port", "host"))
    if any(port and not port.isdecimal() for port in ports) or any(
        "@" in host[1:] for host in hosts
    ):
        # What stands there may be a piece of the password, so it isn't shown.
        raise ConfigurationError(
            "Host or port in the database URL can't be read.",
            remedy="percent-encode special characters in the password (@ is %40, / is %2F, : is "
            "%3A).",
        )
    return dict(parts)
