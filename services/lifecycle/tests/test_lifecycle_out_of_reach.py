"""Accounts out of the connection's reach: not shown any more, deleted, switched off by somebody else, and back."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa

from reclaim.connectors.fake import FakeReader, FakeUser
from reclaim.connectors.ports import SeatRecord
from reclaim.lifecycle import store
from reclaim.lifecycle.domain import AccountDeleted, Decide, Reactivate, Retry, State, Unfreeze
from reclaim.lifecycle.submit import Submission, submit
from services.lifecycle.tests.lifecycle_site import DAY, Site, case_id, decided, delivered, flagged, serving
from services.lifecycle.tests.test_lifecycle_one_switch import kinds_of_drift, org_with_one_switch
from services.lifecycle.tests.test_lifecycle_service import NOW, World, decision, withdrawn, world
from services.lifecycle.tests.test_lifecycle_service import flagged as flag


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.servers)])
def database_url(request: pytest.FixtureRequest) -> str | None:
    return None if request.param == "sqlite" else request.getfixturevalue("fresh_database")


async def hidden(it: World) -> FakeUser:
    """Freeze the account, hide it from the connection, and let grace end; return it."""
    await it.frozen()
    user = it.org.users.pop("005A")
    it.clock.advance(7 * DAY)
    await it.act()
    return user


async def trail(it: World) -> list[str]:
    async with it.running.database.reading() as db:
        return [moment.link.entry.note for moment in await store.history(db, "case-1")]


async def test_a_frozen_account_that_is_not_shown_any_more_is_for_a_person(
    database_url: str | None, tmp_path: Path
) -> None:
    async with world(database_url, tmp_path) as it:
        user = await hidden(it)
        case = await it.case()
        assert case.state is State.ATTENTION
        assert case.attention is not None
        assert "does not show the account" in case.attention.reason
        assert "If it was deleted, say so" in case.attention.remedy
        assert await it.said() == ["UserFrozen", "AttentionRaised"]
        # The connection may see it again: whoever looks again goes on as if nothing had been.
        it.org.users["005A"] = user
        await it.order(Retry("op"))
        await it.act()
        assert (await it.case()).state is State.RECLAIMED
        assert await it.verified()


async def test_an_account_that_was_deleted_closes_its_case_by_a_persons_word_and_saves_nothing(
    database_url: str | None, tmp_path: Path
) -> None:
    async with world(database_url, tmp_path) as it:
        await hidden(it)
        await it.order(AccountDeleted("op", "its owner deleted it"))
        case = await it.case()
        assert (case.state, case.open, case.left_frozen) == (State.SKIPPED, False, True)
        assert await it.said() == ["UserFrozen", "AttentionRaised", "CaseClosed"]
        assert (await trail(it))[-1] == "op says that the account was deleted: its owner deleted it"
        assert await it.verified()


async def test_what_is_not_out_of_sight_is_not_said_to_be_deleted(tmp_path: Path) -> None:
    async with world(None, tmp_path) as it:
        await it.frozen()
        it.org.users["005A"].frozen = False
        it.clock.advance(7 * DAY)
        await it.act()
        assert (await it.case()).state is State.ATTENTION
        await it.order(AccountDeleted("op", "I believe"))
        assert (await it.case()).state is State.ATTENTION
        assert (await trail(it))[-1] == "the case does not wait for an account that is out of sight"


async def test_the_daily_comparison_closes_no_case_of_a_frozen_account_that_is_not_shown(tmp_path: Path) -> None:
    async with world(None, tmp_path) as it:
        await it.frozen()
        user = it.org.users.pop("005A")
        assert await kinds_of_drift(it) == ["unseen"]
        assert (await it.case()).state is State.FROZEN
        await it.tell(withdrawn(kind="vanished", reason="a scan saw nothing"), source="scanner")
        assert (await it.case()).state is State.FROZEN
        it.org.users["005A"] = user
        assert await kinds_of_drift(it) == []


async def test_an_appeal_for_an_account_that_is_not_shown_waits_for_a_person_too(tmp_path: Path) -> None:
    async with world(None, tmp_path) as it:
        await it.frozen()
        del it.org.users["005A"]
        await it.tell(decision("keep"))
        await it.act()
        case = await it.case()
        assert (case.state, case.attention is not None and case.attention.unseen) == (State.ATTENTION, True)
        await it.order(AccountDeleted("op", "asked"))
        assert (await it.case()).state is State.SKIPPED


@pytest.mark.parametrize("frozen", [False, True], ids=["before the freeze", "before the reclaim"])
async def test_an_account_that_goes_out_of_sight_within_a_check_is_not_judged_by_the_parts_that_lack_it(
    frozen: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(None, tmp_path) as it:
        if frozen:
            await it.frozen()
            it.clock.advance(7 * DAY)
        else:
            await it.tell(flag(), source="scanner")
            await it.tell(decision("revoke"))
        shown = FakeReader.seats_of

        async def seats_of(reader: FakeReader, holders: Sequence[str]) -> Mapping[str, SeatRecord]:
            found = await shown(reader, holders)
            it.org.users.pop("005A", None)
            return found

        user = it.org.users["005A"]
        monkeypatch.setattr(FakeReader, "seats_of", seats_of)
        await it.act()
        assert (await it.case()).state is (State.CHECKING_BEFORE_RECLAIM if frozen else State.CHECKING_BEFORE_FREEZE)
        monkeypatch.undo()
        it.org.users["005A"] = user
        await it.sql("UPDATE effect SET due = 0")
        await it.act()
        assert (await it.case()).state is (State.RECLAIMED if frozen else State.FROZEN)
        assert user.frozen


async def test_a_freed_account_that_was_deleted_is_not_given_back_for_ever(tmp_path: Path) -> None:
    async with world(None, tmp_path) as it:
        await it.frozen()
        it.clock.advance(7 * DAY)
        await it.act()
        del it.org.users["005A"]
        await it.order(Reactivate("op", "wanted"))
        await it.act()
        assert (await it.case()).state is State.ATTENTION
        await it.order(AccountDeleted("op", "asked"))
        assert (await it.case()).state is State.RECLAIMED
        assert await it.said() == ["UserFrozen", "SeatReclaimed", "CaseClosed", "AttentionRaised"]


async def test_where_a_switch_frees_the_seat_a_deleted_account_is_no_end_by_itself_either(tmp_path: Path) -> None:
    async with world(None, tmp_path, org_with_one_switch) as it:
        await hidden(it)
        assert (await it.case()).state is State.ATTENTION
        await it.order(AccountDeleted("op", "asked"))
        assert (await it.case()).state is State.SKIPPED


# A freeze that outlives its case.


async def left_behind(it: World) -> None:
    """Freeze the account, have somebody else deactivate it, which ends the case, and reactivate it."""
    await it.frozen()
    user = it.org.users["005A"]
    user.active = False
    assert await kinds_of_drift(it) == []
    case = await it.case()
    assert (case.state, case.left_frozen) == (State.SKIPPED, True)
    assert await kinds_of_drift(it) == [], "who is switched off is not held by our freeze"
    user.active = True


async def test_who_comes_back_frozen_by_us_is_reported_and_let_in_by_one_order(
    database_url: str | None, tmp_path: Path
) -> None:
    async with world(database_url, tmp_path) as it:
        await left_behind(it)
        assert await kinds_of_drift(it) == ["left_frozen"]
        await it.order(Unfreeze("op"))
        await it.act()
        assert not it.org.users["005A"].frozen
        assert (await it.case()).state is State.RESTORED
        assert await it.said() == ["UserFrozen", "CaseClosed", "UserRestored"], "a case is closed once"
        assert await kinds_of_drift(it) == []
        await it.order(Unfreeze("op"))
        assert (await it.case()).state is State.RESTORED
        assert await it.verified()


async def test_an_unfreezing_whose_answer_was_lost_is_said_though_the_next_attempt_found_it_done(
    tmp_path: Path,
) -> None:
    async with world(None, tmp_path) as it:
        await left_behind(it)
        it.org.trouble = lambda operation, _id: "after" if operation == "unfreeze" else "none"
        await it.order(Unfreeze("op"))
        await it.act()
        assert (await it.case()).state is State.RESTORING
        assert not it.org.users["005A"].frozen
        it.org.trouble = lambda _operation, _id: "none"
        await it.sql("UPDATE effect SET due = 0")
        await it.act()
        assert (await it.case()).state is State.RESTORED
        assert (await it.said()).count("UserRestored") == 1


async def test_a_case_that_a_release_before_closed_is_not_closed_again(tmp_path: Path) -> None:
    async with world(None, tmp_path) as it:
        await left_behind(it)
        async with it.running.database.unit() as unit:
            before = msgspec.structs.replace((await store.load(unit.db, ["case-1"]))["case-1"], closed_as=None)
            await store.update(unit.db, [before], unit.now)
        await it.order(Unfreeze("op"))
        await it.act()
        assert (await it.case()).state is State.RESTORED
        assert await it.said() == ["UserFrozen", "CaseClosed", "UserRestored"]


async def test_where_somebody_let_them_in_already_nothing_is_said_to_be_restored(tmp_path: Path) -> None:
    async with world(None, tmp_path) as it:
        await left_behind(it)
        it.org.users["005A"].frozen = False
        assert await kinds_of_drift(it) == []
        await it.order(Unfreeze("op"))
        await it.act()
        case = await it.case()
        assert (case.state, case.left_frozen) == (State.SKIPPED, False)
        assert "UserRestored" not in await it.said()


async def test_somebody_elses_freeze_is_left_to_them(tmp_path: Path) -> None:
    async with world(None, tmp_path) as it:
        await left_behind(it)
        it.org.users["005A"].frozen_by_another = True
        await it.order(Unfreeze("op"))
        await it.act()
        assert it.org.users["005A"].frozen
        assert (await it.case()).state is State.ATTENTION
        await it.order(Decide("keep", "op", "console", "it is the auditors'", it.clock.now()))
        assert (await it.case()).state is State.KEPT
        assert (await it.said()).count("CaseClosed") == 1


async def test_a_case_from_before_the_column_is_followed_as_well(database_url: str | None, tmp_path: Path) -> None:
    async with world(database_url, tmp_path) as it:
        await left_behind(it)
        await it.tell(flag("case-2", "005M"), source="scanner")
        await it.tell(decision("keep", "case-2"))
        await it.sql("UPDATE reclaim_case SET left_frozen = false")
        path = Path(store.__file__).parent / "migrations" / "0009_left_frozen.py"
        spec = importlib.util.spec_from_file_location("the_migration", path)
        assert spec is not None
        assert spec.loader is not None
        migration = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(migration)
        async with it.running.database.unit() as unit:
            await unit.db.run_sync(lambda db: migration.fill(db))
        async with it.running.database.reading() as db:
            left = await db.execute(sa.select(store.CASE.c.id).where(store.CASE.c.left_frozen))
            assert list(left.scalars()) == ["case-1"]


# On the pages and over the API.


async def frozen_and_hidden(site: Site) -> FakeUser:
    await site.tell(flagged(0), source="scanner")
    await site.tell(delivered(0), decided(0, "revoke"))
    await site.act()
    user = site.org.users.pop("005-000")
    site.clock.advance(7 * DAY)
    await site.act()
    return user


async def test_the_list_leads_to_saying_that_it_was_deleted(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        await frozen_and_hidden(site)
        async with site.client("viewer") as http:
            (item,) = (await http.get("/lifecycle/api/attention")).json()["items"]
            assert (item["kind"], item["offers"]) == ("reclaim", ["deleted", "keep", "retry"])
            refused = await http.post(f"/lifecycle/api/cases/{case_id(0)}/deleted", json={"note": "x"})
            assert refused.status_code == 403
        operator = await site.browser("operator")
        assert f"/lifecycle/cases/{case_id(0)}#deleted" in await operator.get("/lifecycle/attention")
        page = await operator.get(f"/lifecycle/cases/{case_id(0)}")
        assert "Was the account deleted?" in page
        assert "Look again" in page
        answer = await operator.post(f"/lifecycle/cases/{case_id(0)}/deleted", {"note": "its owner said so"})
        assert answer.status_code == 303
        assert (await site.case(case_id(0))).state is State.SKIPPED
        async with site.client("operator") as http:
            again = await http.post(f"/lifecycle/api/cases/{case_id(0)}/deleted", json={"note": "x"})
            assert again.status_code == 409


async def test_a_freeze_that_outlived_its_case_stands_in_attention_with_one_click(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        user = await frozen_and_hidden(site)
        async with site.client("operator") as http:
            await http.post(f"/lifecycle/api/cases/{case_id(0)}/deleted", json={"note": "so they say"})
            site.org.users[user.id] = user
            site.clock.advance(DAY + timedelta(minutes=1))
            await site.once("drift")
            found = (await http.get("/lifecycle/api/attention")).json()
            (item,) = found["items"]
            assert (item["kind"], item["offers"]) == ("left_frozen", ["unfreeze"])
            assert (found["counts"]["left_frozen"], found["total"]) == (1, 1)
            only = (await http.get("/lifecycle/api/attention", params={"kind": "left_frozen"})).json()
            assert only["items"] == found["items"]
            operator = await site.browser("operator")
            assert "Unfreeze what we froze" in await operator.get("/lifecycle/attention")
            assert "Unfreeze what we froze" in await operator.get(f"/lifecycle/cases/{case_id(0)}")
            form = {"back": "/lifecycle/attention"}
            answer = await operator.post(f"/lifecycle/cases/{case_id(0)}/unfreeze", form)
            assert answer.headers["location"] == "/lifecycle/attention"
            assert (await http.get("/lifecycle/api/attention")).json()["total"] == 0
            await site.act()
            assert not user.frozen
            assert (await http.post(f"/lifecycle/api/cases/{case_id(0)}/unfreeze")).status_code == 409


async def test_what_a_later_case_froze_is_not_undone_on_the_page_of_the_one_before(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        user = await frozen_and_hidden(site)
        async with site.client("operator") as http:
            await http.post(f"/lifecycle/api/cases/{case_id(0)}/deleted", json={"note": "so they say"})
            user.frozen = False  # somebody let them in in the product itself
            site.org.users[user.id] = user
            site.clock.advance(200 * DAY)  # their account counts as changed by an administrator for a while
            again = msgspec.structs.replace(flagged(0), case_id="later", flagged_at=site.clock.now())
            await site.tell(again, source="scanner")
            await site.tell(msgspec.structs.replace(decided(0, "revoke"), case_id="later"))
            await site.act()
            assert (user.frozen, (await site.case("later")).state) == (True, State.FROZEN)
            refused = await http.post(f"/lifecycle/api/cases/{case_id(0)}/unfreeze")
            assert (refused.status_code, "Case later is about" in refused.text) == (409, True)
            page = await (await site.browser("operator")).get(f"/lifecycle/cases/{case_id(0)}")
            assert ("Unfreeze what we froze" in page, "/lifecycle/cases/later" in page) == (False, True)
            # Ordered in the very moment in which the later case froze it, it is stopped before it is sent.
            async with site.running.database.unit() as unit:
                await submit(unit, [Submission(case_id(0), Unfreeze("op"), actor="op")])
            await site.act()
            left = await site.case(case_id(0))
            assert (user.frozen, left.state) == (True, State.ATTENTION)
            assert left.attention is not None
            assert "Case later is about the same seat" in left.attention.reason
            await http.post(f"/lifecycle/api/cases/{case_id(0)}/decision", json={"decision": "keep", "reason": "its"})
            assert (await site.case(case_id(0))).open is False
            await site.act()
            assert (user.frozen, (await site.case("later")).state) == (True, State.FROZEN)


async def test_a_used_seat_whose_freeze_was_under_way_is_cancelled_and_says_so(tmp_path: Path) -> None:
    async with world(None, tmp_path) as it:
        await it.tell(flag(), source="scanner")
        await it.tell(decision("revoke"))
        await it.once("act")
        assert (await it.case()).state is State.FREEZING
        await it.tell(withdrawn(kind="used", reason="a sign-in of today"), source="scanner")
        await it.act()
        assert (await it.case()).state is State.CANCELLED
        assert (await trail(it))[-1] == (
            "nothing had been done yet: withdrawn by maria.ops, as the seat is used: a sign-in of today"
        )
        assert it.org.writes == []


async def test_a_used_seat_that_was_frozen_is_restored_and_cancelled(tmp_path: Path) -> None:
    async with world(None, tmp_path) as it:
        await it.frozen()
        await it.tell(withdrawn(kind="used", reason="a sign-in of today"), source="scanner")
        await it.act()
        assert (await it.case()).state is State.CANCELLED
        assert (await trail(it))[-1] == "restored: withdrawn by maria.ops, as the seat is used: a sign-in of today"
        assert await it.said() == ["UserFrozen", "UserRestored", "CaseClosed"]


async def test_a_withdrawal_of_a_freed_seat_says_that_it_came_too_late(tmp_path: Path) -> None:
    async with world(None, tmp_path) as it:
        await it.frozen()
        it.clock.advance(7 * DAY)
        await it.act()
        await it.tell(withdrawn(kind="used", reason="a sign-in of today", withdrawn_at=NOW), source="scanner")
        assert (await it.case()).state is State.RECLAIMED
        assert (await trail(it))[-1] == (
            "withdrawn by maria.ops (used): a sign-in of today. It came too late: the seat is freed already"
        )
