"""Housekeeping, and what is said of desks that nobody has changed."""

from __future__ import annotations

from typing import Final

from reclaim.common.timing import wall_milliseconds
from reclaim.itsm_gateway import store, told_store
from reclaim.itsm_gateway.desks import announce
from reclaim.itsm_gateway.handlers import Deps

LEDGER_DAYS: Final = 7
"""Far longer than the five minutes for which a signature is valid."""


async def forget_webhooks(deps: Deps) -> bool:
    """Drop old ledger entries; return False, since there is never more to do at once."""
    async with deps.database.unit() as unit:
        await store.forget_webhooks(unit.db, wall_milliseconds() - LEDGER_DAYS * 86_400_000)
    return False


async def announce_desks(deps: Deps) -> bool:
    """Say of desks what was never said: those that were connected, or changed, by a release that did not.

    Returns False, since there is never more to do at once.
    """
    async with deps.database.reading() as db:
        waiting = await told_store.untold(db)
    if waiting:
        async with deps.database.unit() as unit:
            await announce(unit)
    return False
