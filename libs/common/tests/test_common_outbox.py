"""The outbox: nothing said is lost, and nothing is published twice while somebody is at it."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from msgspec.structs import replace

from libs.common.tests.common_world import NOW, Carrier, Said, Wall, closed, notice, sqlite_url, with_tables
from reclaim.common import envelope
from reclaim.common.clock import FixedClock
from reclaim.common.contracts import CONSUMERS, SERVICES, CaseClosed, NoticeDelivered
from reclaim.common.envelope import Received
from reclaim.common.errors import Transient
from reclaim.common.ids import new_id
from reclaim.common.outbox import (
    AFTER_FAILURE,
    AT_A_TIME,
    AT_HAND,
    CLAIM,
    FIRST_REPUBLISH,
    FULL,
    LOOK_EVERY,
    Outbox,
    Receipt,
    rows_of,
)

LEASE = FIRST_REPUBLISH / 1000


def bits(*services: str) -> int:
    return sum(1 << SERVICES.index(service) for service in services)


def large(case: object, size: int) -> CaseClosed:
    """An event whose body has about this many bytes."""
    return replace(closed(case), reason="x" * size)


async def test_what_is_said_is_published_in_order_and_in_batches(said: Said, wall: Wall) -> None:
    """One row for each type and message's worth, however many events that is."""
    bus = Carrier()
    ids = await said.say(*(large(n, FULL // 10) for n in range(14)), notice("other"))
    assert len(set(ids)) == 15
    assert list(await said.rows()) == rows_of(ids)
    assert await said.outbox.relay(said.database, bus)
    assert [wire for wire, _ in bus.published] == [CaseClosed.wire, CaseClosed.wire, NoticeDelivered.wire]
    assert [len(envelope.split(batch)) for _, batch in bus.published] == [10, 4, 1]
    assert bus.ids() == ids
    (first, *_) = envelope.split(bus.published[0][1])
    assert isinstance(first, Received)
    assert (first.source, first.time, first.data) == ("lifecycle", NOW, large(0, FULL // 10))


async def test_rows_of_many_transactions_travel_together(said: Said, wall: Wall) -> None:
    bus = Carrier()
    ids = await said.say_each(*(large(n, FULL // 10) for n in range(14)))
    assert len(await said.rows()) == 14
    await said.outbox.relay(said.database, bus)
    assert [len(envelope.split(batch)) for _, batch in bus.published] == [10, 4]
    assert bus.ids() == ids


def test_events_name_their_row() -> None:
    first, other = new_id(), new_id()
    assert rows_of([f"{first}.1", other, first, f"{first}.249"]) == [first, other]


async def test_an_empty_outbox_publishes_nothing(said: Said) -> None:
    bus = Carrier()
    assert not await said.outbox.relay(said.database, bus)
    assert bus.published == []


async def test_so_much_is_published_at_a_time(said: Said, wall: Wall) -> None:
    bus = Carrier()
    ids = await said.say(*(large(n, FULL) for n in range(AT_A_TIME // FULL + 1)))
    assert await said.outbox.relay(said.database, bus)
    assert bus.ids() == ids[:-1]
    assert await said.outbox.relay(said.database, bus)
    assert bus.ids() == ids
    assert not await said.outbox.relay(said.database, bus)


async def test_more_than_one_claim_takes_several_rounds(said: Said, wall: Wall) -> None:
    bus = Carrier()
    ids = await said.say(*(large(n, FULL) for n in range(CLAIM + 1)))
    another = Outbox("lifecycle")
    wall.move(LEASE)
    assert await another.relay(said.database, bus)
    assert len(bus.ids()) == CLAIM
    assert await another.relay(said.database, bus)
    assert Counter(bus.ids()) == Counter(ids)
    assert not await another.relay(said.database, bus)


async def test_the_trace_goes_along(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    monkeypatch.setattr("opentelemetry.propagate.inject", lambda carrier: carrier.update(traceparent=trace))
    bus = Carrier()
    await said.say(closed(1))
    await said.outbox.relay(said.database, bus)
    (part,) = envelope.split(bus.published[0][1])
    assert isinstance(part, Received)
    assert part.traceparent == trace


async def test_nothing_is_published_again_while_the_lease_holds(said: Said, wall: Wall) -> None:
    bus = Carrier()
    ids = await said.say(closed(1), closed(2))
    await said.outbox.relay(said.database, bus)
    wall.move(LEASE - 0.001)
    assert not await said.outbox.relay(said.database, bus)
    assert Counter(bus.ids()) == Counter(ids)


async def test_a_moved_business_clock_publishes_nothing_again(said: Said, wall: Wall) -> None:
    bus = Carrier()
    await said.say(closed(1))
    await said.outbox.relay(said.database, bus)
    assert isinstance(said.database.clock, FixedClock)
    said.database.clock.advance(timedelta(days=14))
    assert not await said.outbox.relay(said.database, bus)


async def test_what_nobody_confirms_is_published_again_with_growing_waits(said: Said, wall: Wall) -> None:
    bus = Carrier()
    (event_id,) = await said.say(closed(1))
    await said.outbox.relay(said.database, bus)
    for doubled in (1, 2, 4, 8, 16, 32, 64, 128, 128, 128):
        _, _, due = (await said.rows())[event_id]
        assert due == int(wall.seconds * 1000) + FIRST_REPUBLISH * doubled
        wall.move(LEASE * doubled - 0.001)
        assert not await said.outbox.relay(said.database, bus)
        wall.move(LOOK_EVERY / 1000)
        assert await said.outbox.relay(said.database, bus)
    assert bus.ids() == [event_id] * 11, "the same event each time: its readers know it by its id"


async def test_a_failed_publish_falls_due_again_after_a_second(said: Said, wall: Wall) -> None:
    bus = Carrier(away=Transient("the broker is away"))
    ids = await said.say(closed(1), closed(2))
    for _ in range(3):
        with pytest.raises(Transient, match="the broker is away"):
            await said.outbox.relay(said.database, bus)
        assert not await said.outbox.relay(said.database, bus)
        wall.move(AFTER_FAILURE / 1000)
    bus.away = None
    assert await said.outbox.relay(said.database, bus)
    assert Counter(bus.ids()) == Counter(ids)


async def test_a_broker_that_was_away_for_long_does_not_delay_what_it_lost_afterwards(said: Said, wall: Wall) -> None:
    """Attempts that published nothing do not count: a message confirmed and then lost comes again as soon as ever."""
    bus = Carrier(away=Transient("the broker is away"))
    (event_id,) = await said.say(closed(1))
    for _ in range(20):
        with pytest.raises(Transient):
            await said.outbox.relay(said.database, bus)
        wall.move(AFTER_FAILURE / 1000)
    bus.away = None
    await said.outbox.relay(said.database, bus)
    wall.move(LEASE)
    assert await said.outbox.relay(said.database, bus)
    assert bus.ids() == [event_id] * 2


async def test_a_relay_that_was_killed_leaves_its_rows_to_the_next(said: Said, wall: Wall) -> None:
    class Killed(Carrier):
        async def publish(self, messages: object) -> None:
            raise asyncio.CancelledError

    ids = await said.say(closed(1))
    with pytest.raises(asyncio.CancelledError):
        await said.outbox.relay(said.database, Killed())
    bus = Carrier()
    assert not await said.outbox.relay(said.database, bus), "the lease of the killed one"
    wall.move(LEASE)
    assert await said.outbox.relay(said.database, bus)
    assert bus.ids() == ids


async def test_what_a_killed_process_had_said_is_published_by_another(said: Said, wall: Wall, tmp_path: Path) -> None:
    """It was committed and handed to a relay in memory that is no more."""
    ids = await said.say(closed(1), closed(2))
    another, bus = Outbox("lifecycle"), Carrier()
    assert not await another.relay(said.database, bus), "its writer may be at it"
    wall.move(LEASE)
    assert await another.relay(said.database, bus)
    assert Counter(bus.ids()) == Counter(ids)


async def test_what_was_rolled_back_is_never_published(said: Said, wall: Wall) -> None:
    async def fail() -> None:
        raise RuntimeError("no")

    async def say_and_fail() -> None:
        async with said.database.unit() as unit:
            unit.emit(closed(1))
            unit.at_end(fail)

    bus = Carrier()
    with pytest.raises(RuntimeError, match="no"):
        await say_and_fail()
    assert not await said.outbox.relay(said.database, bus)
    wall.move(LEASE)
    assert not await said.outbox.relay(said.database, bus)
    assert bus.published == []


async def test_memory_holds_only_so_much_of_what_a_broker_does_not_take(said: Said, wall: Wall) -> None:
    """What does not fit is not lost: it falls due."""
    ids = [each for n in range(3) for each in await said.say(*(large(m, FULL) for m in range(AT_HAND // FULL // 2)))]
    bus = Carrier()
    while await said.outbox.relay(said.database, bus):
        continue
    assert Counter(bus.ids()) == Counter(ids[: AT_HAND // FULL])
    ids += await said.say(closed("once there is room again"))
    assert await said.outbox.relay(said.database, bus)
    assert bus.ids()[-1] == ids[-1]
    wall.move(LEASE)
    late = Carrier()
    while await said.outbox.relay(said.database, late):
        continue
    assert set(late.ids()) == set(ids), "and the rest again, for nobody confirmed it"


async def test_after_a_start_all_that_is_unconfirmed_is_published_again(said: Said, wall: Wall) -> None:
    bus = Carrier()
    confirmed, unconfirmed = await said.say_each(notice(1), notice(2))
    await said.outbox.relay(said.database, bus)
    await said.outbox.confirm(said.database, [Receipt("lifecycle", [confirmed])])
    await said.outbox.publish_again(said.database)
    assert await said.outbox.relay(said.database, bus)
    assert Counter(bus.ids()) == {confirmed: 1, unconfirmed: 2}


@pytest.mark.parametrize("order", list(itertools.permutations(CONSUMERS[CaseClosed])), ids="-".join)
async def test_receipts_clear_their_bits_in_any_order(tmp_path: Path, order: tuple[str, ...], wall: Wall) -> None:
    said = Said(sqlite_url(tmp_path))
    await with_tables(said.database.engine)
    (event_id,) = await said.say(closed(1))
    missing = set(order)
    for consumer in order:
        assert (await said.rows())[event_id][0] == bits(*missing)
        for _ in range(2):  # a receipt may come twice
            await said.outbox.confirm(said.database, [Receipt(consumer, [event_id])])
        missing.remove(consumer)
    assert await said.outbox.depth(said.database) == 0
    await said.database.close()


async def test_receipts_that_come_together_are_all_counted(said: Said) -> None:
    one, two, three = await said.say_each(closed(1), closed(2), closed(3))
    await said.outbox.confirm(
        said.database,
        [
            Receipt("scanner", [one, two, "unknown", two]),
            Receipt("approvals", [two, one]),
            Receipt("approvals", []),
            Receipt("itsm-gateway", [one]),
            Receipt("savings", [one, two]),
            Receipt("lifecycle", [three]),  # does not even hear this event
            Receipt("scanner", ["unknown", "é'; DROP TABLE outbox; --"]),
        ],
    )
    rows = await said.rows()
    assert {event_id: row[0] for event_id, row in rows.items()} == {
        two: bits("itsm-gateway"),
        three: bits("scanner", "approvals", "itsm-gateway", "savings"),
    }
    await said.outbox.confirm(said.database, [])
    await said.outbox.confirm(said.database, [Receipt("itsm-gateway", [one, two])])
    assert set(await said.rows()) == {three}


async def test_a_confirmed_event_is_not_published_again(said: Said, wall: Wall) -> None:
    bus = Carrier()
    (event_id,) = await said.say(notice(1))
    await said.outbox.relay(said.database, bus)
    await said.outbox.confirm(said.database, [Receipt("lifecycle", [event_id])])
    wall.move(LEASE * 1000)
    await said.outbox.publish_again(said.database)
    assert not await said.outbox.relay(said.database, bus)


async def test_a_receipt_while_its_event_is_being_published_is_kept(said: Said, wall: Wall) -> None:
    """A consumer may be faster than the publisher's confirm, and the publish may then even fail."""

    class Fast(Carrier):
        async def publish(self, messages: object) -> None:
            await said.outbox.confirm(said.database, [Receipt("approvals", ids), Receipt("scanner", ids)])
            raise Transient("the confirm did not come")

    ids = await said.say(closed(1))
    with pytest.raises(Transient):
        await said.outbox.relay(said.database, Fast())
    assert (await said.rows())[ids[0]][0] == bits("itsm-gateway", "savings")


@pytest.mark.servers
async def test_two_relays_at_once_never_claim_the_same_row(emptied_database: str, wall: Wall) -> None:
    one, other, killed = Said(emptied_database), Said(emptied_database), Said(emptied_database)
    await with_tables(one.database.engine)
    ids = await killed.say(*(large(n, FULL) for n in range(3 * CLAIM)))
    wall.move(LEASE)
    bus = Carrier()

    async def drain(said: Said) -> int:
        rounds = 0
        while await said.outbox.relay(said.database, bus):
            rounds += 1
        return rounds

    rounds = await asyncio.gather(drain(one), drain(other), drain(one), drain(other))
    assert Counter(bus.ids()) == Counter(ids)
    assert sum(rounds) >= 3
    for said in (one, other, killed):
        await said.database.close()


@pytest.mark.servers
async def test_a_relay_does_not_wait_for_rows_that_another_is_claiming(emptied_database: str, wall: Wall) -> None:
    said = Said(emptied_database)
    await with_tables(said.database.engine)
    held, free = await said.say_each(closed(1), closed(2))
    await said.outbox.relay(said.database, Carrier())
    wall.move(LEASE)
    bus = Carrier()
    async with said.database.unit() as unit:
        await unit.db.execute(sa.text("SELECT 1 FROM outbox WHERE event_id = :id FOR UPDATE"), {"id": held})
        async with asyncio.timeout(5):
            assert await said.outbox.relay(said.database, bus)
    assert bus.ids() == [free]
    assert await said.outbox.relay(said.database, bus)
    assert bus.ids() == [free, held]
    await said.database.close()


@pytest.mark.servers
async def test_receipts_of_two_consumers_at_once_lose_no_bit(emptied_database: str) -> None:
    said = Said(emptied_database)
    await with_tables(said.database.engine)
    ids = await said.say_each(*(closed(n) for n in range(100)))
    parts = [ids[start::4] for start in range(4)]
    receipts = [Receipt(consumer, part) for consumer in CONSUMERS[CaseClosed] for part in parts]

    async def confirm(receipt: Receipt) -> None:
        await said.outbox.confirm(said.database, [receipt])

    await asyncio.gather(*(confirm(receipt) for receipt in receipts))
    assert await said.outbox.depth(said.database) == 0
    await said.database.close()
