"""All SQL of the scanner.

A run is claimed by a lease on the wall clock, and everything it writes names the token of that lease: a process that
was held up past its lease finds that nothing of what it still wants to write applies.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from functools import cache
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from reclaim.common import migrate
from reclaim.common.contracts import CheckFinding, Money, Outcome, Person
from reclaim.common.db import Amount, Json, UtcDateTime, among, given
from reclaim.common.errors import Conflict, NotFound
from reclaim.common.ids import new_id
from reclaim.common.timing import wall_milliseconds
from reclaim.connectors.ports import TestResult
from reclaim.scanner.domain import WATCHED, Baseline, Found, Held, Highest, SeatKey, Tally, Terms

metadata = migrate.service_metadata()

PRESENT: Final = sa.text("removed_at IS NULL")
OPEN: Final = sa.text("closed_at IS NULL")
UNDER_WAY: Final = ("queued", "running", "waiting")

CONNECTIONS = sa.Table(
    "connections",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("name_key", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("settings", Json, nullable=False),
    sa.Column("credentials", sa.Text, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("removed_at", UtcDateTime),
    sa.Column("tested_at", UtcDateTime),
    sa.Column("test_results", Json, nullable=False),
    sa.Index("connections_name", "name_key", unique=True, sqlite_where=PRESENT, postgresql_where=PRESENT),
)

PRICES = sa.Table(
    "prices",
    metadata,
    sa.Column("connection_id", sa.Text, primary_key=True),
    sa.Column("product", sa.Text, primary_key=True),
    sa.Column("amount", Amount, nullable=False),
    sa.Column("currency", sa.Text, nullable=False),
)

RULES = sa.Table(
    "rules",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("connection_id", sa.Text, nullable=False, index=True),
    sa.Column("name_key", sa.Text, nullable=False, unique=True),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    # The schedule asks for scans after this instant; earlier ones were enqueued, or the rule was not active.
    sa.Column("scheduled_until", UtcDateTime),
    sa.Column("moved_by", sa.Text),
    sa.Column("moved_at", UtcDateTime),
    # Why the rule has its status, where it was not a person who chose it.
    sa.Column("moved_why", sa.Text),
)

RULE_VERSIONS = sa.Table(
    "rule_versions",
    metadata,
    sa.Column("rule_id", sa.Text, primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("terms", Json, nullable=False),
    sa.Column("author", sa.Text, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
)

RUNS = sa.Table(
    "scan_runs",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("rule_id", sa.Text, nullable=False),
    sa.Column("rule_version", sa.Integer),
    sa.Column("connection_id", sa.Text, nullable=False),
    sa.Column("asked_by", sa.Text, nullable=False),
    sa.Column("due_at", UtcDateTime),
    sa.Column("dry_run", sa.Boolean, nullable=False),
    sa.Column("accept_population", sa.Boolean, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("requested_at", UtcDateTime, nullable=False),
    sa.Column("started_at", UtcDateTime),
    sa.Column("ended_at", UtcDateTime),
    sa.Column("products", Json, nullable=False),
    # Which of them were suites whose seats were counted as one; null before a release that recorded it.
    sa.Column("suites", Json),
    sa.Column("expected", sa.Integer, nullable=False),
    sa.Column("pages", sa.Integer, nullable=False),
    sa.Column("seen", sa.Integer, nullable=False),
    sa.Column("used", sa.Integer, nullable=False),
    sa.Column("flagged", sa.Integer, nullable=False),
    sa.Column("left_alone", Json, nullable=False),
    sa.Column("missing", Json, nullable=False),
    # What to tell a person about each source of use that has fallen silent.
    sa.Column("stale", Json, nullable=False, server_default="[]"),
    # Why the population was compared with that of no earlier scan; null if it was.
    sa.Column("uncompared", sa.Text),
    sa.Column("reason", sa.Text),
    sa.Column("remedy", sa.Text),
    sa.Column("acceptable", sa.Boolean, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("lease", sa.Text),
    # From when on the run may be claimed: at once, after a wait, or when its lease is over; never once it ended.
    # Wall-clock milliseconds: a moved business clock must end neither a lease nor a wait.
    sa.Column("look_at", sa.BigInteger),
    sa.UniqueConstraint("rule_id", "due_at", name="scan_runs_due"),
    sa.Index("scan_runs_look_at", "look_at"),
    sa.Index("scan_runs_rule", "rule_id", "requested_at"),
)

PAGES = sa.Table(
    "scan_pages",
    metadata,
    sa.Column("run_id", sa.Text, primary_key=True),
    sa.Column("page", sa.Integer, primary_key=True),
    sa.Column("found", sa.LargeBinary, nullable=False),
)

CANDIDATES = sa.Table(
    "candidates",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("run_id", sa.Text, nullable=False),
    sa.Column("rule_id", sa.Text, nullable=False, index=True),
    sa.Column("rule_version", sa.Integer, nullable=False),
    sa.Column("connection_id", sa.Text, nullable=False),
    sa.Column("holder_id", sa.Text, nullable=False),
    sa.Column("holder_name", sa.Text, nullable=False),
    sa.Column("holder_email", sa.Text),
    sa.Column("department", sa.Text),
    sa.Column("product", sa.Text, nullable=False),
    sa.Column("product_name", sa.Text, nullable=False),
    sa.Column("price", Amount),
    sa.Column("currency", sa.Text),
    sa.Column("approver", Json, nullable=False),
    sa.Column("findings", Json, nullable=False),
    sa.Column("last_used_at", UtcDateTime),
    sa.Column("flagged_at", UtcDateTime, nullable=False),
    sa.Column("dry_run", sa.Boolean, nullable=False),
    # Of installed software: the devices that the case is about.
    sa.Column("devices", Json, nullable=False, server_default="[]"),
    sa.Column("closed_at", UtcDateTime),
    sa.Column("outcome", sa.Text),
    sa.Index(
        "candidates_open",
        "connection_id",
        "holder_id",
        "product",
        unique=True,
        sqlite_where=OPEN,
        postgresql_where=OPEN,
    ),
    sa.Index("candidates_run", "run_id", "holder_id"),
)

HOLDS = sa.Table(
    "holds",
    metadata,
    sa.Column("connection_id", sa.Text, primary_key=True),
    sa.Column("holder_id", sa.Text, primary_key=True),
    sa.Column("product", sa.Text, primary_key=True),
    sa.Column("cause", sa.Text, nullable=False),
    sa.Column("since", UtcDateTime, nullable=False),
    sa.Column("dry_run", sa.Boolean, nullable=False),
)


def _insert(db: AsyncConnection, table: sa.Table) -> Any:
    return postgresql.insert(table) if db.dialect.name == "postgresql" else sqlite.insert(table)


# ------------------------------------------------------------------------------------------------ connections


@dataclass(frozen=True, slots=True)
class Connection:
    """An integration profile. `credentials` is sealed text, and goes nowhere but to the sealer and the bus."""

    id: str
    name: str
    kind: str
    settings: Mapping[str, str]
    credentials: str = field(repr=False)
    version: int
    created_at: datetime
    removed_at: datetime | None
    tested_at: datetime | None
    test_results: tuple[TestResult, ...]

    @property
    def works(self) -> bool | None:
        """Whether the last test passed; None if there was none."""
        return None if self.tested_at is None else all(result.ok for result in self.test_results)


def _connection(row: Any) -> Connection:
    return Connection(
        id=row.id,
        name=row.name,
        kind=row.kind,
        settings=row.settings,
        credentials=row.credentials,
        version=row.version,
        created_at=row.created_at,
        removed_at=row.removed_at,
        tested_at=row.tested_at,
        test_results=tuple(TestResult(**result) for result in row.test_results),
    )


async def connections(db: AsyncConnection) -> list[Connection]:
    """Return the connections that were not removed, by name."""
    rows = await db.execute(sa.select(CONNECTIONS).where(PRESENT).order_by(CONNECTIONS.c.name_key))
    return [_connection(row) for row in rows]


_CONNECTION: Final = sa.select(CONNECTIONS).where(CONNECTIONS.c.id == sa.bindparam("id"), PRESENT)


async def connection(db: AsyncConnection, connection_id: str) -> Connection:
    """Return one connection; NotFound if there is none of that id, or it was removed."""
    row = (await db.execute(_CONNECTION, {"id": connection_id})).one_or_none()
    if row is None:
        raise NotFound("There is no such connection; it may have been removed.")
    return _connection(row)


async def lock_connection(db: AsyncConnection, connection_id: str) -> Connection:
    """Return one connection and keep others from changing it until the transaction ends."""
    await db.execute(sa.select(CONNECTIONS.c.id).where(CONNECTIONS.c.id == connection_id).with_for_update())
    return await connection(db, connection_id)


async def add_connection(
    db: AsyncConnection, *, name: str, kind: str, settings: Mapping[str, str], credentials: str, now: datetime
) -> Connection:
    """Add a connection; Conflict if its name is taken."""
    connection_id = new_id()
    try:
        await db.execute(
            sa.insert(CONNECTIONS).values(
                id=connection_id,
                name=name,
                name_key=name.casefold(),
                kind=kind,
                settings=dict(settings),
                credentials=credentials,
                version=1,
                created_at=now,
                test_results=[],
            )
        )
    except IntegrityError as error:
        raise Conflict(f"There is a connection named {name} already. Choose another name.") from error
    return await connection(db, connection_id)


async def change_connection(
    db: AsyncConnection, connection_id: str, *, name: str, settings: Mapping[str, str], credentials: str
) -> Connection:
    """Write a new version of a connection; Conflict if its name is taken."""
    try:
        await db.execute(
            sa.update(CONNECTIONS)
            .where(CONNECTIONS.c.id == connection_id)
            .values(
                name=name,
                name_key=name.casefold(),
                settings=dict(settings),
                credentials=credentials,
                version=CONNECTIONS.c.version + 1,
            )
        )
    except IntegrityError as error:
        raise Conflict(f"There is a connection named {name} already. Choose another name.") from error
    return await connection(db, connection_id)


async def remove_connection(db: AsyncConnection, connection_id: str, now: datetime, *, by: str, why: str) -> None:
    """Forget a connection's credentials and pause its rules; what it was called stays for the records."""
    await db.execute(
        sa.update(CONNECTIONS)
        .where(CONNECTIONS.c.id == connection_id)
        .values(removed_at=now, credentials="", version=CONNECTIONS.c.version + 1)
    )
    was_active = RULES.c.status == "active"
    await db.execute(
        sa.update(RULES)
        .where(RULES.c.connection_id == connection_id)
        .values(status=sa.case((was_active, "paused"), else_=RULES.c.status), moved_by=by, moved_at=now, moved_why=why)
    )


