"""The console without a browser: its cookies, its second secret, and its pages as text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Any

import httpx

from support.http import Server


def browser(server: Server) -> httpx.Client:
    """A client that keeps cookies, before the login."""
    client = httpx.Client(base_url=f"{server.url}/console", timeout=60)
    server._clients.append(client)
    return client


def secret_of(page: str) -> str:
    """What requests of this page must carry."""
    found = re.search(r'<meta name="csrf" content="(\w+)">', page)
    assert found is not None
    return found[1]


def log_in(server: Server, token: str, wanted: str = "") -> tuple[httpx.Client, str]:
    """A browser that has logged in, and what its requests must carry."""
    client = browser(server)
    form = {"token": token, "next": wanted, "csrf": secret_of(client.get("/login").text)}
    assert client.post("/login", data=form).status_code == 303
    return client, secret_of(client.get("/threads").text)


class Page(HTMLParser):
    """A page as it is read: its text, and its elements."""

    def __init__(self, answer: httpx.Response) -> None:
        super().__init__()
        self.status = answer.status_code
        self.html = answer.text
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._parts: list[str] = []
        self.feed(answer.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self._parts.append(data)

    @property
    def text(self) -> str:
        """All text, with single spaces."""
        return " ".join("".join(f"{part} " for part in self._parts).split())

    def links(self, containing: str) -> list[str]:
        """Where links lead whose address contains this, below the console."""
        found = [str(attrs.get("href")) for tag, attrs in self.tags if tag == "a"]
        return [each.removeprefix("/console") for each in found if containing in each]


@dataclass
class Person:
    """Somebody with a browser who is logged in."""

    client: httpx.Client
    secret: str

    @classmethod
    def of(cls, server: Server, token: str) -> Person:
        """Log in."""
        return cls(*log_in(server, token))

    def get(self, path: str, code: int = 200, **query: Any) -> Page:
        """A page."""
        answer = self.client.get(path, params=query or None)
        assert answer.status_code == code, (path, answer.status_code, answer.text[-2000:])
        return Page(answer)

    def post(self, path: str, code: int | None = None, **fields: Any) -> Page:
        """What a form does; the page to which it leads."""
        headers = {"X-CSRF-Token": self.secret}
        answer = self.client.post(path, data=fields, headers=headers, follow_redirects=True)
        if code is not None:
            assert answer.status_code == code, (path, answer.status_code, answer.text[-2000:])
        return Page(answer)
