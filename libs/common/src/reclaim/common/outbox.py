"""The outbox: what a service says, kept until everyone who must hear it has a receipt for it.

A row is written in the transaction that made the fact, already claimed for the process that wrote it: once it is
committed, the events are handed to that process's relay in memory, which publishes them with no transaction open. A
row goes only when the last consumer's receipt has come. Rows without receipts fall due; the relay claims them by
moving their due time forward, and publishes them again, so neither what a process that died had not published yet nor
a confirmed message that the broker then lost is lost. Consumers ignore what they had.

Due times are wall-clock milliseconds, not business time: a clock moved by two weeks must not publish anything twice.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final, NamedTuple

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

IN_ONE_MESSAGE: Final = 250
"""Most events that travel in one message (about 150 kB): beyond it the gain is small and a split costs more."""

FIRST_REPUBLISH: Final = 30_000
"""Milliseconds until a row without all its receipts is published again; doubles up to 128 times as long."""

AFTER_FAILURE: Final = 1_000

LOOK_EVERY: Final = 1_000
"""Milliseconds between two looks for rows that fell due, once a look found none."""

AT_HAND: Final = 20_000
"""Most events kept in memory for the relay (about 12 MB); beyond them, rows wait until they fall due."""


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


class _Said(NamedTuple):
    event_id: str
    wire: str
    body: bytes


_BACKOFF = f"{FIRST_REPUBLISH} * (1 << CASE WHEN attempts < 7 THEN attempts ELSE 7 END)"
_SET = f"UPDATE outbox SET due = :now + {_BACKOFF}, attempts = attempts + 1 WHERE seq "
_DUE = "SELECT seq FROM outbox WHERE due <= :now ORDER BY due, seq LIMIT :most"
_CLAIM = {
    "sqlite": sa.text(f"{_SET} IN ({_DUE}) RETURNING seq, event_id, wire, body"),
    # As an array, so that the subquery runs once: a re-check would claim more than the limit.
    "postgresql": sa.text(f"{_SET} = ANY(ARRAY({_DUE} FOR UPDATE SKIP LOCKED)) RETURNING seq, event_id, wire, body"),
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
        self._at_hand: deque[_Said] = deque()
        self._looked = 0

    async def append(self, db: AsyncConnection, events: Sequence[Event], now: datetime) -> Callable[[], None]:
        """Write events in the caller's transaction; return what hands them to the relay, to be called once it is
        committed. If that never happens they fall due like any other row.
        """
        carrier: dict[str, str] = {}
        propagate.inject(carrier)
        said = []
        for event in events:
            event_id = new_id()
            body = envelope.encode(
                event, source=self._service, time=now, event_id=event_id, traceparent=carrier.get("traceparent")
            )
            said.append(_Said(event_id, event.wire, body))
        await insert_many(
            db,
            OUTBOX,
            [{**one._asdict(), "outstanding": _BITS[one.wire]} for one in said],
            same={"attempts": 1, "due": wall_milliseconds() + FIRST_REPUBLISH},
        )
        return lambda: self._at_hand.extend(said[: AT_HAND - len(self._at_hand)])

    async def relay(self, database: Database, bus: Bus) -> bool:
        """Publish what was just said, or else what fell due; return whether there was anything.

        Raises:
            Transient: the broker did not take it; the rows fall due again after a second.
        """
        said = [self._at_hand.popleft() for _ in range(min(len(self._at_hand), CLAIM))] or await self._due(database)
        if not said:
            return False
        by_wire: dict[str, list[bytes]] = defaultdict(list)
        for _event_id, wire, body in said:
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
                        "UPDATE outbox SET due = :due, attempts = attempts - 1 "
                        f"WHERE event_id IN (SELECT value FROM {listed(unit.db, 'ids')})"
                    ),
                    {
                        "due": wall_milliseconds() + AFTER_FAILURE,
                        "ids": msgspec.json.encode([one.event_id for one in said]).decode(),
                    },
                )
            raise
        return True

    async def _due(self, database: Database) -> list[_Said]:
        now = wall_milliseconds()
        if now < self._looked + LOOK_EVERY:
            return []
        async with database.unit() as unit:
            claimed = await unit.db.execute(_CLAIM[unit.db.dialect.name], {"now": now, "most": CLAIM})
            rows = sorted(claimed.tuples())
        self._looked = 0 if rows else now
        return [_Said(*row) for _seq, *row in rows]

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
            if unit.db.dialect.name == "postgresql":
                # Two replicas that lock the same rows, each in an order of its own, would wait for one another.
                await unit.db.execute(sa.text("SELECT pg_advisory_xact_lock(hashtext('reclaim.outbox.receipts'))"))
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
        self._looked = 0

    async def depth(self, database: Database) -> int:
        """Return how many events have not been confirmed by everybody."""
        async with database.reading() as db:
            return int((await db.execute(sa.text("SELECT count(*) FROM outbox"))).scalar_one())
