"""The pages of files that people send: a form to send one, how each is getting on, and what was refused of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Final

from fastapi import Depends, Request
from fastapi.responses import HTMLResponse, Response
from starlette.datastructures import FormData, UploadFile

from reclaim.common.errors import Invalid, ReclaimError
from reclaim.common.routing import Router
from reclaim.connectors.feeds import FEEDS
from reclaim.scanner import import_actions, import_store
from reclaim.scanner.imports import read_wanted
from reclaim.scanner.imports_api import refused_csv
from reclaim.scanner.pages import Refused
from reclaim.scanner.ports import Deps
from reclaim.web.auth import require
from reclaim.web.operators import Operator
from reclaim.web.pages import Pages

Viewer = Annotated[Operator, Depends(require("viewer"))]
Editor = Annotated[Operator, Depends(require("operator"))]

REFUSED_SHOWN: Final = 100
UNKNOWN_SHOWN: Final = 50
IMPORTS_SHOWN: Final = 100

FIELDS: Final = (
    "shape",
    "what",
    "source",
    "time_zone",
    "date_order",
    "first_day",
    "last_day",
    "complete",
    "silence_days",
)
WHATS: Final = (
    ("usage", "Who used what", "Run counts, hours or last use, a month or a day a row."),
    ("installations", "What is installed", "A product on a device a row."),
)
ORDERS: Final = (("", "Not needed"), ("month_first", "Month first: 10/31/2026"), ("day_first", "Day first: 31/10/2026"))


def routes(deps: Deps) -> Router:
    """Return the routes of the pages."""
    pages = Pages("reclaim.scanner")
    router = Router(prefix="/imports", include_in_schema=False, default_response_class=HTMLResponse)

    async def list_page(
        request: Request,
        *,
        values: Mapping[str, str] | None = None,
        refused: Refused | None = None,
        status_code: int = 200,
    ) -> HTMLResponse:
        async with deps.database.reading() as db:
            found = await import_store.imports(db, limit=IMPORTS_SHOWN)
        return pages.render(
            request,
            "imports.html",
            status_code=status_code,
            imports=found,
            busy=any(one.under_way for one in found),
            feeds=FEEDS,
            shapes=[(name, feed.label) for name, feed in FEEDS.items()],
            whats=WHATS,
            orders=ORDERS,
            values=values or {"what": "usage"},
            errors=refused.by_field if refused else {},
            refused=refused,
        )

    @router.get("")
    async def imports(request: Request, _operator: Viewer) -> HTMLResponse:
        return await list_page(request)

    @router.post("")
    async def send(request: Request, operator: Editor) -> Response:
        async with request.form() as form:
            values = {name: _text(form, name) for name in FIELDS}
            sent = form.get("file")
            try:
                if not isinstance(sent, UploadFile) or not sent.filename:
                    raise Invalid("Choose a CSV file.", field="file")
                wanted = read_wanted({**values, "file_name": sent.filename})
                begun = await import_actions.receive(deps, wanted, _chunks(sent), author=operator.name)
            except ReclaimError as error:
                return await list_page(request, values=values, refused=Refused.of(error), status_code=error.status)
        return Response(status_code=303, headers={"Location": f"/scanner/imports/{begun.id}"})

    @router.get("/{import_id}")
    async def show(request: Request, import_id: str, _operator: Viewer) -> HTMLResponse:
        async with deps.database.reading() as db:
            found = await import_store.find(db, import_id)
            refused = await import_store.refusals(db, import_id, limit=REFUSED_SHOWN)
        return pages.render(
            request,
            "import.html",
            one=found,
            feed=FEEDS[found.shape],
            refused=refused,
            unknown=list(found.findings.unknown.items())[:UNKNOWN_SHOWN],
            more_unknown=max(0, len(found.findings.unknown) - UNKNOWN_SHOWN),
        )

    @router.get("/{import_id}/refused.csv")
    async def download(import_id: str, _operator: Viewer) -> Response:
        return await refused_csv(deps, import_id)

    return router


async def _chunks(sent: UploadFile) -> AsyncIterator[bytes]:
    while chunk := await sent.read(import_actions.PART):
        yield chunk


def _text(form: FormData, name: str) -> str:
    value = form.get(name)
    return value if isinstance(value, str) else ""
