"""Usage in the database: what sources report, how fresh they are, and the verdict on many seats at a time.

A record that comes again replaces itself, and an older report never replaces a newer one, so a feed may be sent twice
and in any order. Seats are judged a page at a time, by a number of statements that does not depend on their number.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from reclaim.common.db import Json, UtcDateTime, among, insert_many
from reclaim.common.errors import Invalid
from reclaim.scanner.filters.fields import Kind
from reclaim.scanner.known_seats import KNOWN_SEATS, KnownSeat, user_key
from reclaim.scanner.store import metadata
from reclaim.scanner.usage import (
    MOST_LATE,
    MOST_SILENCE,
    Activity,
    Cell,
    Freshness,
    InstallationRecord,
    Measured,
    Plan,
    Report,
    UsageCondition,
    UsageRecord,
    Verdict,
    Window,
    freshness,
    judge,
    plan,
    total,
    trouble_with,
    trouble_with_installation,
)

USAGE = sa.Table(
    "usage_records",
    metadata,
    sa.Column("source", sa.Text, primary_key=True),
    sa.Column("product", sa.Text, primary_key=True),
    sa.Column("user_key", sa.Text, primary_key=True),
    sa.Column("device", sa.Text, primary_key=True),  # empty where the source names none
    sa.Column("channel", sa.Text, primary_key=True),
    sa.Column("period_start", UtcDateTime, primary_key=True),
    # A day and the month that begins with it are two records: neither may take the place of the other.
    sa.Column("period_end", UtcDateTime, primary_key=True),
    # Both empty where the source names none.
    sa.Column("process", sa.Text, primary_key=True, server_default=""),
    sa.Column("version", sa.Text, primary_key=True, server_default=""),
    sa.Column("user_name", sa.Text, nullable=False),
    sa.Column("seconds", sa.BigInteger),
    sa.Column("runs", sa.BigInteger, nullable=False),
    sa.Column("session", sa.Boolean, nullable=False),
    # The earliest and the latest that the last use of the period can have been; none of both without use.
    sa.Column("last_used_from", UtcDateTime),
    sa.Column("last_used_by", UtcDateTime),
    sa.Column("heard_at", UtcDateTime, nullable=False),
    sa.Index("usage_records_user", "product", "user_key"),
    sa.Index("usage_records_device", "product", "device"),
)

REPORTS = sa.Table(
    "usage_reports",
    metadata,
    sa.Column("source", sa.Text, primary_key=True),
    sa.Column("product", sa.Text, primary_key=True),  # empty: every product that the source knows
    sa.Column("period_start", UtcDateTime, primary_key=True),
    sa.Column("period_end", UtcDateTime, primary_key=True),
    sa.Column("heard_at", UtcDateTime, nullable=False),
    sa.Column("complete", sa.Boolean, nullable=False),
    sa.Column("channels", Json, nullable=False),
    sa.Column("timed", sa.Boolean, nullable=False),
    sa.Column("anonymised", sa.Boolean, nullable=False),
    sa.Column("late_seconds", sa.Integer, nullable=False),
    sa.Column("silence_seconds", sa.Integer, nullable=False),
)

INSTALLATIONS = sa.Table(
    "installations",
    metadata,
    sa.Column("source", sa.Text, primary_key=True),
    sa.Column("product", sa.Text, primary_key=True),
    sa.Column("device", sa.Text, primary_key=True),
    sa.Column("path", sa.Text, primary_key=True),  # empty where the source names none
    # By what records of use name the user; `NOBODY` and the device where the source names none.
    sa.Column("holder_key", sa.Text, nullable=False),
    sa.Column("user_name", sa.Text, nullable=False),
    sa.Column("version", sa.Text),
    sa.Column("platform", sa.Text),
    sa.Column("installed_at", UtcDateTime),
    sa.Column("first_seen_at", UtcDateTime, nullable=False),
    sa.Column("heard_at", UtcDateTime, nullable=False),
    sa.Index("installations_holder", "holder_key", "product"),
)

INVENTORIES = sa.Table(
    "inventories",
    metadata,
    sa.Column("source", sa.Text, primary_key=True),
    sa.Column("heard_at", UtcDateTime, nullable=False),
    sa.Column("silence_seconds", sa.Integer, nullable=False),
)

NEWS = sa.Table(
    "usage_news",
    metadata,
    sa.Column("product", sa.Text, primary_key=True),
    sa.Column("heard_at", UtcDateTime, nullable=False),
)
"""Products about which records came since the open cases were last looked at."""

UNMATCHED = sa.Table(
    "unmatched_users",
    metadata,
    sa.Column("source", sa.Text, primary_key=True),
    sa.Column("user_key", sa.Text, primary_key=True),
    sa.Column("user_name", sa.Text, nullable=False),
    sa.Column("records", sa.BigInteger, nullable=False),
    sa.Column("last_used_at", UtcDateTime),
    sa.Column("counted_at", UtcDateTime, nullable=False),
)
"""Users whose records belonged to nobody when they were last counted."""

COUNT_UNMATCHED: Final = "usage-unmatched"
"""The job that counts them: every few minutes, and when a source or a scan has come to its end."""

MOST_UNMATCHED: Final = 1_000
"""Such users of one source that are listed."""

NOBODY: Final = "device:"
"""What the holder of an installation begins with of which no source says whose it is."""

_INSTALLATION_KEY: Final = ("source", "product", "device", "path")
_RECORD_KEY: Final = (
    "source",
    "product",
    "user_key",
    "device",
    "channel",
    "period_start",
    "period_end",
    "process",
    "version",
)
_REPORT_KEY: Final = ("source", "product", "period_start", "period_end")
PAGE: Final = 1_000
"""Seats that are judged together."""


# ------------------------------------------------------------------------------------------------ writing


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of a batch of records: how many were kept, and why the others were not, by their place in it.

    A batch that is `outdated` is of a list that a newer whole one has taken the place of: none of it was kept.
    """

    kept: int
    refused: Mapping[int, str]
    outdated: bool = False


