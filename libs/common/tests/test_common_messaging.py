"""One contract for both buses: what is emitted is handled exactly once, and a bad event stops nobody else."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from cryptography.fernet import Fernet

from reclaim.common import envelope, migrate
from reclaim.common.bus import Bus, open_bus
from reclaim.common.clock import FixedClock
from reclaim.common.contracts import CONSUMERS, CaseClosed, Event, NoticeDelivered
from reclaim.common.db import Unit
from reclaim.common.errors import NotYet, Permanent
from reclaim.common.host import Host
from reclaim.common.inbox import Received
from reclaim.common.service import Build, Runtime, Service
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


class Listener:
    """A service that only remembers what it was told, and fails for the cases it is told to fail for."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.heard: list[str] = []
        self.batches: list[int] = []
        self.poison: set[str] = set()
        self.early: set[str] = set()
        self.versions = folder / name
        self.versions.mkdir()
        (self.versions / "0001_first.py").write_text(FIRST_REVISION.format(name=name.replace("-", "_")))

    async def hear(self, unit: Unit, events: Sequence[Received[NoticeDelivered | CaseClosed]]) -> None:
        cases = [received.data.case_id for received in events]
        if self.poison & set(cases):
            raise Permanent("poison")
        if self.early & set(cases):
            raise NotYet("too early")
        unit.wake("relay")
        self.batches.append(len(cases))
        self.heard.extend(cases)

    def build(self, runtime: Runtime) -> Service:
        self.runtime = runtime
        heard: list[type[Event]] = [event for event, consumers in CONSUMERS.items() if self.name in consumers]
        return Service(
            name=self.name,
            metadata=migrate.service_metadata(),
            migrations=self.versions,
            subscriptions=dict.fromkeys(heard, self.hear),
        )


def settings(tmp_path: Path) -> Settings:
    return Settings(
        environment="test",
        data_dir=tmp_path / "data",
        secret_keys=["s" * 32],
        sealing_keys=[Fernet.generate_key().decode()],
    )


@pytest.fixture(params=["inproc", pytest.param("amqp", marks=pytest.mark.servers)])
async def bus(request: pytest.FixtureRequest) -> AsyncIterator[Bus]:
    if request.param == "inproc":
        yield open_bus("inproc://")
        return
    url, prefix = request.getfixturevalue("fresh_vhost")
    opened = open_bus(url, prefix=prefix)
    yield opened
    await opened.close()


@asynccontextmanager
async def running(tmp_path: Path, bus: Bus, *listeners: Listener) -> AsyncIterator[Host]:
    builds: dict[str, Build] = {listener.name: listener.build for listener in listeners}
    host = Host(settings(tmp_path), builds, bus=bus, clock=FixedClock(NOW))
    await host.prepare()
    async with host.started():
        yield host


async def until(condition: object, *, seconds: float = 20) -> None:
    assert callable(condition)
    async with asyncio.timeout(seconds):
        while True:
            if await condition() if asyncio.iscoroutinefunction(condition) else condition():
                return
            await asyncio.sleep(0.02)


def closed(number: int) -> CaseClosed:
    return CaseClosed(case_id=f"case-{number}", outcome="kept", reason="", closed_at=NOW)


async def emit(listener: Listener, *events: Event) -> None:
    async with listener.runtime.database.unit() as unit:
        unit.emit(*events)


async def test_every_consumer_hears_each_event_once_and_the_outbox_empties(tmp_path: Path, bus: Bus) -> None:
    names = ("scanner", "approvals", "itsm-gateway", "lifecycle", "savings")
    listeners = {name: Listener(name, tmp_path) for name in names}
    async with running(tmp_path, bus, *listeners.values()) as host:
        await emit(listeners["lifecycle"], *(closed(n) for n in range(250)))
        expected = Counter(f"case-{n}" for n in range(250))
        for consumer in CONSUMERS[CaseClosed]:
            await until(lambda consumer=consumer: Counter(listeners[consumer].heard) == expected)
        producer = next(r for r in host.running if r.service.name == "lifecycle")

        async def emptied() -> bool:
            return await producer.outbox.depth(producer.database) == 0

        await until(emptied)
        assert max(listeners["scanner"].batches) > 10, "events that wait are handled together"


async def test_publishing_again_has_no_second_effect(tmp_path: Path, bus: Bus) -> None:
    approvals, lifecycle = Listener("approvals", tmp_path), Listener("lifecycle", tmp_path)
    notice = NoticeDelivered(case_id="case-1", channel="email", recipient="m@example.com", delivered_at=NOW)
    body = envelope.encode(notice, source="approvals", time=NOW)
    async with running(tmp_path, bus, approvals, lifecycle):
        for _ in range(5):
            await bus.publish([(NoticeDelivered.wire, envelope.join([body, body]))])
        other = envelope.encode(notice, source="approvals", time=NOW)
        await bus.publish([(NoticeDelivered.wire, envelope.join([other]))])
        await until(lambda: len(lifecycle.heard) >= 2)
        assert lifecycle.heard == ["case-1", "case-1"]