async def record_test(db: AsyncConnection, connection_id: str, results: Sequence[TestResult], now: datetime) -> None:
    """Keep what the last test found."""
    await db.execute(
        sa.update(CONNECTIONS)
        .where(CONNECTIONS.c.id == connection_id)
        .values(tested_at=now, test_results=[msgspec.to_builtins(result) for result in results])
    )


async def prices(db: AsyncConnection, connection_id: str) -> dict[str, Money]:
    """Return a connection's price book: product or licence name → amount a month."""
    rows = await db.execute(sa.select(PRICES).where(PRICES.c.connection_id == connection_id).order_by(PRICES.c.product))
    return {row.product: Money(amount=row.amount, currency=row.currency) for row in rows}


async def set_prices(db: AsyncConnection, connection_id: str, book: Mapping[str, Money]) -> None:
    """Replace a connection's price book."""
    await db.execute(sa.delete(PRICES).where(PRICES.c.connection_id == connection_id))
    if book:
        rows = [
            {"connection_id": connection_id, "product": product, "amount": price.amount, "currency": price.currency}
            for product, price in book.items()
        ]
        await db.execute(sa.insert(PRICES), rows)


# ------------------------------------------------------------------------------------------------ rules


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule with its current version. `connection_name` is that of a removed connection, too.

    `moved_by` gave it its present status; None for one that has had no other, or whose move was not recorded yet.
    `moved_why` says what befell it, where that was not a person's choice about the rule itself.
    """

    id: str
    connection_id: str
    connection_name: str
    status: str
    version: int
    terms: Terms
    author: str
    created_at: datetime
    changed_at: datetime
    scheduled_until: datetime | None
    moved_by: str | None
    moved_at: datetime | None
    moved_why: str | None = None


@dataclass(frozen=True, slots=True)
class RuleVersion:
    """What a rule said from `created_at` on."""

    version: int
    terms: Terms
    author: str
    created_at: datetime


_RULE = (
    sa.select(
        RULES,
        RULE_VERSIONS.c.terms,
        RULE_VERSIONS.c.author,
        RULE_VERSIONS.c.created_at.label("changed_at"),
        CONNECTIONS.c.name.label("connection_name"),
    )
    .join(RULE_VERSIONS, sa.and_(RULE_VERSIONS.c.rule_id == RULES.c.id, RULE_VERSIONS.c.version == RULES.c.version))
    .join(CONNECTIONS, CONNECTIONS.c.id == RULES.c.connection_id)
)


def _rule(row: Any) -> Rule:
    return Rule(
        id=row.id,
        connection_id=row.connection_id,
        connection_name=row.connection_name,
        status=row.status,
        version=row.version,
        terms=msgspec.convert(row.terms, Terms),
        author=row.author,
        created_at=row.created_at,
        changed_at=row.changed_at,
        scheduled_until=row.scheduled_until,
        moved_by=row.moved_by,
        moved_at=row.moved_at,
        moved_why=row.moved_why,
    )


async def rules(db: AsyncConnection) -> list[Rule]:
    """Return every rule, by name."""
    return [_rule(row) for row in await db.execute(_RULE.order_by(RULES.c.name_key))]


_ONE_RULE: Final = _RULE.where(RULES.c.id == sa.bindparam("id"))


async def rule(db: AsyncConnection, rule_id: str) -> Rule:
    """Return one rule; NotFound if there is none of that id."""
    row = (await db.execute(_ONE_RULE, {"id": rule_id})).one_or_none()
    if row is None:
        raise NotFound("There is no such rule.")
    return _rule(row)


async def lock_rule(db: AsyncConnection, rule_id: str) -> Rule:
    """Return one rule and keep others from changing it until the transaction ends."""
    await db.execute(sa.select(RULES.c.id).where(RULES.c.id == rule_id).with_for_update())
    return await rule(db, rule_id)


async def rule_versions(db: AsyncConnection, rule_id: str) -> list[RuleVersion]:
    """Return what a rule said over time, the newest first."""
    rows = await db.execute(
        sa.select(RULE_VERSIONS).where(RULE_VERSIONS.c.rule_id == rule_id).order_by(RULE_VERSIONS.c.version.desc())
    )
    return [RuleVersion(row.version, msgspec.convert(row.terms, Terms), row.author, row.created_at) for row in rows]


async def _name_rule(db: AsyncConnection, statement: sa.Insert | sa.Update, name: str) -> None:
    try:
        await db.execute(statement)
    except IntegrityError as error:
        raise Conflict(f"There is a rule named {name} already. Choose another name.") from error


async def rule_version(db: AsyncConnection, rule_id: str, version: int) -> RuleVersion:
    """Return what a rule said in one version; NotFound if there is none of that number."""
    row = (
        await db.execute(
            sa.select(RULE_VERSIONS).where(RULE_VERSIONS.c.rule_id == rule_id, RULE_VERSIONS.c.version == version)
        )
    ).one_or_none()
    if row is None:
        raise NotFound(f"The rule has no version {version}.")
    return RuleVersion(row.version, msgspec.convert(row.terms, Terms), row.author, row.created_at)


async def add_rule(
    db: AsyncConnection, *, connection_id: str, terms: Terms, author: str, now: datetime, status: str = "draft"
) -> Rule:
    """Add a rule, as a draft or for review; Conflict if its name is taken."""
    rule_id = new_id()
    await _name_rule(
        db,
        sa.insert(RULES).values(
            id=rule_id,
            connection_id=connection_id,
            name_key=terms.name.casefold(),
            status=status,
            version=1,
            created_at=now,
        ),
        terms.name,
    )
    await _add_version(db, rule_id, 1, terms, author, now)
    return await rule(db, rule_id)


async def change_rule(db: AsyncConnection, before: Rule, *, terms: Terms, author: str, now: datetime) -> Rule:
    """Write the next version of a locked rule; its schedule starts to count anew if it says something else."""
    anew = (before.terms.schedule, before.terms.time_zone) != (terms.schedule, terms.time_zone)
    await _name_rule(
        db,
        sa.update(RULES)
        .where(RULES.c.id == before.id)
        .values(
            version=before.version + 1,
            name_key=terms.name.casefold(),
            scheduled_until=now if anew else before.scheduled_until,
        ),
        terms.name,
    )
    await _add_version(db, before.id, before.version + 1, terms, author, now)
    return await rule(db, before.id)


async def _add_version(
    db: AsyncConnection, rule_id: str, version: int, terms: Terms, author: str, now: datetime
) -> None:
    await db.execute(
        sa.insert(RULE_VERSIONS).values(
            rule_id=rule_id, version=version, terms=msgspec.to_builtins(terms), author=author, created_at=now
        )
    )


async def set_status(
    db: AsyncConnection, rule_id: str, status: str, now: datetime, *, by: str | None, why: str | None = None
) -> Rule:
    """Change a locked rule's status; an active rule's schedule counts from now."""
    values: dict[str, Any] = {"status": status, "moved_by": by, "moved_at": now, "moved_why": why}
    if status == "active":
        values["scheduled_until"] = now
    await db.execute(sa.update(RULES).where(RULES.c.id == rule_id).values(values))
    return await rule(db, rule_id)


# ------------------------------------------------------------------------------------------------ runs


@dataclass(frozen=True, slots=True)
class Run:
    """One scan. Counts are of the present attempt while it runs; `left_alone` is seats by check.

    `dry_run` is what was asked for, `rehearsal` what holds: a rehearsal is asked for, or the rule's own manner.
    `expected` is how many seats the licences announced; `missing` the readings that failed, and why. `acceptable`
    tells that what stopped the run may be accepted by a person.
    """

    id: str
    rule_id: str
    rule_name: str
    rule_version: int | None
    connection_id: str
    connection_name: str
    asked_by: str
    due_at: datetime | None
    dry_run: bool
    rehearsal: bool
    accept_population: bool
    status: str
    requested_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    expected: int
    pages: int
    seen: int
    used: int
    flagged: int
    left_alone: Mapping[str, int]
    missing: Mapping[str, str]
    stale: Sequence[str]
    uncompared: str | None
    reason: str | None
    remedy: str | None
    acceptable: bool
    attempts: int

    @property
    def under_way(self) -> bool:
        return self.status in UNDER_WAY

    @property
    def percent(self) -> int:
        """How much of what was announced has been read; only a finished run is at 100."""
        if self.status == "finished":
            return 100
        return min(99, self.seen * 100 // self.expected) if self.expected else 0


@dataclass(frozen=True, slots=True)
class Claim:
    """A run that this process may work on, as long as it holds the lease."""

    run_id: str
    lease: str
    attempt: int


class LeaseLost(Exception):
    """Another process took the run over; whatever this one still wanted to write does not apply."""


_RUN = (
    sa.select(RUNS, RULE_VERSIONS.c.terms, CONNECTIONS.c.name.label("connection_name"))
    .join(RULES, RULES.c.id == RUNS.c.rule_id)
    .join(
        RULE_VERSIONS,
        sa.and_(
            RULE_VERSIONS.c.rule_id == RUNS.c.rule_id,
            RULE_VERSIONS.c.version == sa.func.coalesce(RUNS.c.rule_version, RULES.c.version),
        ),
    )
    .join(CONNECTIONS, CONNECTIONS.c.id == RUNS.c.connection_id)
)


def _run(row: Any) -> Run:
    return Run(
        id=row.id,
        rule_id=row.rule_id,
        rule_name=row.terms["name"],
        rule_version=row.rule_version,
        connection_id=row.connection_id,
        connection_name=row.connection_name,
        asked_by=row.asked_by,
        due_at=row.due_at,
        dry_run=row.dry_run,
        rehearsal=row.dry_run or row.terms["dry_run"],
        accept_population=row.accept_population,
        status=row.status,
        requested_at=row.requested_at,
        started_at=row.started_at,
        ended_at=row.ended_at,
        expected=row.expected,
        pages=row.pages,
        seen=row.seen,
        used=row.used,
        flagged=row.flagged,
        left_alone=row.left_alone,
        missing=row.missing,
        stale=row.stale,
        uncompared=row.uncompared,
        reason=row.reason,
        remedy=row.remedy,
        acceptable=row.acceptable,
        attempts=row.attempts,
    )


async def runs(db: AsyncConnection, *, rule_id: str | None = None, limit: int = 100) -> list[Run]:
    """Return runs, the newest first."""
    query = _RUN.order_by(RUNS.c.requested_at.desc(), RUNS.c.id.desc()).limit(limit)
    if rule_id is not None:
        query = query.where(RUNS.c.rule_id == rule_id)
    return [_run(row) for row in await db.execute(query)]


async def find_run(db: AsyncConnection, run_id: str) -> Run | None:
    """Return one run, if there is one of that id."""
    row = (await db.execute(_RUN.where(RUNS.c.id == run_id))).one_or_none()
    return None if row is None else _run(row)


async def run(db: AsyncConnection, run_id: str) -> Run:
    """Return one run; NotFound if there is none of that id."""
    found = await find_run(db, run_id)
    if found is None:
        raise NotFound("There is no such scan.")
    return found


async def last_finished(db: AsyncConnection) -> list[Run]:
    """Return the newest finished run of each rule."""
    newest = (
        sa.select(RUNS.c.id, sa.func.row_number().over(partition_by=RUNS.c.rule_id, order_by=_NEWEST).label("nth"))
        .where(RUNS.c.status == "finished")
        .subquery()
    )
    query = _RUN.join(newest, newest.c.id == RUNS.c.id).where(newest.c.nth == 1).order_by(RULES.c.name_key)
    return [_run(row) for row in await db.execute(query)]


_NEWEST = (RUNS.c.ended_at.desc(), RUNS.c.id.desc())


def _run_values(rule: Rule, *, asked_by: str, dry_run: bool, now: datetime) -> dict[str, Any]:
    return {
        "id": new_id(),
        "rule_id": rule.id,
        "connection_id": rule.connection_id,
        "asked_by": asked_by,
        "dry_run": dry_run,
        "accept_population": False,
        "acceptable": False,
        "status": "queued",
        "requested_at": now,
        "products": [],
        "expected": 0,
        "pages": 0,
        "seen": 0,
        "used": 0,
        "flagged": 0,
        "left_alone": {},
        "missing": {},
        "stale": [],
        "attempts": 0,
        "look_at": wall_milliseconds(),
    }


async def add_run(
    db: AsyncConnection,
    rule: Rule,
    *,
    run_id: str,
    asked_by: str,
    dry_run: bool,
    accept_population: bool,
    now: datetime,
) -> Run:
    """Enqueue a scan that a person asked for."""
    values = _run_values(rule, asked_by=asked_by, dry_run=dry_run, now=now)
    values |= {"id": run_id, "accept_population": accept_population}
    await db.execute(sa.insert(RUNS).values(values))
    return await run(db, run_id)


async def add_due_run(db: AsyncConnection, rule: Rule, *, due_at: datetime, now: datetime) -> bool:
    """Enqueue the scan that a schedule asks for at one instant; False if it was enqueued before, or one is under way.

    A rule whose last scan still runs is not scanned a second time: the schedule's next instant is soon enough.
    """
    await db.execute(sa.update(RULES).where(RULES.c.id == rule.id).values(scheduled_until=due_at))
    busy = await db.execute(
        sa.select(RUNS.c.id).where(RUNS.c.rule_id == rule.id, RUNS.c.status.in_(UNDER_WAY)).limit(1)
    )
    if busy.first() is not None:
        return False
    values = {**_run_values(rule, asked_by="schedule", dry_run=False, now=now), "due_at": due_at}
    added = await db.execute(_insert(db, RUNS).values(values).on_conflict_do_nothing().returning(RUNS.c.id))
    return added.first() is not None


_WAITS: Final = sa.select(RUNS.c.id).where(RUNS.c.look_at <= sa.bindparam("now")).limit(1)


async def anything_to_claim(db: AsyncConnection) -> bool:
    """Tell whether a run waits to be worked on; cheaper than trying to claim one."""
    return (await db.execute(_WAITS, {"now": wall_milliseconds()})).first() is not None


async def claim_run(db: AsyncConnection, *, lease_seconds: float, now: datetime) -> Claim | None:
    """Take the longest waiting run, or one whose process died, and start its counts anew."""
    row = (
        await db.execute(
            sa.select(RUNS.c.id, RUNS.c.attempts)
            .where(RUNS.c.look_at <= wall_milliseconds())
            .order_by(RUNS.c.look_at, RUNS.c.id)
            .limit(1)
            .with_for_update(skip_locked=True)
        )
    ).one_or_none()
    if row is None:
        return None
    claim = Claim(row.id, new_id(), row.attempts + 1)
    await db.execute(sa.delete(PAGES).where(PAGES.c.run_id == row.id))
    await db.execute(
        sa.update(RUNS)
        .where(RUNS.c.id == row.id)
        .values(
            status="running",
            started_at=sa.func.coalesce(RUNS.c.started_at, sa.literal(now, UtcDateTime)),
            attempts=claim.attempt,
            lease=claim.lease,
            look_at=wall_milliseconds() + int(lease_seconds * 1000),
            pages=0,
            seen=0,
            used=0,
            flagged=0,
            left_alone={},
            missing={},
            stale=[],
            uncompared=None,
            reason=None,
            remedy=None,
            acceptable=False,
        )
    )
    return claim


async def update_run(db: AsyncConnection, claim: Claim, values: Mapping[str, Any]) -> None:
    """Write to a claimed run.

    Raises:
        LeaseLost: the run is another process's now.
    """
    changed = await db.execute(
        sa.update(RUNS).where(RUNS.c.id == claim.run_id, RUNS.c.lease == claim.lease).values(dict(values))
    )
    if changed.rowcount == 0:
        raise LeaseLost(claim.run_id)


def lease_until(lease_seconds: float) -> dict[str, Any]:
    """Return what keeps a run claimed for so many seconds from now."""
    return {"look_at": wall_milliseconds() + int(lease_seconds * 1000)}


def waiting(seconds: float, reason: str, remedy: str) -> dict[str, Any]:
    """Return what lets a run rest for so many seconds and then be claimed anew."""
    look_at = wall_milliseconds() + int(seconds * 1000)
    return {"status": "waiting", "lease": None, "look_at": look_at, "reason": reason, "remedy": remedy}


def handed_back() -> dict[str, Any]:
    """Return what lets another process claim a run at once."""
    return {"status": "queued", "lease": None, "look_at": wall_milliseconds()}


def ended(status: str, now: datetime, reason: str | None = None, remedy: str | None = None) -> dict[str, Any]:
    """Return what ends a run: nobody claims it any more."""
    return {
        "status": status, "ended_at": now, "lease": None, "look_at": None, "reason": reason, "remedy": remedy
    }  # fmt: skip


def progress(tally: Tally) -> dict[str, Any]:
    """Return the counts of a reading as a run's columns."""
    return {
        "expected": tally.expected,
        "pages": tally.pages,
        "seen": tally.seen,
        "used": tally.used,
        "flagged": tally.flagged,
        "left_alone": dict(tally.left_alone),
        "missing": tally.missing,
        "stale": tally.stale,
    }


