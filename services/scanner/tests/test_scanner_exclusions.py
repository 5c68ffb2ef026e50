"""Exclusions: what they cover, what they do to open cases, and what happens when they end."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command

from reclaim.common import migrate
from reclaim.common.contracts import CaseClosed, CaseWithdrawn, Person
from reclaim.common.db import open_engine
from reclaim.common.errors import Conflict, Invalid, NotFound
from reclaim.connectors.ports import Members
from reclaim.scanner import actions, exclusion_store, jobs, opening, service, store
from reclaim.scanner.domain import Exclusion, Exclusions, Rejected, read_exclusion
from reclaim.scanner.explain import explain
from services.scanner.tests.scanner_world import NOON, Scanner, Served
from services.scanner.tests.test_scanner_api import connected as connected_by_api
from services.scanner.tests.test_scanner_domain import seat
from services.scanner.tests.test_scanner_scan import connected, flagged, found, ready, ruled, scanned

PERSON = {"kind": "person", "value": "u00001", "reason": "parental leave"}


def exclusion(kind: Any, value: str = "", **more: Any) -> Exclusion:
    values: dict[str, Any] = {
        "id": "e1",
        "kind": kind,
        "value": value,
        "connection_id": None,
        "connection_name": None,
        "reason": "parental leave",
        "author": "otto",
        "created_at": NOON,
        "expires_at": None,
        "ended_at": None,
        "ended_by": None,
    }
    return Exclusion(**{**values, **more})


async def exclude(scanner: Scanner, raw: dict[str, Any]) -> tuple[Exclusion, int]:
    return await actions.add_exclusion(scanner.deps, raw, author="otto")


# ------------------------------------------------------------------------------------------------ what they cover


@pytest.mark.parametrize(
    ("made", "covered"),
    [
        (exclusion("person", "u1"), True),
        (exclusion("person", "U1@ACME.example"), True),
        (exclusion("person", "u2"), False),
        (exclusion("person", "u1", connection_id="c1"), True),
        (exclusion("person", "u1", connection_id="c2"), False),
        (exclusion("department", "sales,  EMEA"), True),
        (exclusion("department", "Sales"), False),
        (exclusion("product", "sfdc"), True),
        (exclusion("product", "Salesforce"), True),
        (exclusion("product", "AUL"), False),
        (exclusion("connection", connection_id="c1"), True),
        (exclusion("connection", connection_id="c2"), False),
        (exclusion("person", "u1", expires_at=NOON + timedelta(seconds=1)), True),
        (exclusion("person", "u1", expires_at=NOON), False),
        (exclusion("person", "u1", ended_at=NOON), False),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_exclusion_covers_what_it_names(made: Exclusion, covered: bool) -> None:
    one = seat(holder=Person(id="u1", name="Holder", email="u1@acme.example"), department="Sales, EMEA")
    evidence = Exclusions([made], "c1", NOON).evidence(one)
    assert (evidence is not None) is covered
    if evidence is not None:
        assert "parental leave" in evidence
        assert "otto" in evidence


def test_a_seat_without_a_department_or_an_address_is_in_none_and_is_nobody() -> None:
    assert Exclusions([exclusion("department", "x"), exclusion("person", "y")], "c1", NOON).evidence(seat()) is None


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        ({"kind": "team", "value": "x", "reason": "because"}, "kind"),
        ({"kind": "person", "value": " ", "reason": "because"}, "value"),
        ({"kind": "connection", "reason": "because"}, "connection_id"),
        ({"kind": "group", "value": "VIP", "reason": "because"}, "connection_id"),
        ({"kind": "group", "value": "", "connection_id": "c1", "reason": "because"}, "value"),
        ({"kind": "person", "value": "u1", "reason": ""}, "reason"),
        ({"kind": "person", "value": "u1", "reason": "because", "expires_at": "soon"}, "expires_at"),
        ({"kind": "person", "value": "u1", "reason": "because", "expires_at": "2026-11-19"}, "expires_at"),
        ({"kind": "person", "value": "u1", "reason": "because", "expires_at": "9999-12-31"}, "expires_at"),
        ({"kind": "person", "value": "x" * 201, "reason": "because"}, "value"),
    ],
)
def test_an_exclusion_that_says_too_little_is_refused_by_its_field(raw: dict[str, object], field: str) -> None:
    with pytest.raises(Rejected) as caught:
        read_exclusion(raw, NOON)
    assert field in caught.value.by_field


def test_a_date_alone_includes_that_day() -> None:
    terms = read_exclusion({**PERSON, "expires_at": "2026-11-20"}, NOON)
    assert terms.expires_at == NOON.replace(hour=0) + timedelta(days=1)


def test_who_may_be_in_an_excluded_group_is_left_alone_as_who_is() -> None:
    made = exclusion("group", "VIP", connection_id="c1")
    ann, bob = seat(holder=Person(id="u1", name="Ann")), seat(holder=Person(id="u2", name="Bob"))

    def evidence(members: Members | None) -> list[str | None]:
        known = {} if members is None else {"VIP": members}
        found = Exclusions([made], "c1", NOON, groups=known)
        return [found.evidence(one) for one in (ann, bob)]

    assert evidence(Members(frozenset({"u1"}))) == [f"in the group VIP, {made.evidence}", None]
    assert [bool(one) for one in evidence(Members(frozenset({"u1"}), doubt="A role is in it."))] == [True, True]
    assert all(one is not None and "may be in the group VIP" in one for one in evidence(None))
    assert Exclusions([made], "c2", NOON).evidence(ann) is None


# ------------------------------------------------------------------------------------------------ scans and cases


@pytest.mark.parametrize(
    ("raw", "left"),
    [
        ({"kind": "person", "value": "u00001"}, ["u00002"]),
        ({"kind": "person", "value": "u00002@acme.example"}, ["u00001", "u00002"]),
        ({"kind": "department", "value": "sales"}, []),
        ({"kind": "product", "value": "SFDC"}, []),
        ({"kind": "product", "value": "AUL"}, ["u00001", "u00002"]),
    ],
    ids=["person", "another address", "department", "product", "another product"],
)
async def test_what_is_excluded_is_not_flagged_and_counts_as_exempt(
    both: Scanner, raw: dict[str, str], left: list[str]
) -> None:
    await exclude(both, {**raw, "reason": "parental leave"})
    run = await scanned(both, await ready(both))
    assert await flagged(both) == left
    assert run.left_alone.get("exempt", 0) >= 2 - len(left)
    assert run.seen == run.used + run.flagged + sum(run.left_alone.values())


async def test_an_exclusion_that_is_added_while_a_case_is_open_closes_it(both: Scanner) -> None:
    await scanned(both, await ready(both))
    added, closed = await exclude(both, {**PERSON, "expires_at": "2027-01-31"})
    assert closed == 1
    (told,) = await both.said(CaseWithdrawn)
    assert (told.kind, told.actor) == ("exempted", "otto")
    assert told.reason == added.evidence
    assert "until 2027-02-01" not in told.reason
    async with both.running.database.reading() as db:
        cases = {one.holder.id: one.case_id for one in await store.candidates(db, is_open=True)}
    assert told.case_id == cases["u00001"]
    await both.hear(CaseClosed(case_id=told.case_id, outcome="skipped", reason=told.reason, closed_at=NOON))
    run = await scanned(both, (await rules(both))[0])
    assert run.left_alone["exempt"] == 1
    assert run.flagged == 0


async def test_an_exclusion_that_expires_while_a_case_is_open_lets_it_proceed(both: Scanner) -> None:
    """The case of another seat goes on, and the seat itself is flagged by the next scan."""
    rule = await ready(both)
    await exclude(both, {**PERSON, "expires_at": "2026-11-25"})
    await scanned(both, rule)
    assert await flagged(both) == ["u00002"]
    both.clock.advance(timedelta(days=6))
    assert await both.said(CaseWithdrawn) == []
    async with both.running.database.reading() as db:
        assert [one.holder.id for one in await store.candidates(db, is_open=True)] == ["u00002"]
        assert await exclusion_store.exclusions(db, both.clock.now()) == []
    await scanned(both, rule)
    assert await flagged(both) == ["u00002", "u00001"]
    assert await both.said(CaseWithdrawn) == []


async def test_an_exclusion_that_is_ended_is_over_and_stays_on_record(both: Scanner) -> None:
    added, _ = await exclude(both, PERSON)
    ended = await actions.end_exclusion(both.deps, added.id, by="vera")
    assert (ended.ended_by, ended.ended_at) == ("vera", NOON)
    with pytest.raises(Conflict, match="over already"):
        await actions.end_exclusion(both.deps, added.id, by="vera")
    with pytest.raises(NotFound):
        await actions.end_exclusion(both.deps, "nothing", by="vera")
    await scanned(both, await ready(both))
    assert "u00001" in await flagged(both)
    async with both.running.database.reading() as db:
        assert [one.id for one in await exclusion_store.exclusions(db, NOON, past=True)] == [added.id]
        assert await exclusion_store.exclusions(db, NOON) == []


async def test_an_exclusion_of_one_connection_leaves_the_others_as_they_are(both: Scanner) -> None:
    first, second = await connected(both), await connected(both, name="Second")
    await scanned(both, await ruled(both, first))
    await scanned(both, await ruled(both, second, name="Other"))
    _, closed = await exclude(both, {"kind": "connection", "connection_id": second.id, "reason": "being moved"})
    assert closed == 2
    with pytest.raises(NotFound):
        await exclude(both, {"kind": "connection", "connection_id": "nothing", "reason": "being moved"})


async def test_an_exclusion_that_comes_while_cases_are_opened_leaves_none_behind(
    both: Scanner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Added between the judging and the opening of a page, or at the very moment: either way no case stays open."""
    original = opening._open
    adding: list[asyncio.Task[Any]] = []

    async def open_slowly(*args: Any, **more: Any) -> int:
        adding.append(asyncio.create_task(exclude(both, PERSON)))
        await asyncio.sleep(0.1)
        return await original(*args, **more)

    monkeypatch.setattr(opening, "_open", open_slowly)
    rule = await ready(both)
    run = await scanned(both, rule)
    (_, closed), *_ = await asyncio.gather(*adding)
    opened = "u00001" in await flagged(both)
    withdrawn = [event.case_id for event in await both.said(CaseWithdrawn)]
    assert opened
    assert closed == len(withdrawn) == 1
    assert (await found(both, run.id)).flagged == 2


