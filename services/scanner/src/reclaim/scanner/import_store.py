"""All SQL of imports: the file in parts, its rows while they are summed, what was refused, and how it went.

A file is kept in the database until it was read, so that any process may read it, and again after another one died. Its
rows are staged and summed there too: memory holds a page, however long the file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Final, Literal

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from reclaim.common.db import Json, UtcDateTime, insert_many
from reclaim.common.errors import NotFound
from reclaim.common.ids import new_id
from reclaim.common.timing import wall_milliseconds
from reclaim.connectors.feeds import Problem
from reclaim.connectors.feeds.values import DateOrder
from reclaim.scanner.store import LeaseLost, metadata
from reclaim.scanner.usage import UsageRecord
from reclaim.scanner.usage_store import INVENTORIES

IMPORT: Final = "import"
"""The job that reads files."""

What = Literal["usage", "installations"]

IMPORTS = sa.Table(
    "imports",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("shape", sa.Text, nullable=False),
    sa.Column("what", sa.Text, nullable=False),
    sa.Column("file_name", sa.Text, nullable=False),
    sa.Column("author", sa.Text, nullable=False),
    sa.Column("terms", Json, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("requested_at", UtcDateTime, nullable=False),
    sa.Column("ended_at", UtcDateTime),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("bytes_read", sa.BigInteger, nullable=False),
    sa.Column("rows", sa.BigInteger, nullable=False),
    sa.Column("bad", sa.BigInteger, nullable=False),
    sa.Column("kept", sa.BigInteger, nullable=False),
    sa.Column("findings", Json, nullable=False),
    sa.Column("vouched", sa.Text),
    sa.Column("problem", sa.Text),
    sa.Column("remedy", sa.Text),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("lease", sa.Text),
    # From when on it may be claimed, in wall-clock milliseconds as everything that leases; never once it ended.
    sa.Column("look_at", sa.BigInteger),
    sa.Index("imports_look_at", "look_at"),
    sa.Index("imports_requested", "requested_at"),
)

PARTS = sa.Table(
    "import_parts",
    metadata,
    sa.Column("import_id", sa.Text, primary_key=True),
    sa.Column("part", sa.Integer, primary_key=True),
    sa.Column("body", sa.LargeBinary, nullable=False),
)

REFUSALS = sa.Table(
    "import_refusals",
    metadata,
    sa.Column("import_id", sa.Text, primary_key=True),
    sa.Column("line", sa.Integer, primary_key=True),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("row", sa.Text, nullable=False),
)

STAGED = sa.Table(
    "import_rows",
    metadata,
    sa.Column("import_id", sa.Text, primary_key=True),
    sa.Column("product", sa.Text, primary_key=True),
    sa.Column("user_key", sa.Text, primary_key=True),
    sa.Column("device", sa.Text, primary_key=True),
    sa.Column("period_start", UtcDateTime, primary_key=True),
    # What tells rows of one use apart in the file: the process, its version and platform, what the product is called.
    sa.Column("detail", sa.Text, primary_key=True),
    sa.Column("period_end", UtcDateTime, nullable=False),
    sa.Column("user_name", sa.Text, nullable=False),
    sa.Column("seconds", sa.BigInteger),
    sa.Column("runs", sa.BigInteger, nullable=False),
    sa.Column("last_used_at", UtcDateTime),
)

_SUM_KEY: Final = ("product", "user_key", "device", "period_start")


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What was said with a file: what it does not tell by itself, and whether it is everything.

    `first_day` and `last_day` are what rows are about that name no month and no day, in `time_zone`, both included.
    `complete` says that the file has everybody's use in its periods, or every installation. After `silence_days`
    without another complete file its figures are stale.
    """

    time_zone: str = "UTC"
    date_order: DateOrder | None = None
    first_day: date | None = None
    last_day: date | None = None
    complete: bool = False
    silence_days: int = 40


