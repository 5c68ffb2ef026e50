"""How long a manager has: what a mail promises is what the rule gives, and asking anew starts anew."""

from __future__ import annotations

from datetime import timedelta

from reclaim.common.contracts import NoticeDelivered
from services.approvals.tests.approvals_world import World, flagged


async def ask_again(world: World) -> str:
    answer = await world.client.post("/approvals/api/requests/c1/resend", headers=world.signed_in("operator"))
    assert answer.status_code == 202
    [mail] = await world.send_mails()
    return str(mail.text)


async def test_asking_again_promises_no_more_time_than_the_rule_gives(world: World) -> None:
    await world.receive(flagged())
    await world.send_mails()
    deadline = (await world.asked()).deadline
    assert deadline is not None
    world.clock.advance(timedelta(days=4, hours=23))
    assert f"{deadline.day} {deadline:%b}" in await ask_again(world)
    assert len(await world.emitted()) == 1, "the first delivery set the deadline"


async def test_asking_anew_after_the_deadline_is_reported_and_starts_another(world: World) -> None:
    await world.receive(flagged(on_timeout="escalate"))
    await world.send_mails()
    world.clock.advance(timedelta(days=6))
    text = await ask_again(world)
    first, second = await world.emitted()
    assert isinstance(first, NoticeDelivered)
    assert isinstance(second, NoticeDelivered)
    assert second.delivered_at - first.delivered_at == timedelta(days=6)
    deadline = (await world.asked()).deadline
    assert deadline == second.delivered_at + timedelta(days=5)
    assert f"{deadline.day} {deadline:%b}" in text
