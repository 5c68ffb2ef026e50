"""What an operator needs of every service: the messages it could not handle, and a way to try them again."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
from fastapi import Depends, Form
from fastapi.responses import HTMLResponse, RedirectResponse
from starlette.requests import Request

from reclaim.common.contracts import SERVICES
from reclaim.common.inbox import Inbox, Parked
from reclaim.common.routing import Router
from reclaim.web.auth import local_path, require
from reclaim.web.operators import PERSONAL_ROLE, Operator
from reclaim.web.pages import Pages

if TYPE_CHECKING:
    from reclaim.common.service import Running

PERSONAL_FIELDS: Final = frozenset({"ip", "user_agent"})
"""The fields of events that say where somebody decided from."""

LEFT_OUT: Final = f"left out: needs the role {PERSONAL_ROLE}"


def without_personal(body: str) -> str:
    """Return a parked message without where somebody decided from.

    What is no event by its form is left out as a whole: nobody can tell what is an address in it.
    """
    try:
        event = msgspec.json.decode(body)
        known = isinstance(event, dict) and isinstance(event.get("data"), dict)
        return msgspec.json.encode(_blanked(event)).decode() if known else LEFT_OUT
    except (msgspec.DecodeError, RecursionError):
        return LEFT_OUT


def _blanked(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name: LEFT_OUT if name in PERSONAL_FIELDS and part is not None else _blanked(part)
            for name, part in value.items()
        }
    return [_blanked(part) for part in value] if isinstance(value, list) else value


def _shown(one: Parked, operator: Operator) -> dict[str, Any]:
    shown = asdict(one)
    return shown if operator.may(PERSONAL_ROLE) else {**shown, "body": without_personal(one.body)}


def parked_routes(running: Running) -> Router:
    """Return a service's routes for parked messages: an API, and a page at `/{service}/parked`."""
    name = running.service.name
    inbox = running.inbox
    pages = Pages()
    router = Router(prefix=f"/{name}")

    @router.get("/api/parked", tags=["operations"])
    async def list_parked(operator: Annotated[Operator, Depends(require("viewer"))]) -> dict[str, Any]:
        return {"parked": [_shown(one, operator) for one in await inbox.parked()]}

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
        parked = await inbox.parked()
        return pages.render(request, "parked.html", service=name, services=SERVICES, parked=parked)

    @router.post("/parked/{event_id}/redrive", dependencies=[Depends(require("operator"))], include_in_schema=False)
    async def redrive_form(event_id: str, back: Annotated[str, Form(max_length=200)] = "") -> RedirectResponse:
        await inbox.redrive(event_id)
        return RedirectResponse(local_path(back) if back else f"/{name}/parked", status_code=303)

    return router


async def parked_here(request: Request) -> dict[str, list[Parked]]:
    """Return the parked messages of every service that runs in this process, by service.

    Each is asked through its own inbox. What other processes run is theirs to show, at `/{service}/parked`.
    """
    inboxes: dict[str, Inbox] = request.app.state.inboxes
    return {name: await inbox.parked() for name, inbox in inboxes.items()}
