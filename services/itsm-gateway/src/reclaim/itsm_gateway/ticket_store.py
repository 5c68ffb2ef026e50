"""All SQL of service desks: the connections, the tickets that are opened on them, and what those are told.

`due` is the wall clock in milliseconds: leases, backoff and polls are no business of a clock that a demo moves. A row
is claimed by moving its `due` to the end of a `lease` and counting the attempt; whoever writes a result names the lease
and the attempt that it belongs to, so that one whose lease was taken over writes nothing. What is claimed together is
of one desk.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from reclaim.common.db import BigKey, UtcDateTime, among
from reclaim.itsm_gateway.domain import Act, Kind
from reclaim.itsm_gateway.store import TICKET_REQUEST, metadata

TicketState = Literal["wanted", "open", "closed", "failed"]
Doing = Literal["closing", "reopening"]
"""What we are about to do to a ticket, or have done without having been told so."""

DESK = sa.Table(
    "desk",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("platform", sa.Text, nullable=False),
    sa.Column("settings", sa.Text, nullable=False),
    sa.Column("credentials", sa.Text, nullable=False),
    sa.Column("decisions", sa.Text, nullable=False),
    sa.Column("title", sa.Text, nullable=False),
    sa.Column("description", sa.Text, nullable=False),
    sa.Column("fields", sa.Text, nullable=False),
    sa.Column("asks", sa.Boolean, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("changed_at", UtcDateTime, nullable=False),
    sa.Column("changed_by", sa.Text, nullable=False),
)
"""Service desks. `credentials` are sealed; the desk that `asks` is where new cases get their tickets."""

TICKET = sa.Table(
    "ticket",
    metadata,
    sa.Column("reference", sa.Text, primary_key=True),
    sa.Column("case_id", sa.Text, nullable=False, server_default=""),
    sa.Column("kind", sa.Text, nullable=False, server_default="question"),
    sa.Column("desk_id", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("values", sa.Text, nullable=False),
    sa.Column("requester_email", sa.Text),
    sa.Column("dry_run", sa.Boolean, nullable=False),
    sa.Column("flagged_at", UtcDateTime, nullable=False),
    sa.Column("key", sa.Text),
    sa.Column("number", sa.Text),
    sa.Column("url", sa.Text),
    sa.Column("says", sa.Text),
    sa.Column("closed_since", sa.BigInteger),
    sa.Column("failure", sa.Text),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("due", sa.BigInteger, nullable=False),
    sa.Column("lease", sa.BigInteger),
    sa.Column("place", sa.Text),
    sa.Column("doing", sa.Text),
    sa.Column("leaves", sa.Text),
    sa.Index("ix_ticket_state", "state", "desk_id", "due"),
    sa.Index("ix_ticket_case_id", "case_id"),
)
"""One ticket a case that asks, and perhaps one for the task of freeing its seat. `values` fill its templates.