async def add_records(db: AsyncConnection, source: str, records: Sequence[UsageRecord], *, heard_at: datetime) -> Taken:
    """Keep records as a source sent them at `heard_at`; of several with the same key in a batch the last counts.

    Records alone prove no coverage: when all of a period have been added, say so with `add_report`.
    """
    refused: dict[int, str] = {}
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for place, record in enumerate(records):
        if trouble := trouble_with(record, heard_at):
            refused[place] = trouble
            continue
        row = _row(record)
        rows[tuple(row[name] for name in _RECORD_KEY[1:])] = row
    same = {"source": source, "heard_at": heard_at}
    await insert_many(db, USAGE, list(rows.values()), same=same, replacing=_RECORD_KEY, unless_newer="heard_at")
    await tell_news(db, {row["product"] for row in rows.values()}, heard_at)
    return Taken(len(records) - len(refused), refused)


async def tell_news(db: AsyncConnection, products: Collection[str], heard_at: datetime) -> None:
    """Have open cases of these products looked at.

    The row is written even if it is there: whoever takes it then waits for this transaction, and sees its records.
    """
    rows = [{"product": product} for product in sorted(products)]
    await insert_many(db, NEWS, rows, same={"heard_at": heard_at}, replacing=("product",))


def _row(record: UsageRecord) -> dict[str, Any]:
    earliest, latest = record.last_used or (None, None)
    seconds = record.seconds
    if record.session and seconds is None:
        seconds = int((record.period_end - record.period_start).total_seconds())
    return {
        "product": record.product.strip(),
        "user_key": user_key(record.user),
        "user_name": record.user.strip(),
        "device": record.device.strip(),
        "channel": record.channel,
        "period_start": record.period_start,
        "process": record.process.strip(),
        "version": record.version.strip(),
        "period_end": record.period_end,
        "seconds": seconds,
        "runs": record.runs,
        "session": record.session,
        "last_used_from": earliest,
        "last_used_by": latest,
    }


