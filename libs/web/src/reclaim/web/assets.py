"""Style sheets, scripts and pictures, served from memory under `/assets/`.

A page links an asset with the digest of its content; that address may be cached for ever. Any other address of it
(a page of an older release, while pods are replaced) is revalidated.
"""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Annotated, Final

from fastapi import Depends, Request
from fastapi.responses import Response

from reclaim.common.errors import NotFound
from reclaim.common.routing import Router
from reclaim.web.auth import public

PREFIX: Final = "/assets"
SERVED: Final = (".css", ".js", ".svg", ".png")
FOR_EVER: Final = "public, max-age=31536000, immutable"


@dataclass(frozen=True)
class Asset:
    """One file: its bytes, plain and gzipped, and the digest that stands in its address."""

    body: bytes
    gzipped: bytes
    media_type: str
    digest: str


@lru_cache(maxsize=1)
def all_assets() -> dict[str, Asset]:
    """Return every asset by its path below `/assets/`."""
    found: dict[str, Asset] = {}

    def collect(folder: Traversable, prefix: str) -> None:
        for entry in folder.iterdir():
            if entry.is_dir():
                collect(entry, f"{prefix}{entry.name}/")
            elif entry.name.endswith(SERVED):
                found[prefix + entry.name] = _asset(entry.name, entry.read_bytes())

    collect(resources.files("reclaim.web") / "static", "")
    return found


def asset_url(path: str) -> str:
    """Return the address of an asset with the digest of its content; KeyError if there is none of that path."""
    return f"{PREFIX}/{path}?v={all_assets()[path].digest}"


def asset_routes() -> Router:
    """Return the routes that serve the assets, open to everyone."""
    router = Router(dependencies=[Depends(public())], include_in_schema=False)

    @router.api_route(PREFIX + "/{path:path}", methods=["GET", "HEAD"])
    def asset(request: Request, path: str, v: Annotated[str | None, "the digest"] = None) -> Response:
        found = all_assets().get(path)
        if found is None:
            raise NotFound("There is no such file.")
        etag = f'"{found.digest}"'
        headers = {
            "Cache-Control": FOR_EVER if v == found.digest else "no-cache",
            "ETag": etag,
            "Vary": "Accept-Encoding",
        }
        if request.headers.get("if-none-match") == etag:
            return Response(status_code=304, headers=headers)
        if "gzip" in request.headers.get("accept-encoding", ""):
            headers["Content-Encoding"] = "gzip"
            return Response(found.gzipped, media_type=found.media_type, headers=headers)
        return Response(found.body, media_type=found.media_type, headers=headers)

    return router


def _asset(name: str, body: bytes) -> Asset:
    media_type = mimetypes.guess_type(name)[0] or "application/octet-stream"
    digest = hashlib.sha256(body).hexdigest()[:16]
    return Asset(body, gzip.compress(body, mtime=0), media_type, digest)
