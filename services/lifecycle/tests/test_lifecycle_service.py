"""The service on a real database and an org in memory: from a flagged seat to a freed one, and what goes wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from cryptography.fernet import Fernet

from reclaim.common import envelope, migrate
from reclaim.common.bus.inproc import InprocBus
from reclaim.common.clock import FixedClock
from reclaim.common.contracts import (
    CaseWithdrawn,
    ConnectionChanged,
    DecisionReceived,
    Event,
    Money,
    NoticeDelivered,
    Person,
    Policy,
    Seat,
    UserFlagged,
)
from reclaim.common.errors import Conflict
from reclaim.common.security import Notary, Sealer
from reclaim.common.service import Running
from reclaim.common.settings import Settings
from reclaim.connectors.fake import FakeOrg, FakeReader, FakeRecord, FakeUser
from reclaim.connectors.ports import FROZEN_BY_ANOTHER, ConnectionProfile, Survey
from reclaim.lifecycle import checkpoints, queries, store
from reclaim.lifecycle.actions import Actions
from reclaim.lifecycle.api import command as give_command
from reclaim.lifecycle.domain import Case, Command, Decide, Effect, Reactivate, Retry, State
from reclaim.lifecycle.service import build
from reclaim.lifecycle.submit import Submission, submit
from reclaim.web.operators import Operator
from services.lifecycle.tests.lifecycle_site import nothing_waits

NOW = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)
DAY = timedelta(days=1)
KEY = Fernet.generate_key().decode()
AUDIT_KEY = Fernet.generate_key().decode()


class World:
    """The service with its org, its clock, and what it said."""

    def __init__(self, running: Running, org: FakeOrg, clock: FixedClock) -> None:
        self.running, self.org, self.clock = running, org, clock

    async def receive(self, *events: Event, source: str = "approvals") -> None:
        """Take events over; what comes too early is not tried again by itself."""
        now = self.clock.now()
        batch = envelope.join([envelope.encode(event, source=source, time=now) for event in events])
        await self.running.inbox.receive([batch])

    async def tell(self, *events: Event, source: str = "approvals") -> None:
        await self.receive(*events, source=source)
        while await self.running.inbox.retry():
            pass

    async def act(self) -> None:
        """Run what is due until nothing is."""
        while any([await job.run() for job in self.running.service.jobs if job.name in {"act", "timers"}]):
            pass

    async def once(self, job: str) -> None:
        """Run one round of a job."""
        await next(each for each in self.running.service.jobs if each.name == job).run()

    async def sql(self, statement: str) -> None:
        """Change what is stored, as time or another process would."""
        async with self.running.database.unit() as unit:
            await unit.db.exec_driver_sql(statement)

    async def order(self, command: Command, case_id: str = "case-1") -> None:
        """Give an operator's command."""
        async with self.running.database.unit() as unit:
            await submit(unit, [Submission(case_id, command, actor="op")])

    async def frozen(self, **policy: Any) -> None:
        """Bring the case to where the seat is frozen."""
        await self.tell(flagged(**policy), source="scanner")
        await self.tell(decision("revoke"))
        await self.act()
        assert (await self.case()).state is State.FROZEN

    async def case(self, case_id: str = "case-1") -> Case:
        async with self.running.database.reading() as db:
            found = await store.find(db, case_id)
        assert found is not None
        return found

    async def said(self) -> list[str]:
        async with self.running.database.reading() as db:
            bodies = (await db.exec_driver_sql("SELECT body FROM outbox ORDER BY seq")).scalars()
            return [type(part.data).__name__ for part in envelope.split(envelope.join(list(bodies)))]

    async def verified(self) -> bool:
        async with self.running.database.reading() as db:
            return (await checkpoints.verify(db, Notary([AUDIT_KEY]))).verified


def org_of(clock: FixedClock, **changes: Any) -> FakeOrg:
    """Return an org with a manager and one idle user who owns records."""
    org = FakeOrg(clock)
    org.users["005M"] = FakeUser(id="005M", name="Max", created_at=NOW - 900 * DAY, last_used_at=NOW - DAY)
    idle: dict[str, Any] = {"created_at": NOW - 900 * DAY, "last_used_at": NOW - 200 * DAY, "manager_id": "005M"}
    org.users["005A"] = FakeUser(id="005A", name="Ada", **(idle | changes))
    return org


def give(org: FakeOrg, holder: str, kind: str, count: int) -> None:
    """Give a holder open records."""
    for number in range(count):
        org.records[f"{kind}-{number}"] = FakeRecord(f"{kind}-{number}", kind, holder)


