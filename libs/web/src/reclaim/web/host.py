"""What a service's host calls once to give its application the web part."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from argon2 import extract_parameters
from argon2.exceptions import InvalidHashError
from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from reclaim.common.clock import Clock, SystemClock
from reclaim.common.routing import add_routes
from reclaim.web.assets import asset_routes
from reclaim.web.auth import undeclared_routes
from reclaim.web.body_limit import BodyLimit
from reclaim.web.operators import ROLES, OperatorRecord
from reclaim.web.pages import Pages
from reclaim.web.problems import Problems, UnexpectedErrors
from reclaim.web.security_headers import SecurityHeaders
from reclaim.web.sign_in import sign_in_routes
from reclaim.web.state import NavItem, Web

logger = logging.getLogger(__name__)

HOST_ROUTES: Final = ("/health", "/metrics", "/openapi.json")
"""Routes of the host itself, open to whoever reaches its port: probes, scrapers, the API's description."""


def install(
    app: FastAPI,
    *,
    secret_keys: Sequence[str],
    operators: Mapping[str, OperatorRecord],
    public_url: str,
    navigation: Sequence[NavItem] = (),
    uploads: Mapping[str, int] | None = None,
    clock: Clock | None = None,
    sign_in_clock: Clock | None = None,
    exempt_routes: Collection[str] = HOST_ROUTES,
) -> None:
    """Give the application assets, sign-in, security headers and error answers; `app.state.web` holds the settings.

    `secret_keys`: the first signs, all verify. `public_url`: where browsers reach it; https makes cookies secure.
    `uploads` are the paths that take files, with the bytes that each takes at most.
    `clock` is what pages call now; `sign_in_clock` is what sessions and tokens live by. Both are the machine's
    unless given. Call it once, before the application serves, and after any middleware that should lie inside.

    Routes may be added before and after. When the application starts to serve, it refuses to if one of them, other
    than `exempt_routes` and what lies below those, does not say who may use it.

    Raises:
        ValueError: a key is missing or short, a password hash is no argon2 hash, a role is unknown, or the public
            address is no http(s) address.
    """
    parts = urlsplit(public_url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(f"public_url {public_url!r} must start with https:// (or http:// on the own machine)")
    for name, record in operators.items():
        _check_operator(name, record)
    if parts.scheme == "http" and not _is_loopback(parts.hostname):
        logger.warning("passwords and sessions travel unencrypted: use an https public_url", extra={"url": public_url})
    web = Web(
        secret_keys=tuple(secret_keys),
        operators=dict(operators),
        public_url=public_url,
        navigation=tuple(navigation),
        clock=clock or SystemClock(),
        sign_in_clock=sign_in_clock or SystemClock(),
    )
    app.state.web = web
    pages = Pages()
    problems = Problems(pages)
    problems.install(app)
    add_routes(app, asset_routes())
    add_routes(app, sign_in_routes(pages))
    # The one added last is outermost: the headers also go on what the others answer.
    app.add_middleware(DeclaredRoutesOnly, of=app, exempt=exempt_routes)
    app.add_middleware(BodyLimit, uploads=uploads)
    app.add_middleware(UnexpectedErrors, problems=problems)
    app.add_middleware(SecurityHeaders, web=web)


class DeclaredRoutesOnly:
    """ASGI middleware that cannot be built, so that nothing is served, while a route does not say who may use it.

    It is built when the application starts to serve: by then every route has been added.
    """

    def __init__(self, app: ASGIApp, of: FastAPI, exempt: Collection[str]) -> None:
        undeclared = undeclared_routes(of, exempt=exempt)
        if undeclared:
            raise RuntimeError(
                f"these routes do not say who may use them: {', '.join(undeclared)}. "
                "Add Depends(require(role)) or Depends(public())"
            )
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


def _check_operator(name: str, record: OperatorRecord) -> None:
    if record.role not in ROLES:
        raise ValueError(f"operator {name!r} has the unknown role {record.role!r}: use one of {', '.join(ROLES)}")
    try:
        extract_parameters(record.password_hash)
    except InvalidHashError as error:
        message = f"operator {name!r} has no argon2 password hash: make one with reclaim.web.operators.hash_password"
        raise ValueError(message) from error


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
