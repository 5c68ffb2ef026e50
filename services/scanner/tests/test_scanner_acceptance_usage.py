"""Rules on use, from what sources send to the case that is opened or not, as a business owner asks about them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import generate_latest

from reclaim.common.clock import FixedClock
from reclaim.common.contracts import CaseWithdrawn, UsageJudged, UsageQuestioned, UserFlagged
from reclaim.common.errors import Invalid
from reclaim.common.telemetry import set_up_telemetry
from reclaim.connectors.fake import FakeUser
from reclaim.scanner import actions, catalog_actions, known_seats, store, usage_cases
from reclaim.scanner import jobs as scanner_jobs
from reclaim.scanner.domain import USAGE, Rejected, read_terms
from reclaim.scanner.explain import explain
from reclaim.scanner.known_seats import KnownSeat
from reclaim.scanner.scan import preview
from reclaim.scanner.store import Connection, Rule
from reclaim.scanner.usage import InstallationRecord, Report, UsageRecord, Window
from reclaim.scanner.usage_store import add_installations, add_records, add_report, end_inventory
from services.scanner.tests.scanner_world import (
    NOON,
    TERMS,
    Scanner,
    Served,
    filled,
    idle,
    serving,
    signed_in,
    started,
)
from services.scanner.tests.test_scanner_merging import ruled as suite_ruled
from services.scanner.tests.test_scanner_merging import world
from services.scanner.tests.test_scanner_scan import connected, flagged, ready, scanned, tally_of

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
BERLIN = "Europe/Berlin"
OCTOBER = Window(datetime(2026, 9, 30, 22, tzinfo=UTC), datetime(2026, 10, 31, 23, tzinfo=UTC))
"""The month as it is in Berlin, where the clocks go back on its 25th."""

UNDER_20: dict[str, Any] = {
    "condition": "hours",
    "minimum_hours": "20",
    "window_unit": "months",
    "window_count": 1,
    "time_zone": BERLIN,
}
BY_SOURCES: dict[str, Any] = {"inactive_days": 90, "channels": ["ui"]}


def seated(number: int, **more: Any) -> FakeUser:
    """Return a user who has held the seat for years, and of whose use the org says nothing lately."""
    return idle(number, **{"assigned_at": NOON - 900 * DAY, **more})


def used(user: str, hours: float = 0, *, product: str = "SFDC", **more: Any) -> UsageRecord:
    """Return a month of a user's use in Berlin."""
    return UsageRecord(
        user=user,
        product=product,
        **{
            "period_start": OCTOBER.start,
            "period_end": OCTOBER.end,
            "seconds": int(hours * 3600),
            "runs": 1 if hours else 0,
            **more,
        },
    )


def session(user: str, start: datetime, length: timedelta, **more: Any) -> UsageRecord:
    return used(user, period_start=start, period_end=start + length, session=True, seconds=None, runs=1, **more)


def complete(**more: Any) -> Report:
    """Return the report of a source that has told everything until now."""
    now = more.pop("now", NOON)
    return Report(**{"source": "agent", "product": "", "period": Window(LONG_AGO, now), "heard_at": now, **more})


async def feed(
    scanner: Scanner,
    *records: UsageRecord,
    source: str = "agent",
    report: Report | None = None,
    heard_at: datetime | None = None,
) -> None:
    """Do what an importer does."""
    async with scanner.running.database.unit() as unit:
        taken = await add_records(unit.db, source, records, heard_at=heard_at or scanner.clock.now())
        assert not taken.refused
        if report is not None:
            await add_report(unit.db, report)


@pytest.fixture
def users() -> list[FakeUser]:
    return [seated(1), seated(2)]


@pytest.fixture
async def two(tmp_path: Path, clock: FixedClock, users: list[FakeUser], database_url: str | None) -> Any:
    """A scanner over an org of two holders and a manager, on either database."""
    async with started(tmp_path, filled(clock, users), clock, database_url=database_url) as built:
        yield built


@pytest.fixture
async def one(tmp_path: Path, clock: FixedClock, users: list[FakeUser]) -> Any:
    """The same on SQLite."""
    async with started(tmp_path, filled(clock, users), clock) as built:
        yield built


async def rule_and_connection(scanner: Scanner, **terms: Any) -> tuple[Rule, Connection]:
    rule = await ready(scanner, **terms)
    async with scanner.running.database.reading() as db:
        return rule, await store.connection(db, rule.connection_id)


# ------------------------------------------------------------------------------------------------ hours


async def test_20_hours_against_20_are_kept_and_19_99_are_flagged(two: Scanner) -> None:
    await feed(two, used("u00001", 20), used("u00002", 19.99), used("boss", 40), report=complete())
    run = await scanned(two, await ready(two, **UNDER_20))
    assert await flagged(two) == ["u00002"]
    assert (run.status, run.seen, run.used, run.flagged, run.left_alone) == ("finished", 3, 2, 1, {})
    (event,) = await two.said(UserFlagged)
    use = next(finding for finding in event.findings if finding.check == USAGE)
    assert use.evidence.startswith("19.99 hours of 20 from 2026-09-30 22:00 UTC to 2026-10-31 23:00 UTC")
    assert event.policy.usage is not None
    assert event.policy.unused_for == "been used for less than 20 hours in the last complete month"