@asynccontextmanager
async def world(
    url: str | None,
    tmp_path: Path,
    org: Callable[[FixedClock], FakeOrg] = org_of,
    *,
    catch_up: Callable[[], Awaitable[None]] = nothing_waits,
) -> AsyncIterator[World]:
    clock = FixedClock(NOW)
    acted_on = org(clock)
    settings = Settings(
        environment="test",
        data_dir=tmp_path,
        secret_keys=["s" * 32],
        sealing_keys=[KEY],
        audit_keys=[AUDIT_KEY],
        **({"database_url": url} if url else {}),
    )
    building = partial(build, connectors=acted_on)
    running = Running.start(building, "lifecycle", settings, clock, InprocBus(), catch_up=catch_up)
    await migrate.upgrade(running.database.engine, running.service.migrations)
    found = World(running, acted_on, clock)
    await found.tell(
        ConnectionChanged(
            connection_id="c1", name="org", kind="salesforce", settings={}, version=1,
            credentials=Sealer([KEY]).seal({"client_secret": "s"}),
        ),
        source="scanner",
    )  # fmt: skip
    try:
        yield found
    finally:
        await running.close()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.servers)])
def database_url(request: pytest.FixtureRequest) -> str | None:
    return None if request.param == "sqlite" else request.getfixturevalue("fresh_database")


def flagged(case_id: str = "case-1", holder: str = "005A", **policy: Any) -> UserFlagged:
    base: dict[str, Any] = {
        "rule_id": "rule-1", "rule_version": 1, "rule_name": "Idle", "inactive_days": 90, "route": "email",
        "decision_days": 14, "on_timeout": "freeze", "grace_days": 7, "hand_over": True, "dry_run": False,
    }  # fmt: skip
    return UserFlagged(
        case_id=case_id,
        seat=Seat(
            connection_id="c1", product="SFDC", product_name="Salesforce", holder=Person(id=holder, name="Ada"),
            price=Money(amount=Decimal(175), currency="USD"),
        ),
        approver=Person(id="005M", name="Max", email="max@example.com"),
        policy=Policy(**(base | policy)),
        findings=(),
        last_used_at=NOW - 200 * DAY,
        flagged_at=NOW,
    )  # fmt: skip


def delivered(case_id: str = "case-1") -> NoticeDelivered:
    return NoticeDelivered(case_id=case_id, channel="email", recipient="max@example.com", delivered_at=NOW)


def decision(kind: str, case_id: str = "case-1", actor: str = "max@example.com") -> DecisionReceived:
    return DecisionReceived(
        case_id=case_id, decision=kind, channel="email", actor=actor, reason="because", decided_at=NOW,  # type: ignore[arg-type]
        ip="192.0.2.7", user_agent="Browser/1",
    )  # fmt: skip


async def test_from_flagged_to_reclaimed_and_back(database_url: str | None, tmp_path: Path) -> None:
    async with world(database_url, tmp_path) as it:
        give(it.org, "005A", "Opportunity", 3)
        await it.tell(flagged(), source="scanner")
        await it.tell(delivered())
        await it.tell(decision("revoke"))
        assert (await it.case()).state is State.CHECKING_BEFORE_FREEZE
        await it.act()
        assert (await it.case()).state is State.FROZEN
        assert it.org.users["005A"].frozen
        it.clock.advance(7 * DAY)
        await it.act()
        case = await it.case()
        assert (case.state, case.records_transferred) == (State.RECLAIMED, 3)
        assert not it.org.users["005A"].active
        assert await it.said() == ["UserFrozen", "SeatReclaimed", "CaseClosed"]
        assert await it.verified()


async def test_the_tables_are_what_the_code_declares(database_url: str | None, tmp_path: Path) -> None:
    async with world(database_url, tmp_path) as it:
        assert await migrate.differences(it.running.database.engine, store.metadata) == []


async def test_a_dry_run_takes_every_step_and_writes_nothing(database_url: str | None, tmp_path: Path) -> None:
    async with world(database_url, tmp_path) as it:
        give(it.org, "005A", "Opportunity", 3)
        await it.tell(flagged(dry_run=True), source="scanner")
        await it.tell(decision("revoke"))
        await it.act()
        it.clock.advance(7 * DAY)
        await it.act()
        assert (await it.case()).state is State.RECLAIMED
        assert (await it.case()).records_transferred == 3
        assert it.org.writes == []


