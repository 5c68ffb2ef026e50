"""Every statement about brakes: limits, permits, trips with their overrides, canaries, and the kill switch.

A connection has one row for its live cases and one for its dry ones in `brake`. Whoever counts or changes permits has
locked it (SQLite has one writer anyway), so that no two processes can take the last permit. Cases are locked before it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, cast

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from reclaim.common.contracts import UserFlagged
from reclaim.common.db import UtcDateTime, among, insert_many
from reclaim.common.ids import new_id
from reclaim.common.timing import wall_milliseconds
from reclaim.lifecycle.brakes import (
    PERMIT_HOLDS,
    STEP_OF,
    WINDOWS,
    Canary,
    Cap,
    Ledger,
    Limits,
    Permit,
    Request,
    Scope,
    Step,
    Stop,
    Switch,
    Tripped,
)
from reclaim.lifecycle.domain import Case
from reclaim.lifecycle.store import CASE, CONNECTION, EFFECT, Claimed, decode_case, metadata

BRAKE: Final = sa.Table(
    "brake",
    metadata,
    sa.Column("connection_id", sa.Text, primary_key=True),
    sa.Column("dry_run", sa.Boolean, primary_key=True),
)

LIMIT: Final = sa.Table(
    "brake_limit",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("connection_id", sa.Text, nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("run_most", sa.Integer, nullable=False),
    sa.Column("run_share", sa.Integer, nullable=False),
    sa.Column("day_most", sa.Integer, nullable=False),
    sa.Column("day_share", sa.Integer, nullable=False),
    sa.Column("month_most", sa.Integer, nullable=False),
    sa.Column("month_share", sa.Integer, nullable=False),
    sa.Column("canary", sa.Integer, nullable=False),
    sa.Column("set_by", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("set_at", UtcDateTime, nullable=False),
    sa.Index("brake_limit_number", "connection_id", "number", unique=True),
)

SEATS: Final = sa.Table(
    "brake_seats",
    metadata,
    sa.Column("connection_id", sa.Text, primary_key=True),
    sa.Column("product", sa.Text, primary_key=True),
    sa.Column("seats", sa.Integer, nullable=False),
    sa.Column("seen_at", UtcDateTime, nullable=False),
)

PERMIT: Final = sa.Table(
    "brake_permit",
    metadata,
    sa.Column("case_id", sa.Text, primary_key=True),
    sa.Column("step", sa.Text, primary_key=True),
    sa.Column("connection_id", sa.Text, nullable=False),
    sa.Column("dry_run", sa.Boolean, nullable=False),
    sa.Column("run_id", sa.Text),
    sa.Column("rule_id", sa.Text, nullable=False),
    sa.Column("rule_version", sa.Integer, nullable=False),
    sa.Column("override_id", sa.Text),
    sa.Column("taken_at", UtcDateTime, nullable=False),
    sa.Index("brake_permit_window", "connection_id", "dry_run", "taken_at"),
    sa.Index("brake_permit_run", "connection_id", "run_id"),
    sa.Index("brake_permit_rule", "rule_id", "rule_version"),
)

TRIP: Final = sa.Table(
    "brake_trip",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("connection_id", sa.Text, nullable=False),
    sa.Column("dry_run", sa.Boolean, nullable=False),
    sa.Column("cap", sa.Text, nullable=False),
    sa.Column("step", sa.Text, nullable=False),
    sa.Column("scope", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("used", sa.Integer, nullable=False),
    sa.Column("allowed", sa.Integer, nullable=False),
    sa.Column("tripped_at", UtcDateTime, nullable=False),
    sa.Column("closed_at", UtcDateTime),
    sa.Column("closed_by", sa.Text, nullable=False),
    sa.Column("closed_how", sa.Text, nullable=False),
    sa.Index(
        "brake_trip_open",
        "connection_id",
        "dry_run",
        "cap",
        "step",
        "scope",
        unique=True,
        sqlite_where=sa.text("closed_at IS NULL"),
        postgresql_where=sa.text("closed_at IS NULL"),
    ),
)

HELD: Final = sa.Table(
    "brake_held",
    metadata,
    sa.Column("trip_id", sa.Text, primary_key=True),
    sa.Column("case_id", sa.Text, primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("override_id", sa.Text),
)

OVERRIDE: Final = sa.Table(
    "brake_override",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("trip_id", sa.Text, nullable=False, index=True),
    sa.Column("cases", sa.Integer, nullable=False),
    sa.Column("asked_by", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("asked_at", UtcDateTime, nullable=False),
    sa.Column("approved_by", sa.Text),
    sa.Column("approved_at", UtcDateTime),
    sa.Column("let_through", sa.Integer, nullable=False),
)

CANARY: Final = sa.Table(
    "brake_canary",
    metadata,
    sa.Column("rule_id", sa.Text, primary_key=True),
    sa.Column("rule_version", sa.Integer, primary_key=True),
    sa.Column("connection_id", sa.Text, nullable=False),
    sa.Column("rule_name", sa.Text, nullable=False),
    sa.Column("size", sa.Integer, nullable=False),
    sa.Column("started_at", UtcDateTime, nullable=False),
    sa.Column("confirmed_by", sa.Text),
    sa.Column("confirmed_at", UtcDateTime),
)

SWITCH: Final = sa.Table(
    "kill_switch",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("scope", sa.Text, nullable=False),
    sa.Column("target", sa.Text, nullable=False),
    sa.Column("engaged_by", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("engaged_at", UtcDateTime, nullable=False),
    sa.Column("released_by", sa.Text),
    sa.Column("release_reason", sa.Text),
    sa.Column("released_at", UtcDateTime),
    sa.Index(
        "kill_switch_engaged",
        "scope",
        "target",
        unique=True,
        sqlite_where=sa.text("released_at IS NULL"),
        postgresql_where=sa.text("released_at IS NULL"),
    ),
)

SEATS_COUNT: Final = timedelta(days=35)
"""How long the seats of a product count that no scan has flagged since: longer than the longest window of a limit, so
that what is counted against it was a share of the same seats."""

HOLD: Final = 5_000
"""Milliseconds until an effect that the kill switch holds is looked at again."""


# Seats and limits.


async def learn_seats(db: AsyncConnection, flagged: Sequence[UserFlagged]) -> None:
    """Remember how many seats a scan saw; what an older scan saw is ignored."""
    seen: dict[tuple[str, str], tuple[int, datetime]] = {}
    for one in flagged:
        key = (one.seat.connection_id, one.seat.product)
        if one.seats_total is not None and (key not in seen or seen[key][1] <= one.flagged_at):
            seen[key] = (one.seats_total, one.flagged_at)
    if not seen:
        return
    statement = sa.text(
        "INSERT INTO brake_seats (connection_id, product, seats, seen_at) VALUES (:connection, :product, :seats, :at) "
        "ON CONFLICT (connection_id, product) DO UPDATE SET seats = excluded.seats, seen_at = excluded.seen_at "
        "WHERE brake_seats.seen_at <= excluded.seen_at"
    ).bindparams(sa.bindparam("at", type_=UtcDateTime))
    # In one order, so that two batches never wait for each other.
    rows = [
        {"connection": connection, "product": product, "seats": seats, "at": at}
        for (connection, product), (seats, at) in sorted(seen.items())
    ]
    await db.execute(statement, rows)


async def seats_of(db: AsyncConnection, connection_id: str, now: datetime) -> int | None:
    """Return how many seats a connection has, over the products in which scans flagged some of late; None before the
    first.

    A product that seats were moved away from is flagged no more, and nothing else tells that its seats are gone: what
    was seen longer ago than `SEATS_COUNT` counts only as long as nothing was seen since.
    """
    mine = SEATS.c.connection_id == connection_id
    newest = sa.select(sa.func.max(SEATS.c.seen_at)).where(mine).scalar_subquery()
    total = sa.select(sa.func.sum(SEATS.c.seats)).where(
        mine, sa.or_(SEATS.c.seen_at > now - SEATS_COUNT, SEATS.c.seen_at == newest)
    )
    found = (await db.execute(total)).scalar_one()
    return None if found is None else int(found)


async def limits_of(db: AsyncConnection, connection_id: str) -> sa.Row[Any] | None:
    """Return the limits that were set last for a connection, with who set them; None if the defaults hold."""
    latest = sa.select(LIMIT).where(LIMIT.c.connection_id == connection_id).order_by(LIMIT.c.number.desc()).limit(1)
    return (await db.execute(latest)).one_or_none()


def as_limits(row: sa.Row[Any] | None, defaults: Limits) -> Limits:
    """Return the limits of a stored row, or the defaults."""
    if row is None:
        return defaults
    return Limits(row.run_most, row.run_share, row.day_most, row.day_share, row.month_most, row.month_share, row.canary)


async def set_limits(
    db: AsyncConnection, connection_id: str, figures: Mapping[str, int], *, by: str, reason: str, now: datetime
) -> None:
    """Store new limits beside the old ones, which stay on record.

    They are numbered with both of the connection's brakes locked: the clocks of two hosts cannot say which came last,
    and once this has committed nobody is still taking permits under the old ones.
    """
    for dry_run in (False, True):
        await lock(db, connection_id, dry_run=dry_run)
    mine = sa.select(sa.func.coalesce(sa.func.max(LIMIT.c.number), 0)).where(LIMIT.c.connection_id == connection_id)
    number = (await db.execute(mine)).scalar_one() + 1
    row = {"id": new_id(), "connection_id": connection_id, "number": number}
    row |= {"set_by": by, "reason": reason, "set_at": now, **figures}
    await db.execute(sa.insert(LIMIT).values(row))


# Permits.


_PLACE: Final = sa.text("INSERT INTO brake (connection_id, dry_run) VALUES (:connection, :dry) ON CONFLICT DO NOTHING")
_LOCK: Final = (
    sa.select(BRAKE)
    .where(BRAKE.c.connection_id == sa.bindparam("connection"), BRAKE.c.dry_run == sa.bindparam("dry"))
    .with_for_update()
)


async def lock(db: AsyncConnection, connection_id: str, *, dry_run: bool) -> None:
    """Lock a connection's brake until the transaction ends. Cases that are needed are locked before."""
    mine = {"connection": connection_id, "dry": dry_run}
    await db.execute(_PLACE, mine)
    await db.execute(_LOCK, mine)


