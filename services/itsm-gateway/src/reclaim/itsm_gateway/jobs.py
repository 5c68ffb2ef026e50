"""Housekeeping."""

from __future__ import annotations

from typing import Final

from reclaim.common.timing import wall_milliseconds
from reclaim.itsm_gateway import store
from reclaim.itsm_gateway.handlers import Deps

LEDGER_DAYS: Final = 7
"""Far longer than the five minutes for which a signature is valid."""


async def forget_webhooks(deps: Deps) -> bool:
    """Drop old ledger entries; return False, since there is never more to do at once."""
    async with deps.database.unit() as unit:
        await store.forget_webhooks(unit.db, wall_milliseconds() - LEDGER_DAYS * 86_400_000)
    return False