`says` is what was last heard from it, and `closed_since` when it was closed, by us or as we heard: an open ticket that
was closed before has been reopened. `place` is where its desk led when it was opened, and its `key` means something.
`doing` is written before a ticket is closed or reopened from here, and stays if nobody learns what became of it;
`leaves` is what one that is closed so says then, which is nobody's answer.
"""

TICKET_WORD = sa.Table(
    "ticket_word",
    metadata,
    sa.Column("number", BigKey, primary_key=True, autoincrement=True),
    sa.Column("event_id", sa.Text, nullable=False, unique=True),
    sa.Column("reference", sa.Text, nullable=False),
    sa.Column("act", sa.Text, nullable=False, server_default="comment"),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("failure", sa.Text),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("due", sa.BigInteger, nullable=False),
    sa.Column("lease", sa.BigInteger),
    sa.Index("ix_ticket_word_state", "state", "due"),
    sa.Index("ix_ticket_word_reference", "reference"),
)
"""What tickets are to be told: `waiting`, `told` or `failed`. `act` is what is done along with it (`domain.Act`)."""


@dataclass(frozen=True, slots=True)
class Desk:
    """A connection as it is stored: mappings as JSON, credentials sealed."""

    id: str
    platform: str
    settings: str
    credentials: str
    decisions: str
    title: str
    description: str
    fields: str
    asks: bool
    version: int
    changed_at: datetime
    changed_by: str


@dataclass(frozen=True, slots=True)
class Ticket:
    """A ticket as it stands; `key`, `number` and `url` are None until it is open. Its desk knows its `reference`."""

    reference: str
    case_id: str
    kind: Kind
    desk_id: str
    state: TicketState
    values: str
    requester_email: str | None
    dry_run: bool
    flagged_at: datetime
    key: str | None
    number: str | None
    url: str | None
    says: str | None
    closed_since: int | None
    failure: str | None
    attempts: int
    due: int
    lease: int | None = None
    place: str | None = None
    doing: Doing | None = None
    leaves: str | None = None


@dataclass(frozen=True, slots=True)
class Word:
    """Something that a ticket is to be told."""

    number: int
    event_id: str
    reference: str
    act: Act
    text: str
    attempts: int


_DESK = [DESK.c[name] for name in Desk.__dataclass_fields__]
_TICKET = [TICKET.c[name] for name in Ticket.__dataclass_fields__]
_WORD = [TICKET_WORD.c[name] for name in Word.__dataclass_fields__]
_OTHER: Final = sa.alias(TICKET_WORD, "other")


# ------------------------------------------------------------------------------------------------ desks


async def desks(db: AsyncConnection) -> list[Desk]:
    """Return every desk, by id."""
    return [Desk(*row) for row in (await db.execute(sa.select(*_DESK).order_by(DESK.c.id))).tuples()]


async def desk(db: AsyncConnection, desk_id: str) -> Desk | None:
    """Return a desk, or None."""
    row = (await db.execute(sa.select(*_DESK).where(DESK.c.id == desk_id))).tuples().one_or_none()
    return None if row is None else Desk(*row)


async def version(db: AsyncConnection, desk_id: str) -> int | None:
    """Return how often a desk was stored, which every change of it raises; None if there is none."""
    return (await db.execute(sa.select(DESK.c.version).where(DESK.c.id == desk_id))).scalar_one_or_none()


async def asking(db: AsyncConnection) -> str | None:
    """Return the id of the desk where new cases get their tickets, or None."""
    found = await db.execute(sa.select(DESK.c.id).where(DESK.c.asks).order_by(DESK.c.id).limit(1))
    return found.scalar_one_or_none()


async def save_desk(db: AsyncConnection, saved: Desk) -> bool:
    """Store a desk, new or changed; if it asks, no other does any more.

    False if it is not the version before this one that is stored: somebody else has changed it since it was read.

    Raises:
        IntegrityError: it is new, and there is one of that id.
    """
    values = {name: getattr(saved, name) for name in Desk.__dataclass_fields__}
    if saved.version == 1:
        await db.execute(sa.insert(DESK).values(values))
    else:
        read = (DESK.c.id == saved.id) & (DESK.c.version == saved.version - 1)
        if not (await db.execute(sa.update(DESK).where(read).values(values))).rowcount:
            return False
    if saved.asks:
        # A new version: whoever is changing one of these just now would let it ask again.
        others = sa.update(DESK).where(DESK.c.id != saved.id, DESK.c.asks)
        await db.execute(others.values(asks=False, version=DESK.c.version + 1))
    return True


async def remove_desk(db: AsyncConnection, desk_id: str) -> bool:
    """Delete a desk with its credentials; tell whether there was one."""
    return bool((await db.execute(sa.delete(DESK).where(DESK.c.id == desk_id))).rowcount)


# ------------------------------------------------------------------------------------------------ tickets


async def want(db: AsyncConnection, tickets: Sequence[Mapping[str, Any]], now: int) -> None:
    """Ask for tickets: `reference, case_id, kind, desk_id, values, requester_email, dry_run, flagged_at` of each."""
    if tickets:
        fixed = {"state": "wanted", "attempts": 0, "due": now}
        await db.execute(sa.insert(TICKET), [{**one, **fixed} for one in tickets])


async def of_cases(db: AsyncConnection, case_ids: set[str], kind: Kind = "question") -> dict[str, Ticket]:
    """Return the tickets of a kind of those of these cases that have, or are to get, one."""
    found = await _listed(db, TICKET.c.case_id, case_ids, TICKET.c.kind == kind)
    return {ticket.case_id: ticket for ticket in found}


async def referred(db: AsyncConnection, references: set[str], *, lock: bool = False) -> dict[str, Ticket]:
    """Return tickets by what their desks know them by; with `lock`, nobody else changes them meanwhile."""
    found = await _listed(db, TICKET.c.reference, references, sa.true(), lock=lock)
    return {ticket.reference: ticket for ticket in found}


async def _listed(
    db: AsyncConnection, column: sa.Column[Any], values: set[str], also: sa.ColumnElement[bool], *, lock: bool = False
) -> list[Ticket]:
    if not values:
        return []
    query = sa.select(*_TICKET).where(among(column, values), also).order_by(TICKET.c.reference)
    found = await db.execute(query.with_for_update() if lock else query)
    return [Ticket(*row) for row in found.tuples()]


async def due_desks(db: AsyncConnection, state: TicketState, now: int) -> set[str]:
    """Return the desks that have tickets of a state that are due."""
    due = sa.select(TICKET.c.desk_id).where(TICKET.c.state == state, TICKET.c.due <= now).distinct()
    return set((await db.execute(due)).scalars())


async def claim(
    db: AsyncConnection, state: TicketState, desk_id: str, *, now: int, until: int, most: int
) -> list[Ticket]:
    """Claim tickets of a state that are due on a desk, until the end of a lease."""
    due = (
        sa.select(TICKET.c.reference)
        .where(TICKET.c.state == state, TICKET.c.desk_id == desk_id, TICKET.c.due <= now)
        .order_by(TICKET.c.due, TICKET.c.reference)
        .limit(most)
        .with_for_update(skip_locked=True)
    )
    references = list((await db.execute(due)).scalars())
    if not references:
        return []
    mine = TICKET.c.reference.in_(references)
    await db.execute(sa.update(TICKET).where(mine).values(due=until, lease=until, attempts=TICKET.c.attempts + 1))
    found = await db.execute(sa.select(*_TICKET).where(mine).order_by(TICKET.c.reference))
    return [Ticket(*row) for row in found.tuples()]


async def settle(db: AsyncConnection, claimed: Ticket, **values: Any) -> bool:
    """Write what became of a claimed ticket; False if somebody else has claimed or settled it since."""
    done = await db.execute(
        sa.update(TICKET)
        .where(
            TICKET.c.reference == claimed.reference,
            TICKET.c.state == claimed.state,
            TICKET.c.attempts == claimed.attempts,
            TICKET.c.lease == claimed.lease,
        )
        .values(lease=None, **values)
    )
    return bool(done.rowcount)


async def begin(db: AsyncConnection, reference: str, doing: Doing, leaves: str | None = None) -> None:
    """Record what is about to be done to a ticket: then it is ours, also if nobody learns what became of it.

    `leaves` is what it says once it is closed as it stands; None where it has been answered already.
    """
    await db.execute(sa.update(TICKET).where(TICKET.c.reference == reference).values(doing=doing, leaves=leaves))


async def not_done(db: AsyncConnection, reference: str) -> None:
    """Record that a ticket's desk refused what was about to be done to it."""
    await db.execute(sa.update(TICKET).where(TICKET.c.reference == reference).values(doing=None))