class Findings(msgspec.Struct, kw_only=True):
    """What reading a file brought to light, beside its bad rows. Lists have the first of them, counts all.

    `unknown` are products (and processes) by number of rows that the catalogue does not know; rows that name only a
    process are `left_out` then, as are those whose user is hidden and that name no device.
    """

    header_line: int = 0
    separator: str = ","
    encoding: str = "ASCII"
    ignored_columns: tuple[str, ...] = ()
    anonymous: int = 0
    without_user: int = 0
    untimed: int = 0
    left_out: int = 0
    unknown: dict[str, int] = msgspec.field(default_factory=dict)
    reasons: dict[str, int] = msgspec.field(default_factory=dict)
    periods: tuple[tuple[datetime, datetime], ...] = ()


@dataclass(frozen=True, slots=True)
class Import:
    """One file that was sent: `receiving`, `queued`, `running`, `waiting`, then `finished` or `failed`.

    `rows` counts those of the file, `bad` those that were refused, `kept` the records that were made of the others.
    `vouched` says whether its periods were marked complete, and if not, why.
    """

    id: str
    source: str
    shape: str
    what: What
    file_name: str
    author: str
    terms: Terms
    status: str
    requested_at: datetime
    ended_at: datetime | None
    bytes: int
    bytes_read: int
    rows: int
    bad: int
    kept: int
    findings: Findings
    vouched: str | None
    problem: str | None
    remedy: str | None
    attempts: int

    @property
    def under_way(self) -> bool:
        return self.ended_at is None


@dataclass(frozen=True, slots=True)
class Claimed:
    """A file that this process may read, as long as it holds the lease."""

    file: Import
    lease: str
    attempt: int


def _import(row: Any) -> Import:
    values = {name: getattr(row, name) for name in Import.__dataclass_fields__}
    values["terms"] = msgspec.convert(row.terms, Terms)
    values["findings"] = msgspec.convert(row.findings, Findings)
    return Import(**values)


# ------------------------------------------------------------------------------------------------ receiving


async def begin(
    db: AsyncConnection,
    *,
    source: str,
    shape: str,
    what: What,
    file_name: str,
    terms: Terms,
    author: str,
    now: datetime,
    within: float,
) -> str:
    """Add an import whose file is on its way; what has not come whole `within` so many seconds is given up."""
    import_id = new_id()
    await db.execute(
        sa.insert(IMPORTS).values(
            id=import_id,
            source=source,
            shape=shape,
            what=what,
            file_name=file_name,
            author=author,
            terms=msgspec.to_builtins(terms),
            status="receiving",
            requested_at=now,
            bytes=0,
            bytes_read=0,
            rows=0,
            bad=0,
            kept=0,
            findings=msgspec.to_builtins(Findings()),
            attempts=0,
            look_at=wall_milliseconds() + int(within * 1000),
        )
    )
    return import_id


async def add_part(db: AsyncConnection, import_id: str, part: int, body: bytes, *, within: float) -> None:
    """Keep the next part of a file.

    Raises:
        LeaseLost: it took too long, and the import was given up.
    """
    values = {"bytes": IMPORTS.c.bytes + len(body), "look_at": wall_milliseconds() + int(within * 1000)}
    here = sa.and_(IMPORTS.c.id == import_id, IMPORTS.c.status == "receiving", IMPORTS.c.lease.is_(None))
    changed = await db.execute(sa.update(IMPORTS).where(here).values(values))
    if changed.rowcount == 0:
        raise LeaseLost(import_id)
    await db.execute(sa.insert(PARTS).values(import_id=import_id, part=part, body=body))


async def received(db: AsyncConnection, import_id: str) -> None:
    """Let a file be read that has come whole."""
    here = sa.and_(IMPORTS.c.id == import_id, IMPORTS.c.status == "receiving", IMPORTS.c.lease.is_(None))
    changed = await db.execute(sa.update(IMPORTS).where(here).values(status="queued", look_at=wall_milliseconds()))
    if changed.rowcount == 0:
        raise LeaseLost(import_id)


async def forget(db: AsyncConnection, import_id: str) -> None:
    """Forget a file that was refused while it came."""
    for table, column in ((PARTS, PARTS.c.import_id), (IMPORTS, IMPORTS.c.id)):
        await db.execute(sa.delete(table).where(column == import_id))


async def part(db: AsyncConnection, import_id: str, number: int) -> bytes:
    """Return one part of a file, counted from 0; empty behind the last one."""
    one = sa.and_(PARTS.c.import_id == import_id, PARTS.c.part == number)
    body: bytes | None = (await db.execute(sa.select(PARTS.c.body).where(one))).scalar_one_or_none()
    return b"" if body is None else bytes(body)


