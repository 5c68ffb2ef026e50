"""What an event is worth, and what the figures mean. Pure: no clock, no database.

A seat's price is a month's. Freeing it books `+price`, giving it back books `-price`; freezing does the same for what
is only *potential*, and restoring, or closing the case without freeing the seat, takes that back. A downgrade is worth
the difference of the two prices. Nothing here adds two currencies, and nothing rounds before the end.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from typing import Final, Literal

from reclaim.common.contracts import CaseClosed, Money, Seat, SeatReactivated, SeatReclaimed, UserFrozen, UserRestored
from reclaim.common.errors import Permanent

Kind = Literal["frozen", "restored", "reclaimed", "reactivated", "closed"]
SIGN: Final[dict[Kind, int]] = {"frozen": 1, "restored": -1, "reclaimed": 1, "reactivated": -1, "closed": -1}

CENTS: Final = 100
LARGEST_AMOUNT: Final = Decimal(10) ** 14
"""Below what `NUMERIC(19,4)` holds, with room for a sum."""

SMALLEST_AMOUNT: Final = Decimal("0.0001")

_CURRENCY = re.compile(r"[A-Z]{3}")

SavingsEvent = UserFrozen | UserRestored | SeatReclaimed | SeatReactivated | CaseClosed


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the event log, without its position.

    `monthly` is signed by the kind, and None (like `currency`) for a seat that is not in the price book.
    """

    event_id: str
    case_id: str
    kind: Kind
    connection_id: str
    product: str
    product_name: str
    department: str | None
    rule_id: str | None
    rule_name: str | None
    currency: str | None
    monthly: Decimal | None
    occurred_at: datetime
    dry_run: bool

    @property
    def day(self) -> date:
        """The UTC day that it counts for."""
        return self.occurred_at.astimezone(UTC).date()


def concerns_savings(event: SavingsEvent) -> bool:
    """Tell whether an event is booked: of the cases that close, those whose seat was frozen and not freed."""
    return not isinstance(event, CaseClosed) or event.frozen is not None


def entry(event_id: str, event: SavingsEvent) -> Entry:
    """Return the log entry of an event that concerns savings.

    Raises:
        Permanent: its price is no amount of money; the message says which case it belongs to.
    """
    rule_id = rule_name = None
    kind: Kind
    match event:
        case UserFrozen():
            kind, at = "frozen", event.frozen_at
        case UserRestored():
            kind, at = "restored", event.restored_at
        case SeatReclaimed():
            kind, at, rule_id, rule_name = "reclaimed", event.reclaimed_at, event.rule_id, event.rule_name
        case SeatReactivated():
            kind, at, rule_id, rule_name = "reactivated", event.reactivated_at, event.rule_id, event.rule_name
        case CaseClosed():
            kind, at = "closed", event.closed_at
    seat = event.frozen if isinstance(event, CaseClosed) else event.seat
    assert seat is not None
    price = _checked(event.case_id, _saved(event, seat))
    return Entry(
        event_id=event_id,
        case_id=event.case_id,
        kind=kind,
        connection_id=seat.connection_id,
        product=seat.product,
        product_name=seat.product_name,
        department=seat.department,
        rule_id=rule_id,
        rule_name=rule_name,
        currency=price.currency if price else None,
        monthly=SIGN[kind] * price.amount if price else None,
        occurred_at=at,
        dry_run=event.dry_run,
    )


def _saved(event: SavingsEvent, seat: Seat) -> Money | None:
    """Return what the seat no longer costs a month: its price, for a downgrade less that of what replaces it.

    None if that is not known; a "cheaper" licence that costs more than the seat makes no saving that could be booked.
    """
    cheaper = event.downgrade_to
    if cheaper is None:
        unknown = isinstance(event, SeatReclaimed) and event.method == "downgrade"
        return None if unknown else seat.price
    if seat.price is None or cheaper.price is None or seat.price.currency != cheaper.price.currency:
        return None
    saved = seat.price.amount - cheaper.price.amount
    return None if saved.is_finite() and saved < 0 else Money(amount=saved, currency=seat.price.currency)


