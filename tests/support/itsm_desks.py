"""A gateway with simulated desks behind it: what happens to cases, what people do on tickets, and what goes wrong."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import httpx
import sqlalchemy as sa
from pydantic import SecretStr

from reclaim.common.clock import FixedClock
from reclaim.common.contracts import FulfilmentReported
from reclaim.common.host import Host
from reclaim.common.service import Runtime, Service
from reclaim.common.settings import Settings
from reclaim.connectors.itsm.profile import Tuning
from reclaim.itsm_gateway import lanes, ticket_store
from reclaim.itsm_gateway.service import build
from reclaim.sandbox.app import Sandbox
from reclaim.sandbox.desks import freshservice, generic, jira, serval, servicenow
from reclaim.sandbox.desks.core import Desk, Ticket
from reclaim.sandbox.desks.pages import person_acts
from tests.support.itsm_gateway import KEY, NOW, SEALING, Site, secrets_of

QUICK = Tuning(connect_timeout=2, read_timeout=2, look_again=(0.0, 0.0), unknown_for=0.0)
PLATFORMS: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "servicenow": ({"username": servicenow.USER}, {"password": servicenow.PASSWORD}),
    "jira": (
        {"email": jira.EMAIL, "service_desk_id": jira.SERVICE_DESK, "request_type_id": jira.REQUEST_TYPE},
        {"api_token": jira.TOKEN},
    ),
    "freshservice": ({"requester_email": "reclaim@example.com"}, {"api_key": freshservice.API_KEY}),
    "serval": (
        {"client_id": serval.CLIENT_ID, "team_id": serval.TEAM, "user_id": serval.USER},
        {"client_secret": serval.CLIENT_SECRET},
    ),
    "generic": ({}, {"secret": generic.SECRET}),
}
LAST_CALL = {
    "servicenow": ("timeout_after_commit", "PATCH", "servicenow/api/now/table/incident/[0-9a-f]+"),
    "jira": ("timeout_after_commit", "POST", "jira/rest/servicedeskapi/request/[0-9]+/comment"),
    "freshservice": ("timeout_after_commit", "POST", "freshservice/api/v2/tickets/[0-9]+/notes"),
    "serval": ("timeout_after_commit", "POST", r"serval/v2/tickets/[\w-]+/messages"),
    "generic": ("timeout_after_commit", "POST", "generic/?"),
}
"""What fails after it was done when a ticket is told something."""
CLOSING = {
    **LAST_CALL,
    "jira": ("timeout_after_commit", "POST", "jira/rest/api/3/issue/[0-9]+/transitions"),
    "freshservice": ("timeout_after_commit", "PUT", "freshservice/api/v2/tickets/[0-9]+"),
    "serval": ("timeout_after_commit", "PUT", r"serval/v2/tickets/[\w-]+"),
}
"""What fails after it was done when a ticket is closed."""


SLOW_MACHINE: Final = 60.0
"""Seconds for which a round of a job may take."""


def case_of(ticket: Ticket) -> str:
    """Return the case that a ticket's description leads to; empty for a ticket of people."""
    found = re.search(r"/lifecycle/cases/([\w-]+)", ticket.description)
    return found[1] if found else ""


@dataclass
class World:
    """A gateway and the desks that it may be connected to."""

    site: Site
    sandbox: Sandbox
    platform: str = "freshservice"

    @property
    def desk(self) -> Desk:
        return self.sandbox.world.desks.by_name[self.platform]

    def entered(self, **more: Any) -> dict[str, Any]:
        settings, credentials = PLATFORMS[self.platform]
        address = {"base_url": f"{self.sandbox.url}/desks/{self.platform}"}
        return {"platform": self.platform, "settings": {**address, **settings}, "credentials": credentials, **more}

    async def connect(self, **more: Any) -> None:
        answer = await self.site.call("PUT", "/itsm-gateway/api/desks/it", role="admin", json=self.entered(**more))
        assert answer.status_code == 200, answer.text

    async def run(self, *names: str) -> None:
        """Let jobs do what there is to do, whatever their time."""
        for name in names:
            await self.make_due()
            job = next(job for job in self.site.running.service.jobs if job.name == name)
            await job.run()

    async def run_all(self) -> None:
        await self.run("open_tickets", "tell_tickets", "tell_tickets", "tell_tickets", "tell_tickets", "poll_tickets")
        await self.site.handle()

    async def make_due(self) -> None:
        async with self.site.running.database.unit() as unit:
            for table in (ticket_store.TICKET, ticket_store.TICKET_WORD):
                await unit.db.execute(sa.update(table).values(due=0))

    def tickets(self) -> list[Ticket]:
        """Return the tickets of the desk in the order of their cases: those of one round are opened side by side."""
        return sorted(self.desk.tickets.values(), key=lambda ticket: (case_of(ticket), ticket.id))

    def act(self, action: str, value: str = "", *, ticket: int = 0) -> None:
        person_acts(self.desk, self.tickets()[ticket], action, value, "Ann Agent")

    async def time_passes(self) -> None:
        """Let it be long ago that tickets were closed."""
        async with self.site.running.database.unit() as unit:
            was_closed = ticket_store.TICKET.c.closed_since.is_not(None)
            await unit.db.execute(sa.update(ticket_store.TICKET).where(was_closed).values(closed_since=0))

    async def reports(self) -> list[tuple[str, bool, str]]:
        """Return what was said of tasks."""
        await self.site.handle()
        said = [event for event in await self.site.said() if isinstance(event, FulfilmentReported)]
        return [(event.case_id, event.done, event.actor) for event in said]

    async def decisions(self) -> list[tuple[str, str, str]]:
        return [(event.case_id, event.decision, event.channel) for event in await self.site.decisions()]

    def fault(self, kind: str, method: str, path: str, **more: Any) -> None:
        self.sandbox.world.faults.add(kind, method=method, path_regex=f"^/desks/{path}$", **more)


@asynccontextmanager
async def gateway(tmp_path: Path, database_url: str | None = None, **more: Any) -> AsyncIterator[World]:
    given = Settings(
        environment="test",
        data_dir=tmp_path,
        secret_keys=[SecretStr(KEY)],
        sealing_keys=[SecretStr(SEALING)],
        outgoing_allowed_hosts=["127.0.0.1"],
        database_url=database_url or Settings.model_fields["database_url"].default,
        **more,
    )

    def quick(runtime: Runtime) -> Service:
        return build(runtime, settings=secrets_of(), tuning=QUICK)

    host = Host(given, {"itsm-gateway": quick}, clock=FixedClock(NOW))
    await host.prepare()
    transport = httpx.ASGITransport(host.app)
    # A round of a job is over when its work is, however slow the machine: only a desk that hangs is left to itself.
    with patch.object(lanes, "PASSED", SLOW_MACHINE):
        async with (
            Sandbox(clock=FixedClock(NOW), users=0) as sandbox,
            httpx.AsyncClient(transport=transport, base_url=given.public_url) as client,
        ):
            yield World(Site(host, client), sandbox)
            for running in host.running:
                await running.close()