async def test_a_decision_that_comes_before_its_case_is_taken_as_the_case_opens(
    database_url: str | None, tmp_path: Path
) -> None:
    """Were it taken later, an operator could decide first, and it would be an appeal that undoes what they decided."""
    async with world(database_url, tmp_path) as it:
        await it.receive(decision("keep"))
        await it.receive(decision("revoke", actor="eve@example.com"))
        await it.receive(flagged(), source="scanner")
        case = await it.case()
        assert (case.state, case.decided_by) == (State.KEPT, "max@example.com")
        operator = Operator("otto", "operator", "session")
        with pytest.raises(Conflict, match="does not fit a case that is kept"):
            await give_command(it.running.database, "case-1", operator, Decide("revoke", "otto", "console", "", NOW))
        async with it.running.database.reading() as db:
            trail = [
                (moment.link.entry.command, moment.link.entry.accepted) for moment in await store.history(db, case.id)
            ]
        assert trail == [
            ("open_case", True),
            ("decide_keep", True),
            ("decide_revoke", False),
            ("decide_revoke", False),
        ]
        assert await it.said() == ["CaseClosed"]
        assert not await it.running.inbox.retry(), "nothing waits any more"
        assert await it.running.inbox.parked() == []
        assert await it.verified()


async def test_a_second_case_for_the_same_seat_is_closed_at_once(database_url: str | None, tmp_path: Path) -> None:
    async with world(database_url, tmp_path) as it:
        await it.tell(flagged("case-1"), flagged("case-2"), source="scanner")
        await it.tell(flagged("case-3"), source="scanner")
        assert await it.said() == ["CaseClosed", "CaseClosed"]
        assert (await it.case("case-1")).open
        # Others learn later that it is closed; what they say until then is refused on the record, and kept nowhere.
        await it.tell(decision("revoke", "case-2"))
        await it.tell(withdrawn(case_id="case-3"), source="scanner")
        assert await it.running.inbox.parked() == []
        async with it.running.database.reading() as db:
            told = [moment.link.entry for moment in await store.history(db, "case-2")]
        assert [(each.command, each.accepted) for each in told] == [
            ("open_case", True),
            ("seat_taken", True),
            ("decide_revoke", False),
        ]
        assert told[1].note == "case case-1 is already open for this seat"
        await it.tell(decision("keep"))
        await it.tell(flagged("case-4"), source="scanner")
        assert (await it.case("case-4")).open, "the twins hold no seat"
        assert await it.verified()


def withdrawn(**changes: Any) -> CaseWithdrawn:
    base: dict[str, Any] = {
        "case_id": "case-1", "kind": "exempted", "reason": "parental leave", "actor": "maria.ops", "withdrawn_at": NOW,
    }  # fmt: skip
    return CaseWithdrawn(**(base | changes))


async def test_a_frozen_seat_whose_case_is_withdrawn_is_given_back(database_url: str | None, tmp_path: Path) -> None:
    async with world(database_url, tmp_path) as it:
        await it.frozen()
        await it.tell(withdrawn(), source="scanner")
        await it.act()
        assert (await it.case()).state is State.SKIPPED
        assert not it.org.users["005A"].frozen
        assert await it.said() == ["UserFrozen", "UserRestored", "CaseClosed"]
        async with it.running.database.reading() as db:
            trail = await db.exec_driver_sql("SELECT actor, note FROM audit WHERE command = 'withdraw'")
            (entry,) = trail.all()
        assert entry.actor == "maria.ops"
        assert "parental leave" in entry.note
        assert await it.verified()


async def test_a_withdrawal_that_comes_before_its_case_waits_for_it(tmp_path: Path) -> None:
    async with world(None, tmp_path) as it:
        await it.receive(withdrawn(), source="scanner")
        await it.receive(flagged(), source="scanner")
        assert (await it.case()).state is State.SKIPPED
        assert it.org.writes == []


async def test_a_merged_case_that_was_decided_upon_goes_on(tmp_path: Path) -> None:
    async with world(None, tmp_path) as it:
        await it.frozen()
        await it.tell(withdrawn(kind="merged", reason="case-9 has the suite"), source="scanner")
        assert (await it.case()).state is State.FROZEN


async def test_somebody_who_came_back_is_left_alone(tmp_path: Path) -> None:
    async with world(None, tmp_path) as it:
        await it.tell(flagged(), source="scanner")
        await it.tell(decision("revoke"))
        it.org.users["005A"].last_used_at = NOW - DAY
        await it.act()
        assert (await it.case()).state is State.CANCELLED
        assert it.org.writes == []


async def test_somebody_who_came_back_during_grace_is_restored(tmp_path: Path) -> None:
    async with world(None, tmp_path) as it:
        await it.tell(flagged(), source="scanner")
        await it.tell(decision("revoke"))
        await it.act()
        it.org.users["005A"].seen_elsewhere_at = NOW + 3 * DAY
        it.clock.advance(7 * DAY)
        await it.act()
        assert (await it.case()).state is State.RESTORED
        assert not it.org.users["005A"].frozen


