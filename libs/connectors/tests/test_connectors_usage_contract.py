"""What every source of usage holds to: one in memory, and Okta's System Log over real HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime, timedelta

import pytest
import pytest_asyncio

from libs.connectors.tests.connectors_logs import DAY, MAIL, NOW, WIKI, InMemory, LogWorld, SimulatedOkta
from reclaim.common.clock import FixedClock
from reclaim.common.errors import Transient
from reclaim.connectors.ports import UsagePage, UsageRecord
from reclaim.sandbox.app import Sandbox

pytestmark = pytest.mark.asyncio(loop_scope="module")

SINCE = NOW - 30 * DAY
ADA, BO = "ada@acme.example", "bo@acme.example"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(clock=FixedClock(NOW), users=0) as sandbox:
        yield sandbox


@pytest_asyncio.fixture(params=["fake", "okta"], loop_scope="module")
async def world(request: pytest.FixtureRequest, sandbox: Sandbox) -> AsyncIterator[LogWorld]:
    world: LogWorld = InMemory() if request.param == "fake" else SimulatedOkta(sandbox)
    yield world
    await world.reader.close()


async def read(world: LogWorld, since: datetime = SINCE) -> list[UsagePage]:
    return [page async for page in world.reader.usage(since)]


async def records(world: LogWorld, since: datetime = SINCE) -> list[UsageRecord]:
    return [record for page in await read(world, since) for record in page.records]


async def test_a_day_of_somebody_at_something_is_one_record(world: LogWorld) -> None:
    noon = datetime(2026, 11, 18, 12, tzinfo=NOW.tzinfo)
    for hour in (0, 1, 5):
        world.sign_in(ADA, WIKI, at=noon + timedelta(hours=hour))
    world.sign_in(ADA, MAIL, at=noon)
    world.sign_in(BO, WIKI, at=noon)
    world.sign_in(ADA, WIKI, at=noon + DAY)
    found = await records(world)
    assert {(each.user, each.product, each.period_start.day, each.runs) for each in found} == {
        (ADA, WIKI, 18, 3),
        (ADA, MAIL, 18, 1),
        (BO, WIKI, 18, 1),
        (ADA, WIKI, 19, 1),
    }
    first = next(each for each in found if (each.user, each.product, each.runs) == (ADA, WIKI, 3))
    assert (first.channel, first.seconds, first.last_used_at) == ("sso", None, noon + timedelta(hours=5))
    assert first.period_end - first.period_start == DAY
    assert first.source


async def test_an_attempt_that_failed_is_no_use(world: LogWorld) -> None:
    world.sign_in(ADA, WIKI, at=NOW - DAY, ok=False)
    world.sign_in(BO, WIKI, at=NOW - DAY)
    pages = await read(world)
    assert [record.user for page in pages for record in page.records] == [BO]
    assert sum(page.failed for page in pages) == 1


@pytest.mark.parametrize(
    "name", ["unknown", "5f4dcc3b5aa765d61d8327deb882cf99", "0f8fad5b-d9cb-469f-a165-70867728950e"]
)
async def test_whom_the_source_hides_counts_as_somebody(world: LogWorld, name: str) -> None:
    world.sign_in(name, WIKI, at=NOW - DAY)
    world.sign_in(name, WIKI, at=NOW - DAY)
    (page,) = await read(world)
    assert page.records == []
    assert page.unattributed == {WIKI: 2}


async def test_reading_again_gives_the_same_and_what_came_late_with_it(world: LogWorld) -> None:
    world.sign_in(ADA, WIKI, at=NOW - timedelta(hours=3))
    world.sign_in(ADA, WIKI, at=NOW - timedelta(hours=2), late=timedelta(hours=5))
    before = await records(world)
    assert [each.runs for each in before] == [1]
    assert await records(world) == before
    world.clock.advance(timedelta(hours=6))
    # A day is read whole even when it is asked for from its middle, so that its record is whole.
    (after,) = await records(world, NOW - timedelta(hours=1))
    assert (after.runs, after.period_start) == (2, before[0].period_start)


async def test_absence_proves_something_only_where_the_source_would_have_told(world: LogWorld) -> None:
    world.sign_in(ADA, WIKI, at=NOW - 200 * DAY)
    asked = world.reader.coverage(NOW - 400 * DAY)
    assert asked.since == NOW - 90 * DAY
    assert world.reader.coverage(SINCE).since == SINCE
    assert asked.until == NOW - timedelta(minutes=60)
    assert asked.reason
    assert await records(world, NOW - 400 * DAY) == []


async def test_nothing_to_tell_is_no_error(world: LogWorld) -> None:
    assert await read(world) == []


async def test_a_source_that_does_not_answer_is_an_error_and_never_silence(world: LogWorld) -> None:
    world.sign_in(ADA, WIKI, at=NOW - DAY)
    world.break_down()
    with pytest.raises(Transient):
        await read(world)
    assert not (await world.reader.test())[0].ok


async def test_a_source_of_usage_has_nothing_to_change_with(world: LogWorld) -> None:
    for verb in ("freeze", "unfreeze", "deactivate", "reactivate", "hand_over", "update", "write"):
        assert not hasattr(world.reader, verb)


async def test_what_it_tells_the_use_of_is_listed_and_can_be_chosen_among(world: LogWorld) -> None:
    world.sign_in(ADA, WIKI, at=NOW - DAY)
    world.sign_in(ADA, MAIL, at=NOW - DAY)
    assert [each.id for each in await world.reader.applications()] == [MAIL, WIKI]
    found = [record async for page in world.reader.usage(SINCE, only=[WIKI]) for record in page.records]
    assert [each.product for each in found] == [WIKI]


async def test_each_page_says_which_day_it_is_about(world: LogWorld) -> None:
    world.sign_in(ADA, WIKI, at=NOW - 2 * DAY, ok=False)
    world.sign_in(ADA, WIKI, at=NOW - DAY)
    assert [page.day for page in await read(world)] == [
        datetime(2026, 11, 19, tzinfo=NOW.tzinfo),
        datetime(2026, 11, 20, tzinfo=NOW.tzinfo),
    ]
