"""Login through an OpenID Connect provider: the code flow with PKCE, state and nonce.

What comes back is a name and a role; who logged in has a token of ours then, like everybody else. Nothing of
the provider's is kept. RFC 6749, RFC 7636, OpenID Connect Core 1.0 section 3.1.
"""

from __future__ import annotations

import hmac
import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from surgetank.exceptions import ConfigurationError, MissingExtra
from surgetank.server.access.roles import Role
from surgetank.server.http.problems import Problem
from surgetank.telemetry import log

if TYPE_CHECKING:
    from surgetank.oidc_settings import OidcSettings

_ALGORITHMS = (
    "RS256",
    "RS384",
    "RS512",
    "PS256",
    "PS384",
    "PS512",
    "ES256",
    "ES384",
    "ES512",
    "EdDSA",
)
_TIMEOUT_S = 10.0
_FRESH_S = 600.0
_LEEWAY_S = 60
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Begun:
    """A login that was begun: where to send the browser, and what it must bring back."""

    url: str
    state: str
    nonce: str
    verifier: str


@dataclass(frozen=True, slots=True)
class Person:
    """Who logged in."""

    user: str
    role: Role


class Provider:
    """The provider of the settings. Methods block, and raise `Problem`: 401 for who is not let in, 503 when it
    can't be reached. For any number of threads."""

    def __init__(self, settings: OidcSettings, clock: Callable[[], float]) -> None:
        try:
            import authlib  # noqa: F401, PLC0415 # pyright: ignore[reportMissingImports] - an extra
            import joserfc  # noqa: F401, PLC0415 # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise MissingExtra(
                error.name or "authlib", "oidc", "Login through a provider"
            ) from error
        assert settings.oidc_issuer is not None, "there is a provider"
        self._settings = settings
        self._issuer = settings.oidc_issuer
        self._clock = clock
        self._roles = _roles(settings.oidc_roles)
        self._lock = threading.Lock()
        self._known: tuple[float, dict[str, Any], Any] | None = None
        _check_address(self._issuer)
        if not settings.oidc_client_id:
            raise ConfigurationError(
                "The provider's address is set, and oidc_client_id is not.",
                remedy="set SURGETANK_OIDC_CLIENT_ID as the provider shows it.",
            )

    @property
    def name(self) -> str:
        """What people know it by."""
        return urlsplit(self._issuer).hostname or self._issuer

    def begin(self, redirect_uri: str) -> Begun:
        """Begin a login that comes back to this address."""
        known, _ = self._metadata()
        verifier, nonce = secrets.token_urlsafe(48), secrets.token_urlsafe(24)
        with self._client(redirect_uri) as client:
            url, state = client.create_authorization_url(
                known["authorization_endpoint"], code_verifier=verifier, nonce=nonce
            )
        return Begun(url, state, nonce, verifier)

    def finish(self, code: str, begun: Begun, redirect_uri: str) -> Person:
        """Who comes back with this code."""
        known, keys = self._metadata()
        claims = dict[str, Any]()
        with self._client(redirect_uri) as client, _reached(self.name):
            given = client.fetch_token(
                known["token_endpoint"], code=code, code_verifier=begun.verifier
            )
            try:
                claims = self._claims(str(given.get("id_token") or ""), keys, begun.nonce)
            except _UnknownKey:  # it has new ones
                claims = self._claims(
                    str(given["id_token"]), self._metadata(anew=True)[1], begun.nonce
                )
            wanted = {self._settings.oidc_user_claim, self._settings.oidc_role_claim}
            if not wanted <= set(claims) and known.get("userinfo_endpoint"):
                more = client.get(known["userinfo_endpoint"]).json()
                if isinstance(more, dict) and more.get("sub") == claims["sub"]:
                    claims = {**more, **claims}
        return self._person(claims)

    def farewell(self) -> str | None:
        """Where one logs out of the provider too."""
        known = self._known
        url = known[1].get("end_session_endpoint") if known is not None else None
        return url if isinstance(url, str) and _is_safe(url) else None

    def _client(self, redirect_uri: str) -> Any:
        from authlib.integrations.httpx_client import (  # noqa: PLC0415 # pyright: ignore[reportMissingImports]
            OAuth2Client,
        )

        secret = self._settings.oidc_client_secret
        return OAuth2Client(
            self._settings.oidc_client_id,
            secret.get_secret_value() if secret is not None else None,
            token_endpoint_auth_method=None if secret is not None else "none",
            scope=self._settings.oidc_scopes,
            redirect_uri=redirect_uri,
            code_challenge_method="S256",
            timeout=_TIMEOUT_S,
        )

    def _metadata(self, *, anew: bool = False) -> tuple[dict[str, Any], Any]:
        """What the provider says of itself, and its keys; believed for ten minutes."""
        known = self._known
        if known is not None and not anew and 0 <= self._clock() - known[0] < _FRESH_S:
            return known[1], known[2]
        import httpx  # noqa: PLC0415 # pyright: ignore[reportMissingImports] - an extra
        from joserfc.jwk import KeySet  # noqa: PLC0415 # pyright: ignore[reportMissingImports]

        with self._lock, _reached(self.name), httpx.Client(timeout=_TIMEOUT_S) as client:
            address = f"{self._issuer.rstrip('/')}/.well-known/openid-configuration"
            found = client.get(address).raise_for_status().json()
            if found.get("issuer") != self._issuer:
                raise _refused(f"the provider calls itself {found.get('issuer')!r:.200}")
            for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
                _check_address(str(found.get(name)))
            keys = KeySet.import_key_set(client.get(found["jwks_uri"]).raise_for_status().json())
            self._known = self._clock(), found, keys
        return found, keys

    def _claims(self, token: str, keys: Any, nonce: str) -> dict[str, Any]:
        from joserfc import jwt  # noqa: PLC0415 # pyright: ignore[reportMissingImports]
        from joserfc.errors import (  # noqa: PLC0415 # pyright: ignore[reportMissingImports]
            InvalidKeyIdError,
            JoseError,
        )

        rules = jwt.JWTClaimsRegistry(
            now=lambda: int(self._clock()),
            leeway=_LEEWAY_S,
            iss={"essential": True, "value": self._issuer},
            aud={"essential": True, "value": self._settings.oidc_client_id},
            exp={"essential": True},
            sub={"essential": True},
            nonce={"essential": True},
        )
        try:
            claims: dict[str, Any] = dict(jwt.decode(token, keys, algorithms=_ALGORITHMS).claims)
            rules.validate(claims)
        except InvalidKeyIdError as error:
            raise _UnknownKey from error
        except (JoseError, ValueError, TypeError) as error:
            raise _refused(f"its word can't be trusted: {error}"[:300]) from error
        if not hmac.compare_digest(str(claims["nonce"]).encode(), nonce.encode()):
            raise _refused("its word is about another login")
        audience = claims["aud"]
        several = isinstance(audience, list) and len(audience) > 1
        if (several or "azp" in claims) and claims.get("azp") != self._settings.oidc_client_id:
            raise _refused("its word is meant for another program")
        return claims

    def _person(self, claims: Mapping[str, Any]) -> Person:
        settings = self._settings
        user = claims.get(settings.oidc_user_claim)
        if not isinstance(user, str) or not user:
            raise _refused(f"it doesn't say the claim {settings.oidc_user_claim!r}")
        if settings.oidc_user_claim == "email" and str(
            claims.get("email_verified", True)
        ).lower() not in ("true", "1"):
            raise _refused("the address of mail is not verified there")
        said = claims.get(settings.oidc_role_claim)
        values = said if isinstance(said, list) else str(said).split() if said else []
        roles = [self._roles[value] for value in map(str, values) if value in self._roles]
        if not roles and settings.oidc_default_role is not None:
            roles = [Role(settings.oidc_default_role)]
        if not roles:
            raise _refused("you have no role here; ask an administrator", log_it=False)
        order = list(Role)
        return Person(user, max(roles, key=order.index))


