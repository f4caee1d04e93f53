"""Debian's Chromium, driven by Playwright: one for all tests of a process. What a page must never do is
watched while it is used: ask another origin, break its own rules of content, write an error."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from playwright.sync_api import Browser, Page, expect, sync_playwright

from support.http import ADMIN_TOKEN, Server

MOST_BYTES = 200_000  # of a page as it is sent
# What sticks out of the page to the right; what scrolls by itself may.
TOO_WIDE = """
document.documentElement.scrollWidth <= document.documentElement.clientWidth ? [] :
[`${document.documentElement.scrollWidth} of ${innerWidth}`, ...[...document.querySelectorAll('body *')].filter(
    each => each.getBoundingClientRect().right > innerWidth && !each.parentElement.closest('.scroll, nav, .chart')
).map(each => `${each.outerHTML.slice(0, 100)} to ${each.getBoundingClientRect().right}`)]"""
PROGRAMS = ("chromium", "chromium-browser")
expect.set_options(timeout=20_000)  # conditions are waited for, on a machine that has much to do


def find_chromium() -> str | None:
    """The program, if it is installed."""
    return next((found for name in PROGRAMS if (found := shutil.which(name))), None)


@contextmanager
def running_browser(program: str) -> Iterator[Browser]:
    """One browser."""
    flags = ["--disable-dev-shm-usage", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=flags)
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Visitor:
    """A person with a browser of their own, before a server's console."""

    server: Server
    page: Page
    complaints: list[str] = field(default_factory=list)
    bytes_sent: dict[str, int] = field(default_factory=dict)
    allowed: tuple[str, ...] = ()
    base: str = ""  # where it is reached, if not at the server itself

    def open(self, path: str) -> Page:
        """A page of the console, loaded."""
        self.page.goto(f"{self.base or self.server.url}/console{path}", wait_until="load")
        return self.page

    def log_in(self, token: str = ADMIN_TOKEN) -> Page:
        """Give the token in the form, as people do."""
        self.open("/login")
        self.page.get_by_label("Your token").fill(token)
        self.page.get_by_role("button", name="Log in").click()
        self.page.wait_for_url("**/console/*")
        return self.page

    def check(self) -> None:
        """Nothing was complained of, apart from what the test allows."""
        left = [c for c in self.complaints if not any(a in c for a in self.allowed)]
        assert left == [], left


@contextmanager
def visiting(
    browser: Browser, server: Server, *, base: str = "", **options: Any
) -> Iterator[Visitor]:
    """A visitor, whose complaints are checked in the end."""
    context = browser.new_context(**{"locale": "en-GB", "timezone_id": "Europe/Berlin", **options})
    context.set_default_timeout(15_000)
    visitor = Visitor(server, context.new_page(), base=base)
    page, own = visitor.page, (base or server.url).split("://")[1]

    def asked(request: Any) -> None:
        if request.url.split("://")[1].split("/")[0] != own:
            visitor.complaints.append(f"asked another origin: {request.url}")

    def answered(response: Any) -> None:
        length = response.headers.get("content-length", "0")
        visitor.bytes_sent[response.url] = int(length)

    def said(message: Any) -> None:
        if message.type in ("error", "warning"):
            visitor.complaints.append(f"{message.type}: {message.text}")

    page.on("request", asked)
    page.on("response", answered)
    page.on("pageerror", lambda error: visitor.complaints.append(f"error: {error}"))
    page.on("console", said)
    try:
        yield visitor
        visitor.check()
    finally:
        context.close()


def rewrite(page: Page, label: str, text: str) -> None:
    """Put ``text`` into the JSON editor ``label``, once the editor stands where the text area was.

    An editor puts its own selection back when it gets the focus: it is focused before all of it is selected.
    """
    area = page.get_by_role("textbox", name=label)
    area.scroll_into_view_if_needed()
    editor = area.and_(page.locator(".cm-content"))
    editor.focus()
    expect(page.locator(".cm-focused").filter(has=editor)).to_be_visible()
    editor.fill(text)
    expect(editor).to_have_text(text)


def violations(page: Page, axe: str) -> list[str]:
    """What axe-core finds that is serious or critical, in light and in dark."""
    found = []
    page.evaluate(axe)  # as the debugger does: the page's own rules forbid it to scripts of others
    for scheme in ("dark", "light"):
        page.emulate_media(color_scheme=scheme)
        options: dict[str, Any] = {"resultTypes": ["violations"]}
        if scheme == "dark":  # it has other colours, and is the same page
            options["runOnly"] = ["color-contrast"]
        result = page.evaluate("options => axe.run(document, options)", options)
        found += [
            f"{scheme}: {each['id']}: {each['nodes'][0]['html'][:200]} {each['nodes'][0]['failureSummary'][:300]}"
            for each in result["violations"]
            if each["impact"] in ("serious", "critical")
        ]
    return found
