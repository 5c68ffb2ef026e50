"""All SQL of the product catalogue, of the rows that it gives each rule, and of the merges and reviews it causes.

Whoever changes the catalogue or a rule's products takes `lock` first: what a suite brings to a rule is read and written
in one transaction that no other change of either can get between.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from reclaim.common.contracts import CheckFinding, Money, Person, Seat
from reclaim.common.db import Json, UtcDateTime, among, given, insert_many
from reclaim.common.errors import NotFound
from reclaim.common.ids import new_id
from reclaim.common.timing import wall_milliseconds
from reclaim.scanner.catalog import Changes, Coverage, Process, Product, Row, Rows, coverage, followed, related
from reclaim.scanner.domain import Found
from reclaim.scanner.store import CANDIDATES, OPEN, metadata
from reclaim.scanner.suites import Merge, OpenCase

PRODUCTS = sa.Table(
    "products",
    metadata,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("publisher", sa.Text, nullable=False),
    sa.Column("author", sa.Text, nullable=False),
    sa.Column("changed_at", UtcDateTime, nullable=False),
)

COMPONENTS = sa.Table(
    "product_components",
    metadata,
    sa.Column("suite", sa.Text, primary_key=True),
    sa.Column("component", sa.Text, primary_key=True),
    sa.Index("product_components_component", "component"),
)

PROCESSES = sa.Table(
    "product_processes",
    metadata,
    sa.Column("product", sa.Text, primary_key=True),
    sa.Column("platform", sa.Text, primary_key=True),
    sa.Column("file_name", sa.Text, primary_key=True),
    sa.Index("product_processes_file", "file_name", "platform"),
)

RULE_PRODUCTS = sa.Table(
    "rule_products",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("rule_id", sa.Text, nullable=False),
    sa.Column("product", sa.Text, nullable=False, index=True),
    # The suite that brought a component; empty for a product that was chosen.
    sa.Column("parent", sa.Text, nullable=False),
    sa.Column("mode", sa.Text, nullable=False),
    sa.Column("filter", sa.Text, nullable=False),
    sa.Column("processes", Json, nullable=False),
    sa.Column("added_by", sa.Text, nullable=False),
    sa.Column("added_at", UtcDateTime, nullable=False),
    sa.UniqueConstraint("rule_id", "parent", "product", name="rule_products_once"),
)

MERGES = sa.Table(
    "merges",
    metadata,
    sa.Column("case_id", sa.Text, primary_key=True),
    # The cases of one holder and suite that become one have this in common.
    sa.Column("merge_id", sa.Text, nullable=False, index=True),
    sa.Column("rule_id", sa.Text, nullable=False),
    sa.Column("suite", sa.Text, nullable=False),
    # The suite's open case that takes them in; null if one is to be opened.
    sa.Column("into_case", sa.Text),
)

OPENINGS = sa.Table(
    "openings",
    metadata,
    sa.Column("rule_id", sa.Text, primary_key=True),
    sa.Column("suite", sa.Text, primary_key=True),
    sa.Column("holder_id", sa.Text, primary_key=True),
    # The scan that opened the newest of the cases, and all of them.
    sa.Column("run_id", sa.Text, nullable=False),
    sa.Column("dry_run", sa.Boolean, nullable=False),
    sa.Column("cases", Json, nullable=False),
    sa.Index("openings_holder", "holder_id"),
)
"""Suites of holders whose cases were withdrawn to become one, which a review opens if a scan would."""

MERGED: Final = ""
"""Stands among the products to look at again for the openings of a rule, which are looked at by themselves."""

REVIEWS = sa.Table(
    "reviews",
    metadata,
    sa.Column("rule_id", sa.Text, primary_key=True),
    sa.Column("product", sa.Text, primary_key=True),
    sa.Column("asked_at", UtcDateTime, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("problem", sa.Text),
    sa.Column("lease", sa.Text, index=True),
    # From when on it may be claimed, in wall-clock milliseconds as everything that leases; never if it was given up.
    sa.Column("look_at", sa.BigInteger, index=True),
)

LOCK: Final = sa.text("SELECT pg_advisory_xact_lock(hashtext('reclaim.scanner.catalogue'))")
SEATS: Final = sa.text("SELECT pg_advisory_xact_lock(hashtext('reclaim.scanner.seats'), hashtext(:connection))")


async def lock(db: AsyncConnection) -> None:
    """Let nobody else change the catalogue or a rule's products until the transaction ends; before any other lock."""
    if db.dialect.name == "postgresql":
        await db.execute(LOCK)