async def test_who_was_unfrozen_by_somebody_else_is_not_reclaimed(tmp_path: Path) -> None:
    async with world(None, tmp_path) as it:
        await it.tell(flagged(), source="scanner")
        await it.tell(decision("revoke"))
        await it.act()
        it.org.users["005A"].frozen = False
        it.clock.advance(7 * DAY)
        await it.act()
        case = await it.case()
        assert case.state is State.ATTENTION
        assert case.attention is not None
        assert "not us" in case.attention.reason


async def test_records_without_a_successor_call_a_person_and_go_on_when_there_is_one(tmp_path: Path) -> None:
    async with world(None, tmp_path) as it:
        await it.tell(flagged(), source="scanner")
        await it.tell(decision("revoke"))
        await it.act()
        give(it.org, "005A", "Case", 2)
        it.org.users["005M"].active = False
        it.clock.advance(7 * DAY)
        await it.act()
        case = await it.case()
        # The check before the reclaim sees it as well, and leaves the holder alone.
        assert case.state in {State.ATTENTION, State.RESTORED}
        assert it.org.users["005A"].active


async def test_records_go_to_the_account_that_the_rule_names(database_url: str | None, tmp_path: Path) -> None:
    async with world(database_url, tmp_path, lambda clock: org_of(clock, manager_id=None)) as it:
        it.org.users["005S"] = FakeUser(id="005S", name="Sue", created_at=NOW - 900 * DAY, last_used_at=NOW - DAY)
        give(it.org, "005A", "Case", 2)
        await it.frozen(hand_over_to="005S")
        it.clock.advance(7 * DAY)
        await it.act()
        case = await it.case()
        assert (case.state, case.records_transferred) == (State.RECLAIMED, 2)
        assert {record.owner for record in it.org.records.values()} == {"005S"}


@pytest.mark.parametrize("there", [True, False], ids=["inactive", "unknown"])
async def test_records_for_an_account_that_cannot_own_them_call_a_person(tmp_path: Path, there: bool) -> None:
    async with world(None, tmp_path) as it:
        if there:
            it.org.users["005S"] = FakeUser(id="005S", name="Sue", created_at=NOW - 900 * DAY, active=False)
        give(it.org, "005A", "Case", 2)
        await it.frozen(hand_over_to="005S")
        it.clock.advance(7 * DAY)
        await it.act()
        case = await it.case()
        assert case.state is State.ATTENTION
        assert case.attention is not None
        assert "005S" in case.attention.reason
        assert {record.owner for record in it.org.records.values()} == {"005A"}


async def test_nobody_is_frozen_out_of_hours(database_url: str | None, tmp_path: Path) -> None:
    """It is Monday at nine; the rule acts from eleven until noon."""
    async with world(database_url, tmp_path) as it:
        await it.tell(flagged(act_from=time(11), act_until=time(12)), source="scanner")
        await it.tell(decision("revoke"))
        await it.act()
        assert (await it.case()).state is State.FREEZING
        assert it.org.writes == []
        async with it.running.database.reading() as db:
            (waiting,) = await store.effects_of(db, "case-1")
        assert (waiting["attempts"], waiting["reason"]) == (0, "the rule freezes nobody at this hour")
        it.clock.advance(timedelta(hours=2))
        await it.sql("UPDATE effect SET due = 0")
        await it.act()
        assert (await it.case()).state is State.FROZEN
        it.clock.advance(7 * DAY)
        await it.act()
        assert (await it.case()).state is State.RECLAIMED


async def test_who_is_kept_out_of_hours_is_not_frozen_any_more(tmp_path: Path) -> None:
    async with world(None, tmp_path) as it:
        await it.tell(flagged(act_from=time(11), act_until=time(12)), source="scanner")
        await it.tell(decision("revoke"))
        await it.act()
        await it.tell(decision("keep"))
        await it.sql("UPDATE effect SET due = 0")
        await it.act()
        assert (await it.case()).state is State.KEPT
        assert it.org.writes == []


async def test_an_address_can_be_erased_and_the_chain_still_verifies(tmp_path: Path) -> None:
    async with world(None, tmp_path) as it:
        await it.tell(flagged(), source="scanner")
        await it.tell(decision("keep"))
        async with it.running.database.reading() as db:
            before = await store.history(db, "case-1")
        assert before[-1].ip == "192.0.2.7"
        it.clock.advance(400 * DAY)
        erase = next(job for job in it.running.service.jobs if job.name == "erase")
        await erase.run()
        async with it.running.database.reading() as db:
            after = await store.history(db, "case-1")
        assert after[-1].ip is None
        assert after[-1].link.entry.personal == before[-1].link.entry.personal
        assert await it.verified()


async def test_a_changed_row_of_the_trail_is_found(tmp_path: Path) -> None:
    async with world(None, tmp_path) as it:
        await it.tell(flagged(), source="scanner")
        await it.tell(decision("keep"))
        async with it.running.database.unit() as unit:
            await unit.db.exec_driver_sql("UPDATE audit SET actor = 'somebody else' WHERE position = 2")
        assert not await it.verified()


