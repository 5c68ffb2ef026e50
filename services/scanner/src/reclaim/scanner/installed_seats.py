"""Seats of software that no connected system lists: the installations that feeds report, read like any other seats.

An installation belongs to whoever its source names with the device. Address, department and manager of that person are
taken from the seats that they hold elsewhere, as those were last read. Where a source names nobody the seat is listed
and left alone, since there is nobody to ask.

There is no account behind an installation, so the checks on accounts have nothing to protect. What else speaks against
taking it away is for exclusions, filters, and the person who is given the task.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from reclaim.common.clock import Clock
from reclaim.common.contracts import Person
from reclaim.common.db import Database, among
from reclaim.connectors.installed import Installed, read_profile
from reclaim.connectors.ports import (
    ConnectionProfile,
    Known,
    Licence,
    Manager,
    Members,
    SeatRecord,
    Survey,
    TestResult,
    Unknown,
)
from reclaim.scanner import catalog_store
from reclaim.scanner.catalog import Catalog
from reclaim.scanner.known_seats import KNOWN_SEATS, user_key
from reclaim.scanner.suites import PEOPLE
from reclaim.scanner.usage_store import INSTALLATIONS, INVENTORIES, NOBODY

NO_GROUPS: Final = "Feeds of installed software tell nobody's groups: filter by department instead."

PAGE: Final = 500
"""Holders that are read together."""


class InstalledSeats(Installed):
    """The `SeatReader` of a connection of the kind `installed`: it reads our own database and calls nobody.

    Each seat is one product on one device; those of one holder come one after the other, on one page.
    """

    def __init__(self, database: Database, clock: Clock, profile: ConnectionProfile) -> None:
        super().__init__()
        self._database = database
        self._clock = clock
        self._sources = read_profile(profile.settings, profile.credentials)

    async def test(self) -> Sequence[TestResult]:
        """Say for each feed whether its list of installed software can be relied on."""
        async with self._database.reading() as db:
            there = await self._inventories(db)
        if not there:
            detail = "No feed has listed installed software yet: import one, then test again."
            return [TestResult("Lists of installed software", ok=False, detail=detail)]
        return [
            TestResult(f"List of {source}", ok=trouble is None, detail=trouble or "complete and not too old")
            for source, trouble in there.items()
        ]

    async def licences(self) -> Sequence[Licence]:
        """Return for each product how often it is installed; how many were bought no feed tells."""
        async with self._database.reading() as db:
            place = (INSTALLATIONS.c.product, INSTALLATIONS.c.holder_key, INSTALLATIONS.c.device)
            once = sa.select(*place).where(self._ours()).distinct().subquery()
            counted = sa.select(once.c.product, sa.func.count().label("used")).group_by(once.c.product)
            rows = await db.execute(counted)
            used: dict[str, int] = {row.product: row.used for row in rows}
            known = await catalog_store.catalog(db, used)
        return [Licence(product, _name(known, product), None, count) for product, count in sorted(used.items())]

    async def seats(self, products: Sequence[str]) -> AsyncIterator[Sequence[SeatRecord]]:
        """Yield all installations of some products, some hundred holders at a time."""
        after = ""
        while True:
            async with self._database.reading() as db:
                of_products = sa.and_(self._ours(), among(INSTALLATIONS.c.product, products))
                found = await db.execute(
                    sa.select(INSTALLATIONS.c.holder_key)
                    .where(of_products, INSTALLATIONS.c.holder_key > after)
                    .distinct()
                    .order_by(INSTALLATIONS.c.holder_key)
                    .limit(PAGE)
                )
                holders = list(found.scalars())
                page = await self._records(db, holders, products) if holders else []
            if not holders:
                return
            yield page
            after = holders[-1]

    async def seats_of(self, holders: Sequence[str]) -> Mapping[str, SeatRecord]:
        """Return one installation of each holder; see `all_of`."""
        return {seat.holder.id: seat for seat in reversed(await self.all_of(holders))}

    async def all_of(self, holders: Sequence[str]) -> Sequence[SeatRecord]:
        """Return every installation of some holders, named as their sources name them."""
        async with self._database.reading() as db:
            return await self._records(db, [user_key(holder) for holder in holders], None)

    async def survey(self, holders: Sequence[str] | None, *, since: datetime) -> Survey:  # noqa: ARG002
        """Return that there is nothing on any account; all is unknown while a feed's list cannot be relied on."""
        now = self._clock.now()
        async with self._database.reading() as db:
            trouble = next((why for why in (await self._inventories(db)).values() if why is not None), None)
            nobody = await db.execute(
                sa.select(INSTALLATIONS.c.holder_key, INSTALLATIONS.c.device)
                .where(self._ours(), INSTALLATIONS.c.user_name == "")
                .distinct()
            )
            unnamed = {row.holder_key: f"no source says whose {row.device} is: name its user there" for row in nobody}
        if trouble is not None:
            why = Unknown(trouble)
            return Survey(now, why, why, why, why, why, why, why, why, why, why)
        none: Known[Mapping[str, Any]] = Known({})
        return Survey(
            taken_at=now,
            last_seen_elsewhere=Unknown(
                "what is installed is used on its device, and sources of use tell of that", kept=False
            ),
            integration_users=none,
            administrators=none,
            exempt=Known(unnamed),
            frozen=Known(frozenset()),
            thawed_at=none,
            scheduled_work=none,
            pending_approvals=none,
            queues=none,
            open_business=none,
        )

    async def members(self, groups: Sequence[str]) -> Mapping[str, Members]:
        """Return that nobody knows: a feed names people, and not their groups."""
        return dict.fromkeys(groups, Members(doubt=NO_GROUPS))

    def _ours(self) -> sa.ColumnElement[bool]:
        if not self._sources:
            return sa.true()
        return among(INSTALLATIONS.c.source, self._sources)

    async def _inventories(self, db: AsyncConnection) -> dict[str, str | None]:
        """Return the feeds whose installations are read, each with why it cannot be relied on, or None."""
        named = among(INVENTORIES.c.source, self._sources) if self._sources else sa.true()
        ended = {row.source: row for row in await db.execute(sa.select(INVENTORIES).where(named))}
        there = await db.execute(sa.select(INSTALLATIONS.c.source).where(self._ours()).distinct())
        found: dict[str, str | None] = {}
        for source in sorted({*ended, *there.scalars(), *self._sources}):
            row = ended.get(source)
            found[source] = None
            if row is None:
                found[source] = f"{source} has not listed all that is installed yet: import its whole list."
            elif self._clock.now() - row.heard_at > timedelta(seconds=row.silence_seconds):
                found[source] = (
                    f"{source} last listed what is installed on {row.heard_at:%Y-%m-%d %H:%M} UTC, which is too long "
                    "ago: import a new list."
                )
        return found

    async def _records(
        self, db: AsyncConnection, holders: Collection[str], products: Collection[str] | None
    ) -> list[SeatRecord]:
        """Return the installations of some holders, of some products or (None) of all."""
        place = (INSTALLATIONS.c.holder_key, INSTALLATIONS.c.product, INSTALLATIONS.c.device)
        query = (
            sa.select(
                *place,
                sa.func.max(INSTALLATIONS.c.user_name).label("user_name"),
                sa.func.max(INSTALLATIONS.c.version).label("version"),
                sa.func.max(INSTALLATIONS.c.platform).label("platform"),
                sa.func.max(INSTALLATIONS.c.installed_at).label("installed_at"),
                sa.func.min(INSTALLATIONS.c.first_seen_at).label("first_seen_at"),
            )
            .where(self._ours(), among(INSTALLATIONS.c.holder_key, holders))
            .group_by(*place)
        )
        if products is not None:
            query = query.where(among(INSTALLATIONS.c.product, products))
        rows = sorted(await db.execute(query), key=lambda row: (row.holder_key, row.product, row.device))
        facts = await people(db, {row.holder_key for row in rows})
        known = await catalog_store.catalog(db, {row.product for row in rows})
        return [_record(row, facts.get(row.holder_key), known) for row in rows]


