"""Operator sign-in: who sent a request, what that person may do, and whether a form really came from us.

Every route says who may use it, with `Depends(require("viewer"))` or `Depends(public())`; `undeclared_routes` names
those that do not, and a service refuses to start with any. A browser proves itself by a signed session cookie, a
program by `Authorization: Bearer <token>`. What a session changes must also come from one of our own pages: the
browser says so (`Sec-Fetch-Site`, `Origin`), and the form carries a nonce that is bound to the session.
"""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import Annotated, Final
from urllib.parse import quote, urlsplit

from fastapi import FastAPI, Request, Security
from fastapi.dependencies.models import Dependant
from fastapi.responses import Response
from fastapi.routing import APIRoute, iter_route_contexts
from fastapi.security import HTTPBearer
from starlette.applications import Starlette
from starlette.routing import BaseRoute, Mount

from reclaim.common.errors import Forbidden, NotSignedIn
from reclaim.web.operators import ROLES, Operator, Role
from reclaim.web.signing import NotSigned
from reclaim.web.state import SESSION_LIFETIME, Web, connected
from reclaim.web.tokens import MAX_TOKEN_LIFETIME
from reclaim.web.tokens import issue_api_token as issue_api_token

SIGN_IN_PATH: Final = "/auth/sign-in"
SIGN_OUT_PATH: Final = "/auth/sign-out"
NONCE_FIELD: Final = "form_nonce"
NONCE_HEADER: Final = "X-Form-Nonce"
SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})

_BEARER: Final = HTTPBearer(auto_error=False, description="A signed operator token, see `issue_api_token`")
_STATE_KEY: Final = "reclaim_web_identity"
_LOCAL_PATH: Final = re.compile(r"/(?![/\\])[!-\[\]-~]*")


@dataclass(frozen=True)
class _Identity:
    """What the request proves: the operator, and the session id where a session proved it."""

    operator: Operator | None
    session_id: str | None = None


# ------------------------------------------------------------------------------------------------ for routes


class _Requirement:
    """The dependency that `require` returns."""

    def __init__(self, role: Role) -> None:
        self.role = role

    def __repr__(self) -> str:
        return f"require({self.role!r})"

    async def __call__(self, request: Request, _scheme: Annotated[object, Security(_BEARER)]) -> Operator:
        identity = _identify(request)
        operator = identity.operator
        if operator is None:
            raise NotSignedIn("Sign in, or send a valid operator token, and try again.")
        if not operator.may(self.role):
            raise Forbidden(
                f"This needs the role {self.role}; {operator.name} has the role {operator.role}. Ask an administrator."
            )
        if identity.session_id is not None and request.method not in SAFE_METHODS:
            check_origin(request)
            await _check_form_nonce(request, identity.session_id)
        return operator


class _Public:
    """The dependency that `public` returns."""

    def __repr__(self) -> str:
        return "public()"

    async def __call__(self) -> None:
        return None


@lru_cache
def require(role: Role) -> _Requirement:
    """Return the dependency for a route that needs an operator of at least this role; it gives the `Operator`.

    Equal arguments give the same object, so that a test can put another one into `app.dependency_overrides`.
    """
    if role not in ROLES:
        raise ValueError(f"{role!r} is no role: use one of {', '.join(ROLES)}")
    return _Requirement(role)


@lru_cache
def public() -> _Public:
    """Return the dependency that declares a route open: token pages, health, webhooks."""
    return _Public()


def undeclared_routes(app: FastAPI, *, exempt: Collection[str] = ()) -> list[str]:
    """Name the routes that say neither `require` nor `public`, such as `POST /cases`; mounted applications included.

    `exempt` are paths that somebody has looked at and left out, with everything below them.
    """
    return sorted(_undeclared(app.routes, "", exempt))


def current_operator(request: Request) -> Operator | None:
    """Return who sent the request, without asking for anything: for pages that are open but show the signed-in name."""
    return _identify(request).operator


def form_nonce(request: Request) -> str:
    """Return the nonce that a form of this session must send back; empty where there is no session."""
    session_id = _identify(request).session_id
    return connected(request).web.form_nonces.sign(session_id) if session_id else ""


# ------------------------------------------------------------------------------------------------ for the sign-in


def sign_in_url(request: Request) -> str:
    """Return where a browser that is not signed in is sent; it comes back to the page that it was on."""
    if request.method not in {"GET", "HEAD"}:
        return f"{SIGN_IN_PATH}?ended=true"
    shown = request.headers.get("hx-current-url")
    try:
        parts = urlsplit(shown) if shown else request.url
    except ValueError:
        parts = request.url
    path = quote(parts.path, safe="/%") + (f"?{parts.query}" if parts.query else "")
    return f"{SIGN_IN_PATH}?next={quote(local_path(path), safe='/')}"


def local_path(value: str) -> str:
    """Return the value if it is a path on this site, else `/`: nobody is sent to another site after signing in."""
    return value if _LOCAL_PATH.fullmatch(value) and not value.startswith("/auth/") else "/"


