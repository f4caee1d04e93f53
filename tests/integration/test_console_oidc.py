"""Login through an OpenID Connect provider, which is a real server here: who is let in, and as what; and every
word that can't be trusted is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from joserfc.jwk import RSAKey

from support.console import Page, browser, secret_of
from support.http import ADMIN_TOKEN, Server, running
from support.postgres import PostgresServer
from support.provider import CLIENT, SECRET, Provider, providing
from support.recycling import Databases
from surgetank import Surgetank
from surgetank.console.app import Console
from surgetank.exceptions import ConfigurationError


@pytest.fixture(scope="module")
def served(
    databases: Databases, postgres_server: PostgresServer, tmp_path_factory: Any
) -> Iterator[tuple[Server, Provider]]:
    name = databases.take()
    with providing() as provider:
        tank = Surgetank(
            home=tmp_path_factory.mktemp("oidc"), database_url=postgres_server.url_of(name), flush_in_process=False,
            flush_on_close=False, admin_token=ADMIN_TOKEN, oidc_issuer=provider.url, oidc_client_id=CLIENT,
            oidc_client_secret=SECRET, oidc_roles="staff=user admins=admin",
        )  # fmt: skip
        with tank, running(tank, mounts=[Console]) as server:
            yield server, provider
    databases.give_back(name)


@pytest.fixture
def server(served: tuple[Server, Provider]) -> Server:
    return served[0]


@pytest.fixture
def provider(served: tuple[Server, Provider]) -> Iterator[Provider]:
    """As it is when it says the truth."""
    provider = served[1]
    kept = dict(vars(provider))
    yield provider
    vars(provider).update(kept)
    provider.asked.clear()


def come_back(client: httpx.Client, wanted: str = "") -> str:
    """The address with which the provider sends the browser back."""
    begun = client.get("/oidc/login", params={"next": wanted} if wanted else None)
    assert begun.status_code == 302
    return str(httpx.get(begun.headers["location"]).headers["location"])


def log_in(server: Server, code: int = 200) -> tuple[httpx.Client, httpx.Response]:
    client = browser(server)
    answer = client.get(come_back(client))
    assert answer.status_code == code, answer.text[-1500:]
    if code != 200:
        assert client.get("/threads").status_code == 303  # not logged in
    return client, answer


def test_who_logs_in_has_the_name_and_the_highest_role_that_the_provider_says(
    server: Server, provider: Provider
) -> None:
    assert "Log in with 127.0.0.1" in Page(browser(server).get("/login")).text
    client, answer = log_in(server)
    assert 'content="0;url=/console/"' in answer.text
    page = Page(client.get("/threads"))
    assert "ada@example.com user" in page.text
    provider.person = {"sub": "2", "email": "eve@example.com", "groups": ["staff", "admins", "x"]}
    client = browser(server)
    answer = client.get(come_back(client, "/console/errors"))
    assert 'content="0;url=/console/errors"' in answer.text
    assert "eve@example.com admin" in Page(client.get("/errors")).text
    (token,) = [t for t in server.services.tokens.page() if t.user == "eve@example.com"]
    assert (token.created_by, token.label) == ("oidc", "login through 127.0.0.1")
    assert token.expires_at is not None
    assert 0 < token.expires_at - token.created_at <= 12 * 3600 + 60
    cookies = answer.headers.get_list("set-cookie")
    assert any(
        "surgetank_session=stk_" in c and "HttpOnly" in c and "SameSite=strict" in c
        for c in cookies
    )
    assert SECRET not in server.admin.get("/openapi.json").text


def test_a_role_may_come_from_userinfo_and_who_has_none_is_refused(
    server: Server, provider: Provider
) -> None:
    provider.person = {"sub": "3", "email": "bob@example.com"}
    provider.at_userinfo = {"sub": "3", "groups": "staff other"}
    client, _ = log_in(server)
    assert "bob@example.com user" in Page(client.get("/threads")).text
    provider.at_userinfo = {"sub": "another", "groups": "admins"}
    assert "no role here" in log_in(server, 401)[1].text
    provider.person = {"sub": "3", "groups": ["staff"]}
    assert "refused" in log_in(server, 401)[1].text
    for unverified in (False, "false", None, 0):  # some providers write it as text
        provider.person = {
            "sub": "3", "email": "b@example.com", "email_verified": unverified, "groups": ["staff"],
        }  # fmt: skip
        assert "not verified" in log_in(server, 401)[1].text


@pytest.mark.parametrize(
    "lie",
    [
        {"iss": "https://evil.example"}, {"aud": "another"}, {"aud": [CLIENT, "another"]}, {"exp": 1}, {"nonce": "old"},
        {"nonce": None}, {"azp": "another"}, {"sub": None},
    ],
    ids=str,
)  # fmt: skip
def test_a_word_that_is_meant_for_somebody_else_is_refused(
    server: Server, provider: Provider, lie: dict[str, Any]
) -> None:
    provider.lies = lie
    log_in(server, 401)


def test_a_word_that_another_key_signed_is_refused_and_a_new_key_is_learned(
    server: Server, provider: Provider
) -> None:
    for alg in ("HS256", "none"):
        provider.alg = alg
        log_in(server, 401)
    provider.alg = "RS256"
    provider.key = RSAKey.generate_key(2048, {"kid": "one"})
    log_in(server, 401)
    provider.key = provider.published = RSAKey.generate_key(2048, {"kid": "two"})
    log_in(server)


def test_a_login_that_was_begun_elsewhere_is_refused_and_a_code_is_good_once(
    server: Server, provider: Provider
) -> None:
    thief, victim = browser(server), browser(server)
    back = come_back(thief)
    refused = victim.get(back)  # with a code of the thief's
    assert refused.status_code == 401
    assert "not begun here" in refused.text
    assert thief.get(back).status_code == 200
    again = thief.get(back)
    assert again.status_code == 401
    for query in ("", "?code=x", "?state=x&code=y", "?error=access_denied&state=x"):
        assert victim.get(f"/oidc/callback{query}").status_code == 401
    assert provider.tokens >= 1
    for wanted in ("https://evil.example/", "//evil.example"):
        client = browser(server)
        assert 'content="0;url=/console/"' in client.get(come_back(client, wanted)).text


def test_logging_out_ends_the_token_and_leads_to_the_providers_own(
    server: Server, provider: Provider
) -> None:
    client, _ = log_in(server)
    session = client.cookies["surgetank_session"]
    secret = client.get("/threads").text.partition('name="csrf" content="')[2][:64]
    page = client.post("/logout", data={"csrf": secret})
    assert f"{provider.url}/goodbye" in page.text
    assert client.get("/threads").status_code == 303
    assert server.client(session).get("/me").status_code == 401


def test_logging_out_everywhere_ends_ones_own_logins_in_all_browsers(
    server: Server, provider: Provider
) -> None:
    here, there = log_in(server)[0], log_in(server)[0]
    provider.person = {"sub": "9", "email": "bob@example.com", "groups": ["staff"]}
    bobs = log_in(server)[0]
    by_hand = server.as_role("user", "ada@example.com")
    secret = secret_of(here.get("/threads").text)
    here.post("/logout", data={"csrf": secret, "everywhere": "yes"})
    assert [client.get("/threads").status_code for client in (here, there, bobs)] == [303, 303, 200]
    assert by_hand.get("/me").status_code == 200


def test_a_provider_that_is_away_is_said_and_tokens_go_on(make_tank: Any) -> None:
    with providing() as gone:
        address = gone.url
    given = {"admin_token": ADMIN_TOKEN, "oidc_client_id": CLIENT, "oidc_issuer": address}
    with running(make_tank(**given), mounts=[Console]) as server:
        answer = browser(server).get("/oidc/login")
        assert answer.status_code == 503
        assert "be reached just now" in answer.text
        assert server.admin.get("/me").status_code == 200
    for wrong in (
        {"oidc_issuer": "http://idp.example"},
        {"oidc_client_id": ""},
        {"oidc_roles": "x=king"},
    ):
        with (
            pytest.raises(ConfigurationError),
            running(make_tank(**given | wrong), mounts=[Console]),
        ):
            pass
