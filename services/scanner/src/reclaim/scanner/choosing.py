"""A rule's filter, made ready to answer for the seats of a page."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from reclaim.common.contracts import Money
from reclaim.connectors.ports import SeatRecord
from reclaim.scanner import known_seats
from reclaim.scanner.domain import Chooses, Terms, price_of
from reclaim.scanner.filters import compile_memory, parse


async def chooser(
    db: AsyncConnection,
    terms: Terms,
    connection_id: str,
    holders: Collection[str],
    *,
    prices: Mapping[str, Money],
    now: datetime,
) -> Chooses | None:
    """Return what answers a rule's filter for seats of these holders; None if the rule has no filter.

    Groups and reporting lines are read only for a filter that asks about them.
    """
    if not terms.filter:
        return None
    tree = parse(terms.filter, terms.applies_to)
    answer = compile_memory(tree, now)
    known = None
    if known_seats.asks_about_holders(tree):
        known = await known_seats.holders(db, connection_id, holders)

    def chooses(seat: SeatRecord) -> bool | None:
        price = price_of(prices, seat.product, seat.product_name)
        return answer(known_seats.filter_row(known_seats.of_record(seat, price), known))

    return chooses
