"""What a business owner relies on with rules, suites and exclusions: each test is one promise of the service."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from reclaim.common.clock import FixedClock
from reclaim.common.contracts import CaseWithdrawn, UserFlagged
from reclaim.scanner import actions, catalog_actions, catalog_store, finding, known_seats, store
from reclaim.scanner.domain import FILTER
from reclaim.scanner.explain import explain
from reclaim.scanner.filters import compile_sql, parse
from reclaim.scanner.scan import Preview, preview
from reclaim.scanner.store import Rule
from reclaim.scanner.suites import folded
from services.scanner.tests.scanner_world import NOON, SECRET, SETTINGS, TERMS, Scanner, Served, nonce_of, signed_in
from services.scanner.tests.suite_world import SuiteOrg, row_of, ruled, scanned, seats, world

OWNED = {
    "ann": {"WORD": 200, "EXCEL": 150},
    "bob": {"WORD": 200, "EXCEL": 2},
    "cid": {"OFFICE": None},
    "dan": {"OFFICE": 300, "VISIO": 300},
}
CONNECTION = {"name": "Acme", "settings": SETTINGS, "credentials": {"client_secret": SECRET}}
SALES = "user/department eq 'Sales'"


@pytest.fixture
async def office(tmp_path: Path, clock: FixedClock, database_url: str | None) -> AsyncIterator[Scanner]:
    """Holders of Office and its components, on both databases; cid is in finance, dan in no department."""
    async with world(tmp_path, clock, database_url, OWNED) as scanner:
        departments = {"cid": "Finance", "dan": None}
        for name, department in departments.items():
            scanner.org.users[name] = replace(scanner.org.users[name], department=department)
        yield scanner


async def filtered(scanner: Scanner, rule: Rule, product: str, text: str) -> Rule:
    row = await row_of(scanner, rule, product)
    return await catalog_actions.change_in_rule(scanner.deps, rule.id, row, filter=text, author="otto")


async def previewed(scanner: Scanner, rule: Rule) -> Preview:
    async with scanner.running.database.reading() as db:
        connection = await store.connection(db, rule.connection_id)
        present = await store.rule(db, rule.id)
    return await preview(scanner.deps, connection, present.terms, rule.id)


def shown(found: Preview) -> list[tuple[str, str]]:
    return sorted(one.key for one in found.found)


# ------------------------------------------------------------------------------------------------ a parent's filter


async def test_a_parents_filter_chooses_among_the_seats_of_its_suite_and_of_no_other_product(office: Scanner) -> None:
    rule = await ruled(office, "OFFICE", "VISIO")
    await filtered(office, rule, "OFFICE", SALES)
    before = await previewed(office, rule)
    assert before.tally.left_alone[FILTER] == 2, "cid is in finance; where dan works is not known"
    flagged = await scanned(office, rule)
    assert seats(flagged) == [("ann", "OFFICE"), ("dan", "VISIO")] == shown(before)


async def test_a_seat_needs_the_rules_filter_and_its_parents(office: Scanner) -> None:
    rule = await ruled(office, "OFFICE", filter="user/id ne 'ann'")
    assert seats(await scanned(office, await filtered(office, rule, "OFFICE", SALES))) == []


async def test_a_parents_filter_that_is_cleared_chooses_everybody_again(office: Scanner) -> None:
    rule = await ruled(office, "OFFICE")
    await filtered(office, rule, "OFFICE", SALES)
    await filtered(office, rule, "OFFICE", "")
    assert seats(await scanned(office, rule)) == [("ann", "OFFICE"), ("cid", "OFFICE"), ("dan", "OFFICE")]


async def test_a_parents_filter_says_in_sql_over_the_register_what_the_scan_says(office: Scanner) -> None:
    rule = await ruled(office, "OFFICE")
    for text in (SALES, f"not ({SALES})", "user/department eq null", "startswith(user/id, 'a') or price eq null"):
        await filtered(office, rule, "OFFICE", text)
        chosen = {one.seat.holder.id for one in (await previewed(office, rule)).found}
        async with office.running.database.unit() as unit:
            covered = await catalog_store.covered(unit.db, rule.terms.products, rule.id)
            reader = office.org.reader()
            async for page in folded(reader.seats(covered.products), covered.suites):
                seats_now = [known_seats.of_record(seat, None) for seat in page]
                await known_seats.remember(unit.db, rule.connection_id, seats_now, unit.now)
            tree = parse(covered.filters["OFFICE"], "subscription")
            where = compile_sql(tree, known_seats.source(unit.db, "subscription"), NOON)
            rows = await unit.db.execute(known_seats.KNOWN_SEATS.select().where(where))
            by_sql = {row.holder_id for row in rows}
        assert chosen == by_sql - {"bob"}, f"{text}: bob uses Excel, whatever a filter says"


async def test_a_filter_that_is_set_while_a_case_is_open_leaves_the_case_alone(office: Scanner) -> None:
    rule = await ruled(office, "OFFICE")
    assert len(await scanned(office, rule)) == 3
    await filtered(office, rule, "OFFICE", "user/department eq 'Nobody'")
    await office.job("review")
    assert await office.said(CaseWithdrawn) == []
    assert {event.policy.rule_version for event in await office.said(UserFlagged)} == {1}


async def test_an_explanation_names_the_parents_filter(office: Scanner) -> None:
    rule = await ruled(office, "WORD")
    await filtered(office, rule, "WORD", "user/department eq 'Nobody'")
    office.org.users["ann"] = replace(office.org.users["ann"], product="WORD")
    (verdict,) = (await explain(office.deps, rule.connection_id, "ann")).verdicts
    assert verdict.result == "left_alone"
    assert "filter does not choose this seat" in verdict.summary


# ------------------------------------------------------------------------------------------------ first seen


async def test_a_filter_on_first_seen_reads_the_register_and_takes_a_new_seat_as_seen_now(office: Scanner) -> None:
    rule = await ruled(office, "OFFICE", filter="first_seen_at lt 2026-06-01")
    assert shown(await previewed(office, rule)) == [], "nobody was ever seen before: all are first seen now"
    long_ago, lately = NOON - timedelta(days=400), NOON - timedelta(days=20)
    async with office.running.database.unit() as unit:
        async for page in office.org.reader().seats(["OFFICE", "WORD", "EXCEL"]):
            known = [known_seats.of_record(seat, None) for seat in page]
            old = [
                replace(seat, first_seen_at=lately if (seat.holder_id, seat.product) == ("ann", "EXCEL") else long_ago)
                for seat in known
            ]
            await known_seats.remember(unit.db, rule.connection_id, old, NOON)
    flagged = await scanned(office, rule)
    assert seats(flagged) == [("cid", "OFFICE"), ("dan", "OFFICE")], "a suite is as new as its latest part"


async def everybody(scanner: Scanner, rule: Rule) -> list[tuple[str, str]]:
    """Scan a rule whose filter chooses by first sight; what the preview showed right before is what it opened."""
    before = shown(await previewed(scanner, rule))
    flagged = seats(await scanned(scanner, rule))
    assert before == flagged
    return flagged


@pytest.mark.parametrize(
    ("text", "again"), [("first_seen_at ge 2027-03-01", True), ("first_seen_at lt 2026-12-01", False)]
)
async def test_a_seat_that_came_back_is_first_seen_now_in_the_preview_as_in_the_scan(
    office: Scanner, clock: FixedClock, text: str, again: bool
) -> None:
    first = await ruled(office, "VISIO", name="All", filter="product/id eq 'nothing'")
    org = office.org
    assert isinstance(org, SuiteOrg)
    org.own("eve", VISIO=300)
    org.users["eve"] = replace(org.users["ann"], id="eve", name="Eve", email="eve@acme.example")
    await scanned(office, first)
    gone = org.owned.pop("eve")
    clock.advance(timedelta(days=60))
    await scanned(office, first)
    org.owned["eve"] = gone
    clock.advance(timedelta(days=60))
    rule = await ruled(office, "VISIO", name="By first sight", filter=text)
    assert (("eve", "VISIO") in await everybody(office, rule)) is again


async def test_a_part_that_is_new_makes_a_suite_new_in_the_preview_as_in_the_scan(
    office: Scanner, clock: FixedClock
) -> None:
    first = await ruled(office, "OFFICE", name="All", filter="product/id eq 'nothing'")
    await scanned(office, first)
    org = office.org
    assert isinstance(org, SuiteOrg)
    clock.advance(timedelta(days=60))
    org.owned["cid"] = {**org.owned["cid"], "WORD": None}
    rule = await ruled(office, "OFFICE", name="By first sight", filter="first_seen_at ge 2027-01-01")
    assert await everybody(office, rule) == [("cid", "OFFICE")]


# ------------------------------------------------------------------------------------------------ exclusions


@pytest.mark.parametrize("value", ["WORD", "word", "Office"])
async def test_excluding_a_component_or_its_suite_spares_the_suite(office: Scanner, value: str) -> None:
    rule = await ruled(office, "OFFICE", "VISIO")
    raw = {"kind": "product", "value": value, "reason": "needed for the audit"}
    await actions.add_exclusion(office.deps, raw, author="otto")
    found = await previewed(office, rule)
    assert shown(found) == [("dan", "VISIO")] == seats(await scanned(office, rule))
    assert {one.finding.check for one in found.spared} == {"exempt"}
    assert all("needed for the audit" in one.finding.evidence for one in found.spared)


async def test_excluding_a_suite_spares_a_component_that_a_rule_is_about_alone(office: Scanner) -> None:
    rule = await ruled(office, "WORD")
    await actions.add_exclusion(
        office.deps, {"kind": "product", "value": "OFFICE", "reason": "under renewal"}, author="otto"
    )
    assert await scanned(office, rule) == []


async def test_excluding_a_component_while_the_suites_case_is_open_closes_it(office: Scanner) -> None:
    rule = await ruled(office, "OFFICE", "VISIO")
    cases = {event.seat.product: event.case_id for event in await scanned(office, rule)}
    _added, closed = await actions.add_exclusion(
        office.deps, {"kind": "product", "value": "EXCEL", "reason": "needed for the audit"}, author="otto"
    )
    withdrawn = await office.said(CaseWithdrawn)
    assert closed == len(withdrawn) == 3
    assert cases["VISIO"] not in {event.case_id for event in withdrawn}
    assert {event.kind for event in withdrawn} == {"exempted"}
    assert all(event.reason.startswith("EXCEL, which goes with it, is excluded") for event in withdrawn)


async def test_an_excluded_component_is_named_by_the_explanation(office: Scanner) -> None:
    rule = await ruled(office, "OFFICE")
    await actions.add_exclusion(
        office.deps, {"kind": "product", "value": "WORD", "reason": "needed for the audit"}, author="otto"
    )
    office.org.users["ann"] = replace(office.org.users["ann"], product="WORD")
    (verdict,) = (await explain(office.deps, rule.connection_id, "ann")).verdicts
    assert "needed for the audit" in verdict.summary


# ------------------------------------------------------------------------------------------------ which desk


async def test_the_desk_that_a_rule_names_travels_with_each_case(office: Scanner) -> None:
    rule = await ruled(office, "OFFICE", route="itsm", desk="jira-emea")
    assert {event.policy.desk for event in await scanned(office, rule)} == {"jira-emea"}


# ------------------------------------------------------------------------------------------------ explain by name


async def test_a_seat_is_explained_by_name_or_address_of_whoever_was_read(office: Scanner) -> None:
    rule = await ruled(office, "OFFICE")
    await scanned(office, rule)
    for text in ("ann", "ANN@ACME.EXAMPLE", " Ann ", "nn"):
        found = await finding.explained(office.deps, rule.connection_id, text)
        assert found.seat.holder.id == "ann", text
    org = office.org
    assert isinstance(org, SuiteOrg)
    org.users["ann2"] = replace(org.users["ann"], id="ann2", name="Anna")
    org.own("ann2", OFFICE=None)
    await scanned(office, rule)
    with pytest.raises(finding.Several) as caught:
        await finding.explained(office.deps, rule.connection_id, "nn")
    assert [one.id for one in caught.value.holders] == ["ann", "ann2"]
    assert "Anna (ann2)" in str(caught.value)
    assert (await finding.explained(office.deps, rule.connection_id, "ann")).seat.holder.id == "ann", "an id is exact"
    never_read = await finding.explained(office.deps, rule.connection_id, "boss")
    assert never_read.seat.holder.name == "Bea Boss"


async def test_a_name_is_searched_as_it_stands(office: Scanner) -> None:
    rule = await ruled(office, "OFFICE")
    await scanned(office, rule)
    async with office.running.database.reading() as db:
        assert await finding.holders(db, rule.connection_id, "%") == []
        assert await finding.holders(db, rule.connection_id, "_nn") == []
        assert await finding.holders(db, "another", "ann") == []


async def test_the_page_lists_who_may_be_meant(served: Served) -> None:
    api = served.api()
    connection = (await api("POST", "/connections", 201, json=CONNECTION))["id"]
    async with served.scanner.running.database.unit() as unit:
        async for page in served.scanner.org.reader().seats(["SFDC"]):
            known = [known_seats.of_record(seat, None) for seat in page]
            await known_seats.remember(unit.db, connection, known, unit.now)
    client = await signed_in(served.host, "vera", "viewer")
    several = await client.get("/scanner/explain", params={"connection_id": connection, "holder": "holder"})
    assert several.status_code == 200
    assert "Who is meant?" in several.text
    assert f"/scanner/explain?connection_id={connection}&amp;holder=u00001" in several.text
    one = await client.get("/scanner/explain", params={"connection_id": connection, "holder": "u3@acme.example"})
    assert "Holder 3</h2>" in one.text
    nobody = await client.get("/scanner/explain", params={"connection_id": connection, "holder": "Zora"})
    assert nobody.status_code == 404
    await client.aclose()
    found = await api("GET", f"/holders?connection_id={connection}&q=HOLDER%203")
    assert [(each["id"], each["products"]) for each in found] == [("u00003", ["SFDC"])]
    problem = await api("GET", f"/explain?connection_id={connection}&holder=holder", 409)
    assert "give the account" in problem["detail"]


# ------------------------------------------------------------------------------------------------ the filter's page


async def test_a_parents_filter_is_put_together_on_its_page_without_scripts(served: Served) -> None:
    api = served.api()
    await api("POST", "/products", 201, json={"key": "WORD", "name": "Word"})
    await api("POST", "/products", 201, json={"key": "OFFICE", "name": "Office", "components": ["WORD"]})
    connection = await api("POST", "/connections", 201, json=CONNECTION)
    terms = {**TERMS, "connection_id": connection["id"], "products": ["OFFICE"]}
    rule = await api("POST", "/rules", 201, json=terms)
    rows = (await api("GET", f"/rules/{rule['id']}/products"))["products"]
    suite, component = (f"/scanner/rules/{rule['id']}/products/{row['id']}/filter" for row in rows)
    client = await signed_in(served.host, "otto", "operator")
    page = await client.get(suite)
    assert "Filter of Office" in page.text
    assert "Word" in page.text
    sent = {
        "form_nonce": nonce_of(page.text),
        "filter_kind": "subscription",
        "filter_shown": "",
        "filter": "",
        "filter_join": "all",
        "filter_group_join": "all",
        "filter_group": "0",
        "filter_field": "user/department",
        "filter_operator": "eq",
        "filter_value": "Sales",
    }
    written = await client.post(suite, data={**sent, "filter_do": "rows"})
    assert "user/department eq &#39;Sales&#39;" in written.text
    assert (await api("GET", f"/rules/{rule['id']}"))["product_filters"] == {}, "nothing is kept until it is saved"
    torn = await client.post(suite, data={**sent, "filter": "price ge 1", "filter_do": "save"})
    assert torn.status_code == 422
    assert "both edited" in torn.text
    wrong = await client.post(suite, data={**sent, "filter_field": "", "filter": "price ge", "filter_do": "save"})
    assert wrong.status_code == 422
    saved = await client.post(suite, data={**sent, "filter_do": "save"})
    assert saved.status_code == 303
    assert (await api("GET", f"/rules/{rule['id']}"))["product_filters"] == {"OFFICE": SALES}
    by_text = {**sent, "filter_shown": SALES, "filter": "price ge 25", "filter_do": "save"}
    assert (await client.post(suite, data=by_text)).status_code == 303
    assert (await api("GET", f"/rules/{rule['id']}"))["product_filters"] == {"OFFICE": "price ge 25"}
    cleared = {**by_text, "filter_field": "", "filter_value": "", "filter_shown": "", "filter": ""}
    assert (await client.post(suite, data=cleared)).status_code == 303
    assert (await api("GET", f"/rules/{rule['id']}"))["product_filters"] == {}
    assert (await client.get(component)).status_code == 409
    await client.aclose()
