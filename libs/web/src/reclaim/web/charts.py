"""The geometry of the bar chart: the template only writes numbers down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal


@dataclass(frozen=True)
class Bar:
    """One bar: its label, its length in any unit, and the text that stands beside it (such as a formatted amount)."""

    label: str
    value: Decimal | float
    text: str


@dataclass(frozen=True)
class DrawnBar:
    """A bar with its place in percent of the width. Negative ones start left of `zero` and end there."""

    label: str
    text: str
    x: float
    width: float
    zero: float
    negative: bool


def bar_geometry(bars: Sequence[Bar]) -> list[DrawnBar]:
    """Place the bars on one common scale that includes zero."""
    values = [float(bar.value) for bar in bars]
    low = min([0.0, *values])
    span = max([0.0, *values]) - low or 1.0

    def place(value: float) -> float:
        return round((value - low) / span * 100, 2)

    zero = place(0.0)
    drawn = []
    for bar, value in zip(bars, values, strict=True):
        start, end = sorted((zero, place(value)))
        drawn.append(DrawnBar(bar.label, bar.text, start, round(end - start, 2), zero, negative=value < 0))
    return drawn
