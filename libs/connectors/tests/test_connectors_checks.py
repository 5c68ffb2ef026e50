"""Every check with every outcome, its boundaries, and what may never count as a pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reclaim.common.contracts import CheckFinding, Person
from reclaim.connectors.checks import (
    CHECK_NAMES,
    CHECKS,
    FRESH_FOR,
    WARNABLE,
    clears,
    evaluate,
    is_unused,
    left_alone_by,
)
from reclaim.connectors.ports import Known, Manager, SeatRecord, Survey, Unknown

NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
DAY = timedelta(days=1)
TICK = timedelta(microseconds=1)
HOLDER = Person(id="u1", name="Ada")
BOSS = Person(id="u2", name="Bo")

SEAT = SeatRecord(
    holder=HOLDER,
    product="SFDC",
    product_name="Salesforce",
    department="Sales",
    active=True,
    usage_type="Standard",
    created_at=NOW - 400 * DAY,
    last_used_at=NOW - 200 * DAY,
    manager=Manager(BOSS, able=True),
)
NOTHING: Known[Mapping[str, Any]] = Known({})
CLEAN = Survey(
    taken_at=NOW,
    last_seen_elsewhere=NOTHING,
    integration_users=NOTHING,
    administrators=NOTHING,
    exempt=NOTHING,
    frozen=Known(frozenset()),
    thawed_at=NOTHING,
    scheduled_work=NOTHING,
    pending_approvals=NOTHING,
    queues=NOTHING,
    open_business=NOTHING,
)
TEXT = Known({"u1": "evidence"})
TRIPS: dict[str, dict[str, Any]] = {
    "new_account": {"thawed_at": Known({"u1": NOW - DAY})},
    "active_elsewhere": {"last_seen_elsewhere": Known({"u1": NOW - DAY})},
    "integration_user": {"integration_users": TEXT},
    "administrator": {"administrators": TEXT},
    "exempt": {"exempt": TEXT},
    "already_frozen": {"frozen": Known(frozenset({"u1"}))},
    "scheduled_jobs": {"scheduled_work": TEXT},
    "pending_approvals": {"pending_approvals": TEXT},
    "queue_member": {"queues": TEXT},
    "no_successor": {"open_business": Known({"u1": 2})},
}
"""What makes each check speak up (for `no_successor`, together with a seat that has no manager)."""

READINGS = [field.name for field in fields(Survey) if field.name not in ("taken_at", "seen")]
CHECK_OF = {
    "last_seen_elsewhere": "active_elsewhere",
    "integration_users": "integration_user",
    "administrators": "administrator",
    "exempt": "exempt",
    "frozen": "already_frozen",
    "thawed_at": "new_account",
    "scheduled_work": "scheduled_jobs",
    "pending_approvals": "pending_approvals",
    "queues": "queue_member",
    "open_business": "no_successor",
}


def run(seat: SeatRecord = SEAT, survey: Survey = CLEAN, **more: Any) -> dict[str, CheckFinding]:
    findings = evaluate(seat, survey, **{"now": NOW, "inactive_days": 90, **more})
    assert tuple(finding.check for finding in findings) == CHECK_NAMES
    return {finding.check: finding for finding in findings}


def outcomes(seat: SeatRecord = SEAT, survey: Survey = CLEAN, **more: Any) -> dict[str, str]:
    return {name: finding.outcome for name, finding in run(seat, survey, **more).items()}


def tripped(check: str) -> tuple[SeatRecord, Survey]:
    return replace(SEAT, manager=None) if check == "no_successor" else SEAT, replace(CLEAN, **TRIPS[check])


def test_the_ten_checks_are_named_and_ordered() -> None:
    assert [check.order for check in CHECKS] == list(range(1, 11))
    assert tuple(TRIPS) == CHECK_NAMES
    assert {check.order for check in CHECKS if check.may_warn} == {7, 8, 9, 10}
    assert all(check.description.endswith(".") for check in CHECKS)


def test_a_clean_seat_passes_all() -> None:
    findings = run()
    assert {finding.outcome for finding in findings.values()} == {"pass"}
    assert all(finding.evidence for finding in findings.values())
    assert clears(findings.values())
    assert left_alone_by(findings.values()) is None


def test_an_account_that_the_reading_did_not_come_upon_is_unknown_to_every_check() -> None:
    missed = outcomes(SEAT, replace(CLEAN, seen=frozenset({"u2"})))
    assert set(missed.values()) == {"unknown"}
    assert set(outcomes(SEAT, replace(CLEAN, seen=frozenset({"u1", "u2"}))).values()) == {"pass"}


@pytest.mark.parametrize("check", CHECK_NAMES)
def test_each_check_skips_by_itself(check: str) -> None:
    seat, survey = tripped(check)
    found = outcomes(seat, survey)
    assert found.pop(check) == "skip"
    assert set(found.values()) == {"pass"}
    findings = evaluate(seat, survey, now=NOW, inactive_days=90)
    assert not clears(findings)
    assert left_alone_by(findings) == check


@pytest.mark.parametrize("check", CHECK_NAMES)
def test_only_the_last_four_can_be_made_to_warn(check: str) -> None:
    seat, survey = tripped(check)
    findings = run(seat, survey, warn_only=CHECK_NAMES)
    expected = "warn" if check in WARNABLE else "skip"
    assert findings[check].outcome == expected
    assert clears(findings.values()) is (expected == "warn")


@pytest.mark.parametrize("check", sorted(WARNABLE))
def test_a_warning_for_one_check_leaves_the_others_skipping(check: str) -> None:
    for other in sorted(WARNABLE - {check}):
        seat, survey = tripped(other)
        assert outcomes(seat, survey, warn_only={check})[other] == "skip"


@pytest.mark.parametrize("reading", READINGS)
def test_unknown_is_never_a_pass(reading: str) -> None:
    survey = replace(CLEAN, **{reading: Unknown("no permission")})
    findings = run(survey=survey, warn_only=CHECK_NAMES)
    check = CHECK_OF[reading]
    assert findings[check] == CheckFinding(check=check, outcome="unknown", evidence="no permission")
    assert not clears(findings.values())
    assert left_alone_by(findings.values()) == check


@given(
    st.dictionaries(st.sampled_from(READINGS), st.just(Unknown("unread")), min_size=1),
    st.sets(st.sampled_from(CHECK_NAMES)),
    st.sets(st.sampled_from(CHECK_NAMES)),
)
def test_no_combination_lets_unknown_data_through(
    unread: dict[str, Unknown], trips: set[str], warn_only: set[str]
) -> None:
    parts = {name: value for check in sorted(trips) for name, value in TRIPS[check].items()}
    findings = evaluate(
        replace(SEAT, manager=None),
        replace(CLEAN, **{**parts, **unread}),
        now=NOW,
        inactive_days=90,
        warn_only=warn_only,
        frozen_by_us={"u1"},
    )
    assert not clears(findings)
    assert left_alone_by(findings) is not None


@pytest.mark.parametrize("age", [FRESH_FOR + TICK, -FRESH_FOR - TICK])
def test_a_survey_of_another_time_knows_nothing(age: timedelta) -> None:
    assert set(outcomes(survey=replace(CLEAN, taken_at=NOW - age)).values()) == {"unknown"}


@pytest.mark.parametrize("age", [FRESH_FOR, timedelta(), -FRESH_FOR])
def test_a_survey_within_its_time_counts(age: timedelta) -> None:
    assert set(outcomes(survey=replace(CLEAN, taken_at=NOW - age)).values()) == {"pass"}


def test_what_was_not_checked_has_not_passed() -> None:
    findings = evaluate(SEAT, CLEAN, now=NOW, inactive_days=90)
    assert not clears(findings[:-1])
    assert left_alone_by(findings[:-1]) == "no_successor"
    assert not clears(())
    assert left_alone_by(()) == "new_account"


@pytest.mark.parametrize(
    ("age", "outcome"), [(30 * DAY + TICK, "pass"), (30 * DAY, "skip"), (timedelta(), "skip"), (-DAY, "skip")]
)
def test_new_account_by_creation(age: timedelta, outcome: str) -> None:
    assert outcomes(replace(SEAT, created_at=NOW - age))["new_account"] == outcome


@pytest.mark.parametrize(("age", "outcome"), [(30 * DAY + TICK, "pass"), (30 * DAY, "skip"), (DAY, "skip")])
def test_new_account_by_thaw(age: timedelta, outcome: str) -> None:
    survey = replace(CLEAN, thawed_at=Known({"u1": NOW - age, "other": NOW}))
    assert outcomes(survey=survey)["new_account"] == outcome


def test_new_account_takes_its_days_from_the_caller() -> None:
    seat = replace(SEAT, created_at=NOW - 10 * DAY)
    assert outcomes(seat, young_days=9)["new_account"] == "pass"
    assert outcomes(seat, young_days=10)["new_account"] == "skip"


def test_a_young_account_is_skipped_even_when_thaws_are_unknown() -> None:
    survey = replace(CLEAN, thawed_at=Unknown("unread"))
    assert outcomes(replace(SEAT, created_at=NOW - DAY), survey)["new_account"] == "skip"


@pytest.mark.parametrize(("age", "outcome"), [(90 * DAY + TICK, "pass"), (90 * DAY, "skip"), (DAY, "skip")])
def test_active_elsewhere_counts_within_the_rules_window(age: timedelta, outcome: str) -> None:
    survey = replace(CLEAN, last_seen_elsewhere=Known({"u1": NOW - age, "other": NOW}))
    assert outcomes(survey=survey)["active_elsewhere"] == outcome


def test_another_kind_of_account_is_no_persons() -> None:
    found = run(replace(SEAT, usage_type="PowerPartner"))["integration_user"]
    assert (found.outcome, found.evidence) == ("skip", "an account of the kind PowerPartner")


def test_our_own_records_hold_a_seat() -> None:
    found = run(held={"u1": "case 42 is open"})["already_frozen"]
    assert (found.outcome, found.evidence) == ("skip", "case 42 is open")
    assert outcomes(held={"other": "case 43 is open"})["already_frozen"] == "pass"


def test_held_is_certain_even_when_frozen_is_unknown() -> None:
    survey = replace(CLEAN, frozen=Unknown("unread"))
    assert outcomes(survey=survey, held={"u1": "kept on 1 November"})["already_frozen"] == "skip"


def test_our_own_freeze_does_not_stop_the_reclaim() -> None:
    survey = replace(CLEAN, frozen=Known(frozenset({"u1"})), thawed_at=Known({"u1": NOW - DAY}))
    assert set(outcomes(survey=survey, frozen_by_us={"u1"}).values()) == {"pass"}
    found = outcomes(survey=survey, frozen_by_us={"other"})
    assert (found["new_account"], found["already_frozen"]) == ("skip", "skip")


def test_a_freeze_of_ours_that_somebody_undid_stops_it() -> None:
    survey = replace(CLEAN, thawed_at=Known({"u1": NOW - DAY}))
    assert outcomes(survey=survey, frozen_by_us={"u1"})["new_account"] == "skip"


def test_a_freeze_of_ours_is_not_believed_when_frozen_is_unknown() -> None:
    survey = replace(CLEAN, frozen=Unknown("unread"), thawed_at=Known({"u1": NOW - DAY}))
    found = outcomes(survey=survey, frozen_by_us={"u1"})
    assert (found["new_account"], found["already_frozen"]) == ("unknown", "unknown")


@pytest.mark.parametrize(
    ("manager", "why"),
    [
        (None, "no manager is set"),
        (Manager(BOSS, able=False), "the manager, Bo, is inactive or frozen"),
        (Manager(HOLDER, able=True), "the manager is the holder"),
    ],
)
def test_open_business_needs_a_successor(manager: Manager | None, why: str) -> None:
    seat = replace(SEAT, manager=manager)
    assert outcomes(seat)["no_successor"] == "pass"
    assert outcomes(seat, replace(CLEAN, open_business=Known({"u1": 0, "other": 5})))["no_successor"] == "pass"
    found = run(seat, replace(CLEAN, open_business=Known({"u1": 1})))["no_successor"]
    assert (found.outcome, found.evidence) == ("skip", f"1 open record, and {why}")
    found = run(seat, replace(CLEAN, open_business=Known({"u1": 3})), warn_only={"no_successor"})["no_successor"]
    assert (found.outcome, found.evidence) == ("warn", f"3 open records, and {why}")


def test_a_manager_who_can_take_over_is_enough() -> None:
    assert outcomes(survey=replace(CLEAN, open_business=Known({"u1": 99})))["no_successor"] == "pass"


@pytest.mark.parametrize(
    ("used", "expected"), [(90 * DAY + TICK, True), (90 * DAY, False), (DAY, False), (timedelta(), False)]
)
def test_unused_means_last_used_before_the_window(used: timedelta, expected: bool) -> None:
    assert is_unused(replace(SEAT, last_used_at=NOW - used), inactive_days=90, now=NOW) is expected
    # Never used: the clock starts with the account.
    never = replace(SEAT, last_used_at=None, created_at=NOW - used)
    assert is_unused(never, inactive_days=90, now=NOW) is expected


def test_an_account_that_is_off_is_not_an_unused_seat() -> None:
    assert not is_unused(replace(SEAT, active=False), inactive_days=90, now=NOW)


@pytest.mark.parametrize("days", [0, -1])
def test_a_window_of_nothing_is_refused(days: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        is_unused(SEAT, inactive_days=days, now=NOW)


@given(st.integers(1, 4_000), st.integers(-10, 4_000 * 24 * 60))
def test_unused_agrees_with_the_window_as_defined(days: int, minutes_ago: int) -> None:
    used = NOW - timedelta(minutes=minutes_ago)
    window_start = NOW - timedelta(hours=24 * days)
    assert is_unused(replace(SEAT, last_used_at=used), inactive_days=days, now=NOW) is (used < window_start)


@pytest.mark.parametrize("kept", [True, False], ids=["a failed query", "no such data"])
def test_sources_of_use_answer_only_for_a_system_that_keeps_no_such_data(kept: bool) -> None:
    survey = replace(CLEAN, last_seen_elsewhere=Unknown("why", kept=kept))
    findings = evaluate(SEAT, survey, now=NOW, inactive_days=90, proven_unused="nobody saw any use")
    assert left_alone_by(findings) == ("active_elsewhere" if kept else None)
    seen = replace(CLEAN, last_seen_elsewhere=Known({SEAT.holder.id: NOW - DAY}))
    findings = evaluate(SEAT, seen, now=NOW, inactive_days=90, proven_unused="nobody saw any use")
    assert left_alone_by(findings) == "active_elsewhere"
