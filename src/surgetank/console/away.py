"""Pages of what only the database has, while it is away: each says so, and shows what the buffer knows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from surgetank.console.banners import banners_of
from surgetank.console.fresh import Fresh
from surgetank.console.showing import show, url
from surgetank.console.visits import PATH, Visit
from surgetank.events.types import EventType, RunEvent
from surgetank.server.access.roles import Role

_EVENTS, _PAGE = 5000, 500
_EVENTS_S = 5.0
_SHOWN = 50


@dataclass(frozen=True, slots=True)
class _Section:
    """Whose addresses begin so: the page in the navigation, its heading, and what it can't show."""

    path: str
    page_name: str
    title: str
    what: str


_SECTIONS = (
    _Section("/inbox/statistics", "inbox", "Decisions", "What people decided is counted"),
    _Section("/inbox", "inbox", "Inbox", "Questions to people, and what they decided, are kept"),
    _Section("/thread", "threads", "Conversation", "This state of the conversation is"),
    _Section("/errors", "errors", "System error", "This error is"),
    _Section("/audit", "audit", "Audit", "The audit is kept"),
    _Section("/settings/tokens", "settings", "Tokens", "The list of tokens is"),
    _Section("/", "", "Not now", "What this page shows is"),
)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A question that events have told of and not yet of its answer."""

    thread_id: str
    step: str
    at: float


def page_while_away(visit: Visit) -> Any:
    """The page that was asked for, without what only the database has. Raises `BufferUnavailable`."""
    path = visit.request.url.path.removeprefix(PATH)
    section = next(each for each in _SECTIONS if path.startswith(each.path))
    thread_id = visit.request.query_params.get("id", "") if section.page_name == "threads" else ""
    asked = _asked(visit) if section.page_name == "inbox" else []
    return show(
        visit,
        "away.html",
        page_name=section.page_name,
        title=section.title,
        what=section.what,
        thread_id=thread_id,
        asked=asked,
        here=url(path.removeprefix("/"), **dict(visit.request.query_params)),
        **banners_of(visit.services, visit.caller, None),
    )


def _asked(visit: Visit) -> list[_Asked]:
    """Questions of threads that the visitor may read, the oldest first."""
    fresh: Fresh = visit.request.app.state.fresh
    events = fresh.get("asked", _EVENTS_S, lambda: _open(visit))
    found = [
        _Asked(event.thread_id, str(event.data.get("step_name") or "A question"), event.at)
        for event in events
        if event.thread_id is not None
    ]
    readable = visit.services.visibility.readable(visit.caller, {each.thread_id for each in found})
    everything = visit.caller.role is Role.ADMIN
    return [each for each in found if everything or each.thread_id in readable][:_SHOWN]


def _open(visit: Visit) -> list[RunEvent]:
    """Of the newest events those that ask, without those that were answered since."""
    log = visit.services.tank.events
    at, asked = log.before_last(_EVENTS), dict[str, RunEvent]()
    while True:
        gap, page = log.tail(at, limit=_PAGE)
        for event in page:
            name = str(event.data.get("checkpoint_id"))
            if event.type == EventType.CHECKPOINT_READY:
                asked[name] = event
            elif event.type == EventType.CHECKPOINT_RESOLVED:
                asked.pop(name, None)
        if not page and gap is None:
            return list(asked.values())
        at = page[-1].id if page else gap.missed_to if gap is not None else at
