"""The console without a browser: who may see which page, what its pages forbid, what it refuses."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.routing import iter_route_contexts

from support.console import browser, log_in, secret_of
from support.http import ADMIN_TOKEN, Server, running
from support.savers import put
from surgetank.console.app import ROUTERS, Console
from surgetank.console.assets import FOLDER
from surgetank.server.access.roles import Role

ROLES = tuple(Role)
ERROR = "00000000-0000-5000-8000-000000000000"
# Each route with what is asked, and the least role that is let in.
ROUTES = {
    ("GET", "/"): ("/", "viewer"),
    ("POST", "/logout"): ("/logout", "viewer"),
    ("POST", "/ticket"): ("/ticket", "viewer"),
    ("GET", "/banners"): ("/banners", "viewer"),
    ("GET", "/overview"): ("/overview", "operator"),
    ("GET", "/overview/now"): ("/overview/now", "operator"),
    ("GET", "/overview/series"): ("/overview/series", "operator"),
    ("GET", "/threads"): ("/threads", "viewer"),
    ("GET", "/thread/checkpoint"): ("/thread/checkpoint?id=none&at=x", "viewer"),
    ("POST", "/thread/replay"): ("/thread/replay?id=none&at=x", "user"),
    ("POST", "/thread/fork"): ("/thread/fork?id=none&at=x", "user"),
    ("POST", "/thread/cancel"): (f"/thread/cancel?id=none&run={ERROR}", "user"),
    ("GET", "/thread/start"): ("/thread/start", "user"),
    ("POST", "/thread/start"): ("/thread/start", "user"),
    ("GET", "/inbox"): ("/inbox", "viewer"),
    ("GET", "/inbox/now"): ("/inbox/now", "viewer"),
    ("GET", "/inbox/statistics"): ("/inbox/statistics", "viewer"),
    ("GET", "/inbox/{checkpoint_id}"): (f"/inbox/{ERROR}", "viewer"),
    ("GET", "/inbox/{checkpoint_id}/who"): (f"/inbox/{ERROR}/who", "viewer"),
    ("POST", "/inbox/{checkpoint_id}/check"): (f"/inbox/{ERROR}/check", "user"),
    ("POST", "/inbox/{checkpoint_id}/assign"): (f"/inbox/{ERROR}/assign", "user"),
    ("GET", "/inbox/{checkpoint_id}/now"): (f"/inbox/{ERROR}/now", "viewer"),
    ("POST", "/inbox/{checkpoint_id}"): (f"/inbox/{ERROR}", "user"),
    ("GET", "/jobs"): ("/jobs", "operator"),
    ("GET", "/jobs/health"): ("/jobs/health", "operator"),
    ("GET", "/jobs/health/series"): ("/jobs/health/series", "operator"),
    ("GET", "/jobs/{job_id}"): ("/jobs/none", "operator"),
    ("POST", "/jobs/{job_id}/retry"): ("/jobs/none/retry", "operator"),
    ("POST", "/flush"): ("/flush", "operator"),
    ("GET", "/parked"): ("/parked", "operator"),
    ("GET", "/parked/{parked_id}"): ("/parked/1", "operator"),
    ("POST", "/parked/retry"): ("/parked/retry", "operator"),
    ("POST", "/parked/discard"): ("/parked/discard", "admin"),
    ("GET", "/errors"): ("/errors", "admin"),
    ("POST", "/errors/act"): ("/errors/act", "admin"),
    ("POST", "/errors/delete"): ("/errors/delete", "admin"),
    ("GET", "/errors/statistics"): ("/errors/statistics", "admin"),
    ("GET", "/errors/series"): ("/errors/series", "admin"),
    ("GET", "/errors/{error_id}/series"): (f"/errors/{ERROR}/series", "admin"),
    ("GET", "/errors/{error_id}"): (f"/errors/{ERROR}", "admin"),
    ("POST", "/errors/{error_id}/act"): (f"/errors/{ERROR}/act", "admin"),
    ("GET", "/tables"): ("/tables", "viewer"),
    ("GET", "/table"): ("/table?namespace=a&name=b", "viewer"),
    ("POST", "/table/flush"): ("/table/flush?namespace=a&name=b", "operator"),
    ("GET", "/erasures"): ("/erasures", "admin"),
    ("GET", "/erasures/now"): ("/erasures/now", "admin"),
    ("POST", "/erasures"): ("/erasures", "admin"),
    ("GET", "/sql"): ("/sql", "viewer"),
    ("POST", "/sql"): ("/sql", "viewer"),
    ("GET", "/audit"): ("/audit", "operator"),
    ("GET", "/audit/export"): ("/audit/export", "admin"),
    ("GET", "/settings"): ("/settings", "operator"),
    ("GET", "/settings/workers"): ("/settings/workers", "operator"),
    ("GET", "/settings/workers/now"): ("/settings/workers/now", "operator"),
    ("GET", "/settings/storage"): ("/settings/storage", "operator"),
    ("GET", "/settings/alerts"): ("/settings/alerts", "operator"),
    ("POST", "/settings/alerts/test"): ("/settings/alerts/test", "operator"),
    ("GET", "/settings/tokens"): ("/settings/tokens", "admin"),
    ("POST", "/settings/tokens"): ("/settings/tokens", "admin"),
    ("POST", "/settings/tokens/{token_id}/revoke"): ("/settings/tokens/none/revoke", "admin"),
    ("GET", "/settings/effective"): ("/settings/effective", "admin"),
    ("GET", "/sql/names"): ("/sql/names", "viewer"),
    ("POST", "/sql/cancel"): ("/sql/cancel", "viewer"),
    ("GET", "/sql/result"): ("/sql/result?id=x", "viewer"),
    ("GET", "/sql/result/chart"): ("/sql/result/chart?id=x", "viewer"),
    ("GET", "/sql/result/{form}"): ("/sql/result/csv?id=x", "viewer"),
}
OF_THREADS = (
    "/thread", "/thread/now", "/thread/lines", "/thread/log.txt", "/thread/steps", "/thread/talk",
)  # fmt: skip
OPEN = {("GET", "/login"), ("POST", "/login"), ("GET", "/oidc/login"), ("GET", "/oidc/callback")}


@pytest.fixture
def server(make_tank) -> Iterator[Server]:
    tank = make_tank(admin_token=ADMIN_TOKEN, failed_logins_per_minute=3)
    with running(tank, mounts=[Console]) as started:
        yield started


def test_each_route_lets_in_who_may_and_nobody_else(server):
    put(server.tank.checkpointer(), "ada's", {"x": 1}, user_id="ada")
    declared = {
        (method, context.path)
        for router in ROUTERS
        for context in iter_route_contexts(router.routes)
        for method in context.methods or ()
    }
    assert declared == {*ROUTES, *OPEN, *(("GET", path) for path in OF_THREADS)}
    stranger = browser(server)
    for (method, _), (path, _) in ROUTES.items():
        answer = stranger.request(method, path)
        assert (answer.status_code, answer.headers["location"].partition("?")[0]) == (
            303, "/console/login",
        )  # fmt: skip
    for role in ROLES:
        client, secret = log_in(server, server.token(role, "eve"))
        for (method, _), (path, least) in ROUTES.items():
            if path == "/logout":
                continue
            answer = client.request(method, path, headers={"X-CSRF-Token": secret})
            let_in = role.covers(Role(least))
            assert (answer.status_code == 403) == (not let_in), (role, method, path)
            assert answer.status_code < 500
            if method == "POST":
                assert client.post(path).status_code == 403, (role, path)
        for path in OF_THREADS:
            seen = client.get(path, params={"id": "ada's"}).status_code
            assert seen == {"operator": 403, "admin": 200}.get(role, 404), (role, path)
    own, _ = log_in(server, server.token("viewer", "ada"))
    assert [own.get(path, params={"id": "ada's"}).status_code for path in OF_THREADS] == [
        200
    ] * len(OF_THREADS)
    assert "/console/thread?id=ada%27s" in own.get("/threads").text


def test_the_token_is_in_a_cookie_that_only_the_console_gets(server):
    client = browser(server)
    page = client.get("/login")
    form = {"token": ADMIN_TOKEN, "csrf": secret_of(page.text)}
    answer = client.post("/login", data=form)
    for cookie in answer.headers.get_list("set-cookie") + page.headers.get_list("set-cookie"):
        assert {"HttpOnly", "Path=/console", "SameSite=strict"} <= {
            p.strip() for p in cookie.split(";")
        }
        assert "Max-Age" not in cookie
    secret = secret_of(client.get("/threads").text)
    assert client.get(f"{server.url}/me").status_code == 401  # the API takes no cookie
    assert client.post("/logout", data={"csrf": secret}).status_code == 303
    assert client.get("/overview").status_code == 303


def test_a_wrong_token_is_refused_slowed_down_and_never_shown(server):
    client = browser(server)
    secret = secret_of(client.get("/login").text)
    seen = []
    for _ in range(5):
        answer = client.post("/login", data={"token": "wrong<b>", "csrf": secret})
        seen.append(answer.status_code)
        assert "set-cookie" not in answer.headers
        assert "wrong" not in answer.text
    assert seen == [401, 401, 401, 429, 429]
    assert int(answer.headers["retry-after"]) > 0


def test_no_page_of_another_site_can_use_the_login(server):
    client, secret = log_in(server, ADMIN_TOKEN)
    foreign = (
        {"Origin": "https://evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Origin": "null"},
        {"Origin": "http://["},
    )
    for headers in foreign:
        answer = client.post("/flush", headers={"X-CSRF-Token": secret, **headers})
        assert answer.status_code == 403, headers
    other, _ = log_in(server, ADMIN_TOKEN)
    assert other.post("/flush", data={"csrf": secret}).status_code == 403


def test_the_login_leads_nowhere_else(server):
    client = browser(server)
    secret = secret_of(client.get("/login").text)
    for wanted in (
        "https://evil.example/", "//evil.example/console/", "/\\evil.example", "/console/../me", "//[", "http://[/",
        "/console/%2e%2e/me", "/me", "javascript:alert(1)", "/console/\r\nX: y",
    ):  # fmt: skip
        form = {"token": ADMIN_TOKEN, "next": wanted, "csrf": secret}
        answer = client.post("/login", data=form)
        target = httpx.URL(server.url).join(answer.headers["location"])
        assert str(target).startswith(f"{server.url}/console/"), wanted
        assert answer.headers.get("x") is None


def test_pages_forbid_what_is_not_of_the_package(server):
    client, _ = log_in(server, ADMIN_TOKEN)
    pages = (
        "/overview", "/threads", "/inbox", "/jobs", "/parked", "/errors", "/nothing", "/login", "/tables", "/sql",
        "/erasures", "/audit", "/settings", "/settings/tokens", "/settings/alerts", "/settings/storage",
        "/settings/workers", "/settings/effective",
    )  # fmt: skip
    for page in map(client.get, pages):
        rules = page.headers["content-security-policy"]
        assert "unsafe" not in rules
        assert "default-src 'none'" in rules
        assert page.headers["cache-control"] == "no-store"
        assert not re.search(r"<script(?![^>]*\ssrc=)|\son\w+=|\sstyle=|<style", page.text)
        assert not re.search(r'(?:src|href|action)="(?!/console/)(?!#main)', page.text)
    files = set(re.findall(r'(?:src|href)="/console(/static/[^"]+)"', client.get("/overview").text))
    assert len(files) == 8
    for name in files:
        answer = client.get(name)
        assert answer.status_code == 200
        assert "immutable" in answer.headers["cache-control"]
    assert client.get("/static/x/vendor/vendored.json").status_code == 404
    assert client.get("/static/x/%2e%2e/app.py").status_code == 404


def test_the_first_address_leads_to_the_console(server):
    answer = httpx.get(server.url, follow_redirects=True)
    assert str(answer.url).startswith(f"{server.url}/console/login")
    assert httpx.get(f"{server.url}/console").headers["location"] == "/console/"


def test_what_is_vendored_is_what_was_published():
    vendored = json.loads((FOLDER / "vendor/vendored.json").read_text())
    listed = {"vendored.json"}
    for package in vendored:
        assert {"package", "version", "license", "integrity"} <= set(package)
        assert any(name.endswith(".LICENSE") for name in package["files"])
        for name, about in package["files"].items():
            listed.add(name)
            data = (FOLDER / "vendor" / name).read_bytes()
            assert hashlib.sha256(data).hexdigest() == about["sha256"], name
    assert {path.name for path in (FOLDER / "vendor").iterdir()} == listed


def test_a_bug_is_a_page_with_a_reference(server, monkeypatch):
    client, _ = log_in(server, ADMIN_TOKEN)

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("secret words")

    monkeypatch.setattr("surgetank.console.overview.is_my_data_safe", broken)
    answer = client.get("/overview")
    assert answer.status_code == 500
    assert "secret words" not in answer.text
    assert re.search(r"look for [0-9a-f]{12} in", answer.text)


def test_without_authentication_no_token_is_asked_for(make_tank):
    with running(make_tank(), no_auth=True, mounts=[Console]) as server:
        client = browser(server)
        page = client.get("/overview")
        assert page.status_code == 200
        assert "Log out" not in page.text
        secret = secret_of(page.text)
        assert client.post("/flush", data={"csrf": secret}).status_code == 303
        assert client.post("/flush").status_code == 403


def test_templates_and_files_are_in_the_package():
    folder = Path(FOLDER).parent
    assert {path.name for path in (folder / "templates").iterdir()} >= {
        "base.html",
        "overview.html",
    }