async def ledger(
    db: AsyncConnection,
    connection_id: str,
    *,
    dry_run: bool,
    limits: Limits,
    requests: Sequence[Request],
    now: datetime,
) -> Ledger:
    """Return what has been taken on a connection, as far as these requests need to know; the brake must be locked."""
    wanted = {(request.case_id, request.step) for request in requests}
    mine = [
        *(
            await db.execute(
                sa.select(PERMIT.c.case_id, PERMIT.c.step, PERMIT.c.taken_at).where(
                    among(PERMIT.c.case_id, {case_id for case_id, _ in wanted})
                )
            )
        ).tuples()
    ]
    fresh = frozenset((case, step) for case, step, at in mine if abs(now - at) <= PERMIT_HOLDS)
    # A permit that is too old to serve again is about to be replaced by a new one, and must not count beside it.
    stale = {(case, step) for case, step, _ in mine} & wanted - fresh
    others = PERMIT.c.case_id.not_in(sorted(case for case, _ in stale)) if stale else sa.true()
    where = sa.and_(PERMIT.c.connection_id == connection_id, PERMIT.c.dry_run == dry_run, others)
    windows = await count_windows(db, where, now)
    runs = {request.run_id for request in requests if request.run_id is not None}
    by_run = await db.execute(
        sa.select(PERMIT.c.step, PERMIT.c.run_id, sa.func.count())
        .where(where, PERMIT.c.run_id.in_(sorted(runs)))
        .group_by(PERMIT.c.step, PERMIT.c.run_id)
    )
    rules = {(request.rule_id, request.rule_version) for request in requests}
    tripped = await db.execute(
        sa.select(TRIP.c.cap, TRIP.c.step, TRIP.c.scope).where(
            TRIP.c.connection_id == connection_id, TRIP.c.dry_run == dry_run, TRIP.c.closed_at.is_(None)
        )
    )
    return Ledger(
        limits=limits,
        seats=await seats_of(db, connection_id, now),
        runs=Counter({(cast("Step", step), str(run)): count for step, run, count in by_run.tuples()}),
        windows=windows,
        rules=await _count_rules(db, where, requests, now),
        canaries={} if dry_run else await _canaries(db, rules, others),
        open=frozenset(cast("Tripped", (cap, step, scope)) for cap, step, scope in tripped.tuples()),
        permits=cast("frozenset[tuple[str, Step]]", fresh),
    )