def _checked(case_id: str, price: Money | None) -> Money | None:
    if price is None:
        return None
    if not price.amount.is_finite() or not 0 <= price.amount < LARGEST_AMOUNT:
        raise Permanent(f"Case {case_id}: {price.amount} is no price a month. Correct it in the price book.")
    if not _CURRENCY.fullmatch(price.currency):
        raise Permanent(
            f"Case {case_id}: {price.currency!r} is no currency (three capital letters, such as USD). "
            "Correct it in the price book."
        )
    return Money(amount=price.amount.quantize(SMALLEST_AMOUNT), currency=price.currency)


def on_the_terms_of(earlier: Entry, later: Entry) -> Entry:
    """Return `later` with the seat and price that the case was first booked with.

    A case is about one seat, so what ends a saving must take back exactly what began it, whichever of the two
    arrives first and whatever the price book said in between. A freeze names no rule, and is given none.
    """
    rule_id = later.rule_id and (earlier.rule_id or later.rule_id)
    return replace(
        later,
        connection_id=earlier.connection_id,
        product=earlier.product,
        product_name=later.product_name if later.product == earlier.product else earlier.product_name,
        department=earlier.department,
        rule_id=rule_id,
        rule_name=later.rule_name if later.rule_id == rule_id else earlier.rule_name,
        currency=earlier.currency,
        monthly=None if earlier.monthly is None else SIGN[later.kind] * abs(earlier.monthly),
        dry_run=earlier.dry_run,
    )


def book(entries: Iterable[Entry], logged: Iterable[Entry]) -> Booking:
    """Choose what to log of `entries`, given all that is logged of their cases, oldest first.

    A case passes each stage once: a stage that is logged already is left out, whatever event tells of it.
    """
    terms: dict[str, Entry] = {}
    stages: dict[tuple[str, Kind], str] = {}

    def remember(entry: Entry) -> None:
        stages[entry.case_id, entry.kind] = entry.event_id
        known = terms.setdefault(entry.case_id, entry)
        if known.rule_id is None:
            terms[entry.case_id] = replace(known, rule_id=entry.rule_id, rule_name=entry.rule_name)

    for entry in logged:
        remember(entry)
    booking = Booking([], [], [])
    for entry in entries:
        told_by = stages.get((entry.case_id, entry.kind))
        if told_by is not None:
            if told_by != entry.event_id:
                booking.told_twice.append(entry)
            continue
        earlier = terms.get(entry.case_id)
        booked = entry if earlier is None else on_the_terms_of(earlier, entry)
        if booked != entry:
            booking.corrected.append(entry)
        remember(booked)
        booking.fresh.append(booked)
    return booking


@dataclass(frozen=True, slots=True)
class Booking:
    """What to log, and what was odd: stages told by a second event, and entries booked on their case's terms."""

    fresh: list[Entry]
    told_twice: list[Entry]
    corrected: list[Entry]


# ------------------------------------------------------------------------------------------------ the figures


@dataclass(frozen=True, slots=True)
class Period:
    """A calendar year in UTC, as far as it is over: the days from 1 January up to, and without, `end`."""

    year: int
    end: date

    @classmethod
    def of(cls, year: int, now: datetime) -> Period:
        """Return the year as seen from `now`. Of a year still to come no day is over."""
        today = now.astimezone(UTC).date()
        return cls(year, max(date(year, 1, 1), min(today, date(year + 1, 1, 1))))

    @property
    def start(self) -> date:
        return date(self.year, 1, 1)

    @property
    def days(self) -> int:
        """How many days of the year are over."""
        return (self.end - self.start).days

    @property
    def days_in_year(self) -> int:
        return (date(self.year + 1, 1, 1) - self.start).days

    @property
    def running(self) -> bool:
        """Whether the year is not over yet."""
        return self.end < date(self.year + 1, 1, 1)


