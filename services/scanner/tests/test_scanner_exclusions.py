"""Exclusions: what they cover, what they do to open cases, and what happens when they end."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from reclaim.common.contracts import CaseClosed, CaseWithdrawn, Person
from reclaim.common.errors import Conflict, NotFound
from reclaim.scanner import actions, exclusion_store, jobs, store
from reclaim.scanner.domain import Exclusion, Exclusions, Rejected, read_exclusion
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
        (exclusion("group", "sales,  EMEA"), True),
        (exclusion("group", "Sales"), False),
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


def test_a_seat_without_a_department_or_an_address_is_in_no_group_and_is_nobody() -> None:
    assert Exclusions([exclusion("group", "x"), exclusion("person", "y")], "c1", NOON).evidence(seat()) is None


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        ({"kind": "team", "value": "x", "reason": "because"}, "kind"),
        ({"kind": "person", "value": " ", "reason": "because"}, "value"),
        ({"kind": "connection", "reason": "because"}, "connection_id"),
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


# ------------------------------------------------------------------------------------------------ scans and cases


@pytest.mark.parametrize(
    ("raw", "left"),
    [
        ({"kind": "person", "value": "u00001"}, ["u00002"]),
        ({"kind": "person", "value": "u00002@acme.example"}, ["u00001", "u00002"]),
        ({"kind": "group", "value": "sales"}, []),
        ({"kind": "product", "value": "SFDC"}, []),
        ({"kind": "product", "value": "AUL"}, ["u00001", "u00002"]),
    ],
    ids=["person", "another address", "group", "product", "another product"],
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
    original = jobs._open
    adding: list[asyncio.Task[Any]] = []

    async def open_slowly(*args: Any, **more: Any) -> int:
        adding.append(asyncio.create_task(exclude(both, PERSON)))
        await asyncio.sleep(0.1)
        return await original(*args, **more)

    monkeypatch.setattr(jobs, "_open", open_slowly)
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


async def rules(scanner: Scanner) -> list[store.Rule]:
    async with scanner.running.database.reading() as db:
        return await store.rules(db)


# ------------------------------------------------------------------------------------------------ API


async def test_exclusions_are_added_listed_and_ended_by_api(served: Served) -> None:
    api = served.api("operator")
    made = await connected_by_api(served.api("admin"))
    body = {**PERSON, "connection_id": made["id"], "expires_at": "2027-01-31"}
    added = await api("POST", "/exclusions", 201, json=body)
    assert (added["author"], added["withdrawn"], added["connection_name"]) == ("the-operator", 0, "Acme")
    assert added["expires_at"] == "2027-02-01T00:00:00Z"
    assert [one["id"] for one in await api("GET", "/exclusions")] == [added["id"]]
    ended = await api("DELETE", f"/exclusions/{added['id']}")
    assert ended["ended_by"] == "the-operator"
    assert await api("GET", "/exclusions") == []
    assert [one["id"] for one in await api("GET", "/exclusions", params={"past": "true"})] == [added["id"]]
    await api("DELETE", f"/exclusions/{added['id']}", 409)
    problem = await api("POST", "/exclusions", 422, json={"kind": "person", "value": "", "reason": "x"})
    assert "Enter the holder's id" in str(problem)
