"""What an operator needs of every service: the messages it could not handle, and a way to try them again."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Depends
from fastapi.responses import HTMLResponse, RedirectResponse
from starlette.requests import Request

from reclaim.web.auth import require
from reclaim.web.pages import Pages

if TYPE_CHECKING:
    from reclaim.common.service import Running


def parked_routes(running: Running) -> APIRouter:
    """Return a service's routes for parked messages: an API, and a page at `/{service}/parked`."""
    name = running.service.name
    inbox = running.inbox
    pages = Pages()
    router = APIRouter(prefix=f"/{name}")

    @router.get("/api/parked", dependencies=[Depends(require("viewer"))], tags=["operations"])
    async def list_parked() -> dict[str, Any]:
        return {"parked": [asdict(one) for one in await inbox.parked()]}

    @router.post(
        "/api/parked/{event_id}/redrive",
        dependencies=[Depends(require("operator"))],
        status_code=204,
        tags=["operations"],
    )
    async def redrive(event_id: str) -> None:
        await inbox.redrive(event_id)

    @router.get("/parked", dependencies=[Depends(require("viewer"))], include_in_schema=False)
    async def parked_page(request: Request) -> HTMLResponse:
        return pages.render(request, "parked.html", service=name, parked=await inbox.parked())

    @router.post("/parked/{event_id}/redrive", dependencies=[Depends(require("operator"))], include_in_schema=False)
    async def redrive_form(event_id: str) -> RedirectResponse:
        await inbox.redrive(event_id)
        return RedirectResponse(f"/{name}/parked", status_code=303)

    return router