def not_spent(deltas: Iterable[tuple[date, Decimal]], period: Period, *, until: date | None = None) -> Fraction:
    """Return what a year's changes of the monthly cost have saved in that year so far, exact and unrounded.

    A change of `m` a month on day `d` is worth `m * 12 * n / D`, where `D` is the number of days of the year (365 or
    366) and `n` the number of its days that are over and on which the change held: from `d`, or from 1 January if
    that is later, up to and without `period.end` (today for the running year). So a whole year is worth exactly
    twelve months, the day of the change itself counts once it is over, and a seat that came back ends its saving
    with an equal and opposite change. `until` cuts earlier than the period's end.

    All changes must be in one currency. Round once, with `rounded` or `rounded_parts`.
    """
    end = period.end if until is None else min(until, period.end)
    total = Fraction(0)
    for day, monthly in deltas:
        held = (end - max(day, period.start)).days
        if held > 0:
            total += Fraction(monthly) * held
    return total * 12 / period.days_in_year


def annualized(monthly: Decimal) -> Fraction:
    """Return twelve months of it, unrounded."""
    return Fraction(monthly) * 12


def rounded(value: Fraction) -> Decimal:
    """Round to cents, half to even."""
    return Decimal(round(value * CENTS)).scaleb(-2)


def rounded_parts(values: Sequence[Fraction]) -> list[Decimal]:
    """Round the parts of one sum to cents so that they add up to the rounded sum.

    Each part is the step between two rounded running totals, so none is off by more than a cent.
    """
    total, before, parts = Fraction(0), Decimal(0), []
    for value in values:
        total += value
        parts.append(rounded(total) - before)
        before = rounded(total)
    return parts


def months(period: Period) -> list[tuple[date, date]]:
    """Return the first day of each month of the period that has begun, and of the month after it.

    The running month is in it from its first day on, although none of its days is over then.
    """
    starts = [date(period.year, month, 1) for month in range(1, 13)] + [date(period.year + 1, 1, 1)]
    last = period.end if period.running else period.end - timedelta(days=1)
    return [(start, after) for start, after in pairwise(starts) if start <= last]


@dataclass(frozen=True, slots=True)
class SeatTotal:
    """Seats of one currency (empty: no price) and one value of a dimension, with their price a month."""

    key: str
    currency: str
    freed: int
    freed_monthly: Decimal
    pending: int
    pending_monthly: Decimal


@dataclass(frozen=True, slots=True)
class DayTotal:
    """A day's changes in one currency (empty: no price) and one value of a dimension."""

    key: str
    currency: str
    day: date
    seats_freed: int
    seats_returned: int
    monthly_delta: Decimal


@dataclass(frozen=True, slots=True)
class Figures:
    """The key figures of one currency, rounded to cents.

    `annualized_run_rate` is twelve months of what the seats freed at the period's end cost; `year_to_date` is
    `not_spent`; `potential_annualized` is twelve months of the seats that are frozen and may still be restored.
    What is realised when a contract is renewed is a third figure, which needs a contract's date and is not here.
    """

    currency: str
    seats_freed: int
    annualized_run_rate: Decimal
    year_to_date: Decimal
    seats_pending: int
    potential_annualized: Decimal


