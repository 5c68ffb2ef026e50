"""What the scanner is given to work with: its database, the time, the keys of credentials, and the connectors."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from reclaim.common.clock import Clock
from reclaim.common.db import Database
from reclaim.common.security import Sealer
from reclaim.connectors.ports import ConnectionProfile, Connectors, SeatReader
from reclaim.scanner.domain import INSTALLED
from reclaim.scanner.installed_seats import InstalledSeats
from reclaim.scanner.settings import ScannerSettings
from reclaim.scanner.store import Connection


@dataclass(frozen=True, slots=True)
class Deps:
    """The dependencies of handlers, jobs and routes."""

    database: Database
    clock: Clock
    sealer: Sealer
    connectors: Connectors
    settings: ScannerSettings

    @asynccontextmanager
    async def reader(self, connection: Connection) -> AsyncIterator[SeatReader]:
        """Open a stored connection for reading; its credentials are unsealed for as long as the block lasts."""
        profile = ConnectionProfile(
            id=connection.id,
            name=connection.name,
            kind=connection.kind,
            settings=connection.settings,
            credentials=self.sealer.open(connection.credentials),
        )
        async with self.reader_of(profile) as reader:
            yield reader

    @asynccontextmanager
    async def reader_of(self, profile: ConnectionProfile) -> AsyncIterator[SeatReader]:
        """Open a connection that may not be stored yet; installed software is read from what feeds reported here."""
        reader = (
            InstalledSeats(self.database, self.clock, profile)
            if profile.kind == INSTALLED
            else self.connectors.reader(profile)
        )
        try:
            yield reader
        finally:
            await reader.close()
