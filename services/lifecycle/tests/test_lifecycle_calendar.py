"""Working days: counted by hand for known weeks, and by their laws for any date, zone and change of the clocks."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reclaim.common.contracts import Policy
from reclaim.lifecycle.calendar import grace_end, is_working_day, may_act, may_reclaim, next_reclaim

DAY = timedelta(days=1)
ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe", "America/Asuncion"]
"""Whole and odd offsets, half-hour daylight saving, and clocks that change at midnight."""


def rule(**changes: object) -> Policy:
    base: dict[str, object] = {
        "rule_id": "r", "rule_version": 1, "rule_name": "Idle", "inactive_days": 90, "route": "email",
        "decision_days": 14, "on_timeout": "freeze", "grace_days": 5, "hand_over": True, "dry_run": False,
    }  # fmt: skip
    return Policy(**(base | changes))  # type: ignore[arg-type]


def berlin(*when: int) -> datetime:
    return datetime(*when, tzinfo=ZoneInfo("Europe/Berlin"))  # type: ignore[misc,arg-type]


def test_the_default_is_any_day_at_any_time() -> None:
    friday = berlin(2026, 12, 18, 15, 0)
    assert grace_end(rule(), friday) == friday + 5 * DAY
    assert may_reclaim(rule(), friday)
    assert next_reclaim(rule(), friday) == friday


@pytest.mark.parametrize(
    ("frozen", "days", "off", "ends"),
    [
        # Wednesday, three working days: Thursday, Friday, Monday.
        (berlin(2026, 11, 4, 9, 30), 3, (), berlin(2026, 11, 9, 9, 30)),
        # On a Saturday the count begins on Monday at midnight.
        (berlin(2026, 11, 7, 9, 30), 1, (), berlin(2026, 11, 10, 0, 0)),
        # Over Christmas and New Year.
        (
            berlin(2026, 12, 23, 16, 0),
            3,
            (date(2026, 12, 24), date(2026, 12, 25), date(2026, 12, 31), date(2027, 1, 1)),
            berlin(2026, 12, 30, 16, 0),
        ),
        # The clocks go forward on Sunday the 29th: the time on the wall stays.
        (berlin(2026, 3, 27, 9, 30), 1, (), berlin(2026, 3, 30, 9, 30)),
        # The same on the way back.
        (berlin(2026, 10, 23, 9, 30), 1, (), berlin(2026, 10, 26, 9, 30)),
    ],
)
def test_working_days_are_counted_on_the_wall(
    frozen: datetime, days: int, off: tuple[date, ...], ends: datetime
) -> None:
    found = grace_end(
        rule(grace_calendar="business", grace_days=days, days_off=off, time_zone="Europe/Berlin"),
        frozen.astimezone(UTC),
    )
    assert found == ends


def test_the_day_is_that_of_the_rules_zone() -> None:
    # Thursday evening in New York is Friday in UTC, and Friday morning in Auckland.
    at = datetime(2026, 11, 6, 2, 0, tzinfo=UTC)
    restricted = {"no_reclaim_before_days_off": True}
    assert may_reclaim(rule(**restricted, time_zone="America/New_York"), at)
    assert not may_reclaim(rule(**restricted), at)
    assert next_reclaim(rule(**restricted), at) == datetime(2026, 11, 9, tzinfo=UTC)


@pytest.mark.parametrize(
    ("day", "allowed"),
    [(2, True), (3, True), (4, False), (5, False), (6, False), (7, False), (8, False), (9, True)],
)
def test_nothing_is_freed_on_a_friday_a_weekend_or_before_a_holiday(day: int, allowed: bool) -> None:
    holiday = rule(no_reclaim_before_days_off=True, days_off=(date(2026, 11, 5),))
    assert may_reclaim(holiday, datetime(2026, 11, day, 12, 0, tzinfo=UTC)) is allowed


@pytest.mark.parametrize(
    ("at", "allowed"),
    [
        (berlin(2026, 11, 4, 8, 59), False),
        (berlin(2026, 11, 4, 9, 0), True),
        (berlin(2026, 11, 4, 16, 59), True),
        (berlin(2026, 11, 4, 17, 0), False),
        (berlin(2026, 11, 7, 12, 0), False),
        (berlin(2026, 11, 5, 12, 0), False),
        # The same hour on the wall before and after the clocks change.
        (berlin(2026, 10, 23, 9, 0), True),
        (berlin(2026, 10, 26, 9, 0), True),
    ],
    ids=["early", "at nine", "last minute", "at five", "Saturday", "a day off", "summer time", "winter time"],
)
def test_accounts_are_acted_on_within_the_rules_hours_of_a_working_day(at: datetime, allowed: bool) -> None:
    hours = {"act_from": time(9), "act_until": time(17), "time_zone": "Europe/Berlin", "days_off": (date(2026, 11, 5),)}
    assert may_act(rule(**hours), at.astimezone(UTC)) is allowed
    assert may_reclaim(rule(**hours), at.astimezone(UTC)) is allowed
    assert may_act(rule(), at)


def test_grace_that_ends_at_night_lasts_until_the_morning() -> None:
    hours = {"act_from": time(9), "act_until": time(17), "time_zone": "Europe/Berlin"}
    # Frozen on a Monday evening for five days: Saturday, and so Monday at nine.
    assert grace_end(rule(**hours), berlin(2026, 11, 2, 16, 59)) == berlin(2026, 11, 9, 9, 0)
    assert grace_end(rule(**hours, grace_days=1), berlin(2026, 11, 2, 20, 0)) == berlin(2026, 11, 4, 9, 0)
    assert grace_end(rule(**hours, grace_days=1), berlin(2026, 11, 2, 16, 0)) == berlin(2026, 11, 3, 16, 0)


HOURS = [{}, {"act_from": time(9), "act_until": time(17, 30)}, {"act_from": time(0), "act_until": time(23, 59)}]

policies = st.builds(
    lambda hours, **changes: rule(**hours, **changes),
    st.sampled_from(HOURS),
    grace_days=st.integers(1, 90),
    grace_calendar=st.sampled_from(["calendar", "business"]),
    no_reclaim_before_days_off=st.booleans(),
    days_off=st.lists(st.dates(date(2024, 1, 1), date(2031, 12, 31)), max_size=60).map(tuple),
    time_zone=st.sampled_from(ZONES),
)
instants = st.integers(0, 7 * 366 * 86_400).map(
    lambda second: datetime(2024, 1, 1, tzinfo=UTC) + timedelta(seconds=second)
)


@given(policies, instants)
def test_grace_is_never_shorter_than_promised_and_ends_when_a_seat_may_be_freed(policy: Policy, at: datetime) -> None:
    end = grace_end(policy, at)
    assert end - at >= policy.grace_days * DAY
    assert may_reclaim(policy, end)
    if policy.grace_calendar == "business":
        assert _whole_working_days(policy, at, end) >= policy.grace_days


def _whole_working_days(policy: Policy, start: datetime, end: datetime) -> int:
    """Count the working quarters of an hour in between, as whole days, rounded: another way than the one under test."""
    zone = ZoneInfo(policy.time_zone)
    quarter, worked = timedelta(minutes=15), 0
    for step in range(int((end - start) / quarter)):
        worked += is_working_day(policy, (start + step * quarter).astimezone(zone).date())
    return round(worked / 96 + 0.05)


@given(policies, instants)
def test_the_next_reclaim_is_the_first_that_is_allowed(policy: Policy, at: datetime) -> None:
    found = next_reclaim(policy, at)
    assert found >= at
    assert may_reclaim(policy, found)
    if found > at:
        assert not may_reclaim(policy, at)
        assert not may_reclaim(policy, found - timedelta(microseconds=1))
    assert next_reclaim(policy, found) == found


@given(policies, instants, st.timedeltas(timedelta(0), timedelta(days=30)))
def test_who_was_frozen_later_is_never_reclaimed_earlier(policy: Policy, at: datetime, later: timedelta) -> None:
    hour = timedelta(hours=1)
    # Within the hour that comes twice two instants show the same time, and end at the same.
    assert grace_end(policy, at) <= grace_end(policy, at + later) + hour