async def lock_seats(db: AsyncConnection, connection_id: str) -> None:
    """Let nobody else open cases on a connection until the transaction ends.

    A unique index keeps two cases of one product apart; that a suite and its component are one seat it cannot know.
    """
    if db.dialect.name == "postgresql":
        await db.execute(SEATS, {"connection": connection_id})


# ------------------------------------------------------------------------------------------------ products


_COMPONENTS_OF: Final = sa.select(COMPONENTS.c.component).where(among(COMPONENTS.c.suite, given("keys")))
_CATALOG: Final = {table: sa.select(table) for table in (COMPONENTS, PROCESSES, PRODUCTS)}
_OF_CATALOG: Final = {
    column.table: _CATALOG[column.table].where(among(column, given("keys")))
    for column in (COMPONENTS.c.suite, PROCESSES.c.product, PRODUCTS.c.key)
}


async def catalog(db: AsyncConnection, keys: Collection[str] | None = None) -> dict[str, Product]:
    """Return the catalogue, or of it these products with their components; by key, in order."""

    async def read(table: sa.Table) -> sa.CursorResult[Any]:
        return await db.execute(*((_CATALOG[table],) if keys is None else (_OF_CATALOG[table], {"keys": keys})))

    if keys is not None:
        parts = await db.execute(_COMPONENTS_OF, {"keys": keys})
        keys = {*keys, *parts.scalars()}
    components: dict[str, list[str]] = defaultdict(list)
    processes: dict[str, list[Process]] = defaultdict(list)
    for row in await read(COMPONENTS):
        components[row.suite].append(row.component)
    for row in await read(PROCESSES):
        processes[row.product].append(Process(row.file_name, row.platform))
    return {
        row.key: Product(
            key=row.key,
            name=row.name,
            publisher=row.publisher,
            components=tuple(sorted(components[row.key])),
            processes=tuple(sorted(processes[row.key])),
        )
        # Sorted here: the databases do not order text alike.
        for row in sorted(await read(PRODUCTS), key=lambda row: row.key)
    }


async def product(db: AsyncConnection, key: str) -> Product:
    """Return one product; NotFound if the catalogue has none of that key."""
    found = (await catalog(db, {key})).get(key)
    if found is None:
        raise NotFound(f"There is no product {key} in the catalogue.")
    return found


async def products_seen_by(db: AsyncConnection, processes: Collection[Process]) -> dict[Process, tuple[str, ...]]:
    """Return which products' use each process shows; a process that none has is left out."""
    wanted = set(processes)
    found: dict[Process, list[str]] = defaultdict(list)
    names = {process.file_name for process in wanted}
    for row in await db.execute(sa.select(PROCESSES).where(among(PROCESSES.c.file_name, names))):
        process = Process(row.file_name, row.platform)
        if process in wanted:
            found[process].append(row.product)
    return {process: tuple(sorted(keys)) for process, keys in found.items()}


