"""The console's pages of webhooks, under `/itsm-gateway`: what came, and the secrets that verify it."""

from __future__ import annotations

from typing import Annotated, Final
from urllib.parse import urlencode

from fastapi import Depends, Form, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse

from reclaim.common.db import Database
from reclaim.common.errors import ReclaimError
from reclaim.common.ids import new_id
from reclaim.common.routing import Router
from reclaim.itsm_gateway import deliveries, delivery_store
from reclaim.itsm_gateway.delivery_api import active_secrets, one_delivery
from reclaim.itsm_gateway.delivery_store import STATES, State
from reclaim.itsm_gateway.hints import LABELS, PLATFORMS, Platform
from reclaim.itsm_gateway.keyring import Keyring
from reclaim.itsm_gateway.webhooks import SCHEMES
from reclaim.web.auth import require
from reclaim.web.operators import Operator
from reclaim.web.pages import Pages

PAGE_SIZE: Final = 50
LIST: Final = "/itsm-gateway/deliveries"
SECRETS: Final = "/itsm-gateway/secrets"


def router(database: Database, keyring: Keyring) -> Router:
    """Return the pages."""
    pages = Router(include_in_schema=False, default_response_class=HTMLResponse)
    templates = Pages("reclaim.itsm_gateway")
    viewer = [Depends(require("viewer"))]

    @pages.get("/deliveries", dependencies=viewer)
    async def list_page(
        request: Request,
        state: str = "failed",
        connection: str = "",
        before: Annotated[int | None, Query(ge=1, lt=2**63)] = None,
    ) -> HTMLResponse:
        shown: State | None = next((one for one in STATES if one == state), None)
        async with database.reading() as db:
            found = await delivery_store.deliveries(
                db, state=shown, connection_id=connection or None, before=before, limit=PAGE_SIZE + 1
            )
            counts = await delivery_store.counts(db)
        listed = found[:PAGE_SIZE]
        older = _list(shown, connection, before=listed[-1].number) if len(found) > PAGE_SIZE else None
        filters = [(f"{one.capitalize()} ({counts[one]})", _list(one, connection), one == shown) for one in STATES]
        return templates.render(
            request,
            "deliveries.html",
            deliveries=listed,
            filters=[*filters, ("All", _list(None, connection), shown is None)],
            state=shown or "all",
            connection=connection,
            older=older,
            platforms=LABELS,
        )

    @pages.get("/deliveries/{number}", dependencies=viewer)
    async def one_page(request: Request, number: int) -> HTMLResponse:
        found = await one_delivery(database, number)
        return templates.render(request, "delivery.html", one=found, platforms=LABELS)

    @pages.post("/deliveries/{number}/replay")
    async def replay(number: int, operator: Annotated[Operator, Depends(require("operator"))]) -> RedirectResponse:
        await deliveries.replay(database, number, operator.name)
        return RedirectResponse(f"{LIST}/{number}", status_code=303)

    @pages.post("/deliveries/{number}/set-aside")
    async def set_aside(number: int, operator: Annotated[Operator, Depends(require("operator"))]) -> RedirectResponse:
        await deliveries.set_aside(database, number, operator.name)
        return RedirectResponse(LIST, status_code=303)

    async def secrets_page(
        request: Request, *, made: tuple[str, Platform, str] | None = None, refused: str | None = None, **typed: str
    ) -> HTMLResponse:
        return templates.render(
            request,
            "webhook-secrets.html",
            status_code=200 if refused is None else 422,
            secrets=await active_secrets(database),
            given=sorted(keyring.given),
            platforms=LABELS,
            schemes=SCHEMES,
            options=[(one, LABELS[one]) for one in PLATFORMS],
            new_id=new_id(),
            made=made,
            refused=refused,
            typed=typed,
        )

    @pages.get("/secrets", dependencies=viewer)
    async def show_secrets(request: Request) -> HTMLResponse:
        return await secrets_page(request)

    @pages.post("/secrets")
    async def add_secret(
        request: Request,
        operator: Annotated[Operator, Depends(require("admin"))],
        connection: Annotated[str, Form(max_length=200)],
        platform: Annotated[Platform, Form()],
        secret_id: Annotated[str, Form(pattern=r"^[0-9a-f-]{36}$")],
        secret: Annotated[str, Form(max_length=300)] = "",
    ) -> HTMLResponse:
        connection = connection.strip()
        try:
            stored, shown = await keyring.add(
                connection, platform, secret.strip() or None, by=operator.name, secret_id=secret_id
            )
        except ReclaimError as error:
            return await secrets_page(request, refused=str(error), connection=connection, platform=platform)
        # Not by a redirect: this answer is the only place where it stands.
        return await secrets_page(request, made=(stored.connection_id, stored.platform, shown))

    @pages.post("/secrets/{secret_id}/drop", dependencies=[Depends(require("admin"))])
    async def drop_secret(secret_id: str) -> RedirectResponse:
        await keyring.drop(secret_id)
        return RedirectResponse(SECRETS, status_code=303)

    return pages


def _list(state: State | None, connection: str, **more: int) -> str:
    chosen = {"state": state or "all", **({"connection": connection} if connection else {}), **more}
    return f"{LIST}?{urlencode(chosen)}"