async def baseline(db: AsyncConnection, rule_id: str, connection_id: str) -> Baseline | None:
    """Return what the last good scan of a rule read, and what we ourselves changed since; None if there is none.

    With it comes the highest population that scans of the same products had in the `WATCHED` before: since the last one
    of which a person accepted that it was another.
    """
    finished = sa.and_(RUNS.c.rule_id == rule_id, RUNS.c.status == "finished")
    last = (await db.execute(sa.select(RUNS).where(finished).order_by(*_NEWEST).limit(1))).one_or_none()
    if last is None:
        return None
    highest = last
    earlier = await db.execute(
        sa.select(
            RUNS.c.products,
            RUNS.c.suites,
            RUNS.c.expected,
            RUNS.c.seen,
            RUNS.c.started_at,
            RUNS.c.accept_population,
        )
        .where(finished, RUNS.c.ended_at >= last.ended_at - WATCHED)
        .order_by(*_NEWEST)
    )
    for row in earlier:
        # One that recorded no suites counted none as one, as far as that is known.
        if (row.products, row.suites or []) != (last.products, last.suites or []):
            break
        if row.seen > highest.seen:
            highest = row
        if row.accept_population:
            break
    products = tuple(last.products)
    reactivated = await db.execute(
        sa.select(sa.func.count()).where(
            HOLDS.c.connection_id == connection_id,
            HOLDS.c.product.in_(products),
            HOLDS.c.cause == "reactivated",
            HOLDS.c.since >= last.started_at,
            HOLDS.c.dry_run.is_(False),
        )
    )
    return Baseline(
        products,
        last.expected,
        last.seen,
        await _reclaimed(db, connection_id, products, last.started_at),
        reactivated.scalar_one(),
        suites=None if last.suites is None else tuple(last.suites),
        highest=Highest(
            highest.expected,
            highest.seen,
            highest.started_at,
            await _reclaimed(db, connection_id, products, highest.started_at),
        ),
    )