async def count_windows(db: AsyncConnection, where: sa.ColumnElement[bool], now: datetime) -> Counter[tuple[Cap, Step]]:
    """Count the permits of each window and step."""
    windows: Counter[tuple[Cap, Step]] = Counter()
    for cap, length in WINDOWS.items():
        rows = await db.execute(
            sa.select(PERMIT.c.step, sa.func.count())
            .where(where, PERMIT.c.taken_at > now - length)
            .group_by(PERMIT.c.step)
        )
        windows.update({(cap, step): count for step, count in rows.tuples()})
    return windows


async def _count_rules(
    db: AsyncConnection, where: sa.ColumnElement[bool], requests: Sequence[Request], now: datetime
) -> Counter[Tripped]:
    """Count the permits of each window, step and rule, for the rules that say how many they take at most."""
    rules: Counter[Tripped] = Counter()
    for cap, length in WINDOWS.items():
        limited = {request.rule_id for request in requests if request.own_cap(cap) is not None}
        if limited:
            rows = await db.execute(
                sa.select(PERMIT.c.step, PERMIT.c.rule_id, sa.func.count())
                .where(where, PERMIT.c.taken_at > now - length, PERMIT.c.rule_id.in_(sorted(limited)))
                .group_by(PERMIT.c.step, PERMIT.c.rule_id)
            )
            rules.update({(cap, cast("Step", step), rule): count for step, rule, count in rows.tuples()})
    return rules