async def test_the_summary_counts_what_happened(tmp_path: Path) -> None:
    async with world(None, tmp_path) as it:
        await it.tell(flagged(), source="scanner")
        await it.tell(delivered())
        it.clock.advance(14 * DAY)
        await it.act()
        await it.tell(decision("keep", actor="ada@example.com"))
        await it.act()
        async with it.running.database.reading() as db:
            found = await queries.summary(db)
        assert found["decided"] == {"keep": 0, "revoke": 0, "timeout": 1}
        assert (found["frozen"], found["appealed"], found["restored"]) == (1, 1, 1)
        assert found["cases"] == {"restored": 1}


async def test_a_timer_goes_with_the_state_it_belongs_to(database_url: str | None, tmp_path: Path) -> None:
    async with world(database_url, tmp_path) as it:
        await it.tell(flagged(), source="scanner")
        await it.tell(delivered())
        await it.tell(decision("revoke"))
        await it.act()
        it.clock.advance(14 * DAY)
        await it.act()
        async with it.running.database.reading() as db:
            history = await store.history(db, "case-1")
            assert (await db.execute(sa.select(store.TIMER))).all() == []
        assert all(moment.link.entry.accepted for moment in history), "no timer that means nothing is fired"


async def test_an_appeal_made_in_time_and_heard_of_too_late_gives_the_seat_back(
    database_url: str | None, tmp_path: Path
) -> None:
    async with world(database_url, tmp_path) as it:
        await it.frozen()
        it.clock.advance(7 * DAY)
        await it.act()
        assert (await it.case()).state is State.RECLAIMED
        await it.tell(decision("keep", actor="ada@example.com"))
        await it.act()
        assert (await it.case()).state is State.REACTIVATED
        assert it.org.users["005A"].active
        assert not it.org.users["005A"].frozen
        assert await it.said() == ["UserFrozen", "SeatReclaimed", "CaseClosed", "SeatReactivated"]
        assert await it.verified()


async def test_a_freeze_that_waited_for_days_is_checked_again(database_url: str | None, tmp_path: Path) -> None:
    async with world(database_url, tmp_path) as it:
        await it.tell(flagged(), source="scanner")
        await it.tell(decision("revoke"))
        await it.once("act")
        assert (await it.case()).state is State.FREEZING
        it.clock.advance(10 * DAY)
        it.org.users["005A"].last_used_at = it.clock.now()
        await it.act()
        assert (await it.case()).state is State.CANCELLED
        assert it.org.writes == []


@pytest.mark.parametrize("hand_over", [True, False])
async def test_a_reclaim_that_waited_for_days_is_checked_again(tmp_path: Path, hand_over: bool) -> None:
    async with world(None, tmp_path) as it:
        give(it.org, "005A", "Case", 2)
        await it.frozen(hand_over=hand_over)
        it.clock.advance(7 * DAY)
        await it.once("timers")
        await it.once("act")
        it.clock.advance(10 * DAY)
        it.org.users["005A"].exempt = "on legal hold"
        await it.act()
        assert (await it.case()).state is State.RESTORED
        assert [write.field for write in it.org.writes] == ["frozen", "frozen"]


async def test_a_step_that_waited_and_is_still_clear_is_taken(tmp_path: Path) -> None:
    async with world(None, tmp_path) as it:
        await it.tell(flagged(), source="scanner")
        await it.tell(decision("revoke"))
        await it.once("act")
        it.clock.advance(DAY)
        await it.act()
        assert (await it.case()).state is State.FROZEN


async def _last_attempt_without_an_answer(it: World) -> None:
    """Let the next step have its effect, lose the answer, and be given up."""
    it.org.trouble = lambda _operation, _id: "after"
    await it.sql("UPDATE effect SET attempts = 39, due = 0")
    await it.once("act")
    it.org.trouble = lambda _operation, _id: "none"
    assert (await it.case()).state is State.ATTENTION


@pytest.mark.parametrize(
    ("command", "back", "state", "frozen"),
    [
        (Retry("op"), False, State.FROZEN, True),
        (Retry("op"), True, State.RESTORED, False),
        (Decide("keep", "op", "console", "needed", NOW), False, State.RESTORED, False),
    ],
)
async def test_a_freeze_that_got_no_answer_is_never_left_behind(
    tmp_path: Path, command: Command, back: bool, state: State, frozen: bool
) -> None:
    async with world(None, tmp_path) as it:
        await it.tell(flagged(), source="scanner")
        await it.tell(decision("revoke"))
        await it.once("act")
        await _last_attempt_without_an_answer(it)
        if back:
            it.org.users["005A"].seen_elsewhere_at = NOW
        await it.order(command)
        await it.act()
        assert (await it.case()).state is state
        assert it.org.users["005A"].frozen is frozen