async def save_products(db: AsyncConnection, products: Sequence[Product], *, author: str, now: datetime) -> None:
    """Add products, or replace what was known of them."""
    keys = {one.key for one in products}
    await insert_many(
        db,
        PRODUCTS,
        [{"key": one.key, "name": one.name, "publisher": one.publisher} for one in products],
        same={"author": author, "changed_at": now},
        replacing=("key",),
    )
    await db.execute(sa.delete(COMPONENTS).where(among(COMPONENTS.c.suite, keys)))
    await db.execute(sa.delete(PROCESSES).where(among(PROCESSES.c.product, keys)))
    await insert_many(
        db, COMPONENTS, [{"suite": one.key, "component": part} for one in products for part in one.components]
    )
    await insert_many(
        db,
        PROCESSES,
        [
            {"product": one.key, "platform": process.platform, "file_name": process.file_name}
            for one in products
            for process in one.processes
        ],
    )


async def remove_product(db: AsyncConnection, key: str) -> None:
    """Forget a product; suites lose it as a component."""
    await db.execute(sa.delete(COMPONENTS).where(sa.or_(COMPONENTS.c.suite == key, COMPONENTS.c.component == key)))
    await db.execute(sa.delete(PROCESSES).where(PROCESSES.c.product == key))
    await db.execute(sa.delete(PRODUCTS).where(PRODUCTS.c.key == key))


# ------------------------------------------------------------------------------------------------ a rule's rows


@dataclass(frozen=True, slots=True)
class StoredRow:
    """A row of a rule's products as the database has it."""

    id: str
    row: Row
    added_by: str
    added_at: datetime


def _stored(found: Any) -> StoredRow:
    row = Row(
        product=found.product,
        parent=found.parent,
        mode=found.mode,
        filter=found.filter,
        processes=tuple(msgspec.convert(found.processes, tuple[Process, ...])),
    )
    return StoredRow(found.id, row, found.added_by, found.added_at)


async def rows(db: AsyncConnection, rule_id: str) -> list[StoredRow]:
    """Return the rows of one rule, each chosen one followed by its components."""
    found = await db.execute(sa.select(RULE_PRODUCTS).where(RULE_PRODUCTS.c.rule_id == rule_id))
    return sorted(map(_stored, found), key=lambda stored: stored.row.key)


async def rules_with(db: AsyncConnection, products: Collection[str]) -> dict[str, Rows]:
    """Return all rows of each rule that has a row of one of these products, by rule id, in order."""
    about = sa.select(RULE_PRODUCTS.c.rule_id).where(among(RULE_PRODUCTS.c.product, products))
    found: dict[str, list[Row]] = defaultdict(list)
    for row in await db.execute(sa.select(RULE_PRODUCTS).where(RULE_PRODUCTS.c.rule_id.in_(about))):
        found[row.rule_id].append(_stored(row).row)
    return {rule_id: tuple(sorted(own, key=lambda row: row.key)) for rule_id, own in sorted(found.items())}


async def rules_choosing(db: AsyncConnection, product: str) -> list[str]:
    """Return the ids of the rules that a product was chosen for."""
    chosen = sa.select(RULE_PRODUCTS.c.rule_id).where(RULE_PRODUCTS.c.product == product, RULE_PRODUCTS.c.parent == "")
    return sorted((await db.execute(chosen)).scalars())


async def write(db: AsyncConnection, rule_id: str, changes: Changes, *, author: str, now: datetime) -> None:
    """Make a rule's rows what they shall be."""
    place = (
        RULE_PRODUCTS.c.rule_id == rule_id,
        RULE_PRODUCTS.c.parent == sa.bindparam("at_parent"),
        RULE_PRODUCTS.c.product == sa.bindparam("at_product"),
    )
    if changes.removed:
        await db.execute(
            sa.delete(RULE_PRODUCTS).where(*place),
            [{"at_parent": row.parent, "at_product": row.product} for row in changes.removed],
        )
    if changes.altered:
        values = {name: sa.bindparam(f"new_{name}", type_=RULE_PRODUCTS.c[name].type) for name in _ALTERABLE}
        await db.execute(
            sa.update(RULE_PRODUCTS).where(*place).values(values),
            [
                {
                    "at_parent": row.parent,
                    "at_product": row.product,
                    "new_mode": row.mode,
                    "new_filter": row.filter,
                    "new_processes": msgspec.to_builtins(row.processes),
                }
                for row in changes.altered
            ],
        )
    await insert_many(
        db,
        RULE_PRODUCTS,
        [
            {
                "id": new_id(),
                "product": row.product,
                "parent": row.parent,
                "mode": row.mode,
                "filter": row.filter,
                "processes": msgspec.to_builtins(row.processes),
            }
            for row in changes.added
        ],
        same={"rule_id": rule_id, "added_by": author, "added_at": now},
    )