def of_connection(connection_id: str, *, dry_run: bool) -> sa.ColumnElement[bool]:
    """Return the condition for the permits of one connection."""
    return sa.and_(PERMIT.c.connection_id == connection_id, PERMIT.c.dry_run == dry_run)


async def latest_run(db: AsyncConnection, connection_id: str) -> tuple[str, Counter[Step]] | None:
    """Return the run that took the last live permit, and how many it took of each step."""
    live = sa.and_(of_connection(connection_id, dry_run=False), PERMIT.c.run_id.is_not(None))
    latest = sa.select(PERMIT.c.run_id).where(live).order_by(PERMIT.c.taken_at.desc()).limit(1)
    run_id = (await db.execute(latest)).scalar_one_or_none()
    if run_id is None:
        return None
    rows = await db.execute(
        sa.select(PERMIT.c.step, sa.func.count()).where(live, PERMIT.c.run_id == run_id).group_by(PERMIT.c.step)
    )
    return str(run_id), Counter({cast("Step", step): count for step, count in rows.tuples()})


async def _canaries(
    db: AsyncConnection, rules: Collection[tuple[str, int]], others: sa.ColumnElement[bool]
) -> dict[str, Canary]:
    found: dict[str, Canary] = {}
    for rule_id, version in sorted(rules):
        stored = await canary(db, rule_id, version)
        if stored is None:
            continue
        frozen = sa.select(sa.func.count()).select_from(PERMIT)
        frozen = frozen.where(_of_rule(PERMIT, rule_id, version), PERMIT.c.step == "freeze", others)
        count = int((await db.execute(frozen.where(sa.not_(PERMIT.c.dry_run)))).scalar_one())
        found[f"{rule_id}/{version}"] = Canary(count, stored.size, stored.confirmed_at is not None)
    return found