# ------------------------------------------------------------------------------------------------ the work


async def anything_to_claim(db: AsyncConnection) -> bool:
    """Tell whether a file waits to be read; cheaper than trying to claim one."""
    found = await db.execute(sa.select(IMPORTS.c.id).where(IMPORTS.c.look_at <= wall_milliseconds()).limit(1))
    return found.first() is not None


async def claim(db: AsyncConnection, *, lease_seconds: float) -> Claimed | None:
    """Take the file that waits longest, or one whose process died, and start its counts anew."""
    row = (
        await db.execute(
            sa.select(IMPORTS)
            .where(IMPORTS.c.look_at <= wall_milliseconds())
            .order_by(IMPORTS.c.look_at, IMPORTS.c.id)
            .limit(1)
            .with_for_update(skip_locked=True)
        )
    ).one_or_none()
    if row is None:
        return None
    claimed = Claimed(_import(row), new_id(), row.attempts + 1)
    anew = {"bytes_read": 0, "rows": 0, "bad": 0, "kept": 0, "problem": None, "remedy": None}
    values = {"attempts": claimed.attempt, "lease": claimed.lease, **lease_until(lease_seconds), **anew}
    if row.status != "receiving":
        values["status"] = "running"
    await db.execute(sa.update(IMPORTS).where(IMPORTS.c.id == row.id).values(values))
    await db.execute(sa.delete(REFUSALS).where(REFUSALS.c.import_id == row.id))
    await db.execute(sa.delete(STAGED).where(STAGED.c.import_id == row.id))
    return claimed


async def update(db: AsyncConnection, claimed: Claimed, values: Mapping[str, Any]) -> None:
    """Write to a claimed import.

    Raises:
        LeaseLost: it is another process's now.
    """
    here = sa.and_(IMPORTS.c.id == claimed.file.id, IMPORTS.c.lease == claimed.lease)
    changed = await db.execute(sa.update(IMPORTS).where(here).values(dict(values)))
    if changed.rowcount == 0:
        raise LeaseLost(claimed.file.id)


def lease_until(seconds: float) -> dict[str, Any]:
    """Return what keeps an import claimed for so many seconds from now."""
    return {"look_at": wall_milliseconds() + int(seconds * 1000)}


def waiting(seconds: float, problem: str, remedy: str) -> dict[str, Any]:
    """Return what lets an import rest for so many seconds and then be claimed anew."""
    return {"status": "waiting", "lease": None, "problem": problem, "remedy": remedy, **lease_until(seconds)}


def handed_back() -> dict[str, Any]:
    """Return what lets another process claim an import at once."""
    return {"status": "queued", "lease": None, "look_at": wall_milliseconds()}


async def end(
    db: AsyncConnection, claimed: Claimed, status: Literal["finished", "failed"], now: datetime, **values: Any
) -> None:
    """End an import, and forget its file."""
    await update(db, claimed, {"status": status, "ended_at": now, "lease": None, "look_at": None, **values})
    await db.execute(sa.delete(PARTS).where(PARTS.c.import_id == claimed.file.id))
    await db.execute(sa.delete(STAGED).where(STAGED.c.import_id == claimed.file.id))


async def refuse(db: AsyncConnection, import_id: str, problems: Sequence[Problem]) -> None:
    """List bad rows."""
    rows = {one.line: {"line": one.line, "reason": one.reason, "row": one.row.replace("\0", "")} for one in problems}
    await insert_many(db, REFUSALS, list(rows.values()), same={"import_id": import_id}, replacing=("import_id", "line"))


async def stage(db: AsyncConnection, import_id: str, rows: Mapping[tuple[str, ...], Mapping[str, Any]]) -> None:
    """Keep rows until all have been read; one with the same key as an earlier one replaces it."""
    await insert_many(
        db,
        STAGED,
        list(rows.values()),
        same={"import_id": import_id},
        replacing=("import_id", *_SUM_KEY, "detail"),
    )


SumKey = tuple[str, str, str, datetime]
"""Product, user, device and start of the period: what rows are summed by."""


