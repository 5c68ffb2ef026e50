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
from reclaim.connectors.ports import Members, SeatRecord
from reclaim.scanner import known_seats
from reclaim.scanner.catalog import Coverage
from reclaim.scanner.domain import Chooses, Terms, price_of
from reclaim.scanner.filters import Kind, Superiors, combined, compile_memory, parse, show
from reclaim.scanner.filters.fields import FIRST_SEEN
from reclaim.scanner.filters.tree import names
from reclaim.scanner.groups import must_be_told
from reclaim.scanner.known_seats import Holders, Reporting, Unwritten
from reclaim.scanner.store import Connection

EVERYTHING: Final = Coverage(())
"""What is covered where no product has a filter of its own."""


def checked(text: str, applies_to: Kind, connection: Connection) -> str:
    """Return a product's filter as it is kept, empty for none.

    Raises:
        FilterRefused: it does not fit what the rule applies to, with every problem and its place; or it asks for what
            the connection cannot tell.
    """
    text = text.strip()
    if not text:
        return ""
    tree = parse(text, applies_to)
    must_be_told(tree, connection)
    return show(tree)


async def chooser(
    db: AsyncConnection,
    terms: Terms,
    connection_id: str,
    holders: Collection[str],
    *,
    prices: Mapping[str, Money],
    now: datetime,
    covered: Coverage = EVERYTHING,
    groups: Mapping[str, Members] | None = None,
    reading: Reporting | None = None,
    unwritten: Unwritten | None = None,
) -> Chooses | None:
    """Return what answers the filters of a rule and of its products for seats of these holders; None if there is none.

    Seats are those of `covered`: of a suite and its components one, the suite's. `groups` are the members of those that
    the filters name, `reading` who works for whom by the reading that the seats are from, and `unwritten` what of it is
    not in the register. Reporting lines and when a
    seat was first seen are looked up only for a filter that asks about them.
    """
    own = parse(terms.filter, terms.applies_to) if terms.filter else None
    trees = {product: combined(own, parse(text, terms.applies_to)) for product, text in covered.filters.items()}
    asked = [tree for tree in (own, *trees.values()) if tree is not None]
    if not asked:
        return None
    above: Mapping[str, Superiors] = {}
    if any(map(known_seats.asks_about_superiors, asked)):
        above = await known_seats.superiors(db, connection_id, holders, reading)
    known = Holders(groups or {}, above)
    seen: Mapping[tuple[str, str, str], datetime] = {}
    if any(FIRST_SEEN in names(tree) for tree in asked):
        seen = await _first_seen(db, connection_id, holders, covered, unwritten)
    otherwise = None if own is None else compile_memory(own, now)
    answers = {product: compile_memory(tree, now) for product, tree in trees.items() if tree is not None}

    def chooses(seat: SeatRecord) -> bool | None:
        answer = answers.get(seat.product, otherwise)
        if answer is None:
            return True
        row = known_seats.of_record(seat, price_of(prices, seat.product, seat.product_name))
        # What was never read before is seen now for the first time.
        first = seen.get((seat.holder.id, seat.product, seat.device), now)
        return answer(known_seats.filter_row(replace(row, first_seen_at=first), known))

    return chooses


async def _first_seen(
    db: AsyncConnection,
    connection_id: str,
    holders: Collection[str],
    covered: Coverage,
    unwritten: Unwritten | None,
) -> dict[tuple[str, str, str], datetime]:
    """Return since when each seat is known, by holder, product and device; a suite's as that of its latest part."""
    known = await known_seats.first_seen(db, connection_id, holders, unwritten)
    found = {(holder, product, device): since.at for (product, holder, device), since in known.items()}
    where = {(holder, device) for holder, _product, device in found}
    for suite in covered.suites:
        for holder, device in where:
            parts = [found[key] for part in suite.products if (key := (holder, part, device)) in found]
            if parts:
                found[holder, suite.product, device] = max(parts)
    return found
