"""Every service's migrations, on both databases: complete, harmless to repeat, and safe when two start at once."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.script import ScriptDirectory
from cryptography.fernet import Fernet

from reclaim.common import migrate
from reclaim.common.bus.inproc import InprocBus
from reclaim.common.clock import SystemClock
from reclaim.common.contracts import SERVICES
from reclaim.common.db import open_engine
from reclaim.common.migrate import upgrade  # the migrations themselves: elsewhere tests copy what they made
from reclaim.common.service import Running, chosen
from reclaim.common.settings import Settings

UPGRADE = """
import asyncio, sys
from pathlib import Path
from reclaim.common import migrate
from reclaim.common.db import open_engine

async def main(url, versions):
    engine = open_engine(url)
    sys.stdout.write("ready\\n")
    sys.stdout.flush()
    sys.stdin.readline()
    await migrate.upgrade(engine, Path(versions))
    await engine.dispose()

asyncio.run(main(*sys.argv[1:]))
"""
"""One process that upgrades a database as soon as it is told to."""


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.servers)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database, once on SQLite and once on PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path}/service.db"
    url = request.getfixturevalue("fresh_database")
    assert isinstance(url, str)
    return url


@asynccontextmanager
async def service(name: str, url: str, folder: Path) -> AsyncIterator[Running]:
    settings = Settings(
        _env_file=None,
        environment="test",
        data_dir=folder,
        database_url=url,
        secret_keys=["s" * 32],
        sealing_keys=[Fernet.generate_key().decode()],
    )
    running = Running.start(chosen([name])[name], name, settings, SystemClock(), InprocBus())
    try:
        yield running
    finally:
        await running.close()


async def content(running: Running) -> dict[str, int]:
    """Every table with its number of rows."""
    async with running.database.reading() as db:
        names = await db.run_sync(lambda connection: sa.inspect(connection).get_table_names())
        return {
            name: (await db.execute(sa.select(sa.func.count()).select_from(sa.table(name)))).scalar_one()
            for name in sorted(names)
        }


@pytest.mark.parametrize("name", SERVICES)
async def test_the_migrations_make_what_the_code_declares_and_may_be_repeated(
    name: str, database_url: str, tmp_path: Path
) -> None:
    async with service(name, database_url, tmp_path) as running:
        engine, metadata = running.database.engine, running.service.metadata
        assert await migrate.differences(engine, metadata) != [], "an empty database is not what the code declares"
        await upgrade(engine, running.service.migrations)
        assert await migrate.differences(engine, metadata) == []
        made = await content(running)
        assert set(made) == set(metadata.tables) | {"alembic_version"}
        assert made["alembic_version"] == 1
        await upgrade(engine, running.service.migrations)
        assert await content(running) == made
        assert await migrate.differences(engine, metadata) == []


@pytest.mark.parametrize("name", SERVICES)
def test_revisions_are_one_line_named_after_their_service(name: str, tmp_path: Path) -> None:
    """Two heads would be merged by chance of the file system's order; names in common would hide one another."""
    engine_url = f"sqlite+aiosqlite:///{tmp_path}/service.db"

    async def folder() -> Path:
        async with service(name, engine_url, tmp_path) as running:
            return running.service.migrations

    versions = asyncio.run(folder())
    script = ScriptDirectory.from_config(migrate._config(versions))
    assert len(script.get_heads()) == 1
    for revision in script.walk_revisions():
        assert revision.revision.startswith(name.replace("-", "_") + "_")
        assert not revision.is_branch_point


async def test_two_processes_that_upgrade_at_once_migrate_once(database_url: str, tmp_path: Path) -> None:
    async with service("lifecycle", database_url, tmp_path) as running:
        versions, metadata = running.service.migrations, running.service.metadata
    program = tmp_path / "upgrade.py"
    program.write_text(UPGRADE)
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            str(program),
            database_url,
            str(versions),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=dict(os.environ),
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
    ended = await asyncio.gather(*(process.communicate(b"go\n") for process in processes))
    for process, (_, errors) in zip(processes, ended, strict=True):
        assert process.returncode == 0, errors.decode()
    engine = open_engine(database_url)
    assert await migrate.differences(engine, metadata) == []
    await engine.dispose()


async def test_an_upgrade_that_fails_leaves_the_database_as_it_was(database_url: str, tmp_path: Path) -> None:
    versions = tmp_path / "versions"
    versions.mkdir()
    (versions / "0001_first.py").write_text(
        '"""First."""\nfrom reclaim.common.migrate import create_messaging_tables\n'
        'revision = "t_0001"\ndown_revision = None\n\ndef upgrade() -> None:\n    create_messaging_tables()\n'
    )
    second = versions / "0002_second.py"
    second.write_text(
        '"""Second."""\nimport sqlalchemy as sa\nfrom alembic import op\n'
        'revision = "t_0002"\ndown_revision = "t_0001"\n\ndef upgrade() -> None:\n'
        '    op.create_table("half", sa.Column("n", sa.Integer))\n    raise RuntimeError("in mid-revision")\n'
    )
    engine = open_engine(database_url)
    try:
        with pytest.raises(RuntimeError, match="in mid-revision"):
            await upgrade(engine, versions)
        async with engine.connect() as connection:
            assert await connection.run_sync(lambda one: sa.inspect(one).get_table_names()) == []
        second.write_text(second.read_text().replace('    raise RuntimeError("in mid-revision")\n', ""))
        await upgrade(engine, versions)
        async with engine.connect() as connection:
            assert "half" in await connection.run_sync(lambda one: sa.inspect(one).get_table_names())
    finally:
        await engine.dispose()


async def test_a_folder_may_have_any_name(tmp_path: Path) -> None:
    versions = tmp_path / "50% done: 2026"
    versions.mkdir()
    (versions / "0001_first.py").write_text(
        '"""First."""\nfrom reclaim.common.migrate import add_case_of_set_aside, create_messaging_tables\n'
        'revision = "t_0001"\ndown_revision = None\n\ndef upgrade() -> None:\n'
        "    create_messaging_tables()\n    add_case_of_set_aside()\n"
    )
    engine = open_engine(f"sqlite+aiosqlite:///{tmp_path}/service.db")
    await upgrade(engine, versions)
    assert await migrate.differences(engine, migrate.service_metadata()) == []
    await engine.dispose()
