"""How amounts, numbers and instants are written on a page. The pages are in English; Babel does the writing."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Final

from babel.dates import format_date, format_datetime, format_timedelta
from babel.numbers import format_currency, format_decimal

from reclaim.common.contracts import Money

LOCALE: Final = "en_US"
JUST_NOW_SECONDS: Final = 45


def format_money(value: Money | Iterable[Money] | None, *, whole: bool = False) -> str:
    """Write an amount, or several side by side.

    Amounts in different currencies stand next to each other and are never added. `whole` leaves out the minor
    units, for figures that are read at a glance. None is a price that nobody entered.
    """
    return " · ".join(_format_amount(amount, whole) for amount in amounts(value)) or "none"


def amounts(value: Money | Iterable[Money] | None) -> list[Money | None]:
    """Return one amount, or several, as a list."""
    return [value] if value is None or isinstance(value, Money) else list(value)


def format_number(value: int | float | Decimal) -> str:
    """Write a number with thousands separators and at most three decimals."""
    return format_decimal(value, locale=LOCALE)


def format_instant(value: datetime) -> str:
    """Write an instant in UTC, such as `21 Nov 2026, 21:46 UTC`."""
    return format_datetime(_utc(value), "d MMM y, HH:mm 'UTC'", locale=LOCALE)


def format_day(value: date) -> str:
    """Write a date, such as `21 Nov 2026`; of an instant, its date in UTC."""
    day = _utc(value).date() if isinstance(value, datetime) else value
    return format_date(day, "d MMM y", locale=LOCALE)


def format_relative(value: datetime, now: datetime) -> str:
    """Write an instant as seen from `now`, such as `3 days ago` or `in 2 weeks`."""
    distance = _utc(value) - _utc(now)
    if abs(distance.total_seconds()) < JUST_NOW_SECONDS:
        return "just now"
    return format_timedelta(distance, add_direction=True, locale=LOCALE)


def machine_instant(value: datetime) -> str:
    """Write an instant for the `datetime` attribute of `<time>`."""
    return _utc(value).isoformat(timespec="seconds").replace("+00:00", "Z")


def words(name: str) -> str:
    """Turn a name of the code (`needs_review`) into words for a page (`Needs review`)."""
    return name.replace("_", " ").replace("-", " ").strip().capitalize()


def sentence(text: str) -> str:
    """Write a reason as a sentence of its own; an address at its beginning stays as it is written."""
    begun = text if "@" in text.split(" ")[0] else text[:1].upper() + text[1:]
    return begun if begun.endswith((".", "!", "?")) else f"{begun}."


def _format_amount(value: Money | None, whole: bool) -> str:
    if value is None:
        return "no price"
    if whole:
        return format_currency(value.amount, value.currency, "¤#,##0", locale=LOCALE, currency_digits=False)
    return format_currency(value.amount, value.currency, locale=LOCALE)


def _utc(value: datetime) -> datetime:
    if value.tzinfo is None:
        raise ValueError(f"{value.isoformat()} has no time zone: pages show timezone-aware instants only")
    return value.astimezone(UTC)
