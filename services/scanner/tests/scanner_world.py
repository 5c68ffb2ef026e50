"""A scanner over an org in memory, on either database, with its API and pages as the host serves them."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import sqlalchemy as sa
from cryptography.fernet import Fernet

from reclaim.common import envelope, migrate
from reclaim.common.bus.inproc import InprocBus
from reclaim.common.clock import FixedClock
from reclaim.common.contracts import BY_WIRE, Event
from reclaim.common.host import Host
from reclaim.common.ids import new_id
from reclaim.common.service import Running
from reclaim.common.settings import Settings
from reclaim.connectors.fake import FakeOrg, FakeUser
from reclaim.connectors.ports import ConnectionProfile
from reclaim.scanner.ports import Deps
from reclaim.scanner.service import build
from reclaim.scanner.settings import ScannerSettings
from reclaim.web.auth import issue_api_token
from reclaim.web.operators import Role, hash_password

NOON = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
KEY = "k1-0123456789abcdef0123456789abcdef"
SECRET = "S3cret-that-must-never-show"
SETTINGS = {"instance_url": "https://acme.my.salesforce.com", "client_id": "3MVG9"}
TERMS: dict[str, Any] = {
    "name": "Idle Salesforce seats",
    "products": ["SFDC"],
    "inactive_days": 90,
    "route": "email",
    "decision_days": 7,
    "on_timeout": "freeze",
    "grace_days": 14,
    "dry_run": False,
    "most_flagged_share": 100,
}

WARNS: dict[str, Any] = {"warn_only": ["queue_member"], "warn_reasons": {"queue_member": "the queue has other members"}}


def idle(number: int, *, days: int = 120, **more: Any) -> FakeUser:
    """Return a user who last signed in so many days ago, with a manager."""
    return FakeUser(
        **{
            "id": f"u{number:05}",
            "name": f"Holder {number}",
            "email": f"u{number}@acme.example",
            "created_at": NOON - timedelta(days=900),
            "last_used_at": NOON - timedelta(days=days),
            "manager_id": "boss",
            "department": "Sales",
            **more,
        }
    )


def filled(clock: FixedClock, users: list[FakeUser], *, page_size: int = 200) -> FakeOrg:
    boss = idle(0, id="boss", name="Bea Boss", email="boss@acme.example", days=1, manager_id=None)
    return FakeOrg(clock=clock, users={user.id: user for user in (boss, *users)}, page_size=page_size)


@dataclass
class Opened:
    """The connectors of a test: every connection opens the same org; what was asked for is kept."""

    org: FakeOrg
    profiles: list[ConnectionProfile] = field(default_factory=list)

    def reader(self, profile: ConnectionProfile) -> Any:
        self.profiles.append(profile)
        return self.org.reader(profile)

    def actor(self, _profile: ConnectionProfile) -> Any:
        raise AssertionError("the scanner never acts")


@dataclass
class Scanner:
    """A built scanner, without its loops: a test calls its jobs."""

    running: Running
    connectors: Opened
    clock: FixedClock
    deps: Deps

    @property
    def org(self) -> FakeOrg:
        return self.connectors.org

    async def job(self, name: str) -> bool:
        return await next(job for job in self.running.service.jobs if job.name == name).run()

    async def scan_all(self) -> None:
        """Work on runs until none waits that is due."""
        while await self.job("scan"):
            pass

    async def said(self, kind: type[Event] | None = None) -> list[Any]:
        """Return what stands in the outbox, in the order it was said."""
        async with self.running.database.reading() as db:
            rows = (await db.execute(sa.text("SELECT body FROM outbox ORDER BY seq"))).scalars()
            events = [part.data for part in envelope.split(envelope.join(list(rows)))]  # type: ignore[union-attr]
        return [event for event in events if kind is None or isinstance(event, kind)]

    async def hear(self, *events: Event, batch: str | None = None) -> None:
        """Deliver events in one message."""
        assert all(event.wire in BY_WIRE for event in events)
        bodies = [
            envelope.encode(event, source="lifecycle", time=self.clock.now(), event_id=batch or new_id())
            for event in events
        ]
        await self.running.inbox.receive([envelope.join(bodies)])

    async def rows(self, sql: str, **values: Any) -> list[Any]:
        async with self.running.database.reading() as db:
            return list(await db.execute(sa.text(sql), values))


def settings_for(
    tmp_path: Path, database_url: str | None, *, public_url: str = "http://127.0.0.1", **more: Any
) -> Settings:
    operators = {name: f"{role}:{_HASHES[role]}" for name, role in (("vera", "viewer"), ("otto", "operator"))}
    operators["anna"] = f"admin:{_HASHES['admin']}"
    return Settings(
        _env_file=None,  # type: ignore[call-arg]
        environment="test",
        secret_keys=[KEY],
        sealing_keys=[Fernet.generate_key().decode()],
        data_dir=tmp_path,
        operators=operators,
        public_url=public_url,
        **({"database_url": database_url} if database_url else {}),
        **more,
    )


_HASHES: dict[str, str] = {role: hash_password(f"{role}-password") for role in ("viewer", "operator", "admin")}

FAST = ScannerSettings(
    _env_file=None,  # type: ignore[call-arg]
    first_wait_seconds=0.01,
    longest_wait_seconds=0.02,
    lease_seconds=30,
    merge_seconds=0,
)


@asynccontextmanager
async def started(
    tmp_path: Path,
    org: FakeOrg,
    clock: FixedClock,
    *,
    database_url: str | None = None,
    scanner_settings: ScannerSettings = FAST,
) -> AsyncIterator[Scanner]:
    connectors = Opened(org)
    running = Running.start(
        partial(build, connectors=connectors, settings=scanner_settings),
        "scanner",
        settings_for(tmp_path, database_url),
        clock,
        InprocBus(),
    )
    await migrate.upgrade(running.database.engine, running.service.migrations)
    deps = Deps(running.database, clock, sealer_of(running), connectors, scanner_settings)
    try:
        yield Scanner(running, connectors, clock, deps)
    finally:
        await running.close()
        await running.bus.close()


def sealer_of(running: Running) -> Any:
    """Return the sealer that `build` was given: it sits in the closures of the jobs."""
    return running.service.jobs[0].run.args[0].sealer  # type: ignore[attr-defined]


def small_org(clock: FixedClock) -> FakeOrg:
    return filled(
        clock,
        [
            idle(1),
            idle(2, last_used_at=None),
            idle(3, days=10),
            idle(4, administrator="Modify All Data"),
            idle(5, queue="Support"),
        ],
    )


@dataclass
class Api:
    """The API as one role sees it."""

    client: httpx.AsyncClient

    async def __call__(self, method: str, path: str, status: int = 200, **more: Any) -> Any:
        answer = await self.client.request(method, f"/scanner/api{path}", **more)
        assert answer.status_code == status, answer.text
        return answer.json() if answer.content else None


@dataclass
class Served:
    """A scanner behind its HTTP application."""

    scanner: Scanner
    host: Host
    client_as: Callable[[Role], httpx.AsyncClient]

    def api(self, role: Role = "admin") -> Api:
        return Api(self.client_as(role))


@asynccontextmanager
async def serving(tmp_path: Path, org: FakeOrg, clock: FixedClock, **settings: Any) -> AsyncIterator[Served]:
    connectors = Opened(org)
    host = Host(
        settings_for(tmp_path, None, **settings),
        {"scanner": partial(build, connectors=connectors, settings=FAST)},
        bus=InprocBus(),
        clock=clock,
    )
    running = host.running[0]
    await migrate.upgrade(running.database.engine, running.service.migrations)
    deps = Deps(running.database, clock, sealer_of(running), connectors, FAST)
    clients: list[httpx.AsyncClient] = []

    def client_as(role: Role) -> httpx.AsyncClient:
        token = issue_api_token(
            secret_keys=[KEY], name=f"the-{role}", role=role, lifetime=timedelta(days=1), now=lambda: datetime.now(UTC)
        )
        client = httpx.AsyncClient(
            transport=httpx.ASGITransport(host.app),
            base_url="http://127.0.0.1",
            headers={"authorization": f"Bearer {token}"},
        )
        clients.append(client)
        return client

    try:
        yield Served(Scanner(running, connectors, clock, deps), host, client_as)
    finally:
        for client in clients:
            await client.aclose()
        await running.close()
        await host.bus.close()


async def signed_in(host: Host, name: str = "anna", role: str = "admin") -> httpx.AsyncClient:
    """Return a browser-like client with a session; the caller closes it."""
    client = httpx.AsyncClient(
        transport=httpx.ASGITransport(host.app), base_url="http://127.0.0.1", headers={"accept": "text/html"}
    )
    form = await client.get("/auth/sign-in")
    answer = await client.post(
        "/auth/sign-in", data={"name": name, "password": f"{role}-password", "form_nonce": nonce_of(form.text)}
    )
    assert answer.status_code == 303, answer.text
    return client


def nonce_of(html: str) -> str:
    found = re.search(r'name="form_nonce" value="([^"]+)"', html)
    assert found, html
    return found[1]