async def test_use_at_23_30_local_on_the_windows_last_day_counts(one: Scanner) -> None:
    last = datetime(2026, 10, 31, 22, 30, tzinfo=UTC)
    after = datetime(2026, 10, 31, 23, 0, tzinfo=UTC)
    await feed(
        one,
        *(session("u00001", last, HOUR / 2), session("u00002", after, HOUR / 2)),
        *(used("u00001", 19.5), used("u00002", 19.5), used("boss", 40)),
        report=complete(),
    )
    await scanned(one, await ready(one, **UNDER_20))
    assert await flagged(one) == ["u00002"], "half an hour later it is November in Berlin"


async def test_a_daylight_saving_month_loses_no_hour(one: Scanner) -> None:
    # From two to three by the clock on the wall, which shows this hour twice.
    back = datetime(2026, 10, 25, 0, 0, tzinfo=UTC)
    await feed(one, session("u00001", back, 2 * HOUR), session("u00002", back, HOUR), used("boss", 40))
    await feed(one, report=complete())
    await scanned(one, await ready(one, **{**UNDER_20, "minimum_hours": "2"}))
    assert await flagged(one) == ["u00002"]


async def test_29_february_has_a_defined_cut_off(tmp_path: Path) -> None:
    now = datetime(2028, 2, 29, 12, tzinfo=UTC)
    clock = FixedClock(now)
    month: dict[str, Any] = {
        "period_start": datetime(2027, 2, 1, tzinfo=UTC),
        "period_end": datetime(2027, 3, 1, tzinfo=UTC),
    }
    before: dict[str, Any] = {
        "period_start": datetime(2027, 1, 1, tzinfo=UTC),
        "period_end": datetime(2027, 2, 1, tzinfo=UTC),
    }
    async with started(tmp_path, filled(clock, [seated(1), seated(2)]), clock) as scanner:
        await feed(scanner, used("u00001", 30, **month), used("u00002", 30, **before), used("boss", 30, **month))
        await feed(scanner, used("u00002", 1, **month))
        await feed(scanner, report=complete(now=now))
        await scanned(scanner, await ready(scanner, **{**UNDER_20, "window_count": 12, "time_zone": "UTC"}))
        assert await flagged(scanner) == ["u00002"], "twelve complete months begin on the 1st of February"


async def test_the_same_interval_from_two_sources_counts_once(one: Scanner) -> None:
    at = datetime(2026, 10, 12, 9, 0, tzinfo=UTC)
    for source in ("agent", "proxy"):
        await feed(one, session("u00001", at, HOUR), used("boss", 40), source=source, report=complete(source=source))
    await feed(one, session("u00002", at, HOUR), session("u00002", at + HOUR, HOUR))
    await scanned(one, await ready(one, **{**UNDER_20, "minimum_hours": "2"}))
    assert await flagged(one) == ["u00001"]


async def test_hours_of_the_source_that_the_rule_prefers_count(one: Scanner) -> None:
    await feed(one, used("u00001", 5), used("u00002", 5), used("boss", 40), report=complete())
    await feed(one, used("u00002", 6), used("boss", 40), source="vendor", report=complete(source="vendor"))
    connection = await connected(one)
    for preferred, expected in (([], ["u00001", "u00002"]), (["vendor"], ["u00002"])):
        given = read_terms({**TERMS, **UNDER_20, "preferred_sources": preferred})
        shown = await preview(one.deps, connection, given)
        assert [seat.seat.holder.id for seat in shown.found] == expected, "of the first the vendor knows nothing"
    use = next(finding for finding in shown.found[0].findings if finding.check == USAGE)
    assert use.evidence.startswith("6.00 hours of 20")


async def test_no_row_is_flagged_only_with_include_no_activity_and_proven_coverage(one: Scanner) -> None:
    await feed(one, used("boss", 40), used("u00001", 30))
    connection = await connected(one)

    async def would(**terms: Any) -> tuple[list[str], Mapping[str, int]]:
        given = read_terms({**TERMS, **UNDER_20, **terms})
        shown = await preview(one.deps, connection, given)
        return [seat.seat.holder.id for seat in shown.found], shown.tally.left_alone

    assert await would(include_no_activity=True) == ([], {USAGE: 3}), "no source has said that it told everything"
    await feed(one, report=complete())
    assert await would() == ([], {USAGE: 1})
    assert await would(include_no_activity=True) == (["u00002"], {})


@pytest.mark.parametrize("users", [[seated(1, last_used_at=NOON - HOUR), seated(2)]], ids=["one signed in"])
async def test_under_a_rule_on_hours_the_systems_own_word_keeps_whom_no_source_names(
    one: Scanner, users: list[FakeUser]
) -> None:
    await feed(one, used("boss", 40), used("ACME\\first", 50), report=complete())
    await scanned(one, await ready(one, **UNDER_20, include_no_activity=True))
    assert await flagged(one) == [users[1].id], "the feed spells the first one otherwise"
    (event,) = await one.said(UserFlagged)
    await one.hear(UsageQuestioned(case_id=event.case_id, asked_at=NOON, last_used_at=NOON - HOUR, read=True))
    (answer,) = await one.said(UsageJudged)
    assert answer.use == "unknown"
    assert "its system saw use" in answer.reason.lower()


