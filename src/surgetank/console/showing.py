"""From values to pages: templates, how times, sizes and counts are written, and the headers of a page.

Nothing of a page may run but what the package has: no inline script or style, nothing from elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import jinja2  # pyright: ignore[reportMissingImports]
from markupsafe import Markup  # pyright: ignore[reportMissingImports]
from starlette.responses import HTMLResponse

from surgetank import durations
from surgetank.app.rendering import size
from surgetank.console.assets import Assets
from surgetank.console.visits import PATH, Visit

_SECURITY = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "Referrer-Policy": "same-origin",  # without it browsers hide from us where a form came from
    "Vary": "Cookie",
}
# Page, title, the least role that sees it.
_PAGES = (
    ("overview", "Overview", "operator"),
    ("threads", "Threads", "viewer"),
    ("inbox", "Inbox", "viewer"),
    ("jobs", "Flush jobs", "operator"),
    ("parked", "Parked entries", "operator"),
    ("errors", "Errors", "admin"),
    ("tables", "Tables", "viewer"),
    ("sql", "SQL", "viewer"),
    ("audit", "Audit", "operator"),
    ("settings", "Settings", "operator"),
)
_STATES = {
    "pending": "Waits to begin", "running": "Running", "awaiting_checkpoint": "Waits for a person",
    "completed": "Completed", "failed": "Failed", "cancelled": "Cancelled",
}  # fmt: skip
_DAY_S = 86_400.0
_TABLE_KINDS = {
    "USER": "each user's own", "SHARED": "shared by all", "STREAM": "each user's, for a time",
}  # fmt: skip


class Showing:
    """The templates of the console."""

    def __init__(self, assets: Assets, version: str) -> None:
        self._env = jinja2.Environment(
            loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
            autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
            lstrip_blocks=True,
        )  # fmt: skip
        self._env.filters |= {
            "time": time, "span": span, "size": size, "count": count, "number": number, "share": share, "said": said,
        }  # fmt: skip
        self._env.globals |= {
            "base": PATH, "asset": assets.url, "version": version, "states": _STATES,
            "thread_url": thread_url, "url": url, "page_name": "", "table_kinds": _TABLE_KINDS,
        }  # fmt: skip

    def page(self, visit: Visit, name: str, code: int = 200, **values: Any) -> HTMLResponse:
        """A page, or a part of one, for this visitor."""
        pages = [(page, title) for page, title, role in _PAGES if visit.covers(role)]
        text = self._env.get_template(name).render(
            visit=visit, who=visit.who, csrf=visit.csrf, pages=pages, **values
        )
        response = HTMLResponse(text.encode(errors="backslashreplace"), code, dict(_SECURITY))
        visit.keep(response)
        return response


def show(visit: Visit, name: str, code: int = 200, **values: Any) -> HTMLResponse:
    """A page, or a part of one, for this visitor."""
    showing: Showing = visit.request.app.state.showing
    return showing.page(visit, name, code, **values)


def url(page: str, /, **query: Any) -> str:
    """The address of a page; what is None or empty is left out."""
    given = {name: value for name, value in query.items() if value not in (None, "")}
    return f"{PATH}/{page}" + (f"?{urlencode(given, errors='surrogatepass')}" if given else "")


def thread_url(thread_id: str) -> str:
    """The address of a thread's page: the name may be any text, so that it is no part of a path."""
    return url("thread", id=thread_id)


def time(at: float | datetime | str | None) -> Markup | str:
    """A moment. The browser shows it in its own zone, and the exact one on hover."""
    if at is None:
        return "never"
    try:
        if isinstance(at, str):
            moment = datetime.fromisoformat(at)
        else:
            moment = at if isinstance(at, datetime) else datetime.fromtimestamp(at, UTC)
    except (ValueError, OverflowError, OSError):
        return "at an unknown time"
    moment = moment.astimezone(UTC)
    return Markup('<time datetime="{}">{}</time>').format(
        moment.isoformat(timespec="milliseconds"), f"{moment:%Y-%m-%d %H:%M:%S} UTC"
    )


def span(seconds: float) -> str:
    """A time that something took or lasts."""
    if 0.0005 < seconds < 1:
        return f"{max(1, round(1000 * seconds))} ms"
    if seconds >= _DAY_S:
        days = round(seconds / _DAY_S, 1)
        return f"{days:g} {'day' if days == 1 else 'days'}"
    return durations.shown(seconds, digits=1 if 1 <= seconds < 10 else 0)


def said(text: str) -> Markup:
    """A sentence, with what stands between backticks as code."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return Markup("{}").format(text)
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if number % 2 else Markup("{}").format(part)
        for number, part in enumerate(parts)
    )


def share(part: int, of: int) -> str:
    """A part of something in per cent, never rounded up to all of it."""
    if not of:
        return "none"
    return "100 %" if part == of else f"{int(1000 * part / of) / 10:g} %"


def number(value: float) -> str:
    """A number with its thousands apart."""
    return f"{value:,}"


def count(value: int, one: str, several: str = "") -> str:
    """So many of something."""
    return f"{value:,} {one if value == 1 else several or one + 's'}"


def chosen(query: Mapping[str, str], name: str, allowed: tuple[str, ...]) -> str:
    """A choice of a page's filter; the first where something else was asked for."""
    given = query.get(name, "")
    return given if given in allowed else allowed[0]