_ALTERABLE: Final = ("mode", "filter", "processes")


async def covered(db: AsyncConnection, products: Sequence[str], rule_id: str | None = None) -> Coverage:
    """Return what these products cover; a rule's own rows say which of them are legacy, and what filters them."""
    own = () if rule_id is None else tuple(stored.row for stored in await rows(db, rule_id))
    known = await catalog(db, products)
    return coverage(followed(own, products, known), known)


async def relations(db: AsyncConnection, products: Collection[str]) -> dict[str, frozenset[str]]:
    """Return what goes together among these products, their components and the suites of all of them."""
    known = await catalog(db, products)
    wanted = {*products, *known}
    above = await db.execute(sa.select(COMPONENTS.c.suite).where(among(COMPONENTS.c.component, wanted)))
    return related(await catalog(db, {*wanted, *above.scalars()}))


async def kindred(db: AsyncConnection) -> list[tuple[str, str, str]]:
    """Return every pair of a suite and a component, both ways round: key and name of the one, key of the other."""
    found: list[tuple[str, str, str]] = []
    for one, other in ((COMPONENTS.c.suite, COMPONENTS.c.component), (COMPONENTS.c.component, COMPONENTS.c.suite)):
        pairs = sa.select(PRODUCTS.c.key, PRODUCTS.c.name, other).join(PRODUCTS, PRODUCTS.c.key == one)
        found += [(key, name, kin) for key, name, kin in await db.execute(pairs)]
    return found


# ------------------------------------------------------------------------------------------------ open cases


async def open_cases(db: AsyncConnection, rule_id: str, products: Collection[str] | None = None) -> list[OpenCase]:
    """Return a rule's open cases, or those about some products; without those that are being merged."""
    query = sa.select(CANDIDATES.c.id, CANDIDATES.c.holder_id, CANDIDATES.c.product, CANDIDATES.c.flagged_at).where(
        CANDIDATES.c.rule_id == rule_id, OPEN, CANDIDATES.c.id.not_in(sa.select(MERGES.c.case_id))
    )
    if products is not None:
        query = query.where(among(CANDIDATES.c.product, products))
    return [OpenCase(row.id, row.holder_id, row.product, row.flagged_at) for row in await db.execute(query)]


@dataclass(frozen=True, slots=True)
class Flagged:
    """A flagged seat with what it was flagged by."""

    case_id: str
    run_id: str
    flagged_at: datetime
    dry_run: bool
    found: Found


async def flagged(db: AsyncConnection, case_ids: Collection[str]) -> list[Flagged]:
    """Return what these cases were opened with."""
    found = await db.execute(sa.select(CANDIDATES).where(among(CANDIDATES.c.id, case_ids)))
    return [
        Flagged(
            case_id=row.id,
            run_id=row.run_id,
            flagged_at=row.flagged_at,
            dry_run=row.dry_run,
            found=Found(
                seat=Seat(
                    connection_id=row.connection_id,
                    product=row.product,
                    product_name=row.product_name,
                    holder=Person(id=row.holder_id, name=row.holder_name, email=row.holder_email),
                    department=row.department,
                    price=None if row.price is None else Money(amount=row.price, currency=row.currency),
                    devices=tuple(row.devices),
                ),
                approver=msgspec.convert(row.approver, Person | None),
                findings=msgspec.convert(row.findings, tuple[CheckFinding, ...]),
                last_used_at=row.last_used_at,
            ),
        )
        for row in found
    ]


