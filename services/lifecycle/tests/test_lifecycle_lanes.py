"""A connected system that hangs holds up its own cases and nobody else's."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from pathlib import Path

import msgspec
import pytest
from cryptography.fernet import Fernet

from libs.common.tests.common_world import until
from reclaim.common import envelope
from reclaim.common.bus.inproc import InprocBus
from reclaim.common.clock import FixedClock
from reclaim.common.contracts import ConnectionChanged, Event, UserFlagged
from reclaim.common.host import Host
from reclaim.common.security import Sealer
from reclaim.common.settings import Settings
from reclaim.connectors.fake import FakeActor, FakeOrg, FakeReader
from reclaim.connectors.ports import ConnectionProfile, Survey
from reclaim.lifecycle import store
from reclaim.lifecycle.actions import CONNECTIONS_AT_ONCE, Actions
from reclaim.lifecycle.domain import State
from reclaim.lifecycle.service import build
from services.lifecycle.tests.test_lifecycle_service import (
    KEY,
    NOW,
    decision,
    flagged,
    org_of,
    world,
)

SLOW = "slow"


class Hanging(FakeReader):
    """Answers when it is allowed to."""

    def __init__(self, org: FakeOrg, orgs: Orgs) -> None:
        super().__init__(org)
        self._orgs = orgs

    async def survey(self, holders: Sequence[str] | None, *, since: datetime) -> Survey:
        self._orgs.hanging += 1
        self._orgs.most = max(self._orgs.most, self._orgs.hanging)
        await self._orgs.answers.wait()
        self._orgs.hanging -= 1
        return await super().survey(holders, since=since)


class Orgs:
    """Several orgs, of which those called slow hang. They are all alike, and each has its own log."""

    def __init__(self, clock: FixedClock) -> None:
        self._clock = clock
        self.orgs: dict[str, FakeOrg] = {}
        self.answers = asyncio.Event()
        self.hanging = 0
        self.most = 0

    def org(self, connection_id: str) -> FakeOrg:
        return self.orgs.setdefault(connection_id, org_of(self._clock))

    def reader(self, profile: ConnectionProfile) -> FakeReader:
        org = self.org(profile.id)
        return Hanging(org, self) if profile.id.startswith(SLOW) else FakeReader(org)

    def actor(self, profile: ConnectionProfile) -> FakeActor:
        return FakeActor(self.org(profile.id))


def connected(connection_id: str, sealing: str = KEY) -> ConnectionChanged:
    return ConnectionChanged(
        connection_id=connection_id, name=connection_id, kind="salesforce", settings={}, version=1,
        credentials=Sealer([sealing]).seal({"client_secret": "s"}),
    )  # fmt: skip


def flagged_on(connection_id: str, case_id: str, holder: str = "005A") -> UserFlagged:
    found = flagged(case_id, holder)
    return msgspec.structs.replace(found, seat=msgspec.structs.replace(found.seat, connection_id=connection_id))


async def test_the_next_lane_takes_the_connection_that_nobody_works_on(tmp_path: Path) -> None:
    orgs = Orgs(FixedClock(NOW))
    async with world(None, tmp_path, lambda _clock: orgs) as it:  # type: ignore[arg-type, return-value]
        await it.tell(connected(SLOW), source="scanner")
        await it.tell(flagged_on(SLOW, "case-1"), flagged_on(SLOW, "case-2", "005M"), source="scanner")
        await it.tell(decision("revoke"), decision("revoke", "case-2"))
        actions = Actions(it.running.database, orgs, Sealer([KEY]), it.clock)
        assert not await actions.run(1), "while the first lane is free it is the first one's turn"
        first = asyncio.create_task(actions.run(0))
        await until(lambda: orgs.hanging == 1)
        await it.tell(flagged_on("c1", "case-3"), source="scanner")
        await it.tell(decision("revoke", "case-3"))
        await it.sql("UPDATE effect SET due = 0")  # as if the leases were over: the slow connection has work to offer
        while await actions.run(1):
            pass
        assert (await it.case("case-3")).state is State.FROZEN
        assert (await it.case("case-1")).state is State.CHECKING_BEFORE_FREEZE
        assert orgs.most == 1
        orgs.answers.set()
        assert await first
        while await actions.run(0):
            pass
        assert (await it.case("case-1")).state is State.FROZEN
        await actions.close()


@pytest.mark.parametrize("slow", [1, CONNECTIONS_AT_ONCE - 1])
async def test_a_system_that_hangs_does_not_hold_up_the_others(tmp_path: Path, slow: int) -> None:
    """The whole service, as its host runs it."""
    clock = FixedClock(NOW)
    orgs = Orgs(clock)
    sealing = Fernet.generate_key().decode()
    settings = Settings(environment="test", data_dir=tmp_path, secret_keys=["s" * 32], sealing_keys=[sealing])
    host = Host(settings, {"lifecycle": partial(build, connectors=orgs)}, bus=InprocBus(), clock=clock)
    await host.prepare()
    (lifecycle,) = host.running
    names = [*(f"{SLOW}-{number}" for number in range(slow)), "quick"]

    async def states() -> list[State]:
        async with lifecycle.database.reading() as db:
            cases = [await store.find(db, f"case-{name}") for name in names]
        return [case.state for case in cases if case is not None]

    async def tell(*events: Event, source: str) -> None:
        bodies = [envelope.encode(event, source=source, time=NOW) for event in events]
        await lifecycle.inbox.receive([envelope.join(bodies)])

    await tell(*(connected(name, sealing) for name in names), source="scanner")
    await tell(*(flagged_on(name, f"case-{name}") for name in names), source="scanner")
    await tell(*(decision("revoke", f"case-{name}") for name in names), source="approvals")
    waiting = [State.CHECKING_BEFORE_FREEZE] * slow
    async with host.started():

        async def quick_is_frozen() -> bool:
            return await states() == [*waiting, State.FROZEN]

        async def all_are_frozen() -> bool:
            return await states() == [State.FROZEN] * len(names)

        await until(quick_is_frozen)
        assert orgs.hanging == slow
        orgs.answers.set()
        await until(all_are_frozen)
    assert all(len(orgs.org(name).writes) == 1 for name in names)
