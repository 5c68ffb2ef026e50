"""The stage as the host runs it, with a real mail server on loopback, a clock that tests move, and a browser."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from cryptography.fernet import Fernet

from reclaim.approvals import service, store
from reclaim.approvals.links import Links
from reclaim.approvals.ports import Mailer
from reclaim.approvals.settings import ApprovalsSettings
from reclaim.common import envelope, migrate
from reclaim.common.bus.inproc import InprocBus
from reclaim.common.clock import FixedClock
from reclaim.common.contracts import (
    CaseClosed,
    CheckFinding,
    Event,
    Money,
    Person,
    Policy,
    Seat,
    SeatReactivated,
    SeatReclaimed,
    UserFlagged,
    UserFrozen,
    UserRestored,
)
from reclaim.common.host import Host
from reclaim.common.security import Signer
from reclaim.common.service import Runtime, Service
from reclaim.common.settings import Settings
from reclaim.sandbox.mailbox import Mailbox, Message
from reclaim.web.auth import issue_api_token

NOON = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
KEY = "k" * 32
PUBLIC = "http://127.0.0.1:8080"
HOLDER = Person(id="005H", name="Hanna Holder", email="hanna@example.com")
MANAGER = Person(id="005M", name="Max Manager", email="max@example.com")
SEAT = Seat(
    connection_id="org",
    product="sfdc:sales",
    product_name="Sales Cloud",
    holder=HOLDER,
    department="Field sales",
    price=Money(amount=Decimal("165.00"), currency="USD"),
)
POLICY = Policy(
    rule_id="r1",
    rule_version=1,
    rule_name="Unused for 90 days",
    inactive_days=90,
    route="email",
    decision_days=5,
    on_timeout="freeze",
    grace_days=7,
    hand_over=True,
    dry_run=False,
)
FINDINGS = (
    CheckFinding(check="exempt", outcome="pass", evidence="not exempt"),
    CheckFinding(check="queue_member", outcome="warn", evidence="takes work from the queue Support"),
)


def changed(struct: Any, **fields: Any) -> Any:
    """Return a copy of a frozen struct with other values."""
    return type(struct)(**{name: fields.get(name, getattr(struct, name)) for name in struct.__struct_fields__})


def flagged(case: str = "c1", *, seat: Seat = SEAT, approver: Person | None = MANAGER, **fields: Any) -> UserFlagged:
    """Return the event that begins a case; further fields go to its policy."""
    return UserFlagged(
        case_id=case,
        seat=seat,
        approver=approver,
        policy=changed(POLICY, **fields),
        findings=FINDINGS,
        last_used_at=NOON - timedelta(days=200),
        flagged_at=NOON,
    )


def frozen(case: str = "c1", decision: Any = "revoke", at: datetime = NOON, **fields: Any) -> UserFrozen:
    return UserFrozen(
        case_id=case,
        seat=SEAT,
        decision=decision,
        frozen_at=at,
        grace_ends_at=at + timedelta(days=7),
        dry_run=False,
        **fields,
    )


def restored(case: str = "c1") -> UserRestored:
    return UserRestored(
        case_id=case, seat=SEAT, actor="hanna@example.com", reason="on leave", restored_at=NOON, dry_run=False
    )


def reclaimed(case: str = "c1") -> SeatReclaimed:
    return SeatReclaimed(
        case_id=case,
        seat=SEAT,
        rule_id="r1",
        rule_name="Unused for 90 days",
        method="deactivate",
        records_transferred=3,
        reclaimed_at=NOON,
        dry_run=False,
    )


def reactivated(case: str = "c1") -> SeatReactivated:
    return SeatReactivated(
        case_id=case,
        seat=SEAT,
        rule_id="r1",
        rule_name="Unused for 90 days",
        actor="anna",
        reason="back from leave",
        reactivated_at=NOON,
        dry_run=False,
    )


def closed(case: str = "c1", outcome: Any = "kept", reason: str = "the manager keeps the seat") -> CaseClosed:
    return CaseClosed(case_id=case, outcome=outcome, reason=reason, closed_at=NOON)


class RawMailbox(Mailbox):
    """Keeps the bytes too."""

    def __init__(self, clock: FixedClock) -> None:
        super().__init__(clock)
        self.raw: list[bytes] = []

    def receive(self, raw: bytes, sender: str, recipients: list[str]) -> Message:
        self.raw.append(raw)
        return super().receive(raw, sender, recipients)

    def parsed(self, index: int = -1) -> EmailMessage:
        return message_from_bytes(self.raw[index], policy=policy.default)


@dataclass
class World:
    """The running stage and what surrounds it."""

    host: Host
    clock: FixedClock
    mailbox: RawMailbox
    client: httpx.AsyncClient

    @property
    def running(self) -> Any:
        return self.host.running[0]

    async def receive(self, *events: Event) -> None:
        """Let events arrive in one message."""
        bodies = [envelope.encode(event, source="lifecycle", time=self.clock.now()) for event in events]
        await self.running.inbox.receive([envelope.join(bodies)])

    async def retry(self) -> None:
        """Let what came too early come again now."""
        async with self.running.database.unit() as unit:
            await unit.db.execute(sa.text("UPDATE set_aside SET due = 0 WHERE due IS NOT NULL"))
        await self.running.inbox.retry()

    async def aside(self) -> int:
        async with self.running.database.reading() as db:
            return int((await db.execute(sa.text("SELECT count(*) FROM set_aside"))).scalar_one())

    def job(self, name: str) -> Callable[[], Awaitable[bool]]:
        return next(job.run for job in self.running.service.jobs if job.name == name)

    async def send_mails(self) -> list[Message]:
        """Send what is due; return what arrived, oldest first."""
        before = len(self.mailbox.messages)
        while await self.job("mail")():
            pass
        return list(self.mailbox.messages)[before:]

    async def due_now(self) -> None:
        """Let every mail that was put off, or is claimed by a process that died, be due."""
        async with self.running.database.unit() as unit:
            await unit.db.execute(sa.update(store.mails).values(due=0))

    async def emitted(self) -> list[Event]:
        """Return what the stage has said, oldest first."""
        async with self.running.database.reading() as db:
            rows = (await db.execute(sa.text("SELECT body FROM outbox ORDER BY seq"))).scalars()
            return [part.data for part in envelope.split(envelope.join(list(rows)))]

    async def dump(self) -> dict[str, list[tuple[Any, ...]]]:
        """Return everything in every table."""
        async with self.running.database.reading() as db:
            return {
                table.name: sorted((tuple(row) for row in await db.execute(sa.select(table))), key=repr)
                for table in store.metadata.tables.values()
            }

    async def asked(self, case: str = "c1") -> Any:
        async with self.running.database.reading() as db:
            return await store.get(db, case)

    async def mails(self, case: str = "c1") -> list[Any]:
        async with self.running.database.reading() as db:
            return (await store.mails_of(db, [case])).get(case, [])

    def links(self) -> Links:
        return Links(Signer([KEY]), PUBLIC)

    def token(self, purpose: Any = "decision", **fields: Any) -> str:
        """Return a token signed with the installation's key."""
        given: dict[str, Any] = {
            "case_id": "c1",
            "epoch": 1,
            "recipient": "max@example.com",
            "expires_at": self.clock.now() + timedelta(days=5),
            "jti": "j" * 22,
        }
        return self.links().token(purpose, **{**given, **fields})

    async def answer(self, url: str, **fields: str) -> httpx.Response:
        """Open a page and send its form as a person would."""
        page = await self.client.get(url)
        nonce = re.search(r'name="form_nonce" value="([^"]+)"', page.text)
        data = {"form_nonce": nonce[1] if nonce else "", **fields}
        return await self.client.post(url.partition("?")[0], data=data)

    def signed_in(self, role: Any) -> dict[str, str]:
        token = issue_api_token(
            secret_keys=[KEY],
            name="otto",
            role=role,
            lifetime=timedelta(hours=1),
            now=lambda: datetime.now(UTC),
        )
        return {"Authorization": f"Bearer {token}"}