@dataclass(frozen=True, slots=True)
class WithoutPrice:
    """Seats that no figure counts, since the price book does not have them."""

    seats_freed: int
    seats_pending: int


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a breakdown. Amounts are None for seats without a price.

    `seats_freed` and `seats_returned` happened in the year (or month); `seats_now` and `annualized_run_rate` are how
    it stood at the end. The `year_to_date` of all lines of a currency adds up to the figure, to the cent.
    """

    key: str
    currency: str | None
    seats_freed: int
    seats_returned: int
    seats_now: int
    annualized_run_rate: Decimal | None
    year_to_date: Decimal | None


def _currencies(seats: Sequence[SeatTotal], days: Sequence[DayTotal]) -> list[str]:
    """Return the currencies in alphabetical order, and what has no price last."""
    found = {row.currency for row in seats} | {row.currency for row in days}
    return sorted(found, key=lambda currency: (not currency, currency))


def key_figures(
    period: Period, seats: Sequence[SeatTotal], days: Sequence[DayTotal]
) -> tuple[list[Figures], WithoutPrice]:
    """Return the figures of each currency in alphabetical order, and the seats without a price."""
    figures = []
    without = WithoutPrice(0, 0)
    for currency in _currencies(seats, days):
        mine = [row for row in seats if row.currency == currency]
        freed, pending = sum(row.freed for row in mine), sum(row.pending for row in mine)
        if not currency:
            without = WithoutPrice(freed, pending)
            continue
        deltas = [(row.day, row.monthly_delta) for row in days if row.currency == currency]
        figures.append(
            Figures(
                currency,
                freed,
                rounded(annualized(sum((row.freed_monthly for row in mine), Decimal(0)))),
                rounded(not_spent(deltas, period)),
                pending,
                rounded(annualized(sum((row.pending_monthly for row in mine), Decimal(0)))),
            )
        )
    return figures, without


def by_dimension(period: Period, seats: Sequence[SeatTotal], days: Sequence[DayTotal]) -> list[Line]:
    """Break the figures down by the key of the rows: per currency, the dearest first, and without price at the end."""
    lines: list[Line] = []
    for currency in _currencies(seats, days):
        changes: dict[str, list[DayTotal]] = {row.key: [] for row in seats if row.currency == currency and row.freed}
        for day in days:
            if day.currency == currency:
                changes.setdefault(day.key, []).append(day)
        standing = {row.key: row for row in seats if row.currency == currency}
        keys = sorted(changes)
        saved = rounded_parts([not_spent([(c.day, c.monthly_delta) for c in changes[key]], period) for key in keys])
        rates = rounded_parts(
            [annualized(standing[key].freed_monthly if key in standing else Decimal(0)) for key in keys]
        )
        found = [
            Line(
                key,
                currency or None,
                sum(change.seats_freed for change in changes[key] if change.day >= period.start),
                sum(change.seats_returned for change in changes[key] if change.day >= period.start),
                standing[key].freed if key in standing else 0,
                rate if currency else None,
                amount if currency else None,
            )
            for key, rate, amount in zip(keys, rates, saved, strict=True)
        ]
        lines += sorted(found, key=lambda line: (-(line.annualized_run_rate or 0), -line.seats_now, line.key))
    return lines


def by_month(period: Period, days: Sequence[DayTotal]) -> list[Line]:
    """Break the figures down by month (`key` is `2026-11`); `year_to_date` is what the month itself did not cost."""
    lines: list[Line] = []
    for currency in _currencies((), days):
        changes = [row for row in days if row.currency == currency]
        deltas = [(row.day, row.monthly_delta) for row in changes]
        spans = months(period)
        totals = [not_spent(deltas, period, until=after) for _, after in spans]
        saved = rounded_parts([total - before for total, before in zip(totals, [Fraction(0), *totals], strict=False)])
        for (start, after), amount in zip(spans, saved, strict=True):
            inside = [row for row in changes if start <= row.day < after]
            until = [row for row in changes if row.day < after]
            rate = rounded(annualized(sum((row.monthly_delta for row in until), Decimal(0))))
            lines.append(
                Line(
                    f"{start:%Y-%m}",
                    currency or None,
                    sum(row.seats_freed for row in inside),
                    sum(row.seats_returned for row in inside),
                    sum(row.seats_freed - row.seats_returned for row in until),
                    rate if currency else None,
                    amount if currency else None,
                )
            )
    return lines
