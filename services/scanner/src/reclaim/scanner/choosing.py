"""A rule's filters: checked when they are set, and made ready to answer for the seats of a page.

A seat must be chosen by the filter of its rule and by that of the product it counts as; for the seats of a suite and
its components that is the suite.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from reclaim.common.contracts import Money
from reclaim.connectors.ports import SeatRecord
from reclaim.scanner import known_seats
from reclaim.scanner.catalog import Coverage
from reclaim.scanner.domain import Chooses, Terms, price_of
from reclaim.scanner.filters import Kind, combined, compile_memory, parse, show
from reclaim.scanner.filters.fields import FIRST_SEEN
from reclaim.scanner.filters.tree import names

EVERYTHING: Final = Coverage(())
"""What is covered where no product has a filter of its own."""


def checked(text: str, applies_to: Kind) -> str:
    """Return a product's filter as it is kept, empty for none.

    Raises:
        FilterRefused: it does not fit what the rule applies to, with every problem and its place.
    """
    text = text.strip()
    return show(parse(text, applies_to)) if text else ""


async def chooser(
    db: AsyncConnection,
    terms: Terms,
    connection_id: str,
    holders: Collection[str],
    *,
    prices: Mapping[str, Money],
    now: datetime,
    covered: Coverage = EVERYTHING,
) -> Chooses | None:
    """Return what answers the filters of a rule and of its products for seats of these holders; None if there is none.

    Seats are those of `covered`: of a suite and its components one, the suite's. Groups, reporting lines and when a
    seat was first seen are read only for a filter that asks about them.
    """
    own = parse(terms.filter, terms.applies_to) if terms.filter else None
    trees = {product: combined(own, parse(text, terms.applies_to)) for product, text in covered.filters.items()}
    asked = [tree for tree in (own, *trees.values()) if tree is not None]
    if not asked:
        return None
    known = None
    if any(map(known_seats.asks_about_holders, asked)):
        known = await known_seats.holders(db, connection_id, holders)
    seen: Mapping[tuple[str, str], datetime] = {}
    if any(FIRST_SEEN in names(tree) for tree in asked):
        seen = await _first_seen(db, connection_id, holders, covered)
    otherwise = None if own is None else compile_memory(own, now)
    answers = {product: compile_memory(tree, now) for product, tree in trees.items() if tree is not None}

    def chooses(seat: SeatRecord) -> bool | None:
        answer = answers.get(seat.product, otherwise)
        if answer is None:
            return True
        row = known_seats.of_record(seat, price_of(prices, seat.product, seat.product_name))
        # What was never read before is seen now for the first time.
        first = seen.get((seat.holder.id, seat.product), now)
        return answer(known_seats.filter_row(replace(row, first_seen_at=first), known))

    return chooses


async def _first_seen(
    db: AsyncConnection, connection_id: str, holders: Collection[str], covered: Coverage
) -> dict[tuple[str, str], datetime]:
    """Return since when each holder's seats are known, by holder and product; a suite's as that of its latest part."""
    found = {
        (holder, product): since.at
        for (product, holder, _device), since in (await known_seats.first_seen(db, connection_id, holders)).items()
    }
    for suite in covered.suites:
        for holder in holders:
            parts = [found[holder, part] for part in suite.products if (holder, part) in found]
            if parts:
                found[holder, suite.product] = max(parts)
    return found