async def add_report(db: AsyncConnection, report: Report) -> None:
    """Take note that a source has spoken about a period; a later word about the same period replaces it.

    Of periods that begin together a later word replaces those that it reaches over, and all of them if it takes back
    what was proven. Besides, the shorter one stands beside the longer, which goes on to hold.

    Raises:
        Invalid: a period that is none, or a patience that would let old figures pass for new ones.
    """
    if report.period.length <= timedelta(0):
        raise Invalid("The period of a report ends before it begins.", field="period")
    if report.complete and report.period.end > report.heard_at:
        raise Invalid("A period cannot be complete before it is over.", field="period")
    if not timedelta(0) <= report.late <= MOST_LATE or not timedelta(0) < report.silence <= MOST_SILENCE:
        raise Invalid(
            f"Figures may be at most {MOST_LATE.days} days late, and a source silent for at most {MOST_SILENCE.days}.",
            field="late",
        )
    row = {
        "source": report.source,
        "product": report.product,
        "period_start": report.period.start,
        "period_end": report.period.end,
        "heard_at": report.heard_at,
        "complete": report.complete,
        "channels": sorted(report.channels),
        "timed": report.timed,
        "anonymised": report.anonymised,
        "late_seconds": int(report.late.total_seconds()),
        "silence_seconds": int(report.silence.total_seconds()),
    }
    together = sa.and_(
        REPORTS.c.source == report.source,
        REPORTS.c.product == report.product,
        REPORTS.c.period_start == report.period.start,
    )
    taken_back = sa.or_(~REPORTS.c.complete, REPORTS.c.anonymised)
    reaches = sa.or_(REPORTS.c.period_end >= report.period.end, taken_back)
    known = await db.execute(
        sa.select(REPORTS.c.source).where(together, REPORTS.c.heard_at > report.heard_at, reaches).limit(1)
    )
    if known.first() is not None:
        return
    older = sa.delete(REPORTS).where(together, REPORTS.c.heard_at <= report.heard_at)
    if report.complete and not report.anonymised:
        older = older.where(REPORTS.c.period_end < report.period.end)
    await db.execute(older)
    await insert_many(db, REPORTS, [row], replacing=_REPORT_KEY, unless_newer="heard_at")


async def add_installations(
    db: AsyncConnection, source: str, rows: Sequence[InstallationRecord], *, heard_at: datetime
) -> Taken:
    """Keep installations as a source listed them at `heard_at`; of several with one key in a batch the last counts.

    One that is listed again replaces itself, but for when it was first seen. What is not listed any more goes only
    with `end_inventory`: say it when everything that is installed has been added with this same `heard_at`. After a
    newer list has ended nothing of an older one is kept: what it lists beside that is not installed any more.
    """
    # Locked, so that a newer list ends either before this, and is seen here, or after it, and takes these rows along.
    ended = await db.execute(sa.select(INVENTORIES.c.heard_at).where(INVENTORIES.c.source == source).with_for_update())
    latest = ended.scalar()
    if latest is not None and latest > heard_at:
        return Taken(0, {}, outdated=True)
    refused: dict[int, str] = {}
    kept: dict[tuple[Any, ...], dict[str, Any]] = {}
    for place, record in enumerate(rows):
        if trouble := trouble_with_installation(record, heard_at):
            refused[place] = trouble
            continue
        row = {
            "product": record.product.strip(),
            "device": record.device.strip(),
            "path": record.path.strip(),
            "holder_key": user_key(record.user) or f"{NOBODY}{record.device.strip()}",
            "user_name": record.user.strip(),
            "version": record.version,
            "platform": record.platform,
            "installed_at": record.installed_at,
        }
        kept[tuple(row[name] for name in _INSTALLATION_KEY[1:])] = row
    await insert_many(
        db,
        INSTALLATIONS,
        list(kept.values()),
        same={"source": source, "first_seen_at": heard_at, "heard_at": heard_at},
        replacing=_INSTALLATION_KEY,
        keeping=("first_seen_at",),
        unless_newer="heard_at",
    )
    return Taken(len(rows) - len(refused), refused)


