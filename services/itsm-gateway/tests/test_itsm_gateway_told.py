"""What is said of desks: once for each change, in an order that outlives them, and of those from before as well."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa

from reclaim.common.contracts import DeskChanged
from reclaim.itsm_gateway import ticket_store, told_store
from tests.support.itsm_desks import World, gateway

JIRA = partial(DeskChanged, desk_id="emea", platform="jira")
IT = partial(DeskChanged, desk_id="it", platform="freshservice")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.servers)])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    url = None if request.param == "sqlite" else request.getfixturevalue("fresh_database")
    async with gateway(tmp_path, url) as built:
        yield built


async def put(world: World, desk_id: str, platform: str, *, status: int = 200, **more: object) -> None:
    world.platform = platform
    path = f"/itsm-gateway/api/desks/{desk_id}"
    answer = await world.site.call("PUT", path, role="admin", json=world.entered(**more))
    assert answer.status_code == status, answer.text


async def remove(world: World, desk_id: str) -> None:
    answer = await world.site.call("DELETE", f"/itsm-gateway/api/desks/{desk_id}", role="admin")
    assert answer.status_code == 204, answer.text


async def test_a_desk_is_announced_when_it_is_connected_changed_and_removed(world: World) -> None:
    await put(world, "it", "freshservice")
    assert await world.site.said_of_desks() == [IT(asks=True, version=1)]
    # The one that asked before does not any more, which is a change of it too.
    await put(world, "emea", "jira")
    await put(world, "emea", "jira", title="Another title")
    assert (await world.site.said_of_desks())[1:] == [JIRA(asks=True, version=1), IT(asks=False, version=2)]
    await remove(world, "it")
    await put(world, "it", "freshservice", asks=False)
    assert (await world.site.said_of_desks())[3:] == [
        IT(asks=False, version=3, removed=True),
        IT(asks=False, version=4),
    ], "a desk that is connected again goes on counting"
    await world.run("announce_desks")
    assert len(await world.site.said_of_desks()) == 5


async def test_what_was_refused_is_not_announced(world: World) -> None:
    await put(world, "it", "freshservice", title="${nonsense}", status=422)
    assert await world.site.said_of_desks() == []
    answer = await world.site.call("DELETE", "/itsm-gateway/api/desks/it", role="admin")
    assert answer.status_code == 404
    assert await world.site.said_of_desks() == []


async def test_no_credentials_nor_settings_are_said_of_a_desk(world: World) -> None:
    await put(world, "it", "freshservice")
    (said,) = await world.site.said_of_desks()
    assert set(msgspec.to_builtins(said)) == {"desk_id", "platform", "asks", "version"}


async def test_desks_of_a_release_that_said_nothing_are_announced_once_after_the_start(world: World) -> None:
    await put(world, "it", "freshservice")
    await put(world, "emea", "jira", asks=False)
    async with world.site.running.database.unit() as unit:
        # As a release before leaves it: two desks, and nothing that was said of them.
        await unit.db.execute(sa.delete(told_store.DESK_TOLD))
        await unit.db.execute(sa.text("DELETE FROM outbox"))
    for _ in range(2):
        await world.run("announce_desks")
    assert await world.site.said_of_desks() == [JIRA(asks=False, version=1), IT(asks=True, version=1)]
    async with world.site.running.database.unit() as unit:
        # A replica of that release is still up, and disconnects one.
        await unit.db.execute(sa.delete(ticket_store.DESK).where(ticket_store.DESK.c.id == "it"))
    await world.run("announce_desks")
    assert (await world.site.said_of_desks())[2:] == [IT(asks=False, version=2, removed=True)]


async def test_who_announces_at_the_same_time_says_nothing_twice_and_nothing_that_is_over(world: World) -> None:
    await put(world, "it", "freshservice")
    async with world.site.running.database.unit() as unit:
        await unit.db.execute(sa.delete(told_store.DESK_TOLD))
        await unit.db.execute(sa.text("DELETE FROM outbox"))
    await asyncio.gather(*(world.run("announce_desks") for _ in range(4)), remove(world, "it"))
    said = await world.site.said_of_desks()
    # The removal may come first: then there was nothing to say.
    assert said in ([], [IT(asks=True, version=1), IT(asks=False, version=2, removed=True)])
