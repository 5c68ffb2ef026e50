"""The pages of sources of use and of a log's applications. They work without scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Final
from urllib.parse import urlencode

from fastapi import Depends, Query, Request
from fastapi.responses import HTMLResponse, Response
from starlette.datastructures import FormData

from reclaim.common.errors import NotFound, ReclaimError
from reclaim.common.routing import Router
from reclaim.connectors.registry import capabilities
from reclaim.scanner import import_store, profile_store, profiles, retiring, store, sync_store, usage_store
from reclaim.scanner.import_store import Import, Inventory
from reclaim.scanner.pages import Refused
from reclaim.scanner.ports import Deps
from reclaim.scanner.store import Connection
from reclaim.scanner.sync_store import Sync
from reclaim.scanner.usage import Freshness
from reclaim.web.auth import require
from reclaim.web.operators import Operator
from reclaim.web.pages import Pages

Viewer = Annotated[Operator, Depends(require("viewer"))]
Editor = Annotated[Operator, Depends(require("operator"))]

UNMATCHED_SHOWN: Final = 25
APPLICATIONS_SHOWN: Final = 100
SEARCHED_FROM: Final = 20
"""Applications from which on a search is worth its place."""


@dataclass(frozen=True, slots=True)
class Source:
    """One source as a page shows it: what it said of each product, what it listed, how it is read, its last file."""

    name: str
    said: tuple[Freshness, ...]
    listed: Inventory | None
    sync: Sync | None
    last: Import | None
    chosen: int = 0

    @property
    def stale(self) -> bool:
        return any(one.stale for one in self.said) or (self.listed is not None and self.listed.stale)

    @property
    def complete_until(self) -> datetime | None:
        """Until when everything that it speaks of is complete."""
        ends = [one.complete_until for one in self.said if one.complete_until is not None]
        return min(ends) if ends and len(ends) == len(self.said) else None

    @property
    def heard_at(self) -> datetime | None:
        spoke = [one.heard_at for one in (*self.said, self.listed) if one is not None]
        return max(spoke, default=None)


def routes(deps: Deps) -> Router:
    """Return the routes of the pages."""
    pages = Pages("reclaim.scanner")
    router = Router(include_in_schema=False, default_response_class=HTMLResponse)
    router.include_router(_source_pages(deps, pages))
    router.include_router(_application_pages(deps, pages))
    return router


def _source_pages(deps: Deps, pages: Pages) -> Router:
    router = Router(prefix="/sources")

    async def page(
        request: Request, *, source: str = "", refused: Refused | None = None, status_code: int = 200
    ) -> HTMLResponse:
        async with deps.database.reading() as db:
            said = await usage_store.sources(db, deps.clock.now())
            listed = await import_store.inventories(db, deps.clock.now())
            syncs = await sync_store.syncs(db)
            last = await import_store.last_of_sources(db)
            unmatched = await usage_store.unmatched(db, source or None, limit=UNMATCHED_SHOWN + 1)
            chosen = await profile_store.profiles(db, ended=False)
            retired = await retiring.retired(db)
        found = _sources(said, listed, syncs, last, [profile.connection_id for profile in chosen])
        return pages.render(
            request,
            "sources.html",
            status_code=status_code,
            sources=found,
            stale=[one for one in found if one.stale],
            troubled=[one for one in syncs if one.problem is not None],
            busy=any(one.sync is not None and one.sync.under_way for one in found),
            unmatched=unmatched[:UNMATCHED_SHOWN],
            more=len(unmatched) > UNMATCHED_SHOWN,
            chosen_source=source,
            retired=retired,
            retirable=[(one.name, one.name) for one in found if one.sync is None and (one.said or one.listed)],
            unmatched_links=[
                (one.name, f"/scanner/sources?{urlencode({'source': one.name})}#unmatched", one.name == source)
                for one in found
            ],
            refused=refused,
        )

    @router.get("")
    async def sources(
        request: Request, _operator: Viewer, source: Annotated[str, Query(max_length=200)] = ""
    ) -> HTMLResponse:
        return await page(request, source=source)

    @router.post("/{connection_id}/read")
    async def read_now(request: Request, connection_id: str, operator: Editor) -> Response:
        try:
            await profiles.sync_now(deps, connection_id, by=operator.name)
        except NotFound:
            raise
        except ReclaimError as error:
            return await page(request, refused=Refused.of(error), status_code=error.status)
        return Response(status_code=303, headers={"Location": "/scanner/sources"})

    @router.post("/retire")
    async def retire(request: Request, operator: Editor) -> Response:
        form = await request.form()
        try:
            await retiring.retire(deps, _text(form, "retire"), _text(form, "reason"), by=operator.name)
        except ReclaimError as error:
            return await page(request, refused=Refused.of(error), status_code=error.status)
        return Response(status_code=303, headers={"Location": "/scanner/sources#retired"})

    return router


def _sources(
    said: Sequence[Freshness],
    listed: Sequence[Inventory],
    syncs: Sequence[Sync],
    last: Mapping[str, Import],
    chosen: Sequence[str],
) -> list[Source]:
    """Return every source that said something, is read by itself, or sent a file; what needs somebody first."""
    logs = {sync.source: sync for sync in syncs if sync.what == "usage"}
    inventories = {one.source: one for one in listed}
    names = {one.source for one in said} | set(inventories) | set(logs) | set(last)
    found = [
        Source(
            name,
            tuple(one for one in said if one.source == name),
            inventories.get(name),
            logs.get(name),
            last.get(name),
            chosen.count(logs[name].connection_id) if name in logs else 0,
        )
        for name in names
    ]
    return sorted(found, key=lambda one: (not one.stale, one.name.casefold()))


def _application_pages(deps: Deps, pages: Pages) -> Router:
    router = Router(prefix="/connections/{connection_id}/applications")

    async def page(
        request: Request,
        connection_id: str,
        *,
        q: str = "",
        values: Mapping[str, str] | None = None,
        refused: Refused | None = None,
        status_code: int = 200,
    ) -> HTMLResponse:
        async with deps.database.reading() as db:
            connection = await store.connection(db, connection_id)
            everywhere = await store.connections(db)
            rules = {rule.id: rule for rule in await store.rules(db)}
            offers = await profile_store.profiles(db, ended=False)
        unread = None
        try:
            offered = await profiles.applications(deps, connection_id)
        except ReclaimError as error:
            offered, unread = [], str(error)
        words = q.casefold().split()
        found = [
            each
            for each in offered
            if all(word in f"{each.application.name} {each.application.id}".casefold() for word in words)
        ]
        return pages.render(
            request,
            "applications.html",
            status_code=status_code,
            connection=connection,
            chosen=[each for each in offered if each.chosen],
            found=[each for each in found if not each.chosen][:APPLICATIONS_SHOWN],
            found_choices=[
                (each.application.id, f"{each.application.name} ({each.application.id})")
                for each in found
                if not each.chosen
            ][:APPLICATIONS_SHOWN],
            more=max(0, sum(not each.chosen for each in found) - APPLICATIONS_SHOWN),
            total=len(offered),
            searched=len(offered) >= SEARCHED_FROM,
            names={one.id: one.name for one in everywhere},
            rules=rules,
            seats=_seats(
                everywhere, [(one.connection_id, one.product, one.name) for one in offers if one.how == "direct"]
            ),
            unread=unread,
            q=q,
            values=values or {},
            errors=refused.by_field if refused else {},
            refused=refused,
        )

    @router.get("")
    async def applications(
        request: Request, connection_id: str, _operator: Editor, q: Annotated[str, Query(max_length=100)] = ""
    ) -> HTMLResponse:
        return await page(request, connection_id, q=q)

    @router.post("")
    async def choose(request: Request, connection_id: str, operator: Editor) -> Response:
        form = await request.form()
        values = {name: _text(form, name) for name in ("application", "seats")}
        seats_id, _, product = values["seats"].partition(" ")
        try:
            await profiles.choose_application(
                deps,
                connection_id,
                values["application"],
                seats_connection_id=seats_id,
                product=product,
                by=operator.name,
            )
        except ReclaimError as error:
            return await page(
                request, connection_id, values=values, refused=Refused.of(error), status_code=error.status
            )
        return Response(status_code=303, headers={"Location": f"/scanner/connections/{connection_id}/applications"})

    @router.post("/drop")
    async def drop(request: Request, connection_id: str, operator: Editor) -> Response:
        form = await request.form()
        await profiles.drop_application(deps, connection_id, _text(form, "application"), by=operator.name)
        return Response(status_code=303, headers={"Location": f"/scanner/connections/{connection_id}/applications"})

    return router


def _seats(connections: Sequence[Connection], offers: Sequence[tuple[str, str, str]]) -> list[tuple[str, str]]:
    """Return what an application's sign-ins can count for: (value of a choice, what it is called)."""
    able = {one.id: one.name for one in connections if "seats" in capabilities(one.kind, one.settings)}
    return [
        (f"{connection_id} {product}", f"{able[connection_id]}: {name}")
        for connection_id, product, name in sorted(offers, key=lambda offer: (able.get(offer[0], ""), offer[2]))
        if connection_id in able
    ]


def _text(form: FormData, name: str) -> str:
    value = form.get(name)
    return value if isinstance(value, str) else ""
