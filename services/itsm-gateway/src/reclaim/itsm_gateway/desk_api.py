"""The JSON API of service desks: connecting one, testing it, what fields it has, and opening a ticket again."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

import msgspec
from fastapi import Depends, Path
from pydantic import BaseModel, ConfigDict, SecretStr

from reclaim.common.db import Database
from reclaim.common.errors import Conflict, Invalid, NotFound
from reclaim.common.routing import Router
from reclaim.common.security import Sealer
from reclaim.common.timing import wall_milliseconds
from reclaim.connectors.itsm import templates
from reclaim.connectors.itsm.decisions import DEFAULT_TAGS, DecisionRules
from reclaim.connectors.itsm.ports import Answer
from reclaim.connectors.itsm.registry import PLATFORMS
from reclaim.itsm_gateway import ticket_store
from reclaim.itsm_gateway.desks import Desks
from reclaim.itsm_gateway.setup import Setups
from reclaim.itsm_gateway.ticket_store import Desk
from reclaim.itsm_gateway.ticketing import OPEN, TELL
from reclaim.web.auth import require
from reclaim.web.operators import Operator

DeskId = Annotated[str, Path(max_length=80, pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class DecisionsIn(_Strict):
    """How a ticket reads as a decision: tags, and perhaps one field and what its values mean."""

    tags: dict[str, Answer] = dict(DEFAULT_TAGS)
    decision_field: str = ""
    values: dict[str, Answer] = {}
    needs_close: bool = False


class DeskIn(_Strict):
    """A service desk. Without `credentials` those that are stored stay; another address needs them again."""

    platform: str
    settings: dict[str, str] = {}
    credentials: dict[str, SecretStr] | None = None
    decisions: DecisionsIn = DecisionsIn()
    title: str = templates.DEFAULT_TITLE
    description: str = templates.DEFAULT_DESCRIPTION
    fields: dict[str, Any] = {}
    asks: bool = True


class DeskOut(BaseModel):
    """A service desk; its credentials nobody is told."""

    id: str
    platform: str
    label: str
    settings: dict[str, str]
    decisions: DecisionsIn
    title: str
    description: str
    fields: dict[str, Any]
    asks: bool
    changed_at: datetime
    changed_by: str


class ResultOut(BaseModel):
    """One thing that the connection needs, whether it works, and what to do if not."""

    what: str
    ok: bool
    detail: str
    remedy: str


class EntryOut(BaseModel):
    """One thing to enter for a platform."""

    name: str
    label: str
    help: str
    required: bool
    secret: bool
    default: str


class PlatformOut(BaseModel):
    """A platform, and what is entered for it."""

    name: str
    label: str
    entries: list[EntryOut]


class FieldOut(BaseModel):
    """A field of the platform's tickets, with the values that it may take (what the API wants, what people see)."""

    name: str
    label: str
    kind: str
    required: bool
    choices: list[tuple[str, str]]


