"""What the figures mean, checked against sums that were done by hand."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reclaim.savings.domain import (
    DayTotal,
    Period,
    SeatTotal,
    by_dimension,
    by_month,
    key_figures,
    months,
    not_spent,
    rounded,
    rounded_parts,
)


def at(*args: int) -> datetime:
    return datetime(*args, tzinfo=UTC)  # type: ignore[misc,arg-type]


def day(on: date, delta: str, *, key: str = "", currency: str = "USD", freed: int = 0, returned: int = 0) -> DayTotal:
    return DayTotal(key, currency, on, freed, returned, Decimal(delta))


@pytest.mark.parametrize(
    ("year", "now", "end", "days", "days_in_year", "running"),
    [
        (2026, at(2026, 11, 21, 12), date(2026, 11, 21), 324, 365, True),
        (2026, at(2026, 1, 1, 0, 30), date(2026, 1, 1), 0, 365, True),
        (2026, at(2027, 1, 1), date(2027, 1, 1), 365, 365, False),
        (2028, at(2028, 2, 29, 23, 59), date(2028, 2, 29), 59, 366, True),
        (2024, at(2026, 5, 1), date(2025, 1, 1), 366, 366, False),
        (2030, at(2026, 5, 1), date(2030, 1, 1), 0, 365, True),
    ],
)
def test_a_year_is_as_long_as_what_is_over_of_it(
    year: int, now: datetime, end: date, days: int, days_in_year: int, running: bool
) -> None:
    period = Period.of(year, now)
    assert (period.end, period.days, period.days_in_year, period.running) == (end, days, days_in_year, running)


def test_a_whole_year_is_worth_exactly_twelve_months_in_any_year() -> None:
    for year in (2025, 2028):
        freed_before = [(date(year - 1, 3, 3), Decimal("99.9999"))]
        assert not_spent(freed_before, Period.of(year, at(year + 1, 6, 1))) == Fraction("1199.9988")


def test_a_seat_freed_on_29_february_counts_its_days_of_366() -> None:
    deltas = [(date(2028, 2, 29), Decimal(366))]
    assert not_spent(deltas, Period.of(2028, at(2028, 3, 10, 8))) == 12 * 10


def test_a_year_is_cut_at_new_year() -> None:
    deltas = [(date(2026, 12, 22), Decimal(365))]
    assert not_spent(deltas, Period.of(2026, at(2027, 3, 1))) == 12 * 10
    assert not_spent(deltas, Period.of(2027, at(2027, 1, 11))) == 12 * 10
    assert not_spent(deltas, Period.of(2026, at(2026, 12, 22, 23))) == 0, "the day itself counts once it is over"


def test_a_seat_that_came_back_saved_the_days_in_between() -> None:
    deltas = [(date(2026, 3, 1), Decimal(365)), (date(2026, 3, 11), Decimal(-365))]
    for now in (at(2026, 3, 11), at(2026, 9, 1), at(2029, 1, 1)):
        assert not_spent(deltas, Period.of(2026, now)) == 12 * 10
    assert not_spent(deltas, Period.of(2027, at(2027, 6, 1))) == 0


def test_half_a_cent_goes_to_the_even_one() -> None:
    assert [rounded(Fraction(n, 1000)) for n in (5, 15, 25, -5, -15)] == [
        Decimal(text) for text in ("0.00", "0.02", "0.02", "0.00", "-0.02")
    ]
    assert str(rounded(Fraction(1200))) == "1200.00"


@given(st.lists(st.fractions(min_value=-10_000, max_value=10_000, max_denominator=366_000)))
def test_rounded_parts_add_up_to_the_rounded_sum(values: list[Fraction]) -> None:
    parts = rounded_parts(values)
    assert sum(parts) == rounded(sum(values, Fraction(0)))
    assert all(abs(Fraction(part) - value) <= Fraction(1, 100) for part, value in zip(parts, values, strict=True))


def test_currencies_stand_apart_and_no_price_is_not_zero() -> None:
    seats = [
        SeatTotal("", "EUR", 2, Decimal(20), 0, Decimal(0)),
        SeatTotal("", "", 3, Decimal(0), 1, Decimal(0)),
        SeatTotal("", "USD", 1, Decimal("10.005"), 4, Decimal(40)),
    ]
    days = [day(date(2025, 1, 1), "20", currency="EUR"), day(date(2025, 1, 1), "0", currency="", freed=3)]
    figures, without_price = key_figures(Period.of(2026, at(2026, 7, 2)), seats, days)
    assert [(one.currency, one.annualized_run_rate, one.potential_annualized) for one in figures] == [
        ("EUR", Decimal("240.00"), Decimal("0.00")),
        ("USD", Decimal("120.06"), Decimal("480.00")),
    ]
    assert figures[0].year_to_date == rounded(Fraction(240 * 182, 365))
    assert (without_price.seats_freed, without_price.seats_pending) == (3, 1)


def test_a_breakdown_adds_up_to_the_figures_to_the_cent() -> None:
    period = Period.of(2026, at(2026, 11, 21))
    days = [
        day(date(2026, 1 + n % 9, 3), "33.3333", key=f"p-{n % 7}", freed=1, currency=("USD", "EUR")[n % 2])
        for n in range(40)
    ]
    seats = [
        SeatTotal(key, currency, 1, Decimal("33.3333"), 0, Decimal(0))
        for key, currency in sorted({(row.key, row.currency) for row in days})
    ]
    figures, _ = key_figures(period, seats, days)
    for lines in (by_dimension(period, seats, days), by_month(period, days)):
        for one in figures:
            mine = [line for line in lines if line.currency == one.currency]
            assert sum(line.year_to_date or 0 for line in mine) == one.year_to_date
            assert sum(line.seats_freed for line in mine) == 20


def test_the_lines_of_what_has_no_price_show_no_amount() -> None:
    period = Period.of(2026, at(2026, 3, 1))
    days = [day(date(2026, 2, 1), "0", key="p", currency="", freed=2)]
    seats = [SeatTotal("p", "", 2, Decimal(0), 0, Decimal(0))]
    for lines in (by_dimension(period, seats, days), by_month(period, days)[1:2]):
        assert [(line.currency, line.seats_freed, line.annualized_run_rate, line.year_to_date) for line in lines] == [
            (None, 2, None, None)
        ]


def test_months_end_with_the_one_that_runs() -> None:
    assert len(months(Period.of(2026, at(2026, 11, 1)))) == 11
    assert len(months(Period.of(2026, at(2026, 11, 30)))) == 11
    assert len(months(Period.of(2025, at(2026, 11, 30)))) == 12
    assert months(Period.of(2026, at(2026, 1, 1))) == [(date(2026, 1, 1), date(2026, 2, 1))]


def test_a_month_shows_what_it_began_with_and_what_came_back() -> None:
    period = Period.of(2026, at(2026, 3, 15))
    days = [
        day(date(2025, 12, 31), "100", freed=2),
        day(date(2026, 2, 10), "50", freed=1),
        day(date(2026, 3, 5), "-50", returned=1),
    ]
    january, february, march = by_month(period, days)
    assert (january.seats_freed, january.seats_now, january.annualized_run_rate) == (0, 2, Decimal("1200.00"))
    assert (february.seats_freed, february.seats_now, february.annualized_run_rate) == (1, 3, Decimal("1800.00"))
    assert (march.seats_returned, march.seats_now, march.annualized_run_rate) == (1, 2, Decimal("1200.00"))
    assert january.year_to_date == rounded(Fraction(1200 * 31, 365))
