"""Questions that are put again, who is asked where there is no manager, and holders who are asked first."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from reclaim.approvals import store
from reclaim.common import migrate
from reclaim.common.contracts import DecisionReceived, NoticeDelivered, NoticeFailed, Person
from services.approvals.tests.approvals_world import (
    HOLDER,
    MANAGER,
    PUBLIC,
    SEAT,
    Start,
    World,
    changed,
    closed,
    flagged,
)

DAY = timedelta(days=1)
FALLBACK = Person(id="", name="Licence desk", email="licences@example.com")


async def remind(world: World) -> list[Any]:
    """Let the reminders that are due be sent; return them."""
    while await world.job("ask")():
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
    answer = await world.answer(keep.removeprefix(PUBLIC), choice="keep", justification="on leave")
    assert answer.status_code == 200
    decided = (await world.emitted())[-1]
    assert isinstance(decided, DecisionReceived)
    assert (decided.decision, decided.actor) == ("keep", MANAGER.email)


@pytest.mark.parametrize("how", ["answered", "closed", "over"])
async def test_nobody_is_reminded_of_what_is_settled(world: World, how: str) -> None:
    await world.receive(flagged(remind_days=(2, 4)))
    [mail] = await world.send_mails()
    if how == "answered":
        await world.answer(mail.links[0].removeprefix(PUBLIC), choice="keep", justification="on leave")
    elif how == "closed":
        await world.receive(closed())
    await world.send_mails()
    world.clock.advance(timedelta(days=30 if how == "over" else 3))
    assert await remind(world) == []
    assert (await world.asked()).ask_next_at is None or how != "over"


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


# ------------------------------------------------------------------------------------------------ the holder first

FIRST: dict[str, Any] = {"ask_first": "holder", "holder_days": 3}


async def test_the_holder_is_asked_first_and_the_manager_without_an_answer(
    start: Start, database_url: str | None
) -> None:
    world = await start(database_url=database_url)
    await world.receive(flagged(**FIRST))
    [own] = await world.send_mails()
    assert HOLDER.email in str(own.to)
    assert "Do you still need your Sales Cloud account?" in own.subject
    assert "Your manager is asked." in own.text
    assert "a year" not in own.text, "the price is not the holder's affair"
    assert await world.emitted() == [], "the decision deadline starts with the manager's question"
    world.clock.advance(timedelta(days=2, hours=23))
    assert await remind(world) == []
    world.clock.advance(timedelta(hours=1))
    [asked] = await remind(world)
    assert MANAGER.email in str(asked.to)
    assert [type(event) for event in await world.emitted()] == [NoticeDelivered]
    assert await remind(world) == []
    late = await world.client.get(own.links[0].removeprefix(PUBLIC))
    assert late.status_code == 410
    assert "Your manager is asked." in late.text
    assert "renew" not in late.text


@pytest.mark.parametrize(("choice", "reason"), [("keep", "on leave until May"), ("revoke", "")])
async def test_what_the_holder_answers_counts_and_nobody_else_is_asked(world: World, choice: str, reason: str) -> None:
    await world.receive(flagged(**FIRST))
    [own] = await world.send_mails()
    page = await world.client.get(own.links[0].removeprefix(PUBLIC))
    assert "$" not in page.text
    answer = await world.answer(own.links[0].removeprefix(PUBLIC), choice=choice, justification=reason)
    assert answer.status_code == 200
    [decided] = await world.emitted()
    assert isinstance(decided, DecisionReceived)
    assert (decided.decision, decided.actor) == (choice, HOLDER.email)
    world.clock.advance(10 * DAY)
    assert await remind(world) == []


@pytest.mark.parametrize("address", [None, "not an address"])
async def test_a_holder_without_an_address_is_not_waited_for(world: World, address: str | None) -> None:
    seat = changed(SEAT, holder=Person(id="005H", name="Hanna Holder", email=address))
    await world.receive(flagged(seat=seat, **FIRST))
    [asked] = await world.send_mails()
    assert MANAGER.email in str(asked.to)


async def test_without_a_manager_either_a_person_is_called_after_the_holders_time(world: World) -> None:
    await world.receive(flagged(approver=None, **FIRST))
    [own] = await world.send_mails()
    assert "Somebody else is asked." in own.text
    assert await world.emitted() == []
    world.clock.advance(3 * DAY)
    assert await remind(world) == []
    [failed] = await world.emitted()
    assert isinstance(failed, NoticeFailed)
    assert "has no manager" in failed.reason


async def test_the_fallback_is_asked_after_the_holder(world: World) -> None:
    await world.receive(flagged(approver=None, fallback_approver=FALLBACK, **FIRST))
    await world.send_mails()
    world.clock.advance(3 * DAY)
    [asked] = await remind(world)
    assert str(FALLBACK.email) in str(asked.to)


async def test_asking_again_asks_whose_turn_it_is(world: World) -> None:
    await world.receive(flagged(**FIRST))
    await world.send_mails()
    answer = await world.client.post("/approvals/api/requests/c1/resend", headers=world.signed_in("operator"))
    assert answer.status_code == 202
    [again] = await world.send_mails()
    assert HOLDER.email in str(again.to)
    world.clock.advance(3 * DAY)
    [asked] = await remind(world)
    assert MANAGER.email in str(asked.to)


async def test_a_holder_cannot_renew_a_link_in_the_managers_place(world: World) -> None:
    await world.receive(flagged(**FIRST))
    [own] = await world.send_mails()
    world.clock.advance(3 * DAY)
    await remind(world)
    token = own.links[0].removeprefix(PUBLIC).partition("?")[0]
    answer = await world.client.post(f"{token}/renew", data={}, headers={"origin": PUBLIC})
    assert answer.status_code == 410
    assert (await world.asked()).epoch == 1
    assert await world.send_mails() == []


async def test_the_holder_of_a_rule_that_asks_the_manager_decides_nothing(world: World) -> None:
    await world.receive(flagged())
    token = world.token(recipient=HOLDER.email)
    assert (await world.client.get(f"/approvals/d/{token}")).status_code == 400