def _of_rule(table: sa.Table, rule_id: str, version: int) -> sa.ColumnElement[bool]:
    return sa.and_(table.c.rule_id == rule_id, table.c.rule_version == version)


async def add_permits(
    db: AsyncConnection,
    taken: Sequence[Permit],
    cases: Mapping[str, Case],
    limits: Limits,
    now: datetime,
    *,
    override_id: str | None = None,
) -> None:
    """Store permits that were granted, and the canary that the first live freeze of a rule's version begins."""
    await insert_many(
        db,
        PERMIT,
        [
            {
                "case_id": permit.request.case_id,
                "step": permit.request.step,
                "connection_id": cases[permit.request.case_id].seat.connection_id,
                "dry_run": permit.request.dry_run,
                "run_id": permit.request.run_id,
                "rule_id": permit.request.rule_id,
                "rule_version": permit.request.rule_version,
                "override_id": override_id,
                "taken_at": now,
            }
            for permit in taken
        ],
        replacing=("case_id", "step"),
    )
    begun = {
        permit.request.rule: cases[permit.request.case_id]
        for permit in taken
        if permit.request.step == "freeze" and not permit.request.dry_run
    }
    for _, case in sorted(begun.items()):
        await db.execute(
            sa.text(
                "INSERT INTO brake_canary (rule_id, rule_version, connection_id, rule_name, size, started_at) "
                "VALUES (:rule, :version, :connection, :name, :size, :now) ON CONFLICT DO NOTHING"
            ).bindparams(sa.bindparam("now", type_=UtcDateTime)),
            {
                "rule": case.policy.rule_id,
                "version": case.policy.rule_version,
                "connection": case.seat.connection_id,
                "name": case.policy.rule_name,
                "size": limits.canary,
                "now": now,
            },
        )


async def renew_permits(db: AsyncConnection, requests: Sequence[Request], now: datetime) -> None:
    """Let the permits of these requests, all for one step, count from now on: now is when the step may be taken."""
    if requests:
        which = among(PERMIT.c.case_id, {request.case_id for request in requests})
        mine = sa.and_(which, PERMIT.c.step == requests[0].step, PERMIT.c.taken_at < now)
        await db.execute(sa.update(PERMIT).where(mine).values(taken_at=now))


def request_of(case: Case, step: Step) -> Request:
    """Return what a case asks for."""
    policy = case.policy
    return Request(
        case.id,
        step,
        case.run_id,
        policy.rule_id,
        policy.rule_version,
        policy.dry_run,
        policy.most_a_day,
        policy.most_a_month,
    )


# Trips.