async def _reclaimed(db: AsyncConnection, connection_id: str, products: Collection[str], since: datetime) -> int:
    """Return how many seats of some products we ourselves freed since an instant."""
    counted = await db.execute(
        sa.select(sa.func.count()).where(
            CANDIDATES.c.connection_id == connection_id,
            CANDIDATES.c.product.in_(products),
            CANDIDATES.c.outcome == "reclaimed",
            CANDIDATES.c.closed_at >= since,
            CANDIDATES.c.dry_run.is_(False),
        )
    )
    return counted.scalar_one()


# ------------------------------------------------------------------------------------------------ found seats

_found = msgspec.msgpack.Decoder(list[Found])


async def keep_page(db: AsyncConnection, run_id: str, page: int, found: Sequence[Found]) -> None:
    """Keep what a page flagged until everybody has been read."""
    await db.execute(sa.insert(PAGES).values(run_id=run_id, page=page, found=msgspec.msgpack.encode(list(found))))


async def take_page(db: AsyncConnection, run_id: str) -> list[Found] | None:
    """Remove and return the next kept page; None when all were taken."""
    row = (
        await db.execute(sa.select(PAGES).where(PAGES.c.run_id == run_id).order_by(PAGES.c.page).limit(1))
    ).one_or_none()
    if row is None:
        return None
    await db.execute(sa.delete(PAGES).where(PAGES.c.run_id == run_id, PAGES.c.page == row.page))
    return _found.decode(row.found)


