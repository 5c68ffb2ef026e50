"""Finds the holder of a seat by what a person remembers: a name, an e-mail address, or the account's id.

Looked for are the seats of the register and the open and past cases; a holder who was never read is found by id only,
because the connected system is asked for that.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from reclaim.common.errors import Conflict
from reclaim.scanner import store
from reclaim.scanner.explain import Explained, explain
from reclaim.scanner.known_seats import KNOWN_SEATS
from reclaim.scanner.ports import Deps
from reclaim.scanner.store import CANDIDATES

MOST: Final = 50
"""Holders that a search lists; who is not among them is found by more of the name."""

NAMED: Final = 5
"""Holders that an error names."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Somebody who has, or had, seats on a connection."""

    id: str
    name: str
    email: str | None
    department: str | None
    products: tuple[str, ...]


class Several(Conflict):
    """A text that more than one holder answers to; `holders` are they, the first `MOST`."""

    title = "More than one holder"

    def __init__(self, text: str, holders: list[Holder]) -> None:
        named = "; ".join(f"{one.name} ({one.id})" for one in holders[:NAMED])
        more = f" and {len(holders) - NAMED} more" if len(holders) > NAMED else ""
        super().__init__(f"{text!r} is found in {named}{more}: give the account's id.")
        self.holders = tuple(holders)


async def holders(db: AsyncConnection, connection_id: str, text: str, *, most: int = MOST) -> list[Holder]:
    """Return the holders whose id or address is the text, or whose name has it; by name, without regard to case.

    SQLite does so for the letters A to Z only. Who has exactly that id stands alone.
    """
    found: dict[str, Holder] = {}
    for table in (KNOWN_SEATS, CANDIDATES):
        for row in await db.execute(_matching(table, connection_id, text.strip(), most)):
            known = found.get(row.holder_id)
            if known is None:
                found[row.holder_id] = Holder(
                    row.holder_id, row.holder_name, row.holder_email, row.department, (row.product,)
                )
            elif row.product not in known.products:
                found[row.holder_id] = replace(known, products=(*known.products, row.product))
    if text.strip() in found:
        return [found[text.strip()]]
    return sorted(found.values(), key=lambda one: (one.name.casefold(), one.id))[:most]


def _matching(table: sa.Table, connection_id: str, text: str, most: int) -> sa.Select[Any]:
    seat = table.c
    chosen = sa.or_(
        seat.holder_id == text,
        sa.func.lower(seat.holder_email) == text.lower(),
        seat.holder_name.contains(text, autoescape=True),
        sa.func.lower(seat.holder_name).contains(text.lower(), autoescape=True),
    )
    # Of one holder there may be a row for each product; a search that has to leave some out is too wide anyway.
    return (
        sa.select(seat.holder_id, seat.holder_name, seat.holder_email, seat.department, seat.product)
        .distinct()
        .where(seat.connection_id == connection_id, chosen)
        .order_by(seat.holder_name, seat.holder_id, seat.product)
        .limit(10 * most)
    )


async def explained(deps: Deps, connection_id: str, text: str) -> Explained:
    """Explain the seat of the one holder that a text is about: an account's id, an e-mail address, or a name.

    Raises:
        Several: it is about more than one.
        NotFound, Transient, Permanent: as `explain`.
    """
    async with deps.database.reading() as db:
        await store.connection(db, connection_id)
        found = await holders(db, connection_id, text)
    if len(found) > 1:
        raise Several(text.strip(), found)
    return await explain(deps, connection_id, found[0].id if found else text.strip())