async def end_inventory(
    db: AsyncConnection, source: str, *, heard_at: datetime, silence: timedelta = MOST_SILENCE
) -> int:
    """Take note that a source has listed everything installed as of `heard_at`; return how many were there before
    and are not any more. After `silence` without another such list its seats are not judged.

    Raises:
        Invalid: a patience that would let an old list pass for a new one.
    """
    if not timedelta(0) < silence <= MOST_SILENCE:
        raise Invalid(f"A source may be silent for at most {MOST_SILENCE.days} days.", field="silence")
    row = {"source": source, "heard_at": heard_at, "silence_seconds": int(silence.total_seconds())}
    await insert_many(db, INVENTORIES, [row], replacing=("source",), unless_newer="heard_at")
    gone = await db.execute(
        sa.delete(INSTALLATIONS).where(INSTALLATIONS.c.source == source, INSTALLATIONS.c.heard_at < heard_at)
    )
    return gone.rowcount


# ------------------------------------------------------------------------------------------------ sources


async def reports(db: AsyncConnection, products: Collection[str] | None = None) -> list[Report]:
    """Return what sources have reported about some products, or (None) about all."""
    chosen = sa.select(REPORTS).order_by(*REPORTS.primary_key)
    if products is not None:
        chosen = chosen.where(among(REPORTS.c.product, {"", *products}))
    return [
        Report(
            source=row.source,
            product=row.product,
            period=Window(row.period_start, row.period_end),
            heard_at=row.heard_at,
            complete=row.complete,
            channels=frozenset(row.channels),
            timed=row.timed,
            anonymised=row.anonymised,
            late=timedelta(seconds=row.late_seconds),
            silence=timedelta(seconds=row.silence_seconds),
        )
        for row in await db.execute(chosen)
    ]


async def sources(db: AsyncConnection, now: datetime) -> list[Freshness]:
    """Return how fresh each source is, for each product it reports apart."""
    return freshness(await reports(db), now)


@dataclass(frozen=True, slots=True)
class Unmatched:
    """A user that a source names and whom no known seat belongs to."""

    source: str
    user: str
    records: int
    last_used_at: datetime | None


async def count_unmatched(db: AsyncConnection) -> list[Unmatched]:
    """Return the users whose records belong to nobody, of each source those with most records.

    Goes through all records that there are, so no page waits for it: what was found is kept by `keep_unmatched`.
    """
    known = sa.exists().where(
        sa.or_(KNOWN_SEATS.c.holder_key == USAGE.c.user_key, KNOWN_SEATS.c.email_key == USAGE.c.user_key)
    )
    counted = (
        sa.select(
            USAGE.c.source,
            USAGE.c.user_key,
            sa.func.min(USAGE.c.user_name).label("user"),
            sa.func.count().label("records"),
            sa.func.max(USAGE.c.last_used_by).label("last_used_at"),
        )
        .where(~known)
        .group_by(USAGE.c.source, USAGE.c.user_key)
        .subquery()
    )
    place = sa.func.row_number().over(
        partition_by=counted.c.source, order_by=(counted.c.records.desc(), counted.c.user_key)
    )
    ranked = sa.select(counted, place.label("place")).subquery()
    rows = await db.execute(sa.select(ranked).where(ranked.c.place <= MOST_UNMATCHED))
    return [Unmatched(row.source, row.user, row.records, row.last_used_at) for row in rows]


async def keep_unmatched(db: AsyncConnection, found: Sequence[Unmatched], now: datetime) -> None:
    """Replace what was found before."""
    rows = {
        (one.source, user_key(one.user)): {
            "source": one.source,
            "user_key": user_key(one.user),
            "user_name": one.user,
            "records": one.records,
            "last_used_at": one.last_used_at,
        }
        for one in found
    }
    await insert_many(db, UNMATCHED, list(rows.values()), same={"counted_at": now}, replacing=("source", "user_key"))
    await db.execute(sa.delete(UNMATCHED).where(UNMATCHED.c.counted_at != now))


async def unmatched(db: AsyncConnection, source: str | None = None, *, limit: int = 100) -> list[Unmatched]:
    """Return users whose records belong to nobody, most records first: a name that is spelt otherwise, or a leaver.

    As they were last counted.
    """
    chosen = (
        sa.select(UNMATCHED).order_by(UNMATCHED.c.records.desc(), UNMATCHED.c.source, UNMATCHED.c.user_key).limit(limit)
    )
    if source is not None:
        chosen = chosen.where(UNMATCHED.c.source == source)
    return [Unmatched(row.source, row.user_name, row.records, row.last_used_at) for row in await db.execute(chosen)]