@cache
def _open_cases(*, of_run: bool) -> sa.CompoundSelect[Any]:
    # PostgreSQL makes a join of a plain IN. It expects few texts, and as few cases as there were when it last analysed
    # the table: while a scan opens thousands, that is every holder against every case. What is asked to be true it
    # looks up. Those of a run are asked for apart: each has its own index.
    theirs = among(CANDIDATES.c.holder_id, given("holders")).is_(sa.true())
    which: list[sa.ColumnElement[bool]] = [CANDIDATES.c.closed_at.is_(None)]
    if of_run:
        which.append(CANDIDATES.c.run_id == sa.bindparam("run"))
    cases = [
        sa.select(
            CANDIDATES.c.run_id,
            CANDIDATES.c.holder_id,
            CANDIDATES.c.product,
            CANDIDATES.c.flagged_at,
            CANDIDATES.c.dry_run,
        ).where(CANDIDATES.c.connection_id == sa.bindparam("connection"), theirs, one)
        for one in which
    ]
    return sa.union_all(*cases)


async def held(
    db: AsyncConnection,
    connection_id: str,
    holders: Collection[str],
    *,
    cooldown_days: int,
    now: datetime,
    run_id: str | None = None,
) -> Held:
    """Return what keeps seats of these holders from being flagged: an open case, a recent keep or reactivation."""
    back: dict[SeatKey, str] = {}
    rows = await db.execute(
        sa.select(HOLDS).where(
            HOLDS.c.connection_id == connection_id,
            HOLDS.c.since > now - timedelta(days=cooldown_days),
            among(HOLDS.c.holder_id, holders),
        )
    )
    for row in rows:
        again = row.since + timedelta(days=cooldown_days)
        back[row.holder_id, row.product] = f"{row.cause} on {row.since:%Y-%m-%d}; asked again from {again:%Y-%m-%d}"
    flagged: set[SeatKey] = set()
    asked = {"connection": connection_id, "holders": holders} | ({"run": run_id} if run_id is not None else {})
    for row in await db.execute(_open_cases(of_run=run_id is not None), asked):
        key = (row.holder_id, row.product)
        if run_id is not None and row.run_id == run_id:
            flagged.add(key)
        else:
            kind = "a dry-run case" if row.dry_run else "a case"
            back[key] = f"{kind} is open since {row.flagged_at:%Y-%m-%d}"
    return Held(back, flagged)


