"""Working days and hours, purely: when grace ends, and when a seat may be frozen or freed, as the case's rule says.

A day is a day on the wall in the rule's time zone; it has 23 or 25 hours when the clocks change. Days off are
Saturday, Sunday and the dates that the rule carries: a case never looks anything up, so what was promised to the
holder at the freeze cannot change afterwards.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from reclaim.common.contracts import Policy

SATURDAY: Final = 5
DAY: Final = timedelta(days=1)


def is_working_day(policy: Policy, day: date) -> bool:
    """Tell whether people are expected at work."""
    return day.weekday() < SATURDAY and day not in policy.days_off


def grace_end(policy: Policy, frozen_at: datetime, *, missed: timedelta = timedelta()) -> datetime:
    """Return when grace is over for a seat that was frozen (or whose task was announced) at an instant.

    Counted in working days it ends at the same time of day after that many of them, and who was frozen on a day off
    has every working day whole: the count begins with the next one's midnight. It is never less than as many times
    24 hours. Where the rule wants no reclaim before days off, grace lasts until the first moment that is allowed.
    What of it was `missed`, because nobody could appeal, is added before that.
    """
    end = frozen_at + policy.grace_days * DAY
    if policy.grace_calendar == "business":
        end = max(end, _after_working_days(policy, frozen_at))
    return next_reclaim(policy, end + missed)


def may_act(policy: Policy, at: datetime) -> bool:
    """Tell whether an account may be acted on at an instant: within the rule's hours of a working day, if it has any.

    What gives something back is never held up.
    """
    if policy.act_from is None or policy.act_until is None:
        return True
    local = at.astimezone(ZoneInfo(policy.time_zone))
    return is_working_day(policy, local.date()) and policy.act_from <= local.time() < policy.act_until


def may_reclaim(policy: Policy, at: datetime) -> bool:
    """Tell whether a seat may be freed at an instant.

    If the rule says so: not on a day off or right before one, and not outside its hours.
    """
    if not may_act(policy, at):
        return False
    if not policy.no_reclaim_before_days_off:
        return True
    day = at.astimezone(ZoneInfo(policy.time_zone)).date()
    return is_working_day(policy, day) and is_working_day(policy, day + DAY)


def next_reclaim(policy: Policy, at: datetime) -> datetime:
    """Return the first instant, not before `at`, at which a seat may be freed."""
    if may_reclaim(policy, at):
        return at
    day = at.astimezone(ZoneInfo(policy.time_zone)).date()
    while True:
        begins = _instant(policy, day, policy.act_from or time())
        if begins >= at and may_reclaim(policy, begins):
            return begins
        day += DAY


def _after_working_days(policy: Policy, start: datetime) -> datetime:
    local = start.astimezone(ZoneInfo(policy.time_zone))
    day, at = local.date(), local.time()
    if not is_working_day(policy, day):
        at = time()
        while not is_working_day(policy, day):
            day += DAY
    for _ in range(policy.grace_days):
        day += DAY
        while not is_working_day(policy, day):
            day += DAY
    return _instant(policy, day, at)


def _instant(policy: Policy, day: date, at: time) -> datetime:
    """Return the instant of a time on the wall; of one that comes twice the second, of one that is skipped the later.

    So a change of the clocks never shortens a wait.
    """
    zone = ZoneInfo(policy.time_zone)
    return max(datetime.combine(day, at, zone).replace(fold=fold).astimezone(UTC) for fold in (0, 1))
