"""The JSON API of webhooks: what came, replaying it, and the secrets that verify it."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Annotated

from fastapi import Depends, Query
from pydantic import BaseModel, SecretStr

from reclaim.common.db import Database
from reclaim.common.errors import NotFound
from reclaim.common.routing import Router
from reclaim.itsm_gateway import deliveries, delivery_store
from reclaim.itsm_gateway.delivery_store import Delivery, State
from reclaim.itsm_gateway.hints import Platform
from reclaim.itsm_gateway.keyring import Keyring
from reclaim.web.auth import require
from reclaim.web.operators import Operator

Number = Annotated[int, Query(ge=1, lt=2**63)]


class DeliveryOut(BaseModel):
    """A webhook that came, and what became of it. `says` is what it claims, and once taken, what was decided."""

    number: int
    connection_id: str
    platform: Platform
    webhook_id: str
    secret_id: str | None
    case_id: str | None
    ticket: str | None
    says: str | None
    actor: str
    reason: str
    body_hash: str
    received_at: datetime
    state: State
    outcome: str | None
    attempts: int
    settled_at: datetime | None
    replayed_by: str | None


class DeliveriesOut(BaseModel):
    """A page of webhooks, newest first. Ask for the next with `before=next_before`, until it is null."""

    deliveries: list[DeliveryOut]
    next_before: int | None
    counts: dict[State, int]


class SecretOut(BaseModel):
    """An active secret; what it is, nobody is told again."""

    id: str
    connection_id: str
    platform: Platform
    created_at: datetime
    created_by: str
    last_used_at: datetime | None


class NewSecretIn(BaseModel):
    """A secret for a connection. Without `secret` one is made."""

    connection_id: str
    platform: Platform
    secret: SecretStr | None = None


class NewSecretOut(BaseModel):
    """The new secret; this is the only time that it is shown."""

    id: str
    connection_id: str
    platform: Platform
    secret: str


def router(database: Database, keyring: Keyring) -> Router:
    """Return the endpoints."""
    api = Router(tags=["itsm-gateway"])
    viewer = [Depends(require("viewer"))]

    @api.get("/api/deliveries", dependencies=viewer)
    async def get_deliveries(
        state: State | None = None,
        connection_id: str | None = None,
        case_id: str | None = None,
        before: Number | None = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> DeliveriesOut:
        """Webhooks, newest first."""
        async with database.reading() as db:
            found = await delivery_store.deliveries(
                db, state=state, connection_id=connection_id, case_id=case_id, before=before, limit=limit + 1
            )
            counts = await delivery_store.counts(db)
        page = [_out(one) for one in found[:limit]]
        return DeliveriesOut(
            deliveries=page, next_before=page[-1].number if len(found) > limit else None, counts=counts
        )

    @api.get("/api/deliveries/{number}", dependencies=viewer)
    async def get_delivery(number: int) -> DeliveryOut:
        """One webhook."""
        return _out(await one_delivery(database, number))

    @api.post("/api/deliveries/{number}/replay")
    async def replay(number: int, operator: Annotated[Operator, Depends(require("operator"))]) -> DeliveryOut:
        """Let a webhook that failed, or was ignored, be handled anew."""
        return _out(await deliveries.replay(database, number, operator.name))

    @api.post("/api/deliveries/{number}/set-aside")
    async def set_aside(number: int, operator: Annotated[Operator, Depends(require("operator"))]) -> DeliveryOut:
        """Take a webhook that failed off the list of what needs a person."""
        return _out(await deliveries.set_aside(database, number, operator.name))

    @api.get("/api/webhook-secrets", dependencies=viewer)
    async def get_secrets() -> list[SecretOut]:
        """The active secrets that are kept here, without the secrets themselves."""
        return await active_secrets(database)

    @api.post("/api/webhook-secrets", status_code=201)
    async def post_secret(
        wanted: NewSecretIn, operator: Annotated[Operator, Depends(require("admin"))]
    ) -> NewSecretOut:
        """Add a secret to a connection, which may have two: the one in use, and the one that replaces it."""
        given = wanted.secret.get_secret_value() if wanted.secret is not None else None
        stored, secret = await keyring.add(wanted.connection_id, wanted.platform, given, by=operator.name)
        return NewSecretOut(id=stored.id, connection_id=stored.connection_id, platform=stored.platform, secret=secret)

    @api.delete("/api/webhook-secrets/{secret_id}", status_code=204, dependencies=[Depends(require("admin"))])
    async def delete_secret(secret_id: str) -> None:
        """Drop a secret: from now on it verifies nothing."""
        await keyring.drop(secret_id)

    return api


def _out(delivery: Delivery) -> DeliveryOut:
    return DeliveryOut(**asdict(delivery))


async def one_delivery(database: Database, number: int) -> Delivery:
    """Return one webhook.

    Raises:
        NotFound: there is none of that number.
    """
    async with database.reading() as db:
        found = await delivery_store.delivery(db, number) if 0 < number < 2**63 else None
    if found is None:
        raise NotFound("No such webhook. The list has those of the last 90 days.")
    return found


async def active_secrets(database: Database) -> list[SecretOut]:
    """Return the secrets that are kept here, without what they are, and when each last verified something."""
    async with database.reading() as db:
        stored = await delivery_store.secrets(db)
        used = await delivery_store.last_used(db)
    return [
        SecretOut(
            id=one.id,
            connection_id=one.connection_id,
            platform=one.platform,
            created_at=one.created_at,
            created_by=one.created_by,
            last_used_at=used.get(one.id),
        )
        for one in stored
    ]
