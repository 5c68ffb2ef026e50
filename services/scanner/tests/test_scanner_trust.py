"""What makes a rule trustworthy: reasons for warnings, reviews, comparisons, who is asked instead of a manager."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from reclaim.common.clock import FixedClock
from reclaim.common.contracts import CaseWithdrawn, Person, UserFlagged
from reclaim.common.errors import Conflict, Invalid, NotFound
from reclaim.connectors.fake import FakeOrg, FakeRecord
from reclaim.scanner import actions, catalog_actions, catalog_store, store
from reclaim.scanner.domain import Rejected, Stopped, approver_of, check_share, diff, read_terms
from reclaim.scanner.explain import explain
from reclaim.scanner.filters import FilterRefused
from reclaim.scanner.scan import preview
from services.scanner.tests.scanner_world import NOON, SETTINGS, TERMS, WARNS, Scanner, filled, idle, started
from services.scanner.tests.test_scanner_domain import RAW, seat
from services.scanner.tests.test_scanner_scan import connected, flagged, ready, ruled, scanned

FALLBACK = Person(id="", name="Licence desk", email="licences@acme.example")
WITH_FALLBACK = {"fallback_approver": FALLBACK.email, "fallback_name": FALLBACK.name}


# ------------------------------------------------------------------------------------------------ what a rule says


@pytest.mark.parametrize(
    "reasons", [None, {}, {"queue_member": ""}, {"queue_member": "no"}, {"queue_member": "x" * 301}]
)
def test_a_check_may_only_warn_with_a_recorded_reason(reasons: Any) -> None:
    with pytest.raises(Rejected, match="Say why queue_member may warn") as caught:
        read_terms({**RAW, "warn_only": ["queue_member"], "warn_reasons": reasons})
    assert list(caught.value.by_field) == ["warn_reasons"]


def test_a_reason_without_its_check_is_not_kept() -> None:
    terms = read_terms({**RAW, "warn_only": [], "warn_reasons": {"queue_member": "the queue has other members"}})
    assert terms.warn_reasons == {}


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        ({"fallback_approver": "somebody"}, "fallback_approver"),
        ({"fallback_approver": "a b@acme.example"}, "fallback_approver"),
        ({"act_from": "9 o'clock", "act_until": "17:00"}, "act_from"),
        ({"act_from": "09:00"}, "act_from"),
        ({"act_until": "17:00"}, "act_from"),
        ({"act_from": "17:00", "act_until": "09:00"}, "act_until"),
        ({"act_from": "09:00:30", "act_until": "17:00"}, "act_from"),
        ({"hand_over_to": "x" * 101}, "hand_over_to"),
        ({"remind_days": "soon"}, "remind_days"),
        ({"remind_days": [1, 2, 3, 4, 5, 6]}, "remind_days"),
        ({"remind_days": [3, 7]}, "remind_days"),
        ({"ask_first": "everybody"}, "ask_first"),
        ({"ask_first": "holder", "route": "both"}, "ask_first"),
        ({"holder_days": 31}, "holder_days"),
        ({"most_a_day": 0}, "most_a_day"),
        ({"most_a_day": 9, "most_a_month": 8}, "most_a_month"),
        ({"desk": "two words", "route": "itsm"}, "desk"),
        ({"desk": "x" * 81, "route": "itsm"}, "desk"),
        ({"desk": "jira", "route": "email"}, "desk"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_field(raw: dict[str, object], field: str) -> None:
    with pytest.raises(Rejected) as caught:
        read_terms({**RAW, **raw})
    assert field in caught.value.by_field


def test_what_the_other_stages_honour_travels_with_the_policy() -> None:
    raw = {**RAW, **WITH_FALLBACK, "hand_over_to": "u9", "act_from": "09:00", "act_until": "17:30"}
    raw |= {"remind_days": "5, 2", "ask_first": "holder", "holder_days": "4"}
    policy = read_terms(raw).policy("r1", 1, dry_run=True, prices={})
    assert policy.fallback_approver == FALLBACK
    assert policy.hand_over_to == "u9"
    assert [str(policy.act_from), str(policy.act_until)] == ["09:00:00", "17:30:00"]
    assert (policy.remind_days, policy.ask_first, policy.holder_days) == ((2, 5), "holder", 4)
    capped = read_terms({**RAW, "most_a_day": "5", "most_a_month": 40}).policy("r1", 1, dry_run=True, prices={})
    assert (capped.most_a_day, capped.most_a_month) == (5, 40)
    both = {**RAW, "route": "both", "desk": " jira-emea "}
    assert read_terms(both).policy("r1", 1, dry_run=True, prices={}).desk == "jira-emea"
    bare = read_terms(RAW).policy("r1", 1, dry_run=True, prices={})
    assert bare.desk is None
    assert (bare.fallback_approver, bare.hand_over_to, bare.act_from, bare.act_until) == (None, None, None, None)


def test_two_versions_are_compared_part_by_part() -> None:
    before = read_terms(RAW)
    after = read_terms({**RAW, "inactive_days": 60, "days_off": ["2026-12-25"]})
    assert [(change.field, change.before, change.after) for change in diff(before, after)] == [
        ("inactive_days", 90, 60),
        ("days_off", [], ["2026-12-25"]),
    ]
    assert diff(before, before) == ()


# ------------------------------------------------------------------------------------------------ who is asked


@pytest.mark.parametrize(
    "manager",
    [None, {"able": False}, {"id": "u1"}],
    ids=["missing", "inactive", "the holder"],
)
async def test_without_a_manager_who_can_answer_the_fallback_approver_is_asked(
    scanner: Scanner, manager: dict[str, Any] | None
) -> None:
    holder = scanner.org.users["u00001"]
    if manager is None:
        holder.manager_id = None
    elif "able" in manager:
        scanner.org.users["boss"].active = False
    else:
        holder.manager_id = "u00001"
    await scanned(scanner, await ready(scanner, **WITH_FALLBACK))
    event = next(event for event in await scanner.said(UserFlagged) if event.seat.holder.id == "u00001")
    assert event.approver == FALLBACK
    assert event.policy.fallback_approver == FALLBACK


def test_nobody_is_asked_about_their_own_seat_as_the_fallback_either() -> None:
    own = Person(id="u1", name="Holder 1", email="Licences@ACME.example")
    assert approver_of(seat(holder=own, manager=None), FALLBACK) is None
    assert approver_of(seat(manager=None), FALLBACK) == FALLBACK
    asked = approver_of(seat(), FALLBACK)
    assert asked is not None
    assert asked.id == "boss"


async def test_a_named_successor_stands_in_for_a_manager_who_is_missing(scanner: Scanner) -> None:
    scanner.org.users["u00001"].manager_id = None
    scanner.org.records["006"] = FakeRecord("006", "Opportunity", "u00001")
    rule = await ready(scanner, **WITH_FALLBACK)
    assert (await scanned(scanner, rule, dry_run=True)).left_alone["no_successor"] == 1
    await actions.change_rule(scanner.deps, rule.id, {"hand_over_to": "boss"}, author="otto")
    assert "no_successor" not in (await scanned(scanner, rule, dry_run=True)).left_alone
    assert "u00001" in await flagged(scanner)


# ------------------------------------------------------------------------------------------------ the filter


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("user/department eq 'Sales'", ["u00001", "u00002"]),
        ("user/department eq 'Support'", []),
        ("last_used_at lt 2026-08-01", ["u00001"]),
        ("last_used_at eq null", ["u00002"]),
        ("price gt 100 and user/name eq 'Holder 2'", ["u00002"]),
        ("user/manager/id eq 'boss' and not (user/id eq 'u00001')", ["u00002"]),
        ("in_group(user, 'Field')", ["u00002"]),
        ("not (in_group(user, 'Field'))", ["u00001"]),
    ],
)
async def test_a_rules_filter_chooses_among_the_seats(both: Scanner, text: str, left: list[str]) -> None:
    both.org.groups = {"Field": {"u00002", "Inner"}, "Inner": {"u00003"}}
    rule = await ready(both, filter=text)
    connection = await connection_of(both, rule)
    shown = await preview(both.deps, connection, rule.terms, rule.id)
    explained = {
        holder: (await explain(both.deps, connection.id, holder)).verdicts[0].result for holder in ("u00001", "u00002")
    }
    run = await scanned(both, rule)
    assert await flagged(both) == left
    assert [found.seat.holder.id for found in shown.found] == left
    assert [holder for holder, result in explained.items() if result == "flagged"] == left
    assert run.left_alone.get("filter", 0) >= 2 - len(left)
    assert run.seen == run.used + run.flagged + sum(run.left_alone.values())


@pytest.mark.parametrize(
    "text", ["user/departement eq 'Sales'", "user.__class__ eq 'x'", "device/name eq 'x'", "(" * 200, "price gt 'many'"]
)
def test_a_filter_that_does_not_fit_is_refused_with_its_place(text: str) -> None:
    with pytest.raises(Rejected) as caught:
        read_terms({**RAW, "filter": text})
    assert list(caught.value.by_field) == ["filter"]


async def test_a_filter_about_what_is_not_known_flags_nobody_and_says_so(scanner: Scanner) -> None:
    scanner.org.groups = {"Field": {"u00002"}}
    rule = await ready(scanner, filter="not (in_group(user, 'Field'))")
    scanner.org.groups.clear()
    run = await scanned(scanner, rule)
    assert (run.flagged, run.missing) == (0, {"group Field": "The org has no group 'Field'."})
    (verdict,) = (await explain(scanner.deps, rule.connection_id, "u00001")).verdicts
    assert verdict.result == "unknown"
    assert "filter" in verdict.summary


async def test_a_rule_on_a_group_that_is_not_there_is_not_activated(scanner: Scanner) -> None:
    with pytest.raises(Invalid, match="no group 'Feild'"):
        await ready(scanner, filter="not (in_group(user, 'Feild'))")


@pytest.mark.parametrize(
    ("kind", "text", "says"),
    [
        ("installed", "in_group(user, 'Field')", "tell nobody's groups"),
        ("installed", "last_used_at eq null", "no account with a last use"),
        ("installed", "user/active eq true", "no account behind an installation"),
        ("scim", "price gt 1 and not (last_used_at lt 2026-01-01)", "SCIM tells nobody's last use"),
        ("salesforce", "assigned_at eq null", "does not keep when a licence was assigned"),
    ],
)
async def test_a_filter_on_what_the_connection_cannot_tell_is_refused(
    scanner: Scanner, kind: str, text: str, says: str
) -> None:
    settings = {"scim": {"base_url": "https://a.example/scim"}, "salesforce": SETTINGS}.get(kind, {})
    credentials = {"scim": {"token": "t"}, "salesforce": {"client_secret": "s"}}.get(kind, {})
    connection = await actions.add_connection(
        scanner.deps, name="One", kind=kind, settings=settings, credentials=credentials, test=False
    )
    with pytest.raises(Rejected, match=says) as caught:
        await actions.add_rule(scanner.deps, connection.id, {**TERMS, "filter": text}, author="otto")
    assert list(caught.value.by_field) == ["filter"]
    rule = await actions.add_rule(scanner.deps, connection.id, TERMS, author="otto")
    with pytest.raises(Rejected, match=says):
        await actions.change_rule(scanner.deps, rule.id, {"filter": text}, author="otto")
    async with scanner.running.database.reading() as db:
        (row,) = await catalog_store.rows(db, rule.id)
    with pytest.raises(FilterRefused, match=says):
        await catalog_actions.change_in_rule(scanner.deps, rule.id, row.id, filter=text, author="otto")


async def test_who_reports_to_whom_is_judged_when_all_have_been_read(
    tmp_path: Path, clock: FixedClock, database_url: str | None
) -> None:
    """The manager's own record comes a page after the report's; a preview and a scan say the same, before and after."""
    people = [
        idle(1, manager_id="z1"),
        idle(2, manager_id="z2"),
        idle(3, id="z1", manager_id="z9", days=1, email="zoe@acme.example"),
        idle(4, id="z2", manager_id=None, days=1),
        idle(5, id="z9", manager_id=None, days=1),
    ]
    async with started(tmp_path, filled(clock, people, page_size=1), clock, database_url=database_url) as scanner:
        for number, (text, left) in enumerate(
            [
                ("reports_to(user, 'z9')", ["u00001"]),
                ("not (reports_to(user, 'z9'))", ["u00002"]),
                ("not (reports_to(user, 'zoe@acme.example'))", ["u00002"]),
            ]
        ):
            connection = await connected(scanner, name=f"Org {number}")
            rule = await ruled(scanner, connection, name=f"Rule {number}", filter=text)
            before = await preview(scanner.deps, connection, rule.terms, rule.id)
            known = len(await flagged(scanner))
            run = await scanned(scanner, rule)
            assert [one.seat.holder.id for one in before.found] == left, text
            assert (await flagged(scanner))[known:] == left, text
            assert run.seen == 6 == run.used + run.flagged + sum(run.left_alone.values())
            verdicts = (await explain(scanner.deps, connection.id, left[0])).verdicts
            assert [verdict.result for verdict in verdicts] == ["left_alone"], "a case is open"


# ------------------------------------------------------------------------------------------------ review, versions


async def test_a_rule_that_needs_a_review_opens_no_case_until_activated(both: Scanner) -> None:
    connection = await connected(both)
    rule = await actions.add_rule(both.deps, connection.id, TERMS, author="otto")
    waiting = await actions.submit_rule(both.deps, rule.id, by="otto")
    assert (waiting.status, waiting.moved_by, waiting.moved_at) == ("needs_review", "otto", NOON)
    with pytest.raises(Conflict, match="The rule is needs review"):
        await actions.start_scan(both.deps, rule.id, dry_run=True, accept_population=False, asked_by="otto")
    async with both.running.database.unit() as unit:
        assert not await store.anything_to_claim(unit.db)
    active = await actions.activate_rule(both.deps, rule.id, by="vera")
    assert (active.status, active.moved_by) == ("active", "vera")
    assert (await scanned(both, rule)).flagged == 2


async def test_a_rule_edited_while_a_case_is_open_leaves_the_case_its_version(scanner: Scanner) -> None:
    rule = await ready(scanner, **WARNS)
    await scanned(scanner, rule)
    await actions.change_rule(scanner.deps, rule.id, {"grace_days": 30, "inactive_days": 60}, author="vera")
    compared = await actions.compare_versions(scanner.deps, rule.id)
    assert [(change.field, change.before, change.after) for change in compared.changes] == [
        ("inactive_days", 90, 60),
        ("grace_days", 14, 30),
    ]
    assert (compared.before.author, compared.after.author) == ("otto", "vera")
    assert {event.policy.grace_days for event in await scanner.said(UserFlagged)} == {14}
    async with scanner.running.database.reading() as db:
        assert {one.rule_version for one in await store.candidates(db)} == {1}
    with pytest.raises(NotFound, match="no version 7"):
        await actions.compare_versions(scanner.deps, rule.id, after=7)


# ------------------------------------------------------------------------------------------------ taking cases back


async def test_cases_of_a_rule_are_taken_back_once_it_is_paused(both: Scanner) -> None:
    connection = await connected(both)
    rule = await ruled(both, connection)
    other = await ruled(both, connection, name="Another", products=["SFDC"], inactive_days=60)
    await scanned(both, rule)
    with pytest.raises(Conflict, match="pause it first"):
        await actions.withdraw_cases(both.deps, rule.id, "wrong threshold", by="otto")
    await actions.pause_rule(both.deps, rule.id, by="otto")
    with pytest.raises(Invalid, match="Say why"):
        await actions.withdraw_cases(both.deps, rule.id, "  ", by="otto")
    assert await actions.withdraw_cases(both.deps, rule.id, "wrong threshold", by="otto") == 2
    told = await both.said(CaseWithdrawn)
    assert {(event.kind, event.actor) for event in told} == {("rule_withdrawn", "otto")}
    assert all("wrong threshold" in event.reason for event in told)
    async with both.running.database.reading() as db:
        assert [event.case_id for event in told] == [one.case_id for one in await store.candidates(db, rule_id=rule.id)]
    await actions.pause_rule(both.deps, other.id)
    assert await actions.withdraw_cases(both.deps, other.id, "wrong threshold", by="otto") == 0


async def test_deleting_a_profile_keeps_the_rule_and_skips_its_open_cases(both: Scanner) -> None:
    rule = await ready(both)
    await scanned(both, rule)
    await actions.remove_connection(both.deps, rule.connection_id, by="anna")
    told = await both.said(CaseWithdrawn)
    assert [(event.kind, event.actor) for event in told] == [("profile_removed", "anna")] * 2
    assert "Acme" in told[0].reason
    async with both.running.database.reading() as db:
        assert (await store.rule(db, rule.id)).status == "paused"


async def test_two_rules_match_one_seat_and_open_one_case(both: Scanner) -> None:
    connection = await connected(both)
    first = await ruled(both, connection)
    second = await ruled(both, connection, name="Another", inactive_days=60)
    await scanned(both, first)
    run = await scanned(both, second)
    assert (run.flagged, run.left_alone["already_frozen"]) == (0, 2)
    assert await flagged(both) == ["u00001", "u00002"]


async def test_a_seat_that_was_never_used_and_assigned_yesterday_is_not_flagged(scanner: Scanner) -> None:
    scanner.org.users["u00009"] = idle(9, last_used_at=None, created_at=NOON - timedelta(days=1))
    await scanned(scanner, await ready(scanner))
    assert "u00009" not in await flagged(scanner)


# ------------------------------------------------------------------------------------------------ the brake


def population(clock: FixedClock, *, flagged: int, of: int) -> FakeOrg:
    """Return an org of so many seats (one is the manager's), so many of them idle."""
    users = [idle(number, days=120 if number < flagged else 5) for number in range(of - 1)]
    return filled(clock, users)


async def test_400_of_500_flagged_and_the_brake_stops_before_any_case_acts(
    tmp_path: Path, clock: FixedClock, database_url: str | None
) -> None:
    org = population(clock, flagged=400, of=500)
    async with started(tmp_path, org, clock, database_url=database_url) as scanner:
        rule = await ready(scanner, most_flagged_share=50)
        connection = await connection_of(scanner, rule)
        shown = await preview(scanner.deps, connection, rule.terms, rule.id)
        run = await scanned(scanner, rule)
        assert run.status == "stopped"
        assert run.reason == "400 of 500 seats would be flagged, and the rule allows 250 in one scan."
        assert shown.stopped is not None
        assert shown.stopped.reason == run.reason
        assert (shown.tally.flagged, len(shown.found)) == (400, 400)
        assert not run.acceptable
        assert await scanner.said(UserFlagged) == []
        assert await scanner.rows("SELECT id FROM candidates") == []
        changed = await actions.change_rule(scanner.deps, rule.id, {"most_flagged_share": 80}, author="otto")
        assert (await scanned(scanner, changed)).flagged == 400


@pytest.mark.parametrize(
    ("flagged_seats", "seen", "caps", "stopped"),
    [
        (250, 500, {}, False),
        (251, 500, {}, True),
        (10, 10, {}, False),
        (11, 12, {}, True),
        (100, 500, {"most_flagged": 100}, False),
        (101, 500, {"most_flagged": 100}, True),
        (6, 500, {"most_flagged": 5}, True),
        (500, 500, {"most_flagged_share": 100}, False),
        (0, 0, {}, False),
    ],
)
def test_a_rules_caps_are_exact(flagged_seats: int, seen: int, caps: dict[str, int], stopped: bool) -> None:
    terms = read_terms({**RAW, **caps})
    if not stopped:
        check_share(terms, flagged=flagged_seats, seen=seen)
        return
    with pytest.raises(Stopped, match=f"{flagged_seats} of {seen} seats"):
        check_share(terms, flagged=flagged_seats, seen=seen)


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        ({"most_flagged": 0}, "most_flagged"),
        ({"most_flagged": "many"}, "most_flagged"),
        ({"most_flagged_share": 0}, "most_flagged_share"),
        ({"most_flagged_share": 101}, "most_flagged_share"),
    ],
)
def test_caps_are_numbers(raw: dict[str, object], field: str) -> None:
    with pytest.raises(Rejected) as caught:
        read_terms({**RAW, **raw})
    assert list(caught.value.by_field) == [field]
    assert "of days" not in str(caught.value)


async def connection_of(scanner: Scanner, rule: store.Rule) -> store.Connection:
    async with scanner.running.database.reading() as db:
        return await store.connection(db, rule.connection_id)