async def hold(
    db: AsyncConnection, connection_id: str, stops: Sequence[tuple[Stop, Case]], *, dry_run: bool, now: datetime
) -> None:
    """Note which cases, as they stand now, a brake holds; the brake trips if it had not yet."""
    trips = {
        cast("Tripped", (row.cap, row.step, row.scope)): row.id
        for row in await db.execute(
            sa.select(TRIP).where(
                TRIP.c.connection_id == connection_id, TRIP.c.dry_run == dry_run, TRIP.c.closed_at.is_(None)
            )
        )
    }
    for stop, _ in stops:
        if stop.tripped not in trips:
            trips[stop.tripped] = new_id()
            row = {
                "id": trips[stop.tripped],
                "connection_id": connection_id,
                "dry_run": dry_run,
                "cap": stop.cap,
                "step": stop.request.step,
                "scope": stop.scope,
                "reason": stop.reason,
                "used": stop.used,
                "allowed": stop.allowed,
                "tripped_at": now,
                "closed_by": "",
                "closed_how": "",
            }
            await db.execute(sa.insert(TRIP).values(row))
    await insert_many(
        db,
        HELD,
        # Held again after it moved on: no longer what an override was asked for.
        [
            {"trip_id": trips[stop.tripped], "case_id": case.id, "version": case.version, "override_id": None}
            for stop, case in stops
        ],
        replacing=("trip_id", "case_id"),
    )


async def trip(db: AsyncConnection, trip_id: str) -> sa.Row[Any] | None:
    """Return a trip."""
    return (await db.execute(sa.select(TRIP).where(TRIP.c.id == trip_id))).one_or_none()


async def trips(db: AsyncConnection, *, closed: bool, limit: int = 200) -> list[sa.Row[Any]]:
    """Return the open trips, or the closed ones, the latest first."""
    which = TRIP.c.closed_at.is_not(None) if closed else TRIP.c.closed_at.is_(None)
    return list(await db.execute(sa.select(TRIP).where(which).order_by(TRIP.c.id.desc()).limit(limit)))


async def open_trip(db: AsyncConnection, tripped: Tripped, connection_id: str) -> sa.Row[Any] | None:
    """Return the open trip of a brake's live cases, if it has tripped."""
    cap, step, scope = tripped
    found = sa.select(TRIP).where(
        TRIP.c.connection_id == connection_id,
        sa.not_(TRIP.c.dry_run),
        TRIP.c.cap == cap,
        TRIP.c.step == step,
        TRIP.c.scope == scope,
        TRIP.c.closed_at.is_(None),
    )
    return (await db.execute(found)).one_or_none()


async def close_trip(db: AsyncConnection, trip_id: str, *, by: str, how: str, now: datetime) -> None:
    """Close a trip, so that the brake counts anew."""
    await db.execute(sa.update(TRIP).where(TRIP.c.id == trip_id).values(closed_at=now, closed_by=by, closed_how=how))


async def held(db: AsyncConnection, trip_id: str) -> list[tuple[Case, str | None]]:
    """Return the cases that a trip still holds, with the override that was asked for each, the oldest first.

    A case that a person has moved on since is not held any more.
    """
    rows = await db.execute(
        sa.select(CASE.c.document, HELD.c.version, HELD.c.override_id)
        .join(HELD, HELD.c.case_id == CASE.c.id)
        .where(HELD.c.trip_id == trip_id)
        .order_by(CASE.c.id)
    )
    found = [(decode_case(document), version, override) for document, version, override in rows.tuples()]
    return [(case, override) for case, version, override in found if case.version == version]


# Overrides.


async def overrides(db: AsyncConnection, trip_ids: Collection[str]) -> list[sa.Row[Any]]:
    """Return the overrides that were asked for these trips, the latest first."""
    mine = sa.select(OVERRIDE).where(among(OVERRIDE.c.trip_id, trip_ids)).order_by(OVERRIDE.c.id.desc())
    return list(await db.execute(mine))


async def override(db: AsyncConnection, override_id: str) -> sa.Row[Any] | None:
    """Return an override."""
    return (await db.execute(sa.select(OVERRIDE).where(OVERRIDE.c.id == override_id))).one_or_none()


