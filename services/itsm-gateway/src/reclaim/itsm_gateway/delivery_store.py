"""All SQL of webhooks: the secrets that verify them, the ledger of those that were taken, and the deliveries.

A delivery is `waiting` until the gateway has handled it; then it was `taken` (it decided), `ignored` (it had nothing to
decide) or `failed` (a person has to look, and may replay it). `due` and the ledger's `received` are wall-clock
milliseconds: leases, backoff and replays are no business of a clock that a demo moves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, cast, get_args

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from reclaim.common.db import BigKey, UtcDateTime, among, insert_many, update_many
from reclaim.itsm_gateway.domain import Kind, of_reference
from reclaim.itsm_gateway.hints import Hint, Platform
from reclaim.itsm_gateway.store import WEBHOOK_LEDGER, metadata

State = Literal["waiting", "taken", "ignored", "failed"]
STATES: Final[tuple[State, ...]] = get_args(State)

MOST_SECRETS: Final = 2
"""Active secrets of a connection: the one in use, and the one that replaces it."""

WEBHOOK_SECRET = sa.Table(
    "webhook_secret",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("connection_id", sa.Text, nullable=False),
    sa.Column("slot", sa.Integer, nullable=False),
    sa.Column("platform", sa.Text, nullable=False),
    sa.Column("sealed", sa.Text, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("created_by", sa.Text, nullable=False),
    sa.UniqueConstraint("connection_id", "slot", name="uq_webhook_secret_slot"),
)
"""What a connection's webhooks are verified with, sealed. There are as many slots as there may be secrets."""

