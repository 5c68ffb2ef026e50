"""The outbox: what a service says, kept until everyone who must hear it has a receipt for it.

A row is written in the transaction that made the fact. The relay claims rows by moving their due time forward,
publishes them with no transaction open, and leaves them: a row goes only when the last consumer's receipt has come.
Rows without receipts fall due again and are published again, so a confirmed message that the broker then lost is
not lost. Consumers ignore what they had.

Due times are wall-clock milliseconds, not business time: a clock moved by two weeks must not publish anything twice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Final

import msgspec
import sqlalchemy as sa
from opentelemetry import propagate
from sqlalchemy.ext.asyncio import AsyncConnection

from reclaim.common import envelope
from reclaim.common.bus import Bus
from reclaim.common.contracts import BY_WIRE, CONSUMERS, SERVICES, Event
from reclaim.common.db import BigKey, Database, insert_many, listed
from reclaim.common.ids import new_id
from reclaim.common.timing import wall_milliseconds

CLAIM: Final = 2_000
"""Events claimed at a time."""

IN_ONE_MESSAGE: Final = 100
"""Most events that travel in one message (about 60 kB): beyond it the gain is small and a split costs more."""

FIRST_REPUBLISH: Final = 30_000
"""Milliseconds until a row without all its receipts is published again; doubles up to 128 times as long."""

AFTER_FAILURE: Final = 1_000


def outbox_table(metadata: sa.MetaData) -> sa.Table:
    """Declare the table in a service's metadata. `outstanding` has a bit set for every consumer still to confirm."""
    return sa.Table(
        "outbox",
        metadata,
        sa.Column("seq", BigKey, primary_key=True, autoincrement=True),
        sa.Column("event_id", sa.Text, nullable=False, unique=True),
        sa.Column("wire", sa.Text, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("outstanding", sa.Integer, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("due", sa.BigInteger, nullable=False),
        sa.Index("outbox_due", "due", "seq"),
    )


OUTBOX = outbox_table(sa.MetaData())

_BACKOFF = f"{FIRST_REPUBLISH} * (1 << CASE WHEN attempts < 7 THEN attempts ELSE 7 END)"
_SET = f"UPDATE outbox SET due = :now + {_BACKOFF}, attempts = attempts + 1 WHERE seq "
_DUE = "SELECT seq FROM outbox WHERE due <= :now ORDER BY due, seq LIMIT :most"
_CLAIM = {
    "sqlite": sa.text(f"{_SET} IN ({_DUE}) RETURNING seq, wire, body"),
    # As an array, so that the subquery runs once: a re-check would claim more than the limit.
    "postgresql": sa.text(f"{_SET} = ANY(ARRAY({_DUE} FOR UPDATE SKIP LOCKED)) RETURNING seq, wire, body"),
}
_BITS = {wire: sum(1 << SERVICES.index(consumer) for consumer in CONSUMERS[event]) for wire, event in BY_WIRE.items()}


class Receipt(msgspec.Struct, frozen=True):
    """A consumer's word to a producer that it has these events safely (handled, or set aside in its own database)."""

    consumer: str
    ids: list[str]


class Outbox:
    """The outbox of one service."""

    def __init__(self, service: str) -> None:
        self._service = service

    async def append(self, db: AsyncConnection, events: Sequence[Event], now: datetime) -> None:
        """Write events in the caller's transaction."""
        carrier: dict[str, str] = {}
        propagate.inject(carrier)
        due = wall_milliseconds()
        rows = []
        for event in events:
            event_id = new_id()
            body = envelope.encode(
                event, source=self._service, time=now, event_id=event_id, traceparent=carrier.get("traceparent")
            )
            rows.append(
                {
                    "event_id": event_id,
                    "wire": event.wire,
                    "body": body,
                    "outstanding": _BITS[event.wire],
                    "attempts": 0,
                    "due": due,
                }
            )
        await insert_many(db, OUTBOX, rows)

    async def relay(self, database: Database, bus: Bus) -> bool:
        """Publish what is due; return whether there was anything.

        Raises:
            Transient: the broker did not take it; the rows fall due again after a second.
        """
        async with database.unit() as unit:
            claimed = await unit.db.execute(_CLAIM[unit.db.dialect.name], {"now": wall_milliseconds(), "most": CLAIM})
            rows = sorted(claimed.tuples())
        if not rows:
            return False
        by_wire: dict[str, list[bytes]] = defaultdict(list)
        for _seq, wire, body in rows:
            by_wire[wire].append(body)
        try:
            await bus.publish(
                [
                    (wire, envelope.join(bodies[start : start + IN_ONE_MESSAGE]))
                    for wire, bodies in by_wire.items()
                    for start in range(0, len(bodies), IN_ONE_MESSAGE)
                ]
            )
        except Exception:
            async with database.unit() as unit:
                await unit.db.execute(
                    sa.text(
                        f"UPDATE outbox SET due = :due, attempts = attempts - 1 WHERE seq IN "
                        f"(SELECT CAST(value AS BIGINT) FROM {listed(unit.db, 'seqs')})"
                    ),
                    {
                        "due": wall_milliseconds() + AFTER_FAILURE,
                        "seqs": msgspec.json.encode([seq for seq, _, _ in rows]).decode(),
                    },
                )
            raise
        return True

    async def confirm(self, database: Database, receipts: Sequence[Receipt]) -> None:
        """Clear the consumers' bits on each row, and drop the rows that nobody is left to confirm."""
        confirmed: dict[str, int] = defaultdict(int)
        for receipt in receipts:
            bit = 1 << SERVICES.index(receipt.consumer)
            for event_id in receipt.ids:
                confirmed[event_id] |= bit
        by_bits: dict[int, list[str]] = defaultdict(list)
        for event_id, bits in confirmed.items():
            by_bits[bits].append(event_id)
        async with database.unit() as unit:
            which = f"event_id IN (SELECT value FROM {listed(unit.db, 'ids')})"
            for bits, ids in by_bits.items():
                bound = {"ids": msgspec.json.encode(ids).decode()}
                gone = await unit.db.execute(
                    sa.text(f"DELETE FROM outbox WHERE {which} AND outstanding & ~{bits} = 0"), bound
                )
                if gone.rowcount < len(ids):
                    await unit.db.execute(
                        sa.text(f"UPDATE outbox SET outstanding = outstanding & ~{bits} WHERE {which}"), bound
                    )

    async def publish_again(self, database: Database) -> None:
        """Make everything unconfirmed due now; for a start, when what an earlier process had under way is unknown."""
        async with database.unit() as unit:
            await unit.db.execute(
                sa.text("UPDATE outbox SET due = :now WHERE due > :now"), {"now": wall_milliseconds()}
            )

    async def depth(self, database: Database) -> int:
        """Return how many events have not been confirmed by everybody."""
        async with database.reading() as db:
            return int((await db.execute(sa.text("SELECT count(*) FROM outbox"))).scalar_one())