async def open_candidates(
    db: AsyncConnection, run_id: str, found: Mapping[str, Found], *, rule: Rule, dry_run: bool, now: datetime
) -> set[str]:
    """Open a case for each seat (by new case id) and return the ids of those that had none open already."""
    rows = [
        {
            "id": case_id,
            "run_id": run_id,
            "rule_id": rule.id,
            "rule_version": rule.version,
            "connection_id": seat.seat.connection_id,
            "holder_id": seat.seat.holder.id,
            "holder_name": seat.seat.holder.name,
            "holder_email": seat.seat.holder.email,
            "department": seat.seat.department,
            "product": seat.seat.product,
            "product_name": seat.seat.product_name,
            "price": None if seat.seat.price is None else seat.seat.price.amount,
            "currency": None if seat.seat.price is None else seat.seat.price.currency,
            "approver": msgspec.to_builtins(seat.approver),
            "findings": msgspec.to_builtins(seat.findings),
            "last_used_at": seat.last_used_at,
            "flagged_at": now,
            "dry_run": dry_run,
            "devices": list(seat.seat.devices),
        }
        # In one order everywhere, so that two runs never wait for one another.
        for case_id, seat in sorted(found.items(), key=lambda item: item[1].key)
    ]
    if not rows:
        return set()
    statement = _insert(db, CANDIDATES).on_conflict_do_nothing().returning(CANDIDATES.c.id)
    return set((await db.execute(statement, rows)).scalars())