async def given_up(db: AsyncConnection, reference: str) -> None:
    """Have nobody poll a ticket any more that could not be told the end of its case.

    It may well be open: that is not its people's doing, so that it does not count as closed before.
    """
    await db.execute(sa.update(TICKET).where(TICKET.c.reference == reference).values(state="closed"))


async def acted(db: AsyncConnection, reference: str, act: Act, now: int) -> None:
    """Record what was done to a ticket from here: at `now`, in milliseconds of the wall clock."""
    mine = sa.update(TICKET).where(TICKET.c.reference == reference)
    match act:
        case "close":
            await db.execute(mine.values(_closed_by_us(now)))
        case "end" | "end_quietly":
            await db.execute(mine.values(state="closed", **_closed_by_us(now)))
        case "reopen":
            await db.execute(mine.values(state="open", closed_since=None, says="open", doing=None))
        case "comment":
            pass


def _closed_by_us(now: int) -> dict[str, Any]:
    """Return what is known of a ticket that was closed from here: what it says by that, nobody has said."""
    left = (TICKET.c.doing == "closing") & TICKET.c.leaves.is_not(None)
    return {
        "closed_since": sa.func.coalesce(TICKET.c.closed_since, now),
        "says": sa.case((left, TICKET.c.leaves), else_=TICKET.c.says),
        "doing": None,
    }


async def closing_took(db: AsyncConnection, word: Word, now: int) -> None:
    """Record that a word has closed its ticket, which is open again: that is its people's doing.

    What closes a question is then said as a comment, so that it does not close the ticket once more. An end still does.
    """
    begun = (TICKET.c.reference == word.reference) & (TICKET.c.doing == "closing")
    await db.execute(sa.update(TICKET).where(begun).values(_closed_by_us(now)))
    mine = (TICKET_WORD.c.number == word.number) & (TICKET_WORD.c.act == "close")
    await db.execute(sa.update(TICKET_WORD).where(mine).values(act="comment"))


