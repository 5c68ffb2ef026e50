"""The gateway while its own database is away, and after its process was stopped for longer than its claims hold."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from reclaim.common import timing
from reclaim.common.clock import FixedClock
from reclaim.common.contracts import CaseClosed, NoticeFailed
from reclaim.common.errors import ReclaimError
from reclaim.connectors.itsm.ports import ReadDecision, SignInRefused, UnknownOutcome
from reclaim.itsm_gateway import ticket_store, ticketing
from reclaim.itsm_gateway.ticket_store import Ticket
from reclaim.itsm_gateway.ticketing import LEASE, Ticketing
from tests.support.itsm_desks import World, gateway
from tests.support.itsm_gateway import NOW, flagged


@pytest.fixture
async def small(tmp_path: Path) -> AsyncIterator[World]:
    async with gateway(tmp_path) as made:
        yield made


def away() -> OperationalError:
    busy = sqlite3.OperationalError("database is locked")
    busy.sqlite_errorcode = sqlite3.SQLITE_BUSY
    return OperationalError("UPDATE ticket", {}, busy)


async def claims_run_out(world: World) -> None:
    async with world.site.running.database.unit() as unit:
        for table in (ticket_store.TICKET, ticket_store.TICKET_WORD):
            await unit.db.execute(sa.update(table).values(due=0))


async def test_a_database_that_is_away_while_a_ticket_is_opened_calls_nobody(
    small: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await small.connect()
    await small.site.tell(flagged("c"))

    async def created(*_: Any) -> None:
        raise away()

    monkeypatch.setattr(Ticketing, "_created", created)
    with pytest.raises(OperationalError):
        await small.run("open_tickets")
    monkeypatch.undo()
    assert not [event for event in await small.site.said() if isinstance(event, NoticeFailed)]
    await claims_run_out(small)
    await small.run("open_tickets")
    assert len(small.tickets()) == 1


async def test_a_database_that_is_away_while_a_ticket_is_told_leaves_nothing_unsaid(
    small: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await small.connect()
    await small.site.tell(flagged("c"))
    await small.run("open_tickets")
    await small.site.tell(CaseClosed(case_id="c", outcome="kept", reason="By mail.", closed_at=NOW))

    async def begin(*_: Any, **__: Any) -> None:
        raise away()

    monkeypatch.setattr(ticket_store, "begin", begin)
    with pytest.raises(OperationalError):
        await small.run("tell_tickets")
    monkeypatch.undo()
    (ticket,) = small.tickets()
    assert (small.desk.is_closed(ticket), len(ticket.comments)) == (False, 0)
    await claims_run_out(small)
    await small.run("tell_tickets")
    assert (small.desk.is_closed(ticket), len(ticket.comments)) == (True, 1)


async def test_a_process_that_was_stopped_leaves_what_it_had_not_begun_to_whoever_claimed_it_since(
    small: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await small.connect()
    await small.site.tell(flagged("a"), flagged("b"))
    await small.run("open_tickets")
    for case_id in ("a", "b"):
        await small.site.tell(CaseClosed(case_id=case_id, outcome="kept", reason="By mail.", closed_at=NOW))
    monkeypatch.setattr(ticketing, "AT_ONCE", 1)
    say, now, stopped = Ticketing._say, timing._source, []

    async def stop_once(job: Ticketing, *given: Any) -> ReadDecision | None:
        if not stopped:
            stopped.append(given[1].reference)
            monkeypatch.setattr(timing, "_source", lambda: now() + LEASE / 1000 + 1)
            # Another process takes over what this one has claimed.
            await job._tell_some(given[2].desk_id)
        return await say(job, *given)

    monkeypatch.setattr(Ticketing, "_say", stop_once)
    await small.run("tell_tickets")
    not_begun = next(ticket for ticket in small.tickets() if f"/cases/{stopped[0]}" not in ticket.description)
    assert len(not_begun.comments) == 1
    assert small.desk.is_closed(not_begun)


async def test_a_ticket_that_was_opened_unheard_is_closed_once_its_desk_is_mended_though_its_case_has_ended(
    small: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await small.connect()
    await small.site.tell(flagged("c"))
    create = Ticketing._created
    answers: list[ReclaimError] = [UnknownOutcome("no answer"), SignInRefused("401", "Enter new credentials.")]

    async def created(job: Ticketing, ticket: Ticket) -> None:
        if len(answers) == 2:
            await create(job, ticket)
        raise answers.pop(0)

    monkeypatch.setattr(Ticketing, "_created", created)
    await small.run("open_tickets", "open_tickets")
    monkeypatch.undo()
    (ticket,) = small.tickets()
    await small.site.tell(CaseClosed(case_id="c", outcome="kept", reason="On its page.", closed_at=NOW))
    await small.connect()
    await small.run("open_tickets", "tell_tickets")
    assert (small.desk.is_closed(ticket), len(small.tickets())) == (True, 1)


async def test_a_keep_counts_from_when_it_was_said_however_late_it_is_read(small: World) -> None:
    await small.connect()
    await small.site.tell(flagged("c"))
    await small.run("open_tickets")
    small.act("tag", "lr_keep")
    clock = small.site.running.database.clock
    assert isinstance(clock, FixedClock)
    clock.advance(timedelta(days=8))
    await small.run("poll_tickets")
    await small.site.handle()
    (decision,) = await small.site.decisions()
    assert (decision.decision, decision.decided_at) == ("keep", NOW)
