"""The values in an export's cells: numbers, months, days and instants. What can be read in two ways is refused."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Final, Literal
from zoneinfo import ZoneInfo

DateOrder = Literal["month first", "day first"]

_NUMBER: Final = re.compile(r"\d{1,15}(?:\.\d{1,9})?|\d{1,3}(?:,\d{3}){1,4}(?:\.\d{1,9})?")
_CLOCK: Final = re.compile(r"(\d{1,6}):([0-5]\d):([0-5]\d)")
_MONTH: Final = re.compile(r"(\d{4})[-/.]?(0[1-9]|1[0-2])")
_NUMERIC_DATE: Final = re.compile(
    r"(\d{1,2})[/.\-](\d{1,2})[/.\-](\d{4})(?:[ ,T]+(\d{1,2}):(\d{2})(?::(\d{2}))?(?:\.\d+)?\s*([AaPp])?\.?[Mm]?\.?)?"
)


class Unreadable(ValueError):
    """A cell that holds no such value; the message says what it should be."""


def amount(text: str) -> Decimal:
    """Return a number that is not negative: 12, 12.5 or 1,234.5."""
    if not _NUMBER.fullmatch(text):
        raise Unreadable("is no number such as 1234.5")
    return Decimal(text.replace(",", ""))


def seconds(text: str, unit: int) -> int:
    """Return a duration in whole seconds: a number of units, or hours, minutes and seconds as 12:34:56."""
    clock = _CLOCK.fullmatch(text)
    if clock:
        return int(clock[1]) * 3600 + int(clock[2]) * 60 + int(clock[3])
    return int(amount(text) * unit)


def count(text: str) -> int:
    """Return a whole number that is not negative."""
    value = amount(text)
    if value != value.to_integral_value():
        raise Unreadable("is no whole number")
    return int(value)


def month(text: str) -> date:
    """Return the first day of a month: 202610, 2026-10 or 2026/10, or of the month that a day lies in."""
    found = _MONTH.fullmatch(text)
    if found:
        return date(int(found[1]), int(found[2]), 1)
    try:
        return datetime.fromisoformat(text).date().replace(day=1)
    except ValueError:
        raise Unreadable("is no month such as 2026-10") from None


def instant(text: str, zone: ZoneInfo, order: DateOrder | None) -> datetime:
    """Return an instant in UTC; one that names no zone is in the file's.

    Raises:
        Unreadable: it is none, or 03/04/2026 may be two days and the file's order was not given.
    """
    at = _iso(text)
    if at is None:
        at = _numeric(text, order)
    return (at if at.tzinfo is not None else at.replace(tzinfo=zone)).astimezone(UTC)


def day(text: str, zone: ZoneInfo, order: DateOrder | None) -> date:
    """Return a day, as it is called in the file's zone."""
    at = _iso(text) or _numeric(text, order)
    return at.date() if at.tzinfo is None else at.astimezone(zone).date()


def start_of(each: date, zone: ZoneInfo) -> datetime:
    """Return when a day begins in a zone, in UTC; days of 23 and 25 hours are as long as they are."""
    return datetime.combine(each, time(), zone).astimezone(UTC)


def next_month(first: date) -> date:
    """Return the first day of the month after the one that begins on a day."""
    return (first + timedelta(days=31)).replace(day=1)


def _iso(text: str) -> datetime | None:
    if not (text[:4].isdigit() and len(text) >= 8):
        return None
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def _numeric(text: str, order: DateOrder | None) -> datetime:
    found = _NUMERIC_DATE.fullmatch(text)
    if found is None:
        raise Unreadable("is no date such as 2026-10-31 or 2026-10-31 14:05:00")
    first, second, year = int(found[1]), int(found[2]), int(found[3])
    if order is None:
        if first <= 12 and second <= 12 and first != second:
            raise Unreadable("may be two different days: say whether the month or the day comes first in this file")
        order = "day first" if first > 12 else "month first"
    month_, day_ = (first, second) if order == "month first" else (second, first)
    hour = int(found[4] or 0)
    if found[7]:
        if not 1 <= hour <= 12:
            raise Unreadable("is no time of day")
        hour = hour % 12 + (12 if found[7] in "Pp" else 0)
    try:
        return datetime(year, month_, day_, hour, int(found[5] or 0), int(found[6] or 0))  # noqa: DTZ001 its file's zone
    except ValueError:
        raise Unreadable("is no day of the calendar") from None
