"""The inbox: every event has its effect exactly once, however often it comes.

A message's events are recorded, handled and answered in one transaction, all that wait at a time. If that fails the
set is split in halves until the event to blame stands alone; it is set aside in this database, to be tried again
with backoff or, when trying cannot help, parked until an operator looks. Its neighbours go on.

What came before its case began has its effect in the very transaction in which the case begins: nothing that comes
later can be taken before it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any, Final, TypeVar

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from reclaim.common import envelope
from reclaim.common.contracts import CaseEvent, Event, UserFlagged
from reclaim.common.db import Database, Unit, UtcDateTime, among, given, is_outage, listed
from reclaim.common.envelope import Received, Unreadable
from reclaim.common.errors import Conflict, NotFound, Permanent, Transient
from reclaim.common.outbox import Receipt, rows_of
from reclaim.common.timing import backoff, wall_milliseconds

log = logging.getLogger(__name__)

IN_ONE_TRANSACTION: Final = 1_000
"""Most events handled in one transaction; more gains little and loses more when one of them fails."""

AT_ONCE: Final = 2
"""Transactions under way together: one is prepared here while the database works on the others."""

TRANSIENT_ATTEMPTS: Final = 30
"""Attempts before something that might pass is parked: about two hours."""

DEFECT_ATTEMPTS: Final = 5
"""Attempts before an error that nobody foresaw is parked."""

HISTORY_DAYS: Final = 30
"""How long it is remembered that an event was handled; far longer than any outbox publishes again."""

BEGINS: Final = UserFlagged
"""The event that every other one of its case builds on, in every service."""

D = TypeVar("D")
Handle = Callable[[Unit, Sequence[Received[Any]]], Awaitable[None]]
"""Handles events of one type in the given unit. Raises for what it cannot handle; never commits."""

Subscriptions = Mapping[type[Event], Callable[[D, Unit, Sequence[Received[Any]]], Awaitable[None]]]
"""A service's literal table of handlers; each is also given what it depends on."""


def bind(table: Subscriptions[D], deps: D) -> dict[type[Event], Handle]:
    """Give a service's literal table of handlers what they depend on."""

    def bound(handle: Callable[[D, Unit, Sequence[Received[Any]]], Awaitable[None]]) -> Handle:
        async def call(unit: Unit, events: Sequence[Received[Any]]) -> None:
            await handle(deps, unit, events)

        return call

    return {event: bound(handle) for event, handle in table.items()}


