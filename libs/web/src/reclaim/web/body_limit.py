"""No request may send more than anything here can use: a body is read before anybody is asked who sent it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LARGEST_BODY: Final = 1024 * 1024
"""Bytes. The longest form or document of ours is far below; a route may take less."""


class BodyLimit:
    """ASGI middleware: refuses a body as soon as it says that it is too large, or turns out to be.

    `uploads` are the paths that take files, with what each takes: they ask who sends before they read.
    """

    def __init__(self, app: ASGIApp, most: int = LARGEST_BODY, uploads: Mapping[str, int] | None = None) -> None:
        self.app = app
        self.most = most
        self.uploads = uploads or {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        most = self.uploads.get(scope["path"], self.most)
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdecimal() and int(declared) > most:
            raise _too_large(most)
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > most:
                raise _too_large(most)
            return message

        await self.app(scope, counted, send)


def _too_large(most: int) -> HTTPException:
    return HTTPException(413, f"What was sent is too large: send at most {most:,} bytes.")