async def waiting_overrides(db: AsyncConnection) -> list[tuple[sa.Row[Any], sa.Row[Any], int]]:
    """Return the overrides that wait for a second operator, with their trips and how many cases each would let go.

    One whose cases have all moved on lets nothing through any more, and waits for nobody. The longest waiting comes
    first.
    """
    open_trips = sa.select(TRIP.c.id).where(TRIP.c.closed_at.is_(None))
    asked = sa.select(OVERRIDE).where(OVERRIDE.c.approved_at.is_(None), OVERRIDE.c.trip_id.in_(open_trips))
    found = []
    for row in await db.execute(asked.order_by(OVERRIDE.c.asked_at, OVERRIDE.c.id)):
        still = sum(asked_for == row.id for _, asked_for in await held(db, row.trip_id))
        of = await trip(db, row.trip_id)
        if still and of is not None:
            found.append((row, of, still))
    return found


async def ask_override(
    db: AsyncConnection, trip_id: str, case_ids: Sequence[str], *, by: str, reason: str, now: datetime
) -> str:
    """Store the wish to let exactly these held cases through; return its id."""
    override_id = new_id()
    await db.execute(
        sa.insert(OVERRIDE).values(
            id=override_id,
            trip_id=trip_id,
            cases=len(case_ids),
            asked_by=by,
            reason=reason,
            asked_at=now,
            let_through=0,
        )
    )
    await db.execute(
        sa.update(HELD)
        .where(HELD.c.trip_id == trip_id, among(HELD.c.case_id, case_ids))
        .values(override_id=override_id)
    )
    return override_id


async def approve_override(db: AsyncConnection, override_id: str, *, by: str, let_through: int, now: datetime) -> None:
    """Note who approved an override, and how many of its cases still stood as they did."""
    await db.execute(
        sa.update(OVERRIDE)
        .where(OVERRIDE.c.id == override_id)
        .values(approved_by=by, approved_at=now, let_through=let_through)
    )


# Canaries.


async def canaries(db: AsyncConnection) -> list[sa.Row[Any]]:
    """Return the canaries, those that wait for a person first, then the latest."""
    waiting = sa.case((CANARY.c.confirmed_at.is_(None), 0), else_=1)
    real = sa.select(CANARY).where(CANARY.c.size > 0)
    return list(await db.execute(real.order_by(waiting, CANARY.c.started_at.desc()).limit(100)))


async def canary(db: AsyncConnection, rule_id: str, version: int) -> sa.Row[Any] | None:
    """Return a rule version's canary."""
    return (await db.execute(sa.select(CANARY).where(_of_rule(CANARY, rule_id, version)))).one_or_none()


async def canary_cases(db: AsyncConnection, rule_id: str, version: int, *, most: int) -> list[Case]:
    """Return the first live cases of a rule's version that got a permit to freeze."""
    rows = await db.execute(
        sa.select(CASE.c.document)
        .join(PERMIT, PERMIT.c.case_id == CASE.c.id)
        .where(_of_rule(PERMIT, rule_id, version), PERMIT.c.step == "freeze", sa.not_(PERMIT.c.dry_run))
        .order_by(PERMIT.c.taken_at, CASE.c.id)
        .limit(most)
    )
    return [decode_case(document) for document in rows.scalars()]


async def confirm_canary(db: AsyncConnection, rule_id: str, version: int, *, by: str, now: datetime) -> None:
    """Let a rule's version go on."""
    await db.execute(
        sa.update(CANARY).where(_of_rule(CANARY, rule_id, version)).values(confirmed_by=by, confirmed_at=now)
    )


# The kill switch.


async def engaged(db: AsyncConnection) -> list[Switch]:
    """Return the kill switches that are engaged."""
    rows = await db.execute(sa.select(SWITCH).where(SWITCH.c.released_at.is_(None)).order_by(SWITCH.c.id))
    return [Switch(cast("Scope", row.scope), row.target, row.engaged_by, row.reason) for row in rows]