WEBHOOK_DELIVERY = sa.Table(
    "webhook_delivery",
    metadata,
    sa.Column("number", BigKey, primary_key=True, autoincrement=True),
    sa.Column("connection_id", sa.Text, nullable=False),
    sa.Column("platform", sa.Text, nullable=False),
    sa.Column("webhook_id", sa.Text, nullable=False),
    sa.Column("secret_id", sa.Text),
    sa.Column("case_id", sa.Text),
    sa.Column("ticket", sa.Text),
    sa.Column("says", sa.Text),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("body_hash", sa.Text, nullable=False),
    sa.Column("body", sa.LargeBinary),
    sa.Column("received_at", UtcDateTime, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("outcome", sa.Text),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("due", sa.BigInteger, nullable=False),
    sa.Column("settled_at", UtcDateTime),
    sa.Column("replayed_by", sa.Text),
    sa.Column("kind", sa.Text, nullable=False, server_default="question"),
    sa.Index("ix_webhook_delivery_state", "state", "connection_id", "due"),
    sa.Index("ix_webhook_delivery_case_id", "case_id"),
    sa.Index("ix_webhook_delivery_received", "connection_id", "received_at"),
)
"""Webhooks that were verified. `says` is what one claims, and in the end what was taken from it.

`kind` is what the ticket is for that one is about; of a trial's ticket `case_id` is `domain.trial`'s.
`body` is kept only of one that could not be read: of the others everything that counts stands in the columns.
"""


@dataclass(frozen=True, slots=True)
class StoredSecret:
    """A secret, as everybody may see it; `sealed` is for the keyring alone."""

    id: str
    connection_id: str
    platform: Platform
    sealed: str
    created_at: datetime
    created_by: str


@dataclass(frozen=True, slots=True)
class Delivery:
    """One webhook that came, and what became of it."""

    number: int
    connection_id: str
    platform: Platform
    webhook_id: str
    secret_id: str | None
    case_id: str | None
    ticket: str | None
    says: str | None
    actor: str
    reason: str
    body_hash: str
    received_at: datetime
    state: State
    outcome: str | None
    attempts: int
    settled_at: datetime | None
    replayed_by: str | None
    kind: Kind = "question"


@dataclass(frozen=True, slots=True)
class Arrival:
    """A webhook that was verified and read: `hint`, or the body with what is wrong with it."""

    connection_id: str
    platform: Platform
    webhook_id: str
    secret_id: str | None
    once: tuple[str, ...]
    body_hash: str
    hint: Hint | None = None
    body: bytes | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of a delivery that was claimed; `due` is the wall clock's, for one that is put off."""

    number: int
    state: State
    outcome: str
    says: str | None = None
    due: int = 0


_DELIVERY = [WEBHOOK_DELIVERY.c[name] for name in Delivery.__dataclass_fields__]
_SECRET = [WEBHOOK_SECRET.c[name] for name in StoredSecret.__dataclass_fields__]


# ------------------------------------------------------------------------------------------------ secrets


async def secrets(db: AsyncConnection) -> list[StoredSecret]:
    """Return every secret, by connection, the older one first."""
    found = await db.execute(
        sa.select(*_SECRET).order_by(WEBHOOK_SECRET.c.connection_id, WEBHOOK_SECRET.c.created_at, WEBHOOK_SECRET.c.id)
    )
    return [StoredSecret(*row) for row in found.tuples()]


async def add_secret(db: AsyncConnection, secret: StoredSecret, slot: int) -> None:
    """Store a secret. Whoever else takes the same slot at the same time gets an IntegrityError."""
    values = {name: getattr(secret, name) for name in StoredSecret.__dataclass_fields__}
    await db.execute(sa.insert(WEBHOOK_SECRET).values(**values, slot=slot))


async def slots(db: AsyncConnection, connection_id: str) -> dict[int, Platform]:
    """Return the platform of each of a connection's secrets, by slot."""
    found = await db.execute(
        sa.select(WEBHOOK_SECRET.c.slot, WEBHOOK_SECRET.c.platform).where(
            WEBHOOK_SECRET.c.connection_id == connection_id
        )
    )
    return {slot: cast("Platform", platform) for slot, platform in found.tuples()}


async def drop_secret(db: AsyncConnection, secret_id: str) -> bool:
    """Delete a secret; tell whether there was one."""
    gone = await db.execute(sa.delete(WEBHOOK_SECRET).where(WEBHOOK_SECRET.c.id == secret_id))
    return bool(gone.rowcount)


async def drop_secrets(db: AsyncConnection, connection_id: str) -> None:
    """Delete the secrets of a connection."""
    await db.execute(sa.delete(WEBHOOK_SECRET).where(WEBHOOK_SECRET.c.connection_id == connection_id))


async def last_used(db: AsyncConnection) -> dict[str, datetime]:
    """Return when the latest webhook came that each secret verified."""
    found = await db.execute(
        sa.select(WEBHOOK_DELIVERY.c.secret_id, sa.func.max(WEBHOOK_DELIVERY.c.received_at))
        .where(WEBHOOK_DELIVERY.c.secret_id.is_not(None))
        .group_by(WEBHOOK_DELIVERY.c.secret_id)
    )
    return {str(secret): at for secret, at in found.tuples()}


# ------------------------------------------------------------------------------------------------ taking webhooks

_NAMES_OF_ONCE: Final = f"{WEBHOOK_LEDGER.name} (connection_id, webhook_id, received)"
_ENTER: Final = {
    "sqlite": sa.text(
        f"INSERT INTO {_NAMES_OF_ONCE} SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), :now "  # noqa: S608 - constants
        "FROM json_each(:entries) WHERE true ON CONFLICT DO NOTHING RETURNING connection_id, webhook_id"
    ),
    "postgresql": sa.text(
        f"INSERT INTO {_NAMES_OF_ONCE} SELECT value ->> 0, value ->> 1, CAST(:now AS bigint) "  # noqa: S608 - constants
        "FROM json_array_elements(CAST(:entries AS json)) ON CONFLICT DO NOTHING RETURNING connection_id, webhook_id"
    ),
}


async def enter(db: AsyncConnection, entries: set[tuple[str, str]], now: int) -> set[tuple[str, str]]:
    """Enter (connection, webhook) pairs in the ledger; return those that were not in it."""
    # In one order: two processes that enter the same webhooks, each in its own, would wait for one another.
    given = msgspec.json.encode(sorted(entries)).decode()
    found = await db.execute(_ENTER[db.dialect.name], {"entries": given, "now": now})
    return {(connection_id, webhook_id) for connection_id, webhook_id in found.tuples()}


async def still_there(db: AsyncConnection, secret_ids: set[str]) -> set[str]:
    """Return which of these secrets were not dropped."""
    found = await db.execute(sa.select(WEBHOOK_SECRET.c.id).where(among(WEBHOOK_SECRET.c.id, secret_ids)))
    return set(found.scalars())


async def add_deliveries(db: AsyncConnection, arrivals: Sequence[Arrival], now: datetime) -> None:
    """Store new deliveries: those that were read wait to be handled, the others for a person."""
    await insert_many(
        db,
        WEBHOOK_DELIVERY,
        [_row(arrival, now) for arrival in arrivals],
        same={"attempts": 0, "due": 0, "received_at": now},
    )


def _row(arrival: Arrival, now: datetime) -> dict[str, Any]:
    hint = arrival.hint or Hint()
    if arrival.problem is not None:
        state, outcome = "failed", arrival.problem
    elif hint.trial:
        state, outcome = "ignored", "A trial: webhooks of this connection arrive and are verified."
    else:
        state, outcome = "waiting", None
    case_id, kind = _about(hint)
    return {
        "connection_id": arrival.connection_id,
        "platform": arrival.platform,
        "webhook_id": arrival.webhook_id,
        "secret_id": arrival.secret_id,
        "case_id": case_id,
        "kind": kind,
        "ticket": hint.ticket,
        "says": hint.says,
        "actor": hint.actor,
        "reason": hint.reason,
        "body_hash": arrival.body_hash,
        "body": arrival.body,
        "state": state,
        "outcome": outcome,
        "settled_at": None if state == "waiting" else now,
    }


def _about(hint: Hint) -> tuple[str | None, Kind]:
    return (None, "question") if hint.case_id is None else of_reference(hint.case_id)


# ------------------------------------------------------------------------------------------------ handling them

_SET: Final = "UPDATE webhook_delivery SET due = :until, attempts = attempts + 1 WHERE number"
_DUE: Final = (
    "SELECT number FROM webhook_delivery "
    "WHERE state = 'waiting' AND connection_id = :connection AND due <= :now ORDER BY due, number LIMIT :most"
)
_CLAIM: Final = {
    "sqlite": sa.text(f"{_SET} IN ({_DUE}) RETURNING number"),
    # As an array, so that the subquery runs once: a re-check would claim more than the limit.
    "postgresql": sa.text(f"{_SET} = ANY(ARRAY({_DUE} FOR UPDATE SKIP LOCKED)) RETURNING number"),
}


async def due_connections(db: AsyncConnection, now: int) -> set[str]:
    """Return the connections that have deliveries which are due."""
    due = WEBHOOK_DELIVERY.c.state == "waiting", WEBHOOK_DELIVERY.c.due <= now
    return set((await db.execute(sa.select(WEBHOOK_DELIVERY.c.connection_id).where(*due).distinct())).scalars())


async def claim(db: AsyncConnection, connection_id: str, *, now: int, until: int, most: int) -> list[Delivery]:
    """Claim deliveries of a connection that are due, until the end of a lease, oldest first."""
    values = {"connection": connection_id, "now": now, "until": until, "most": most}
    claimed = await db.execute(_CLAIM[db.dialect.name], values)
    return await _numbered(db, list(claimed.scalars()))


async def _numbered(db: AsyncConnection, numbers: Sequence[int]) -> list[Delivery]:
    if not numbers:
        return []
    found = await db.execute(
        sa.select(*_DELIVERY).where(WEBHOOK_DELIVERY.c.number.in_(numbers)).order_by(WEBHOOK_DELIVERY.c.number)
    )
    return [Delivery(*row) for row in found.tuples()]


async def still_claimed(db: AsyncConnection, claimed: Sequence[Delivery]) -> set[int]:
    """Return which of these deliveries nobody else has claimed or settled since, and lock them."""
    found = await db.execute(
        sa.select(WEBHOOK_DELIVERY.c.number, WEBHOOK_DELIVERY.c.attempts)
        .where(
            WEBHOOK_DELIVERY.c.number.in_([delivery.number for delivery in claimed]),
            WEBHOOK_DELIVERY.c.state == "waiting",
        )
        .order_by(WEBHOOK_DELIVERY.c.number)
        .with_for_update()
    )
    now: dict[int, int] = dict(found.tuples().all())
    return {delivery.number for delivery in claimed if now.get(delivery.number) == delivery.attempts}


async def settle(db: AsyncConnection, settled: Sequence[Settled], now: datetime) -> None:
    """Record what became of deliveries; one that is put off stays `waiting`."""
    for waiting in (True, False):
        await update_many(
            db,
            WEBHOOK_DELIVERY,
            "number",
            [
                {"number": one.number, "state": one.state, "outcome": one.outcome, "says": one.says, "due": one.due}
                for one in settled
                if (one.state == "waiting") is waiting
            ],
            same={"settled_at": None if waiting else now},
        )


async def last_taken(db: AsyncConnection, case_ids: set[str]) -> dict[str, str]:
    """Return what the newest delivery that decided said, by case."""
    newest = (
        sa.select(sa.func.max(WEBHOOK_DELIVERY.c.number))
        .where(
            among(WEBHOOK_DELIVERY.c.case_id, case_ids),
            WEBHOOK_DELIVERY.c.state == "taken",
            WEBHOOK_DELIVERY.c.kind == "question",
        )
        .group_by(WEBHOOK_DELIVERY.c.case_id)
    )
    found = await db.execute(
        sa.select(WEBHOOK_DELIVERY.c.case_id, WEBHOOK_DELIVERY.c.says).where(WEBHOOK_DELIVERY.c.number.in_(newest))
    )
    return {str(case_id): str(says) for case_id, says in found.tuples()}


async def waits(db: AsyncConnection, case_id: str, kind: Kind) -> bool:
    """Tell whether a delivery about this ticket is still to be handled."""
    found = await db.execute(
        sa.select(sa.literal(1))
        .where(
            WEBHOOK_DELIVERY.c.case_id == case_id,
            WEBHOOK_DELIVERY.c.kind == kind,
            WEBHOOK_DELIVERY.c.state == "waiting",
        )
        .limit(1)
    )
    return found.first() is not None


# ------------------------------------------------------------------------------------------------ for a person


async def deliveries(
    db: AsyncConnection,
    *,
    state: State | None = None,
    connection_id: str | None = None,
    case_id: str | None = None,
    before: int | None = None,
    limit: int,
) -> list[Delivery]:
    """Return deliveries, newest first; `before` is the number of the last one on the page before."""
    query = sa.select(*_DELIVERY).order_by(WEBHOOK_DELIVERY.c.number.desc()).limit(limit)
    for column, value in (("state", state), ("connection_id", connection_id), ("case_id", case_id)):
        if value is not None:
            query = query.where(WEBHOOK_DELIVERY.c[column] == value)
    if before is not None:
        query = query.where(WEBHOOK_DELIVERY.c.number < before)
    return [Delivery(*row) for row in (await db.execute(query)).tuples()]


async def counts(db: AsyncConnection) -> dict[State, int]:
    """Return how many deliveries there are in each state."""
    found = await db.execute(sa.select(WEBHOOK_DELIVERY.c.state, sa.func.count()).group_by(WEBHOOK_DELIVERY.c.state))
    there: Mapping[str, int] = dict(found.tuples().all())
    return {state: there.get(state, 0) for state in STATES}


async def delivery(db: AsyncConnection, number: int, *, lock: bool = False) -> Delivery | None:
    """Return one delivery, or None; with `lock`, nobody else changes it before the transaction ends."""
    query = sa.select(*_DELIVERY).where(WEBHOOK_DELIVERY.c.number == number)
    row = (await db.execute(query.with_for_update() if lock else query)).tuples().one_or_none()
    return None if row is None else Delivery(*row)


async def body(db: AsyncConnection, number: int) -> bytes | None:
    """Return the body of a delivery that could not be read, or None."""
    found = await db.execute(sa.select(WEBHOOK_DELIVERY.c.body).where(WEBHOOK_DELIVERY.c.number == number))
    kept: bytes | None = found.scalar_one_or_none()
    return kept


async def wait_again(db: AsyncConnection, number: int, hint: Hint | None, by: str) -> None:
    """Let a delivery be handled anew; `hint` is what its body turned out to say, if it was read only now."""
    said: dict[str, Any] = {}
    if hint is not None:
        case_id, kind = _about(hint)
        said = {"case_id": case_id, "kind": kind, "ticket": hint.ticket, "says": hint.says}
        said |= {"actor": hint.actor, "reason": hint.reason, "body": None}
    await db.execute(
        sa.update(WEBHOOK_DELIVERY)
        .where(WEBHOOK_DELIVERY.c.number == number)
        .values(state="waiting", outcome=None, attempts=0, due=0, settled_at=None, replayed_by=by, **said)
    )


async def set_aside(db: AsyncConnection, number: int, outcome: str, now: datetime) -> None:
    """Record that nobody will handle a delivery, and forget its body."""
    await db.execute(
        sa.update(WEBHOOK_DELIVERY)
        .where(WEBHOOK_DELIVERY.c.number == number)
        .values(state="ignored", outcome=outcome, settled_at=now, body=None)
    )


async def forget_deliveries(db: AsyncConnection, before: datetime) -> None:
    """Drop what was received before an instant and needs nobody any more."""
    await db.execute(
        sa.delete(WEBHOOK_DELIVERY).where(
            WEBHOOK_DELIVERY.c.received_at < before, WEBHOOK_DELIVERY.c.state.in_(("taken", "ignored"))
        )
    )
