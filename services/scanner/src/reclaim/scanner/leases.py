"""Keeping a lease on a piece of work for as long as the work takes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from reclaim.scanner.store import LeaseLost

log = logging.getLogger(__name__)


@asynccontextmanager
async def kept(prolong: Callable[[], Awaitable[None]], *, seconds: float, what: str) -> AsyncIterator[None]:
    """Prolong a lease of so many seconds while the block lasts, however long a single answer from outside takes.

    `prolong` raises `LeaseLost` when the work is somebody else's; the next write of the block then finds that too.
    """

    async def beat() -> None:
        while True:
            await asyncio.sleep(seconds / 3)
            try:
                await prolong()
            except LeaseLost:
                return
            except Exception as error:
                # The database is away: the lease may run out, and then the next write of the work finds that.
                log.warning("the lease of %s was not prolonged: %s", what, error)

    beating = asyncio.create_task(beat())
    try:
        yield
    finally:
        beating.cancel()
        await asyncio.gather(beating, return_exceptions=True)
