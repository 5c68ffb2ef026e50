"""The savings page, the check of the books, and the log as a file for a spreadsheet."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import fields
from datetime import date
from typing import Annotated, Final

from babel.dates import format_date
from fastapi import Depends, Request
from fastapi.responses import HTMLResponse, RedirectResponse, StreamingResponse

from reclaim.common.contracts import Money
from reclaim.common.routing import Router
from reclaim.savings import api, store
from reclaim.savings.api import Breakdown, FiguresOut, LineOut, ReportOut, Year
from reclaim.savings.domain import Entry
from reclaim.savings.handlers import Deps
from reclaim.web.auth import require
from reclaim.web.charts import Bar
from reclaim.web.formatting import LOCALE, format_money
from reclaim.web.operators import Operator
from reclaim.web.pages import Pages
from reclaim.web.spreadsheets import BYTE_ORDER_MARK, csv_line

RECENT: Final = 10
AT_A_TIME: Final = 2_000
"""Entries of the exported log in memory at a time."""

HAPPENED: Final = {
    "frozen": "Seat frozen",
    "restored": "Seat restored",
    "closed": "Case closed, nothing freed",
    "reclaimed": "Seat freed",
    "reactivated": "Seat given back",
}
BREAKDOWNS: Final[dict[Breakdown, str]] = {
    "product": "Product",
    "department": "Department",
    "rule": "Rule",
    "month": "Month",
}
AMOUNTS: Final = frozenset({"annualized_run_rate", "year_to_date", "potential_annualized"})
TABLES: Final = ("savings_daily", "seat_saving")


def router(deps: Deps) -> Router:
    """Return the pages."""
    pages = Router(include_in_schema=False, default_response_class=HTMLResponse)
    templates = Pages("reclaim.savings")
    viewer = [Depends(require("viewer"))]

    @pages.get("/", dependencies=viewer)
    async def savings(request: Request, year: Year = None, by: Breakdown = "product") -> HTMLResponse:
        monthly = await api.report(deps, year, "month")
        chosen = monthly if by == "month" else await api.report(deps, year, by)
        async with deps.database.reading() as db:
            recent = await store.latest_entries(db, RECENT)
            years = await store.years(db)
        return templates.render(
            request,
            "savings.html",
            report=chosen,
            running=chosen.days < chosen.days_in_year,
            figures=[(one, _money_of(one)) for one in chosen.figures],
            charts=_month_charts(monthly),
            lines=[(line, _money_of(line)) for line in chosen.lines],
            by=by,
            breakdowns=BREAKDOWNS,
            years=sorted({*years, chosen.year}, reverse=True),
            recent=[(logged.entry, _price(logged.entry)) for logged in recent],
            happened=HAPPENED,
        )

    @pages.get("/books", dependencies=viewer)
    async def books(request: Request) -> HTMLResponse:
        async with deps.database.reading() as db:
            found = await store.verify(db)
        sums = [
            (one, {part: Money(amount=getattr(one, part), currency=one.currency) for part in ("event_log", *TABLES)})
            for one in found.sums
            if one.currency
        ]
        return templates.render(
            request, "savings-books.html", found=found, sums=sums, rebuild=await api.rebuild_status(deps)
        )

    @pages.post("/rebuild")
    async def rebuild(operator: Annotated[Operator, Depends(require("operator"))]) -> RedirectResponse:
        await api.request_rebuild(deps, operator)
        return RedirectResponse("/savings/books", status_code=303)

    @pages.get("/events.csv", dependencies=viewer)
    async def export() -> StreamingResponse:
        return StreamingResponse(
            _csv_of_the_log(deps),
            media_type="text/csv; charset=utf-8",
            headers={"Content-Disposition": 'attachment; filename="savings-events.csv"'},
        )

    return pages


def _money_of(row: FiguresOut | LineOut) -> dict[str, Money | None]:
    """Return the amounts of a row with their currency, by field; None where there is no price."""
    return {
        name: None if value is None or row.currency is None else Money(amount=value, currency=row.currency)
        for name, value in row
        if name in AMOUNTS
    }


def _month_charts(report: ReportOut) -> list[tuple[str, list[Bar]]]:
    """Return for each currency a bar a month, of what the month did not cost."""
    bars: dict[str, list[Bar]] = {}
    for line in report.lines:
        if line.currency is not None and line.year_to_date is not None:
            label = format_date(date.fromisoformat(f"{line.key}-01"), "MMM", locale=LOCALE)
            text = format_money(Money(amount=line.year_to_date, currency=line.currency))
            bars.setdefault(line.currency, []).append(Bar(label, line.year_to_date, text))
    return list(bars.items())


def _price(entry: Entry) -> Money | None:
    if entry.monthly is None or entry.currency is None:
        return None
    return Money(amount=entry.monthly, currency=entry.currency)


async def _csv_of_the_log(deps: Deps) -> AsyncIterator[str]:
    """Give the whole log as CSV text, some lines at a time; with a byte order mark, so that Excel reads it as UTF-8."""
    columns = [field.name for field in fields(Entry)]
    yield BYTE_ORDER_MARK + csv_line(["position", *columns])
    async with deps.database.reading() as db:
        position = 0
        while page := await store.entries_after(db, position, AT_A_TIME):
            position = page[-1].position
            yield "".join(
                csv_line([logged.position, *(getattr(logged.entry, column) for column in columns)]) for logged in page
            )