def router(database: Database, sealer: Sealer, desks: Desks, setups: Setups) -> Router:
    """Return the endpoints."""
    api = Router(tags=["itsm-gateway"])
    admin = [Depends(require("admin"))]
    viewer = [Depends(require("viewer"))]

    async def stored(desk_id: str) -> Desk:
        async with database.reading() as db:
            found = await ticket_store.desk(db, desk_id)
        if found is None:
            raise NotFound(f"No service desk is connected as {desk_id}.")
        return found

    @api.get("/api/platforms", dependencies=viewer)
    async def get_platforms() -> list[PlatformOut]:
        """The platforms there are, and what is entered for each."""
        return [
            PlatformOut(
                name=name,
                label=platform.label,
                entries=[
                    EntryOut(**{each: getattr(entry, each) for each in EntryOut.model_fields})
                    for entry in platform.entries
                ],
            )
            for name, platform in PLATFORMS.items()
        ]

    @api.get("/api/desks", dependencies=viewer)
    async def get_desks() -> list[DeskOut]:
        """The service desks that are connected."""
        async with database.reading() as db:
            return [_out(one) for one in await ticket_store.desks(db)]

    @api.put("/api/desks/{desk_id}")
    async def put_desk(
        desk_id: DeskId, wanted: DeskIn, operator: Annotated[Operator, Depends(require("admin"))]
    ) -> DeskOut:
        """Connect a service desk, or change one. Nothing is sent to it."""
        async with database.reading() as db:
            before = await ticket_store.desk(db, desk_id)
        sealed = _sealed(sealer, wanted, before)
        rules = DecisionRules(**wanted.decisions.model_dump())
        async with database.unit() as unit:
            entered = Desk(
                id=desk_id,
                platform=wanted.platform,
                settings=_json(wanted.settings),
                credentials=sealed,
                decisions=_json(rules),
                title=wanted.title,
                description=wanted.description,
                fields=_json(wanted.fields),
                asks=wanted.asks,
                version=before.version if before else 0,
                changed_at=unit.now,
                changed_by=operator.name,
            )
            changed = await desks.store(unit, entered, operator.name)
            unit.wake(OPEN)
            unit.wake(TELL)
        return _out(changed)

    @api.delete("/api/desks/{desk_id}", status_code=204, dependencies=admin)
    async def delete_desk(desk_id: DeskId) -> None:
        """Disconnect a service desk; forget its credentials and its webhooks' secrets. Its tickets stay as they are."""
        async with database.unit() as unit:
            if not await desks.remove(unit, desk_id):
                raise NotFound(f"No service desk is connected as {desk_id}.")

    @api.post("/api/desks/{desk_id}/test")
    async def test_desk(desk_id: DeskId, operator: Annotated[Operator, Depends(require("admin"))]) -> list[ResultOut]:
        """Try each thing that the connection needs: reading, and on a test ticket that is closed again the rest."""
        results = await setups.test((await stored(desk_id)).id, operator.name)
        return [ResultOut(what=one.what, ok=one.ok, detail=one.detail, remedy=one.remedy) for one in results]

    @api.get("/api/desks/{desk_id}/fields", dependencies=admin)
    async def get_fields(desk_id: DeskId) -> list[FieldOut]:
        """The fields that the desk's tickets have, as the desk itself says."""
        found = await (await desks.connected(desk_id)).discover_fields()
        return [
            FieldOut(
                name=one.name,
                label=one.label,
                kind=one.kind,
                required=one.required,
                choices=[(choice.value, choice.label) for choice in one.choices],
            )
            for one in found
        ]

    @api.post("/api/requests/{case_id}/open", status_code=202, dependencies=[Depends(require("operator"))])
    async def open_again(case_id: str) -> dict[str, str]:
        """Have the ticket of a case opened that could not be opened before."""
        async with database.unit() as unit:
            if not await ticket_store.retry(unit.db, case_id, wall_milliseconds()):
                raise Conflict("This case has no ticket that could not be opened.")
            unit.wake(OPEN)
        return {"status": "wanted"}

    return api


def _sealed(sealer: Sealer, wanted: DeskIn, before: Desk | None) -> str:
    """Return the credentials to store: those that were entered, or the old ones, if they still go to the same place."""
    if wanted.credentials is not None:
        return sealer.seal({name: secret.get_secret_value() for name, secret in wanted.credentials.items()})
    if before is None:
        return sealer.seal({})
    old = msgspec.json.decode(before.settings, type=dict[str, str])
    if before.platform != wanted.platform or old.get("base_url", "") != wanted.settings.get("base_url", ""):
        raise Invalid("Enter the credentials again: they would be sent to another address.", field="credentials")
    return before.credentials


def _out(desk: Desk) -> DeskOut:
    platform = PLATFORMS.get(desk.platform)
    decisions: Mapping[str, Any] = msgspec.json.decode(desk.decisions)
    return DeskOut(
        id=desk.id,
        platform=desk.platform,
        label=platform.label if platform else desk.platform,
        settings=msgspec.json.decode(desk.settings),
        decisions=DecisionsIn(**decisions),
        title=desk.title,
        description=desk.description,
        fields=msgspec.json.decode(desk.fields),
        asks=desk.asks,
        changed_at=desk.changed_at,
        changed_by=desk.changed_by,
    )


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
