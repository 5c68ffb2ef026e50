"""The routes `/auth/sign-in` and `/auth/sign-out`."""

from __future__ import annotations

import asyncio
import logging
import secrets
from datetime import timedelta
from typing import Annotated, Final

from fastapi import Depends, Form, Query, Request
from fastapi.responses import RedirectResponse, Response

from reclaim.common.routing import Router
from reclaim.web.auth import (
    NONCE_FIELD,
    SIGN_IN_PATH,
    SIGN_OUT_PATH,
    check_origin,
    current_operator,
    delete_cookie,
    end_session,
    local_path,
    nonce_fits,
    public,
    require,
    session_cookie,
    set_cookie,
    start_session,
)
from reclaim.web.operators import Operator, password_fits
from reclaim.web.pages import Pages
from reclaim.web.state import Web, connected

logger = logging.getLogger(__name__)

FORM_LIFETIME: Final = timedelta(hours=1)
FAILURE_DELAY_SECONDS: Final = 0.25
PASSWORD_CHECKS: Final = 2
"""Checked at once: each fills 64 MB of memory on purpose, so a flood of them waits in line."""


def sign_in_routes(pages: Pages) -> Router:
    """Return the routes; `pages` renders the form."""
    router = Router(include_in_schema=False)
    checks = asyncio.Semaphore(PASSWORD_CHECKS)

    def form(
        request: Request, next_path: str, *, status: int = 200, name: str = "", error: str = "", ended: bool = False
    ) -> Response:
        # There is no session to bind the nonce to yet, so a cookie of its own stands in: nobody can be made to
        # sign in as somebody else by a form on another site.
        web = connected(request).web
        binding = secrets.token_urlsafe(16)
        nonce = web.form_nonces.sign(f"sign-in {binding}")
        response = pages.render(
            request,
            "sign-in.html",
            status_code=status,
            next_path=next_path,
            nonce=nonce,
            name=name,
            error=error,
            ended=ended,
        )
        set_cookie(response, web, _binding_cookie(web), binding, FORM_LIFETIME)
        return response

    @router.get(SIGN_IN_PATH, dependencies=[Depends(public())])
    async def show(
        request: Request, next_path: Annotated[str, Query(alias="next")] = "/", ended: bool = False
    ) -> Response:
        target = local_path(next_path)
        operator = current_operator(request)
        if operator is not None and operator.via == "session":
            return RedirectResponse(target, status_code=303)
        return form(request, target, ended=ended)

    @router.post(SIGN_IN_PATH, dependencies=[Depends(public())])
    async def sign_in(
        request: Request,
        name: Annotated[str, Form(max_length=200)] = "",
        password: Annotated[str, Form(max_length=1_000)] = "",
        next_path: Annotated[str, Form(alias="next", max_length=2_000)] = "/",
        nonce: Annotated[str, Form(alias=NONCE_FIELD, max_length=1_000)] = "",
    ) -> Response:
        web = connected(request).web
        target = local_path(next_path)
        check_origin(request)
        binding = request.cookies.get(_binding_cookie(web), "")
        if not nonce_fits(web, nonce, f"sign-in {binding}", FORM_LIFETIME):
            error = "The form was open for too long, or cookies are blocked. Please try again."
            return form(request, target, status=403, name=name, error=error)
        address = request.client.host if request.client else "unknown"
        wait = web.attempts.admit(name, address)
        if wait is not None:
            logger.warning("sign-in refused: too many attempts", extra={"operator": name, "address": address})
            seconds = int(wait.total_seconds()) + 1
            error = f"Too many attempts. Try again in {-(-seconds // 60)} min."
            response = form(request, target, status=429, name=name, error=error)
            response.headers["Retry-After"] = str(seconds)
            return response
        async with checks:
            fits = await asyncio.to_thread(password_fits, web.operators.get(name), password)
        if not fits:
            logger.warning("sign-in failed", extra={"operator": name, "address": address})
            await asyncio.sleep(FAILURE_DELAY_SECONDS)
            return form(request, target, status=401, name=name, error="The name or the password is not right.")
        web.attempts.forgive(name, address)
        logger.info("signed in", extra={"operator": name, "address": address})
        response = RedirectResponse(target, status_code=303)
        start_session(response, web, name)
        delete_cookie(response, web, _binding_cookie(web))
        return response

    @router.post(SIGN_OUT_PATH)
    async def sign_out(request: Request, operator: Annotated[Operator, Depends(require("viewer"))]) -> Response:
        logger.info("signed out", extra={"operator": operator.name})
        response = RedirectResponse(SIGN_IN_PATH, status_code=303)
        end_session(response, connected(request).web)
        return response

    return router


def _binding_cookie(web: Web) -> str:
    return f"{session_cookie(web)}-sign-in"
