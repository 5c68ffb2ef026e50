"""The statements of the daily comparison: which cases are compared, which connections are due, and what was found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from reclaim.common.db import UtcDateTime, insert_many
from reclaim.lifecycle.domain import Case, State
from reclaim.lifecycle.store import CASE, CONNECTION, metadata

DRIFT: Final = sa.Table(
    "drift",
    metadata,
    sa.Column("case_id", sa.Text, primary_key=True),
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("connection_id", sa.Text, nullable=False),
    sa.Column("holder_name", sa.Text, nullable=False),
    sa.Column("product_name", sa.Text, nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
    sa.Column("remedy", sa.Text, nullable=False),
    sa.Column("found_at", UtcDateTime, nullable=False),
    sa.Column("cleared_at", UtcDateTime),
)
"""What differs between our ledger and a connected system; a row stays, with `cleared_at`, once it no longer does."""

DRIFT_RUN: Final = sa.Table(
    "drift_run",
    metadata,
    sa.Column("connection_id", sa.Text, primary_key=True),
    sa.Column("due_at", UtcDateTime, nullable=False),
    sa.Column("compared_at", UtcDateTime),
    sa.Column("compared", sa.Integer, nullable=False),
    sa.Column("trouble", sa.Text, nullable=False),
)
"""When each connection is compared next, and how the last comparison went."""

LEFT_FROZEN: Final = "left_frozen"
"""The kind of a freeze that outlived its case: nothing but a person ends it, so it stands in attention too."""

WATCHED: Final = (
    State.FLAGGED, State.AWAITING_DECISION, State.IN_GRACE, State.FROZEN, State.AWAITING_FULFILMENT, State.ATTENTION,
    State.RECLAIMED, State.REACTIVATED,
)  # fmt: skip
"""States in which nothing of ours is under way, so that what changes was changed by somebody else. A case that ended
and left our freeze behind is followed as well."""

WATCH_REACTIVATED: Final = timedelta(days=30)
"""For how long a seat that was given back is looked after; then it is a seat as any other."""

_decode = msgspec.json.Decoder(Case).decode


@dataclass(frozen=True, slots=True)
class Drift:
    """One difference of one case."""

    case_id: str
    kind: str
    connection_id: str
    holder_name: str
    product_name: str
    detail: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Listed:
    """A difference as it is shown."""

    drift: Drift
    found_at: datetime
    cleared_at: datetime | None


async def claim(db: AsyncConnection, now: datetime, lease: timedelta) -> sa.Row[Any] | None:
    """Return a connection whose comparison is due, which is then nobody else's for the lease; None if none is."""
    await db.execute(
        sa.text(
            "INSERT INTO drift_run (connection_id, due_at, compared, trouble) "
            "SELECT id, :now, 0, '' FROM connection WHERE NOT removed ON CONFLICT (connection_id) DO NOTHING"
        ).bindparams(sa.bindparam("now", type_=UtcDateTime)),
        {"now": now},
    )
    due = (
        await db.execute(
            sa.select(DRIFT_RUN.c.connection_id)
            .join(CONNECTION, CONNECTION.c.id == DRIFT_RUN.c.connection_id)
            .where(DRIFT_RUN.c.due_at <= now, sa.not_(CONNECTION.c.removed))
            .order_by(DRIFT_RUN.c.due_at)
            .limit(1)
            .with_for_update(skip_locked=True, of=DRIFT_RUN)
        )
    ).scalar_one_or_none()
    if due is None:
        return None
    await db.execute(sa.update(DRIFT_RUN).where(DRIFT_RUN.c.connection_id == due).values(due_at=now + lease))
    return (await db.execute(sa.select(CONNECTION).where(CONNECTION.c.id == due))).one()


async def finish(
    db: AsyncConnection, connection_id: str, *, due_at: datetime, now: datetime, compared: int, trouble: str
) -> None:
    """Record how a comparison went and when the next is due; one that failed leaves the time of the last good one."""
    values: dict[str, Any] = {"due_at": due_at, "trouble": trouble}
    if not trouble:
        values |= {"compared_at": now, "compared": compared}
    await db.execute(sa.update(DRIFT_RUN).where(DRIFT_RUN.c.connection_id == connection_id).values(**values))


async def ask(db: AsyncConnection, now: datetime) -> None:
    """Let every connection be compared as soon as the job comes round."""
    await db.execute(sa.update(DRIFT_RUN).values(due_at=now))


async def cases_to_compare(db: AsyncConnection, connection_id: str, now: datetime) -> list[str]:
    """Return the ids of a connection's cases that are compared: of every seat only its newest case."""
    place = sa.func.row_number().over(
        partition_by=(CASE.c.holder_id, CASE.c.product), order_by=(CASE.c.flagged_at.desc(), CASE.c.id.desc())
    )
    newest = (
        sa.select(CASE.c.id, CASE.c.state, CASE.c.left_frozen, CASE.c.changed_at, place.label("place"))
        .where(CASE.c.connection_id == connection_id)
        .subquery()
    )
    rows = await db.execute(
        sa.select(newest.c.id)
        .where(
            newest.c.place == 1,
            sa.or_(newest.c.state.in_([state.value for state in WATCHED]), newest.c.left_frozen),
            sa.or_(newest.c.state != State.REACTIVATED.value, newest.c.changed_at > now - WATCH_REACTIVATED),
        )
        .order_by(newest.c.id)
    )
    return list(rows.scalars())