@pytest.mark.parametrize(
    ("command", "state", "active"),
    [(Retry("op"), State.RECLAIMED, False), (Decide("keep", "op", "console", "needed", NOW), State.RESTORED, True)],
)
async def test_a_deactivation_that_got_no_answer_is_booked_or_undone(
    tmp_path: Path, command: Command, state: State, active: bool
) -> None:
    async with world(None, tmp_path) as it:
        await it.frozen(hand_over=False)
        it.clock.advance(7 * DAY)
        await it.once("timers")
        await it.once("act")
        await _last_attempt_without_an_answer(it)
        await it.order(command)
        await it.act()
        assert (await it.case()).state is state
        assert it.org.users["005A"].active is active
        assert it.org.users["005A"].frozen is not active
        assert ("SeatReclaimed" in await it.said()) is not active


async def test_records_that_moved_before_a_hand_over_was_given_up_are_counted(tmp_path: Path) -> None:
    async with world(None, tmp_path) as it:
        give(it.org, "005A", "Case", 3)
        await it.frozen()
        it.clock.advance(7 * DAY)
        it.org.trouble = lambda _operation, each: "before" if each == "Case-2" else "none"
        await it.once("timers")
        await it.once("act")
        await it.sql("UPDATE effect SET attempts = 39, due = 0")
        await it.once("act")
        case = await it.case()
        assert (case.state, case.records_transferred) == (State.ATTENTION, 2)
        it.org.trouble = lambda _operation, _each: "none"
        await it.order(Retry("op"))
        await it.act()
        case = await it.case()
        assert (case.state, case.records_transferred) == (State.RECLAIMED, 3)


async def test_who_has_another_product_after_grace_is_not_left_frozen(tmp_path: Path) -> None:
    async with world(None, tmp_path) as it:
        await it.frozen()
        it.org.users["005A"].product = "PLATFORM"
        it.clock.advance(7 * DAY)
        await it.act()
        assert (await it.case()).state is State.RESTORED
        assert not it.org.users["005A"].frozen


async def test_a_process_that_lost_its_lease_writes_nothing(database_url: str | None, tmp_path: Path) -> None:
    async with world(database_url, tmp_path) as it:
        await it.tell(flagged(), source="scanner")
        await it.tell(decision("revoke"))
        await it.once("act")
        async with it.running.database.unit() as unit:
            stopped = await store.claim_effects(unit.db, most=200)
            connection = await store.connection(unit.db, "c1")
        await it.sql("UPDATE effect SET due = 0")
        await it.act()
        await it.tell(decision("keep"))
        await it.act()
        assert (await it.case()).state is State.RESTORED
        actions = Actions(it.running.database, it.org, Sealer([KEY]), it.clock)
        assert await actions._perform(stopped, connection) == {}
        assert not it.org.users["005A"].frozen


async def test_a_process_that_lost_its_lease_does_not_count_what_is_left_of_a_hand_over(
    database_url: str | None, tmp_path: Path
) -> None:
    async with world(database_url, tmp_path) as it:
        give(it.org, "005A", "Case", 3)
        await it.frozen()
        it.clock.advance(7 * DAY)
        await it.once("timers")
        await it.once("act")
        actions = Actions(it.running.database, it.org, Sealer([KEY]), it.clock)
        claims = []
        for _ in range(2):
            async with it.running.database.unit() as unit:
                claims.append(await store.claim_effects(unit.db, most=200))
                connection = await store.connection(unit.db, "c1")
            await it.sql("UPDATE effect SET due = 0")
        stopped, killed = claims
        assert [effect.kind for effect in killed] == [Effect.HAND_OVER]
        assert await actions._perform(killed, connection)  # all was moved, and then it died without answering
        await actions._work_off(stopped, connection)
        await it.sql("UPDATE effect SET due = 0")
        await it.act()
        case = await it.case()
        assert (case.state, case.records_transferred) == (State.RECLAIMED, 3)