async def take_sums(
    db: AsyncConnection, import_id: str, after: SumKey | None, most: int
) -> tuple[list[UsageRecord], SumKey | None]:
    """Remove and return the sums of the staged rows behind a key, and the last one's key; none of both at the end.

    Of rows whose periods begin alike and end differently the longest counts for all: their sum is too large rather
    than too small.
    """
    key = [STAGED.c[name] for name in _SUM_KEY]
    own = STAGED.c.import_id == import_id
    # Asked for by the key and not by what is left: the database would go through all that was removed again and again.
    further = own if after is None else sa.and_(own, sa.tuple_(*key) > _bound(after))
    chosen = (
        sa.select(
            *key,
            sa.func.max(STAGED.c.period_end).label("period_end"),
            sa.func.max(STAGED.c.user_name).label("user_name"),
            sa.func.sum(STAGED.c.seconds).label("seconds"),
            sa.func.sum(STAGED.c.runs).label("runs"),
            sa.func.max(STAGED.c.last_used_at).label("last_used_at"),
        )
        .where(further)
        .group_by(*key)
        .order_by(*key)
        .limit(most)
    )
    rows = (await db.execute(chosen)).all()
    if not rows:
        return [], None
    last: SumKey = (rows[-1].product, rows[-1].user_key, rows[-1].device, rows[-1].period_start)
    await db.execute(sa.delete(STAGED).where(further, sa.tuple_(*key) <= _bound(last)))
    records = [
        UsageRecord(
            user=row.user_name,
            product=row.product,
            device=row.device,
            period_start=row.period_start,
            period_end=row.period_end,
            seconds=None if row.seconds is None else int(row.seconds),
            runs=int(row.runs),
            last_used_at=row.last_used_at,
        )
        for row in rows
    ]
    return records, last


def _bound(key: SumKey) -> sa.Tuple:
    return sa.tuple_(*(sa.literal(value, STAGED.c[name].type) for name, value in zip(_SUM_KEY, key, strict=True)))


# ------------------------------------------------------------------------------------------------ looking


async def imports(db: AsyncConnection, *, limit: int = 100) -> list[Import]:
    """Return the imports, the newest first."""
    chosen = sa.select(IMPORTS).order_by(IMPORTS.c.requested_at.desc(), IMPORTS.c.id.desc()).limit(limit)
    return [_import(row) for row in await db.execute(chosen)]


async def find(db: AsyncConnection, import_id: str) -> Import:
    """Return one import; NotFound if there is none of that id."""
    row = (await db.execute(sa.select(IMPORTS).where(IMPORTS.c.id == import_id))).one_or_none()
    if row is None:
        raise NotFound("There is no such import.")
    return _import(row)


async def refusals(db: AsyncConnection, import_id: str, *, limit: int | None = None) -> list[Problem]:
    """Return the bad rows that were listed, in the order of the file."""
    chosen = sa.select(REFUSALS).where(REFUSALS.c.import_id == import_id).order_by(REFUSALS.c.line).limit(limit)
    return [Problem(row.line, row.reason, row.row) for row in await db.execute(chosen)]


@dataclass(frozen=True, slots=True)
class Inventory:
    """When a source last listed everything that is installed; once it is `stale`, its seats are not judged."""

    source: str
    heard_at: datetime
    stale: bool


async def inventories(db: AsyncConnection, now: datetime) -> list[Inventory]:
    """Return the sources that list installations, by name."""
    rows = await db.execute(sa.select(INVENTORIES).order_by(INVENTORIES.c.source))
    return [
        Inventory(row.source, row.heard_at, now - row.heard_at > timedelta(seconds=row.silence_seconds)) for row in rows
    ]


async def last_of_sources(db: AsyncConnection) -> dict[str, Import]:
    """Return the newest import of each source that has any."""
    newest = sa.select(
        IMPORTS.c.id,
        sa.func.row_number()
        .over(partition_by=IMPORTS.c.source, order_by=(IMPORTS.c.requested_at.desc(), IMPORTS.c.id.desc()))
        .label("nth"),
    ).subquery()
    chosen = sa.select(IMPORTS).join(newest, newest.c.id == IMPORTS.c.id).where(newest.c.nth == 1)
    return {row.source: _import(row) for row in await db.execute(chosen.order_by(IMPORTS.c.source))}
