"""How this server is set up, and whether everything is in place: what the doctor finds, processes, storage,
alerts, tokens, settings. Secrets are never shown, but for a token that was made just now, once.
"""

from __future__ import annotations

import platform
import sqlite3
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

from fastapi import APIRouter, Path
from starlette.concurrency import run_in_threadpool
from starlette.responses import RedirectResponse, Response

from surgetank.app.doctor import examine, examine_program
from surgetank.console.banners import banners_of
from surgetank.console.showing import chosen, show, url
from surgetank.console.visits import AdminVisit, OperatorVisit, Visit
from surgetank.exceptions import InvalidRequest, SurgetankError
from surgetank.server.access.roles import Role
from surgetank.server.access.tokens import Token, parse_span
from surgetank.server.http.paging import cursor, position

router = APIRouter()
_PAGE = 50
_ATTEMPTS = 20
_EXPIRY = {"1d": "a day", "30d": "30 days", "90d": "90 days", "52w": "a year", "": "for ever"}
_PACKAGES = (
    "surgetank", "langgraph", "langgraph-checkpoint", "psycopg", "duckdb", "pyarrow", "fastapi", "uvicorn",
)  # fmt: skip
_TABS = (
    ("settings", "Health", "operator"),
    ("settings/workers", "Workers", "operator"),
    ("settings/storage", "Storage", "operator"),
    ("settings/alerts", "Alerts", "operator"),
    ("settings/tokens", "Tokens", "admin"),
    ("settings/effective", "Settings", "admin"),
)
TokenId = Annotated[str, Path(max_length=100, pattern=r"^[0-9a-zA-Z_-]+$")]


def _page(visit: Visit, name: str, tab: str, code: int = 200, **values: Any) -> Response:
    tabs = [(path, title) for path, title, role in _TABS if visit.covers(role)]
    banners = banners_of(visit.services, visit.caller, None)
    return show(visit, name, code, page_name="settings", tabs=tabs, tab=tab, **values, **banners)


@router.get("/settings")
def health(visit: OperatorVisit) -> Response:
    """What `surgetank doctor` finds, with what to do about it, and the versions of everything."""
    tank = visit.services.tank
    versions = {"Python": platform.python_version(), "SQLite": sqlite3.sqlite_version}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    findings = [*examine(tank), *examine_program()]
    return _page(visit, "doctor.html", "settings", findings=findings, versions=versions)


@router.get("/settings/workers")
def workers(visit: OperatorVisit) -> Response:
    """The processes that flush, run graphs or serve, on all hosts."""
    return _page(visit, "workers.html", "settings/workers", **_workers(visit))


@router.get("/settings/workers/now")
def workers_now(visit: OperatorVisit) -> Response:
    """The part of the page that changes."""
    return show(visit, "workers_now.html", **_workers(visit))


def _workers(visit: Visit) -> dict[str, Any]:
    try:
        return {"workers": visit.services.tank.workers(), "problem_text": ""}
    except SurgetankError as error:
        return {"workers": [], "problem_text": error.what}


@router.get("/settings/storage")
def storage(visit: OperatorVisit) -> Response:
    """Who uses the space, and what retention does about it."""
    report = visit.services.tank.storage()
    settings = visit.services.settings
    return _page(visit, "storage.html", "settings/storage", report=report, settings=settings)


@router.get("/settings/alerts")
def alerts(visit: OperatorVisit) -> Response:
    """The channels with their last delivery, the rules, and the delivery log."""
    return _alerts(visit)


@router.post("/settings/alerts/test")
async def test_alerts(visit: OperatorVisit) -> Response:
    """Send a test to every channel, and say what became of it."""
    if not visit.services.tank.alerts.channels:
        return RedirectResponse(url("settings/alerts"), 303)
    tested = await run_in_threadpool(visit.services.tank.alerts.test)
    return await run_in_threadpool(_alerts, visit, tested=tested)


def _alerts(visit: Visit, *, tested: list[tuple[str, str | None]] | None = None) -> Response:
    tank = visit.services.tank
    rules, problem = tank.alerts.states()
    return _page(
        visit,
        "alerts.html",
        "settings/alerts",
        channels=tank.alerts.channel_states(),
        rules=rules,
        problem_text=problem or "",
        attempts=tank.alerts.attempts(limit=_ATTEMPTS),
        tested=tested,
    )


@router.get("/settings/tokens")
def tokens(visit: AdminVisit, after: str | None = None) -> Response:
    """Tokens, newest first, and a form for another."""
    return _tokens(visit, after=after)


def _tokens(visit: Visit, *, after: str | None = None, code: int = 200, **values: Any) -> Response:
    services = visit.services
    at = position(after, str)
    found = services.tokens.page(last_id=at[0] if at else None, limit=_PAGE + 1)
    shown = {"form": {}, "said": "", "secret": "", "made": None, **values}
    return _page(
        visit,
        "tokens.html",
        "settings/tokens",
        code,
        tokens=[(token, *_state(token, services.clock())) for token in found[:_PAGE]],
        next=cursor(found[_PAGE - 1].id) if len(found) > _PAGE else None,
        is_first=after is None,
        roles=[role.value for role in Role],
        expiry=_EXPIRY,
        **shown,
    )


def _state(token: Token, now: float) -> tuple[str, str]:
    if token.revoked_at is not None:
        return "plain", "Revoked"
    return ("ok", "Good") if token.usable(now) else ("plain", "Expired")


@router.post("/settings/tokens")
def create_token(visit: AdminVisit) -> Response:
    """Make a token. This page is the only place where it is ever shown."""
    services, form = visit.services, visit.form()
    expires = chosen(form, "expires", tuple(_EXPIRY))
    try:
        made, secret = services.tokens.create(
            form.get("user", "").strip(),
            Role(chosen(form, "role", tuple(Role))),
            by=visit.caller.user,
            expires_at=services.clock() + parse_span(expires) if expires else None,
            label=form.get("label", "").strip(),
        )
    except InvalidRequest as error:
        return _tokens(visit, code=422, form=form, said=f"{error.what} {error.remedy}")
    return _tokens(visit, secret=secret, made=made)


@router.post("/settings/tokens/{token_id}/revoke")
def revoke_token(visit: AdminVisit, token_id: TokenId) -> Response:
    """End a token for good."""
    services = visit.services
    services.tokens.revoke(token_id, by=visit.caller.user)
    services.login.forget(token_id=token_id)
    services.tickets.forget(token_id)
    return RedirectResponse(url("settings/tokens"), 303)


@router.get("/settings/effective")
def effective(visit: AdminVisit) -> Response:
    """Every setting as it is in force, and where it comes from."""
    found = visit.services.tank.effective_settings()
    changed = [each for each in found if each.origin != "default"]
    rest = [each for each in found if each.origin == "default"]
    return _page(visit, "effective.html", "settings/effective", changed=changed, rest=rest)
