"""A scanner over an org with seats and a sign-in log, both in memory, and ways to send it files."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from reclaim.common.errors import ReclaimError
from reclaim.connectors.fake import FakeLog
from reclaim.connectors.ports import Application, ConnectionProfile, UsagePage
from reclaim.scanner import actions, import_actions, profiles
from reclaim.scanner.import_store import Import
from reclaim.scanner.imports import read_wanted
from reclaim.scanner.store import Connection
from services.scanner.tests.scanner_world import SETTINGS, Opened, Scanner

OKTA = {"org_url": "https://acme.okta.com"}
DAY = timedelta(days=1)
USAGE = "User,Device,Product,File Name,Platform,Month,Seconds,Runs,Last Used\n"


@dataclass
class Log(FakeLog):
    """A sign-in log that can be cut off after some days, and tells what it was asked."""

    asked: list[datetime] = field(default_factory=list)
    only: list[tuple[str, ...]] = field(default_factory=list)
    breaks_after: int | None = None
    breaks_with: BaseException | None = None
    before_page: Any = None

    async def applications(self) -> list[Application]:
        return [Application(each.id, each.name.title()) for each in await super().applications()]

    async def usage(self, since: datetime, *, only: Any = ()) -> AsyncIterator[UsagePage]:
        self.asked.append(since)
        self.only.append(tuple(only))
        given = 0
        async for page in super().usage(since, only=only):
            if self.breaks_after is not None and given >= self.breaks_after:
                assert self.breaks_with is not None
                raise self.breaks_with
            if self.before_page is not None:
                await self.before_page(page)
            given += 1
            yield page


@dataclass
class WithLog(Opened):
    """Connectors that open an org with seats and a log."""

    log: Log | None = None

    def usage_reader(self, _profile: ConnectionProfile) -> Log:
        assert self.log is not None
        return self.log


def give_log(scanner: Scanner, log: Log | None = None) -> Log:
    """Let the scanner's connectors have a sign-in log."""
    log = log or Log(scanner.clock)
    scanner.connectors.usage_reader = lambda _profile: log  # type: ignore[attr-defined]
    return log


async def connect(
    scanner: Scanner, name: str = "Acme org", kind: str = "salesforce", settings: Mapping[str, str] = SETTINGS
) -> Connection:
    credentials = {"client_secret": "s"} if kind == "salesforce" else {"api_token": "token"}
    return await actions.add_connection(
        scanner.deps, name=name, kind=kind, settings=settings, credentials=credentials, test=False
    )


async def connect_log(scanner: Scanner, name: str = "SSO") -> Connection:
    return await connect(scanner, name, "okta", OKTA)


async def sync(scanner: Scanner) -> None:
    """Work on everything that is due."""
    while await scanner.job("sync"):
        pass


async def choose(scanner: Scanner, log: Connection, app: str, seats: Connection, product: str = "SFDC") -> Any:
    return await profiles.choose_application(
        scanner.deps, log.id, app, seats_connection_id=seats.id, product=product, by="otto"
    )


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def send(scanner: Scanner, data: str | bytes, **said: Any) -> Import:
    """Send a file and let it be read."""
    raw = {"shape": "csv", "what": "usage", "file_name": "export.csv", **said}
    body = data.encode() if isinstance(data, str) else data
    begun = await import_actions.receive(scanner.deps, read_wanted(raw), chunks(body), author="otto")
    while await scanner.job("import"):
        pass
    return await found(scanner, begun.id)


async def found(scanner: Scanner, import_id: str) -> Import:
    from reclaim.scanner import import_store

    async with scanner.deps.database.reading() as db:
        return await import_store.find(db, import_id)


async def refused(call: Any) -> str:
    """Return what a call that must be refused says."""
    try:
        await call
    except ReclaimError as error:
        return str(error)
    raise AssertionError("it was not refused")
