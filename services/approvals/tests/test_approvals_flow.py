"""From a flagged seat to what became of it, over a real mail server."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from reclaim.common import envelope
from reclaim.common.contracts import DecisionReceived, NoticeDelivered
from services.approvals.tests.approvals_world import NOON, World, flagged


async def test_a_manager_is_asked_and_answers(world: World) -> None:
    await world.receive(flagged())
    [mail] = await world.send_mails()
    assert mail.to == ["max@example.com"]
    assert mail.subject == "Is Hanna Holder's Sales Cloud account still needed?"
    keep, revoke = mail.links[:2]
    assert await world.emitted() == [
        NoticeDelivered(case_id="c1", channel="email", recipient="max@example.com", delivered_at=NOON)
    ]

    page = await world.client.get(keep)
    assert page.status_code == 200
    assert "$1,980.00 a year" in page.text
    world.clock.advance(timedelta(hours=3))
    done = await world.answer(revoke, choice="revoke")
    assert done.status_code == 200, done.text
    decision = (await world.emitted())[-1]
    assert isinstance(decision, DecisionReceived)
    assert (decision.decision, decision.actor, decision.ip) == ("revoke", "max@example.com", "203.0.113.9")


async def test_the_host_runs_it_from_bus_to_mailbox_and_back(world: World) -> None:
    host = world.host
    await host.prepare()
    event = flagged()
    async with host.started():
        message = envelope.join([envelope.encode(event, source="scanner", time=world.clock.now())])
        await host.bus.publish([(event.wire, message)])
        async with asyncio.timeout(20):
            while not world.mailbox.messages:  # noqa: ASYNC110  a mailbox tells nobody
                await asyncio.sleep(0.02)
        [mail] = world.mailbox.messages
        assert (await world.answer(mail.links[1], choice="revoke")).status_code == 200
    assert (await world.asked()).decision == "revoke"
