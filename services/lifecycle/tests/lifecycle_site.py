"""The lifecycle behind HTTP as its host serves it, over an org in memory, on either database."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from argon2 import PasswordHasher
from cryptography.fernet import Fernet

from reclaim.common import envelope, migrate
from reclaim.common.bus.inproc import InprocBus
from reclaim.common.clock import FixedClock
from reclaim.common.contracts import (
    ConnectionChanged,
    DecisionReceived,
    Event,
    Money,
    NoticeDelivered,
    NoticeFailed,
    Person,
    Policy,
    Seat,
    UserFlagged,
)
from reclaim.common.host import Host
from reclaim.common.security import Sealer
from reclaim.common.service import Build, Running, chosen
from reclaim.common.settings import Settings
from reclaim.connectors.fake import FakeOrg, FakeUser
from reclaim.lifecycle import store
from reclaim.lifecycle.domain import Case
from reclaim.lifecycle.service import build
from reclaim.web.auth import issue_api_token
from reclaim.web.operators import ROLES, Role

NOW = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)
DAY = timedelta(days=1)
SECRET = "s" * 32
SEALING = Fernet.generate_key().decode()
PASSWORD = "a-password"
_CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


async def nothing_waits() -> None:
    """Stand in for catching up: these tests hand events to the inbox themselves, and the bus carries nothing."""


class Unattended(Host):
    """A host that nobody starts: there are no loops, and the test does what they would do."""

    async def _catch_up(self, name: str) -> None:
        await nothing_waits()


class Site:
    """The service with its clock, its org, and clients of every role."""

    def __init__(self, host: Host, clock: FixedClock, org: FakeOrg) -> None:
        self.host, self.clock, self.org = host, clock, org
        self._clients: list[httpx.AsyncClient] = []

    @property
    def running(self) -> Running:
        return self.host.running[0]

    @property
    def database(self) -> Any:
        return self.running.database

    def client(self, role: Role) -> httpx.AsyncClient:
        """Return a program's client with a token of a role."""
        token = issue_api_token(secret_keys=[SECRET], name=role, role=role, lifetime=DAY, now=lambda: datetime.now(UTC))
        return self._open({"authorization": f"Bearer {token}"})

    async def browser(self, role: Role) -> Browser:
        """Return a signed-in browser; the operator's name is the role."""
        http = self._open({"accept": "text/html", "sec-fetch-site": "same-origin"})
        form = await http.get("/auth/sign-in")
        nonce = nonce_of(form.text)
        answer = await http.post("/auth/sign-in", data={"name": role, "password": PASSWORD, "form_nonce": nonce})
        assert answer.status_code == 303, answer.text
        return Browser(http)

    def _open(self, headers: dict[str, str]) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(self.host.app)
        client = httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8080", headers=headers)
        self._clients.append(client)
        return client

    async def close(self) -> None:
        for client in self._clients:
            await client.aclose()
        for running in self.host.running:
            await running.close()
        await self.host.bus.close()

    async def tell(self, *events: Event, source: str = "approvals") -> None:
        batch = envelope.join([envelope.encode(event, source=source, time=self.clock.now()) for event in events])
        await self.running.inbox.receive([batch])

    async def once(self, job: str) -> None:
        await next(each for each in self.running.jobs() if each.name == job).run()

    async def act(self) -> None:
        while any([await job.run() for job in self.running.service.jobs if job.name in {"act", "timers"}]):
            pass

    async def sql(self, statement: str) -> None:
        """Change what is stored, as somebody with access to the database would."""
        async with self.database.unit() as unit:
            await unit.db.exec_driver_sql(statement)

    async def case(self, case_id: str) -> Case:
        async with self.database.reading() as db:
            found = await store.find(db, case_id)
        assert found is not None
        return found

    async def history(self, case_id: str) -> list[store.Moment]:
        async with self.database.reading() as db:
            return await store.history(db, case_id)


