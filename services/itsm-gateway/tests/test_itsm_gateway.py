"""The gateway: what goes through the desk is kept and said to be unasked."""

from __future__ import annotations

import asyncio

import pytest
import sqlalchemy as sa

from reclaim.common import migrate
from reclaim.common.contracts import FulfilmentRequested, NoticeFailed, UserRestored
from reclaim.itsm_gateway import store
from reclaim.web.auth import undeclared_routes
from tests.support.itsm_gateway import NOW, SEAT, Site, flagged, life

# ------------------------------------------------------------------------------------------------ requests


async def test_the_migration_makes_what_the_code_declares(site: Site) -> None:
    assert await migrate.differences(site.running.database.engine, site.running.service.metadata) == []


async def test_a_case_for_the_desk_is_kept_and_said_to_be_unasked(site: Site) -> None:
    await site.tell(flagged("a"), flagged("b", "both"), flagged("c", "email"))
    said = await site.said()
    assert [(type(event), event.case_id, event.channel) for event in said] == [  # type: ignore[attr-defined]
        (NoticeFailed, "a", "itsm"),
        (NoticeFailed, "b", "itsm"),
    ]
    assert isinstance(said[0], NoticeFailed)
    assert "No service desk is connected" in said[0].reason
    assert "“Unused for 60 days” to e-mail" in said[0].remedy
    listed = (await site.get("/itsm-gateway/api/requests"))["requests"]
    assert [(one["case_id"], one["route"], one["state"]) for one in listed] == [
        ("b", "both", "waiting"),
        ("a", "itsm", "waiting"),
    ]


async def test_a_case_is_asked_once_even_under_a_second_event_id(site: Site) -> None:
    await site.tell(flagged("a"), flagged("a"))
    await site.tell(flagged("a"))
    assert len(await site.said()) == 1


@pytest.mark.parametrize("backwards", [False, True])
async def test_the_timeline_and_the_state_follow_the_case_in_any_order(site: Site, backwards: bool) -> None:
    await site.tell(flagged("a"), flagged("other"))
    story = life("a")
    for event in reversed(story) if backwards else story:
        await site.tell(event)
    shown = await site.get("/itsm-gateway/api/requests/a")
    assert (shown["state"], shown["outcome"]) == ("reactivated", "reclaimed")
    assert [step["text"] for step in shown["timeline"]] == [
        "The seat was frozen. It can be restored until 26 November 2026, 12:00 UTC: whoever needs it reopens this "
        "ticket.",
        "The seat was freed. 1 open record has a new owner.",
        "The case was closed (reclaimed).",
        "The seat was given back by Otto. She is back.",
    ]
    open_ones = (await site.get("/itsm-gateway/api/requests?open_only=true"))["requests"]
    assert [one["case_id"] for one in open_ones] == ["other"]


async def test_a_restored_case(site: Site) -> None:
    await site.tell(flagged("a"))
    await site.tell(
        UserRestored(case_id="a", seat=SEAT, actor="Ann", reason="I need it.", restored_at=NOW, dry_run=False)
    )
    shown = await site.get("/itsm-gateway/api/requests/a")
    assert (shown["state"], shown["timeline"][0]["text"]) == ("restored", "The seat was restored by Ann. I need it.")


async def test_an_event_before_its_case_is_tried_again_and_one_of_a_mailed_case_is_not_kept(site: Site) -> None:
    await site.tell(*life("early"))
    await site.tell(flagged("early"), flagged("mailed", "email"))
    await site.tell(*life("mailed"))
    async with asyncio.timeout(20):
        while (await site.get("/itsm-gateway/api/requests/early"))["state"] != "reactivated":
            await site.running.inbox.retry()
            await asyncio.sleep(0.05)
    assert await site.running.inbox.parked() == []
    async with site.running.database.reading() as db:
        assert set((await db.execute(sa.select(store.TICKET_STEP.c.case_id))).scalars()) == {"early"}


async def test_a_task_for_a_person_is_kept_for_every_case(site: Site) -> None:
    asked = [
        FulfilmentRequested(
            case_id=case_id,
            seat=SEAT,
            rule_id="r-1",
            rule_name="Unused for 60 days",
            method="deactivate",
            instructions="Take the seat back.",
            requested_at=NOW,
            dry_run=case_id == "mailed",
        )
        for case_id in ("desk", "mailed")
    ]
    await site.tell(flagged("desk"), flagged("mailed", "email"), *asked)
    async with site.running.database.reading() as db:
        assert await store.timeline(db, "desk") == [(NOW, "Take the seat back.")]
        assert await store.timeline(db, "mailed") == [(NOW, "Dry run, nothing to do: Take the seat back.")]
    shown = await site.get("/itsm-gateway/api/requests/desk")
    assert shown["state"] == "waiting", "a task does not move a request on"


async def test_requests_are_paged(site: Site) -> None:
    await site.tell(*(flagged(f"case-{n}") for n in range(5)))
    first = await site.get("/itsm-gateway/api/requests?limit=3")
    second = await site.get(f"/itsm-gateway/api/requests?limit=3&before={first['next_before']}")
    assert [one["case_id"] for one in first["requests"] + second["requests"]] == [f"case-{n}" for n in (4, 3, 2, 1, 0)]
    assert second["next_before"] is None


async def test_the_pages(site: Site) -> None:
    assert "No requests" in await site.get("/itsm-gateway/")
    hostile = "<script>alert(1)</script>"
    await site.tell(flagged("a", rule_name=hostile))
    await site.tell(*life("a"))
    page = await site.get("/itsm-gateway/?show=all")
    assert "No service desk is connected" in page
    assert "/itsm-gateway/secrets" in page
    one = await site.get("/itsm-gateway/requests/a")
    for text in ("Ann Holder, ann@example.com", "No ticket was opened", "given back by Otto"):
        assert text in one
    for html in (page, one):
        assert hostile not in html


async def test_every_route_says_who_may_use_it(site: Site) -> None:
    assert undeclared_routes(site.host.app, exempt=["/health", "/metrics", "/openapi.json"]) == []
    for path in ("/itsm-gateway/api/requests", "/itsm-gateway/api/requests/a"):
        assert (await site.client.get(path)).status_code == 401