async def test_what_is_excluded_between_the_reading_and_the_opening_is_not_opened(
    both: Scanner, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = jobs._open_page

    async def open_page(*args: Any, **more: Any) -> bool:
        async with both.running.database.reading() as db:
            known = await exclusion_store.exclusions(db, NOON)
        if not known:
            await exclude(both, PERSON)
        return await original(*args, **more)

    monkeypatch.setattr(jobs, "_open_page", open_page)
    run = await scanned(both, await ready(both))
    assert await flagged(both) == ["u00002"]
    assert (run.flagged, run.left_alone["exempt"]) == (1, 1)
    assert run.seen == run.used + run.flagged + sum(run.left_alone.values())
    assert await both.said(CaseWithdrawn) == []


# ------------------------------------------------------------------------------------------------ groups


async def test_an_excluded_group_is_left_alone_and_its_open_cases_are_closed(both: Scanner) -> None:
    both.org.groups = {"VIP": {"u00001"}, "Others": {"u00003"}}
    rule = await ready(both)
    vip = {"kind": "group", "value": "VIP", "connection_id": rule.connection_id, "reason": "the board"}
    await scanned(both, rule)
    added, closed = await exclude(both, vip)
    (told,) = await both.said(CaseWithdrawn)
    assert (closed, told.kind, told.reason) == (1, "exempted", f"in the group VIP, {added.evidence}")
    await both.hear(CaseClosed(case_id=told.case_id, outcome="skipped", reason=told.reason, closed_at=NOON))
    run = await scanned(both, rule)
    assert (run.flagged, run.left_alone["exempt"]) == (0, 1)
    (verdict,) = (await explain(both.deps, rule.connection_id, "u00001")).verdicts
    assert (verdict.result, "in the group VIP" in verdict.summary) == ("left_alone", True)
    both.org.groups["VIP"] = set()
    assert (await scanned(both, rule)).flagged == 1, "who left the group may be asked"


async def test_while_an_excluded_group_cannot_be_read_nobody_is_flagged(both: Scanner) -> None:
    both.org.groups = {"VIP": {"u00001"}}
    rule = await ready(both)
    await exclude(both, {"kind": "group", "value": "VIP", "connection_id": rule.connection_id, "reason": "the board"})
    both.org.unreadable = {"VIP": "The group could not be read."}
    run = await scanned(both, rule)
    assert (run.flagged, run.left_alone["exempt"]) == (0, 3)
    assert run.missing == {"group VIP": "The group could not be read."}


async def test_a_group_that_is_excluded_while_a_scan_reads_holds_everybody_back(
    both: Scanner, monkeypatch: pytest.MonkeyPatch
) -> None:
    both.org.groups = {"VIP": {"u00001"}}
    rule = await ready(both)
    original = jobs._open_page

    async def open_page(*args: Any, **more: Any) -> bool:
        async with both.running.database.reading() as db:
            known = await exclusion_store.exclusions(db, NOON)
        if not known:
            vip = {"kind": "group", "value": "VIP", "connection_id": rule.connection_id, "reason": "the board"}
            await exclude(both, vip)
        return await original(*args, **more)

    monkeypatch.setattr(jobs, "_open_page", open_page)
    assert (await scanned(both, rule)).flagged == 0, "the scan did not ask who is in it"
    assert (await scanned(both, rule)).flagged == 1


async def test_a_group_exclusion_that_nobody_can_answer_is_refused(scanner: Scanner) -> None:
    connection = await connected(scanner)
    raw = {"kind": "group", "value": "VIPs", "connection_id": connection.id, "reason": "the board"}
    with pytest.raises(Invalid, match="no group 'VIPs'"):
        await exclude(scanner, raw)
    devices = await actions.add_connection(
        scanner.deps, name="Desktops", kind="installed", settings={}, credentials={}, test=False
    )
    with pytest.raises(Rejected, match="tells nobody's groups"):
        await exclude(scanner, {**raw, "connection_id": devices.id})
    assert await exclusions_of(scanner) == []


async def exclusions_of(scanner: Scanner) -> list[Exclusion]:
    async with scanner.running.database.reading() as db:
        return await exclusion_store.exclusions(db, NOON)


async def test_departments_that_were_excluded_as_groups_go_on_as_departments(
    tmp_path: Path, database_url: str | None
) -> None:
    engine = open_engine(database_url or f"sqlite+aiosqlite:///{tmp_path}/old.db")
    versions = Path(service.__file__).parent / "migrations"
    values = {"value": "Sales", "reason": "r", "author": "a", "created_at": NOON}

    def as_it_was(db: sa.Connection) -> None:
        command.upgrade(migrate._config(versions, db), "scanner_0010")
        for number, kind in enumerate(("group", "person")):
            db.execute(sa.insert(exclusion_store.EXCLUSIONS).values(id=f"e{number}", kind=kind, **values))

    async with engine.begin() as db:
        await db.run_sync(as_it_was)
    await migrate.upgrade(engine, versions)
    async with engine.connect() as db:
        kinds = (await db.execute(sa.text("SELECT kind FROM exclusions ORDER BY id"))).scalars().all()
    await engine.dispose()
    assert kinds == ["department", "person"]


async def rules(scanner: Scanner) -> list[store.Rule]:
    async with scanner.running.database.reading() as db:
        return await store.rules(db)


# ------------------------------------------------------------------------------------------------ API


async def test_an_exclusion_of_nobody_known_is_kept_with_a_warning(both: Scanner) -> None:
    await scanned(both, await ready(both))
    for value, known in (("u00001", True), (" U00001 ", True), ("u0001", False)):
        added, _ = await exclude(both, {**PERSON, "value": value})
        warning = await actions.protects_nobody(both.deps, added)
        assert (warning is None) == known, value
    assert len(await both.rows("SELECT id FROM exclusions")) == 3, "kept all the same"
    added, _ = await exclude(both, {**PERSON, "kind": "department", "value": "Nowhere"})
    assert await actions.protects_nobody(both.deps, added) is None


async def test_exclusions_are_added_listed_and_ended_by_api(served: Served) -> None:
    api = served.api("operator")
    made = await connected_by_api(served.api("admin"))
    body = {**PERSON, "connection_id": made["id"], "expires_at": "2027-01-31"}
    added = await api("POST", "/exclusions", 201, json=body)
    assert (added["author"], added["withdrawn"], added["connection_name"]) == ("the-operator", 0, "Acme")
    assert (added["expires_at"], added["last_day"]) == ("2027-02-01T00:00:00Z", "2027-01-31")
    assert [one["id"] for one in await api("GET", "/exclusions")] == [added["id"]]
    ended = await api("DELETE", f"/exclusions/{added['id']}")
    assert ended["ended_by"] == "the-operator"
    assert await api("GET", "/exclusions") == []
    assert [one["id"] for one in await api("GET", "/exclusions", params={"past": "true"})] == [added["id"]]
    await api("DELETE", f"/exclusions/{added['id']}", 409)
    problem = await api("POST", "/exclusions", 422, json={"kind": "person", "value": "", "reason": "x"})
    assert "Enter the holder's id" in str(problem)