@pytest.mark.parametrize("step", ["freeze", "deactivate"])
async def test_a_step_that_hung_until_its_case_had_ended_is_undone(
    database_url: str | None, tmp_path: Path, step: str
) -> None:
    """A process is stopped between its last look at the lease and the call: nothing can keep it from writing then."""
    async with world(database_url, tmp_path) as it:
        await it.tell(flagged(hand_over=False), source="scanner")
        await it.tell(decision("revoke"))
        await it.once("act")
        if step == "deactivate":
            await it.act()
            it.clock.advance(7 * DAY)
            await it.once("timers")
            await it.once("act")
        async with it.running.database.unit() as unit:
            (stopped,) = await store.claim_effects(unit.db, most=200)
            connection = await store.connection(unit.db, "c1")
        assert stopped.kind.value == step
        await it.sql("UPDATE effect SET due = 0, sent = true")
        kept = msgspec.structs.replace(decision("keep"), decided_at=NOW + DAY)
        await it.tell(kept)
        await it.act()
        assert (await it.case()).state is State.RESTORED

        actions = Actions(it.running.database, it.org, Sealer([KEY]), it.clock)
        actor = it.org.actor()
        outcomes = await actions._act([stopped], stopped.kind, actor)
        assert it.org.users["005A"].frozen or not it.org.users["005A"].active, "it was carried out all the same"

        async def perform(*_: Any) -> Any:
            return outcomes

        actions._perform = perform  # type: ignore[method-assign]
        await actions._work_off([stopped], connection)
        await it.act()
        user = it.org.users["005A"]
        assert (user.active, user.frozen) == (True, False)
        assert (await it.case()).state is State.RESTORED
        assert await it.verified()


@pytest.mark.parametrize("step", ["unfreeze", "reactivate"])
async def test_a_step_that_hung_until_the_account_was_given_back_is_undone_in_the_end(
    database_url: str | None, tmp_path: Path, step: str
) -> None:
    """What gives back has been sent, and not answered yet, when the step that hung is carried out after it."""
    async with world(database_url, tmp_path) as it:
        await it.tell(flagged(hand_over=False), source="scanner")
        await it.tell(decision("revoke"))
        await it.once("act")
        if step == "reactivate":
            await it.act()
            it.clock.advance(7 * DAY)
            await it.once("timers")
            await it.once("act")
        async with it.running.database.unit() as unit:
            (stopped,) = await store.claim_effects(unit.db, most=200)
            connection = await store.connection(unit.db, "c1")
        await it.sql("UPDATE effect SET due = 0")
        await it.act()
        await it.order(Reactivate("op", "needed") if step == "reactivate" else Decide("keep", "op", "email", "", NOW))
        async with it.running.database.unit() as unit:
            (giving_back,) = await store.claim_effects(unit.db, most=200)
        assert giving_back.kind.value == step

        actions = Actions(it.running.database, it.org, Sealer([KEY]), it.clock)
        given = await actions._act([giving_back], giving_back.kind, it.org.actor())
        taken = await actions._act([stopped], stopped.kind, it.org.actor())
        user = it.org.users["005A"]
        assert user.frozen or not user.active, "it was carried out all the same"
        outcomes = given | taken

        async def perform(claimed: Sequence[Any], *_: Any) -> Any:
            return {effect.id: outcomes[effect.id] for effect in claimed}

        actions._perform = perform  # type: ignore[method-assign]
        for effect in (stopped, giving_back):
            await actions._work_off([effect], connection)
        await it.act()
        assert (user.active, user.frozen) == (True, False)
        assert (await it.case()).state is (State.REACTIVATED if step == "reactivate" else State.RESTORED)
        assert (await it.said()).count("SeatReactivated" if step == "reactivate" else "UserRestored") == 1
        assert await it.verified()