async def read_cases(db: AsyncConnection, ids: Sequence[str]) -> list[Case]:
    """Return those of these cases that still stand where they are compared, without locking them."""
    rows = await db.execute(sa.select(CASE.c.document).where(CASE.c.id.in_(ids)))
    cases = [_decode(bytes(document)) for document in rows.scalars()]
    return [case for case in cases if case.state in WATCHED or case.left_frozen]


async def save(db: AsyncConnection, connection_id: str, found: Sequence[Drift], now: datetime) -> int:
    """Raise what is new, clear what is gone, and leave the rest as it was raised; return how many are new."""
    rows = await db.execute(
        sa.select(DRIFT.c.case_id, DRIFT.c.kind).where(
            DRIFT.c.connection_id == connection_id, DRIFT.c.cleared_at.is_(None)
        )
    )
    standing = set(rows.tuples())
    keys = {(each.case_id, each.kind) for each in found}
    fresh = [each for each in found if (each.case_id, each.kind) not in standing]
    await insert_many(
        db,
        DRIFT,
        [
            {
                "case_id": each.case_id,
                "kind": each.kind,
                "connection_id": each.connection_id,
                "holder_name": each.holder_name,
                "product_name": each.product_name,
                "detail": each.detail,
                "remedy": each.remedy,
                "found_at": now,
                "cleared_at": None,
            }
            for each in fresh
        ],
        replacing=("case_id", "kind"),
    )
    gone = [key for key in standing if key not in keys]
    if gone:
        await db.execute(
            sa.update(DRIFT)
            .where(DRIFT.c.case_id == sa.bindparam("of"), DRIFT.c.kind == sa.bindparam("what"))
            .values(cleared_at=now),
            [{"of": case_id, "what": kind} for case_id, kind in gone],
        )
    return len(fresh)


async def drifts(db: AsyncConnection, *, cleared: bool = False, limit: int = 500) -> list[Listed]:
    """Return what differs now, or (`cleared`) what did; the latest found first."""
    query = sa.select(DRIFT).order_by(DRIFT.c.found_at.desc(), DRIFT.c.case_id, DRIFT.c.kind).limit(limit)
    rows = await db.execute(query.where(DRIFT.c.cleared_at.is_not(None) if cleared else DRIFT.c.cleared_at.is_(None)))
    return [_listed(row) for row in rows]


def _listed(row: sa.Row[Any]) -> Listed:
    drift = Drift(row.case_id, row.kind, row.connection_id, row.holder_name, row.product_name, row.detail, row.remedy)
    return Listed(drift, row.found_at, row.cleared_at)


_LEFT: Final = sa.and_(
    DRIFT.c.kind == LEFT_FROZEN,
    DRIFT.c.cleared_at.is_(None),
    DRIFT.c.case_id.in_(sa.select(CASE.c.id).where(CASE.c.left_frozen)),
)
"""What was undone since the comparison is not waited for any more."""


async def left_frozen(db: AsyncConnection, *, limit: int) -> list[tuple[Listed, Case]]:
    """Return the freezes that outlived their case, each with it; the longest known first."""
    found = sa.select(DRIFT, CASE.c.document).join(CASE, CASE.c.id == DRIFT.c.case_id).where(_LEFT)
    rows = await db.execute(found.order_by(DRIFT.c.found_at, DRIFT.c.case_id).limit(limit))
    return [(_listed(row), _decode(bytes(row.document))) for row in rows]


async def holds_seat_since(db: AsyncConnection, case: Case) -> str | None:
    """Return a later case of the same seat that has frozen or freed it, or is about to: what is frozen now is its."""
    later = sa.select(CASE.c.document).where(
        CASE.c.connection_id == case.seat.connection_id,
        CASE.c.holder_id == case.seat.holder.id,
        CASE.c.product == case.seat.product,
        CASE.c.id != case.id,
        CASE.c.flagged_at >= case.flagged_at,
        ~CASE.c.dry_run,
    )
    for other in [_decode(bytes(document)) for document in (await db.execute(later)).scalars()]:
        freed = other.reclaimed_at is not None and other.given_back_at is None
        if other.frozen_at is not None or other.unsure or other.state is State.FREEZING or freed:
            return other.id
    return None


def held_since(later: str) -> str:
    """Return why a freeze is not undone for a case, once a later one of the seat holds it."""
    return f"Case {later} is about the same seat, and later: undo on its page what was done since."


async def count_left_frozen(db: AsyncConnection) -> int:
    """Return how many freezes outlived their case."""
    return int((await db.execute(sa.select(sa.func.count()).select_from(DRIFT).where(_LEFT))).scalar_one())


async def runs(db: AsyncConnection) -> list[Mapping[str, Any]]:
    """Return how the last comparison of each connection went."""
    rows = await db.execute(
        sa.select(
            CONNECTION.c.id, CONNECTION.c.name, DRIFT_RUN.c.compared_at, DRIFT_RUN.c.compared, DRIFT_RUN.c.trouble
        )
        .join(CONNECTION, CONNECTION.c.id == DRIFT_RUN.c.connection_id)
        .where(sa.not_(CONNECTION.c.removed))
        .order_by(CONNECTION.c.name)
    )
    return [dict(row) for row in rows.mappings()]
