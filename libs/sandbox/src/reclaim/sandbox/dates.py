"""SOQL date literals: each names an interval `[start, end)` of whole days in the org's time zone, which is UTC."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta

_COUNTED = re.compile(r"(?:(LAST|NEXT)_N_(\w+?)S|N_(\w+?)S_AGO):(\d+)")
_RELATIVE = re.compile(r"(LAST|THIS|NEXT)_(WEEK|MONTH|QUARTER|YEAR)")
_MONTHS = {"MONTH": 1, "QUARTER": 3, "YEAR": 12}


def _months_later(day: date, months: int) -> date:
    """Return the first day of the month that lies so many months from a day's month."""
    count = day.year * 12 + day.month - 1 + months
    return date(count // 12, count % 12 + 1, 1)


def _unit_start(day: date, unit: str) -> date:
    """Return the first day of the week (Sunday), month, quarter or year that holds a day."""
    if unit == "DAY":
        return day
    if unit == "WEEK":
        return day - timedelta(days=(day.weekday() + 1) % 7)
    if unit == "MONTH":
        return day.replace(day=1)
    if unit == "QUARTER":
        return date(day.year, (day.month - 1) // 3 * 3 + 1, 1)
    return date(day.year, 1, 1)


def _shift(start: date, unit: str, count: int) -> date:
    if unit in _MONTHS:
        return _months_later(start, count * _MONTHS[unit])
    return start + timedelta(days=count * (7 if unit == "WEEK" else 1))


def day_interval(literal: str, today: date) -> tuple[date, date]:
    """Return the first day of a date literal's interval and the day after its last.

    Raises:
        ValueError: the literal is not one; callers pass only what the grammar let through.
        OverflowError: the interval begins or ends outside the calendar.
    """
    text = literal.upper()
    tomorrow = today + timedelta(days=1)
    simple = {
        "TODAY": (today, tomorrow),
        "YESTERDAY": (today - timedelta(days=1), today),
        "TOMORROW": (tomorrow, tomorrow + timedelta(days=1)),
    }
    if text in simple:
        return simple[text]
    text = text.replace("_90_DAYS", "_N_DAYS:90")
    if match := _COUNTED.fullmatch(text):
        direction, unit, ago_unit, digits = match.groups()
        if len(digits) > 7:
            raise OverflowError(literal)
        return _counted(direction, unit or ago_unit, int(digits), today)
    if match := _RELATIVE.fullmatch(text):
        start = _unit_start(today, match[2])
        step = {"LAST": -1, "THIS": 0, "NEXT": 1}[match[1]]
        return _shift(start, match[2], step), _shift(start, match[2], step + 1)
    raise ValueError(f"{literal!r} is not a date literal")


def _counted(direction: str | None, unit: str, count: int, today: date) -> tuple[date, date]:
    start = _unit_start(today, unit)
    try:
        if direction is None:
            return _shift(start, unit, -count), _shift(start, unit, 1 - count)
        if direction == "NEXT":
            first = _shift(start, unit, 1)
            return first, _shift(first, unit, count)
        # LAST_N_DAYS runs into today; the longer units end where the present one begins.
        return _shift(start, unit, -count), start + timedelta(days=1) if unit == "DAY" else start
    except ValueError as error:
        raise OverflowError(str(error)) from error


def at_midnight(day: date) -> datetime:
    """Return the instant at which a day begins in the org's time zone."""
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def format_datetime(value: datetime, *, zone: str = "+0000") -> str:
    """Write an instant as Salesforce does; REST ends it in `+0000`, Bulk CSV in `Z`."""
    return (
        f"{value.year:04}-{value.month:02}-{value.day:02}T"
        f"{value.hour:02}:{value.minute:02}:{value.second:02}.{value.microsecond // 1000:03}{zone}"
    )
