"""The demo's time machine: a console page that lets days pass for every service and the simulated org alike."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from fastapi import Depends, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse

from reclaim.common.clock import FileClock
from reclaim.common.routing import Router
from reclaim.web.auth import require
from reclaim.web.pages import Pages


def time_machine(clock: FileClock) -> Router:
    """Return the page at `/demo/`; only the demo mounts it."""
    router = Router(prefix="/demo", include_in_schema=False)
    pages = Pages("reclaim.cli")

    @router.get("/", dependencies=[Depends(require("viewer"))])
    async def show(request: Request) -> HTMLResponse:
        return pages.render(request, "time_machine.html", now=clock.now())

    @router.post("/advance", dependencies=[Depends(require("operator"))])
    async def advance(days: Annotated[int, Form(ge=1, le=366)]) -> RedirectResponse:
        clock.advance(timedelta(days=days))
        return RedirectResponse("/demo/", status_code=303)

    return router
