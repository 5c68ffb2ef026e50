"""A service of nothing but messaging on a real database, and a wall clock that a test moves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import sqlalchemy as sa
from cryptography.fernet import Fernet
from sqlalchemy.ext.asyncio import AsyncEngine

from reclaim.common import envelope, migrate
from reclaim.common.bus import Receive
from reclaim.common.clock import FixedClock
from reclaim.common.contracts import (
    CONSUMERS,
    CaseClosed,
    CaseEvent,
    Event,
    NoticeDelivered,
    Person,
    Policy,
    Seat,
    UserFlagged,
)
from reclaim.common.db import Database, Unit
from reclaim.common.errors import Transient
from reclaim.common.inbox import Inbox, Received
from reclaim.common.outbox import Outbox, Receipt
from reclaim.common.settings import Settings

NOW = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)

FIRST_REVISION = '''
"""First."""
from reclaim.common.migrate import add_case_of_set_aside, create_messaging_tables
revision = "{name}_0001"
down_revision = None
def upgrade() -> None:
    create_messaging_tables()
    add_case_of_set_aside()
'''


def settings(folder: Path, **changes: object) -> Settings:
    given: dict[str, object] = {
        "_env_file": None,
        "environment": "test",
        "data_dir": folder,
        "secret_keys": ["s" * 32],
        "sealing_keys": [Fernet.generate_key().decode()],
    }
    return Settings(**(given | changes))


def sqlite_url(folder: Path, name: str = "service") -> str:
    return f"sqlite+aiosqlite:///{folder}/{name}.db"


def versions(folder: Path, name: str) -> Path:
    """A folder of migrations that make the messaging tables and nothing else."""
    made = folder / f"{name}-migrations"
    made.mkdir(exist_ok=True)
    (made / "0001_first.py").write_text(FIRST_REVISION.format(name=name.replace("-", "_")))
    return made


async def with_tables(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.run_sync(migrate.service_metadata().create_all)


class Wall:
    """The wall clock of `reclaim.common.timing`; stands still until it is moved."""

    def __init__(self) -> None:
        self.seconds = 1_800_000_000.0

    def __call__(self) -> float:
        return self.seconds

    def move(self, seconds: float) -> None:
        self.seconds += seconds


def notice(case: object) -> NoticeDelivered:
    return NoticeDelivered(case_id=str(case), channel="email", recipient="m@example.com", delivered_at=NOW)


def flagged(case: object) -> UserFlagged:
    return UserFlagged(
        case_id=str(case),
        seat=Seat(connection_id="c1", product="p", product_name="P", holder=Person(id="h", name="H")),
        approver=None,
        policy=Policy(
            rule_id="r",
            rule_version=1,
            rule_name="R",
            inactive_days=90,
            route="email",
            decision_days=7,
            on_timeout="keep",
            grace_days=7,
            hand_over=False,
            dry_run=False,
        ),
        findings=(),
        last_used_at=None,
        flagged_at=NOW,
    )


def closed(case: object) -> CaseClosed:
    return CaseClosed(case_id=str(case), outcome="kept", reason="", closed_at=NOW)


def body(event: Event, event_id: str | None = None, *, source: str = "approvals") -> bytes:
    return envelope.encode(event, source=source, time=NOW, event_id=event_id)


def message(*events: Event) -> bytes:
    return envelope.join([body(event) for event in events])


@dataclass
class Carrier:
    """A bus that keeps what is published, and is away when told so."""

    published: list[tuple[str, bytes]] = field(default_factory=list)
    settles: float = 0
    away: Exception | None = None

    async def declare(self) -> None:
        """Nothing to declare."""

    async def publish(self, messages: Sequence[tuple[str, bytes]]) -> None:
        await asyncio.sleep(0)
        if self.away is not None:
            raise self.away
        self.published.extend(messages)

    async def acknowledge(self, producer: str, receipt: bytes) -> None:
        raise AssertionError("the outbox sends no receipts")

    async def consume(self, service: str, queue: str, receive: Receive) -> None:
        await asyncio.Event().wait()

    async def probe(self, service: str) -> None:
        raise Transient("nobody consumes")

    async def close(self) -> None:
        """Nothing to close."""

    def ids(self) -> list[str]:
        """The ids of the events published, in order, repetitions included."""
        found = []
        for _wire, batch in self.published:
            for part in envelope.split(batch):
                assert isinstance(part, Received)
                found.append(part.id)
        return found


class Said:
    """A database with an outbox, and what a service says through it."""

    def __init__(self, url: str, service: str = "lifecycle") -> None:
        self.outbox = Outbox(service)
        self.database = Database(url, FixedClock(NOW), append=self.outbox.append)

    async def say(self, *events: Event) -> list[str]:
        """Say events in one unit; return their ids, by type in the order the types were said."""
        async with self.database.reading() as db:
            newest = (await db.execute(sa.text("SELECT coalesce(max(seq), 0) FROM outbox"))).scalar_one()
        async with self.database.unit() as unit:
            unit.emit(*events)
        async with self.database.reading() as db:
            bodies = await db.execute(sa.text("SELECT body FROM outbox WHERE seq > :n ORDER BY seq"), {"n": newest})
            return [part.id for part in envelope.split(envelope.join(list(bodies.scalars())))]

    async def say_each(self, *events: Event) -> list[str]:
        """Say each event in a unit of its own, so that it has a row of its own; return their ids."""
        return [event_id for event in events for event_id in await self.say(event)]

    async def rows(self) -> dict[str, tuple[int, int, int]]:
        """By the id of the row: outstanding bits, attempts, due."""
        async with self.database.reading() as db:
            rows = await db.execute(sa.text("SELECT event_id, outstanding, attempts, due FROM outbox"))
            return {row.event_id: (row.outstanding, row.attempts, row.due) for row in rows}


class Listening:
    """The inbox of the lifecycle service, with handlers that a test tells what to do.

    What they heard is written to a table in the handlers' own transaction, so that it can be compared with what was
    recorded.
    """

    def __init__(self, url: str) -> None:
        self.database = Database(url, FixedClock(NOW))
        self.failing: dict[str, Exception] = {}
        self.calls: list[list[str]] = []
        self.receipts: list[Receipt] = []
        self.lost_receipts = 0
        heard = [event for event, consumers in CONSUMERS.items() if "lifecycle" in consumers]
        self.inbox = Inbox("lifecycle", self.database, dict.fromkeys(heard, self.hear), self._send)

    async def create(self) -> None:
        await with_tables(self.database.engine)
        async with self.database.unit() as unit:
            await unit.db.execute(sa.text("CREATE TABLE effect (case_id TEXT NOT NULL)"))

    async def hear(self, unit: Unit, events: Sequence[Received[CaseEvent]]) -> None:
        cases = [event.data.case_id for event in events]
        self.calls.append(cases)
        await unit.db.execute(sa.text("INSERT INTO effect VALUES (:case)"), [{"case": case} for case in cases])
        for case in cases:
            if case in self.failing:
                raise self.failing[case]

    async def _send(self, producer: str, receipt: bytes) -> None:
        if self.lost_receipts:
            self.lost_receipts -= 1
            raise Transient("the broker is away")
        assert producer == "approvals"
        self.receipts.append(msgspec.json.decode(receipt, type=Receipt))

    async def effects(self) -> list[str]:
        async with self.database.reading() as db:
            return sorted((await db.execute(sa.text("SELECT case_id FROM effect"))).scalars())

    async def aside(self) -> dict[str, tuple[int, int | None]]:
        """What is set aside, by event id: attempts and due time."""
        async with self.database.reading() as db:
            rows = await db.execute(sa.text("SELECT event_id, attempts, due FROM set_aside"))
            return {row.event_id: (row.attempts, row.due) for row in rows}

    async def recorded(self) -> set[str]:
        async with self.database.reading() as db:
            return set((await db.execute(sa.text("SELECT event_id FROM inbox"))).scalars())


async def until(condition: Callable[[], bool | Awaitable[bool]], *, seconds: float = 20) -> None:
    """Wait for something to become true."""
    async with asyncio.timeout(seconds):
        while True:
            answer = condition()
            if answer if isinstance(answer, bool) else await answer:
                return
            await asyncio.sleep(0.02)
