"""One POST of a webhook: signed as Standard Webhooks has it, to the address that was checked.

No redirect is followed, no proxy is used, the answer's body is not read, and all of it is bounded
in time, however slowly the other side answers.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import http.client
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass

from surgetank.exceptions import ConfigurationError, WebhookRefused
from surgetank.workflows.webhooks.targets import AllowedTargets, WebhookTarget

_PREFIX = "whsec_"
_GONE = 410
_RETRY_AFTER = (429, 503)
_MAX_PAUSE_S = 6 * 3600.0


@dataclass(frozen=True, slots=True)
class SendResult:
    """What came of it. `final`: trying again is of no use."""

    status: int | None = None
    error: str | None = None
    final: bool = False
    pause_s: float | None = None

    @property
    def ok(self) -> bool:
        """Whether the other side took it."""
        return self.error is None


def key_of(secret: str) -> bytes:
    """The key of a secret: `whsec_` and base64, or any text. Raises `ConfigurationError`."""
    if not secret.startswith(_PREFIX):
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except binascii.Error:
        raise ConfigurationError(
            "The setting 'webhook_secret' begins with whsec_ and is not base64 after it.",
            remedy="give whsec_ and base64, or another text.",
        ) from None


def signed(message_id: str, at: int, body: bytes, keys: Sequence[bytes]) -> dict[str, str]:
    """The headers of a message; with one signature for each key, so that a key can be changed."""
    headers = {"Webhook-Id": message_id, "Webhook-Timestamp": str(at)}
    content = f"{message_id}.{at}.".encode() + body
    signatures = [
        "v1," + base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode() for key in keys
    ]
    return headers | ({"Webhook-Signature": " ".join(signatures)} if signatures else {})


def post(
    target: WebhookTarget,
    body: bytes,
    headers: Mapping[str, str],
    *,
    rules: AllowedTargets,
    timeout_s: float,
    tls: ssl.SSLContext,
) -> SendResult:
    """Send it, and say what came of it. Never raises for what the other side does."""
    try:
        with closing(rules.connect(target, timeout_s)) as plain, _at_most(plain, timeout_s):
            return _exchange(target, body, headers, plain, tls)
    except WebhookRefused as error:
        return SendResult(error=error.what, final=True)
    except (OSError, http.client.HTTPException) as error:
        return SendResult(error=_shown(error))


def _exchange(
    target: WebhookTarget,
    body: bytes,
    headers: Mapping[str, str],
    plain: socket.socket,
    tls: ssl.SSLContext,
) -> SendResult:
    connection = http.client.HTTPConnection(target.host, target.port)
    connection.auto_open = 0  # it would resolve the name again
    with closing(connection):
        connection.sock = (
            tls.wrap_socket(plain, server_hostname=target.host)
            if target.scheme == "https"
            else plain
        )
        connection.request("POST", target.path, body, {"Host": target.authority, **headers})
        answer = connection.getresponse()
        return _judged(answer.status, answer.headers.get("Retry-After", ""))


def _judged(status: int, retry_after: str) -> SendResult:
    if 200 <= status < 300:
        return SendResult(status)
    error = f"it answered {status}"
    if 300 <= status < 400:
        error += ", a redirect, and none is followed"
    pause = None
    if status in _RETRY_AFTER and retry_after.isdecimal() and len(retry_after) < 8:
        pause = min(float(retry_after), _MAX_PAUSE_S)
    return SendResult(status, error, final=status == _GONE, pause_s=pause)


@contextmanager
def _at_most(plain: socket.socket, timeout_s: float) -> Iterator[None]:
    """Cut the connection when it has taken so long: a timeout of sockets begins again with each
    byte."""
    twin = plain.dup()  # TLS takes the file number of the other one
    late = threading.Event()

    def cut() -> None:
        late.set()
        with suppress(OSError):  # it has ended
            twin.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(timeout_s, cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    except (OSError, http.client.HTTPException):
        if late.is_set():
            raise TimeoutError("it took too long") from None
        raise
    finally:
        timer.cancel()
        twin.close()


def _shown(error: BaseException) -> str:
    """Why, in short: nothing of the URL's path or query stands in it."""
    if isinstance(error, TimeoutError):
        return "it took too long"
    if isinstance(error, socket.gaierror):
        return "its host is not known"
    return f"{type(error).__name__}: {str(error)[:200]}"