async def test_three_components_of_3_hours_each_against_8_are_kept(tmp_path: Path, clock: FixedClock) -> None:
    owned = {"ann": {"ALL": 200}, "bob": {"ALL": 200}}
    async with world(tmp_path, clock, owned=owned) as office:
        parts = ["WORD", "EXCEL", "VISIO"]
        await catalog_actions.add_product(
            office.deps, {"key": "ALL", "name": "All", "components": parts}, author="otto"
        )
        records = [used("ann", 3, product=part) for part in parts]
        await feed(office, *records, used("bob", 7.99, product="WORD"), report=complete())
        await _hold_since_long_ago(office)
        rule = await suite_ruled(office, "ALL", **{**UNDER_20, "minimum_hours": "8"})
        await scanned(office, rule)
        assert await flagged(office) == ["bob"]


async def _hold_since_long_ago(scanner: Scanner, product: str = "ALL") -> None:
    """Let the register know the seats for a while, as it does after the first scan."""
    async with scanner.running.database.reading() as db:
        (connection,) = await store.connections(db)
    rule = await actions.add_rule(
        scanner.deps, connection.id, {**TERMS, "name": "First", "products": [product]}, author="otto"
    )
    await actions.activate_rule(scanner.deps, rule.id)
    scanner.clock.advance(-400 * DAY)
    await scanned(scanner, rule, dry_run=True)
    scanner.clock.advance(400 * DAY)


# ------------------------------------------------------------------------------------------------ last use


async def test_word_used_and_the_suite_otherwise_idle_is_kept(tmp_path: Path, clock: FixedClock) -> None:
    owned = {"ann": {"OFFICE": 200}, "bob": {"OFFICE": 200}}
    async with world(tmp_path, clock, owned=owned) as office:
        rule = await suite_ruled(office, "OFFICE")
        await feed(office, used("ann", 1, product="WORD", last_used_at=datetime(2026, 10, 30, tzinfo=UTC)))
        await scanned(office, rule)
        assert await flagged(office) == ["bob"], "the org itself saw neither of them"


@pytest.mark.parametrize("terms", [{}, {"channels": ["ui", "sso"]}], ids=["any use", "by both"])
async def test_direct_and_sso_of_one_app_are_one_seat_judged_by_both(two: Scanner, terms: dict[str, Any]) -> None:
    signed_on = session("u1@acme.example", NOON - 3 * DAY, HOUR, channel="sso")
    report = complete(source="okta", channels=frozenset({"sso"}), timed=False)
    await feed(two, signed_on, source="okta", report=report)
    run = await scanned(two, await ready(two, **terms))
    assert await flagged(two) == ["u00002"], "the org saw neither, and Okta the first of them"
    assert (run.seen, run.used, run.flagged) == (3, 2, 1)


async def test_never_used_and_assigned_yesterday_is_not_flagged(two: Scanner) -> None:
    fresh, old = two.org.users["u00001"], two.org.users["u00002"]
    fresh.last_used_at = old.last_used_at = None
    fresh.assigned_at = NOON - DAY
    run = await scanned(two, await ready(two, **BY_SOURCES))
    assert await flagged(two) == ["u00002"]
    assert run.left_alone == {USAGE: 1}


async def test_where_the_assigned_date_is_missing_first_seen_is_used(two: Scanner, clock: FixedClock) -> None:
    for holder in ("u00001", "u00002"):
        two.org.users[holder].last_used_at = two.org.users[holder].assigned_at = None
    rule = await ready(two, **BY_SOURCES)
    run = await scanned(two, rule)
    assert (run.flagged, run.left_alone) == (0, {USAGE: 2}), "nobody knows for how long they have the seat"
    clock.advance(89 * DAY)
    assert (await scanned(two, rule)).flagged == 0
    clock.advance(2 * DAY)
    two.org.users["boss"].last_used_at = clock.now()
    assert (await scanned(two, rule)).flagged == 2


@pytest.mark.parametrize("terms", [BY_SOURCES, {**UNDER_20, "include_no_activity": True}], ids=["last use", "hours"])
async def test_a_seat_that_was_lost_and_given_again_is_as_new_as_that(
    two: Scanner, clock: FixedClock, terms: dict[str, Any]
) -> None:
    """Two holders with nothing but what is remembered of them; one had lost the seat for a long time."""
    for holder in ("u00001", "u00002"):
        two.org.users[holder].last_used_at = NOON - 500 * DAY
        two.org.users[holder].assigned_at = None
    old = used("u00001", 30, period_start=NOON - 480 * DAY, period_end=NOON - 450 * DAY)
    rule = await ready(two, **terms)
    clock.advance(-460 * DAY)
    await scanned(two, rule, dry_run=True)
    clock.advance(40 * DAY)
    lost = two.org.users.pop("u00001")
    without = await scanned(two, rule, dry_run=True, accept_population=True)
    assert (without.status, without.seen) == ("finished", 2), without.reason
    clock.advance(420 * DAY)
    two.org.users["u00001"] = lost
    await feed(two, old, used("boss", 40), report=complete())
    two.org.users["boss"].last_used_at = NOON
    run = await scanned(two, rule, accept_population=True)
    assert (run.status, run.seen, run.left_alone) == ("finished", 3, {USAGE: 1}), run.reason
    assert await flagged(two) == ["u00002"]
    (event,) = await two.said(UserFlagged)
    await two.hear(UsageQuestioned(case_id=event.case_id, asked_at=NOON))
    assert [answer.use for answer in await two.said(UsageJudged)] == ["unused"]