def start_session(response: Response, web: Web, name: str) -> None:
    """Sign the operator in: a new session, in a cookie on the response."""
    claims = {"name": name, "id": secrets.token_urlsafe(16), "fingerprint": web.operators[name].fingerprint}
    set_cookie(response, web, session_cookie(web), web.sessions.sign(claims), SESSION_LIFETIME)


def end_session(response: Response, web: Web) -> None:
    """Sign the operator out of this browser."""
    delete_cookie(response, web, session_cookie(web))


def session_cookie(web: Web) -> str:
    """Return the name of the session cookie; over https, one that no other host can set."""
    return "__Host-reclaim" if web.https else "reclaim"


def set_cookie(response: Response, web: Web, name: str, value: str, lifetime: timedelta) -> None:
    """Set a cookie that scripts cannot read."""
    seconds = int(lifetime.total_seconds())
    # Lax, not Strict: a link in a mail to a console page must find the session.
    response.set_cookie(name, value, seconds, path="/", secure=web.https, httponly=True, samesite="lax")


def delete_cookie(response: Response, web: Web, name: str) -> None:
    """Delete a cookie that `set_cookie` set."""
    response.delete_cookie(name, path="/", secure=web.https, httponly=True, samesite="lax")


def nonce_fits(web: Web, nonce: str, bound_to: str, lifetime: timedelta) -> bool:
    """Whether the form nonce was signed for `bound_to` within its lifetime."""
    try:
        value = web.form_nonces.read(nonce, lifetime)
    except NotSigned:
        return False
    return hmac.compare_digest(str(value).encode(), bound_to.encode())


# ------------------------------------------------------------------------------------------------ how it is proved


def _identify(request: Request) -> _Identity:
    found = getattr(request.state, _STATE_KEY, None)
    if not isinstance(found, _Identity):
        web = connected(request).web
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        # A request with a token is judged by it alone: a cookie that a browser adds must not lend it a session.
        found = _by_token(web, token.strip()) if scheme.lower() == "bearer" else _by_session(web, request)
        setattr(request.state, _STATE_KEY, found)
    return found


def _by_token(web: Web, token: str) -> _Identity:
    try:
        claims = web.api_tokens.read(token, MAX_TOKEN_LIFETIME + timedelta(seconds=1))
    except NotSigned:
        return _Identity(None)
    if web.sign_in_clock.now().timestamp() >= claims["expires"]:
        return _Identity(None)
    return _Identity(Operator(claims["name"], claims["role"], "token"))


def _by_session(web: Web, request: Request) -> _Identity:
    try:
        claims = web.sessions.read(request.cookies.get(session_cookie(web), ""), SESSION_LIFETIME)
    except NotSigned:
        return _Identity(None)
    # The settings are asked each time: who was taken out of them, or got a new password, is signed out at once.
    record = web.operators.get(claims["name"])
    if record is None or record.fingerprint != claims["fingerprint"]:
        return _Identity(None)
    return _Identity(Operator(claims["name"], record.role, "session"), claims["id"])


def check_origin(request: Request) -> None:
    """Refuse a request that a page of another site sent.

    Our pages send no referrer, so a browser writes `Origin: null` for them; `Sec-Fetch-Site` says what is needed.
    It is sent over https and to the own machine only: elsewhere on plain http there may be neither, and the form
    nonce decides alone.
    """
    web = connected(request).web
    site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin", "null").lower()
    if site is not None:
        ours = site in {"same-origin", "none"}
    elif origin != "null":
        ours = origin == web.origin or origin.partition("://")[2] == request.headers.get("host", "").lower()
    else:
        ours = not web.https
    if not ours:
        raise Forbidden("This was not sent by a page of this site. Open the page here and send it again.")


async def _check_form_nonce(request: Request, session_id: str) -> None:
    nonce = request.headers.get(NONCE_HEADER)
    if nonce is None:
        content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if content_type in {"application/x-www-form-urlencoded", "multipart/form-data"}:
            value = (await request.form()).get(NONCE_FIELD)
            nonce = value if isinstance(value, str) else None
    if not nonce_fits(connected(request).web, nonce or "", session_id, SESSION_LIFETIME):
        raise Forbidden("The form does not belong to this session. Reload the page and send it again.")


# ------------------------------------------------------------------------------------------------ every route declares


def _undeclared(routes: Iterable[BaseRoute], prefix: str, exempt: Collection[str]) -> Iterable[str]:
    for context in iter_route_contexts(list(routes)):
        path = prefix + (context.path or "")
        if any(path == free or path.startswith(free.rstrip("/") + "/") for free in exempt):
            continue
        route = context.original_route
        if isinstance(route, Mount) and isinstance(route.app, Starlette):
            yield from _undeclared(route.app.routes, path, exempt)
        elif not (isinstance(route, APIRoute) and _declares(context.dependant)):
            yield f"{'|'.join(sorted(context.methods or ())) or type(route).__name__.upper()} {path}"


def _declares(dependant: Dependant) -> bool:
    if isinstance(dependant.call, (_Requirement, _Public)):
        return True
    return any(_declares(inner) for inner in dependant.dependencies)