# ------------------------------------------------------------------------------------------------ judging


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageSeat:
    """What is needed of a seat to judge it.

    `last_used_at` is what the connected system itself says. `asked` tells that it was asked just now: None is never.
    """

    holder_id: str
    holder_email: str | None = None
    device_id: str = ""
    granted_at: datetime | None = None
    first_seen_at: datetime | None = None
    last_used_at: datetime | None = None
    asked: bool = False

    @property
    def keys(self) -> set[str]:
        """By what records name the holder."""
        return {user_key(name) for name in (self.holder_id, self.holder_email) if name}


def usage_seat(seat: KnownSeat, *, asked: bool = False) -> UsageSeat:
    """Return a seat as it is judged; `asked` if it was read from the connected system just now."""
    return UsageSeat(
        holder_id=seat.holder_id,
        holder_email=seat.holder_email,
        device_id=seat.device_id,
        granted_at=seat.held_since,
        first_seen_at=seat.first_seen_at,
        last_used_at=seat.last_used_at,
        asked=asked,
    )


async def make_plan(
    db: AsyncConnection,
    condition: UsageCondition,
    product: str,
    *,
    connection_id: str | None = None,
    components: Collection[str] = (),
    zone: str = "UTC",
    preference: Sequence[str] = (),
    live: Sequence[Report] = (),
    without: Collection[tuple[str, str]] = (),
    now: datetime,
) -> Plan:
    """Return by what the seats of a product are judged; `components` are those of a suite.

    Without a `connection_id` nobody is known to be seen by the sources, until `witnessed` was asked about seats.
    `live` are reports that are not stored, of systems that are asked right now. What sources report of products that
    they are named `without` (source, product) proves nothing: it is about other seats. Raise an alert for
    each source in the plan's `stale`.
    """
    members = {product, *components}
    stored = await reports(db, members)
    said = [*(report for report in stored if (report.source, report.product) not in without), *live]
    named = await _named(db, {report.source for report in stored if not report.product}, members)
    chosen = plan(condition, product, components, said, now=now, zone=zone, preference=preference, named=named)
    chosen = chosen.seen_by({report.source for report in live})
    return chosen if connection_id is None else await witnessed(db, chosen, connection_id=connection_id)


_MOST_IN_A_UNION: Final = 400
"""Queries that are asked as one: SQLite takes at most 500."""


async def _named(db: AsyncConnection, sources: Collection[str], products: Collection[str]) -> dict[str, set[str]]:
    """Return of which of some products each of these sources has ever had a record."""
    found: dict[str, set[str]] = {source: set() for source in sources}
    asked = [
        sa.select(sa.literal(source).label("source"), sa.literal(product).label("product")).where(
            sa.exists().where(USAGE.c.source == source, USAGE.c.product == product)
        )
        for source in sorted(sources)
        for product in sorted(products)
    ]
    for start in range(0, len(asked), _MOST_IN_A_UNION):
        for row in await db.execute(sa.union_all(*asked[start : start + _MOST_IN_A_UNION])):
            found[row.source].add(row.product)
    return found


