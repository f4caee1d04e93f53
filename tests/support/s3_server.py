"""An S3 server for tests: moto's, in a process of its own that ends with the run. It refuses credentials that begin
with "wrong", and fails as a test asks it to.

python -m support.s3_server     (prints its port)
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import uuid4

_FAULTS = "/_faults"
ALL = "PUT POST GET HEAD DELETE"
_REFUSED = (
    b"<Error><Code>InvalidAccessKeyId</Code><Message>The AWS Access Key Id you provided does not exist in our "
    b"records.</Message><AWSAccessKeyId>wrong-key</AWSAccessKeyId></Error>"
)
_BUSY = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


@dataclass(frozen=True)
class S3Server:
    """A server that runs."""

    port: int

    def url(self, prefix: str = "surgetank", *, bucket: str | None = None, key: str = "me") -> str:
        """The URL of a prefix, with endpoint and credentials; of a new bucket if none is named."""
        name = bucket or self.make_bucket()
        return (
            f"s3://{name}/{prefix}?endpoint=http://127.0.0.1:{self.port}&region=us-east-1"
            f"&access_key_id={key}&secret_access_key=s3cret-of-{key}"
        )

    def make_bucket(self) -> str:
        """A bucket of its own."""
        name = f"b{uuid4().hex}"
        self._ask(f"/{name}", b"")
        return name

    @contextmanager
    def failing(self, bucket: str, *, methods: str = ALL, after: int = 0) -> Iterator[None]:
        """The bucket answers 503 to these requests, after so many of them."""
        self.fail(bucket, methods=methods, after=after)
        try:
            yield
        finally:
            self.mend(bucket)

    def fail(self, bucket: str, *, methods: str = ALL, after: int = 0) -> None:
        """It does so until `mend`."""
        self._fault(bucket, {"methods": methods.split(), "after": after})

    def mend(self, bucket: str) -> None:
        """The bucket answers again."""
        self._fault(bucket, None)

    def _fault(self, bucket: str, fault: dict[str, Any] | None) -> None:
        self._ask(_FAULTS, json.dumps({"bucket": bucket, "fault": fault}).encode())

    def _ask(self, path: str, body: bytes) -> None:
        address = f"http://127.0.0.1:{self.port}{path}"
        asked = urllib.request.Request(address, data=body, method="PUT")
        with urllib.request.urlopen(asked, timeout=30) as answer:
            answer.read()


@contextmanager
def running_s3() -> Iterator[S3Server]:
    """A server that ends with the block, or with this process."""
    with subprocess.Popen(
        [sys.executable, "-m", "support.s3_server"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, start_new_session=True, cwd=Path(__file__).parents[1],
        env={**os.environ, "AWS_ACCESS_KEY_ID": "me", "AWS_SECRET_ACCESS_KEY": "me"},
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        port = process.stdout.readline()
        assert port, "moto's server did not start"
        yield S3Server(int(port))
        process.stdin.close()


class _Faulty:
    """moto's application, behind what refuses and fails."""

    def __init__(self, application: Callable[..., Iterable[bytes]]) -> None:
        self._application = application
        self._faults: dict[str, dict[str, Any]] = {}
        self._lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        path: str = environ["PATH_INFO"]
        if path == _FAULTS:
            asked = json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
            with self._lock:
                self._faults[asked["bucket"]] = asked["fault"] or {"methods": []}
            start("200 OK", [("Content-Length", "0")])
            return [b""]
        if "Credential=wrong" in environ.get("HTTP_AUTHORIZATION", ""):
            return self._refuse(environ, start, "403 Forbidden", _REFUSED)
        if self._fails(path.split("/")[1], environ["REQUEST_METHOD"]):
            return self._refuse(environ, start, "503 Slow Down", _BUSY)
        return self._application(environ, start)

    def _fails(self, bucket: str, method: str) -> bool:
        with self._lock:
            fault = self._faults.get(bucket)
            if fault is None or method not in fault["methods"]:
                return False
            fault["after"] -= 1
            return bool(fault["after"] < 0)

    @staticmethod
    def _refuse(
        environ: dict[str, Any], start: Callable[..., Any], status: str, body: bytes
    ) -> Iterable[bytes]:
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        start(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
        return [body]


def main() -> None:
    moto: Any = import_module("moto.moto_server.werkzeug_app")
    serving: Any = import_module("werkzeug.serving")
    application = _Faulty(moto.DomainDispatcherApplication(moto.create_backend_app))
    server = serving.make_server("127.0.0.1", 0, application, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.port, flush=True)
    sys.stdin.read()  # until whoever started it is gone
    os._exit(0)


if __name__ == "__main__":
    main()