class _UnknownKey(Exception):
    """It is signed with a key that is not known."""


class _reached:  # noqa: N801 - reads as a word
    """What goes wrong on the way is said as 503, what the provider refuses as 401."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        import httpx  # noqa: PLC0415 # pyright: ignore[reportMissingImports]
        from authlib.common.errors import (  # noqa: PLC0415 # pyright: ignore[reportMissingImports]
            AuthlibBaseError,
        )

        if isinstance(error, AuthlibBaseError):
            raise _refused(str(error)[:300]) from error
        if isinstance(error, httpx.HTTPError | ValueError | KeyError | AttributeError):
            log.warning("oidc_unavailable", provider=self._name, error=str(error)[:500])
            raise Problem(
                503, "login-unavailable", f"The login provider {self._name} can't be reached just now.",
                remedy="try again in a moment, or log in with a token.", headers={"Retry-After": "5"},
            ) from error  # fmt: skip


def _refused(why: str, *, log_it: bool = True) -> Problem:
    if log_it:
        log.warning("oidc_login_refused", reason=why)
    return Problem(
        401, "not-authenticated", f"The login was refused: {why}.", remedy="log in again."
    )


def _roles(text: str) -> dict[str, Role]:
    """`staff=user admins=admin`. Raises `ConfigurationError`."""
    found = {}
    for pair in text.split():
        value, _, role = pair.rpartition("=")
        if not value or role not in list(Role):
            raise ConfigurationError(
                f"{pair[:80]!r} in oidc_roles is no value and role.",
                remedy=f"write VALUE=ROLE, with a role of {', '.join(Role)}.",
            )
        found[value] = Role(role)
    return found


def _is_safe(address: str) -> bool:
    parts = urlsplit(address)
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)


def _check_address(address: str) -> None:
    """Raise `ConfigurationError` for what isn't https, or http on this machine."""
    if not _is_safe(address):
        raise ConfigurationError(
            f"{address[:200]!r} can't be used for logins.", remedy="use an address with https://."
        )
