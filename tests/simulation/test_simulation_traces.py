"""The same seeds give the same traces on SQLite and on PostgreSQL."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from reclaim.common import migrate
from tests.simulation.history import History, Outcome
from tests.simulation.stage import Stage, quiet
from tests.simulation.world import World, controlled

SEEDS = range(25)


async def _schemas(url: str) -> None:
    """Migrate a schema for every service."""
    world = World(0, url)
    with controlled(world):
        world.start()
        for process in world.processes.values():
            await migrate.upgrade(process.running.database.engine, process.running.service.migrations)
        await world.close()
