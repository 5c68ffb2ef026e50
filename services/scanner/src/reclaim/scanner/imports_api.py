"""Files of use and installations over HTTP: sent as they are, of any length, and read in the background."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Annotated, Any

import msgspec
from fastapi import Depends, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from reclaim.common.routing import Router
from reclaim.connectors.feeds import Problem
from reclaim.scanner import import_actions, import_store
from reclaim.scanner.import_store import Import
from reclaim.scanner.imports import read_wanted
from reclaim.scanner.ports import Deps
from reclaim.web.auth import require
from reclaim.web.operators import Operator
from reclaim.web.spreadsheets import BYTE_ORDER_MARK, csv_line

Viewer = Depends(require("viewer"))
Editor = Annotated[Operator, Depends(require("operator"))]

MOST_REFUSED = 1_000
"""Bad rows that an answer lists one by one; their number is of all."""

Text = Annotated[str, Query(max_length=200)]


class RefusedRowOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    line: int
    reason: str
    row: str


class ImportOut(BaseModel):
    id: str
    source: str
    shape: str
    what: str
    file_name: str
    author: str
    status: str = Field(description="queued, running, waiting, finished or failed")
    requested_at: datetime
    ended_at: datetime | None
    bytes: int
    bytes_read: int
    rows: int
    bad: int = Field(description="Rows that were refused; the good ones are kept")
    kept: int = Field(description="Records that were made of the good rows: those of one use are summed")
    vouched: str | None = Field(description="Whether its periods were marked complete, and if not, why")
    problem: str | None
    remedy: str | None
    terms: dict[str, Any]
    findings: dict[str, Any] = Field(description="What reading it brought to light: unknown products, reasons, periods")


class ImportWithRefused(ImportOut):
    refused: list[RefusedRowOut] = Field(description="The first of the refused rows")


def routes(deps: Deps) -> Router:
    """Return the routes."""
    router = Router(prefix="/api/usage/imports", tags=["imports"])

    @router.post("", status_code=202)
    async def send_file(
        request: Request,
        operator: Editor,
        shape: Annotated[str, Query(description="What wrote it: sccm, intune, jamf or csv", max_length=20)],
        source: Annotated[Text, Query(description="What the feed is called; the shape, if empty")] = "",
        what: Annotated[str, Query(description="usage or installations", max_length=20)] = "usage",
        file_name: Text = "",
        time_zone: Annotated[Text, Query(description="Of times without one")] = "UTC",
        date_order: Annotated[Text, Query(description="month_first or day_first: how 03/04/2026 is meant")] = "",
        first_day: Annotated[Text, Query(description="What rows are about that name no month and no day")] = "",
        last_day: Text = "",
        complete: Annotated[bool, Query(description="It has everybody's use in its periods")] = False,
        silence_days: Annotated[Text, Query(description="Warn after so many days without a new file")] = "",
    ) -> ImportOut:
        """Send a CSV file as the body. It is taken as it comes, and read in the background: ask for its progress."""
        raw = {
            "shape": shape,
            "source": source,
            "what": what,
            "file_name": file_name,
            "time_zone": time_zone,
            "date_order": date_order,
            "first_day": first_day,
            "last_day": last_day,
            "complete": complete,
            "silence_days": silence_days,
        }
        wanted = read_wanted(raw)
        return _shown(await import_actions.receive(deps, wanted, request.stream(), author=operator.name))

    @router.get("", dependencies=[Viewer])
    async def list_imports(limit: Annotated[int, Query(ge=1, le=500)] = 100) -> list[ImportOut]:
        """List the files that were sent, the newest first."""
        async with deps.database.reading() as db:
            return [_shown(one) for one in await import_store.imports(db, limit=limit)]

    @router.get("/{import_id}", dependencies=[Viewer])
    async def get_import(import_id: str) -> ImportWithRefused:
        """Return one import, its progress and its first refused rows."""
        async with deps.database.reading() as db:
            found = await import_store.find(db, import_id)
            refused = await import_store.refusals(db, import_id, limit=MOST_REFUSED)
        rows = [RefusedRowOut.model_validate(row) for row in refused]
        return ImportWithRefused(**_shown(found).model_dump(), refused=rows)

    @router.get("/{import_id}/refused.csv", dependencies=[Viewer], response_class=StreamingResponse)
    async def download_refused(import_id: str) -> StreamingResponse:
        """Return the refused rows as CSV, in which no cell is a formula."""
        return await refused_csv(deps, import_id)

    return router


async def refused_csv(deps: Deps, import_id: str) -> StreamingResponse:
    """Return the refused rows of a file as a download; NotFound if there is no such import."""
    async with deps.database.reading() as db:
        await import_store.find(db, import_id)
        refused = await import_store.refusals(db, import_id)
    return StreamingResponse(
        _lines(refused),
        media_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="refused-{import_id}.csv"'},
    )


def _lines(refused: Sequence[Problem]) -> Iterator[str]:
    yield BYTE_ORDER_MARK + csv_line(["line", "reason", "row"])
    for one in refused:
        yield csv_line([one.line, one.reason, one.row])


def _shown(one: Import) -> ImportOut:
    shown = {name: getattr(one, name) for name in ImportOut.model_fields if name not in ("terms", "findings")}
    return ImportOut(**shown, terms=msgspec.to_builtins(one.terms), findings=msgspec.to_builtins(one.findings))