async def witnessed(
    db: AsyncConnection, chosen: Plan, *, connection_id: str | None = None, seats: Sequence[UsageSeat] = ()
) -> Plan:
    """Return a plan that knows which sources have a record of one of these seats, or of any on a connection.

    Asked only where it counts. Records of people without such a seat prove nothing: a source may name all of them
    otherwise than the connection does. Nor do those of sources by which nothing is proven.
    """
    if chosen.witnessed or not chosen.condition.include_no_activity:
        return chosen
    if connection_id is None:
        theirs = _Page(seats).of()
    else:
        theirs = sa.exists().where(
            KNOWN_SEATS.c.connection_id == connection_id,
            among(KNOWN_SEATS.c.product, chosen.members),
            sa.or_(
                KNOWN_SEATS.c.holder_key == USAGE.c.user_key,
                KNOWN_SEATS.c.email_key == USAGE.c.user_key,
                sa.and_(KNOWN_SEATS.c.device_id == USAGE.c.device, USAGE.c.device != ""),
            ),
        )
    counted = sa.and_(
        among(USAGE.c.product, chosen.members),
        USAGE.c.period_end > chosen.window.start,
        USAGE.c.period_start < chosen.window.end,
        theirs,
    )
    seen = [
        sa.select(sa.literal(source).label("source")).where(
            sa.exists(sa.select(sa.literal(1)).select_from(USAGE).where(USAGE.c.source == source, counted))
        )
        for source in sorted(frozenset[str]().union(*chosen.unwitnessed))
    ]
    return chosen.seen_by((await db.execute(sa.union_all(*seen))).scalars().all()) if seen else chosen


async def judge_seats(db: AsyncConnection, chosen: Plan, seats: Sequence[UsageSeat]) -> list[Verdict]:
    """Return the verdict on each of a page of seats, in their order."""
    page = _Page(seats)
    if chosen.condition.minimum_hours is None:
        await _read_last_use(db, chosen, page)
    else:
        await _read_hours(db, chosen, page)
    verdicts = []
    for at, seat in enumerate(seats):
        found = page.found[at]
        if "ui" in chosen.condition.channels:
            found.told_itself(seat, of_hours=chosen.condition.minimum_hours is not None)
        verdict = judge(chosen, found.activity(), granted_at=seat.granted_at, first_seen_at=seat.first_seen_at)
        verdicts.append(replace(verdict, last_used_at=found.latest))
    return verdicts


_HELD_SINCE: Final = sa.func.coalesce(
    KNOWN_SEATS.c.granted_at, sa.case((KNOWN_SEATS.c.returned, KNOWN_SEATS.c.first_seen_at))
).label("granted_at")
"""As `KnownSeat.held_since`."""


async def judged(
    db: AsyncConnection, chosen: Plan, *, connection_id: str, kind: Kind = "subscription", page_size: int = PAGE
) -> AsyncIterator[list[tuple[UsageSeat, Verdict]]]:
    """Yield every seat of the register that is one of the plan's product, with its verdict, a page at a time."""
    key = sa.tuple_(KNOWN_SEATS.c.holder_id, KNOWN_SEATS.c.device_id)
    after = ("", "")
    while True:
        rows = await db.execute(
            sa.select(
                KNOWN_SEATS.c.holder_id,
                KNOWN_SEATS.c.holder_email,
                KNOWN_SEATS.c.device_id,
                _HELD_SINCE,
                KNOWN_SEATS.c.first_seen_at,
                KNOWN_SEATS.c.last_used_at,
            )
            .where(
                KNOWN_SEATS.c.connection_id == connection_id,
                KNOWN_SEATS.c.product == chosen.members[0],
                KNOWN_SEATS.c.kind == kind,
                key > after,
            )
            .order_by(KNOWN_SEATS.c.holder_id, KNOWN_SEATS.c.device_id)
            .limit(page_size)
        )
        seats = [UsageSeat(**row) for row in rows.mappings()]
        if not seats:
            return
        yield list(zip(seats, await judge_seats(db, chosen, seats), strict=True))
        after = (seats[-1].holder_id, seats[-1].device_id)


@dataclass(slots=True)
class _Sum:
    """What one source measured of a seat in the whole window, as `total` takes it."""

    whole: timedelta = timedelta(0)
    others: list[Measured] = field(default_factory=list)


