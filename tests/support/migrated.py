"""Databases that tests begin with: a service's migrations run once a process, and their outcome is copied.

Only for new SQLite files. On PostgreSQL, and wherever the file has something in it already, the migrations run as ever;
that they run and do what they say is what `tests/integration/test_integration_migrations.py` is about, which goes past
this.
"""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncEngine

from reclaim.common.db import open_engine

Upgrade = Callable[[AsyncEngine, Path], Awaitable[None]]


def copying(upgrade: Upgrade, folder: Path) -> Upgrade:
    """Return an `upgrade` that fills new SQLite files from templates, which it keeps in `folder`."""
    templates: dict[Path, Path] = {}

    async def copy_or_upgrade(engine: AsyncEngine, versions: Path) -> None:
        database = engine.url.database
        if engine.dialect.name != "sqlite" or not database or database == ":memory:" or _has_something(Path(database)):
            await upgrade(engine, versions)
            return
        if versions not in templates:
            templates[versions] = await _template(upgrade, versions, folder / f"{len(templates)}.db")
        Path(database).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(templates[versions], database)

    return copy_or_upgrade


def _has_something(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


async def _template(upgrade: Upgrade, versions: Path, path: Path) -> Path:
    engine = open_engine(f"sqlite+aiosqlite:///{path}")
    await upgrade(engine, versions)
    # The last connection to a file takes its log into it as it closes.
    await engine.dispose()
    return path