async def heard(db: AsyncConnection, reference: str, says: str, closed_since: int | None) -> None:
    """Record what a ticket said, and since when it is closed; what was being done to it is known by that, if done."""
    done: Doing = "closing" if closed_since is not None else "reopening"
    doing = sa.case((TICKET.c.doing == done, None), else_=TICKET.c.doing)
    mine = TICKET.c.reference == reference
    await db.execute(sa.update(TICKET).where(mine).values(says=says, closed_since=closed_since, doing=doing))


async def drop_words(db: AsyncConnection, reference: str) -> None:
    """Count what a ticket waits to hear as told: there is nobody to tell it."""
    waiting = (TICKET_WORD.c.reference == reference) & (TICKET_WORD.c.state == "waiting")
    await db.execute(sa.update(TICKET_WORD).where(waiting).values(state="told", failure=None))


async def unfinished(db: AsyncConnection, desk_id: str, place: str) -> int:
    """Return how many tickets of a desk that are in a place are still read or told something."""
    to_hear = sa.exists().where(
        TICKET_WORD.c.reference == TICKET.c.reference, TICKET_WORD.c.state.in_(("waiting", "failed"))
    )
    here = (TICKET.c.desk_id == desk_id) & TICKET.c.key.is_not(None)
    there = TICKET.c.place.is_(None) | (TICKET.c.place == place)
    query = sa.select(sa.func.count()).select_from(TICKET).where(here, there, (TICKET.c.state == "open") | to_hear)
    return (await db.execute(query)).scalar_one()


async def set_failure(db: AsyncConnection, case_id: str, failure: str | None) -> None:
    """Record on a request why there is no ticket, or (None) that there is one."""
    await db.execute(sa.update(TICKET_REQUEST).where(TICKET_REQUEST.c.case_id == case_id).values(failure=failure))


