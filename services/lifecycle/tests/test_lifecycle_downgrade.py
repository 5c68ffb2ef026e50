"""Seats that are freed by a cheaper licence or by a person, and drift: on a real database, with an org in memory."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from reclaim.common.clock import FixedClock
from reclaim.common.contracts import CheaperLicence, FulfilmentReported
from reclaim.common.errors import Transient
from reclaim.connectors.fake import FakeOrg, FakeUser
from reclaim.lifecycle import drift_store, queries, store
from reclaim.lifecycle.domain import Decide, Fulfilled, NotFulfilled, Reactivate, Retry, State
from reclaim.lifecycle.drift_store import Drift
from services.lifecycle.tests.test_lifecycle_service import (
    DAY,
    NOW,
    World,
    database_url,  # noqa: F401  a fixture
    decision,
    flagged,
    give,
    org_of,
    world,
)

PLATFORM = CheaperLicence(product="AUL", product_name="Salesforce Platform", profile="Platform User")
DOWNGRADE: dict[str, Any] = {"reclaim_by": "downgrade", "downgrade_to": PLATFORM}
BY_HAND: dict[str, Any] = {"reclaim_by": "task"}


def org_with_licences(clock: FixedClock) -> FakeOrg:
    org = org_of(
        clock,
        profile="Sales User",
        permission_sets=["Forecasting", "Newsletter"],
        permission_set_licences=["Console"],
    )
    org.profiles = {"Sales User": "SFDC", "Platform User": "AUL"}
    org.needs = {"Forecasting": "SFDC"}
    org.licences["AUL"] = 10
    return org


async def downgraded(it: World) -> None:
    await it.frozen(**DOWNGRADE)
    it.clock.advance(7 * DAY)
    await it.act()
    assert (await it.case()).state is State.RECLAIMED


async def test_a_downgrade_frees_the_seat_and_a_reactivation_puts_everything_back(
    database_url: str | None,  # noqa: F811
    tmp_path: Path,
) -> None:
    async with world(database_url, tmp_path, org_with_licences) as it:
        give(it.org, "005A", "Opportunity", 2)
        await downgraded(it)
        ada = it.org.users["005A"]
        assert (ada.active, ada.frozen, ada.product, ada.profile) == (True, False, "AUL", "Platform User")
        assert (ada.permission_sets, ada.permission_set_licences) == (["Newsletter"], [])
        assert {record.owner for record in it.org.records.values()} == {"005M"}
        assert await it.said() == ["UserFrozen", "SeatReclaimed", "CaseClosed"]
        await it.order(Reactivate("op", "needed again"))
        await it.act()
        assert (await it.case()).state is State.REACTIVATED
        assert (ada.product, ada.profile, sorted(ada.permission_sets), ada.permission_set_licences) == (
            "SFDC",
            "Sales User",
            ["Forecasting", "Newsletter"],
            ["Console"],
        )
        assert await it.verified()


async def test_a_dry_run_of_a_downgrade_takes_every_step_and_writes_nothing(tmp_path: Path) -> None:
    async with world(None, tmp_path, org_with_licences) as it:
        await it.tell(flagged(**DOWNGRADE, dry_run=True), source="scanner")
        await it.tell(decision("revoke"))
        await it.act()
        it.clock.advance(7 * DAY)
        await it.act()
        assert (await it.case()).state is State.RECLAIMED
        assert it.org.writes == []


async def test_a_decision_to_downgrade_without_a_cheaper_licence_takes_nothing_away(tmp_path: Path) -> None:
    async with world(None, tmp_path) as it:
        await it.tell(flagged(), source="scanner")
        await it.tell(decision("downgrade"))
        await it.act()
        assert (await it.case()).state is State.ATTENTION
        assert it.org.writes == []


@pytest.mark.parametrize("trouble", ["before", "after"])
@pytest.mark.parametrize("write", range(4))
async def test_a_downgrade_that_got_no_answer_is_finished_and_its_image_is_whole(
    tmp_path: Path, trouble: str, write: int
) -> None:
    async with world(None, tmp_path, org_with_licences) as it:
        await it.frozen(**DOWNGRADE)
        seen: list[str] = []

        def once(operation: str, _id: str) -> Any:
            if operation == "downgrade":
                seen.append(operation)
            return trouble if operation == "downgrade" and len(seen) == write + 1 else "none"

        it.org.trouble = once
        it.clock.advance(7 * DAY)
        await it.act()
        await it.sql("UPDATE effect SET due = 0")
        await it.act()
        case = await it.case()
        assert case.state is State.RECLAIMED
        assert case.before is not None
        assert case.before["permission_sets"] == ["Forecasting", "Newsletter"]
        assert case.before["profile"] == "Sales User"
        changes = [(one.field, one.after) for one in it.org.writes if one.field == "profile"]
        assert changes == [("profile", "Platform User")]


async def test_a_downgrade_that_is_refused_half_way_is_undone_when_it_is_kept(tmp_path: Path) -> None:
    async with world(None, tmp_path, org_with_licences) as it:
        await it.frozen(**DOWNGRADE)
        it.org.licences["AUL"] = 0
        it.clock.advance(7 * DAY)
        await it.act()
        case = await it.case()
        assert (case.state, case.unsure) == (State.ATTENTION, True)
        ada = it.org.users["005A"]
        assert ada.permission_sets == ["Newsletter"]
        await it.order(Retry("op"))
        await it.act()
        assert (await it.case()).before is not None
        await it.order(Decide("keep", "op", "console", "not worth it", it.clock.now()))
        await it.act()
        assert (await it.case()).state is State.RESTORED
        assert sorted(ada.permission_sets) == ["Forecasting", "Newsletter"]
        assert (ada.permission_set_licences, ada.frozen, ada.product) == (["Console"], False, "SFDC")


# A person frees the seat.


async def test_a_task_is_asked_for_after_grace_and_writes_nothing(
    database_url: str | None,  # noqa: F811
    tmp_path: Path,
) -> None:
    async with world(database_url, tmp_path) as it:
        give(it.org, "005A", "Opportunity", 2)
        await it.tell(flagged(**BY_HAND), source="scanner")
        await it.tell(decision("revoke"))
        await it.act()
        assert (await it.case()).state is State.IN_GRACE
        it.clock.advance(6 * DAY)
        await it.act()
        assert await it.said() == ["FulfilmentAnnounced"]
        it.clock.advance(DAY)
        await it.act()
        assert (await it.case()).state is State.AWAITING_FULFILMENT
        await it.order(NotFulfilled("op", "no access"))
        await it.order(Retry("op"))
        await it.act()
        await it.order(Fulfilled("op", "removed in the admin page"))
        await it.act()
        assert await it.said() == [
            "FulfilmentAnnounced", "FulfilmentRequested", "AttentionRaised", "FulfilmentRequested", "SeatReclaimed",
            "CaseClosed",
        ]  # fmt: skip
        await it.order(Reactivate("op", "asked for it"))
        assert (await it.case()).state is State.REACTIVATED
        assert it.org.writes == []
        async with it.running.database.reading() as db:
            found = await queries.summary(db)
        assert (found["reclaimed"], found["reactivated"]) == (1, 1)


async def test_what_a_ticket_says_of_a_task_is_believed_once_and_recorded_with_its_channel(
    database_url: str | None,  # noqa: F811
    tmp_path: Path,
) -> None:
    def told(*, done: bool) -> FulfilmentReported:
        return FulfilmentReported(
            case_id="case-1", done=done, channel="itsm", actor="Ann Agent", note="ticket 7", reported_at=NOW
        )

    async with world(database_url, tmp_path) as it:
        await it.tell(flagged(**BY_HAND), source="scanner")
        await it.tell(told(done=True), source="itsm-gateway")
        assert (await it.case()).state is State.FLAGGED
        await it.tell(decision("revoke"))
        await it.act()
        it.clock.advance(7 * DAY)
        await it.act()
        await it.tell(told(done=False), source="itsm-gateway")
        assert (await it.case()).state is State.ATTENTION
        for _ in range(2):
            await it.tell(told(done=True), source="itsm-gateway")
        assert (await it.case()).state is State.RECLAIMED
        assert [said for said in await it.said() if said == "SeatReclaimed"] == ["SeatReclaimed"]
        async with it.running.database.reading() as db:
            entries = [moment.link.entry for moment in await store.history(db, "case-1")]
        reports = [entry for entry in entries if entry.channel == "itsm"]
        assert [(entry.command, entry.accepted, entry.actor) for entry in reports] == [
            ("fulfilled", False, "Ann Agent"),
            ("not_fulfilled", True, "Ann Agent"),
            ("fulfilled", True, "Ann Agent"),
            ("fulfilled", False, "Ann Agent"),
        ]


async def test_who_came_back_before_a_task_is_left_alone(tmp_path: Path) -> None:
    async with world(None, tmp_path) as it:
        await it.tell(flagged(**BY_HAND), source="scanner")
        await it.tell(decision("revoke"))
        await it.act()
        it.org.users["005A"].last_used_at = NOW + 3 * DAY
        it.clock.advance(7 * DAY)
        await it.act()
        assert (await it.case()).state is State.CANCELLED


# Days on which nothing is freed.


async def test_no_seat_is_freed_on_a_friday_however_late_the_timer(tmp_path: Path) -> None:
    async with world(None, tmp_path) as it:
        # Frozen on Monday the 2nd; grace would end on Monday the 9th. The service is down until Friday.
        await it.frozen(no_reclaim_before_days_off=True, hand_over=False)
        it.clock.advance(11 * DAY)
        await it.act()
        case = await it.case()
        assert (case.state, case.grace_ends_at) == (State.FROZEN, datetime(2026, 11, 16, tzinfo=UTC))
        assert it.org.users["005A"].active
        it.clock.advance(3 * DAY)
        await it.act()
        assert (await it.case()).state is State.RECLAIMED


async def test_a_step_that_waited_into_a_friday_is_not_taken(tmp_path: Path) -> None:
    async with world(None, tmp_path) as it:
        await it.frozen(no_reclaim_before_days_off=True, hand_over=False)
        it.org.trouble = lambda operation, _id: "before" if operation == "deactivate" else "none"
        it.clock.advance(10 * DAY)
        await it.act()
        assert (await it.case()).state is State.RECLAIMING
        it.org.trouble = lambda _operation, _id: "none"
        it.clock.advance(DAY)
        await it.sql("UPDATE effect SET due = 0")
        await it.act()
        assert (await it.case()).state is State.FROZEN
        assert it.org.users["005A"].active
        it.clock.advance(3 * DAY)
        await it.act()
        assert (await it.case()).state is State.RECLAIMED


# Drift.


async def drift_of(it: World) -> list[Drift]:
    await it.once("drift")
    async with it.running.database.reading() as db:
        return [each.drift for each in await drift_store.drifts(db)]


async def next_day(it: World) -> list[Drift]:
    it.clock.advance(DAY + timedelta(minutes=1))
    return await drift_of(it)


async def test_an_account_that_somebody_unfroze_is_reported_once_and_cleared(
    database_url: str | None,  # noqa: F811
    tmp_path: Path,
) -> None:
    async with world(database_url, tmp_path) as it:
        await it.frozen()
        assert await drift_of(it) == []
        it.org.users["005A"].frozen = False
        assert await drift_of(it) == [], "compared once a day"
        (found,) = await next_day(it)
        assert (found.kind, found.case_id) == ("unfrozen", "case-1")
        async with it.running.database.reading() as db:
            (first,) = await drift_store.drifts(db)
        await next_day(it)
        async with it.running.database.reading() as db:
            (second,) = await drift_store.drifts(db)
        assert second == first
        it.org.users["005A"].frozen = True
        assert await next_day(it) == []
        async with it.running.database.reading() as db:
            (cleared,) = await drift_store.drifts(db, cleared=True)
        assert cleared.cleared_at == it.clock.now()
        assert (await it.case()).state is State.FROZEN
        assert len(it.org.writes) == 1, "nothing is done about it"


async def test_who_was_reactivated_or_deactivated_by_somebody_else_is_reported(tmp_path: Path) -> None:
    async with world(None, tmp_path) as it:
        await it.frozen()
        it.clock.advance(7 * DAY)
        await it.act()
        assert await drift_of(it) == []
        it.org.users["005A"].active = True
        (found,) = await next_day(it)
        assert found.kind == "reactivated"
        await it.order(Reactivate("op", "the org says so"))
        await it.act()
        assert await next_day(it) == []
        it.org.users["005A"].active = False
        (found,) = await next_day(it)
        assert found.kind == "deactivated"
        it.clock.advance(40 * DAY)
        assert await drift_of(it) == [], "after a month it is a seat as any other"


async def test_a_licence_that_was_changed_is_reported(tmp_path: Path) -> None:
    async with world(None, tmp_path, org_with_licences) as it:
        await downgraded(it)
        assert await drift_of(it) == []
        it.org.users["005A"].product = "Other"
        (found,) = await next_day(it)
        assert found.kind == "licence_changed"
        it.org.users["005A"].product = "SFDC"
        (found,) = await next_day(it)
        assert found.kind == "reactivated"


@pytest.mark.parametrize("how", ["inactive", "gone", "other licence"])
async def test_a_seat_that_vanished_closes_its_case_with_evidence(tmp_path: Path, how: str) -> None:
    async with world(None, tmp_path) as it:
        await it.tell(flagged(), source="scanner")
        if how == "inactive":
            it.org.users["005A"].active = False
        elif how == "gone":
            del it.org.users["005A"]
        else:
            it.org.users["005A"].product = "AUL"
        assert await drift_of(it) == []
        assert (await it.case()).state is State.SKIPPED
        assert await it.said() == ["CaseClosed"]
        async with it.running.database.reading() as db:
            rows = await db.exec_driver_sql("SELECT channel, evidence FROM audit ORDER BY position DESC LIMIT 1")
            channel, evidence = rows.one()
        assert channel == "drift"
        assert "005A" in evidence
        assert await it.verified()


async def test_a_frozen_seat_that_vanished_tells_savings_so(tmp_path: Path) -> None:
    async with world(None, tmp_path) as it:
        await it.frozen()
        it.org.users["005A"].active = False
        await drift_of(it)
        assert (await it.case()).state is State.SKIPPED
        async with it.running.database.reading() as db:
            rows = await db.exec_driver_sql("SELECT body FROM outbox ORDER BY seq DESC LIMIT 1")
            body = bytes(rows.scalar_one())
        assert b'"frozen"' in body


async def test_many_seats_that_vanish_at_once_are_not_believed(tmp_path: Path) -> None:
    def crowded(clock: FixedClock) -> FakeOrg:
        org = org_of(clock)
        for number in range(10):
            user_id = f"005X{number}"
            org.users[user_id] = FakeUser(user_id, created_at=NOW - 900 * DAY, last_used_at=NOW - 200 * DAY)
        return org

    async with world(None, tmp_path, crowded) as it:
        cases = [flagged(f"case-{number}", f"005X{number}") for number in range(10)]
        await it.tell(*cases, source="scanner")
        for number in range(6):
            it.org.users[f"005X{number}"].active = False
        assert {drift.kind for drift in await drift_of(it)} == {"gone"}
        async with it.running.database.reading() as db:
            (run,) = await drift_store.runs(db)
        assert "6 of 10" in run["trouble"]
        assert (await it.case("case-0")).open
        it.org.users["005X0"].active = True
        assert await next_day(it) == [], "five of ten are believed, and what was doubted is cleared"
        assert (await it.case("case-0")).open
        assert (await it.case("case-1")).state is State.SKIPPED


async def test_a_system_that_does_not_answer_is_asked_again_in_an_hour(tmp_path: Path) -> None:
    async with world(None, tmp_path) as it:
        await it.frozen()
        it.org.users["005A"].frozen = False
        it.org.down = Transient("the org is away")
        assert await drift_of(it) == []
        it.org.down = None
        assert await drift_of(it) == []
        it.clock.advance(timedelta(hours=1, minutes=1))
        assert [drift.kind for drift in await drift_of(it)] == ["unfrozen"]


async def test_what_cannot_be_read_is_no_drift(tmp_path: Path) -> None:
    async with world(None, tmp_path) as it:
        await it.frozen()
        it.org.users["005A"].frozen = False
        it.org.unreadable["frozen"] = "no permission"
        assert await drift_of(it) == []


async def test_a_task_that_looks_done_is_reported_and_not_closed(tmp_path: Path) -> None:
    async with world(None, tmp_path) as it:
        await it.tell(flagged(**BY_HAND), source="scanner")
        await it.tell(decision("revoke"))
        await it.act()
        it.clock.advance(7 * DAY)
        await it.act()
        it.org.users["005A"].active = False
        (found,) = await drift_of(it)
        assert found.kind == "done_by_hand"
        assert (await it.case()).state is State.AWAITING_FULFILMENT
        await it.order(Fulfilled("op", "done"))
        assert await next_day(it) == []
        it.org.users["005A"].active = True
        (found,) = await next_day(it)
        assert found.kind == "reactivated"
        assert "op said" in found.detail