async def test_a_reading_that_overlaps_another_takes_no_seat_for_gone(two: Scanner) -> None:
    ann = KnownSeat(product="SFDC", product_name="Sales", holder_id="u1", holder_name="Ann")

    async def listed(at: datetime, *, ended: bool = True) -> None:
        async with two.running.database.unit() as unit:
            await known_seats.remember(unit.db, "c1", [ann], at)
            if ended:
                await known_seats.end_reading(unit.db, "c1", ["SFDC"], at)

    async def since() -> known_seats.Since:
        async with two.running.database.reading() as db:
            (found,) = (await known_seats.first_seen(db, "c1", ["u1"])).values()
        return found

    await listed(NOON - DAY, ended=False)
    await listed(NOON)
    await listed(NOON - HOUR)
    await listed(NOON + DAY)
    assert await since() == known_seats.Since(NOON - DAY, returned=False)
    async with two.running.database.unit() as unit:
        await known_seats.end_reading(unit.db, "c1", ["SFDC"], NOON + 2 * DAY)
    await listed(NOON + 3 * DAY)
    assert await since() == known_seats.Since(NOON + 3 * DAY, returned=True)


async def test_a_rule_of_before_keeps_its_meaning(two: Scanner) -> None:
    """Nobody says when seats were assigned, no source reports, and this is the first scan: the account's age counts."""
    two.org.users["u00001"].assigned_at = None
    two.org.users["u00001"].last_used_at = None
    await scanned(two, await ready(two))
    assert await flagged(two) == ["u00001", "u00002"]
    (first, *_) = await two.said(UserFlagged)
    assert first.policy.usage is None
    assert len(first.findings) == 10


# ------------------------------------------------------------------------------------------------ not known


async def test_a_source_that_is_down_for_ten_days_makes_use_unknown_flags_nobody_and_raises_an_alert(
    tmp_path: Path, clock: FixedClock
) -> None:
    async with serving(tmp_path, filled(clock, [seated(1), seated(2)]), clock) as served:
        scanner = served.scanner
        then = NOON - 10 * DAY
        await feed(scanner, used("u00001", 1), used("boss", 40), report=complete(now=then), heard_at=then)
        run = await scanned(scanner, await ready(scanner, **UNDER_20))
        assert await flagged(scanner) == []
        assert (run.status, run.flagged, run.left_alone) == ("finished", 0, {USAGE: 3})
        await _alerted(served, run.id)


async def _alerted(served: Served, run_id: str) -> None:
    shown = await served.api("viewer")("GET", f"/scans/{run_id}")
    (alert,) = shown["stale"]
    assert alert.startswith("agent was last heard from on 2026-11-10 12:00 UTC")
    assert "stale" in shown["missing"]["usage of SFDC"]
    (source,) = await served.api("viewer")("GET", "/usage/sources")
    assert source["stale"]
    client = await signed_in(served.host)
    page = await client.get(f"/scanner/scans/{run_id}")
    assert "A source of use has fallen silent" in page.text
    assert "agent was last heard from" in page.text
    await client.aclose()
    set_up_telemetry(served.host.settings, "scanner")
    await served.scanner.job("usage-freshness")
    assert re.search(r"^reclaim_usage_sources_stale(\{[^}]*\})? 1.0$", generate_latest().decode(), re.MULTILINE)


async def test_anonymised_identities_are_unknown(one: Scanner) -> None:
    await feed(one, used("a1b2c3", 30), report=complete(anonymised=True))
    run = await scanned(one, await ready(one, **UNDER_20, include_no_activity=True))
    assert (run.flagged, run.left_alone) == (0, {USAGE: 3})
    assert "anonymised" in run.missing["usage of SFDC"]


async def test_a_channel_that_counts_and_that_nobody_sees_flags_nobody(one: Scanner) -> None:
    run = await scanned(one, await ready(one, channels=["ui", "mobile"]))
    assert (run.flagged, run.left_alone) == (0, {USAGE: 2})
    assert "mobile" in run.missing["usage of SFDC"]


async def test_sources_answer_what_a_system_cannot_tell_of_use(one: Scanner) -> None:
    """As with SCIM: no last use and no use elsewhere, and a sign-in log that saw everybody."""
    for holder in ("u00001", "u00002", "boss"):
        one.org.users[holder].last_used_at = None
    await feed(
        one, session("u00001", NOON - DAY, HOUR, channel="sso"), session("boss", NOON - DAY, HOUR, channel="sso")
    )
    elsewhere = frozenset({"api", "mobile", "sso"})
    terms: dict[str, Any] = {"inactive_days": 90, "channels": sorted(elsewhere), "include_no_activity": True}
    rule = await ready(one, **terms)
    plain = await _named(one, "Plain")
    one.org.unkept["last_seen_elsewhere"] = "this system keeps no last use"
    assert (await scanned(one, rule)).flagged == 0, "the log has not said that it told everything"
    await feed(one, report=complete(channels=elsewhere, timed=False))
    by_sign_ins = await _named(one, "Sign-ins", **{**terms, "channels": ["sso"]})
    run = await scanned(one, by_sign_ins)
    assert (run.flagged, run.left_alone) == (0, {"active_elsewhere": 1}), "who uses the API need not sign in"
    assert "last_seen_elsewhere" in run.missing
    one.org.unreadable, one.org.unkept = one.org.unkept, {}
    assert (await scanned(one, rule)).flagged == 0, "a query that failed may hide use"
    one.org.unreadable, one.org.unkept = {}, one.org.unreadable
    run = await scanned(one, rule)
    assert await flagged(one) == ["u00002"]
    assert "last_seen_elsewhere" not in run.missing
    assert (await scanned(one, plain)).flagged == 0, "without sources it stays unknown"