async def begin_merges(db: AsyncConnection, rule_id: str, merges: Iterable[Merge]) -> None:
    """Remember which cases are to become one."""
    planned = [(new_id(), merge) for merge in merges]
    await insert_many(
        db,
        MERGES,
        [
            {"case_id": case_id, "merge_id": merge_id, "suite": merge.suite, "into_case": merge.into}
            for merge_id, merge in planned
            for case_id in merge.withdrawn
        ],
        same={"rule_id": rule_id},
    )


@dataclass(frozen=True, slots=True)
class Pending:
    """A merge that no case was withdrawn for yet. `cases` are all that the lifecycle was asked to withdraw."""

    merge_id: str
    rule_id: str
    suite: str
    into: str | None
    cases: tuple[str, ...]


async def pending(db: AsyncConnection, case_ids: Collection[str]) -> list[Pending]:
    """Return the merges that these cases are part of, locked until the transaction ends."""
    about = sa.select(MERGES.c.merge_id).where(among(MERGES.c.case_id, case_ids))
    query = sa.select(MERGES).where(MERGES.c.merge_id.in_(about)).order_by(MERGES.c.case_id).with_for_update()
    groups: dict[str, list[Any]] = defaultdict(list)
    for row in await db.execute(query):
        groups[row.merge_id].append(row)
    return [
        Pending(merge_id, own[0].rule_id, own[0].suite, own[0].into_case, tuple(row.case_id for row in own))
        for merge_id, own in sorted(groups.items())
    ]


async def end_merges(db: AsyncConnection, merge_ids: Collection[str]) -> None:
    """Forget merges that have happened."""
    await db.execute(sa.delete(MERGES).where(among(MERGES.c.merge_id, merge_ids)))


async def leave_out(db: AsyncConnection, case_ids: Collection[str]) -> None:
    """Forget cases that ended otherwise than by being merged."""
    await db.execute(sa.delete(MERGES).where(among(MERGES.c.case_id, case_ids)))


@dataclass(frozen=True, slots=True)
class Opening:
    """A suite of a holder, of which the cases that were to become one are withdrawn, or are about to be."""

    rule_id: str
    suite: str
    holder_id: str
    run_id: str
    dry_run: bool
    cases: tuple[str, ...]


async def ask_openings(db: AsyncConnection, openings: Collection[Opening]) -> None:
    """Have the cases of suites opened, if a scan would open them."""
    rows = [
        {
            "rule_id": one.rule_id,
            "suite": one.suite,
            "holder_id": one.holder_id,
            "run_id": one.run_id,
            "dry_run": one.dry_run,
            "cases": list(one.cases),
        }
        for one in openings
    ]
    await insert_many(db, OPENINGS, rows, replacing=("rule_id", "suite", "holder_id"))


async def openings(
    db: AsyncConnection, *, rule_id: str | None = None, holders: Collection[str] | None = None, lock: bool = False
) -> list[Opening]:
    """Return the openings that wait, of a rule or of some holders; locked until the transaction ends, if asked for."""
    query = sa.select(OPENINGS).order_by(*OPENINGS.primary_key)
    if lock:
        query = query.with_for_update()
    if rule_id is not None:
        query = query.where(OPENINGS.c.rule_id == rule_id)
    if holders is not None:
        query = query.where(among(OPENINGS.c.holder_id, holders))
    return [
        Opening(row.rule_id, row.suite, row.holder_id, row.run_id, row.dry_run, tuple(row.cases))
        for row in await db.execute(query)
    ]


async def end_openings(db: AsyncConnection, openings: Collection[Opening]) -> None:
    """Forget openings: their cases were opened, or nobody would open them."""
    for one in openings:
        await db.execute(
            sa.delete(OPENINGS).where(
                OPENINGS.c.rule_id == one.rule_id,
                OPENINGS.c.suite == one.suite,
                OPENINGS.c.holder_id == one.holder_id,
            )
        )