class _Seen:
    """What was read about one seat so far."""

    def __init__(self) -> None:
        self.records = 0
        self.first_used: datetime | None = None
        self.last_used: tuple[datetime, datetime] | None = None
        self.latest: datetime | None = None
        self.whole = timedelta(0)
        self.others: list[Measured] = []
        self.doubts: set[str] = set()
        self.beside = 0
        self.seen_itself: datetime | None = None
        self.by_source: dict[str, _Sum] = defaultdict(_Sum)

    def use(self, earliest: datetime, latest: datetime) -> None:
        if self.last_used is not None:
            earliest, latest = max(earliest, self.last_used[0]), max(latest, self.last_used[1])
        self.last_used = earliest, latest
        self.saw(latest)

    def saw(self, at: datetime) -> None:
        self.latest = at if self.latest is None else max(self.latest, at)

    def told_itself(self, seat: UsageSeat, *, of_hours: bool) -> None:
        """Take what the connected system says of the last use: a record of it, but never of hours."""
        if not of_hours:
            self.records += seat.asked
        if seat.last_used_at is None:
            return
        if of_hours:
            self.seen_itself = seat.last_used_at
            self.saw(seat.last_used_at)
        else:
            self.use(seat.last_used_at, seat.last_used_at)

    def began(self, at: datetime) -> None:
        self.first_used = at if self.first_used is None else min(self.first_used, at)

    def measured(
        self, cells: _Cells, records: int, *, whole: timedelta = timedelta(0), single: Measured | None = None
    ) -> None:
        singles = [] if single is None else [single]
        if cells.count:
            self.records += records
            self.whole += whole
            self.others += singles
        else:
            self.beside += records
        if cells.alone:
            self.by_source[cells.source].whole += whole
            self.by_source[cells.source].others += singles

    def activity(self) -> Activity:
        sums = self.by_source.values()
        whole = sum((own.whole for own in sums), timedelta(0))
        return Activity(
            records=self.records,
            first_used=self.first_used,
            last_used=self.last_used,
            hours=total(self.whole, self.others),
            doubts=frozenset(self.doubts),
            alone=max((total(own.whole, own.others).least for own in sums), default=timedelta(0)),
            together=total(whole, [one for own in sums for one in own.others]).most,
            beside=self.beside,
            seen_itself=self.seen_itself,
        )


class _Page:
    """A page of seats, and to which of them a record belongs.

    One that names a device belongs to the seat on that device, whoever used it, and to the holder's seats that have no
    device; one that names none belongs to all of the holder's seats.
    """

    def __init__(self, seats: Sequence[UsageSeat]) -> None:
        self.found = [_Seen() for _ in seats]
        self._by_user: dict[str, list[tuple[str, _Seen]]] = defaultdict(list)
        self._by_device: dict[str, list[_Seen]] = defaultdict(list)
        for seat, seen in zip(seats, self.found, strict=True):
            for key in seat.keys:
                self._by_user[key].append((seat.device_id, seen))
            if seat.device_id:
                self._by_device[seat.device_id].append(seen)

    def of(self) -> sa.ColumnElement[bool]:
        """Return the condition that chooses the records of the page's seats."""
        users = among(USAGE.c.user_key, self._by_user)
        return sa.or_(users, among(USAGE.c.device, self._by_device)) if self._by_device else users

    def belonging(self, user: str, device: str) -> Iterable[_Seen]:
        """Return the seats that a record counts for, each once."""
        if device:
            yield from self._by_device.get(device, ())
        for of_seat, seen in self._by_user.get(user, ()):
            if not of_seat or not device:
                yield seen


def _counted(chosen: Plan) -> sa.ColumnElement[bool]:
    return sa.and_(among(USAGE.c.product, chosen.members), among(USAGE.c.channel, chosen.condition.channels))


async def _read_last_use(db: AsyncConnection, chosen: Plan, page: _Page) -> None:
    rows = await db.execute(
        sa.select(
            USAGE.c.user_key,
            USAGE.c.device,
            USAGE.c.source,
            USAGE.c.product,
            sa.func.count().label("records"),
            sa.func.min(USAGE.c.last_used_by).label("first_used"),
            sa.func.max(USAGE.c.last_used_from).label("earliest"),
            sa.func.max(USAGE.c.last_used_by).label("latest"),
        )
        .where(_counted(chosen), page.of())
        .group_by(USAGE.c.user_key, USAGE.c.device, USAGE.c.source, USAGE.c.product)
    )
    for row in rows:
        for seen in page.belonging(row.user_key, row.device):
            seen.records += row.records
            if row.first_used is not None:
                seen.began(row.first_used)
            if (row.source, row.product) in chosen.doubtful:
                seen.doubts.add(row.source)
            if row.earliest is not None:
                seen.use(row.earliest, row.latest)


