"""A gateway behind HTTP for tests: what happens to cases, and senders that sign as each platform does."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import sqlalchemy as sa
from pydantic import SecretStr
from standardwebhooks import Webhook

from reclaim.common import envelope
from reclaim.common.clock import FixedClock
from reclaim.common.contracts import (
    CaseClosed,
    CaseEvent,
    DecisionReceived,
    DeskChanged,
    Event,
    FulfilmentRequested,
    Person,
    Policy,
    Route,
    Seat,
    SeatReactivated,
    SeatReclaimed,
    UserFlagged,
    UserFrozen,
)
from reclaim.common.host import Host
from reclaim.common.service import Running, Runtime, Service
from reclaim.common.settings import Settings
from reclaim.itsm_gateway.ports import Desks, TicketReader, TicketState
from reclaim.itsm_gateway.service import build
from reclaim.itsm_gateway.settings import ItsmGatewaySettings
from reclaim.web.auth import issue_api_token
from reclaim.web.operators import Role

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
KEY = "k" * 32
SEALING = base64.urlsafe_b64encode(b"s" * 32).decode()
SEAT = Seat(
    connection_id="org-1",
    product="sales-cloud",
    product_name="Sales Cloud",
    holder=Person(id="005", name="Ann Holder", email="ann@example.com"),
    department="Sales",
)


def whsec(letter: str) -> str:
    return "whsec_" + base64.b64encode(letter.encode() * 32).decode()


OLD, NEW, FOREIGN = whsec("o"), whsec("n"), whsec("f")


def flagged(case_id: str, route: Route = "itsm", *, rule_name: str = "Unused for 60 days") -> UserFlagged:
    policy = Policy(
        rule_id="r-1",
        rule_version=1,
        rule_name=rule_name,
        inactive_days=60,
        route=route,
        decision_days=7,
        on_timeout="keep",
        grace_days=14,
        hand_over=True,
        dry_run=False,
    )
    return UserFlagged(
        case_id=case_id, seat=SEAT, approver=None, policy=policy, findings=(), last_used_at=None, flagged_at=NOW
    )


def life(case_id: str) -> list[CaseEvent]:
    """What follows a flag, to the very end."""
    rule: dict[str, Any] = {"rule_id": "r-1", "rule_name": "Unused for 60 days"}
    later = [NOW + timedelta(days=days) for days in range(10)]
    return [
        UserFrozen(
            case_id=case_id,
            seat=SEAT,
            decision="revoke",
            frozen_at=later[1],
            grace_ends_at=later[5],
            dry_run=False,
        ),
        SeatReclaimed(
            case_id=case_id,
            seat=SEAT,
            **rule,
            method="deactivate",
            records_transferred=1,
            reclaimed_at=later[5],
            dry_run=False,
        ),
        CaseClosed(case_id=case_id, outcome="reclaimed", reason="", closed_at=later[6]),
        SeatReactivated(
            case_id=case_id,
            seat=SEAT,
            **rule,
            actor="Otto",
            reason="She is back.",
            reactivated_at=later[7],
            dry_run=False,
        ),
    ]


def task(case_id: str, instructions: str = "Take the seat of Ann Holder back.", *, dry_run: bool = False) -> CaseEvent:
    """The task of freeing a case's seat by hand."""
    return FulfilmentRequested(
        case_id=case_id,
        seat=SEAT,
        rule_id="r-1",
        rule_name="Unused for 60 days",
        method="deactivate",
        instructions=instructions,
        requested_at=NOW + timedelta(days=5),
        dry_run=dry_run,
    )


