"""What a ticket hears of its case's stages, and what its case hears of a ticket that will not decide it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from reclaim.common.contracts import FulfilmentAnnounced, TicketUndecided
from tests.support.itsm_desks import World, gateway
from tests.support.itsm_gateway import NOW, SEAT, flagged, life, task


@pytest.fixture
async def small(tmp_path: Path) -> AsyncIterator[World]:
    async with gateway(tmp_path) as made:
        yield made


async def undecided(world: World) -> list[TicketUndecided]:
    await world.site.handle()
    return [event for event in await world.site.said() if isinstance(event, TicketUndecided)]


@pytest.mark.parametrize("tags", [(), ("lr_keep", "lr_revoke")], ids=["none", "two"])
async def test_a_ticket_that_is_closed_undecided_calls_a_person_once_and_is_still_heard(
    small: World, tags: tuple[str, ...]
) -> None:
    await small.connect()
    await small.site.tell(flagged("c"))
    await small.run("open_tickets")
    for tag in tags:
        small.act("tag", tag)
    small.act("close")
    for _ in range(2):
        await small.run("poll_tickets")
        (called,) = await undecided(small)
        await small.run("tell_tickets")
    assert called.case_id == "c"
    assert called.reason.startswith("Ticket #301 decides nothing. The ticket was closed with")
    assert "Decide on the case's page, or have the ticket answered. To answer, set one tag" in called.remedy
    assert "This is no answer yet." in small.tickets()[0].comments[-1].text
    assert await small.decisions() == []
    for tag in tags[:1]:
        small.act("untag", tag)
    if not tags:
        small.act("tag", "lr_revoke")
    await small.run("poll_tickets")
    assert await small.decisions() == [("c", "revoke", "itsm")], "the time to answer runs on"


async def test_a_ticket_that_is_gone_calls_a_person_once(small: World) -> None:
    await small.connect()
    await small.site.tell(flagged("c"))
    await small.run("open_tickets")
    small.desk.tickets.clear()
    for _ in range(2):
        await small.run("poll_tickets")
        (called,) = await undecided(small)
    assert "404" in called.reason


async def test_a_ticket_of_a_case_that_has_moved_on_calls_nobody(small: World) -> None:
    await small.connect()
    await small.site.tell(flagged("c", "both"))
    await small.run("open_tickets")
    await small.site.tell(life("c")[0])
    await small.run("tell_tickets", "poll_tickets")
    assert await undecided(small) == []
    small.desk.tickets.clear()
    await small.run("poll_tickets")
    assert await undecided(small) == []


async def test_the_ticket_of_a_seat_that_a_person_frees_hears_every_stage_and_can_be_appealed_on(small: World) -> None:
    await small.connect()
    await small.site.tell(flagged("c", "both"))
    await small.run("open_tickets")
    announced = FulfilmentAnnounced(
        case_id="c",
        seat=SEAT,
        decision="revoke",
        announced_at=NOW,
        grace_ends_at=NOW + timedelta(days=14),
        dry_run=False,
    )
    await small.site.tell(announced)
    await small.run("tell_tickets")
    (ticket,) = small.tickets()
    (comment,) = ticket.comments
    assert comment.text.startswith("It was decided: revoke. A person is asked to free the seat after 05 December 2026")
    assert small.desk.is_closed(ticket)
    await small.run("poll_tickets")
    assert (await small.decisions(), await undecided(small)) == ([], []), "we closed it ourselves"
    assert (await small.site.get("/itsm-gateway/api/requests/c"))["state"] == "announced"
    await small.site.tell(task("c"))
    await small.run("tell_tickets", "open_tickets")
    assert "Take the seat of Ann Holder back." in ticket.comments[-1].text
    await small.time_passes()
    small.act("reopen")
    await small.run("poll_tickets")
    assert await small.decisions() == [("c", "keep", "itsm")]
