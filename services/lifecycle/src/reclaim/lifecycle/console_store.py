"""Every statement behind the lists of the console: which cases, how many, what waits, and bulk batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from reclaim.common.db import Json, UtcDateTime
from reclaim.lifecycle.domain import Case, State
from reclaim.lifecycle.store import CASE, CONNECTION, EFFECT, TIMER, decode_case, metadata

BULK_BATCH: Final = sa.Table(
    "bulk_batch",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("results", Json, nullable=False),
)


@dataclass(frozen=True, slots=True)
class Filter:
    """Which cases of the list. Empty means any; `since` is included and `until` is not (of the day of the flag).

    `text` is part of the holder's name or e-mail address, or the start of a case's id. `resumes` are the states that
    cases in attention go on from.
    """

    states: tuple[str, ...] = ()
    text: str = ""
    rule_id: str = ""
    connection_id: str = ""
    product: str = ""
    dry_run: bool | None = None
    resumes: tuple[str, ...] = ()
    since: datetime | None = None
    until: datetime | None = None

    def conditions(self) -> list[sa.ColumnElement[bool]]:
        """Return the filter as SQL conditions."""
        found: list[sa.ColumnElement[bool]] = []
        if self.states:
            found.append(CASE.c.state.in_(self.states))
        if self.text:
            found.append(
                sa.or_(
                    CASE.c.holder_name.icontains(self.text, autoescape=True),
                    CASE.c.holder_email.icontains(self.text, autoescape=True),
                    CASE.c.id.startswith(self.text, autoescape=True),
                )
            )
        for column, value in (
            (CASE.c.rule_id, self.rule_id),
            (CASE.c.connection_id, self.connection_id),
            (CASE.c.product, self.product),
        ):
            if value:
                found.append(column == value)
        if self.dry_run is not None:
            found.append(CASE.c.dry_run.is_(self.dry_run))
        if self.resumes:
            found.append(CASE.c.attention.in_(self.resumes))
        if self.since is not None:
            found.append(CASE.c.flagged_at >= self.since)
        if self.until is not None:
            found.append(CASE.c.flagged_at < self.until)
        return found


async def page(
    db: AsyncConnection, wanted: Filter, *, limit: int, after: str | None = None
) -> tuple[list[Case], str | None]:
    """Return a page of cases, the latest flagged first, and the id to go on `after`, if there are more.

    A page begins behind a case, and that case's place never changes: what is flagged meanwhile moves nothing.
    """
    query = (
        sa.select(CASE.c.document)
        .where(*wanted.conditions())
        .order_by(CASE.c.flagged_at.desc(), CASE.c.id.desc())
        .limit(limit + 1)
    )
    if after:
        last = (await db.execute(sa.select(CASE.c.flagged_at, CASE.c.id).where(CASE.c.id == after))).one_or_none()
        if last is not None:
            place = sa.tuple_(sa.literal(last.flagged_at, UtcDateTime), sa.literal(last.id))
            query = query.where(sa.tuple_(CASE.c.flagged_at, CASE.c.id) < place)
    cases = [decode_case(document) for document in (await db.execute(query)).scalars()]
    shown = cases[:limit]
    return shown, shown[-1].id if len(cases) > limit else None


async def count_by_state(db: AsyncConnection, wanted: Filter) -> dict[str, int]:
    """Return how many cases stand in each state, of those that the filter lets through whatever their state."""
    whatever = replace(wanted, states=())
    rows = await db.execute(
        sa.select(CASE.c.state, sa.func.count()).where(*whatever.conditions()).group_by(CASE.c.state)
    )
    return dict(iter(rows.tuples()))


class Choices(NamedTuple):
    """What there is to filter by: (value, label) pairs."""

    rules: list[tuple[str, str]]
    connections: list[tuple[str, str]]
    products: list[tuple[str, str]]


async def choices(db: AsyncConnection) -> Choices:
    """Return the rules, connections and products that there are cases of, by their latest names."""
    rules = await _latest(db, CASE.c.rule_id)
    products = await _latest(db, CASE.c.product)
    names = {row.id: row.name for row in await db.execute(sa.select(CONNECTION.c.id, CONNECTION.c.name))}
    there = (await db.execute(sa.select(CASE.c.connection_id).distinct())).scalars()
    return Choices(
        _by_label({key: case.policy.rule_name for key, case in rules.items()}),
        _by_label({key: names.get(key, key) for key in there}),
        _by_label({key: case.seat.product_name for key, case in products.items()}),
    )


def _by_label(labels: dict[str, str]) -> list[tuple[str, str]]:
    return sorted(labels.items(), key=lambda pair: (pair[1].casefold(), pair[0]))


async def _latest(db: AsyncConnection, column: sa.Column[Any]) -> dict[str, Case]:
    # Ids sort by the time they were made.
    latest = sa.select(sa.func.max(CASE.c.id)).group_by(column)
    rows = await db.execute(sa.select(column, CASE.c.document).where(CASE.c.id.in_(latest)))
    return {key: decode_case(document) for key, document in rows.tuples()}


# Attention.


class Waiting(NamedTuple):
    """A case that waits for a person, and since when."""

    case: Case
    since: datetime


async def waiting(db: AsyncConnection, resumes: Sequence[str], *, limit: int) -> list[Waiting]:
    """Return cases in attention, the longest waiting first; `resumes` narrows them down."""
    query = sa.select(CASE.c.document, CASE.c.changed_at).where(CASE.c.attention.is_not(None))
    if resumes:
        query = query.where(CASE.c.attention.in_(resumes))
    rows = await db.execute(query.order_by(CASE.c.changed_at, CASE.c.id).limit(limit))
    return [Waiting(decode_case(document), since) for document, since in rows.tuples()]


async def count_waiting(db: AsyncConnection) -> dict[str, int]:
    """Return how many cases in attention go on from each state."""
    rows = await db.execute(
        sa.select(CASE.c.attention, sa.func.count()).where(CASE.c.attention.is_not(None)).group_by(CASE.c.attention)
    )
    return {str(resume): count for resume, count in rows.tuples()}


async def tasks(db: AsyncConnection, *, limit: int) -> list[Waiting]:
    """Return cases whose seat a person was asked to free, the longest waiting first."""
    query = sa.select(CASE.c.document, CASE.c.changed_at).where(CASE.c.state == State.AWAITING_FULFILMENT.value)
    rows = await db.execute(query.order_by(CASE.c.changed_at, CASE.c.id).limit(limit))
    return [Waiting(decode_case(document), since) for document, since in rows.tuples()]


async def count_tasks(db: AsyncConnection) -> int:
    """Return how many cases there are whose seat a person was asked to free."""
    asked = sa.select(sa.func.count()).where(CASE.c.state == State.AWAITING_FULFILMENT.value)
    return int((await db.execute(asked)).scalar_one())


# One case.


class Step(NamedTuple):
    """An effect that is still to be done; `due` is in milliseconds of the wall clock."""

    kind: str
    attempts: int
    reason: str
    due: int


async def steps(db: AsyncConnection, case_id: str) -> list[Step]:
    """Return what is still to be done for a case."""
    rows = await db.execute(
        sa.select(EFFECT.c.kind, EFFECT.c.attempts, EFFECT.c.reason, EFFECT.c.due)
        .where(EFFECT.c.case_id == case_id)
        .order_by(EFFECT.c.due)
    )
    return [Step(*row) for row in rows.tuples()]


async def timers(db: AsyncConnection, case_id: str) -> dict[str, datetime]:
    """Return the timers that a case waits for, by the name of what they do."""
    rows = await db.execute(sa.select(TIMER.c.command, TIMER.c.at).where(TIMER.c.case_id == case_id))
    return dict(iter(rows.tuples()))


# Bulk batches.


class Batch(msgspec.Struct, frozen=True):
    """A bulk decision and what became of each case: `results` are (case id, holder, outcome, note)."""

    id: str
    at: datetime
    actor: str
    action: Literal["keep", "retry", "revoke"]
    reason: str
    results: list[dict[str, Any]]


async def begin_batch(db: AsyncConnection, batch: Batch) -> bool:
    """Store a batch that is about to be carried out; False if it has been stored before, which is then to be left."""
    insert = sqlite.insert if db.dialect.name == "sqlite" else postgresql.insert
    stored = await db.execute(
        insert(BULK_BATCH).values(**msgspec.structs.asdict(batch)).on_conflict_do_nothing().returning(BULK_BATCH.c.id)
    )
    return stored.scalar_one_or_none() is not None


async def finish_batch(db: AsyncConnection, batch_id: str, results: Sequence[dict[str, Any]]) -> None:
    """Store what became of each case of a batch."""
    await db.execute(sa.update(BULK_BATCH).where(BULK_BATCH.c.id == batch_id).values(results=list(results)))


async def batch(db: AsyncConnection, batch_id: str) -> Batch | None:
    """Return a batch."""
    row = (await db.execute(sa.select(BULK_BATCH).where(BULK_BATCH.c.id == batch_id))).mappings().one_or_none()
    return None if row is None else Batch(**row)


async def forget_batches(db: AsyncConnection, before: datetime) -> None:
    """Remove batches that were carried out before an instant."""
    await db.execute(sa.delete(BULK_BATCH).where(BULK_BATCH.c.at < before))


async def cases(db: AsyncConnection, ids: Sequence[str]) -> dict[str, Case]:
    """Return the cases of these ids as they are now, without locking them."""
    rows = await db.execute(sa.select(CASE.c.id, CASE.c.document).where(CASE.c.id.in_(list(ids))))
    return {case_id: decode_case(document) for case_id, document in rows.tuples()}