async def still_open(db: AsyncConnection, case_ids: Collection[str]) -> set[str]:
    """Return which of these cases are open."""
    found = await db.execute(sa.select(CANDIDATES.c.id).where(OPEN, among(CANDIDATES.c.id, case_ids)))
    return set(found.scalars())


async def holders_of(db: AsyncConnection, case_ids: Collection[str]) -> set[str]:
    """Return whose seats these cases are about."""
    found = await db.execute(sa.select(CANDIDATES.c.holder_id).where(among(CANDIDATES.c.id, case_ids)))
    return set(found.scalars())


# ------------------------------------------------------------------------------------------------ reviews


@dataclass(frozen=True, slots=True)
class Review:
    """A rule whose open cases about some products, or whose openings, are to be looked at again, claimed by a lease.

    It holds until `until`, in wall-clock milliseconds.
    """

    rule_id: str
    products: frozenset[str]
    attempt: int
    lease: str
    until: int

    @property
    def openings(self) -> bool:
        """Whether it is about the openings; else about open cases, and never about both."""
        return MERGED in self.products


async def ask_review(db: AsyncConnection, rule_id: str, products: Collection[str], now: datetime) -> None:
    """Have a rule's open cases about these products looked at again; who looks already leaves them to the next."""
    insert = postgresql.insert(REVIEWS) if db.dialect.name == "postgresql" else sqlite.insert(REVIEWS)
    values = {"asked_at": now, "attempts": 0, "problem": None, "lease": None, "look_at": wall_milliseconds()}
    statement = insert.on_conflict_do_update(index_elements=["rule_id", "product"], set_=values)
    await db.execute(statement, [{"rule_id": rule_id, "product": product, **values} for product in sorted(products)])


async def ask_to_open(db: AsyncConnection, rule_ids: Collection[str], now: datetime, *, seconds: float) -> None:
    """Have the openings of some rules looked at, so many seconds from now: the cases of a merge end one by one.

    What waits already keeps its time, be it that or the one after a failure: a connection is not read for each case
    that ends. Openings that were given up are looked at once more. So are those that are being looked at, when that has
    ended: it keeps its time, so that nobody reads the connection beside it, and loses its lease, so that it is not
    forgotten with the present ones.
    """
    insert = postgresql.insert(REVIEWS) if db.dialect.name == "postgresql" else sqlite.insert(REVIEWS)
    look_at = wall_milliseconds() + int(seconds * 1000)
    values = {"asked_at": now, "attempts": 0, "problem": None, "lease": None, "look_at": look_at}
    waits = REVIEWS.c.look_at.is_not(None)
    statement = insert.on_conflict_do_update(
        index_elements=["rule_id", "product"],
        set_={
            "asked_at": now,
            "attempts": sa.case((waits, REVIEWS.c.attempts), else_=0),
            "problem": sa.case((waits, REVIEWS.c.problem), else_=None),
            "lease": None,
            "look_at": sa.func.coalesce(REVIEWS.c.look_at, look_at),
        },
    )
    rows = [{"rule_id": rule_id, "product": MERGED, **values} for rule_id in sorted(rule_ids)]
    if rows:
        await db.execute(statement, rows)


async def anything_to_review(db: AsyncConnection) -> bool:
    """Tell whether a review waits that is due."""
    due = sa.select(REVIEWS.c.rule_id).where(REVIEWS.c.look_at <= wall_milliseconds()).limit(1)
    return (await db.execute(due)).first() is not None


