"""The inbox: each event has its effect once, a bad one stands alone, and trying again comes to an end."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import exc

from libs.common.tests.common_world import NOW, Listening, Wall, body, closed, flagged, message, notice
from reclaim.common import envelope, inbox, migrate
from reclaim.common.contracts import CaseEvent, UserFlagged
from reclaim.common.db import Unit
from reclaim.common.errors import Conflict, NotFound, NotYet, Permanent, Transient
from reclaim.common.inbox import DEFECT_ATTEMPTS, HISTORY_DAYS, IN_ONE_TRANSACTION, TRANSIENT_ATTEMPTS, Received, hold

DAY = 86_400


def batch(*cases: object) -> bytes:
    """A message of notices whose event ids are the names of their cases."""
    return envelope.join([body(notice(case), str(case)) for case in cases])


def confirmed(listening: Listening) -> set[str]:
    return {event_id for receipt in listening.receipts for event_id in receipt.ids}


async def retry_until_parked(listening: Listening, wall: Wall, event_id: str, *, most: int = 100) -> list[float]:
    """Retry an event whenever it is due; return the waits, in seconds."""
    waits = []
    for _ in range(most):
        attempts, due = (await listening.aside())[event_id]
        if due is None:
            return waits
        waits.append(due / 1000 - wall.seconds)
        wall.seconds = due / 1000 - 0.002
        await listening.inbox.retry()
        assert (await listening.aside())[event_id] == (attempts, due), "not before it is due"
        wall.move(0.004)
        assert await listening.inbox.retry()
    raise AssertionError(f"{event_id} is still being tried after {most} attempts")


# ------------------------------------------------------------------------------------------- once


async def test_what_waits_is_handled_together_and_answered(listening: Listening) -> None:
    await listening.inbox.receive([batch("a", "b"), batch("c")])
    assert listening.calls == [["a", "b", "c"]]
    assert await listening.effects() == ["a", "b", "c"]
    assert [(receipt.consumer, receipt.ids) for receipt in listening.receipts] == [("lifecycle", ["a", "b", "c"])]
    await listening.inbox.receive([])
    await listening.inbox.receive([b"[]"])
    assert len(listening.receipts) == 1


async def test_duplicates_have_no_second_effect_and_are_answered_each_time(listening: Listening) -> None:
    await listening.inbox.receive([batch("a", "a", "b"), batch("b")])
    assert await listening.effects() == ["a", "b"]
    for _ in range(3):
        await listening.inbox.receive([batch("b", "a", "c")])
    assert await listening.effects() == ["a", "b", "c"]
    assert len(listening.receipts) == 4, "the receipt of the first time may have been lost"
    assert listening.calls == [["a", "b"], ["c"]]


async def test_a_receipt_that_is_lost_takes_nothing_back(listening: Listening) -> None:
    listening.lost_receipts = 1
    await listening.inbox.receive([batch("a")])
    assert await listening.effects() == ["a"]
    assert listening.receipts == []
    await listening.inbox.receive([batch("a")])
    assert (confirmed(listening), await listening.effects()) == ({"a"}, ["a"])


async def test_very_many_events_take_several_transactions(listening: Listening) -> None:
    names = [f"{n:04}" for n in range(IN_ONE_TRANSACTION + 1)]
    await listening.inbox.receive([batch(*names)])
    assert sorted(len(call) for call in listening.calls) == [1, IN_ONE_TRANSACTION]
    assert await listening.effects() == names
    assert confirmed(listening) == set(names)


async def test_the_same_messages_to_two_replicas_at_once_have_one_effect(listening: Listening) -> None:
    other = Listening(listening.database.engine.url.render_as_string(hide_password=False))
    names = [f"{n:03}" for n in range(60)]
    messages = [batch(*names[start : start + 20]) for start in range(0, 60, 20)]
    await asyncio.gather(
        *(one.inbox.receive([each]) for one in (listening, other) for each in messages),
        other.inbox.receive([batch(*names[10:50])]),
    )
    assert await listening.effects() == names
    assert await listening.aside() == {}
    await other.database.close()


# ------------------------------------------------------------------------------------------- a bad one


async def test_a_failing_batch_is_split_until_the_event_to_blame_stands_alone(listening: Listening, wall: Wall) -> None:
    names = [f"{n:02}" for n in range(64)]
    listening.failing = {"13": Permanent("no such seat"), "40": Permanent("no such rule")}
    await listening.inbox.receive([batch(*names)])
    assert await listening.effects() == sorted(set(names) - {"13", "40"}), "and what failed left no trace"
    assert await listening.aside() == {"13": (1, None), "40": (1, None)}
    assert {parked.event_id: parked.reason for parked in await listening.inbox.parked()} == {
        "13": "no such seat",
        "40": "no such rule",
    }
    assert confirmed(listening) == set(names), "set aside is taken over: its producer need not say it again"
    assert len(listening.calls) <= 30, "halves, not one by one"


async def test_what_is_parked_keeps_its_bytes_and_says_since_when(listening: Listening, wall: Wall) -> None:
    listening.failing = {"a": Permanent("no such seat")}
    await listening.inbox.receive([batch("a")])
    (parked,) = await listening.inbox.parked()
    assert (parked.wire, parked.source, parked.attempts) == ("reclaim.NoticeDelivered.v1", "approvals", 1)
    assert parked.since == NOW, "business time: it is for people"
    assert json.loads(parked.body) == json.loads(body(notice("a"), "a"))


async def test_an_event_set_aside_is_not_taken_a_second_time(listening: Listening, wall: Wall) -> None:
    listening.failing = {"a": NotYet("the case has not begun")}
    await listening.inbox.receive([batch("a")])
    first = await listening.aside()
    calls = len(listening.calls)
    await listening.inbox.receive([batch("a", "a")])
    assert await listening.aside() == first
    assert len(listening.calls) == calls


STRANGE = (
    b"\xff\xfe",
    b"",
    b"{}",
    b'"text"',
    b"[1]",
    b"[null]",
    b'[{"specversion":"1.0"}]',
    b'[{"id":"x1","source":"/reclaim/approvals","type":"reclaim.Nothing.v1","time":"2026-11-02T09:00:00Z","data":{}}]',
    b'[{"id":"x2","source":"/reclaim/approvals","type":"reclaim.NoticeDelivered.v1","time":"2026-11-02T09:00:00Z",'
    b'"data":{"case_id":1}}]',
    b'[{"id":"x3\\u0000","source":"/reclaim/approvals","type":"reclaim.NoticeDelivered.v1",'
    b'"time":"2026-11-02T09:00:00Z","data":{}}]',
    b'[{"id":"x4","source":"/reclaim/a\\u0000b","type":"a\\u0000b","time":"2026-11-02T09:00:00Z","data":{}}]',
    b'[{"id":"\\ud800","source":"/reclaim/approvals","type":"t","time":"2026-11-02T09:00:00Z","data":{}}]',
)


async def test_what_is_no_event_of_ours_is_parked_and_stops_nobody(listening: Listening) -> None:
    for number, strange in enumerate(STRANGE):
        for _ in range(2):
            await listening.inbox.receive([batch(f"a{number:02}"), strange, batch(f"b{number:02}")])
        assert len(await listening.inbox.parked()) == number + 1, strange
    assert len(await listening.effects()) == 2 * len(STRANGE)
    assert all(parked.reason for parked in await listening.inbox.parked())


async def test_an_event_that_is_known_but_not_ours_is_parked(listening: Listening) -> None:
    await listening.inbox.receive([message(closed(1)), batch("a")])
    (parked,) = await listening.inbox.parked()
    assert parked.reason == "lifecycle has no handler for reclaim.CaseClosed.v1"
    assert await listening.effects() == ["a"]


async def test_a_reason_that_no_text_column_can_hold_is_made_one(
    listening: Listening, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, inbox.log.name)  # the tests' own report could not hold it either
    listening.failing = {"a": Permanent("a\0b \ud800 é " + "x" * 5000)}
    await listening.inbox.receive([batch("a", "b")])
    (parked,) = await listening.inbox.parked()
    assert parked.reason.startswith("a\\x00b \\ud800 é xxx")
    assert len(parked.reason) == 2000
    assert await listening.effects() == ["b"]


async def test_a_missing_file_does_not_pass_for_an_outage(listening: Listening, wall: Wall) -> None:
    listening.failing = {"a": FileNotFoundError("letter.html"), "b": TimeoutError("slow")}
    await listening.inbox.receive([batch("a", "b", "c")])
    assert await listening.effects() == ["c"]
    assert set(await listening.aside()) == {"a", "b"}
    await retry_until_parked(listening, wall, "a")
    reasons = {parked.event_id: parked.reason for parked in await listening.inbox.parked()}
    assert reasons["a"] == "FileNotFoundError: letter.html"


async def test_a_statement_that_is_wrong_parks_its_event_only(listening: Listening, wall: Wall) -> None:
    async def hear(unit: Unit, events: Sequence[Received[object]]) -> None:
        await listening.hear(unit, events)  # type: ignore[arg-type]
        if any(event.id == "bad" for event in events):
            await unit.db.execute(sa.text("INSERT INTO effect (case_id) VALUES (NULL)"))

    one = inbox.Inbox("lifecycle", listening.database, dict.fromkeys([type(notice(1))], hear), listening._send)
    await one.receive([batch("a", "bad", "b")])
    assert await listening.effects() == ["a", "b"]
    assert (await listening.aside())["bad"][0] == 1


# ------------------------------------------------------------------------------------------- trying again


async def test_what_might_pass_is_tried_with_growing_waits_and_then_parked(listening: Listening, wall: Wall) -> None:
    listening.failing = {"a": Transient("the desk is away")}
    await listening.inbox.receive([batch("a")])
    waits = await retry_until_parked(listening, wall, "a")
    assert (await listening.aside())["a"] == (TRANSIENT_ATTEMPTS, None)
    assert len(waits) == TRANSIENT_ATTEMPTS - 1
    for number, wait in enumerate(waits):
        expected = min(0.1 * 2**number, 300)
        assert 0.8 * expected - 0.01 <= wait <= 1.2 * expected + 0.01
    assert 3600 < sum(waits) < 4 * 3600
    assert len(listening.calls) == TRANSIENT_ATTEMPTS
    wall.move(365 * DAY)
    assert not await listening.inbox.retry(), "parked is for a person"


async def test_a_defect_is_tried_a_few_times_and_then_parked(listening: Listening, wall: Wall) -> None:
    listening.failing = {"a": ZeroDivisionError("division by zero")}
    await listening.inbox.receive([batch("a")])
    waits = await retry_until_parked(listening, wall, "a")
    assert len(waits) == DEFECT_ATTEMPTS - 1
    assert (await listening.aside())["a"] == (DEFECT_ATTEMPTS, None)
    (parked,) = await listening.inbox.parked()
    assert parked.reason == "ZeroDivisionError: division by zero"


async def test_what_cannot_pass_is_parked_at_once_in_whatever_attempt(listening: Listening, wall: Wall) -> None:
    listening.failing = {"a": NotYet("too early")}
    await listening.inbox.receive([batch("a")])
    listening.failing = {"a": Permanent("the case was erased")}
    wall.move(1)
    assert await listening.inbox.retry()
    assert (await listening.aside())["a"] == (2, None)


async def test_an_event_that_came_too_early_has_its_effect_once_its_time_has_come(
    listening: Listening, wall: Wall
) -> None:
    listening.failing = {"a": NotYet("too early")}
    await listening.inbox.receive([batch("a", "b")])
    wall.move(1)
    await listening.inbox.retry()
    listening.failing = {}
    wall.move(1)
    assert await listening.inbox.retry()
    assert await listening.effects() == ["a", "b"]
    assert await listening.aside() == {}
    await listening.inbox.receive([batch("a")])
    assert await listening.effects() == ["a", "b"], "it is remembered although it is no longer set aside"


async def test_one_that_fails_again_does_not_keep_others_from_their_turn(listening: Listening, wall: Wall) -> None:
    names = [f"{n}" for n in range(6)]
    listening.failing = {name: NotYet("too early") for name in names}
    await listening.inbox.receive([batch(*names)])
    listening.failing = {"3": NotYet("too early")}
    wall.move(1)
    assert await listening.inbox.retry()
    assert await listening.effects() == sorted(set(names) - {"3"})


async def test_two_replicas_that_retry_at_once_have_one_effect(listening: Listening, wall: Wall) -> None:
    other = Listening(listening.database.engine.url.render_as_string(hide_password=False))
    names = [f"{n:02}" for n in range(20)]
    listening.failing = {name: NotYet("too early") for name in names}
    await listening.inbox.receive([batch(*names)])
    listening.failing = {}
    wall.move(1)
    await asyncio.gather(*(one.inbox.retry() for one in (listening, other, listening, other)))
    assert await listening.effects() == names
    assert await listening.aside() == {}
    await other.database.close()


# ------------------------------------------------------------------------------------------- before its case


class Cases(Listening):
    """Handlers for which a case begins with `UserFlagged`, as in every service; they tell what they handled, in order.

    A defect keeps them from handling the events of `unable`.
    """

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.begun: set[str] = set()
        self.handled: list[str] = []
        self.unable: set[str] = set()

    async def hear(self, unit: Unit, events: Sequence[Received[CaseEvent]]) -> None:
        await super().hear(unit, events)
        for event in events:
            if isinstance(event.data, UserFlagged):
                self.begun.add(event.data.case_id)
            elif event.data.case_id not in self.begun:
                raise NotYet(f"case {event.data.case_id} has not begun")
            if event.id in self.unable:
                raise ZeroDivisionError
        self.handled += [event.id for event in events]


@pytest.fixture
async def cases(database_url: str) -> AsyncIterator[Cases]:
    made = Cases(database_url)
    await made.create()
    yield made
    await made.database.close()


async def test_what_came_before_its_case_is_handled_with_the_beginning_of_it(cases: Cases, wall: Wall) -> None:
    """Right then: whatever comes next finds it done, a person at a page as well."""
    for number, case in enumerate(["a", "b", "a", "c"]):
        await cases.inbox.receive([envelope.join([body(notice(case), f"{number}-{case}")])])
    assert cases.handled == []
    await cases.inbox.receive([envelope.join([body(flagged("a"), "begins-a"), body(flagged("c"), "begins-c")])])
    assert cases.handled == ["begins-a", "begins-c", "0-a", "2-a", "3-c"], "in the order in which they came"
    assert set(await cases.aside()) == {"1-b"}
    wall.move(3600)
    assert await cases.inbox.retry()
    assert cases.handled[5:] == [], "once, and the one whose case has not begun is still waiting"
    assert await cases.effects() == ["a", "a", "a", "c", "c"]


async def test_it_is_handled_before_what_came_together_with_the_beginning(cases: Cases, wall: Wall) -> None:
    await cases.inbox.receive([envelope.join([body(notice("a"), "early")])])
    together = [body(notice("a"), "later"), body(flagged("a"), "begins")]
    await cases.inbox.receive([envelope.join(together[::-1])])
    assert cases.handled == ["begins", "early", "later"]


async def test_only_what_waits_for_the_case_is_read_when_it_begins(
    cases: Cases, wall: Wall, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        await cases.inbox.receive([envelope.join([body(notice(name), name)])])
    async with cases.database.unit() as unit:
        # As a release stored it that did not know the column, beside this one while an upgrade is under way.
        await unit.db.exec_driver_sql("UPDATE set_aside SET case_id = NULL WHERE event_id = 'c'")
    read: list[str] = []
    original = envelope.read

    def reading(stored: bytes) -> Received[Any] | envelope.Unreadable:
        found = original(stored)
        read.append(found.id)
        return found

    monkeypatch.setattr(envelope, "read", reading)
    await cases.inbox.receive([envelope.join([body(flagged("a"), "begins-a")])])
    assert (read, cases.handled) == (["begins-a", "a", "c"], ["begins-a", "a"])
    await cases.inbox.receive([envelope.join([body(flagged("c"), "begins-c")])])
    assert cases.handled == ["begins-a", "a", "begins-c", "c"]


async def test_what_was_set_aside_before_the_column_names_its_case_after_the_upgrade(cases: Cases, wall: Wall) -> None:
    await cases.inbox.receive([envelope.join([body(notice("a"), "early")]), b"no message"])
    async with cases.database.unit() as unit:
        await unit.db.exec_driver_sql("UPDATE set_aside SET case_id = NULL")
        await unit.db.run_sync(migrate.name_cases_of_set_aside)
        rows = await unit.db.exec_driver_sql("SELECT case_id FROM set_aside ORDER BY case_id")
        assert list(rows.scalars()) == ["", "a"]


async def test_a_beginning_that_was_itself_set_aside_brings_what_waited_for_it(cases: Cases, wall: Wall) -> None:
    cases.failing = {"a": ZeroDivisionError()}
    await cases.inbox.receive([envelope.join([body(flagged("a"), "begins")])])
    await cases.inbox.receive([envelope.join([body(notice("a"), "early")])])
    assert set(await cases.aside()) == {"begins", "early"}
    cases.failing = {}
    await cases.inbox.redrive("begins")
    assert cases.handled == ["begins", "early"]
    assert await cases.aside() == {}


async def test_what_fails_even_with_its_case_there_goes_on_waiting_and_stops_nobody(cases: Cases, wall: Wall) -> None:
    for name in "abcd":
        await cases.inbox.receive([envelope.join([body(notice(name), name)])])
    before = await cases.aside()
    cases.unable = {"b"}
    await cases.inbox.receive([envelope.join([body(flagged(name), f"begins-{name}") for name in "abcd"])])
    assert cases.handled == [*(f"begins-{name}" for name in "abcd"), "a", "c", "d"]
    assert await cases.effects() == ["a", "a", "b", "c", "c", "d", "d"], "what failed left no trace"
    assert await cases.aside() == {"b": before["b"]}, "and used up no attempt"


# ------------------------------------------------------------------------------------------- an operator


async def test_redrive_handles_what_was_parked(listening: Listening, wall: Wall) -> None:
    listening.failing = {"a": Permanent("no such seat")}
    await listening.inbox.receive([batch("a")])
    with pytest.raises(Conflict, match="It failed again: no such seat"):
        await listening.inbox.redrive("a")
    assert await listening.aside() == {"a": (1, None)}, "counted from the beginning"
    listening.failing = {}
    await listening.inbox.redrive("a")
    assert await listening.effects() == ["a"]
    assert await listening.inbox.parked() == []
    with pytest.raises(NotFound, match="may have been handled meanwhile"):
        await listening.inbox.redrive("a")
    with pytest.raises(NotFound):
        await listening.inbox.redrive("never heard of")


async def test_a_redrive_that_fails_says_the_new_reason(listening: Listening, wall: Wall) -> None:
    listening.failing = {"a": Permanent("no such seat")}
    await listening.inbox.receive([batch("a")])
    listening.failing = {"a": Transient("the desk is away")}
    with pytest.raises(Conflict, match="the desk is away"):
        await listening.inbox.redrive("a")
    attempts, due = (await listening.aside())["a"]
    assert attempts == 1
    assert due is not None, "what might pass is tried again by itself"


async def test_a_redrive_and_the_retry_job_do_not_get_in_each_others_way(listening: Listening, wall: Wall) -> None:
    listening.failing = {"a": Permanent("no such seat")}
    await listening.inbox.receive([batch("a")])
    listening.failing = {}
    looking = asyncio.Event()

    async def retries() -> None:
        while not looking.is_set():
            await listening.inbox.retry()
            await asyncio.sleep(0)

    job = asyncio.create_task(retries())
    await listening.inbox.redrive("a")
    looking.set()
    await job
    assert await listening.effects() == ["a"]


# ------------------------------------------------------------------------------------------- outages


class Away:
    """Makes every unit of a database fail as PostgreSQL does when it is gone, so many times."""

    def __init__(self, listening: Listening, times: int) -> None:
        self.left = times
        self._unit = listening.database.unit
        listening.database.unit = self.unit  # type: ignore[method-assign]

    def unit(self) -> object:
        if self.left:
            self.left -= 1
            raise ConnectionRefusedError("[Errno 111] Connect call failed")
        return self._unit()


async def test_an_outage_of_the_database_blames_no_event(listening: Listening) -> None:
    away = Away(listening, 1)
    with pytest.raises(Transient, match="the database is away"):
        await listening.inbox.receive([batch("a", "b")])
    assert away.left == 0
    assert listening.receipts == []
    assert await listening.aside() == {}
    await listening.inbox.receive([batch("a", "b")])
    assert await listening.effects() == ["a", "b"]


async def test_messages_are_held_while_the_database_is_away(
    listening: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    sleep = asyncio.sleep

    async def nap(seconds: float) -> None:
        waits.append(seconds)
        await sleep(0)

    monkeypatch.setattr(inbox.asyncio, "sleep", nap)
    for receive in (listening.inbox.receive, listening.inbox.bury):
        waits.clear()
        Away(listening, 8)
        await hold(receive, [batch(receive.__name__)])
        assert len(waits) == 8
        assert all(0.8 * min(0.2 * 2**n, 10) <= wait <= 1.2 * min(0.2 * 2**n, 10) for n, wait in enumerate(waits))
    assert await listening.effects() == ["receive"]
    assert set(await listening.aside()) == {"bury"}
    assert confirmed(listening) == {"receive", "bury"}


async def test_what_is_held_is_let_go_when_the_process_ends(listening: Listening) -> None:
    Away(listening, 10**6)
    holding = asyncio.create_task(hold(listening.inbox.receive, [batch("a")]))
    await asyncio.sleep(0.05)
    holding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await holding
    assert listening.receipts == []


async def test_an_outage_while_trying_again_uses_up_no_attempt(listening: Listening, wall: Wall) -> None:
    listening.failing = {"a": NotYet("too early")}
    await listening.inbox.receive([batch("a")])
    before = await listening.aside()
    listening.failing = {"a": ConnectionResetError("connection lost")}
    wall.move(1)
    with pytest.raises(ConnectionResetError):
        await listening.inbox.retry()
    assert await listening.aside() == before


@pytest.mark.servers
async def test_a_backend_that_ends_in_a_handler_is_an_outage(emptied_database: str) -> None:
    listening, other = Listening(emptied_database), Listening(emptied_database)
    await listening.create()
    ended: list[int] = []

    async def hear(unit: Unit, events: Sequence[Received[object]]) -> None:
        await listening.hear(unit, events)  # type: ignore[arg-type]
        if not ended:
            ended.append(int((await unit.db.execute(sa.text("SELECT pg_backend_pid()"))).scalar_one()))
            async with other.database.unit() as killing:
                await killing.db.execute(sa.text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": ended[0]})

    one = inbox.Inbox("lifecycle", listening.database, dict.fromkeys([type(notice(1))], hear), listening._send)
    with pytest.raises(Transient, match="the database is away") as cut:
        await one.receive([batch("a", "b")])
    assert isinstance(cut.value.__cause__, exc.DBAPIError)
    assert await listening.effects() == []
    await one.receive([batch("a", "b")])
    assert await listening.effects() == ["a", "b"]
    assert await listening.aside() == {}
    for each in (listening, other):
        await each.database.close()


# ------------------------------------------------------------------------------------------- dead and old


async def test_what_the_broker_gave_up_is_parked_and_answered(listening: Listening) -> None:
    await listening.inbox.receive([batch("handled")])
    for _ in range(2):
        await listening.inbox.bury([batch("a", "handled"), b"\xff", batch("b")])
    parked = {one.event_id: one for one in await listening.inbox.parked()}
    assert len(parked) == 3
    assert {"a", "b"} < set(parked), "what was handled is not dead"
    assert "the broker gave up" in parked["a"].reason
    assert confirmed(listening) == {"handled", "a", "b"}
    await listening.inbox.redrive("a")
    assert await listening.effects() == ["a", "handled"]


async def test_forgetting_keeps_what_is_recent_and_what_is_set_aside(listening: Listening, wall: Wall) -> None:
    listening.failing = {"parked": Permanent("no"), "later": NotYet("too early")}
    await listening.inbox.receive([batch("old", "parked", "later")])
    wall.move(HISTORY_DAYS * DAY + 1)
    await listening.inbox.receive([batch("new")])
    assert await listening.inbox.forget() is False
    assert await listening.recorded() == {"parked", "later", "new"}
    await listening.inbox.receive([batch("parked", "later", "new")])
    assert await listening.effects() == ["new", "old"]
    listening.failing = {}
    await listening.inbox.redrive("parked")
    await listening.inbox.forget()
    assert await listening.recorded() == {"later", "new"}
