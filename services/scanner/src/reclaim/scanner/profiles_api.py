"""Profiles, applications and synchronisations over HTTP, beside the scanner's other routes."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import Depends, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from reclaim.common.routing import Router
from reclaim.scanner import profile_store, profiles, store, sync_store
from reclaim.scanner.ports import Deps
from reclaim.scanner.profile_store import Profile
from reclaim.scanner.profiles import Offered
from reclaim.scanner.store import Rule
from reclaim.web.auth import require
from reclaim.web.operators import Operator

Viewer = Depends(require("viewer"))
Editor = Annotated[Operator, Depends(require("operator"))]


class ApplicationIn(BaseModel):
    model_config = ConfigDict(extra="forbid")

    seats_connection_id: str = Field(description="The connection that holds the application's seats")
    product: str = Field(description="What that connection calls them: a licence's key", max_length=200)


class ProfileOut(BaseModel):
    id: str
    connection_id: str
    how: str = Field(description="direct: a product of a connection with seats; sso: an application of a sign-in log")
    key: str
    name: str
    seats_connection_id: str
    product: str
    rule_id: str
    rule_name: str
    rule_status: str
    added_by: str
    added_at: datetime
    ended_at: datetime | None
    ended_why: str | None
    covered_since: datetime | None = Field(description="From when on every sign-in is kept")
    covered_until: datetime | None


class ApplicationOut(BaseModel):
    id: str
    name: str
    active: bool
    chosen: bool
    profile: ProfileOut | None = Field(description="Also of one that was taken back: its rule stays")


class SyncOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    connection_id: str
    what: str = Field(description="licences: the products of a connection; usage: the sign-ins of a log")
    source: str
    status: str
    started_at: datetime | None
    ended_at: datetime | None
    succeeded_at: datetime | None
    problem: str | None
    remedy: str | None
    cursor: datetime | None = Field(description="What lies before it has been read")
    since: datetime | None
    until: datetime | None
    records: int
    failed: int = Field(description="Attempts to sign in that came to nothing")


def routes(deps: Deps) -> Router:
    """Return the routes."""
    router = Router(prefix="/api", tags=["profiles"])

    @router.get("/profiles", dependencies=[Viewer])
    async def list_profiles(connection_id: Annotated[str | None, Query(max_length=100)] = None) -> list[ProfileOut]:
        """List what connections offer, and the rule that was made for each."""
        async with deps.database.reading() as db:
            found = await profile_store.profiles(db, connection_id)
            rules = {rule.id: rule for rule in await store.rules(db)}
        return [_profile(profile, rules[profile.rule_id]) for profile in found]

    @router.get("/syncs", dependencies=[Viewer])
    async def list_syncs() -> list[SyncOut]:
        """List what is read from connections again and again, how far it came, and how it ended last."""
        async with deps.database.reading() as db:
            return [SyncOut.model_validate(sync) for sync in await sync_store.syncs(db)]

    @router.post("/connections/{connection_id}/sync", status_code=202)
    async def sync_now(connection_id: str, operator: Editor) -> list[SyncOut]:
        """Have a connection read again now."""
        await profiles.sync_now(deps, connection_id, by=operator.name)
        async with deps.database.reading() as db:
            return [SyncOut.model_validate(sync) for sync in await sync_store.syncs(db, connection_id)]

    @router.get("/connections/{connection_id}/applications", dependencies=[Depends(require("operator"))])
    async def list_applications(connection_id: str) -> list[ApplicationOut]:
        """List the applications that a sign-in log tells about; the connected system is asked."""
        found = await profiles.applications(deps, connection_id)
        async with deps.database.reading() as db:
            rules = {rule.id: rule for rule in await store.rules(db)}
        return [_application(each, rules) for each in found]

    @router.put("/connections/{connection_id}/applications/{application}")
    async def choose_application(
        connection_id: str, application: str, body: ApplicationIn, operator: Editor
    ) -> ProfileOut:
        """Let an application's sign-ins count as use of some seats, and make its rule, once."""
        profile = await profiles.choose_application(
            deps,
            connection_id,
            application,
            seats_connection_id=body.seats_connection_id,
            product=body.product,
            by=operator.name,
        )
        async with deps.database.reading() as db:
            return _profile(profile, await store.rule(db, profile.rule_id))

    @router.delete("/connections/{connection_id}/applications/{application}", status_code=204)
    async def drop_application(connection_id: str, application: str, operator: Editor) -> Response:
        """Let an application's sign-ins count no more: its rule is paused, its open cases are taken back."""
        await profiles.drop_application(deps, connection_id, application, by=operator.name)
        return Response(status_code=204)

    return router


def _profile(profile: Profile, rule: Rule) -> ProfileOut:
    shown = {name: getattr(profile, name) for name in ProfileOut.model_fields if hasattr(profile, name)}
    return ProfileOut(**shown, rule_name=rule.terms.name, rule_status=rule.status)


def _application(offered: Offered, rules: dict[str, Rule]) -> ApplicationOut:
    profile = offered.profile
    return ApplicationOut(
        id=offered.application.id,
        name=offered.application.name,
        active=offered.application.active,
        chosen=offered.chosen,
        profile=None if profile is None else _profile(profile, rules[profile.rule_id]),
    )