async def flagged_by(db: AsyncConnection, run_id: str) -> int:
    """Return how many cases a run opened, over all its attempts."""
    counted = await db.execute(sa.select(sa.func.count()).where(CANDIDATES.c.run_id == run_id))
    return counted.scalar_one()


# ------------------------------------------------------------------------------------------------ candidates


@dataclass(frozen=True, slots=True)
class Candidate:
    """A flagged seat: the scanner's record of a case. `outcome` is None as long as the case is open."""

    case_id: str
    run_id: str
    rule_id: str
    rule_version: int
    connection_id: str
    holder: Person
    department: str | None
    product: str
    product_name: str
    price: Money | None
    approver: Person | None
    findings: tuple[CheckFinding, ...]
    last_used_at: datetime | None
    flagged_at: datetime
    dry_run: bool
    closed_at: datetime | None
    outcome: Outcome | None
    devices: tuple[str, ...]


def _candidate(row: Any) -> Candidate:
    return Candidate(
        case_id=row.id,
        run_id=row.run_id,
        rule_id=row.rule_id,
        rule_version=row.rule_version,
        connection_id=row.connection_id,
        holder=Person(id=row.holder_id, name=row.holder_name, email=row.holder_email),
        department=row.department,
        product=row.product,
        product_name=row.product_name,
        price=None if row.price is None else Money(amount=row.price, currency=row.currency),
        approver=msgspec.convert(row.approver, Person | None),
        findings=msgspec.convert(row.findings, tuple[CheckFinding, ...]),
        last_used_at=row.last_used_at,
        flagged_at=row.flagged_at,
        dry_run=row.dry_run,
        closed_at=row.closed_at,
        outcome=row.outcome,
        devices=tuple(row.devices),
    )