async def retry(db: AsyncConnection, case_id: str, now: int, kinds: Sequence[Kind] = ("question", "task")) -> bool:
    """Let tickets of a case that failed be opened after all; False if there are none."""
    done = await db.execute(
        sa.update(TICKET)
        .where(TICKET.c.case_id == case_id, TICKET.c.kind.in_(kinds), TICKET.c.state == "failed")
        .values(state="wanted", failure=None, due=now)
    )
    return bool(done.rowcount)


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that a desk answers and that keeps tickets from being opened, read or told."""

    desk_id: str
    what: str
    failure: str
    tickets: int


async def troubles(db: AsyncConnection, limit: int) -> list[Trouble]:
    """Return what is wrong with desks now, the worst first."""
    of_tickets = (
        sa.select(TICKET.c.desk_id, TICKET.c.state, TICKET.c.failure, sa.func.count())
        .where(TICKET.c.failure.is_not(None), TICKET.c.state != "closed")
        .group_by(TICKET.c.desk_id, TICKET.c.state, TICKET.c.failure)
    )
    of_words = (
        sa.select(TICKET.c.desk_id, sa.func.count(sa.distinct(TICKET.c.reference)), TICKET_WORD.c.failure)
        .join(TICKET, TICKET.c.reference == TICKET_WORD.c.reference)
        .where(TICKET_WORD.c.failure.is_not(None))
        .group_by(TICKET.c.desk_id, TICKET_WORD.c.failure)
    )
    what = {"wanted": "opened yet", "failed": "opened", "open": "read"}
    found = [
        Trouble(desk_id, what.get(state, "read"), str(failure), count)
        for desk_id, state, failure, count in (await db.execute(of_tickets)).tuples()
    ]
    found += [
        Trouble(desk_id, "told", str(failure), count)
        for desk_id, count, failure in (await db.execute(of_words)).tuples()
    ]
    return sorted(found, key=lambda one: (-one.tickets, one.desk_id, one.what, one.failure))[:limit]


async def revive(db: AsyncConnection, desk_id: str, now: int) -> None:
    """Let what failed on a desk, or is put off, be tried again now: somebody has mended its connection.

    Whoever works on a ticket or a word just now is left to finish: another beside it would do the same once more.
    """
    over = sa.exists().where(
        TICKET_WORD.c.reference == TICKET.c.reference, TICKET_WORD.c.act.in_(("end", "end_quietly"))
    )
    # After the end of its case none is opened; one that an attempt may have opened unheard is looked for, to be closed.
    of_no_use = over & (TICKET.c.attempts <= 1)
    await db.execute(
        sa.update(TICKET)
        .where(TICKET.c.desk_id == desk_id, TICKET.c.state == "failed", ~of_no_use)
        .values(state="wanted", due=now)
    )
    late = TICKET.c.failure.is_not(None) & TICKET.c.state.in_(("wanted", "open")) & _free(TICKET, now)
    await db.execute(sa.update(TICKET).where(TICKET.c.desk_id == desk_id, late).values(due=now))
    here = sa.select(TICKET.c.reference).where(TICKET.c.desk_id == desk_id)
    left = TICKET_WORD.c.reference.in_(here) & TICKET_WORD.c.failure.is_not(None) & _free(TICKET_WORD, now)
    # What failed before the end of its case was told would reopen or close a ticket that is done with.
    overtaken = sa.exists().where(
        _OTHER.c.reference == TICKET_WORD.c.reference,
        _OTHER.c.act.in_(("end", "end_quietly")),
        _OTHER.c.number > TICKET_WORD.c.number,
    )
    failed = TICKET_WORD.c.state == "failed"
    await db.execute(sa.update(TICKET_WORD).where(left, failed, overtaken).values(state="told", failure=None))
    await db.execute(sa.update(TICKET_WORD).where(left).values(state="waiting", due=now))


def _free(table: sa.Table, now: int) -> sa.ColumnElement[bool]:
    """Return whether nobody works on a row just now."""
    return table.c.lease.is_(None) | (table.c.lease <= now)


# ------------------------------------------------------------------------------------------------ words


async def add_words(db: AsyncConnection, words: Sequence[tuple[str, str, Act, str]], now: int) -> None:
    """Store what tickets are to be told, in order: (id of what has it told, reference, act, text)."""
    if words:
        fixed = {"state": "waiting", "attempts": 0, "due": now}
        names = ("event_id", "reference", "act", "text")
        await db.execute(sa.insert(TICKET_WORD), [{**dict(zip(names, one, strict=True)), **fixed} for one in words])


async def ending(db: AsyncConnection, references: set[str]) -> set[str]:
    """Return which of these tickets are told, or were, that their case has ended."""
    if not references:
        return set()
    found = await db.execute(
        sa.select(TICKET_WORD.c.reference).where(
            among(TICKET_WORD.c.reference, references), TICKET_WORD.c.act.in_(("end", "end_quietly"))
        )
    )
    return set(found.scalars())


_EARLIER: Final = sa.exists().where(
    _OTHER.c.reference == TICKET_WORD.c.reference,
    _OTHER.c.state == "waiting",
    _OTHER.c.number < TICKET_WORD.c.number,
)


def _next_words(column: sa.Column[Any], now: int) -> sa.Select[Any]:
    """Select a column of the next word of each ticket that is there, as far as it is due."""
    return (
        sa.select(column)
        .join_from(TICKET_WORD, TICKET, TICKET.c.reference == TICKET_WORD.c.reference)
        .where(TICKET_WORD.c.state == "waiting", TICKET_WORD.c.due <= now, TICKET.c.key.is_not(None), ~_EARLIER)
    )


async def desks_to_tell(db: AsyncConnection, now: int) -> set[str]:
    """Return the desks that have tickets to which something is to be said now."""
    return set((await db.execute(_next_words(TICKET.c.desk_id, now).distinct())).scalars())


async def claim_words(
    db: AsyncConnection, desk_id: str, *, now: int, until: int, most: int
) -> list[tuple[Word, Ticket]]:
    """Claim the next word of each ticket of a desk that is there, until the end of a lease."""
    due = (
        _next_words(TICKET_WORD.c.number, now)
        .where(TICKET.c.desk_id == desk_id)
        .order_by(TICKET_WORD.c.due, TICKET_WORD.c.number)
        .limit(most)
        .with_for_update(skip_locked=True, of=TICKET_WORD)
    )
    numbers = list((await db.execute(due)).scalars())
    if not numbers:
        return []
    mine = TICKET_WORD.c.number.in_(numbers)
    claimed = {"due": until, "lease": until, "attempts": TICKET_WORD.c.attempts + 1}
    await db.execute(sa.update(TICKET_WORD).where(mine).values(claimed))
    found = await db.execute(sa.select(*_WORD).where(mine).order_by(TICKET_WORD.c.number))
    words = [Word(*row) for row in found.tuples()]
    tickets = await referred(db, {word.reference for word in words})
    return [(word, tickets[word.reference]) for word in words]


async def settle_word(db: AsyncConnection, claimed: Word, **values: Any) -> bool:
    """Write what became of a claimed word; False if somebody else has claimed it since."""
    done = await db.execute(
        sa.update(TICKET_WORD)
        .where(TICKET_WORD.c.number == claimed.number, TICKET_WORD.c.attempts == claimed.attempts)
        .values(lease=None, **values)
    )
    return bool(done.rowcount)
