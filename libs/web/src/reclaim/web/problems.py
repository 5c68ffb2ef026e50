"""Errors as an answer: a page that says what to do for a browser, a problem document (RFC 9457) for a program.

Neither ever shows a stack trace or repeats what was sent. What nobody foresaw gets an incident id that stands in
the answer and in the log, and nowhere says more.
"""

from __future__ import annotations

import logging
import secrets
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse, Response
from sqlalchemy.exc import DBAPIError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reclaim.common.db import is_outage
from reclaim.common.errors import Invalid, NotSignedIn, Permanent, ReclaimError, Transient
from reclaim.web.auth import sign_in_url
from reclaim.web.pages import Pages

logger = logging.getLogger(__name__)

PROBLEM_JSON: Final = "application/problem+json"
RETRY_AFTER_SECONDS: Final = 5
UNKEPT_TEXT: Final = frozenset({"22021", "22P05"})
"""SQLSTATEs by which PostgreSQL refuses a NUL in a text or a document; no other character gets that far."""

DETAILS: Final = {
    400: "The request could not be read. Check what was sent.",
    404: "There is nothing at this address. Check it, or start from the overview.",
    405: "This address does not take that kind of request.",
    413: "What was sent is too large.",
}


@dataclass(frozen=True)
class FieldError:
    """One part of the input that does not fit."""

    field: str
    message: str


@dataclass(frozen=True)
class Problem:
    """An error as it is shown. `incident` finds it in the log."""

    status: int
    title: str
    detail: str
    errors: tuple[FieldError, ...] = ()
    incident: str | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """Return the members of the problem document."""
        document: dict[str, Any] = {"type": "about:blank", "title": self.title, "status": self.status}
        document["detail"] = self.detail
        if self.errors:
            document["errors"] = [{"field": error.field, "message": error.message} for error in self.errors]
        if self.incident:
            document["incident"] = self.incident
        return document


def prefers_html(request: Request) -> bool:
    """Whether a browser asks: it names HTML in `Accept`, and sends no token."""
    return "text/html" in request.headers.get("accept", "") and "authorization" not in request.headers


class Problems:
    """Turns errors into answers. `pages` renders `problem.html` and `problem-fragment.html`."""

    def __init__(self, pages: Pages) -> None:
        self._pages = pages

    def install(self, app: FastAPI) -> None:
        """Answer every expected error of the application; `UnexpectedErrors` answers the others."""

        async def expected(request: Request, error: Exception) -> Response:
            return self.answer(request, error)

        for kind in (ReclaimError, RequestValidationError, HTTPException):
            app.add_exception_handler(kind, expected)

    def answer(self, request: Request, error: Exception) -> Response:
        """Return the answer for an error."""
        htmx = request.headers.get("hx-request") == "true"
        if isinstance(error, NotSignedIn) and htmx:
            return Response(status_code=401, headers={"HX-Redirect": sign_in_url(request)})
        if isinstance(error, NotSignedIn) and prefers_html(request):
            return RedirectResponse(sign_in_url(request), status_code=303)
        problem = self._problem(request, error)
        if htmx:
            headers = {**problem.headers, "HX-Retarget": "#notices", "HX-Reswap": "innerHTML"}
            return self._pages.render(
                request, "problem-fragment.html", status_code=problem.status, headers=headers, problem=problem
            )
        if prefers_html(request):
            return self._pages.render(
                request, "problem.html", status_code=problem.status, headers=problem.headers, problem=problem
            )
        return JSONResponse(
            problem.document(), status_code=problem.status, headers=problem.headers, media_type=PROBLEM_JSON
        )

    def _problem(self, request: Request, error: Exception) -> Problem:
        match error:
            case NotSignedIn():
                return Problem(error.status, error.title, error.detail, headers={"WWW-Authenticate": "Bearer"})
            case Invalid(field=str(name)):
                return Problem(error.status, error.title, error.detail, (FieldError(name, error.detail),))
            case Transient():
                retry = {"Retry-After": str(RETRY_AFTER_SECONDS)}
                return Problem(error.status, error.title, error.detail, headers=retry)
            case Permanent():
                return Problem(error.status, error.title, error.detail)
            case RequestValidationError():
                return _invalid_request(error)
            case HTTPException():
                phrase = HTTPStatus(error.status_code).phrase
                # What the framework raises says no more than its status: say what to do about it.
                detail = DETAILS.get(error.status_code, phrase) if error.detail == phrase else str(error.detail)
                return Problem(error.status_code, phrase.capitalize(), detail, headers=dict(error.headers or {}))
            case ClientDisconnect():
                # Nobody is left to read this; that it is no defect of ours is for the log.
                return Problem(400, "Bad request", "The connection was closed before all of it had arrived.")
            case DBAPIError() if getattr(error.orig, "sqlstate", None) in UNKEPT_TEXT:
                detail = "A text that was sent has a NUL character. Take it out and send it again."
                return Problem(Invalid.status, Invalid.title, detail)
            case _ if is_outage(error):
                logger.error("the database did not answer", exc_info=error)
                detail = (
                    "The database did not answer. What was sent may have been recorded or not: look, and try again "
                    "in a few seconds."
                )
                return Problem(
                    Transient.status, Transient.title, detail, headers={"Retry-After": str(RETRY_AFTER_SECONDS)}
                )
        incident = secrets.token_hex(4)
        route = getattr(request.scope.get("route"), "path", "unknown route")
        # The route, not the address: the address of a decision page is its key.
        logger.error(
            "unexpected error",
            exc_info=error,
            extra={"incident": incident, "method": request.method, "route": route},
        )
        if isinstance(error, ReclaimError):
            return Problem(error.status, error.title, error.detail, incident=incident)
        detail = "The error is on our side. Try again; if it stays, give your administrator the incident number."
        return Problem(500, ReclaimError.title, detail, incident=incident)


class UnexpectedErrors:
    """ASGI middleware: answers what no handler caught, inside the middleware that adds the security headers."""

    def __init__(self, app: ASGIApp, problems: Problems) -> None:
        self.app = app
        self.problems = problems

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except Exception as error:
            if started:
                # Half an answer is out: only cutting the connection tells the client so.
                raise
            response = self.problems.answer(Request(scope, receive), error)
            await response(scope, receive, send)


def _invalid_request(error: RequestValidationError) -> Problem:
    found = []
    for part in error.errors():
        # Without `input`: what does not fit may be a secret in the wrong place.
        name = ".".join(str(step) for step in part["loc"] if step not in {"body", "query", "path", "header"})
        found.append(FieldError(name or str(part["loc"][0]), part["msg"]))
    return Problem(Invalid.status, Invalid.title, "Correct what is listed and send it again.", tuple(found))