@dataclass
class Site:
    host: Host
    client: httpx.AsyncClient

    @property
    def running(self) -> Running:
        return self.host.running[0]

    async def tell(self, *events: CaseEvent) -> None:
        bodies = [envelope.encode(event, source="lifecycle", time=NOW) for event in events]
        await self.running.inbox.receive([envelope.join(bodies)])

    async def said(self) -> list[Event]:
        """Return what was said of cases."""
        return [event for event in await self._outbox() if isinstance(event, CaseEvent)]

    async def said_of_desks(self) -> list[DeskChanged]:
        """Return what was said of desks."""
        return [event for event in await self._outbox() if isinstance(event, DeskChanged)]

    async def _outbox(self) -> list[Event]:
        async with self.running.database.reading() as db:
            bodies = (await db.execute(sa.text("SELECT body FROM outbox ORDER BY seq"))).scalars().all()
        parts = envelope.split(envelope.join(bodies))
        return [part.data for part in parts if isinstance(part, envelope.Received)]

    async def decisions(self) -> list[DecisionReceived]:
        """Let what waits be handled; return every decision that was said."""
        await self.handle()
        return [event for event in await self.said() if isinstance(event, DecisionReceived)]

    async def handle(self) -> None:
        job = next(job for job in self.running.service.jobs if job.name == "handle_deliveries")
        while await job.run():
            pass

    async def call(self, method: str, path: str, *, role: Role = "viewer", **more: Any) -> httpx.Response:
        token = issue_api_token(
            secret_keys=[KEY],
            name={"viewer": "vera", "operator": "otto", "admin": "anna"}[role],
            role=role,
            lifetime=timedelta(hours=1),
            now=lambda: datetime.now(UTC),
        )
        return await self.client.request(method, path, headers={"authorization": f"Bearer {token}"}, **more)

    async def secret(self, connection: str, platform: str, secret: str | None = None) -> tuple[str, str]:
        """Add a secret as an administrator does; return its id and what it is."""
        given = {"connection_id": connection, "platform": platform, "secret": secret}
        made = await self.call("POST", "/itsm-gateway/api/webhook-secrets", role="admin", json=given)
        assert made.status_code == 201, made.text
        return made.json()["id"], made.json()["secret"]

    async def get(self, path: str) -> Any:
        response = await self.call("GET", path)
        assert response.status_code == 200, response.text
        return response.json() if response.headers["content-type"] == "application/json" else response.text

    async def delivery(self, number: int = 1) -> dict[str, Any]:
        found: dict[str, Any] = await self.get(f"/itsm-gateway/api/deliveries/{number}")
        return found

    async def post(self, connection: str, body: bytes, headers: dict[str, str]) -> httpx.Response:
        raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        return await self.client.post(f"/itsm-gateway/webhooks/{connection}", content=body, headers=raw)

    async def send(
        self, secret: str, body: dict[str, Any] | bytes, *, webhook_id: str = "msg_1", connection: str = "desk"
    ) -> httpx.Response:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.post(connection, raw, signed(secret, raw, webhook_id))


def signed(secret: str, body: bytes, webhook_id: str = "msg_1", *, at: datetime | None = None) -> dict[str, str]:
    at = at or datetime.now(UTC)
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(secret).sign(webhook_id, at, body.decode()),
        "content-type": "application/json",
    }


def by_jira(secret: str, body: bytes, identifier: str = "jira-1") -> dict[str, str]:
    signature = "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    headers = {"x-hub-signature": signature, "content-type": "application/json"}
    return headers | ({"x-atlassian-webhook-identifier": identifier} if identifier else {})


def of_jira(*labels: str, at: datetime | None = None, changed: str = "status", **more: Any) -> bytes:
    """What Jira sends when an issue was changed, as far as anybody here reads it, and a little more."""
    issue = {
        "id": "10042",
        "key": "IT-42",
        "fields": {"labels": list(labels), "status": {"name": "Done"}, "resolution": {"name": "Done"}},
    }
    document = {
        "timestamp": int((at or datetime.now(UTC)).timestamp() * 1000),
        "webhookEvent": "jira:issue_updated",
        "issue_event_type_name": "issue_generic",
        "user": {"accountId": "712020:1", "displayName": "Mia Manager", "active": True},
        "issue": issue,
        "changelog": {"id": "1", "items": [{"field": changed, "fieldtype": "jira", "from": "1", "to": "2"}]},
    }
    return json.dumps({**document, **more}).encode()


def answer(case_id: str = "c", **more: Any) -> dict[str, Any]:
    return {"case_id": case_id, "decision": "revoke", "actor": "mia@example.com", "reason": "left", **more}


def secrets_of(*secrets: str) -> ItsmGatewaySettings:
    return ItsmGatewaySettings(webhook_secrets={"desk": [SecretStr(secret) for secret in secrets], "empty": []})


@asynccontextmanager
async def started(
    data_dir: Path, gateway: ItsmGatewaySettings, database_url: str | None = None, desks: Desks | None = None
) -> AsyncIterator[Site]:
    given_settings = Settings(
        environment="test",
        data_dir=data_dir,
        secret_keys=[SecretStr(KEY)],
        sealing_keys=[SecretStr(SEALING)],
        database_url=database_url or Settings.model_fields["database_url"].default,
    )

    def with_settings(runtime: Runtime) -> Service:
        return build(runtime, settings=gateway, desks=desks)

    host = Host(given_settings, {"itsm-gateway": with_settings}, clock=FixedClock(NOW))
    await host.prepare()
    transport = httpx.ASGITransport(host.app)
    async with httpx.AsyncClient(transport=transport, base_url=given_settings.public_url) as client:
        yield Site(host, client)
    for running in host.running:
        await running.close()


class FakeDesk:
    """A service desk in memory: `tickets` are what the tickets of cases say, `trouble` what it answers instead."""

    def __init__(self) -> None:
        self.tickets: dict[str, TicketState] = {}
        self.trouble: Exception | None = None
        self.asked: list[str] = []
        self.opened = 0

    def open(self, connection_id: str) -> AbstractAsyncContextManager[TicketReader] | None:
        return self._connection() if connection_id != "unconnected" else None

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[TicketReader]:
        self.opened += 1
        try:
            yield self
        finally:
            self.opened -= 1

    async def read(self, case_id: str, *, since: datetime) -> TicketState | None:
        assert since == NOW, "no ticket is older than its case"
        self.asked.append(case_id)
        if self.trouble is not None:
            raise self.trouble
        return self.tickets.get(case_id)