async def _named(scanner: Scanner, name: str, **terms: Any) -> Rule:
    async with scanner.running.database.reading() as db:
        (connection,) = await store.connections(db)
    rule = await actions.add_rule(scanner.deps, connection.id, {**TERMS, **terms, "name": name}, author="otto")
    return await actions.activate_rule(scanner.deps, rule.id)


# ------------------------------------------------------------------------------------------------ preview, explanation


async def test_a_preview_shows_what_the_scan_opens_and_remembers_nothing(two: Scanner) -> None:
    await feed(two, used("u00001", 3), used("boss", 40), report=complete())
    rule, connection = await rule_and_connection(two, **UNDER_20)
    shown = await preview(two.deps, connection, rule.terms, rule.id)
    assert await two.rows("SELECT count(*) FROM known_seats") == [(0,)]
    run = await scanned(two, rule)
    assert [seat.seat.holder.id for seat in shown.found] == await flagged(two) == ["u00001"]
    assert tally_of(shown) == run.left_alone == {USAGE: 1}
    assert await two.rows("SELECT count(*) FROM known_seats") == [(3,)]


async def test_an_explanation_has_the_figures_and_the_reason(one: Scanner) -> None:
    await feed(one, used("u00001", 3.5), used("boss", 40), report=complete())
    _rule, connection = await rule_and_connection(one, **UNDER_20)
    said = {}
    for holder in ("u00001", "u00002", "boss"):
        (said[holder],) = (await explain(one.deps, connection.id, holder)).verdicts
    assert [said[holder].result for holder in said] == ["flagged", "unknown", "used"]
    assert said["u00001"].summary.startswith("3.50 hours of 20 from 2026-09-30 22:00 UTC")
    assert said["u00001"].use.state == "UNUSED"
    assert "the rule does not count that as no use" in said["u00002"].summary
    assert said["boss"].summary == (
        "40.00 hours of 20 from 2026-09-30 22:00 UTC to 2026-10-31 23:00 UTC, so it counts as used."
    )


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"condition": "often"}, "condition"),
        ({"condition": "hours", "window_unit": "days", "window_count": 30}, "minimum_hours"),
        ({"condition": "hours", "window_unit": "days", "window_count": 30, "minimum_hours": "20.001"}, "minimum_hours"),
        ({"condition": "hours", "window_unit": "days", "window_count": 30, "minimum_hours": "800"}, "minimum_hours"),
        ({"condition": "hours", "window_unit": "weeks", "window_count": 3, "minimum_hours": "8"}, "window_unit"),
        ({"condition": "hours", "window_unit": "months", "window_count": 25, "minimum_hours": "8"}, "window_count"),
        ({"channels": ["fax"]}, "channels"),
        ({"applies_to": "rented"}, "applies_to"),
        ({"applies_to": "installed"}, "applies_to"),
        ({"applies_to": "installed", "reclaim_by": "deactivate"}, "reclaim_by"),
        ({"inactive_days": None}, "inactive_days"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_condition_that_does_not_fit_is_refused_by_its_field(
    served: Served, given: dict[str, Any], field: str
) -> None:
    connection = await connected(served.scanner)
    answer = await served.api()("POST", "/rules", 422, json={**TERMS, "connection_id": connection.id, **given})
    assert [error["field"] for error in answer["errors"]] == [field], answer


async def test_the_condition_is_a_part_of_the_rule_everywhere(served: Served) -> None:
    connection = await connected(served.scanner)
    rule = await served.api()("POST", "/rules", 201, json={**TERMS, "connection_id": connection.id, **UNDER_20})
    assert (rule["condition"], rule["minimum_hours"], rule["window_unit"], rule["window_count"]) == (
        "hours",
        "20",
        "months",
        1,
    )
    assert rule["inactive_days"] == 31, "how far back use over other channels keeps a seat"
    client = await signed_in(served.host)
    page = (await client.get(f"/scanner/rules/{rule['id']}")).text
    assert 'id="condition-hours" name="condition" type="radio" value="hours" required checked' in page
    assert "been used for less than 20 hours in the last complete month" in page
    changed = await served.api()("PATCH", f"/rules/{rule['id']}", json={"channels": ["mobile", "ui"]})
    assert changed["channels"] == ["ui", "mobile"]
    compared = (await client.get(f"/scanner/rules/{rule['id']}/diff")).text
    assert "Use that counts" in compared
    await client.aclose()


# ------------------------------------------------------------------------------------------------ open cases


async def test_activity_while_a_case_is_open_takes_the_case_back(two: Scanner) -> None:
    await feed(two, used("u00001", 3), used("u00002", 4), used("boss", 40), report=complete())
    await scanned(two, await ready(two, **UNDER_20))
    cases = {event.seat.holder.id: event.case_id for event in await two.said(UserFlagged)}
    assert sorted(cases) == ["u00001", "u00002"]
    await two.job("usage-news")
    assert await two.said(CaseWithdrawn) == []
    await feed(two, session("u00002", datetime(2026, 10, 31, 12, tzinfo=UTC), 10 * HOUR), used("u00001", 20))
    assert await two.job("usage-news")
    (withdrawn,) = await two.said(CaseWithdrawn)
    assert (withdrawn.case_id, withdrawn.kind) == (cases["u00001"], "used")
    assert "20.00 hours of 20" in withdrawn.reason
    assert not await two.job("usage-news"), "there is no news"


async def test_use_that_is_heard_of_during_a_scan_reaches_the_cases_that_it_opens(
    two: Scanner, monkeypatch: pytest.MonkeyPatch
) -> None:
    await feed(two, used("u00001", 3), used("u00002", 4), used("boss", 40), report=complete())
    rule, attempt = await ready(two, **UNDER_20), scanner_jobs._open_page
    heard = []

    async def after_more_use(*args: Any, **more: Any) -> bool:
        if not heard:
            await feed(two, used("u00001", 20))
            heard.append(await two.job("usage-news"))
        return await attempt(*args, **more)

    monkeypatch.setattr(scanner_jobs, "_open_page", after_more_use)
    await scanned(two, rule)
    cases = {event.seat.holder.id: event.case_id for event in await two.said(UserFlagged)}
    assert (sorted(cases), heard) == (["u00001", "u00002"], [True])
    assert await two.job("usage-news")
    assert [event.case_id for event in await two.said(CaseWithdrawn)] == [cases["u00001"]]


async def test_news_is_taken_a_product_and_a_page_of_cases_at_a_time(
    two: Scanner, monkeypatch: pytest.MonkeyPatch
) -> None:
    await feed(two, used("u00001", 3), used("u00002", 4), used("boss", 40), report=complete())
    await scanned(two, await ready(two, **UNDER_20))
    while await two.job("usage-news"):
        assert await two.said(CaseWithdrawn) == []
    monkeypatch.setattr(usage_cases, "PAGE", 1)
    await feed(two, used("u00001", 20), used("u00002", 20))
    await feed(two, used("u00001", 20, product="AAA"), heard_at=NOON - HOUR)
    assert await two.job("usage-news")
    assert await two.said(CaseWithdrawn) == [], "the news of AAA came first"
    assert await two.job("usage-news")
    assert len(await two.said(CaseWithdrawn)) == 2
    assert not await two.job("usage-news")


async def test_use_that_a_feed_tells_of_keeps_a_seat_that_its_system_calls_idle(one: Scanner) -> None:
    await scanned(one, await ready(one))
    assert await flagged(one) == ["u00001", "u00002"]
    await feed(one, session("u2@acme.example", NOON - DAY, HOUR, channel="sso"), source="okta")
    await one.job("usage-news")
    (withdrawn,) = await one.said(CaseWithdrawn)
    assert withdrawn.kind == "used"


async def test_before_a_step_the_case_is_judged_by_the_version_it_was_opened_under(two: Scanner) -> None:
    await feed(two, used("u00001", 10), used("u00002", 10), used("boss", 40), report=complete())
    rule = await ready(two, **UNDER_20)
    await scanned(two, rule)
    one, other = [event.case_id for event in await two.said(UserFlagged)]
    await actions.change_rule(two.deps, rule.id, {"minimum_hours": "5"}, author="otto")
    await feed(two, used("u00002", 25))
    await two.hear(*(UsageQuestioned(case_id=case_id, asked_at=NOON) for case_id in (one, other)))
    answers = {answer.case_id: answer for answer in await two.said(UsageJudged)}
    assert (answers[one].use, answers[other].use) == ("unused", "used")
    assert answers[one].reason.startswith("10.00 hours of 20")
    assert answers[one].asked_at == NOON


async def test_a_source_that_is_stale_before_a_step_is_unknown(one: Scanner, clock: FixedClock) -> None:
    await feed(one, used("u00001", 10), used("boss", 40), report=complete())
    await scanned(one, await ready(one, **UNDER_20))
    (event,) = await one.said(UserFlagged)
    clock.advance(5 * DAY)
    await one.hear(UsageQuestioned(case_id=event.case_id, asked_at=clock.now()))
    (answer,) = await one.said(UsageJudged)
    assert answer.use == "unknown"
    assert "stale" in answer.reason


async def test_what_the_system_says_right_before_a_step_counts(one: Scanner) -> None:
    await scanned(one, await ready(one, **BY_SOURCES))
    first, second = await one.said(UserFlagged)
    await one.hear(
        UsageQuestioned(case_id=first.case_id, asked_at=NOON, last_used_at=NOON - HOUR, read=True),
        UsageQuestioned(case_id=second.case_id, asked_at=NOON, last_used_at=NOON - 120 * DAY, read=True),
    )
    assert [answer.use for answer in await one.said(UsageJudged)] == ["used", "unused"]


async def test_before_a_step_a_system_says_nothing_of_components_that_it_does_not_list(
    tmp_path: Path, clock: FixedClock
) -> None:
    async with world(tmp_path, clock, owned={"bob": {"OFFICE": 200}}) as office:
        named = [used("somebody", 1, product=part) for part in ("WORD", "EXCEL")]
        await feed(office, *named, report=complete(timed=False))
        await _hold_since_long_ago(office, "OFFICE")
        await scanned(office, await suite_ruled(office, "OFFICE", **BY_SOURCES))
        (event,) = await office.said(UserFlagged)
        asked = {"case_id": event.case_id, "last_used_at": NOON - 200 * DAY, "read": True}
        await office.hear(UsageQuestioned(asked_at=NOON, **asked))
        clock.advance(5 * DAY)
        await office.hear(UsageQuestioned(asked_at=clock.now(), **asked))
        fresh, stale = await office.said(UsageJudged)
        assert fresh.use == "unused", "the agent watches Word and Excel"
        assert stale.use == "unknown", "the agent is silent, and the system lists neither Word nor Excel"


# ------------------------------------------------------------------------------------------------ installed software

ON_DEVICES: dict[str, Any] = {
    **UNDER_20,
    "name": "Idle installations",
    "minimum_hours": "2",
    "products": ["visio"],
    "young_days": 0,
}


def on(device: str, user: str = "u1@acme.example", **more: Any) -> InstallationRecord:
    return InstallationRecord(
        **{"user": user, "product": "visio", "device": device, "installed_at": NOON - 400 * DAY, **more}
    )


async def inventory(scanner: Scanner, *rows: InstallationRecord, source: str = "sccm") -> None:
    async with scanner.running.database.unit() as unit:
        taken = await add_installations(unit.db, source, rows, heard_at=scanner.clock.now())
        assert not taken.refused
        await end_inventory(unit.db, source, heard_at=scanner.clock.now(), silence=7 * DAY)


async def installed_rule(scanner: Scanner, **terms: Any) -> Rule:
    connection = await actions.add_connection(
        scanner.deps, name="Desktops", kind="installed", settings={}, credentials={}
    )
    rule = await actions.add_rule(scanner.deps, connection.id, {**TERMS, **ON_DEVICES, **terms}, author="otto")
    return await actions.activate_rule(scanner.deps, rule.id)


def visio(user: str, hours: float, device: str) -> UsageRecord:
    return used(user, hours, product="visio", device=device)


async def test_a_rule_on_installed_software_opens_one_case_for_all_idle_devices_of_a_holder(two: Scanner) -> None:
    await scanned(two, await ready(two))  # who the people are is known from their other seats
    before = len(await two.said(UserFlagged))
    await catalog_actions.add_product(two.deps, {"key": "visio", "name": "Visio"}, author="otto")
    await inventory(two, on("PC-1"), on("PC-2"), on("PC-3"), on("PC-9", "u2@acme.example"))
    await feed(
        two,
        *(visio("u1@acme.example", 1, "PC-1"), visio("u1@acme.example", 0.5, "PC-3")),
        *(visio("somebody else", 5, "PC-2"), visio("u2@acme.example", 9, "PC-9")),
        report=complete(product="visio"),
    )
    run = await scanned(two, await installed_rule(two))
    (event,) = (await two.said(UserFlagged))[before:]
    assert (event.seat.product_name, event.seat.devices) == ("Visio", ("PC-1", "PC-3"))
    assert (event.seat.holder.name, event.seat.holder.email) == ("Holder 1", "u1@acme.example")
    assert event.approver.id == "boss"
    assert event.policy.reclaim_by == "task"
    assert (run.seen, run.used, run.flagged) == (4, 2, 1)


@pytest.mark.parametrize(
    ("holder", "boss"),
    [
        ({}, {"frozen": True}),
        ({"manager_id": "u00001"}, {}),
        ({}, {"email": "U1@ACME.example"}),
    ],
    ids=["has left", "own account", "own address"],
)
async def test_software_on_devices_is_not_asked_about_with_a_manager_who_left_or_is_the_holder(
    one: Scanner, holder: dict[str, Any], boss: dict[str, Any]
) -> None:
    for person, changes in (("u00001", holder), ("boss", boss)):
        for name, value in changes.items():
            setattr(one.org.users[person], name, value)
    await scanned(one, await ready(one), dry_run=True)
    await catalog_actions.add_product(one.deps, {"key": "visio", "name": "Visio"}, author="otto")
    await inventory(one, on("PC-1"))
    await feed(one, visio("u1@acme.example", 1, "PC-1"), report=complete(product="visio"))
    await scanned(one, await installed_rule(one, fallback_approver="desk@acme.example"))
    event = (await one.said(UserFlagged))[-1]
    assert event.seat.devices == ("PC-1",)
    assert event.approver is not None
    assert event.approver.email == "desk@acme.example"


async def test_who_is_excluded_by_an_account_is_left_alone_on_devices_too(one: Scanner) -> None:
    await scanned(one, await ready(one), dry_run=True)
    await catalog_actions.add_product(one.deps, {"key": "visio", "name": "Visio"}, author="otto")
    await inventory(one, on("PC-1"), on("PC-2", "U2@acme.example"))
    idle_on = visio("u1@acme.example", 1, "PC-1"), visio("u2@acme.example", 1, "PC-2")
    await feed(one, *idle_on, report=complete(product="visio"))
    leave = {"kind": "person", "reason": "parental leave"}
    await actions.add_exclusion(one.deps, {**leave, "value": "U00001"}, author="otto")
    run = await scanned(one, await installed_rule(one))
    assert (run.flagged, run.left_alone) == (1, {"exempt": 1})
    event = (await one.said(UserFlagged))[-1]
    assert event.seat.devices == ("PC-2",)
    await actions.add_exclusion(one.deps, {**leave, "value": "u00002"}, author="otto")
    taken_back = {withdrawn.case_id for withdrawn in await one.said(CaseWithdrawn)}
    assert event.case_id in taken_back


async def test_an_installation_without_a_user_is_left_alone_and_says_why(one: Scanner) -> None:
    await inventory(one, on("PC-1"), on("PC-7", ""))
    await feed(one, visio("u1@acme.example", 5, "PC-1"), visio("somebody", 1, "PC-7"), report=complete(product="visio"))
    rule = await installed_rule(one)
    run = await scanned(one, rule)
    assert (run.flagged, run.left_alone) == (0, {"exempt": 1})
    (verdict,) = (await explain(one.deps, rule.connection_id, "device:PC-7")).verdicts
    assert "no source says whose PC-7 is" in verdict.summary


async def test_nobody_is_flagged_by_an_old_list_of_what_is_installed(one: Scanner, clock: FixedClock) -> None:
    await inventory(one, on("PC-1"))
    rule = await installed_rule(one)
    clock.advance(8 * DAY)
    now = clock.now()
    await feed(one, visio("u1@acme.example", 1, "PC-1"), report=complete(product="visio", now=now))
    run = await scanned(one, rule)
    assert run.flagged == 0
    assert "import a new list" in run.missing["frozen"]


async def test_before_a_step_software_that_was_removed_is_gone(one: Scanner, clock: FixedClock) -> None:
    await inventory(one, on("PC-1"), on("PC-2"))
    await feed(one, visio("u1@acme.example", 1, "PC-1"), visio("u1@acme.example", 1, "PC-2"))
    await feed(one, report=complete(product="visio"))
    await scanned(one, await installed_rule(one))
    (event,) = await one.said(UserFlagged)
    assert event.seat.devices == ("PC-1", "PC-2")
    for left in ([on("PC-2")], []):
        clock.advance(HOUR)
        await inventory(one, *left)
        await one.hear(UsageQuestioned(case_id=event.case_id, asked_at=clock.now()))
    still, gone = await one.said(UsageJudged)
    assert (still.use, gone.use) == ("unused", "gone")
    assert still.reason.startswith("PC-2: 1.00 hours of 2")


async def test_who_has_software_and_moved_to_an_excluded_department_since_is_left_alone_before_a_step(
    one: Scanner, clock: FixedClock
) -> None:
    people = await ready(one)
    await scanned(one, people, dry_run=True)
    await inventory(one, on("PC-1"))
    await feed(one, visio("u1@acme.example", 1, "PC-1"), report=complete(product="visio"))
    raw = {"kind": "department", "value": "Board", "reason": "left alone"}
    await actions.add_exclusion(one.deps, raw, author="otto")
    await scanned(one, await installed_rule(one))
    event = (await one.said(UserFlagged))[-1]
    assert (event.seat.devices, event.seat.department, event.policy.ask_scanner) == (("PC-1",), "Sales", True)
    for department in ("Sales", "Board"):
        one.org.users["u00001"].department = department
        clock.advance(HOUR)
        await scanned(one, people, dry_run=True)
        await one.hear(UsageQuestioned(case_id=event.case_id, asked_at=clock.now()))
    assert [said.use for said in await one.said(UsageJudged)] == ["unused", "excluded"]


async def test_a_filter_on_devices_chooses_among_installations(one: Scanner) -> None:
    await inventory(one, on("PC-1"), on("LAB-1"))
    await feed(one, visio("u1@acme.example", 1, "PC-1"), visio("u1@acme.example", 1, "LAB-1"))
    await feed(one, report=complete(product="visio"))
    await scanned(one, await installed_rule(one, filter="startswith(device/id, 'PC-')"))
    (event,) = await one.said(UserFlagged)
    assert event.seat.devices == ("PC-1",)


async def test_of_somebody_known_from_a_feed_alone_no_reporting_line_is_known(one: Scanner) -> None:
    await inventory(one, on("PC-1", "ACME\\stranger"))
    await feed(one, visio("acme\\Stranger", 1, "PC-1"), report=complete(product="visio"))
    run = await scanned(one, await installed_rule(one, filter="not reports_to(user, 'boss')"))
    assert (run.flagged, run.left_alone) == (0, {"filter": 1})


async def test_a_rule_applies_to_what_its_connection_has(one: Scanner) -> None:
    with pytest.raises(Invalid, match="subscription software") as caught:
        await ready(one, applies_to="installed", reclaim_by="task")
    assert caught.value.field == "applies_to"
    with pytest.raises(Rejected, match="by a person"):
        read_terms({**TERMS, **ON_DEVICES, "applies_to": "installed", "reclaim_by": "deactivate"})