async def _read_hours(db: AsyncConnection, chosen: Plan, page: _Page) -> None:
    counted = sa.and_(_counted(chosen), page.of())
    within = sa.and_(USAGE.c.period_end > chosen.window.start, USAGE.c.period_start < chosen.window.end)
    began = await db.execute(
        sa.select(
            USAGE.c.user_key,
            USAGE.c.device,
            USAGE.c.source,
            USAGE.c.product,
            sa.func.min(USAGE.c.last_used_by).label("first_used"),
            sa.func.max(USAGE.c.last_used_by).label("latest"),
            sa.func.sum(sa.case((within, 1), else_=0)).label("records"),
            sa.func.sum(sa.case((sa.and_(within, USAGE.c.seconds > 0), 1), else_=0)).label("measured"),
        )
        .where(counted)
        .group_by(USAGE.c.user_key, USAGE.c.device, USAGE.c.source, USAGE.c.product)
    )
    proving = {(cell.source, cell.product) for cell in (*chosen.cells, *chosen.others)}
    for row in began:
        for seen in page.belonging(row.user_key, row.device):
            if row.first_used is not None:
                seen.began(row.first_used)
                seen.saw(row.latest)
            if (row.source, row.product) not in proving:
                seen.beside += row.records
                if row.measured:
                    seen.doubts.add(row.source)
    for cells in _read_together(chosen):
        await _read_cells(db, counted, cells, page)


@dataclass(frozen=True, slots=True)
class _Cells:
    """Cells of one source and window, by product, which are read by one pair of statements.

    They `count`, or tell only what else is known; `alone` if they are all that the source has of their products.
    """

    source: str
    window: Window
    count: bool
    alone: bool
    of: Mapping[str, Cell]


def _read_together(chosen: Plan) -> list[_Cells]:
    """Return the cells to read: those of a suite's components mostly have the same source and window."""
    whole = {(cell.source, cell.product) for cell in chosen.others}
    together: dict[tuple[str, Window, bool, bool], dict[str, Cell]] = defaultdict(dict)
    for cell in chosen.cells:
        together[cell.source, cell.window, True, (cell.source, cell.product) not in whole][cell.product] = cell
    for cell in chosen.others:
        together[cell.source, cell.window, False, True][cell.product] = cell
    return [_Cells(*key, cells) for key, cells in together.items()]


async def _read_cells(db: AsyncConnection, counted: sa.ColumnElement[bool], cells: _Cells, page: _Page) -> None:
    window = cells.window
    here = sa.and_(counted, USAGE.c.source == cells.source, among(USAGE.c.product, cells.of))
    inside = sa.and_(USAGE.c.period_start >= window.start, USAGE.c.period_end <= window.end)
    sums = await db.execute(
        sa.select(
            USAGE.c.user_key,
            USAGE.c.device,
            sa.func.count().label("records"),
            sa.func.coalesce(sa.func.sum(USAGE.c.seconds), 0).label("seconds"),
        )
        .where(here, inside, ~USAGE.c.session)
        .group_by(USAGE.c.user_key, USAGE.c.device)
    )
    for row in sums:
        for seen in page.belonging(row.user_key, row.device):
            seen.measured(cells, row.records, whole=timedelta(seconds=int(row.seconds)))
    singles = await db.execute(
        sa.select(
            USAGE.c.user_key,
            USAGE.c.device,
            USAGE.c.product,
            USAGE.c.period_start,
            USAGE.c.period_end,
            USAGE.c.seconds,
            USAGE.c.session,
        ).where(
            here,
            sa.or_(USAGE.c.session, ~inside),
            USAGE.c.period_start < window.end,
            USAGE.c.period_end > window.start,
        )
    )
    for row in singles:
        one = Measured(
            cells.of[row.product],
            Window(row.period_start, row.period_end),
            timedelta(seconds=row.seconds or 0),
            row.session,
        )
        for seen in page.belonging(row.user_key, row.device):
            seen.measured(cells, 1, single=one)
