"""Whether a seat is used: windows, sums, coverage, and each case in which a wrong answer would cost somebody a seat."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import product as pairs
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reclaim.scanner.usage import (
    CHANNELS,
    Activity,
    Cell,
    Hours,
    Measured,
    Plan,
    Report,
    Span,
    UsageCondition,
    UsageRecord,
    Verdict,
    Window,
    freshness,
    gaps,
    judge,
    live_report,
    merged,
    merged_time,
    plan,
    total,
    trouble_with,
)

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
OCTOBER = Window(datetime(2026, 10, 1, tzinfo=UTC), datetime(2026, 11, 1, tzinfo=UTC))
MONTH = Span("months", 1)
UNDER_20 = UsageCondition(span=MONTH, minimum_hours=Decimal(20), channels=("ui",))
IDLE_90 = UsageCondition(span=Span("days", 90), channels=("ui",))


def day(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def report(source: str = "agent", product: str = "office", **more: Any) -> Report:
    given = {"period": Window(LONG_AGO, NOW), "heard_at": NOW, **more}
    return Report(source=source, product=product, **given)


def planned(
    condition: UsageCondition,
    reports: Iterable[Report] | None = None,
    *,
    now: datetime = NOW,
    zone: str = "UTC",
    components: Iterable[str] = (),
    preference: Iterable[str] = (),
    witnessed: bool = True,
) -> Plan:
    chosen = plan(
        condition,
        "office",
        list(components),
        [report()] if reports is None else list(reports),
        now=now,
        zone=zone,
        preference=list(preference),
    )
    return replace(chosen, unwitnessed=frozenset()) if witnessed else chosen


def worked(spent: str | timedelta, **more: Any) -> Activity:
    time = spent if isinstance(spent, timedelta) else timedelta(seconds=int(Decimal(spent) * 3600))
    return Activity(**{"records": 1, "first_used": LONG_AGO, "hours": Hours(time, time), **more})


def used_at(at: datetime) -> Activity:
    return Activity(records=1, first_used=LONG_AGO, last_used=(at, at))


def verdict(
    chosen: Plan,
    activity: Activity,
    *,
    granted_at: datetime | None = LONG_AGO,
    first_seen_at: datetime | None = LONG_AGO,
) -> Verdict:
    return judge(chosen, activity, granted_at=granted_at, first_seen_at=first_seen_at)


@pytest.mark.parametrize(
    ("told_until", "now", "zone", "spent", "state"),
    [
        ("2026-11-01", "2026-11-02", "UTC", "19", "UNUSED"),
        ("2026-11-01", "2026-11-02", "America/New_York", "19", "UNKNOWN"),
        ("2026-11-01", "2026-11-20", "America/New_York", "19", "UNKNOWN"),
        ("2026-10-30", "2026-11-01T06:00", "UTC", "1", "UNKNOWN"),
        ("2026-10-31", "2026-11-01T06:00", "UTC", "1", "UNKNOWN"),
        ("2026-11-01", "2026-11-01T06:00", "UTC", "1", "UNUSED"),
    ],
)
def test_a_month_that_is_over_is_judged_when_it_has_been_told_however_late_a_source_may_be(
    told_until: str, now: str, zone: str, spent: str, state: str
) -> None:
    told = report(period=Window(LONG_AGO, day(told_until)), heard_at=day(now))
    assert verdict(planned(UNDER_20, [told], now=day(now), zone=zone), worked(spent)).state == state


# ------------------------------------------------------------------------------------------------ hours


def test_twenty_hours_against_twenty_is_kept_and_nineteen_ninety_nine_is_flagged() -> None:
    assert verdict(planned(UNDER_20), worked("20.0")).state == "USED"
    found = verdict(planned(UNDER_20), worked("19.99"))
    assert found.state == "UNUSED"
    assert found.reason.startswith("19.99 hours of 20 ")


def test_one_second_short_of_the_minimum_is_flagged_and_not_shown_as_the_minimum() -> None:
    found = verdict(planned(UNDER_20), worked(20 * HOUR - timedelta(seconds=1)))
    assert found.state == "UNUSED"
    assert found.reason.startswith("19.99 hours")


@given(st.integers(0, 10**6), st.integers(0, 300_000), st.integers(0, 4))
def test_hours_are_compared_exactly(seconds: int, units: int, places: int) -> None:
    minimum = Decimal(units).scaleb(-places)
    condition = UsageCondition(span=MONTH, minimum_hours=minimum, channels=("ui",))
    found = verdict(planned(condition), worked(timedelta(seconds=seconds)))
    flagged = seconds * 10**places < 3600 * units
    assert found.state == ("UNUSED" if flagged else "USED")


def test_a_sum_across_the_edge_that_could_be_either_is_unknown() -> None:
    across = worked("1", hours=Hours(19 * HOUR, 21 * HOUR))
    assert verdict(planned(UNDER_20), across).state == "UNKNOWN"
    assert verdict(planned(UNDER_20), worked("1", hours=Hours(20 * HOUR, 21 * HOUR))).state == "USED"
    assert verdict(planned(UNDER_20), worked("1", hours=Hours(18 * HOUR, 19 * HOUR))).state == "UNUSED"


@pytest.mark.parametrize(
    ("activity", "state"),
    [
        (Activity(seen_itself=NOW - HOUR), "UNKNOWN"),
        (Activity(seen_itself=OCTOBER.start), "UNKNOWN"),
        (Activity(seen_itself=OCTOBER.start - HOUR), "UNUSED"),
        (Activity(records=1, seen_itself=NOW - HOUR), "UNKNOWN"),
        (worked("1", seen_itself=NOW - HOUR), "UNUSED"),
    ],
    ids=["after the window", "as it began", "before it", "a record of no time", "measured"],
)
def test_whom_the_system_itself_saw_and_no_source_measured_is_not_idle(activity: Activity, state: str) -> None:
    eager = UsageCondition(span=MONTH, minimum_hours=Decimal(20), channels=("ui",), include_no_activity=True)
    assert verdict(planned(eager), activity).state == state


# ------------------------------------------------------------------------------------------------ windows


def test_use_at_half_past_eleven_local_on_the_windows_last_day_counts() -> None:
    for zone in ("America/Los_Angeles", "Asia/Tokyo", "Europe/Berlin"):
        window = MONTH.window(NOW, zone)
        at = datetime(2026, 10, 31, 23, 30, tzinfo=ZoneInfo(zone)).astimezone(UTC)
        assert window.start <= at < window.end
        cell = Cell("agent", "office", window)
        session = Window(at, at + timedelta(minutes=20))
        assert total(timedelta(0), [Measured(cell, session, session.length, session=True)]).least == session.length
        last = UsageCondition(span=MONTH, channels=("ui",))
        assert verdict(planned(last, zone=zone), used_at(at)).state == "USED"


@pytest.mark.parametrize(
    ("now", "zone", "hours"),
    [
        ("2026-11-20T12:00", "Europe/Berlin", 31 * 24 + 1),
        ("2026-04-20T12:00", "Europe/Berlin", 31 * 24 - 1),
        ("2026-12-20T12:00", "America/New_York", 30 * 24 + 1),
        ("2026-04-20T12:00", "America/New_York", 31 * 24 - 1),
        ("2026-11-20T12:00", "UTC", 31 * 24),
        ("2026-05-20T12:00", "Australia/Lord_Howe", 30 * 24 + 0.5),
    ],
)
def test_a_daylight_saving_month_loses_no_hour(now: str, zone: str, hours: float) -> None:
    window = MONTH.window(day(now), zone)
    assert window.length == timedelta(hours=hours)
    # Every hour of the month is in it, the doubled one twice.
    cell = Cell("agent", "office", window)
    each = [
        Measured(cell, Window(window.start + n * HOUR, window.start + (n + 1) * HOUR), HOUR, session=True)
        for n in range(int(hours))
    ]
    assert total(timedelta(0), each).least == int(hours) * HOUR


def test_the_29th_of_february_has_a_defined_cut_off() -> None:
    leap = day("2028-02-29T10:00")
    assert Span("months", 12).window(leap, "UTC") == Window(day("2027-02-01"), day("2028-02-01"))
    assert Span("months", 48).window(leap, "UTC").start == day("2024-02-01")
    assert Span("days", 365).window(leap, "UTC").start == day("2027-03-01T10:00")
    after = MONTH.window(day("2028-03-15"), "UTC")
    assert after == Window(day("2028-02-01"), day("2028-03-01"))
    assert after.length == timedelta(days=29)


def test_a_month_that_has_just_ended_is_complete() -> None:
    zone = "Europe/Berlin"
    first = datetime(2026, 11, 1, tzinfo=ZoneInfo(zone)).astimezone(UTC)
    assert MONTH.window(first, zone).end == first
    assert MONTH.window(first - timedelta(microseconds=1), zone).end < first


@given(
    st.integers(0, 40 * 366 * 24).map(lambda hours: datetime(2000, 1, 1, tzinfo=UTC) + hours * HOUR),
    st.integers(1, 24),
    st.sampled_from(["UTC", "Europe/Berlin", "America/Sao_Paulo", "Africa/Cairo", "Pacific/Apia", "Asia/Beirut"]),
)
def test_months_of_a_zone_follow_one_another_without_gap(now: datetime, count: int, zone: str) -> None:
    window = Span("months", count).window(now, zone)
    assert window.start < window.end <= now
    before = (window.end - timedelta(microseconds=1)).astimezone(ZoneInfo(zone))
    assert window.end.astimezone(ZoneInfo(zone)).day == 1
    assert before.day > 1
    singles = []
    at = now
    for _ in range(count):
        singles.append(MONTH.window(at, zone))
        at = singles[-1].start
    assert merged(singles) == [window]


def test_days_are_days_of_twenty_four_hours() -> None:
    assert Span("days", 7).window(NOW, "Europe/Berlin") == Window(NOW - timedelta(hours=168), NOW)


# ------------------------------------------------------------------------------------------------ last use


def test_last_use_at_the_cut_off_is_kept_and_before_it_flagged() -> None:
    cut_off = NOW - timedelta(days=90)
    assert verdict(planned(IDLE_90), used_at(cut_off)).state == "USED"
    assert verdict(planned(IDLE_90), used_at(cut_off - timedelta(microseconds=1))).state == "UNUSED"


def test_never_used_and_assigned_yesterday_is_not_flagged() -> None:
    condition = UsageCondition(span=IDLE_90.span, include_no_activity=True, channels=("ui",))
    yesterday = NOW - timedelta(days=1)
    found = verdict(planned(condition), Activity(), granted_at=yesterday)
    assert found.state == "UNKNOWN"
    assert "too recently" in found.reason
    assert verdict(planned(condition), Activity(), granted_at=LONG_AGO).state == "UNUSED"


def test_without_a_date_of_assignment_first_seen_is_used() -> None:
    condition = UsageCondition(span=IDLE_90.span, include_no_activity=True, channels=("ui",))
    seen = NOW - timedelta(days=10)
    assert verdict(planned(condition), Activity(), granted_at=None, first_seen_at=seen).state == "UNKNOWN"
    assert verdict(planned(condition), Activity(), granted_at=None, first_seen_at=LONG_AGO).state == "UNUSED"
    assert verdict(planned(condition), Activity(), granted_at=None, first_seen_at=None).state == "UNKNOWN"


def test_a_seat_given_again_yesterday_is_not_flagged_for_its_old_use() -> None:
    found = verdict(planned(IDLE_90), used_at(LONG_AGO), granted_at=NOW - timedelta(days=1))
    assert found.state == "UNKNOWN"


def test_a_seat_that_was_not_there_for_the_whole_window_is_not_flagged_for_few_hours() -> None:
    middle = OCTOBER.start + timedelta(days=10)
    assert verdict(planned(UNDER_20), worked("5"), granted_at=middle).state == "UNKNOWN"
    assert verdict(planned(UNDER_20), worked("25"), granted_at=middle).state == "USED"
    assert verdict(planned(UNDER_20), worked("5"), granted_at=OCTOBER.start).state == "UNUSED"


def test_a_period_across_the_cut_off_does_not_say_when_the_last_use_was() -> None:
    cut_off = NOW - timedelta(days=90)
    across = Activity(records=1, last_used=(cut_off - timedelta(days=5), cut_off + timedelta(days=5)))
    assert verdict(planned(IDLE_90), across).state == "UNKNOWN"


# ------------------------------------------------------------------------------------------------ coverage


@pytest.mark.parametrize("condition", [UNDER_20, IDLE_90])
def test_a_source_down_for_ten_days_makes_everybody_unknown_and_raises_an_alert(condition: UsageCondition) -> None:
    last_word = NOW - timedelta(days=10)
    chosen = planned(condition, [report(period=Window(LONG_AGO, last_word), heard_at=last_word)])
    for activity in (Activity(), worked("1"), used_at(LONG_AGO)):
        found = verdict(chosen, activity)
        assert found.state == "UNKNOWN"
        assert "stale" in found.reason
    (alert,) = chosen.stale
    assert alert.source == "agent"
    assert "2026-11-10" in alert.text
    assert "Nobody is flagged" in alert.text


def test_a_source_that_is_silent_for_no_longer_than_it_may_be_is_fresh() -> None:
    for silent, stale in ((timedelta(hours=72), False), (timedelta(hours=72, seconds=1), True)):
        heard = NOW - silent
        assert [each.stale for each in freshness([report(heard_at=heard)], NOW)] == [stale]
        monthly = report(heard_at=heard, silence=timedelta(days=35))
        assert [each.stale for each in freshness([monthly], NOW)] == [False]


def test_freshness_names_the_latest_complete_period_and_the_last_word() -> None:
    said = [
        report(period=Window(day("2026-09-01"), day("2026-10-01")), heard_at=day("2026-10-02")),
        report(period=Window(day("2026-10-01"), day("2026-11-01")), heard_at=day("2026-11-02")),
        report(period=Window(day("2026-11-01"), day("2026-11-19")), heard_at=day("2026-11-19"), complete=False),
    ]
    (found,) = freshness(said, NOW)
    assert (found.complete_until, found.heard_at, found.stale) == (day("2026-11-01"), day("2026-11-19"), False)


def test_no_row_is_flagged_only_with_include_no_activity_and_proven_coverage() -> None:
    for minimum, include, covered, witnessed in pairs((None, Decimal(20)), *[(False, True)] * 3):
        condition = UsageCondition(span=MONTH, minimum_hours=minimum, include_no_activity=include, channels=("ui",))
        reports = [report()] if covered else [report(period=Window(day("2026-10-05"), NOW))]
        found = verdict(planned(condition, reports, witnessed=witnessed), Activity())
        expected = "UNUSED" if include and covered and witnessed else "UNKNOWN"
        assert (found.state, include, covered, witnessed) == (expected, include, covered, witnessed), found.reason


def test_a_source_that_nobody_was_ever_seen_by_proves_nothing() -> None:
    condition = UsageCondition(span=IDLE_90.span, include_no_activity=True, channels=("ui",))
    assert "may not see it" in verdict(planned(condition, witnessed=False), Activity()).reason


def test_anonymised_identities_are_unknown() -> None:
    for condition in (UNDER_20, IDLE_90):
        found = verdict(planned(condition, [report(anonymised=True)]), worked("1"))
        assert found.state == "UNKNOWN"
        assert "anonymised" in found.reason


def test_a_report_that_is_not_complete_proves_nothing() -> None:
    assert planned(UNDER_20, [report(complete=False)]).unproven
    assert not planned(UNDER_20, [report()]).unproven


def test_no_source_at_all_is_unknown() -> None:
    assert "No source reports" in verdict(planned(UNDER_20, []), Activity()).reason
    assert planned(UNDER_20, [report(product="other")]).unproven
    assert not planned(UNDER_20, [report(product="")]).unproven, "a source that reports every product"


def test_a_channel_that_counts_and_nobody_sees_leaves_room_for_doubt() -> None:
    everywhere = UsageCondition(span=Span("days", 90), channels=CHANNELS)
    found = verdict(planned(everywhere), used_at(LONG_AGO))
    assert found.state == "UNKNOWN"
    assert "through mobile, api, sso" in found.reason
    both = [report(), report("mdm", channels=frozenset({"mobile", "api", "sso"}))]
    assert verdict(planned(everywhere, both), used_at(LONG_AGO)).state == "UNUSED"
    assert verdict(planned(everywhere, []), used_at(NOW - HOUR)).state == "USED", "one record is proof of use"


def test_a_source_of_sign_ins_cannot_say_for_how_long() -> None:
    found = verdict(planned(UNDER_20, [report(timed=False)]), worked("0"))
    assert found.state == "UNKNOWN"
    assert "for how long" in found.reason


def test_figures_may_end_as_far_before_the_present_as_the_source_needs() -> None:
    for behind, proven in ((timedelta(hours=72), True), (timedelta(hours=73), False)):
        chosen = planned(IDLE_90, [report(period=Window(LONG_AGO, NOW - behind))])
        assert (not chosen.unproven) is proven


def test_a_system_that_was_just_asked_covers_everything_it_sees() -> None:
    live = [live_report("org", "office", NOW, ("ui",))]
    assert not planned(IDLE_90, live).unproven
    assert planned(UNDER_20, live).unproven


def test_two_sources_cover_a_window_together() -> None:
    middle = NOW - timedelta(days=40)
    parts = [report("old", period=Window(LONG_AGO, middle)), report("new", period=Window(middle, NOW))]
    assert not planned(IDLE_90, parts).unproven
    late = [parts[0], report("new", period=Window(middle + HOUR, NOW))]
    assert planned(IDLE_90, late).unproven


# ------------------------------------------------------------------------------------------------ preferred sources


def test_one_preferred_source_counts_for_each_period() -> None:
    two_months = UsageCondition(span=Span("months", 2), minimum_hours=Decimal(20), channels=("ui",))
    agent = report("agent", period=OCTOBER, silence=timedelta(days=40))
    vendor = report("vendor", period=Window(LONG_AGO, NOW))
    window = Window(day("2026-09-01"), day("2026-11-01"))
    september = Window(window.start, OCTOBER.start)
    preferred = planned(two_months, [vendor, agent], preference=["agent", "vendor"])
    assert preferred.cells == (Cell("vendor", "office", september), Cell("agent", "office", OCTOBER))
    assert planned(two_months, [agent, vendor], preference=["vendor"]).cells == (Cell("vendor", "office", window),)
    assert planned(two_months, [vendor, agent]).cells == preferred.cells, "by name where nothing is preferred"
    assert not preferred.unproven
    assert planned(two_months, [agent]).unproven


def test_sources_that_do_not_come_first_can_only_keep_a_seat() -> None:
    chosen = planned(UNDER_20, [report(), report("vendor")])
    assert chosen.others == (Cell("vendor", "office", OCTOBER),)
    few = worked("1")
    assert verdict(chosen, few).state == "UNUSED"
    assert verdict(chosen, replace(few, alone=20 * HOUR)).state == "USED"
    assert verdict(chosen, replace(few, together=20 * HOUR)).state == "UNKNOWN"
    assert verdict(chosen, replace(few, beside=1)).state == "UNUSED"
    assert verdict(chosen, replace(few, doubts=frozenset({"proxy"}))).state == "UNKNOWN"
    eager_20 = UsageCondition(span=MONTH, minimum_hours=Decimal(20), include_no_activity=True, channels=("ui",))
    eager = planned(eager_20, [report(), report("vendor")])
    assert verdict(eager, Activity()).state == "UNUSED"
    assert verdict(eager, Activity(beside=1)).state == "UNKNOWN"


def test_a_source_that_leaves_a_hole_is_doubtful() -> None:
    down, middle = NOW - timedelta(days=10), NOW - timedelta(days=40)
    said = [
        report("silent", period=Window(LONG_AGO, down), heard_at=down),
        report("young", period=Window(middle, NOW)),
        report("vague", complete=False),
        report("signs", channels=frozenset({"sso"}), complete=False),
    ]
    chosen = planned(IDLE_90, [report(), *said])
    assert not chosen.unproven
    assert chosen.doubtful == {(source, "office") for source in ("silent", "young", "vague")}
    old = used_at(LONG_AGO)
    assert verdict(chosen, old).state == "UNUSED"
    assert verdict(chosen, replace(old, doubts=frozenset({"silent"}))).state == "UNKNOWN"


windows = st.lists(
    st.tuples(st.integers(0, 40), st.integers(1, 15)).map(
        lambda given: Window(OCTOBER.start + given[0] * HOUR, OCTOBER.start + (given[0] + given[1]) * HOUR)
    ),
    max_size=6,
)


@given(windows, windows, windows)
def test_every_instant_of_a_window_has_at_most_one_source(a: Any, b: Any, c: Any) -> None:
    condition = UsageCondition(span=MONTH, minimum_hours=Decimal(1), channels=("ui",))
    said = [
        report(source, period=each, silence=timedelta(days=40))
        for source, parts in (("a", a), ("b", b), ("c", c))
        for each in parts
    ]
    chosen = planned(condition, said)
    covered = {"a": a, "b": b, "c": c}
    for n in range(60):
        at = Window(OCTOBER.start + n * HOUR, OCTOBER.start + (n + 1) * HOUR)
        expected = next((name for name, parts in covered.items() if any(part.shared(at) for part in parts)), None)
        assert [cell.source for cell in chosen.cells if cell.window.shared(at)] == ([expected] if expected else [])
    assert chosen.unproven, "nobody reports all of October"


# ------------------------------------------------------------------------------------------------ sums


def hours(*pairs_of: tuple[float, float]) -> list[Window]:
    return [Window(OCTOBER.start + start * HOUR, OCTOBER.start + end * HOUR) for start, end in pairs_of]


def test_the_same_interval_from_two_sources_counts_once() -> None:
    nine_to_twelve = hours((9, 12))
    assert merged_time({("agent", "word"): nine_to_twelve, ("vendor", "office"): nine_to_twelve}) == 3 * HOUR
    assert merged_time({("agent", "word"): nine_to_twelve, ("vendor", "office"): hours((10, 14))}) == 5 * HOUR
    assert merged_time({("agent", "word"): [*nine_to_twelve, *nine_to_twelve]}) == 3 * HOUR


def test_components_used_at_the_same_time_are_summed() -> None:
    at_once = hours((9, 12))
    assert merged_time({("agent", name): at_once for name in ("word", "excel", "outlook")}) == 9 * HOUR


@given(st.dictionaries(st.tuples(st.sampled_from("ab"), st.sampled_from("wxo")), windows, max_size=6))
def test_merged_time_is_what_counting_each_hour_gives(sessions: Any) -> None:
    expected = 0
    for n in range(60):
        at = Window(OCTOBER.start + n * HOUR, OCTOBER.start + (n + 1) * HOUR)
        per_source = {
            source: sum(any(part.shared(at) for part in parts) for (of, _), parts in sessions.items() if of == source)
            for source, _ in sessions
        }
        expected += max(per_source.values(), default=0)
    assert merged_time(sessions) == expected * HOUR


@given(st.integers(-48, 60), st.integers(1, 48), st.integers(0, 48))
def test_a_record_across_an_edge_gives_the_least_and_the_most(start: int, length: int, time: int) -> None:
    cell = Cell("agent", "office", *hours((0, 24)))
    found = total(timedelta(0), [Measured(cell, *hours((start, start + length)), time * HOUR)])
    inside = max(0, min(start + length, 24) - max(start, 0))
    if time <= length:
        assert found.least == max(0, time - (length - inside)) * HOUR
        assert found.most == min(time, inside) * HOUR
    if inside == length:
        assert found == Hours(time * HOUR, time * HOUR)
    if not inside:
        assert found == Hours()
    assert found.least <= found.most


@given(windows, windows)
def test_gaps_and_cover_make_up_the_window(a: list[Window], b: list[Window]) -> None:
    window = Window(OCTOBER.start, OCTOBER.start + 60 * HOUR)
    holes = gaps(window, [*a, *b])
    assert (
        sum((hole.length for hole in holes), timedelta(0))
        + sum((part.shared(window) for part in merged([*a, *b])), timedelta(0))
        == window.length
    )
    assert merged([*a, *b, *holes]) == [window]


# ------------------------------------------------------------------------------------------------ suites

SUITE = ("word", "excel", "outlook")


def test_word_used_and_the_suite_otherwise_idle_is_kept() -> None:
    suite = planned(IDLE_90, [report(product=name) for name in SUITE], components=SUITE)
    assert suite.members == ("office", "excel", "outlook", "word")
    assert verdict(suite, used_at(NOW - timedelta(days=3))).state == "USED"
    assert verdict(suite, used_at(LONG_AGO)).state == "UNUSED"


def test_three_components_of_three_hours_each_against_eight_are_kept() -> None:
    condition = UsageCondition(span=MONTH, minimum_hours=Decimal(8), channels=("ui",))
    suite = planned(condition, [report(product=name) for name in SUITE], components=SUITE)
    cells = {cell.product: cell for cell in suite.cells}
    assert set(cells) == set(SUITE)
    records = [
        Measured(cells[name], Window(OCTOBER.start + HOUR, OCTOBER.start + 4 * HOUR), 3 * HOUR, session=True)
        for name in SUITE
    ]
    found = total(timedelta(0), records)
    assert found.least == 9 * HOUR
    assert verdict(suite, worked("0", hours=found)).state == "USED"
    assert verdict(suite, worked("0", hours=total(timedelta(0), records[:2]))).state == "UNUSED"


def test_a_component_that_nobody_watches_leaves_the_suite_unknown() -> None:
    said = [report(product="word"), report(product="excel")]
    found = verdict(planned(IDLE_90, said, components=SUITE), used_at(LONG_AGO))
    assert found.state == "UNKNOWN"
    assert "outlook" in found.reason
    own = [*(report(product=name) for name in SUITE), report("sso", "office", complete=False)]
    assert planned(IDLE_90, own, components=SUITE).unproven, "who reports the suite itself must do so completely"


# ------------------------------------------------------------------------------------------------ records


def record(**more: Any) -> UsageRecord:
    given = {"user": "u1", "product": "office", "period_start": OCTOBER.start, "period_end": OCTOBER.end, **more}
    return UsageRecord(**given)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({}, None),
        ({"seconds": 0}, None),
        ({"user": " "}, "no user"),
        ({"product": ""}, "no product"),
        ({"period_end": OCTOBER.start}, "ends before"),
        ({"period_end": OCTOBER.start + timedelta(days=400)}, "longer than a year"),
        ({"seconds": -1}, "negative"),
        ({"runs": -1}, "negative"),
        ({"last_used_at": NOW}, "outside its period"),
        ({"session": True, "seconds": 5}, "length of its period"),
        ({"session": True, "seconds": 31 * 86400}, None),
        ({"period_start": NOW + 25 * HOUR, "period_end": NOW + 26 * HOUR}, "in the future"),
        ({"period_end": NOW + 90 * 24 * HOUR, "last_used_at": NOW + 25 * HOUR}, "in the future"),
        ({"period_start": NOW - HOUR, "period_end": NOW + 25 * HOUR, "session": True}, "in the future"),
        ({"period_start": NOW, "period_end": NOW + 31 * 24 * HOUR, "last_used_at": NOW + HOUR}, None),
    ],
)
def test_a_record_that_cannot_be_right_is_told_why(more: dict[str, Any], says: str | None) -> None:
    found = trouble_with(record(**more), NOW)
    assert (found is None) if says is None else (found is not None and says in found)


def test_when_a_record_was_last_used() -> None:
    at = OCTOBER.start + HOUR
    tick = timedelta(microseconds=1)
    assert record().last_used is None
    assert record(seconds=0, runs=0).last_used is None
    assert record(last_used_at=at).last_used == (at, at)
    assert record(seconds=60).last_used == (OCTOBER.start, OCTOBER.end - tick)
    assert record(runs=1).last_used == (OCTOBER.start, OCTOBER.end - tick)
    assert record(session=True, seconds=31 * 86400).last_used == (OCTOBER.end - tick, OCTOBER.end - tick)


# ------------------------------------------------------------------------------------------------ the law

DAY = timedelta(days=1)

MOSTLY = st.sampled_from([True, True, True, False])
any_reports = st.lists(
    st.builds(
        lambda source, start, length, heard, named, **more: report(
            source,
            period=Window(NOW - start * DAY, NOW - max(0, start - length) * DAY),
            heard_at=NOW - heard * DAY,
            anonymised=not named,
            **more,
        ),
        st.sampled_from(["agent", "vendor"]),
        st.integers(8, 14),
        st.sampled_from([3, 8, 14, 14]),
        st.sampled_from([0, 0, 1, 4]),
        named=MOSTLY,
        complete=MOSTLY,
        timed=MOSTLY,
        channels=st.sampled_from([frozenset({"ui"}), frozenset({"mobile"}), frozenset({"ui", "mobile"})]),
    ),
    max_size=5,
)


@given(
    any_reports,
    st.sampled_from([None, Decimal(8)]),
    st.sampled_from([("ui",), ("ui", "mobile")]),
    st.booleans(),
    st.sampled_from([Activity(), worked("2"), used_at(NOW - 15 * DAY), used_at(LONG_AGO)]),
    st.sampled_from([None, LONG_AGO, NOW - 5 * DAY]),
)
@settings(max_examples=600, deadline=None)
def test_nobody_is_unused_without_proof(
    said: list[Report],
    minimum: Decimal | None,
    channels: Any,
    include: bool,
    activity: Activity,
    granted_at: datetime | None,
) -> None:
    condition = UsageCondition(
        span=Span("days", 10), minimum_hours=minimum, include_no_activity=include, channels=channels
    )
    found = verdict(planned(condition, said), activity, granted_at=granted_at)
    if found.state != "UNUSED":
        return
    assert granted_at != NOW - 5 * DAY
    assert include or activity.records
    words = {
        source: max(one.heard_at for one in said if one.source == source) for source in {one.source for one in said}
    }
    fit = [
        one for one in said if one.complete and not one.anonymised and NOW - words[one.source] <= timedelta(hours=72)
    ]
    if minimum is not None:
        fit = [one for one in fit if one.timed and one.channels >= set(channels)]
    # Up to where the sources may be late, each day was watched, on each channel that counts.
    for number in range(4, 11):
        day_of = Window(NOW - number * DAY, NOW - (number - 1) * DAY)
        for channel in channels:
            assert any(one.period.shared(day_of) == DAY and channel in one.channels for one in fit), (number, channel)