async def people(db: AsyncConnection, keys: Collection[str]) -> dict[str, Any]:
    """Return what is known of people by the names that feeds give them: the seat of theirs that was read last."""
    if not keys:
        return {}
    rows = await db.execute(
        sa.select(KNOWN_SEATS).where(
            KNOWN_SEATS.c.kind == "subscription",
            sa.or_(
                among(KNOWN_SEATS.c.holder_key, keys),
                among(KNOWN_SEATS.c.email_key, keys),
            ),
        )
    )
    found: dict[str, Any] = {}
    for row in sorted(rows, key=lambda row: row.last_seen_at):
        for key in {row.holder_key, row.email_key} & set(keys):
            found[key] = row
    return found


def _record(row: Any, person: Any, known: Catalog) -> SeatRecord:
    name = row.user_name or f"nobody ({row.holder_key.removeprefix(NOBODY)})"
    address = name if "@" in name else None
    manager = None
    if person is not None and person.manager_id is not None:
        above = Person(id=person.manager_id, name=person.manager_name or "", email=person.manager_email)
        # A feed names the holder otherwise than the system does that knows who is above whom.
        themselves = person.manager_id == person.holder_id
        # Nobody said so: of a seat that an earlier release read, it is not known whether its manager could answer.
        manager = Manager(above, able=person.manager_able is True and not themselves)
    return SeatRecord(
        holder=Person(
            id=row.holder_key,
            name=person.holder_name if person is not None else name,
            email=person.holder_email if person is not None else address,
        ),
        product=row.product,
        product_name=_name(known, row.product),
        department=person.department if person is not None else None,
        active=True,
        usage_type=PEOPLE,
        created_at=row.installed_at or row.first_seen_at,
        last_used_at=None,
        manager=manager,
        assigned_at=row.installed_at,
        device=row.device,
        version=row.version,
        platform=row.platform,
    )


def _name(known: Catalog, product: str) -> str:
    return known[product].name if product in known else product