async def claim_review(db: AsyncConnection, *, lease_seconds: float) -> Review | None:
    """Take what is to be looked at again of the rule that waits longest, or whose reviewing process died.

    Cases that may have to be taken back come before cases to open.
    """
    first = (
        await db.execute(
            sa.select(REVIEWS.c.rule_id, REVIEWS.c.product)
            .where(REVIEWS.c.look_at <= wall_milliseconds())
            .order_by(REVIEWS.c.product == MERGED, REVIEWS.c.look_at)
            .limit(1)
            .with_for_update(skip_locked=True)
        )
    ).one_or_none()
    if first is None:
        return None
    lease, now = new_id(), wall_milliseconds()
    until = now + int(lease_seconds * 1000)
    alike = REVIEWS.c.product == MERGED if first.product == MERGED else REVIEWS.c.product != MERGED
    # Those that another process is just taking are left to it: it would wait for ours, and we for its.
    free = await db.execute(
        sa.select(REVIEWS.c.product)
        .where(REVIEWS.c.rule_id == first.rule_id, REVIEWS.c.look_at <= now, alike)
        .order_by(REVIEWS.c.product)
        .with_for_update(skip_locked=True)
    )
    claimed = await db.execute(
        sa.update(REVIEWS)
        .where(REVIEWS.c.rule_id == first.rule_id, among(REVIEWS.c.product, free.scalars().all()))
        .values(attempts=REVIEWS.c.attempts + 1, lease=lease, look_at=until)
        .returning(REVIEWS.c.product, REVIEWS.c.attempts)
    )
    rows = claimed.all()
    products = frozenset(row.product for row in rows)
    return Review(first.rule_id, products, max(row.attempts for row in rows), lease, until)


async def end_review(db: AsyncConnection, review: Review, *, seconds: float = 0) -> None:
    """Forget a review that was made; what was asked for meanwhile is looked at so many seconds from now."""
    await db.execute(sa.delete(REVIEWS).where(REVIEWS.c.lease == review.lease))
    await _look_anew(db, review, seconds)


async def review_later(db: AsyncConnection, review: Review, seconds: float | None, problem: str | None) -> None:
    """Let a review that could not be made rest for so many seconds; None gives it up until a person asks again.

    What was asked for meanwhile rests as long, and is not given up with it.
    """
    rests = REVIEWS.c.lease == review.lease
    if seconds is None:
        await _look_anew(db, review, 0)
    else:
        rests |= _asked_meanwhile(review)
    look_at = None if seconds is None else wall_milliseconds() + int(seconds * 1000)
    await db.execute(sa.update(REVIEWS).where(rests).values(lease=None, look_at=look_at, problem=problem))


def _asked_meanwhile(review: Review) -> sa.ColumnElement[bool]:
    """Choose what `ask_to_open` asked for while a review was under way."""
    return sa.and_(
        REVIEWS.c.rule_id == review.rule_id,
        among(REVIEWS.c.product, review.products),
        REVIEWS.c.lease.is_(None),
        REVIEWS.c.look_at == review.until,
    )


async def _look_anew(db: AsyncConnection, review: Review, seconds: float) -> None:
    look_at = wall_milliseconds() + int(seconds * 1000)
    values = {"attempts": 0, "problem": None, "look_at": look_at}
    await db.execute(sa.update(REVIEWS).where(_asked_meanwhile(review)).values(values))


async def review_now(db: AsyncConnection, rule_id: str) -> None:
    """Let the reviews of a rule that wait, or were given up, be tried at once."""
    await db.execute(
        sa.update(REVIEWS)
        .where(REVIEWS.c.rule_id == rule_id, REVIEWS.c.lease.is_(None))
        .values(look_at=wall_milliseconds(), attempts=0)
    )


async def review_problem(db: AsyncConnection, rule_id: str) -> str | None:
    """Return why a rule's open cases could not be looked at again yet, or opened; None if nothing is wrong."""
    query = (
        sa.select(REVIEWS.c.problem)
        .where(REVIEWS.c.rule_id == rule_id, REVIEWS.c.problem.is_not(None))
        .order_by(REVIEWS.c.product == MERGED, REVIEWS.c.product)
    )
    return " ".join(dict.fromkeys((await db.execute(query)).scalars())) or None
