"""The second half of an erasure: the address and browser that approvals keeps with a person's answers."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from services.approvals.tests.approvals_world import Start, World, flagged, frozen

ERASE = "/approvals/api/erase"


async def erase(world: World, actor: str, role: str = "admin") -> httpx.Response:
    return await world.client.post(ERASE, json={"actor": actor}, headers=world.signed_in(role))


async def origins(world: World) -> set[tuple[Any, ...]]:
    return {row[:3] for row in (await world.dump())["decision_origins"]}


async def links(world: World) -> list[str]:
    return [link for mail in await world.send_mails() for link in mail.links if "/approvals/d/" in link]


async def answered(world: World) -> None:
    """Max decides on two seats, and Hanna, who holds one of them, appeals."""
    for case in ("c1", "c2"):
        await world.receive(flagged(case))
        _, revoke = await links(world)
        assert (await world.answer(revoke, choice="revoke")).status_code == 200
    await world.receive(frozen("c1"))
    to_max, to_hanna = await links(world)
    assert to_max != to_hanna
    assert (await world.answer(to_hanna, choice="keep", justification="needed")).status_code == 200


async def test_one_persons_answers_lose_where_they_came_from(start: Start, database_url: str | None) -> None:
    world = await start(database_url=database_url)
    await answered(world)
    maxs = {("c1", "decision", "203.0.113.9"), ("c2", "decision", "203.0.113.9")}
    hannas = {("c1", "appeal", "203.0.113.9")}
    assert await origins(world) == maxs | hannas
    stored = (await world.dump())["requests"]

    assert (await erase(world, "Hanna@Example.com")).json() == {"actor": "Hanna@Example.com", "answers": 1}
    assert await origins(world) == maxs, "in her own case too, his stays"
    assert (await erase(world, "max@example.com")).json()["answers"] == 2
    assert await origins(world) == set()
    assert (await erase(world, "max@example.com")).json()["answers"] == 0
    assert (await world.dump())["requests"] == stored, "the answers stay"


@pytest.mark.parametrize("role", ["viewer", "operator"])
async def test_only_administrators_erase_answers(world: World, role: str) -> None:
    await answered(world)
    before = await world.dump()
    assert (await erase(world, "max@example.com", role)).status_code == 403
    assert (await world.client.post(ERASE, json={"actor": "max@example.com"})).status_code == 401
    assert await world.dump() == before


async def test_an_erasure_names_somebody(world: World) -> None:
    await answered(world)
    before = await world.dump()
    assert (await erase(world, "")).status_code == 422
    assert await world.dump() == before