class Browser:
    """A person at the console."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http
        self.nonce = ""

    async def get(self, path: str, *, status: int = 200) -> str:
        answer = await self.http.get(path)
        assert answer.status_code == status, answer.text
        found = re.search(r'name="form_nonce" value="([^"]+)"', answer.text)
        self.nonce = found[1] if found else self.nonce
        return answer.text

    async def post(self, path: str, data: dict[str, Any]) -> httpx.Response:
        """Send a form with the nonce of the page looked at last."""
        return await self.http.post(path, data={**data, "form_nonce": self.nonce})


def nonce_of(html: str) -> str:
    found = re.search(r'name="form_nonce" value="([^"]+)"', html)
    assert found, html
    return found[1]


def org_of(clock: FixedClock, holders: int) -> FakeOrg:
    org = FakeOrg(clock)
    org.users["005M"] = FakeUser(id="005M", name="Max", created_at=NOW - 900 * DAY, last_used_at=NOW - DAY)
    for number in range(holders):
        holder = f"005-{number:03}"
        org.users[holder] = FakeUser(
            id=holder, name=f"Holder {number}", created_at=NOW - 900 * DAY, last_used_at=NOW - 200 * DAY,
            manager_id="005M",
        )  # fmt: skip
    return org


@asynccontextmanager
async def serving(
    tmp_path: Path,
    database_url: str | None = None,
    *,
    holders: int = 12,
    also: Sequence[str] = (),
    **options: Any,
) -> AsyncIterator[Site]:
    """Serve the lifecycle alone, as one process of a scaled-out installation does, or with others beside it."""
    clock = FixedClock(NOW)
    org = org_of(clock, holders)
    settings = Settings(
        _env_file=None,
        environment="test",
        data_dir=tmp_path,
        secret_keys=[SECRET],
        sealing_keys=[SEALING],
        operators={role: f"{role}:{_CHEAP.hash(PASSWORD)}" for role in ROLES},
        **({"database_url": database_url} if database_url else {}),
        **options,
    )
    builds: dict[str, Build] = {"lifecycle": partial(build, connectors=org)}
    if also:
        builds |= chosen(also)
    host = Unattended(settings, builds, bus=InprocBus(), clock=clock)
    site = Site(host, clock, org)
    for running in host.running:
        await migrate.upgrade(running.database.engine, running.service.migrations)
    connection = ConnectionChanged(
        connection_id="c1", name="The org", kind="salesforce", settings={}, version=1,
        credentials=Sealer([SEALING]).seal({"client_secret": "s"}),
    )  # fmt: skip
    try:
        await site.tell(connection, source="scanner")
        yield site
    finally:
        await site.close()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.servers)])
def either_database(request: pytest.FixtureRequest) -> str | None:
    """None for SQLite in the test's own folder, else an empty PostgreSQL database."""
    return None if request.param == "sqlite" else request.getfixturevalue("fresh_database")


def case_id(number: int) -> str:
    return f"case-{number:03}"


def flagged(number: int, **changes: Any) -> UserFlagged:
    """Return the flag of holder `number`, in case `case-00n`; the higher the number, the later it was flagged."""
    policy: dict[str, Any] = {
        "rule_id": "rule-1", "rule_version": 1, "rule_name": "Idle", "inactive_days": 90, "route": "email",
        "decision_days": 14, "on_timeout": "freeze", "grace_days": 7, "hand_over": True, "dry_run": False,
    }  # fmt: skip
    policy |= {name: changes.pop(name) for name in list(changes) if name in policy}
    holder: dict[str, Any] = {
        "id": f"005-{number:03}", "name": f"Holder {number}", "email": f"holder{number}@example.com",
    }  # fmt: skip
    holder |= changes.pop("holder", {})
    seat: dict[str, Any] = {
        "connection_id": "c1", "product": "SFDC", "product_name": "Salesforce",
        "price": Money(amount=Decimal(175), currency="USD"),
    }  # fmt: skip
    seat |= {name: changes.pop(name) for name in list(changes) if name in {"product", "product_name", "connection_id"}}
    return UserFlagged(
        case_id=case_id(number),
        seat=Seat(holder=Person(**holder), **seat),
        approver=Person(id="005M", name="Max", email="max@example.com"),
        policy=Policy(**policy),
        findings=(),
        last_used_at=NOW - 200 * DAY,
        flagged_at=changes.pop("flagged_at", NOW + timedelta(minutes=number)),
    )


def delivered(number: int) -> NoticeDelivered:
    return NoticeDelivered(case_id=case_id(number), channel="email", recipient="max@example.com", delivered_at=NOW)


def undeliverable(number: int) -> NoticeFailed:
    return NoticeFailed(
        case_id=case_id(number), channel="email", reason="Max has no mailbox.", remedy="Decide on the case's page.",
        failed_at=NOW,
    )  # fmt: skip


def decided(number: int, kind: str, actor: str = "max@example.com") -> DecisionReceived:
    return DecisionReceived(
        case_id=case_id(number), decision=kind, channel="email", actor=actor, reason="because", decided_at=NOW,  # type: ignore[arg-type]
        ip="192.0.2.7", user_agent="Browser/1",
    )  # fmt: skip