async def test_only_the_bad_event_of_a_batch_is_parked_and_can_be_driven_again(tmp_path: Path, bus: Bus) -> None:
    names = ("scanner", "approvals", "itsm-gateway", "lifecycle", "savings")
    listeners = {name: Listener(name, tmp_path) for name in names}
    scanner = listeners["scanner"]
    scanner.poison = {"case-7"}
    async with running(tmp_path, bus, *listeners.values()) as host:
        await emit(listeners["lifecycle"], *(closed(n) for n in range(50)))
        inbox = next(r for r in host.running if r.service.name == "scanner").inbox
        await until(lambda: len(set(scanner.heard)) == 49)

        async def parked() -> bool:
            return len(await inbox.parked()) == 1

        await until(parked)
        (waiting,) = await inbox.parked()
        assert waiting.reason == "poison"
        assert '"case-7"' in waiting.body
        scanner.poison = set()
        scanner.heard.clear()
        await inbox.redrive(waiting.event_id)
        assert scanner.heard == ["case-7"]
        assert await inbox.parked() == []


async def test_an_event_that_comes_too_early_is_tried_until_its_time(tmp_path: Path, bus: Bus) -> None:
    approvals, lifecycle = Listener("approvals", tmp_path), Listener("lifecycle", tmp_path)
    lifecycle.early = {"case-1"}
    async with running(tmp_path, bus, approvals, lifecycle):
        notices = [
            NoticeDelivered(case_id=f"case-{n}", channel="email", recipient="m@example.com", delivered_at=NOW)
            for n in range(3)
        ]
        await emit(approvals, *notices)
        await until(lambda: set(lifecycle.heard) >= {"case-0", "case-2"})
        lifecycle.early = set()
        await until(lambda: "case-1" in lifecycle.heard)
        assert lifecycle.heard.count("case-1") == 1


async def test_what_is_no_message_of_ours_is_parked_with_its_bytes(tmp_path: Path, bus: Bus) -> None:
    lifecycle = Listener("lifecycle", tmp_path)
    good = envelope.encode(
        NoticeDelivered(case_id="case-1", channel="email", recipient="m@example.com", delivered_at=NOW),
        source="approvals",
        time=NOW,
    )
    strange = (
        b'{"specversion":"1.0","id":"x","source":"/reclaim/approvals","type":"nothing",'
        b'"time":"2026-11-02T09:00:00Z","data":1}'
    )
    async with running(tmp_path, bus, lifecycle) as host:
        await bus.publish(
            [(NoticeDelivered.wire, b"\xff not json"), (NoticeDelivered.wire, envelope.join([strange, good]))]
        )
        await until(lambda: lifecycle.heard == ["case-1"])

        async def both() -> bool:
            return len(await host.running[0].inbox.parked()) == 2

        await until(both)


async def test_a_unit_that_fails_says_nothing(tmp_path: Path, bus: Bus) -> None:
    lifecycle = Listener("lifecycle", tmp_path)
    async with running(tmp_path, bus, lifecycle) as host:

        async def fail_after_speaking() -> None:
            async with lifecycle.runtime.database.unit() as unit:
                unit.emit(closed(1))
                raise RuntimeError("in mid-unit")

        with pytest.raises(RuntimeError, match="in mid-unit"):
            await fail_after_speaking()
        assert await host.running[0].outbox.depth(lifecycle.runtime.database) == 0


async def test_ready_only_after_a_round_trip(tmp_path: Path, bus: Bus) -> None:
    lifecycle = Listener("lifecycle", tmp_path)
    builds: dict[str, Build] = {"lifecycle": lifecycle.build}
    host = Host(settings(tmp_path), builds, bus=bus, clock=FixedClock(NOW))
    await host.prepare()
    assert host.carried_at == {}
    async with host.started():
        await until(lambda: "lifecycle" in host.carried_at)


async def test_the_declared_tables_are_what_the_migrations_make(tmp_path: Path) -> None:
    lifecycle = Listener("lifecycle", tmp_path)
    host = Host(settings(tmp_path), {"lifecycle": lifecycle.build}, clock=FixedClock(NOW))
    await host.prepare()
    database = lifecycle.runtime.database
    assert await migrate.differences(database.engine, sa.MetaData()) != []
    assert await migrate.differences(database.engine, migrate.service_metadata()) == []
    await database.close()