async def engage(
    db: AsyncConnection, scope: Scope, target: str, *, by: str, reason: str, now: datetime
) -> tuple[sa.Row[Any], bool]:
    """Engage a kill switch; return it, and whether it was not engaged before."""
    statement = sa.text(
        "INSERT INTO kill_switch (id, scope, target, engaged_by, reason, engaged_at) "
        "VALUES (:id, :scope, :target, :by, :reason, :now) "
        "ON CONFLICT (scope, target) WHERE released_at IS NULL DO NOTHING RETURNING id"
    ).bindparams(sa.bindparam("now", type_=UtcDateTime))
    values = {"id": new_id(), "scope": scope, "target": target, "by": by, "reason": reason, "now": now}
    new = (await db.execute(statement, values)).scalar_one_or_none() is not None
    same = sa.select(SWITCH).where(SWITCH.c.scope == scope, SWITCH.c.target == target, SWITCH.c.released_at.is_(None))
    found = (await db.execute(same)).one_or_none()
    # Released by somebody in between: engaged anew.
    return (found, new) if found is not None else await engage(db, scope, target, by=by, reason=reason, now=now)


async def release(db: AsyncConnection, switch_id: str, *, by: str, reason: str, now: datetime) -> bool:
    """Release a kill switch; return whether it was engaged."""
    done = await db.execute(
        sa.update(SWITCH)
        .where(SWITCH.c.id == switch_id, SWITCH.c.released_at.is_(None))
        .values(released_by=by, release_reason=reason, released_at=now)
    )
    return bool(done.rowcount)


async def switch(db: AsyncConnection, switch_id: str) -> sa.Row[Any] | None:
    """Return a kill switch, engaged or released."""
    return (await db.execute(sa.select(SWITCH).where(SWITCH.c.id == switch_id))).one_or_none()


async def switches(db: AsyncConnection, *, limit: int = 200) -> list[sa.Row[Any]]:
    """Return the kill switches, the engaged ones first, then the latest."""
    released = sa.case((SWITCH.c.released_at.is_(None), 0), else_=1)
    return list(await db.execute(sa.select(SWITCH).order_by(released, SWITCH.c.id.desc()).limit(limit)))


async def hold_effects(db: AsyncConnection, waiting: Sequence[tuple[Claimed, str]], *, wait: int = HOLD) -> None:
    """Let effects wait so many milliseconds without counting the attempt, which was none: (effect, reason)."""
    if waiting:
        await db.execute(
            sa.update(EFFECT)
            .where(EFFECT.c.id == sa.bindparam("effect_id"), EFFECT.c.attempts == sa.bindparam("claimed"))
            .values(due=sa.bindparam("new_due"), attempts=EFFECT.c.attempts - 1, reason=sa.bindparam("new_reason")),
            [
                {
                    "effect_id": effect.id,
                    "claimed": effect.attempts,
                    "new_due": wall_milliseconds() + wait,
                    "new_reason": reason,
                }
                for effect, reason in waiting
            ],
        )


async def count_waiting(db: AsyncConnection) -> int:
    """Return how many effects that take something away have not been done."""
    kinds = [effect.value for effect in STEP_OF]
    waiting = sa.select(sa.func.count()).select_from(EFFECT).where(EFFECT.c.kind.in_(kinds))
    return int((await db.execute(waiting)).scalar_one())


# What the forms offer.


async def connections(db: AsyncConnection) -> list[sa.Row[Any]]:
    """Return the connections that were not removed, by name."""
    there = sa.select(CONNECTION.c.id, CONNECTION.c.name).where(sa.not_(CONNECTION.c.removed))
    return list(await db.execute(there.order_by(CONNECTION.c.name, CONNECTION.c.id)))


async def rules(db: AsyncConnection) -> dict[str, str]:
    """Return the rules that have cases: id → the name in the latest one."""
    latest = sa.select(sa.func.max(CASE.c.id)).group_by(CASE.c.rule_id)
    documents = await db.execute(sa.select(CASE.c.document).where(CASE.c.id.in_(latest)))
    cases = [decode_case(document) for document in documents.scalars()]
    return {case.policy.rule_id: case.policy.rule_name for case in cases}
