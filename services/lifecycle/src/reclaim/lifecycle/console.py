"""The list of cases and decisions on many of them, under `/lifecycle/` and `/lifecycle/bulk`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlencode
from uuid import UUID

from fastapi import Depends, Form, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from msgspec import to_builtins
from pydantic import BaseModel, ConfigDict, Field, field_validator

from reclaim.common.db import Database
from reclaim.common.errors import Invalid
from reclaim.common.ids import new_id
from reclaim.common.routing import Router
from reclaim.lifecycle import attention, bulk, console_store
from reclaim.lifecycle.bulk import Action
from reclaim.lifecycle.console_store import Filter
from reclaim.lifecycle.domain import ENDED, State
from reclaim.lifecycle.export import instant
from reclaim.web.auth import require
from reclaim.web.operators import Operator
from reclaim.web.pages import Pages

PAGE_SIZE: Final = 50
PAGE_SIZES: Final = (50, 100, 250, bulk.MOST)

GROUPS: Final[dict[str, tuple[str, tuple[State, ...]]]] = {
    "open": ("Open", tuple(state for state in State if state not in ENDED)),
    "waiting": ("Waiting for an answer", (State.FLAGGED, State.AWAITING_DECISION)),
    "frozen": ("Frozen", (State.FROZEN,)),
    "attention": ("Attention", (State.ATTENTION,)),
    "reclaimed": ("Reclaimed", (State.RECLAIMED, State.REACTIVATING, State.REACTIVATED)),
    "kept": ("Kept or restored", (State.KEPT, State.RESTORED, State.CANCELLED, State.SKIPPED)),
    "all": ("All", tuple(State)),
}
"""The filters above the list: what each is called, and the states it shows."""


class FilterIn(BaseModel):
    """The filters of a list of cases, as a query. Empty means any, so that a form may send them all."""

    model_config = ConfigDict(extra="ignore", populate_by_name=True)

    state: list[State] = []
    q: str = Field(default="", max_length=200, description="part of the holder's name or e-mail, or a case id")
    holder: str = Field(default="", max_length=200, description="an earlier name of q")
    rule: str = Field(default="", max_length=100, description="the rule's id")
    connection: str = Field(default="", max_length=100, description="the connection's id")
    product: str = Field(default="", max_length=200, description="the product's key")
    dry_run: Literal["", "true", "false"] = ""
    attention: str = Field(default="", max_length=40, description=f"one of {', '.join(attention.KINDS)}")
    since: str = Field(default="", max_length=40, alias="from", description="flagged from this date or instant on")
    until: str = Field(default="", max_length=40, alias="to", description="flagged before; a date is included")

    @field_validator("state", mode="before")
    @classmethod
    def _any(cls, given: list[str]) -> list[str]:
        return [state for state in given if state]

    def wanted(self) -> Filter:
        """Return the filter.

        Raises:
            Invalid: a date or the kind of attention is none.
        """
        return Filter(
            states=tuple(state.value for state in self.state),
            text=(self.q or self.holder).strip(),
            rule_id=self.rule,
            connection_id=self.connection,
            product=self.product,
            dry_run={"": None, "true": True, "false": False}[self.dry_run],
            resumes=attention.resumes_of(self.attention),
            since=instant(self.since, "from"),
            until=instant(self.until, "to", whole_day=True),
        )

    def query(self) -> dict[str, str]:
        """Return what is set, as it stands in the address of a page."""
        given = self.model_dump(by_alias=True, exclude={"state"})
        return {name: value for name, value in given.items() if value}


async def filters(given: Annotated[FilterIn, Query()]) -> FilterIn:
    """Return the filters of a request; a dependency, because a model must be the only one that reads the query."""
    return given


class BulkIn(BaseModel):
    """A decision on many cases. `batch` is an id of the caller's choice (a UUID): sent again, it does nothing more."""

    model_config = ConfigDict(extra="forbid")

    batch: UUID
    action: Action
    reason: str = Field(default="", max_length=2000)
    cases: list[str] = Field(min_length=1, max_length=bulk.MOST)


def router(database: Database) -> Router:
    """Return the pages, and the API of bulk decisions."""
    routes = Router()
    routes.include_router(_list(database))
    routes.include_router(_bulk(database))

    @routes.post("/api/bulk", tags=["lifecycle"])
    async def decide_many(
        wanted: BulkIn, operator: Annotated[Operator, Depends(require("operator"))]
    ) -> dict[str, Any]:
        reason = _reason(wanted.action, wanted.reason)
        ids = bulk.checked(wanted.cases)
        done = await bulk.carry_out(database, str(wanted.batch), wanted.action, ids, operator.name, reason)
        shown: dict[str, Any] = to_builtins(done)
        return shown

    return routes


