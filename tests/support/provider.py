"""A small OpenID Connect provider: a real HTTP server that signs with keys of its own, and lies where a test
says so."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import KeySet, OctKey, RSAKey

CLIENT, SECRET = "surgetank", "a-secret-of-the-provider"


class Provider:
    """`person` is who logs in; `lies` replace claims; `key` signs."""

    def __init__(self) -> None:
        self.person: dict[str, Any] = {"sub": "1", "email": "ada@example.com", "groups": ["staff"]}
        self.lies: dict[str, Any] = {}
        self.alg = "RS256"
        self.at_userinfo: dict[str, Any] = {}
        self.key = self.published = RSAKey.generate_key(2048, {"kid": "one"})
        self.asked: dict[str, dict[str, str]] = {}  # by code
        self.tokens = 0
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                query = {name: values[0] for name, values in parse_qs(parts.query).items()}
                match parts.path:
                    case "/.well-known/openid-configuration":
                        self._answer(provider.metadata())
                    case "/keys":
                        self._answer(KeySet([provider.published]).as_dict(private=False))
                    case "/authorize":
                        code = f"code-{len(provider.asked)}"
                        provider.asked[code] = query
                        back = {"code": code, "state": query["state"]}
                        self.send_response(302)
                        self.send_header("Location", f"{query['redirect_uri']}?{urlencode(back)}")
                        self.end_headers()
                    case "/userinfo":
                        self._answer(provider.at_userinfo)
                    case _:
                        self._answer({}, 404)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                form = {name: values[0] for name, values in parse_qs(body).items()}
                basic = base64.b64encode(f"{CLIENT}:{SECRET}".encode()).decode()
                asked = provider.asked.pop(form.get("code", ""), None)
                digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
                challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
                good = (
                    self.headers["Authorization"] == f"Basic {basic}"
                    and asked is not None
                    and asked["code_challenge"] == challenge
                    and asked["code_challenge_method"] == "S256"
                    and asked["redirect_uri"] == form["redirect_uri"]
                )
                if not good or asked is None:
                    self._answer({"error": "invalid_grant"}, 400)
                    return
                provider.tokens += 1
                given = {
                    "access_token": "a",
                    "token_type": "Bearer",
                    "id_token": provider.token(asked),
                }
                self._answer(given)

            def _answer(self, value: Any, code: int = 200) -> None:
                data = json.dumps(value).encode()
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                """Not on the test's output."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def metadata(self) -> dict[str, Any]:
        """What it says of itself."""
        return {
            "issuer": self.url, "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token", "jwks_uri": f"{self.url}/keys",
            "userinfo_endpoint": f"{self.url}/userinfo", "end_session_endpoint": f"{self.url}/goodbye",
        }  # fmt: skip

    def token(self, asked: dict[str, str]) -> str:
        """Its word of who logged in."""
        now = int(time.time())
        claims = {
            "iss": self.url, "aud": CLIENT, "iat": now, "exp": now + 300, "nonce": asked["nonce"], **self.person,
            **self.lies,
        }  # fmt: skip
        if self.alg == "HS256":  # signed with what it is not to be signed with
            return jwt.encode({"alg": "HS256"}, claims, OctKey.import_key(SECRET * 2))
        if self.alg == "none":
            parts = [json.dumps(part).encode() for part in ({"alg": "none"}, claims)]
            return ".".join(base64.urlsafe_b64encode(p).rstrip(b"=").decode() for p in parts) + "."
        return jwt.encode({"alg": self.alg, "kid": self.key.kid}, claims, self.key)


@contextmanager
def providing() -> Iterator[Provider]:
    """One that answers until the end."""
    provider = Provider()
    serve = {"poll_interval": 0.01}
    thread = threading.Thread(target=provider.server.serve_forever, kwargs=serve)
    thread.start()
    try:
        yield provider
    finally:
        provider.server.shutdown()
        provider.server.server_close()
        thread.join()
