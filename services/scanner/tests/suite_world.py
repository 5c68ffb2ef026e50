"""A scanner over an org whose holders have several seats each, as a generic SaaS or a feed lists them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from reclaim.common.clock import FixedClock
from reclaim.common.contracts import UserFlagged
from reclaim.connectors.fake import FakeOrg, FakeReader
from reclaim.connectors.ports import ConnectionProfile, Licence, SeatRecord
from reclaim.scanner import actions, catalog_actions, catalog_store, store
from reclaim.scanner.settings import ScannerSettings
from reclaim.scanner.store import Rule
from services.scanner.tests.scanner_world import FAST, NOON, SECRET, SETTINGS, TERMS, Scanner, idle, started

PRODUCTS: tuple[dict[str, Any], ...] = (
    {"key": "WORD", "name": "Word", "publisher": "Acme", "processes": ["windows:winword.exe", "macos:word"]},
    {"key": "EXCEL", "name": "Excel", "publisher": "Acme", "processes": ["windows:excel.exe"]},
    {"key": "VISIO", "name": "Visio", "publisher": "Acme", "processes": ["windows:visio.exe"]},
    {"key": "OFFICE", "name": "Office", "publisher": "Acme", "components": ["WORD", "EXCEL"]},
)


@dataclass(slots=True)
class SuiteOrg(FakeOrg):
    """`owned` has each user's products, and when each was last used."""

    owned: dict[str, dict[str, datetime | None]] = field(default_factory=dict)

    def reader(self, profile: ConnectionProfile | None = None) -> SuiteReader:
        return SuiteReader(self)

    def used(self, product: str) -> int:
        return sum(product in products for products in self.owned.values())

    def own(self, user: str, **days: int | None) -> None:
        """Give a user these products, each last used so many days ago (None: never)."""
        self.owned[user] = {
            product: None if ago is None else NOON - timedelta(days=ago) for product, ago in days.items()
        }


class SuiteReader(FakeReader):
    _org: SuiteOrg

    async def seats(self, products: Sequence[str]) -> AsyncIterator[Sequence[SeatRecord]]:
        self._up()
        rows = [
            replace(self._seat(self._org.users[user]), product=product, product_name=product, last_used_at=at)
            for user, owned in sorted(self._org.owned.items())
            for product, at in sorted(owned.items())
            if product in products
        ]
        for start in range(0, len(rows), self._org.page_size):
            yield rows[start : start + self._org.page_size]

    async def licences(self) -> Sequence[Licence]:
        self._up()
        names = sorted({product for owned in self._org.owned.values() for product in owned})
        return [Licence(name, name, 100, self._org.used(name)) for name in names]


def suite_org(clock: FixedClock, owned: Mapping[str, Mapping[str, int | None]], *, page_size: int = 2) -> SuiteOrg:
    """Return an org with a manager and these holders."""
    boss = idle(0, id="boss", name="Bea Boss", email="boss@acme.example", days=1, manager_id=None)
    users = {
        "boss": boss,
        **{name: idle(1, id=name, name=name.title(), email=f"{name}@acme.example") for name in owned},
    }
    org = SuiteOrg(clock=clock, users=users, page_size=page_size)
    for name, products in owned.items():
        org.own(name, **products)
    return org


IDLE: Mapping[str, Mapping[str, int | None]] = {
    "ann": {"WORD": 200, "EXCEL": 150},
    "bob": {"WORD": 200, "EXCEL": 2},
    "cid": {"OFFICE": None},
    "dan": {"VISIO": 300},
}


@asynccontextmanager
async def world(
    tmp_path: Path,
    clock: FixedClock,
    database_url: str | None = None,
    owned: Mapping[str, Any] = IDLE,
    settings: ScannerSettings = FAST,
) -> AsyncIterator[Scanner]:
    """A scanner with a catalogue, connected to an org of holders with several seats."""
    org = suite_org(clock, owned)
    async with started(tmp_path, org, clock, database_url=database_url, scanner_settings=settings) as scanner:
        for product in PRODUCTS:
            await catalog_actions.add_product(scanner.deps, product, author="otto")
        await actions.add_connection(
            scanner.deps, name="Acme", kind="salesforce", settings=SETTINGS, credentials={"client_secret": SECRET}
        )
        yield scanner


async def ruled(scanner: Scanner, *products: str, activate: bool = True, **terms: Any) -> Rule:
    async with scanner.running.database.reading() as db:
        (connection,) = await store.connections(db)
    rule = await actions.add_rule(
        scanner.deps, connection.id, {**TERMS, "products": list(products), **terms}, author="otto"
    )
    return await actions.activate_rule(scanner.deps, rule.id) if activate else rule


async def scanned(scanner: Scanner, rule: Rule) -> list[UserFlagged]:
    before = len(await scanner.said(UserFlagged))
    run = await actions.start_scan(scanner.deps, rule.id, dry_run=False, accept_population=True, asked_by="otto")
    await scanner.scan_all()
    async with scanner.running.database.reading() as db:
        done = await store.run(db, run.id)
    assert done.status == "finished", done
    flagged: list[UserFlagged] = (await scanner.said(UserFlagged))[before:]
    assert done.flagged == len(flagged)
    return flagged


def seats(flagged: list[UserFlagged]) -> list[tuple[str, str]]:
    return sorted((event.seat.holder.id, event.seat.product) for event in flagged)


async def row_of(scanner: Scanner, rule: Rule, product: str) -> str:
    async with scanner.running.database.reading() as db:
        rows = await catalog_store.rows(db, rule.id)
    return next(stored.id for stored in rows if stored.row.product == product and not stored.row.is_component)
