"""What befalls one desk stays with it: desks side by side, calls that were cut off, and connections that moved."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from reclaim.common.contracts import CaseClosed, DecisionReceived
from reclaim.common.timing import wall_milliseconds
from reclaim.connectors.itsm.freshservice import Freshservice
from reclaim.connectors.itsm.generic import Generic
from reclaim.connectors.itsm.jira import Jira
from reclaim.connectors.itsm.serval import Serval
from reclaim.connectors.itsm.servicenow import ServiceNow
from reclaim.itsm_gateway import lanes, ticket_store
from reclaim.itsm_gateway.delivery_store import WEBHOOK_DELIVERY
from reclaim.itsm_gateway.desks import place_of
from reclaim.itsm_gateway.lanes import Lanes
from reclaim.sandbox.desks.core import Ticket
from tests.support.itsm_desks import World, gateway
from tests.support.itsm_gateway import NOW, flagged, life, task

ADAPTERS = {
    "servicenow": ServiceNow,
    "jira": Jira,
    "freshservice": Freshservice,
    "serval": Serval,
    "generic": Generic,
}


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.servers)])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    url = None if request.param == "sqlite" else request.getfixturevalue("fresh_database")
    async with gateway(tmp_path, url) as made:
        yield made


@pytest.fixture
async def small(tmp_path: Path) -> AsyncIterator[World]:
    """On SQLite only, for what does not depend on the database."""
    async with gateway(tmp_path) as made:
        yield made


async def put(world: World, desk_id: str, platform: str, **more: Any) -> None:
    world.platform = platform
    answer = await world.site.call(
        "PUT", f"/itsm-gateway/api/desks/{desk_id}", role="admin", json=world.entered(**more)
    )
    assert answer.status_code == 200, answer.text


def on_desk(case_id: str, desk: str) -> Any:
    event = flagged(case_id)
    return msgspec.structs.replace(event, policy=msgspec.structs.replace(event.policy, desk=desk))


def tickets_on(world: World, platform: str) -> list[Ticket]:
    return list(world.sandbox.world.desks.by_name[platform].tickets.values())


# Side by side --------------------------------------------------------------------------------------------------------


async def test_a_desk_that_hangs_holds_up_no_other(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "PASSED", 0.2)
    await put(world, "bad", "jira", asks=False)
    await put(world, "good", "freshservice")
    wakes = asyncio.Event()
    hanging = 0

    def hangs(name: str) -> None:
        real = getattr(Jira, name)

        async def until_it_wakes(*args: Any, **more: Any) -> Any:
            nonlocal hanging
            hanging += 1
            await wakes.wait()
            return await real(*args, **more)

        monkeypatch.setattr(Jira, name, until_it_wakes)

    hangs("create")
    await world.site.tell(*(on_desk(f"b{number}", "bad") for number in range(3)), on_desk("first", "good"))
    async with asyncio.timeout(60):
        await until(world, "open_tickets", lambda: len(tickets_on(world, "freshservice")) == 1)
        await world.site.tell(on_desk("second", "good"))
        await until(world, "open_tickets", lambda: len(tickets_on(world, "freshservice")) == 2)
        assert hanging == 3, "its desk gets no second lane"
        # It is the same for what tickets are told, for what they say, and for webhooks.
        wakes.set()
        await until(world, "open_tickets", lambda: len(tickets_on(world, "jira")) == 3)
        wakes.clear()
        for name in ("comment", "read_decision"):
            hangs(name)
        await world.site.tell(life("b0")[0], life("first")[0])
        first = tickets_on(world, "freshservice")[0]
        await until(world, "tell_tickets", lambda: bool(first.comments))
        assert "The seat was frozen" in first.comments[-1].text
        world.act("tag", "lr_keep", ticket=1)
        while "second" not in await decided(world):
            await world.run("poll_tickets", "handle_deliveries")
        assert await decided(world) == ["second"]
    wakes.set()


async def until(world: World, job: str, there: Callable[[], bool]) -> None:
    while not there():
        await world.run(job)


async def decided(world: World) -> list[str]:
    """Return the cases that were decided so far, without waiting for what is under way."""
    return [one.case_id for one in await world.site.said() if isinstance(one, DecisionReceived)]


async def test_deliveries_of_a_desk_that_hangs_hold_up_no_other(small: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await put(small, "bad", "jira", asks=False)
    await put(small, "good", "freshservice")
    await small.site.tell(on_desk("b", "bad"), on_desk("g", "good"))
    await small.run("open_tickets")
    monkeypatch.setattr(lanes, "PASSED", 0.2)
    wakes = asyncio.Event()

    async def hangs(*_: Any) -> None:
        await wakes.wait()

    monkeypatch.setattr(Jira, "read_decision", hangs)
    async with small.site.running.database.unit() as unit:
        entered = {"actor": "", "reason": "", "body_hash": "", "state": "waiting", "attempts": 0, "due": 0}
        for case_id, desk, platform in (("b", "bad", "jira"), ("g", "good", "freshservice")):
            row = {"connection_id": desk, "platform": platform, "webhook_id": case_id, "case_id": case_id}
            await unit.db.execute(
                sa.insert(WEBHOOK_DELIVERY).values(**row, **entered, kind="question", received_at=NOW)
            )
    small.act("tag", "lr_keep")
    async with asyncio.timeout(60):
        while not await decided(small):
            await small.run("handle_deliveries")
    assert await decided(small) == ["g"]
    wakes.set()


async def test_what_a_lane_raises_is_heard_and_the_other_lanes_go_on() -> None:
    done: list[str] = []

    async def work(desk: str) -> None:
        if desk == "bad":
            raise ValueError("a defect")
        done.append(desk)

    async def due() -> set[str]:
        return {"bad", "good"}

    these = Lanes("work", due, work)
    with pytest.raises(ValueError, match="a defect"):
        await these.run()
    assert done == ["good"]
    await these.close()


async def test_a_delivery_waits_as_long_as_the_desk_asks(small: World) -> None:
    await small.connect()
    await small.site.tell(flagged("c"))
    await small.run("open_tickets")
    _, secret = await small.site.secret("it", "freshservice")
    faults = small.sandbox.world.faults
    faults.add("too_many_requests", path_regex="^/desks/freshservice", times=1, params={"retry_after": 600})
    before = wall_milliseconds()
    body = b'{"ticket_id": "301", "tags": "lr-case-c"}'
    sent = {"x-reclaim-secret": secret, "content-type": "application/json"}
    assert (await small.site.post("it", body, sent)).status_code == 202
    await small.site.handle()
    async with small.site.running.database.reading() as db:
        due = (await db.execute(sa.select(WEBHOOK_DELIVERY.c.due))).scalar_one()
    assert due >= before + 600_000


async def test_a_poll_waits_as_long_as_the_desk_asks(small: World) -> None:
    await small.connect()
    await small.site.tell(flagged("c"))
    await small.run("open_tickets")
    faults = small.sandbox.world.faults
    faults.add("too_many_requests", path_regex="^/desks/freshservice", times=1, params={"retry_after": 1800})
    before = wall_milliseconds()
    await small.run("poll_tickets")
    assert (await stored(small, "c")).due >= before + 1_800_000


async def stored(world: World, reference: str) -> ticket_store.Ticket:
    async with world.site.running.database.reading() as db:
        return (await ticket_store.referred(db, {reference}))[reference]


# Cut off -------------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """The process ends here: nothing that comes after it runs."""


def cut(monkeypatch: pytest.MonkeyPatch, platform: str) -> None:
    """Let the process end once a ticket was moved, before it is said why."""
    adapter = ADAPTERS[platform]
    name = "_comment" if platform != "generic" else "_change"
    real = getattr(adapter, name)

    async def ends(*args: Any, **more: Any) -> None:
        monkeypatch.setattr(adapter, name, real)
        if platform == "generic":
            await real(*args, **more)
        raise Killed

    monkeypatch.setattr(adapter, name, ends)


async def killed_while_telling(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    cut(monkeypatch, world.platform)
    with pytest.raises(Killed):
        await world.run("tell_tickets")


@pytest.mark.parametrize("platform", ADAPTERS)
async def test_a_closing_that_was_cut_off_completes_nobodys_answer(
    small: World, platform: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    small.platform = platform
    await small.connect(decisions={"needs_close": True})
    await small.site.tell(flagged("c", "both"))
    await small.run("open_tickets")
    small.act("tag", "lr_keep")
    await small.run("poll_tickets")
    assert await small.decisions() == []
    # Decided by mail; and then the ticket is closed from here, which is not its people's doing.
    await small.site.tell(life("c")[0])
    await killed_while_telling(small, monkeypatch)
    (ticket,) = small.tickets()
    assert small.desk.is_closed(ticket)
    for _ in range(2):
        await small.run("poll_tickets")
        assert await small.decisions() == []
    await small.run("tell_tickets", "tell_tickets", "poll_tickets")
    assert await small.decisions() == []
    assert len([each for each in ticket.comments if "The seat was frozen" in each.text]) == 1
    await small.time_passes()
    small.act("reopen")
    await small.run("poll_tickets")
    assert await small.decisions() == [("c", "keep", "itsm")], "that is an appeal"


@pytest.mark.parametrize("needs_close", [False, True], ids=["at-once", "on-closing"])
async def test_an_answer_that_comes_between_reading_and_closing_is_heard(
    small: World, needs_close: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    await small.connect(decisions={"needs_close": needs_close})
    await small.site.tell(flagged("c", "both"))
    await small.run("open_tickets")
    real = Freshservice._close

    async def meanwhile(*args: Any) -> None:
        for action, value in (("tag", "lr_keep"), ("close", "")):
            small.act(action, value)
        await real(*args)

    monkeypatch.setattr(Freshservice, "_close", meanwhile)
    await small.site.tell(life("c")[0])
    await small.run("tell_tickets", "poll_tickets")
    assert await small.decisions() == [("c", "keep", "itsm")]


async def test_a_closing_whose_words_were_refused_completes_nobodys_answer(small: World) -> None:
    await small.connect(decisions={"needs_close": True})
    await small.site.tell(flagged("c", "both"))
    await small.run("open_tickets")
    small.act("tag", "lr_keep")
    small.fault("request_limit", "POST", "freshservice/api/v2/tickets/[0-9]+/notes", times=None)
    await small.site.tell(life("c")[0])
    await small.run("tell_tickets")
    assert small.desk.is_closed(small.tickets()[0])
    await small.run("poll_tickets")
    assert await small.decisions() == []
    assert "could not be told" in await small.site.get("/itsm-gateway/")


async def test_a_closing_that_was_refused_leaves_its_people_their_answer(small: World) -> None:
    await small.connect(decisions={"needs_close": True})
    await small.site.tell(flagged("c", "both"))
    await small.run("open_tickets")
    small.fault("request_limit", "PUT", "freshservice/api/v2/tickets/[0-9]+")
    await small.site.tell(life("c")[0])
    await small.run("tell_tickets")
    assert not small.desk.is_closed(small.tickets()[0])
    small.act("tag", "lr_keep")
    small.act("close")
    await small.run("poll_tickets")
    assert await small.decisions() == [("c", "keep", "itsm")]


async def test_a_closing_completes_nobodys_answer(world: World) -> None:
    await world.connect(decisions={"needs_close": True})
    await world.site.tell(flagged("c", "both"))
    await world.run("open_tickets")
    world.act("tag", "lr_keep")
    await world.site.tell(life("c")[0])
    await world.run("tell_tickets", "poll_tickets")
    assert await world.decisions() == []
    world.act("untag", "lr_keep")
    await world.run("poll_tickets")
    await world.site.handle()
    world.act("tag", "lr_keep")
    await world.run("poll_tickets")
    assert await world.decisions() == [("c", "keep", "itsm")], "set on the closed ticket, it is an answer"


@pytest.mark.parametrize("platform", ADAPTERS)
async def test_a_reopening_that_was_cut_off_is_nobodys_and_says_what_it_had_to(
    small: World, platform: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    small.platform = platform
    await small.connect()
    await small.site.tell(flagged("c", "email"), task("c"))
    await small.run("open_tickets")
    small.act("close")
    await small.run("poll_tickets")
    assert [done for _, done, _ in await small.reports()] == [False]
    await small.site.tell(task("c", "Try once more."))
    if platform == "servicenow":  # it reopens and says why in one call
        monkeypatch.setattr(ticket_store, "acted", dies)
        with pytest.raises(Killed):
            await small.run("tell_tickets")
        monkeypatch.undo()
    else:
        await killed_while_telling(small, monkeypatch)
    (ticket,) = small.tickets()
    assert not small.desk.is_closed(ticket)
    await small.run("poll_tickets")
    await small.run("tell_tickets", "tell_tickets", "poll_tickets")
    assert len([each for each in ticket.comments if "Try once more." in each.text]) == 1
    assert len(await small.reports()) == 1
    assert await small.decisions() == []
    small.act("close")
    await small.run("poll_tickets")
    assert [done for _, done, _ in await small.reports()] == [False, False]


async def dies(*_: Any) -> None:
    raise Killed


# Leases --------------------------------------------------------------------------------------------------------------


async def test_mending_a_desk_cuts_nobodys_lease_short(world: World) -> None:
    await world.connect()
    world.sandbox.world.faults.add("server_unavailable", path_regex="^/desks/freshservice", times=None)
    await world.site.tell(flagged("wanted"))
    await world.run("open_tickets")
    database = world.site.running.database
    now = wall_milliseconds()
    async with database.unit() as unit:
        (mine,) = await ticket_store.claim(unit.db, "wanted", "it", now=2**62, until=now + 60_000, most=1)
    assert mine.failure
    await world.connect()
    async with database.unit() as unit:
        assert await ticket_store.claim(unit.db, "wanted", "it", now=now + 50_000, until=0, most=1) == []
        assert await ticket_store.settle(unit.db, mine, due=0)
    await world.connect()
    assert (await stored(world, "wanted")).due <= wall_milliseconds(), "nobody works on it: it is tried again at once"


async def test_mending_a_desk_has_no_word_said_twice(world: World) -> None:
    await world.connect()
    await world.site.tell(flagged("c"))
    await world.run("open_tickets")
    world.fault("server_unavailable", "GET", "freshservice/.*")
    await world.site.tell(life("c")[0])
    await world.run("tell_tickets")
    database = world.site.running.database
    now = wall_milliseconds()
    async with database.unit() as unit:
        ((word, _),) = await ticket_store.claim_words(unit.db, "it", now=2**62, until=now + 60_000, most=1)
    await world.connect()
    async with database.unit() as unit:
        assert await ticket_store.claim_words(unit.db, "it", now=now + 50_000, until=0, most=1) == []
        assert await ticket_store.settle_word(unit.db, word, due=0)
        assert len(await ticket_store.claim_words(unit.db, "it", now=now, until=0, most=1)) == 1


async def test_a_lease_is_known_by_when_it_ends_where_attempts_are_counted_anew(world: World) -> None:
    await world.connect()
    await world.site.tell(flagged("c"))
    async with world.site.running.database.unit() as unit:
        (slow,) = await ticket_store.claim(unit.db, "wanted", "it", now=2**62, until=1, most=1)
        (fast,) = await ticket_store.claim(unit.db, "wanted", "it", now=2**62, until=2, most=1)
        assert await ticket_store.settle(unit.db, fast, attempts=0, due=0)
        (later,) = await ticket_store.claim(unit.db, "wanted", "it", now=2**62, until=3, most=1)
        assert later.attempts == slow.attempts
        assert not await ticket_store.settle(unit.db, slow, state="failed")
        assert await ticket_store.settle(unit.db, later, due=0)


# Another place -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("setting", ["base_url", "workspace_id"])
async def test_tickets_are_not_looked_up_where_the_desk_leads_after_it_was_connected_anew(
    small: World, setting: str
) -> None:
    await small.connect()
    await small.site.tell(flagged("c"), flagged("d"))
    await small.run("open_tickets")
    assert (await small.site.call("DELETE", "/itsm-gateway/api/desks/it", role="admin")).status_code == 204
    entered = small.entered()
    entered["settings"][setting] = {"base_url": f"{small.sandbox.url}/desks/generic", "workspace_id": "7"}[setting]
    path = "/itsm-gateway/api/desks/it"
    assert (await small.site.call("PUT", path, role="admin", json=entered)).status_code == 200
    called = {name: len(desk.called) for name, desk in small.sandbox.world.desks.by_name.items()}
    small.act("tag", "lr_revoke")
    _, secret = await small.site.secret("it", "freshservice")
    key = small.tickets()[0].key
    body = f'{{"ticket_id": "{key}", "tags": "lr-case-c,lr_revoke"}}'.encode()
    sent = {"x-reclaim-secret": secret, "content-type": "application/json"}
    assert (await small.site.post("it", body, sent)).status_code == 202
    await small.site.tell(life("c")[0])
    await small.run("poll_tickets", "tell_tickets")
    assert await small.decisions() == []
    assert called == {name: len(desk.called) for name, desk in small.sandbox.world.desks.by_name.items()}
    listed = await small.site.delivery()
    assert (listed["state"], "is neither read nor told there" in listed["outcome"]) == ("failed", True)
    page = await small.site.get("/itsm-gateway/")
    assert "was opened on freshservice at" in page
    # It holds nobody up, and once the first site is back the tickets are its again.
    assert (await small.site.call("PUT", path, role="admin", json=small.entered())).status_code == 200
    await small.run("tell_tickets", "poll_tickets")
    assert await small.decisions() == [("c", "revoke", "itsm")]


async def test_the_end_of_a_case_whose_ticket_is_elsewhere_is_not_told_to_another_ticket(small: World) -> None:
    await small.connect()
    await small.site.tell(flagged("c"))
    await small.run("open_tickets")
    async with small.site.running.database.unit() as unit:
        await unit.db.execute(sa.update(ticket_store.TICKET).values(place="freshservice at https://old.example"))
    await small.site.tell(CaseClosed(case_id="c", outcome="kept", reason="By mail.", closed_at=NOW))
    await small.run("tell_tickets", "poll_tickets")
    (ticket,) = small.tickets()
    assert ticket.comments == []
    assert not small.desk.is_closed(ticket)
    assert (await stored(small, "c")).state == "closed", "nobody reads it any more"
    assert "Connect the first as it again" in await small.site.get("/itsm-gateway/")


def test_a_place_is_the_same_with_and_without_what_is_usual() -> None:
    desk = ticket_store.Desk(
        id="it",
        platform="servicenow",
        settings='{"base_url": "https://now.example/"}',
        credentials="",
        decisions="{}",
        title="",
        description="",
        fields="{}",
        asks=True,
        version=1,
        changed_at=NOW,
        changed_by="Ann",
    )
    assert place_of(desk) == "servicenow at https://now.example, table incident"
    named = replace(desk, settings='{"base_url": "https://now.example", "table": "incident"}')
    assert place_of(named) == place_of(desk)