async def test_an_error_of_ours_in_one_case_does_not_hold_up_its_neighbours(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def org(clock: FixedClock) -> FakeOrg:
        two = org_of(clock)
        two.users["005B"] = FakeUser(id="005B", created_at=NOW - 900 * DAY, last_used_at=NOW - 200 * DAY)
        return two

    async with world(None, tmp_path, org) as it:
        # No rule has such a threshold; the check raises for it.
        await it.tell(flagged(), flagged("case-2", "005B", inactive_days=0), source="scanner")
        await it.tell(decision("revoke"), decision("revoke", "case-2"))
        await it.act()
        assert (await it.case()).state is State.FROZEN
        assert "an error on our side" in caplog.text
        await it.sql("UPDATE effect SET attempts = 39, due = 0")
        await it.act()
        assert (await it.case("case-2")).state is State.ATTENTION


async def test_a_seat_can_be_given_back_while_another_case_is_open_for_it(tmp_path: Path) -> None:
    async with world(None, tmp_path) as it:
        await it.frozen()
        it.clock.advance(7 * DAY)
        await it.act()
        it.org.users["005A"].active = True
        await it.tell(flagged("case-2"), source="scanner")
        await it.order(Reactivate("op", "needed"))
        await it.act()
        assert (await it.case()).state is State.REACTIVATED
        assert (await it.case("case-2")).open


async def test_what_an_operator_is_refused_is_recorded(tmp_path: Path) -> None:
    async with world(None, tmp_path) as it:
        await it.frozen()
        operator = Operator("otto", "operator", "session")
        with pytest.raises(Conflict, match="Already decided"):
            await give_command(it.running.database, "case-1", operator, Decide("revoke", "otto", "console", "", NOW))
        async with it.running.database.reading() as db:
            last = (await store.history(db, "case-1"))[-1].link.entry
        assert (last.actor, last.command, last.accepted) == ("otto", "decide_revoke", False)
        assert await it.verified()


async def test_what_was_read_before_the_process_was_stopped_is_not_acted_upon(tmp_path: Path) -> None:
    class Stopped(FakeReader):
        """Is stopped for two days between its two readings, once."""

        async def survey(self, holders: Sequence[str] | None, *, since: datetime) -> Survey:
            if clock.now() == NOW:
                clock.advance(2 * DAY)
                self._org.users["005A"].last_used_at = NOW + DAY
            return await super().survey(holders, since=since)

    class Org(FakeOrg):
        def reader(self, profile: ConnectionProfile | None = None) -> FakeReader:
            return Stopped(self)

    def slow(given: FixedClock) -> FakeOrg:
        nonlocal clock
        clock, usual = given, org_of(given)
        return Org(given, users=usual.users)

    clock = FixedClock(NOW)
    async with world(None, tmp_path, slow) as it:
        await it.tell(flagged(), source="scanner")
        await it.tell(decision("revoke"))
        await it.act()
        assert (await it.case()).state is State.CHECKING_BEFORE_FREEZE
        await it.sql("UPDATE effect SET due = 0")
        await it.act()
        assert (await it.case()).state is State.CANCELLED
        assert it.org.writes == []


async def test_an_account_that_somebody_else_froze_since_the_check_is_left_to_them(tmp_path: Path) -> None:
    async with world(None, tmp_path) as it:
        await it.tell(flagged(), source="scanner")
        await it.tell(decision("revoke"))
        await it.once("act")
        assert (await it.case()).state is State.FREEZING
        it.org.users["005A"].frozen = True
        await it.act()
        assert (await it.case()).state is State.SKIPPED
        assert it.org.writes == []


async def test_a_step_that_an_appeal_overtook_is_not_begun(tmp_path: Path) -> None:
    async with world(None, tmp_path) as it:
        await it.tell(flagged(), source="scanner")
        await it.tell(decision("revoke"))
        await it.once("act")
        assert (await it.case()).state is State.FREEZING
        it.org.users["005A"].frozen = True
        await it.tell(decision("keep"))
        await it.act()
        assert (await it.case()).state is State.KEPT
        assert it.org.writes == []
        assert it.org.users["005A"].frozen


async def frozen_by_somebody_else_before_ours_was_sent(it: World) -> None:
    """A process died between noting that it sends the freeze and sending it, and somebody else froze the account."""
    await it.tell(flagged(), source="scanner")
    await it.tell(decision("revoke"))
    await it.once("act")
    assert (await it.case()).state is State.FREEZING
    await it.sql("UPDATE effect SET attempts = 1, sent = true")
    it.org.users["005A"].frozen = it.org.users["005A"].frozen_by_another = True


async def test_an_appeal_undoes_no_freeze_but_ours(database_url: str | None, tmp_path: Path) -> None:
    async with world(database_url, tmp_path) as it:
        await frozen_by_somebody_else_before_ours_was_sent(it)
        await it.tell(decision("keep"))
        await it.act()
        case = await it.case()
        assert case.state is State.ATTENTION
        assert case.attention is not None
        assert FROZEN_BY_ANOTHER in case.attention.reason
        assert it.org.users["005A"].frozen
        await it.order(Retry("op"))
        await it.act()
        assert (await it.case()).state is State.ATTENTION
        it.org.users["005A"].frozen = False
        await it.order(Retry("op"))
        await it.act()
        assert (await it.case()).state is State.RESTORED
        assert it.org.writes == []


async def test_grace_does_not_begin_with_somebody_elses_freeze(tmp_path: Path) -> None:
    async with world(None, tmp_path) as it:
        await frozen_by_somebody_else_before_ours_was_sent(it)
        await it.act()
        assert (await it.case()).state is State.ATTENTION
        await it.order(Decide("keep", "op", "console", "on legal hold", NOW))
        await it.act()
        assert (await it.case()).state is State.KEPT
        assert it.org.users["005A"].frozen
        assert it.org.writes == []
        assert "UserFrozen" not in await it.said()


async def test_a_freeze_that_somebody_renewed_since_is_left_to_a_person(tmp_path: Path) -> None:
    async with world(None, tmp_path) as it:
        await it.frozen()
        it.org.users["005A"].frozen_by_another = True
        await it.tell(decision("keep"))
        await it.act()
        assert (await it.case()).state is State.ATTENTION
        assert it.org.users["005A"].frozen
        assert len(it.org.writes) == 1
