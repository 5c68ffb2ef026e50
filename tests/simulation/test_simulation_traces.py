"""The same seeds give the same traces on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
import uuid
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from reclaim.common.contracts import SERVICES
from tests.simulation.history import History, Outcome
from tests.simulation.stage import Stage, StillLoop
from tests.simulation.world import migrated
from tests.support.providers import plain_url

SEEDS, MORE = range(15), range(15, 115)
"""Histories compared: every step, every entry of the audit trail and every write in the org."""


class Postgres:
    """A database for every service, copied from migrated ones for each history."""

    def __init__(self, url: str) -> None:
        self._admin = plain_url(url)
        self._prefix = f"sim_{uuid.uuid4().hex[:8]}"
        self._url = url

    def url(self, kind: str) -> str:
        return urlunsplit(urlsplit(self._url)._replace(path=f"/{self._prefix}_{kind}_{{service}}"))

    async def prepare(self) -> None:
        await self._each("CREATE DATABASE {template} TEMPLATE template0")
        await migrated(self.url("template"))

    async def play(self, seed: int) -> Outcome:
        await self._each("CREATE DATABASE {played} TEMPLATE {template}")
        try:
            return await History(seed, self.url("played")).play()
        finally:
            await self._each("DROP DATABASE IF EXISTS {played} WITH (FORCE)")

    async def drop(self) -> None:
        await self._each("DROP DATABASE IF EXISTS {template} WITH (FORCE)")

    async def _each(self, statement: str) -> None:
        connection = await asyncpg.connect(self._admin)
        try:
            for service in (name.replace("-", "_") for name in SERVICES):
                names = {kind: f'"{self._prefix}_{kind}_{service}"' for kind in ("template", "played")}
                await connection.execute(statement.format(**names))
        finally:
            await connection.close()


@pytest.mark.servers
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seeds", [SEEDS, pytest.param(MORE, marks=pytest.mark.long)], ids=["some", "more"])
def test_a_history_is_the_same_on_both_databases(stage: Stage, postgres_url: str, seeds: range) -> None:
    async def on_postgres() -> list[Outcome]:
        postgres = Postgres(postgres_url)
        try:
            await postgres.prepare()
            return [await postgres.play(seed) for seed in seeds]
        finally:
            await postgres.drop()

    on_sqlite = [stage.play(seed) for seed in seeds]
    with asyncio.Runner(loop_factory=StillLoop) as runner:
        there = runner.run(on_postgres())
    for here, other in zip(on_sqlite, there, strict=True):
        assert here.trace == other.trace
        assert here.signature == other.signature
        assert not here.violations
