"""Style, scripts and pictures of the console, out of the package. Their addresses name their content,
so that browsers keep them for ever and never show an old one."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from pathlib import Path

from starlette.responses import Response

FOLDER = Path(__file__).with_name("static")
_KINDS = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_FOR_EVER = "public, max-age=31536000, immutable"


@dataclass(frozen=True, slots=True)
class _Asset:
    body: bytes
    small: bytes
    kind: str
    digest: str


class Assets:
    """The files of the folder `static`, read once."""

    def __init__(self, base: str) -> None:
        self._base = base
        self._known = {
            path.relative_to(FOLDER).as_posix(): _read(path)
            for path in FOLDER.rglob("*")
            if path.suffix in _KINDS
        }

    def url(self, name: str) -> str:
        """The address of a file."""
        return f"{self._base}/static/{self._known[name].digest}/{name}"

    def response(self, name: str, accepted: str) -> Response | None:
        """The file, compressed for who accepts that; None for one that is not there."""
        asset = self._known.get(name)
        if asset is None:
            return None
        headers = {"Cache-Control": _FOR_EVER, "Vary": "Accept-Encoding"}
        if "gzip" in accepted:
            headers["Content-Encoding"] = "gzip"
            return Response(asset.small, headers=headers, media_type=asset.kind)
        return Response(asset.body, headers=headers, media_type=asset.kind)


def _read(path: Path) -> _Asset:
    body = path.read_bytes()
    digest = hashlib.sha256(body).hexdigest()[:16]
    return _Asset(body, gzip.compress(body, 6, mtime=0), _KINDS[path.suffix], digest)