def inbox_tables(metadata: sa.MetaData) -> tuple[sa.Table, sa.Table]:
    """Declare the tables: what was received, and what is set aside.

    `due` is None once it is parked. `case_id` is empty for what is about no case; None: a release before it stored it.
    """
    inbox = sa.Table(
        "inbox",
        metadata,
        sa.Column("event_id", sa.Text, primary_key=True),
        sa.Column("received", sa.BigInteger, nullable=False),
    )
    aside = sa.Table(
        "set_aside",
        metadata,
        sa.Column("event_id", sa.Text, primary_key=True),
        sa.Column("wire", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("due", sa.BigInteger, index=True),
        sa.Column("since", UtcDateTime, nullable=False),
        sa.Column("case_id", sa.Text, index=True),
    )
    return inbox, aside


_TABLES = sa.MetaData()
INBOX, SET_ASIDE = inbox_tables(_TABLES)

_DUE: Final = (
    sa.select(SET_ASIDE.c.event_id).where(SET_ASIDE.c.due <= sa.bindparam("now")).order_by(SET_ASIDE.c.due).limit(100)
)
_NOT_PARKED: Final = sa.select(*SET_ASIDE.c["body", "since", "event_id"]).where(SET_ASIDE.c.due.is_not(None))
_WAITING: Final = sa.union_all(
    # Two searches of the index; one with OR would read all that is set aside.
    _NOT_PARKED.where(among(SET_ASIDE.c.case_id, given("cases"))),
    _NOT_PARKED.where(SET_ASIDE.c.case_id.is_(None)),
).order_by("since", "event_id")
_TAKE_BACK: Final = (
    sa.delete(SET_ASIDE).where(among(SET_ASIDE.c.event_id, given("ids"))).returning(SET_ASIDE.c.event_id)
)
_PARKED: Final = sa.select(SET_ASIDE).where(SET_ASIDE.c.due.is_(None)).order_by(SET_ASIDE.c.since).limit(1000)


@dataclass(frozen=True, slots=True)
class Parked:
    """An event that an operator has to look at."""

    event_id: str
    wire: str
    source: str
    reason: str
    attempts: int
    since: datetime
    body: str


class HandlerFailed(Exception):
    """A handler failed in a way that says nothing about the database; nobody foresaw it."""


class Inbox:
    """The inbox of one service. `send_receipt` is given the producer's name and an encoded `Receipt`."""

    def __init__(
        self,
        service: str,
        database: Database,
        subscriptions: Mapping[type[Event], Handle],
        send_receipt: Callable[[str, bytes], Awaitable[None]],
    ) -> None:
        self._service = service
        self._database = database
        self._subscriptions = subscriptions
        self._send_receipt = send_receipt

    async def receive(self, messages: Sequence[bytes]) -> None:
        """Take messages over: on return each of their events was handled or is set aside, durably.

        Raises:
            Transient: the database is away; nothing of the rest was taken over.
        """
        parts: list[Received[Event] | Unreadable] = []
        chunks = _chunks(messages, parts)

        async def take() -> None:
            for chunk in chunks:
                await self._take(chunk)

        with _outage_is_transient():
            results = await asyncio.gather(*(take() for _ in range(AT_ONCE)), return_exceptions=True)
            for result in results:
                if isinstance(result, BaseException):
                    raise result
        # One receipt for all: each is a confirmed publish here, and a transaction at the producer.
        await self._confirm(parts)

    async def bury(self, messages: Sequence[bytes]) -> None:
        """Park every event of messages that the broker gave up delivering."""
        for message in messages:
            parts = _split(message)
            reason = "the broker gave up: its consumer ended every time this was delivered"
            with _outage_is_transient():
                for part in parts:
                    await self._set_aside(part, Permanent(reason))
            await self._confirm(parts)

    async def _take(self, parts: Sequence[Received[Event] | Unreadable]) -> None:
        try:
            async with self._database.unit() as unit:
                fresh = await self._record(unit.db, parts)
                await self._handle(unit, [part for part in parts if part.id in fresh])
        except Exception as error:
            if is_outage(error):
                raise
            if len(parts) > 1:
                middle = len(parts) // 2
                await self._take(parts[:middle])
                await self._take(parts[middle:])
            else:
                await self._set_aside(parts[0], error)

    async def _record(self, db: AsyncConnection, parts: Sequence[Received[Event] | Unreadable]) -> set[str]:
        # In one order for everybody, so that two replicas that have the same events wait and do not deadlock.
        ids = sorted({part.id for part in parts})
        rows = await db.execute(_recording(db.dialect), {"ids": ids, "received": wall_milliseconds()})
        return set(rows.scalars())

    async def _handle(self, unit: Unit, parts: Sequence[Received[Event] | Unreadable]) -> None:
        by_type: dict[type[Event], dict[str, Received[Event]]] = defaultdict(dict)
        for part in parts:
            if isinstance(part, Unreadable):
                raise Permanent(part.reason)
            if type(part.data) not in self._subscriptions:
                raise Permanent(f"{self._service} has no handler for {part.data.wire}")
            by_type[type(part.data)].setdefault(part.id, part)
        for event, received in by_type.items():
            try:
                await self._subscriptions[event](unit, list(received.values()))
            except OSError as error:
                if isinstance(error, ConnectionError):
                    raise
                # A missing file is no outage of the database: taken for one it would hold up its neighbours for ever.
                raise HandlerFailed(f"{type(error).__name__}: {error}") from error
            begun = {one.data.case_id for one in received.values() if isinstance(one.data, BEGINS)}
            if begun:
                await self._recall(unit, await _waiting_for(unit.db, begun))

    async def _recall(self, unit: Unit, parts: Sequence[Received[Any]]) -> None:
        """Handle what waited for its case; what fails even now goes on waiting, for its back-off to end."""
        if not parts:
            return
        try:
            async with unit.attempt():
                taken = await unit.db.execute(_TAKE_BACK, {"ids": [part.id for part in parts]})
                # Less than that if another replica has just tried them again.
                ours = set(taken.scalars())
                await self._handle(unit, [part for part in parts if part.id in ours])
        except Exception as error:
            if is_outage(error):
                raise
            if len(parts) > 1:
                middle = len(parts) // 2
                await self._recall(unit, parts[:middle])
                await self._recall(unit, parts[middle:])
            else:
                log.info("%s: %s goes on waiting: %s", self._service, parts[0].data.wire, error)

    async def _set_aside(self, part: Received[Event] | Unreadable, error: Exception) -> None:
        due = _due_after(error, attempts=1)
        level = logging.INFO if due else logging.ERROR
        wire = part.type if isinstance(part, Unreadable) else part.data.wire
        log.log(
            level,
            "%s: %s was %s: %s",
            self._service,
            wire or "a message",
            "put off" if due else "parked",
            error,
            exc_info=_trace(error),
        )
        async with self._database.unit() as unit:
            if not await self._record(unit.db, [part]):
                return
            await unit.db.execute(
                sa.insert(SET_ASIDE).values(
                    event_id=part.id,
                    wire=wire,
                    source=part.source,
                    body=part.body,
                    reason=_reason(error),
                    attempts=1,
                    due=due,
                    since=unit.now,
                    case_id=case_of(part),
                )
            )

    async def _confirm(self, parts: Sequence[Received[Event] | Unreadable]) -> None:
        by_source: dict[str, list[str]] = defaultdict(list)
        for part in parts:
            if part.source:
                by_source[part.source].append(part.id)
        for source, ids in by_source.items():
            try:
                await self._send_receipt(source, msgspec.json.encode(Receipt(self._service, rows_of(ids))))
            except Transient as error:
                # Safe to go on: the producer publishes again, and is answered again.
                log.warning("%s: a receipt for %s was not sent: %s", self._service, source, error)

    async def retry(self) -> bool:
        """Try again what is due; return whether there was anything. Each in a transaction of its own."""
        async with self._database.reading() as db:
            due = list((await db.execute(_DUE, {"now": wall_milliseconds()})).scalars())
        for event_id in due:
            await self._try_again(event_id)
        return bool(due)

    async def _try_again(self, event_id: str) -> None:
        try:
            async with self._database.unit() as unit:
                row = (
                    await unit.db.execute(
                        sa.select(SET_ASIDE.c.body)
                        .where(SET_ASIDE.c.event_id == event_id)
                        .with_for_update(skip_locked=True)
                    )
                ).one_or_none()
                if row is None:
                    return
                await unit.db.execute(sa.delete(SET_ASIDE).where(SET_ASIDE.c.event_id == event_id))
                await self._handle(unit, [envelope.read(row.body)])
        except Exception as error:
            if is_outage(error):
                raise
            async with self._database.unit() as unit:
                attempts = (
                    await unit.db.execute(sa.select(SET_ASIDE.c.attempts).where(SET_ASIDE.c.event_id == event_id))
                ).scalar_one_or_none()
                if attempts is None:
                    return
                due = _due_after(error, attempts=attempts + 1)
                if due is None:
                    log.log(
                        logging.ERROR, "%s: %s was parked: %s", self._service, event_id, error, exc_info=_trace(error)
                    )
                await unit.db.execute(
                    sa.update(SET_ASIDE)
                    .where(SET_ASIDE.c.event_id == event_id)
                    .values(attempts=attempts + 1, due=due, reason=_reason(error))
                )

    async def parked(self) -> list[Parked]:
        """Return what waits for an operator, oldest first."""
        async with self._database.reading() as db:
            return [
                Parked(
                    row.event_id,
                    row.wire,
                    row.source,
                    row.reason,
                    row.attempts,
                    row.since,
                    row.body.decode(errors="replace"),
                )
                for row in await db.execute(_PARKED)
            ]

    async def count_parked(self) -> int:
        """Return how many messages wait for an operator."""
        async with self._database.reading() as db:
            parked = sa.select(sa.func.count()).select_from(SET_ASIDE).where(SET_ASIDE.c.due.is_(None))
            return int((await db.execute(parked)).scalar_one())

    async def redrive(self, event_id: str) -> None:
        """Try a parked event again now.

        Raises:
            NotFound: nothing of that id is set aside.
            Conflict: it failed again; it stays parked, with the new reason.
        """
        async with self._database.unit() as unit:
            changed = await unit.db.execute(
                sa.update(SET_ASIDE).where(SET_ASIDE.c.event_id == event_id).values(attempts=0)
            )
            if changed.rowcount == 0:
                raise NotFound(f"No event {event_id} is set aside; it may have been handled meanwhile.")
        await self._try_again(event_id)
        async with self._database.reading() as db:
            reason = (
                await db.execute(sa.select(SET_ASIDE.c.reason).where(SET_ASIDE.c.event_id == event_id))
            ).scalar_one_or_none()
        if reason is not None:
            raise Conflict(f"It failed again: {reason}")

    async def forget(self) -> bool:
        """Drop the record of events handled long ago; return False, since there is never more to do at once."""
        oldest = wall_milliseconds() - HISTORY_DAYS * 86_400_000
        async with self._database.unit() as unit:
            await unit.db.execute(
                sa.delete(INBOX).where(
                    INBOX.c.received < oldest, INBOX.c.event_id.not_in(sa.select(SET_ASIDE.c.event_id))
                )
            )
        return False


@cache
def _recording(dialect: sa.Dialect) -> sa.TextClause:
    # WHERE true: without it SQLite reads ON CONFLICT as part of a join.
    return sa.text(
        f"INSERT INTO inbox (event_id, received) SELECT value, :received FROM {listed(dialect, ':ids')} "
        "WHERE true ON CONFLICT DO NOTHING RETURNING event_id"
    ).bindparams(given("ids"), sa.bindparam("received", type_=sa.BigInteger))


async def _waiting_for(db: AsyncConnection, cases: Collection[str]) -> list[Received[Any]]:
    """Return what is set aside for these cases and not parked, in the order in which it came."""
    parts = (envelope.read(body) for body in (await db.execute(_WAITING, {"cases": cases})).scalars())
    return [part for part in parts if isinstance(part, Received) and case_of(part) in cases]


def case_of(part: Received[Event] | Unreadable) -> str:
    """Return the case that a part of a message is about; empty for none."""
    if isinstance(part, Received) and isinstance(part.data, CaseEvent):
        return part.data.case_id
    return ""


def _chunks(
    messages: Iterable[bytes], parts: list[Received[Event] | Unreadable]
) -> Iterator[list[Received[Event] | Unreadable]]:
    """Yield what is in messages, a transaction's worth at a time, and keep all of it in `parts`.

    A message is read when its turn comes: the database works on what came before it meanwhile.
    """
    given = 0
    for message in messages:
        parts.extend(_split(message))
        while len(parts) - given >= IN_ONE_TRANSACTION:
            yield parts[given : given + IN_ONE_TRANSACTION]
            given += IN_ONE_TRANSACTION
    if given < len(parts):
        yield parts[given:]


def _split(message: bytes) -> list[Received[Event] | Unreadable]:
    try:
        return envelope.split(message)
    except Permanent as error:
        return [envelope.unreadable(message, error.detail)]


def _due_after(error: Exception, *, attempts: int) -> int | None:
    """Return when to try again, in wall-clock milliseconds, or None to park."""
    if isinstance(error, Transient):
        most = TRANSIENT_ATTEMPTS
    elif isinstance(error, Permanent):
        most = 1
    else:
        most = DEFECT_ATTEMPTS
    if attempts >= most:
        return None
    return wall_milliseconds() + int(1000 * backoff(attempts, first=0.1, most=300))


def _reason(error: Exception) -> str:
    known = isinstance(error, Transient | Permanent | HandlerFailed)
    said = str(error) if known else f"{type(error).__name__}: {error}"
    # What a database cannot store as text must not keep it from storing the rest.
    return said.encode(errors="backslashreplace").decode().replace("\0", "\\x00")[:2000]


def _trace(error: Exception) -> Exception | None:
    return None if isinstance(error, Transient | Permanent) else error


class _outage_is_transient:  # noqa: N801
    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, Exception) and is_outage(error):
            raise Transient(f"the database is away: {type(error).__name__}") from error


async def hold(receive: Callable[[Sequence[bytes]], Awaitable[None]], messages: Sequence[bytes]) -> None:
    """Keep messages unacknowledged while the database is away, instead of having them delivered over and over."""
    attempt = 0
    while True:
        try:
            return await receive(messages)
        except Transient as error:
            attempt += 1
            log.warning("holding %d messages: %s", len(messages), error)
            await asyncio.sleep(backoff(attempt, first=0.2, most=10))