Start = Callable[..., Any]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Start the stage: `world = await start(database_url=..., mailer=..., **its settings)`."""
    async with AsyncExitStack() as stack:

        async def started(
            *,
            database_url: str | None = None,
            mailer: Mailer | None = None,
            keys: list[str] | None = None,
            public_url: str = PUBLIC,
            client_address: str = "203.0.113.9",
            **options: Any,
        ) -> World:
            return await stack.enter_async_context(
                _world(tmp_path, database_url, mailer, keys or [KEY], public_url, client_address, options)
            )

        yield started


@pytest.fixture
async def world(start: Start) -> World:
    """The stage on SQLite with its mail server up."""
    world: World = await start()
    return world


@asynccontextmanager
async def _world(
    tmp_path: Path,
    database_url: str | None,
    mailer: Mailer | None,
    keys: list[str],
    public_url: str,
    client_address: str,
    options: dict[str, Any],
) -> AsyncIterator[World]:
    clock = FixedClock(NOON)
    mailbox = RawMailbox(clock)
    server, port = await mailbox.listen("127.0.0.1", 0)
    own = ApprovalsSettings(
        _env_file=None,
        **{"smtp_url": f"smtp://127.0.0.1:{port}", "smtp_timeout": 5, "sender": "seats@example.com"} | options,
    )

    def build(runtime: Runtime) -> Service:
        return service.build(runtime, settings=own, mailer=mailer)

    settings = Settings(
        _env_file=None,
        environment="test",
        data_dir=tmp_path,
        secret_keys=keys,
        sealing_keys=[Fernet.generate_key().decode()],
        public_url=public_url,
        **({"database_url": database_url} if database_url else {}),
    )
    host = Host(settings, {"approvals": build}, bus=InprocBus(), clock=clock)
    running = host.running[0]
    await migrate.upgrade(running.database.engine, running.service.migrations)
    transport = httpx.ASGITransport(host.app, client=(client_address, 50000))
    async with httpx.AsyncClient(transport=transport, base_url=public_url) as client:
        try:
            yield World(host, clock, mailbox, client)
        finally:
            server.close()
            await server.wait_closed()
            await running.close()
            await host.bus.close()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.servers)])
def database_url(request: pytest.FixtureRequest) -> str | None:
    """Return the URL of an empty database: None for SQLite, else a PostgreSQL of this test's own."""
    return None if request.param == "sqlite" else request.getfixturevalue("fresh_database")
