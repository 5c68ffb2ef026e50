"""Events in any order, twice, and in batches; and who is told what."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from reclaim.approvals import store
from reclaim.common import migrate
from reclaim.common.contracts import AttentionRaised, DecisionReceived, NoticeDelivered, NoticeFailed, Person
from services.approvals.tests.approvals_world import (
    HOLDER,
    MANAGER,
    NOON,
    SEAT,
    Start,
    World,
    changed,
    closed,
    flagged,
    frozen,
    reactivated,
    reclaimed,
    restored,
)


async def told(world: World) -> list[tuple[str, str]]:
    """Send what is due; return kind and recipient of each mail."""
    await world.send_mails()
    return sorted((mail.kind, mail.recipient) for mail in await world.mails() if mail.status == "sent")


async def test_the_migrations_are_complete(start: Start, database_url: str | None) -> None:
    world = await start(database_url=database_url)
    assert await migrate.differences(world.running.database.engine, store.metadata) == []


LIFE = [flagged(), frozen(), reclaimed(), closed(outcome="reclaimed", reason="grace over"), reactivated()]


@pytest.mark.parametrize("order", list(itertools.permutations(range(len(LIFE))))[::7])
async def test_the_order_of_events_does_not_matter(world: World, order: tuple[int, ...]) -> None:
    for index in order:
        await world.receive(LIFE[index])
        await world.receive(LIFE[index])
    for _ in range(3):
        await world.retry()
    assert await world.aside() == 0
    asked = await world.asked()
    assert (asked.status, asked.outcome, asked.records_transferred) == ("closed", "reclaimed", 3)
    assert asked.frozen_at == asked.reclaimed_at == asked.reactivated_at == NOON
    assert await told(world) == [
        ("frozen", "hanna@example.com"),
        ("frozen", "max@example.com"),
        ("reactivated", "hanna@example.com"),
        ("reactivated", "max@example.com"),
        ("reclaimed", "max@example.com"),
    ]
    assert not [mail for mail in world.mailbox.messages if "frozen" in mail.subject and "/approvals/d/" in mail.text]


async def test_an_event_before_its_case_waits(world: World) -> None:
    await world.receive(flagged("c1"), frozen("c1"), frozen("c2"), reclaimed("c1"))
    assert await world.aside() == 1
    await world.receive(flagged("c2"))
    await world.retry()
    assert await world.aside() == 0
    assert (await world.asked("c2")).frozen_at == NOON


async def test_the_same_news_twice_is_told_once(world: World) -> None:
    later = replace_at(frozen(), NOON + timedelta(days=1))
    await world.receive(flagged(), flagged(), frozen(), frozen(), later)
    await world.receive(flagged(), later, restored(), restored())
    assert (await world.asked()).frozen_at == NOON
    assert await told(world) == [("restored", "hanna@example.com"), ("restored", "max@example.com")]


def replace_at(event: Any, at: Any) -> Any:
    return changed(event, frozen_at=at)


async def test_a_batch_takes_a_constant_number_of_statements(world: World) -> None:
    counts = []
    engine = world.running.database.engine.sync_engine

    def count(*_: Any) -> None:
        counts[-1] += 1

    sa.event.listen(engine, "after_cursor_execute", count)
    for size in (2, 200):
        cases = [f"{size}-{number}" for number in range(size)]
        for make in (flagged, frozen, restored, reclaimed, reactivated, closed):
            counts.append(0)
            await world.receive(*(make(case) for case in cases))
    assert counts[:6] == counts[6:]


@pytest.mark.parametrize(
    ("approver", "reason", "remedy"),
    [
        (None, "has no manager", "Set the manager of Hanna Holder (005H) in Salesforce."),
        (Person(id="005M", name="Max"), "no e-mail address", "Enter the e-mail address of Max (005M) in Salesforce"),
        (Person(id="005M", name="Max", email=""), "no e-mail address", "Enter the e-mail address"),
        (Person(id="005M", name="Max", email="max@@x"), "not a valid one", "Correct the e-mail address of Max (005M)"),
        (Person(id="005M", name="Max", email="a@x.com\r\nBcc: e@x.com"), "not a valid one", "Correct"),
        (HOLDER, "their own manager", "Set another person as the manager of Hanna Holder (005H)"),
        (changed(MANAGER, email="HANNA@example.com"), "their own manager", "Set another person"),
    ],
)
async def test_when_nobody_can_be_asked_it_is_said_at_once(
    world: World, approver: Person | None, reason: str, remedy: str
) -> None:
    await world.receive(flagged(approver=approver))
    [event] = await world.emitted()
    assert isinstance(event, NoticeFailed)
    assert (event.case_id, event.channel, event.failed_at) == ("c1", "email", NOON)
    assert reason in event.reason
    assert remedy in event.remedy
    assert await world.send_mails() == []
    await world.receive(flagged(approver=approver))
    assert len(await world.emitted()) == 1


async def test_a_corrected_manager_is_asked_when_the_case_is_retried(world: World) -> None:
    await world.receive(flagged(approver=None))
    await world.receive(flagged())
    [mail] = await world.send_mails()
    assert mail.to == ["max@example.com"]
    assert (await world.answer(mail.links[0], choice="revoke")).status_code == 200
    await world.receive(flagged(approver=changed(MANAGER, email="other@example.com")))
    assert await world.send_mails() == []
    assert [type(event) for event in await world.emitted()] == [NoticeFailed, NoticeDelivered, DecisionReceived]


async def test_a_case_of_the_service_desk_is_known_and_nobody_is_mailed(world: World) -> None:
    await world.receive(flagged(route="itsm", approver=None))
    await world.receive(frozen(), reclaimed(), reactivated(), closed())
    assert await world.send_mails() == []
    assert await world.emitted() == []
    assert (await world.asked()).status == "not_ours"
    assert await world.aside() == 0


async def test_both_routes_ask_by_mail_too(world: World) -> None:
    await world.receive(flagged(route="both"))
    assert len(await world.send_mails()) == 1


async def test_a_holder_without_an_address_is_left_out(world: World) -> None:
    seat = changed(SEAT, holder=changed(HOLDER, email=None))
    await world.receive(flagged(seat=seat))
    await world.receive(frozen())
    assert [mail.to for mail in await world.send_mails() if "frozen" in mail.subject] == [["max@example.com"]]


async def test_manager_and_holder_with_one_address_get_one_mail(world: World) -> None:
    await world.receive(flagged(approver=None, seat=changed(SEAT, holder=changed(HOLDER, email="x@example.com"))))
    await world.receive(frozen())
    assert [mail.to for mail in await world.send_mails()] == [["x@example.com"]]


@pytest.mark.parametrize(
    ("ending", "expected"),
    [
        (closed(outcome="cancelled", reason="signed in again"), ["closed"]),
        (closed(outcome="skipped", reason="the rule was withdrawn"), ["closed"]),
        (closed(outcome="kept", reason="time-out"), ["closed"]),
        (closed(outcome="restored"), []),
        (closed(outcome="reclaimed"), []),
    ],
)
async def test_the_end_is_told_to_a_manager_who_was_asked(world: World, ending: Any, expected: list[str]) -> None:
    await world.receive(flagged())
    await world.send_mails()
    await world.receive(ending)
    assert [mail.kind for mail in (await world.mails())[1:]] == expected
    mails = await world.send_mails()
    assert len(mails) == len(expected)
    for mail in mails:
        assert "stays as it is" in mail.subject


async def test_the_end_is_not_told_to_a_manager_who_was_never_asked(world: World) -> None:
    await world.receive(flagged())
    await world.receive(closed(outcome="cancelled"))
    assert await world.send_mails() == []
    assert [mail.status for mail in await world.mails()] == ["withdrawn"]
    assert await world.emitted() == []


async def test_the_end_is_not_told_to_whom_decided_it(world: World) -> None:
    await world.receive(flagged())
    [mail] = await world.send_mails()
    await world.answer(mail.links[0], choice="keep", justification="needed")
    await world.receive(closed(outcome="kept"))
    assert await world.send_mails() == []


async def test_a_revoke_that_came_to_nothing_is_told(world: World) -> None:
    await world.receive(flagged())
    [mail] = await world.send_mails()
    await world.answer(mail.links[1], choice="revoke")
    await world.receive(closed(outcome="cancelled", reason="Hanna signed in again"))
    [note] = await world.send_mails()
    assert "Hanna signed in again" in note.text


def attention(case: str = "c1", **fields: Any) -> AttentionRaised:
    given = {"reason": "the org is away", "remedy": "Test the connection, then retry the case.", "raised_at": NOON}
    return AttentionRaised(case_id=case, seat=SEAT, **(given | fields))


async def test_attention_goes_to_operations(start: Start) -> None:
    world = await start(operations_address="ops@example.com")
    await world.receive(flagged(route="itsm"))
    await world.receive(attention(), attention(), attention(raised_at=NOON + timedelta(hours=1), reason="again"))
    await world.receive(attention())
    mails = await world.send_mails()
    assert [mail.to for mail in mails] == [["ops@example.com"]] * 2
    assert "What to do: Test the connection, then retry the case." in mails[0].text
    assert "again" in mails[1].text


async def test_attention_without_an_address_is_only_in_the_console(world: World) -> None:
    await world.receive(flagged(route="itsm"), attention())
    assert await world.send_mails() == []
    assert await world.aside() == 0


async def test_a_dry_run_says_so_everywhere(start: Start) -> None:
    world = await start(operations_address="ops@example.com")
    await world.receive(flagged(dry_run=True))
    await world.send_mails()
    await world.receive(frozen(), restored(), reclaimed(), reactivated(), closed(outcome="skipped"), attention())
    await world.send_mails()
    assert {mail.kind for mail in await world.mails() if mail.status == "sent"} == {
        "ask", "reclaimed", "restored", "reactivated", "closed", "attention",
    }  # fmt: skip
    for mail in world.mailbox.messages:
        assert mail.subject.startswith("[DRY-RUN] "), mail.subject
        assert "This is a rehearsal" in mail.text
        assert "This is a rehearsal" in mail.html
    assert replace(await world.asked(), case_id="x").policy.dry_run