def _list(database: Database) -> Router:
    pages = Router(include_in_schema=False, default_response_class=HTMLResponse)
    templates = Pages("reclaim.lifecycle")

    @pages.get("/", dependencies=[Depends(require("viewer"))])
    async def case_list(
        request: Request,
        given: Annotated[FilterIn, Depends(filters)],
        group: Annotated[str, Query(max_length=40)] = "open",
        size: int = PAGE_SIZE,
        after: Annotated[str, Query(max_length=100)] = "",
        select: Literal["", "all"] = "",
    ) -> HTMLResponse:
        if group not in GROUPS:
            raise Invalid(f"There is no filter {group!r}. Choose one above the list.", field="group")
        if size not in PAGE_SIZES:
            raise Invalid(f"A page has {', '.join(map(str, PAGE_SIZES))} cases.", field="size")
        wanted = given.wanted()
        if not wanted.states:
            wanted = replace(wanted, states=tuple(state.value for state in GROUPS[group][1]))
        async with database.reading() as db:
            cases, older = await console_store.page(db, wanted, limit=size, after=after or None)
            counts = await console_store.count_by_state(db, wanted)
            choices = await console_store.choices(db)
        query = given.query() | ({"size": str(size)} if size != PAGE_SIZE else {})
        states = [state.value for state in given.state]
        here: dict[str, str | list[str]] = {**query, "group": group, "state": states}
        return templates.render(
            request,
            "lifecycle/cases.html",
            cases=cases,
            given=given,
            state=states[0] if states else "",
            group=group,
            groups=[
                (f"{label} ({_total(counts, states)})", _address(query | {"group": name}), name == group and not states)
                for name, (label, states) in GROUPS.items()
            ],
            states=[
                (one.value, f"{one.value.replace('_', ' ').capitalize()} ({counts.get(one.value, 0)})")
                for one in State
                if counts.get(one.value, 0) or one.value in states
            ],
            kinds=[(name, label) for name, (label, _states) in attention.KINDS.items()],
            choices=choices,
            size=size,
            sizes=[(one, one) for one in PAGE_SIZES],
            filtered=bool(given.query() or states),
            selected=select == "all",
            select_all=_address({**here, "after": after, "select": "all"}),
            first=_address(here) if after else None,
            older=_address({**here, "after": older}) if older else None,
            attention=counts.get(State.ATTENTION, 0),
        )

    return pages


def _bulk(database: Database) -> Router:
    pages = Router(include_in_schema=False, default_response_class=HTMLResponse)
    templates = Pages("reclaim.lifecycle")

    @pages.post("/bulk")
    async def confirm(
        request: Request,
        operator: Annotated[Operator, Depends(require("operator"))],
        action: Annotated[Action, Form()],
        case: Annotated[list[str] | None, Form()] = None,
    ) -> HTMLResponse:
        ids = bulk.checked(case or [])
        return templates.render(
            request,
            "lifecycle/bulk-confirm.html",
            action=action,
            label=bulk.WORDS[action],
            case_ids=ids,
            preview=await bulk.preview(database, action, ids, operator.name),
            batch=new_id(),
        )

    @pages.post("/bulk/{batch}")
    async def carry_out(
        batch: UUID,
        operator: Annotated[Operator, Depends(require("operator"))],
        action: Annotated[Action, Form()],
        case: Annotated[list[str], Form()],
        reason: Annotated[str, Form(max_length=2000)] = "",
    ) -> RedirectResponse:
        said = _reason(action, reason)
        await bulk.carry_out(database, str(batch), action, bulk.checked(case), operator.name, said)
        return RedirectResponse(f"/lifecycle/bulk/{batch}", status_code=303)

    @pages.get("/bulk/{batch}", dependencies=[Depends(require("viewer"))])
    async def results(request: Request, batch: UUID) -> HTMLResponse:
        done = await bulk.find(database, str(batch))
        return templates.render(
            request,
            "lifecycle/bulk-results.html",
            batch=done,
            label=bulk.WORDS[done.action],
            counts=bulk.counts(done),
            # What was refused comes first: it is what is left to do.
            results=sorted(done.results, key=lambda result: result["accepted"]),
        )

    return pages


def _reason(action: Action, reason: str) -> str:
    if action != "retry" and not reason.strip():
        raise Invalid("Give a reason: it is kept in the audit trail under your name.", field="reason")
    return reason.strip()


def _address(query: Mapping[str, str | list[str]]) -> str:
    return "?" + urlencode({name: value for name, value in query.items() if value}, doseq=True)


def _total(counts: dict[str, int], states: tuple[State, ...]) -> int:
    return sum(counts.get(state.value, 0) for state in states)
