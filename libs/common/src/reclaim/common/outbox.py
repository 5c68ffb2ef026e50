"""The outbox: what a service says, kept until everyone who must hear it has a receipt for it.

A row has events of one type that were said together, as many as fill a message: they travel together, are confirmed
together, and cost what one event costs. It is written in the transaction that made the facts, already claimed for the
process that wrote it: once it is committed, the row is handed to that process's relay in memory, which publishes it
with no transaction open. A row goes only when the last consumer's receipt has come. Rows without receipts fall due;
the relay claims them by moving their due time forward, and publishes them again, so neither what a process that died
had not published yet nor a confirmed message that the broker then lost is lost. Consumers ignore what they had.

Due times are wall-clock milliseconds, not business time: a clock moved by two weeks must not publish anything twice.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Final, NamedTuple

import msgspec
import sqlalchemy as sa
from opentelemetry import propagate
from sqlalchemy.ext.asyncio import AsyncConnection

from reclaim.common import envelope
from reclaim.common.bus import Bus
from reclaim.common.contracts import BY_WIRE, CONSUMERS, SERVICES, Event
from reclaim.common.db import BigKey, Database, among, given, insert_many
from reclaim.common.ids import new_id
from reclaim.common.timing import wall_milliseconds

FULL: Final = 150_000
"""Bytes from which on a row, or a message, takes nothing more (some 250 events): beyond it the gain is small and a
split costs more.
"""

CLAIM: Final = 200
"""Rows claimed at a time."""

AT_A_TIME: Final = 8 * FULL
"""Bytes from which on the relay publishes what it took from memory."""

FIRST_REPUBLISH: Final = 30_000
"""Milliseconds until a row without all its receipts is published again; doubles up to 128 times as long."""

AFTER_FAILURE: Final = 1_000

LOOK_EVERY: Final = 1_000
"""Milliseconds between two looks for rows that fell due, once a look found none."""

AT_HAND: Final = 80 * FULL
"""Bytes from which on nothing more is kept in memory for the relay (12 MB): rows then wait until they fall due."""


def outbox_table(metadata: sa.MetaData) -> sa.Table:
    """Declare the table in a service's metadata.

    `event_id` is the id of the row's first event, with which the ids of the others begin. `body` has the events as they
    stand in a batch. `outstanding` has a bit set for every consumer still to confirm.
    """
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
    """What is published of a row."""

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
_OURS: Final = among(OUTBOX.c.event_id, given("ids"))
_GIVE_BACK: Final = sa.update(OUTBOX).where(_OURS).values(due=sa.bindparam("due_at"), attempts=OUTBOX.c.attempts - 1)
_STILL_OUTSTANDING: Final = OUTBOX.c.outstanding.bitwise_and(sa.bindparam("others"))
_DROP_CONFIRMED: Final = sa.delete(OUTBOX).where(_OURS, _STILL_OUTSTANDING == 0)
_CLEAR_BITS: Final = sa.update(OUTBOX).where(_OURS).values(outstanding=_STILL_OUTSTANDING)
_WAITS: Final = sa.text("SELECT 1 FROM outbox WHERE due <= :soon LIMIT 1")


class Receipt(msgspec.Struct, frozen=True):
    """A consumer's word to a producer that it has the events of these rows safely: handled, or set aside in its own
    database.
    """

    consumer: str
    ids: list[str]


def rows_of(event_ids: Iterable[str]) -> list[str]:
    """Return the ids of the outbox rows that events came from, each once."""
    return list({event_id.partition(".")[0]: None for event_id in event_ids})


def _filled(bodies: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Yield what is given in order, as much at a time as fills a message."""
    taken: list[bytes] = []
    size = 0
    for body in bodies:
        taken.append(body)
        size += len(body)
        if size >= FULL:
            yield taken
            taken, size = [], 0
    if taken:
        yield taken


