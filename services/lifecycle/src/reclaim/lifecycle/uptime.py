"""When the pages on which people answer were up, purely: what they missed of a wait is added to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Final

from reclaim.lifecycle.domain import Case, State

FRESH: Final = 20 * 60_000
"""Milliseconds of the machine's clock for which the pages are taken to be up after they were heard of.

They are told of every five minutes, and a break of less than a quarter of an hour is no outage.
"""


@dataclass(frozen=True, slots=True)
class Stretch:
    """A time without a break."""

    since: datetime
    until: datetime


@dataclass(frozen=True, slots=True)
class Uptime:
    """What was heard of the pages: the stretches for which they were up, by their beginning.

    `beat` is when they were up last, by the machine's clock in milliseconds; None: nobody has ever told, as a release
    before it did not.
    """

    stretches: Sequence[Stretch] = ()
    beat: int | None = None

    def known(self, wall: int) -> bool:
        """Tell whether the pages are up as far as is known; if not, how long they will have been down is not known."""
        return self.beat is None or wall - self.beat <= FRESH

    def missed(self, begin: datetime, end: datetime) -> timedelta:
        """Return how long the pages were down between two instants. Before they were first heard of they were up."""
        down = timedelta()
        up_until: datetime | None = None
        for before, after in pairwise(self.stretches):
            up_until = before.until if up_until is None else max(up_until, before.until)
            down += max(timedelta(), min(after.since, end) - max(up_until, begin))
        return down


def answered_on_pages(case: Case) -> bool:
    """Tell whether what a case waits for may come over the pages; a task has no grace that could be appealed there."""
    return case.policy.route != "itsm" and case.state in {State.AWAITING_DECISION, State.FROZEN}
