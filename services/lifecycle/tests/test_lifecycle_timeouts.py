"""After an outage across a deadline, what was decided in time is heard before the time-out: on both buses."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from libs.common.tests.common_world import until, versions
from reclaim.common import envelope, migrate
from reclaim.common.bus import open_bus
from reclaim.common.clock import FixedClock
from reclaim.common.contracts import CONSUMERS, ConnectionChanged, DecisionReceived, Event
from reclaim.common.db import Unit
from reclaim.common.errors import Transient
from reclaim.common.host import Host
from reclaim.common.security import Sealer
from reclaim.common.service import Runtime, Service
from reclaim.common.settings import Settings
from reclaim.lifecycle import store
from reclaim.lifecycle.domain import State
from reclaim.lifecycle.service import build
from services.lifecycle.tests.test_lifecycle_service import (
    DAY,
    NOW,
    World,
    decision,
    delivered,
    flagged,
    give,
    org_of,
    world,
)


class Line:
    """The way from the others: while it is up, what they have sent is heard by who asks to catch up."""

    def __init__(self) -> None:
        self.up = False
        self.asked = 0
        self.sent: list[Event] = []
        self.it: World | None = None

    async def __call__(self) -> None:
        self.asked += 1
        if not self.up:
            raise Transient("the bus is away")
        if self.sent:
            assert self.it is not None
            sent, self.sent = self.sent, []
            await self.it.tell(*sent)


async def commands(it: World, case_id: str = "case-1") -> list[str]:
    async with it.running.database.reading() as db:
        return [moment.link.entry.command for moment in await store.history(db, case_id)]


async def test_a_time_out_waits_until_what_was_sent_by_then_is_heard(tmp_path: Path) -> None:
    line = Line()
    async with world(None, tmp_path, catch_up=line) as it:
        line.it = it
        await it.tell(flagged(), source="scanner")
        await it.tell(delivered())
        it.clock.advance(14 * DAY)
        line.sent = [decision("keep")]
        await it.act()
        assert (await it.case()).state is State.AWAITING_DECISION
        assert line.asked == 1
        line.up = True
        await it.act()
        assert (await it.case()).state is State.KEPT
        assert await commands(it) == ["open_case", "notice_arrived", "decide_keep"]
        assert it.org.writes == []


async def test_a_time_out_comes_when_nothing_was_sent(tmp_path: Path) -> None:
    line = Line()
    async with world(None, tmp_path, catch_up=line) as it:
        await it.tell(flagged(), source="scanner")
        await it.tell(delivered())
        it.clock.advance(14 * DAY - timedelta(seconds=1))
        line.up = True
        await it.act()
        assert line.asked == 0, "nobody asks before an instant has passed"
        it.clock.advance(timedelta(seconds=1))
        await it.act()
        assert (await it.case()).state is State.FROZEN
        assert line.asked == 1


async def test_what_was_heard_before_an_instant_says_nothing_about_it(tmp_path: Path) -> None:
    line = Line()
    async with world(None, tmp_path, catch_up=line) as it:
        line.it = it
        line.up = True
        await it.tell(flagged(), source="scanner")
        await it.tell(delivered())
        it.clock.advance(14 * DAY)
        await it.act()
        assert (await it.case()).state is State.FROZEN
        # The connection is lost, and grace ends while it is.
        line.up = False
        give(it.org, "005A", "Case", 3)
        it.clock.advance(7 * DAY)
        line.sent = [decision("keep")]
        await it.act()
        assert (await it.case()).state is State.FROZEN
        line.up = True
        await it.act()
        assert (await it.case()).state is State.RESTORED
        assert {record.owner for record in it.org.records.values()} == {"005A"}, "nothing was handed over"


async def test_a_clock_that_was_set_back_has_heard_nothing_of_the_hour_to_come(tmp_path: Path) -> None:
    line = Line()
    async with world(None, tmp_path, catch_up=line) as it:
        line.up = True
        await it.tell(flagged(), source="scanner")
        await it.tell(delivered())
        it.clock.advance(16 * DAY)
        await it.act()
        assert (await it.case()).state is State.FROZEN
        it.clock.advance(-2 * DAY)
        await it.act()
        line.up = False
        await it.tell(flagged("case-2", "005M", decision_days=15), source="scanner")
        await it.tell(delivered("case-2"))
        it.clock.advance(DAY)
        await it.act()
        assert (await it.case("case-2")).state is State.AWAITING_DECISION


# ------------------------------------------------------------------------------------------- with a bus


async def ignore(_unit: Unit, _events: object) -> None:
    """Whatever approvals is told here does not matter."""


def approvals(folder: Path, _runtime: Runtime) -> Service:
    """A producer of decisions that does nothing else."""
    return Service(
        name="approvals",
        metadata=migrate.service_metadata(),
        migrations=versions(folder, "approvals"),
        subscriptions={event: ignore for event, consumers in CONSUMERS.items() if "approvals" in consumers},
    )


@pytest.fixture(params=["inproc", pytest.param("amqp", marks=pytest.mark.servers)])
def bus_at(request: pytest.FixtureRequest) -> tuple[str, str]:
    return ("inproc://", "") if request.param == "inproc" else tuple(request.getfixturevalue("fresh_vhost"))


@pytest.mark.parametrize("place", ["queue", "outbox"])
async def test_a_keep_that_waits_over_a_start_comes_before_the_time_out(
    tmp_path: Path, bus_at: tuple[str, str], place: str
) -> None:
    """Everything was down while the deadline passed; the manager had kept the seat, and nobody was there to hear it."""
    clock = FixedClock(NOW)
    org = org_of(clock)
    sealing = Fernet.generate_key().decode()
    settings = Settings(environment="test", data_dir=tmp_path, secret_keys=["s" * 32], sealing_keys=[sealing])
    builds: dict[str, Callable[[Runtime], Service]] = {
        "approvals": partial(approvals, tmp_path),
        "lifecycle": partial(build, connectors=org),
    }
    host = Host(settings, builds, bus=open_bus(bus_at[0], prefix=bus_at[1], settles=1), clock=clock)
    await host.prepare()
    said, lifecycle = host.running
    connection = ConnectionChanged(
        connection_id="c1", name="org", kind="salesforce", settings={}, version=1,
        credentials=Sealer([sealing]).seal({"client_secret": "s"}),
    )  # fmt: skip
    before = [envelope.encode(event, source="scanner", time=NOW) for event in (connection, flagged(), delivered())]
    await lifecycle.inbox.receive([envelope.join(before)])
    keep = decision("keep")
    if place == "queue":
        body = envelope.encode(keep, source="approvals", time=NOW)
        await host.bus.publish([(DecisionReceived.wire, envelope.join([body]))])
    else:
        async with said.database.unit() as unit:
            unit.emit(keep)
    clock.advance(15 * DAY)
    handle = lifecycle.inbox.receive

    async def slowly(messages: Sequence[bytes]) -> None:
        await asyncio.sleep(0.5)  # the database has much to do after a start, and the timers could be first
        await handle(messages)

    lifecycle.inbox.receive = slowly  # type: ignore[method-assign]

    async def ended() -> bool:
        async with lifecycle.database.reading() as db:
            case = await store.find(db, "case-1")
        return case is not None and case.state not in {State.AWAITING_DECISION, State.CHECKING_BEFORE_FREEZE}

    async with host.started():
        await until(ended)
        async with lifecycle.database.reading() as db:
            moments = await store.history(db, "case-1")
    assert [moment.link.entry.command for moment in moments] == ["open_case", "notice_arrived", "decide_keep"]
    assert org.writes == []