class Outbox:
    """The outbox of one service."""

    def __init__(self, service: str) -> None:
        self._service = service
        self._at_hand: deque[_Said] = deque()
        self._held = 0
        self._looked = 0

    async def append(self, db: AsyncConnection, events: Sequence[Event], now: datetime) -> Callable[[], None]:
        """Write events in the caller's transaction; return what hands them to the relay, to be called once it is
        committed. If that never happens they fall due like any other row.
        """
        carrier: dict[str, str] = {}
        propagate.inject(carrier)
        traceparent = carrier.get("traceparent")
        by_wire: dict[str, list[Event]] = defaultdict(list)
        for event in events:
            by_wire[event.wire].append(event)
        said: list[_Said] = []
        for wire, alike in by_wire.items():
            said += self._rows(wire, alike, now, traceparent)
        await insert_many(
            db,
            OUTBOX,
            [{**one._asdict(), "outstanding": _BITS[one.wire]} for one in said],
            same={"attempts": 1, "due": wall_milliseconds() + FIRST_REPUBLISH},
        )
        return lambda: self._keep_at_hand(said)

    def _rows(self, wire: str, events: Sequence[Event], now: datetime, traceparent: str | None) -> Iterator[_Said]:
        first = new_id()
        bodies: list[bytes] = []
        size = 0
        for event in events:
            if size >= FULL:
                yield _Said(first, wire, envelope.listed(bodies))
                first, bodies, size = new_id(), [], 0
            event_id = f"{first}.{len(bodies)}" if bodies else first
            body = envelope.encode(event, source=self._service, time=now, event_id=event_id, traceparent=traceparent)
            bodies.append(body)
            size += len(body)
        yield _Said(first, wire, envelope.listed(bodies))

    def _keep_at_hand(self, said: Sequence[_Said]) -> None:
        for one in said:
            if self._held >= AT_HAND:
                return
            self._at_hand.append(one)
            self._held += len(one.body)

    def _from_hand(self) -> list[_Said]:
        taken: list[_Said] = []
        size = 0
        while self._at_hand and size < AT_A_TIME:
            taken.append(self._at_hand.popleft())
            size += len(taken[-1].body)
        self._held -= size
        return taken

    async def relay(self, database: Database, bus: Bus) -> bool:
        """Publish what was just said, or else what fell due; return whether there was anything.

        Raises:
            Transient: the broker did not take it; the rows fall due again after a second.
        """
        said = self._from_hand() or await self._due(database)
        if not said:
            return False
        by_wire: dict[str, list[bytes]] = defaultdict(list)
        for _event_id, wire, body in said:
            by_wire[wire].append(body)
        try:
            await bus.publish(
                [(wire, envelope.join(filled)) for wire, bodies in by_wire.items() for filled in _filled(bodies)]
            )
        except Exception:
            async with database.unit() as unit:
                await unit.db.execute(
                    _GIVE_BACK, {"due_at": wall_milliseconds() + AFTER_FAILURE, "ids": [one.event_id for one in said]}
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
            for bits, ids in by_bits.items():
                bound = {"ids": ids, "others": ~bits}
                gone = await unit.db.execute(_DROP_CONFIRMED, bound)
                if gone.rowcount < len(ids):
                    await unit.db.execute(_CLEAR_BITS, bound)

    async def publish_again(self, database: Database) -> None:
        """Make everything unconfirmed due now; for a start, when what an earlier process had under way is unknown."""
        async with database.unit() as unit:
            await unit.db.execute(
                sa.text("UPDATE outbox SET due = :now WHERE due > :now"), {"now": wall_milliseconds()}
            )
        self._looked = 0

    async def waits(self, database: Database) -> bool:
        """Tell whether anything is to be published: it is due, or will be again in a moment, after a failure."""
        soon = wall_milliseconds() + AFTER_FAILURE
        async with database.reading() as db:
            return (await db.execute(_WAITS, {"soon": soon})).first() is not None

    async def depth(self, database: Database) -> int:
        """Return how many rows have not been confirmed by everybody."""
        async with database.reading() as db:
            return int((await db.execute(sa.text("SELECT count(*) FROM outbox"))).scalar_one())