async def candidates(
    db: AsyncConnection,
    *,
    rule_id: str | None = None,
    run_id: str | None = None,
    is_open: bool | None = None,
    after: str | None = None,
    limit: int = 100,
) -> list[Candidate]:
    """Return flagged seats by case id (the order they were flagged in), from behind `after` on."""
    query = sa.select(CANDIDATES).order_by(CANDIDATES.c.id).limit(limit)
    if rule_id is not None:
        query = query.where(CANDIDATES.c.rule_id == rule_id)
    if run_id is not None:
        query = query.where(CANDIDATES.c.run_id == run_id)
    if is_open is not None:
        query = query.where(OPEN if is_open else CANDIDATES.c.closed_at.is_not(None))
    if after is not None:
        query = query.where(CANDIDATES.c.id > after)
    return [_candidate(row) for row in await db.execute(query)]


async def open_count(db: AsyncConnection) -> int:
    """Return how many cases are open."""
    return (await db.execute(sa.select(sa.func.count()).select_from(CANDIDATES).where(OPEN))).scalar_one()


async def yearly_of(db: AsyncConnection, run_id: str) -> list[Money]:
    """Return what the seats that a run flagged cost a year, one amount per currency."""
    rows = await db.execute(
        sa.select(CANDIDATES.c.currency, sa.func.sum(CANDIDATES.c.price).label("monthly"))
        .where(CANDIDATES.c.run_id == run_id, CANDIDATES.c.price.is_not(None))
        .group_by(CANDIDATES.c.currency)
        .order_by(CANDIDATES.c.currency)
    )
    return [Money(amount=Decimal(row.monthly) * 12, currency=row.currency) for row in rows]


@dataclass(frozen=True, slots=True)
class Closed:
    """How a case ended."""

    case_id: str
    outcome: Outcome
    closed_at: datetime


async def close_cases(db: AsyncConnection, closed: Sequence[Closed]) -> set[str]:
    """Free the seats of these cases, hold back those that are to stay with their holders; return the ids known here."""
    by_id = {case.case_id: case for case in closed}
    rows = (
        await db.execute(
            sa.select(
                CANDIDATES.c.id,
                CANDIDATES.c.connection_id,
                CANDIDATES.c.holder_id,
                CANDIDATES.c.product,
                CANDIDATES.c.dry_run,
            ).where(among(CANDIDATES.c.id, by_id))
        )
    ).all()
    if not rows:
        return set()
    await db.execute(
        sa.update(CANDIDATES)
        .where(CANDIDATES.c.id == sa.bindparam("case"), OPEN)
        .values(closed_at=sa.bindparam("at"), outcome=sa.bindparam("how")),
        [{"case": row.id, "at": by_id[row.id].closed_at, "how": by_id[row.id].outcome} for row in rows],
    )
    await hold_back(
        db,
        [
            Hold(row.connection_id, row.holder_id, row.product, case.outcome, case.closed_at, row.dry_run)
            for row in rows
            if (case := by_id[row.id]).outcome in ("kept", "restored")
        ],
    )
    return {row.id for row in rows}


@dataclass(frozen=True, slots=True)
class Hold:
    """A seat that somebody said is needed: it is not flagged again for the time each rule sets."""

    connection_id: str
    holder_id: str
    product: str
    cause: str
    since: datetime
    dry_run: bool


async def hold_back(db: AsyncConnection, holds: Sequence[Hold]) -> None:
    """Remember the latest of the holds of each seat, in whichever order they become known."""
    if not holds:
        return
    statement = _insert(db, HOLDS)
    statement = statement.on_conflict_do_update(
        index_elements=[HOLDS.c.connection_id, HOLDS.c.holder_id, HOLDS.c.product],
        set_={name: statement.excluded[name] for name in ("cause", "since", "dry_run")},
        where=statement.excluded.since > HOLDS.c.since,
    )
    await db.execute(
        statement,
        [
            {
                "connection_id": hold.connection_id,
                "holder_id": hold.holder_id,
                "product": hold.product,
                "cause": hold.cause,
                "since": hold.since,
                "dry_run": hold.dry_run,
            }
            for hold in sorted(holds, key=lambda hold: (hold.connection_id, hold.holder_id, hold.product))
        ],
    )
