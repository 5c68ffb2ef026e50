"""The rebuild of the reporting tables, a chunk at a time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from reclaim.common.db import Database
from reclaim.common.errors import Conflict, Transient
from reclaim.savings import store
from reclaim.savings.handlers import Deps

log = logging.getLogger(__name__)

CHUNK: Final = 100_000
"""Events projected in one transaction: large enough to be fast, small enough to lose little when it is cut."""

REBUILD: Final = "rebuild"
WAIT: Final = 0.2
"""Seconds until a command that has to wait looks again."""


async def rebuild_step(deps: Deps) -> bool:
    """Do the next part of a rebuild; return whether there was one to do."""
    return await step(deps.database, CHUNK)


async def step(database: Database, chunk: int) -> bool:
    """Do one transaction's worth of a rebuild that was asked for, and log how far it is."""
    async with database.reading() as db:
        status = await store.rebuild_status(db)
    if status is None or status.state == "done":
        return False
    async with database.unit() as unit:
        worked = await store.rebuild_step(unit.db, chunk, unit.now)
    async with database.reading() as db:
        status = await store.rebuild_status(db)
    if worked and status is not None:
        log.info("rebuild %s: %d of %d", status.state, status.position, status.target)
    return worked


async def rebuild(
    database: Database,
    *,
    requested_by: str,
    chunk: int = CHUNK,
    progress: Callable[[store.Rebuild], None] = lambda _status: None,
) -> store.Rebuild:
    """Rebuild the reporting tables from the log and wait for the end; for a command line.

    Raises:
        Conflict: a rebuild is under way already.
    """
    async with database.unit() as unit:
        if not await store.request_rebuild(unit.db, requested_by, unit.now):
            raise Conflict("A rebuild is under way already. Wait for its end; its progress is on the savings page.")
    while True:
        try:
            worked = await step(database, chunk)
        except Transient as error:
            log.warning("rebuild: %s", error)
            worked = False
        if not worked:
            # A reader is in the way, or another process has the step in hand or has done the last one.
            await asyncio.sleep(WAIT)
        async with database.reading() as db:
            status = await store.rebuild_status(db)
        assert status is not None
        progress(status)
        if status.state == "done":
            return status
