"""What benchmarks of one service share: a database that is gone afterwards, and how much memory the process has."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import sqlalchemy as sa

from reclaim.common import migrate
from reclaim.common.db import open_engine


@asynccontextmanager
async def scratch_database(admin_url: str, migrations: Path) -> AsyncIterator[str]:
    """Give the URL of a database of its own on the server, with a service's tables; it is gone afterwards."""
    name = f"reclaim_bench_{uuid.uuid4().hex[:8]}"
    url = sa.make_url(admin_url).set(database=name).render_as_string(hide_password=False)
    admin = open_engine(admin_url)
    async with admin.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        await connection.exec_driver_sql(f"CREATE DATABASE {name}")
        try:
            engine = open_engine(url)
            await migrate.upgrade(engine, migrations)
            await engine.dispose()
            yield url
        finally:
            await connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.dispose()


def resident() -> float:
    """Return the megabytes that this process has in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
