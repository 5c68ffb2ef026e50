"""Questions that are put again, and who is asked where there is no manager."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from reclaim.approvals import store
from reclaim.common import migrate
from reclaim.common.contracts import DecisionReceived, NoticeDelivered, NoticeFailed, Person
from services.approvals.tests.approvals_world import HOLDER, MANAGER, Start, World, closed, flagged

DAY = timedelta(days=1)
FALLBACK = Person(id="", name="Licence desk", email="licences@example.com")


async def remind(world: World) -> list[Any]:
    """Let the reminders that are due be sent; return them."""
    while await world.job("remind")():
        pass
    return await world.send_mails()


async def test_an_unanswered_question_is_put_again_on_the_rules_days(start: Start, database_url: str | None) -> None:
    world = await start(database_url=database_url)
    await world.receive(flagged(remind_days=(2, 4)))
    [asked] = await world.send_mails()
    sent = []
    for hour in range(6 * 24):
        for mail in await remind(world):
            sent.append((hour, mail))
        world.clock.advance(timedelta(hours=1))
    assert [hour for hour, _ in sent] == [48, 96]
    for _, mail in sent:
        assert mail.to == asked.to
        assert mail.subject == f"Reminder: {asked.subject}"
        assert "We asked you before" in mail.text
    assert [type(event) for event in await world.emitted()] == [NoticeDelivered], "a reminder starts no new deadline"


async def test_a_reminder_can_be_answered_like_the_question(world: World) -> None:
    await world.receive(flagged(remind_days=(2,)))
    await world.send_mails()
    world.clock.advance(2 * DAY)
    [mail] = await remind(world)
    keep = next(link for link in mail.links if "choice=keep" in link)
    answer = await world.answer(keep.removeprefix("http://127.0.0.1:8080"), choice="keep", justification="on leave")
    assert answer.status_code == 200
    decided = (await world.emitted())[-1]
    assert isinstance(decided, DecisionReceived)
    assert (decided.decision, decided.actor) == ("keep", MANAGER.email)


@pytest.mark.parametrize("how", ["answered", "closed", "over"])
async def test_nobody_is_reminded_of_what_is_settled(world: World, how: str) -> None:
    await world.receive(flagged(remind_days=(2, 4)))
    [mail] = await world.send_mails()
    if how == "answered":
        await world.answer(mail.links[0].removeprefix("http://127.0.0.1:8080"), choice="keep", justification="on leave")
    elif how == "closed":
        await world.receive(closed())
    await world.send_mails()
    world.clock.advance(timedelta(days=30 if how == "over" else 3))
    assert await remind(world) == []
    assert (await world.asked()).remind_at is None or how != "over"


async def test_of_reminders_that_were_missed_one_is_sent(world: World) -> None:
    await world.receive(flagged(remind_days=(1, 2, 3)))
    await world.send_mails()
    world.clock.advance(2.5 * DAY)
    assert len(await remind(world)) == 1
    world.clock.advance(0.5 * DAY)
    assert len(await remind(world)) == 1
    assert await remind(world) == []


async def test_without_a_plan_nobody_is_reminded(world: World) -> None:
    await world.receive(flagged())
    await world.send_mails()
    world.clock.advance(3 * DAY)
    assert await remind(world) == []


@pytest.mark.parametrize(
    "approver",
    [None, HOLDER, Person(id="005M", name="Max", email=None)],
    ids=["missing", "the holder", "without an address"],
)
async def test_where_nobody_can_be_asked_the_fallback_is(world: World, approver: Person | None) -> None:
    await world.receive(flagged(approver=approver, fallback_approver=FALLBACK))
    [mail] = await world.send_mails()
    assert mail.to == [FALLBACK.email]
    assert "has no manager who could be asked" in mail.text
    assert "entered as the manager" not in mail.text
    assert "Open records go to the holder's manager" in mail.text
    asked = await world.asked()
    assert asked.approver == FALLBACK
    assert [type(event) for event in await world.emitted()] == [NoticeDelivered]


async def test_a_manager_who_can_be_asked_is(world: World) -> None:
    await world.receive(flagged(fallback_approver=FALLBACK))
    [mail] = await world.send_mails()
    assert mail.to == [MANAGER.email]
    assert "As the manager of Hanna Holder" in mail.text


async def test_a_fallback_that_is_the_holder_is_nobody(world: World) -> None:
    own = Person(id="", name="Hanna", email="Hanna@example.com")
    await world.receive(flagged(approver=None, fallback_approver=own))
    assert await world.send_mails() == []
    assert [type(event) for event in await world.emitted()] == [NoticeFailed]


async def test_records_that_go_to_a_named_account_are_said_to(world: World) -> None:
    await world.receive(flagged(hand_over_to="005S"))
    [mail] = await world.send_mails()
    assert "Open records go to the account that the rule names" in mail.text


async def test_the_migrations_make_what_the_code_declares(start: Start, database_url: str | None) -> None:
    world = await start(database_url=database_url)
    assert await migrate.differences(world.running.database.engine, store.metadata) == []
