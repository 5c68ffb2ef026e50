"""Every statement of the lifecycle service.

A case is stored as a document (the domain's `Case`, encoded) beside the columns that are searched for. Writes are
set-wise: a constant number of statements for any number of cases.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from msgspec.structs import asdict
from sqlalchemy.ext.asyncio import AsyncConnection

from reclaim.common.contracts import ConnectionChanged
from reclaim.common.db import BigKey, Json, UtcDateTime, among, given, insert_many, update_many
from reclaim.common.ids import new_id
from reclaim.common.migrate import service_metadata
from reclaim.common.timing import wall_milliseconds
from reclaim.lifecycle import audit
from reclaim.lifecycle.domain import Case, Effect, Timer

metadata = service_metadata()

CASE: Final = sa.Table(
    "reclaim_case",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("connection_id", sa.Text, nullable=False),
    sa.Column("product", sa.Text, nullable=False),
    sa.Column("holder_id", sa.Text, nullable=False),
    sa.Column("holder_name", sa.Text, nullable=False),
    sa.Column("holder_email", sa.Text),
    sa.Column("rule_id", sa.Text, nullable=False),
    sa.Column("dry_run", sa.Boolean, nullable=False),
    sa.Column("records_transferred", sa.Integer, nullable=False),
    sa.Column("flagged_at", UtcDateTime, nullable=False),
    sa.Column("changed_at", UtcDateTime, nullable=False),
    sa.Column("document", sa.LargeBinary, nullable=False),
    # The state that a case in attention goes on from.
    sa.Column("attention", sa.Text),
    # Whether it ended and left a freeze behind that is, or may be, ours.
    sa.Column("left_frozen", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Index("case_flagged", "flagged_at", "id"),
    sa.Index(
        "case_attention",
        "attention",
        sqlite_where=sa.text("attention IS NOT NULL"),
        postgresql_where=sa.text("attention IS NOT NULL"),
    ),
)
"""No index names a column that changes as a case moves on, save into and out of attention, and on PostgreSQL half of
each page is left free: a new version of a row then goes beside the old one, without an entry in any index.
"""

OPEN_SEAT: Final = sa.Table(
    "open_seat",
    metadata,
    sa.Column("case_id", sa.Text, primary_key=True),
    sa.Column("holder_id", sa.Text, nullable=False),
    sa.Column("connection_id", sa.Text, nullable=False),
    sa.Column("product", sa.Text, nullable=False),
    sa.Index("open_seat_once", "holder_id", "connection_id", "product", unique=True),
)
"""The seats that have an open case; what makes a second one for the same seat impossible."""

TIMER: Final = sa.Table(
    "timer",
    metadata,
    sa.Column("case_id", sa.Text, primary_key=True),
    sa.Column("command", sa.Text, primary_key=True),
    sa.Column("at", UtcDateTime, nullable=False, index=True),
)

EFFECT: Final = sa.Table(
    "effect",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("case_id", sa.Text, nullable=False, index=True),
    sa.Column("connection_id", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("for_state", sa.Text, nullable=False),
    sa.Column("dry_run", sa.Boolean, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("plan", Json),
    sa.Column("due", sa.BigInteger, nullable=False, index=True),
    sa.Column("sent", sa.Boolean, nullable=False, server_default=sa.false()),
)

AUDIT: Final = sa.Table(
    "audit",
    metadata,
    sa.Column("position", BigKey, primary_key=True, autoincrement=False),
    sa.Column("case_id", sa.Text, nullable=False, index=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("channel", sa.Text, nullable=False),
    sa.Column("command", sa.Text, nullable=False),
    sa.Column("accepted", sa.Boolean, nullable=False),
    sa.Column("before", sa.Text, nullable=False),
    sa.Column("after", sa.Text, nullable=False),
    sa.Column("note", sa.Text, nullable=False),
    sa.Column("evidence", sa.Text, nullable=False),
    sa.Column("personal", sa.Text),
    sa.Column("previous", sa.Text, nullable=False),
    sa.Column("hash", sa.Text, nullable=False),
)

AUDIT_HEAD: Final = sa.Table(
    "audit_head",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("position", sa.BigInteger, nullable=False),
    sa.Column("hash", sa.Text, nullable=False),
)

PERSONAL: Final = sa.Table(
    "personal",
    metadata,
    sa.Column("position", BigKey, primary_key=True, autoincrement=False),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.Column("salt", sa.Text, nullable=False),
    sa.Column("ip", sa.Text),
    sa.Column("user_agent", sa.Text),
)

CONNECTION: Final = sa.Table(
    "connection",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("settings", Json, nullable=False),
    sa.Column("credentials", sa.Text, nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("removed", sa.Boolean, nullable=False),
)

LEASE: Final = 20_000
"""Milliseconds for which a claimed effect is nobody else's; prolonged for as long as its call takes."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Case).decode


def decode_case(document: bytes) -> Case:
    """Return the case that a row's document holds."""
    return _decode(bytes(document))


def _row(case: Case, now: datetime) -> dict[str, Any]:
    return {
        "id": case.id,
        "state": case.state.value,
        "connection_id": case.seat.connection_id,
        "product": case.seat.product,
        "holder_id": case.seat.holder.id,
        "holder_name": case.seat.holder.name,
        "holder_email": case.seat.holder.email,
        "attention": case.attention.resume.value if case.attention is not None else None,
        "left_frozen": case.left_frozen,
        "rule_id": case.policy.rule_id,
        "dry_run": case.policy.dry_run,
        "records_transferred": case.records_transferred,
        "flagged_at": case.flagged_at,
        "changed_at": now,
        "document": _encode(case),
    }


# Cases.


_LOAD: Final = (
    sa.select(CASE.c.id, CASE.c.document).where(among(CASE.c.id, given("ids"))).order_by(CASE.c.id).with_for_update()
)


async def load(db: AsyncConnection, ids: Collection[str]) -> dict[str, Case]:
    """Return the cases of these ids, locked until the transaction ends, in one order for everybody."""
    if not ids:
        return {}
    rows = await db.execute(_LOAD, {"ids": ids})
    return {case_id: _decode(bytes(document)) for case_id, document in rows.tuples()}


async def open_seats(db: AsyncConnection, holders: Collection[str]) -> dict[tuple[str, str, str], str]:
    """Return the open cases of these holders: (connection, holder, product) → case id."""
    open_now = sa.select(*OPEN_SEAT.c["connection_id", "holder_id", "product", "case_id"])
    rows = await db.execute(open_now.where(among(OPEN_SEAT.c.holder_id, holders)))
    return {(connection, holder, product): case_id for connection, holder, product, case_id in rows.tuples()}


async def insert(db: AsyncConnection, cases: Sequence[Case], now: datetime, *, ending: Collection[str] = ()) -> None:
    """Store new cases. Those of `ending` end in the same transaction, and take no seat."""
    await insert_many(db, CASE, [_row(case, now) for case in cases])
    await insert_many(
        db,
        OPEN_SEAT,
        [
            {
                "case_id": case.id,
                "holder_id": case.seat.holder.id,
                "connection_id": case.seat.connection_id,
                "product": case.seat.product,
            }
            for case in cases
            if case.id not in ending
        ],
    )


_FREE: Final = sa.delete(OPEN_SEAT).where(among(OPEN_SEAT.c.case_id, given("ids")))


async def update(db: AsyncConnection, cases: Sequence[Case], now: datetime) -> None:
    """Store what became of cases."""
    await update_many(
        db,
        CASE,
        "id",
        [
            {
                "id": case.id,
                "state": case.state.value,
                "attention": case.attention.resume.value if case.attention is not None else None,
                "left_frozen": case.left_frozen,
                "records_transferred": case.records_transferred,
                "document": _encode(case),
            }
            for case in cases
        ],
        same={"changed_at": now},
    )
    ended = [case.id for case in cases if not case.open]
    if ended:
        await db.execute(_FREE, {"ids": ended})


async def find(db: AsyncConnection, case_id: str) -> Case | None:
    """Return one case as it is now, without locking it."""
    document = (await db.execute(sa.select(CASE.c.document).where(CASE.c.id == case_id))).scalar_one_or_none()
    return None if document is None else _decode(document)


async def search(
    db: AsyncConnection,
    *,
    states: Collection[str] = (),
    text: str = "",
    limit: int = 100,
    before: tuple[datetime, str] | None = None,
) -> list[Case]:
    """Return cases, the latest flagged first; `before` is the (flagged_at, id) of the last one of the page before."""
    query = sa.select(CASE.c.document).order_by(CASE.c.flagged_at.desc(), CASE.c.id.desc()).limit(limit)
    if states:
        query = query.where(CASE.c.state.in_(list(states)))
    if text:
        query = query.where(CASE.c.holder_name.icontains(text, autoescape=True))
    if before is not None:
        query = query.where(
            sa.or_(CASE.c.flagged_at < before[0], sa.and_(CASE.c.flagged_at == before[0], CASE.c.id < before[1]))
        )
    return [_decode(document) for document in (await db.execute(query)).scalars()]


async def count_by_state(db: AsyncConnection) -> dict[str, int]:
    """Return how many cases stand in each state."""
    rows = await db.execute(sa.select(CASE.c.state, sa.func.count()).group_by(CASE.c.state))
    return dict(iter(rows.tuples()))


async def count_commands(db: AsyncConnection) -> dict[tuple[str, str, str], int]:
    """Return how often each command was accepted, from the audit trail: (command, before, after) → count."""
    rows = await db.execute(
        sa.select(AUDIT.c.command, AUDIT.c.before, AUDIT.c.after, sa.func.count())
        .where(AUDIT.c.accepted)
        .group_by(AUDIT.c.command, AUDIT.c.before, AUDIT.c.after)
    )
    return {(command, before, after): count for command, before, after, count in rows.tuples()}


async def sum_records(db: AsyncConnection) -> int:
    """Return how many records were handed over, over all live cases."""
    total = sa.select(sa.func.coalesce(sa.func.sum(CASE.c.records_transferred), 0)).where(~CASE.c.dry_run)
    return int((await db.execute(total)).scalar_one())


# Timers.


async def set_timers(db: AsyncConnection, timers: Sequence[tuple[str, Timer]]) -> None:
    """Set (case id, timer) pairs, each replacing the case's timer of that kind."""
    latest = {(case_id, timer.command): timer.at for case_id, timer in timers}
    await insert_many(
        db,
        TIMER,
        [{"case_id": case_id, "command": command, "at": at} for (case_id, command), at in latest.items()],
        replacing=("case_id", "command"),
    )


async def due_timers(db: AsyncConnection, now: datetime, *, most: int) -> list[tuple[str, datetime]]:
    """Return (case id, instant) of the timers whose instant has passed, the earliest first."""
    return list((await db.execute(_DUE_TIMERS, {"now": now, "most": most})).tuples())


_DUE_TIMERS: Final = (
    sa.select(TIMER.c.case_id, TIMER.c.at)
    .where(TIMER.c.at <= sa.bindparam("now"))
    .order_by(TIMER.c.at)
    .limit(sa.bindparam("most", type_=sa.Integer))
)


_TAKE_TIMERS: Final = (
    sa.delete(TIMER)
    .where(among(TIMER.c.case_id, given("ids")), TIMER.c.at <= sa.bindparam("now", type_=UtcDateTime))
    .returning(TIMER.c.case_id, TIMER.c.command)
)


async def take_timers(db: AsyncConnection, case_ids: Collection[str], now: datetime) -> list[tuple[str, str]]:
    """Take out the due timers of cases, which the caller has locked; return their (case id, command), in order."""
    if not case_ids:
        return []
    rows = await db.execute(_TAKE_TIMERS, {"ids": case_ids, "now": now})
    return sorted((case_id, command) for case_id, command in rows.tuples())


# Effects.


@dataclass(frozen=True, slots=True)
class Claimed:
    """An effect that this process may run until its lease is over. `plan` is what an earlier attempt fixed.

    `attempts` counts this one. `tried`: an earlier one may have sent something to the connected system.
    """

    id: str
    case: Case
    kind: Effect
    attempts: int
    plan: dict[str, Any] | None
    tried: bool


async def add_effects(db: AsyncConnection, cases: Sequence[tuple[Case, Effect]]) -> None:
    """Store what is to be done for these cases, in the states they are in."""
    await insert_many(
        db,
        EFFECT,
        [
            {
                "id": new_id(),
                "case_id": case.id,
                "connection_id": case.seat.connection_id,
                "kind": effect.value,
                "for_state": case.state.value,
                "dry_run": case.policy.dry_run,
                # What was checked is acted on before more is checked, so that no check grows old in a long queue.
                "due": int(effect is Effect.CHECK),
            }
            for case, effect in cases
        ],
        same={"attempts": 0, "reason": ""},
    )


_LONGEST_DUE: Final = (
    sa.select(EFFECT.c.connection_id, EFFECT.c.kind, EFFECT.c.dry_run)
    .where(EFFECT.c.due <= sa.bindparam("now"))
    .order_by(EFFECT.c.due, EFFECT.c.id)
    .limit(1)
)
_ALIKE: Final = (
    sa.select(EFFECT)
    .where(
        EFFECT.c.due <= sa.bindparam("now"),
        *(EFFECT.c[name] == sa.bindparam(name) for name in ("connection_id", "kind", "dry_run")),
    )
    .order_by(EFFECT.c.due, EFFECT.c.id)
    .limit(sa.bindparam("most", type_=sa.Integer))
    .with_for_update(skip_locked=True)
)
_CLAIM: Final = (
    sa.update(EFFECT)
    .where(among(EFFECT.c.id, given("ids")))
    .values(due=sa.bindparam("until"), attempts=EFFECT.c.attempts + 1, reason="")
)


async def claim_effects(db: AsyncConnection, *, most: int, avoiding: Collection[str] = ()) -> list[Claimed]:
    """Claim effects that are due, all of one connection, kind and dry-run flag, so that they share calls.

    The connections of `avoiding` are left out. An effect whose case has left the state it was meant for is void and
    is dropped here.
    """
    now = wall_milliseconds()
    elsewhere = EFFECT.c.connection_id.not_in(sorted(avoiding))
    longest_due = await db.execute(_LONGEST_DUE.where(elsewhere) if avoiding else _LONGEST_DUE, {"now": now})
    first = longest_due.mappings().one_or_none()
    if first is None:
        return []
    rows = list(await db.execute(_ALIKE, {"now": now, "most": most, **first}))
    cases = await load(db, [row.case_id for row in rows])
    claimed, void = [], []
    for row in rows:
        case = cases.get(row.case_id)
        if case is None or case.state.value != row.for_state:
            void.append(row.id)
        else:
            claimed.append(Claimed(row.id, case, Effect(row.kind), row.attempts + 1, row.plan, row.sent))
    await drop_effects(db, void)
    if claimed:
        await db.execute(_CLAIM, {"ids": [effect.id for effect in claimed], "until": now + LEASE})
    return claimed


_HELD: Final = (
    sa.select(EFFECT.c.id, EFFECT.c.attempts)
    .where(among(EFFECT.c.id, given("ids")))
    .order_by(EFFECT.c.id)
    .with_for_update()
)
_PROLONG: Final = sa.update(EFFECT).where(among(EFFECT.c.id, given("ids"))).values(due=sa.bindparam("until"))


async def prolong_leases(db: AsyncConnection, attempts: Mapping[str, int]) -> set[str]:
    """Prolong the leases of claimed effects (id → the attempt it was claimed for); return those still that claim's.

    The number of attempts is the fence: whoever claims an effect after its lease counts it on.
    """
    rows = await db.execute(_HELD, {"ids": attempts.keys()})
    ours = {row.id for row in rows if attempts[row.id] == row.attempts}
    await db.execute(_PROLONG, {"ids": ours, "until": wall_milliseconds() + LEASE})
    return ours


_SENT: Final = sa.update(EFFECT).where(among(EFFECT.c.id, given("ids"))).values(sent=sa.true())


async def mark_sent(db: AsyncConnection, ids: Collection[str]) -> None:
    """Note, before it is sent, that a step may have been: whoever tries it again has to take it for done or not.

    Only for effects whose lease was prolonged in the same transaction.
    """
    if ids:
        await db.execute(_SENT, {"ids": ids})


async def may_be_sent(db: AsyncConnection, ids: Collection[str]) -> set[str]:
    """Return which of these effects may have been sent to the connected system."""
    chosen = sa.select(EFFECT.c.id).where(among(EFFECT.c.id, ids), EFFECT.c.sent)
    return set((await db.execute(chosen)).scalars()) if ids else set()


async def keep_plans(db: AsyncConnection, plans: Mapping[str, dict[str, Any]]) -> None:
    """Fix what effects are about to do, before they do it, so that a crash in between cannot change the count.

    Only for effects whose lease was prolonged in the same transaction.
    """
    if not plans:
        return
    await db.execute(
        sa.update(EFFECT).where(EFFECT.c.id == sa.bindparam("effect_id")).values(plan=sa.bindparam("new_plan")),
        [{"effect_id": effect_id, "new_plan": plan} for effect_id, plan in plans.items()],
    )


_DROP: Final = sa.delete(EFFECT).where(among(EFFECT.c.id, given("ids"))).returning(EFFECT.c.id)


async def drop_effects(db: AsyncConnection, ids: Sequence[str]) -> set[str]:
    """Remove effects and return those that were still there: whoever removes one may report its outcome."""
    if not ids:
        return set()
    return set((await db.execute(_DROP, {"ids": ids})).scalars())


async def put_off_effects(db: AsyncConnection, later: Sequence[tuple[Claimed, int, str]]) -> None:
    """Let effects be tried again: (effect, milliseconds from now, reason). What was claimed anew is left alone."""
    if later:
        now = wall_milliseconds()
        await db.execute(
            sa.update(EFFECT)
            .where(EFFECT.c.id == sa.bindparam("effect_id"), EFFECT.c.attempts == sa.bindparam("claimed"))
            .values(due=sa.bindparam("new_due"), reason=sa.bindparam("new_reason")),
            [
                {"effect_id": effect.id, "claimed": effect.attempts, "new_due": now + wait, "new_reason": reason}
                for effect, wait, reason in later
            ],
        )


async def hurry_effects(db: AsyncConnection, case_ids: Collection[str], reason: str) -> None:
    """Let the effects of some cases be tried at once that rest for this reason; none does while it is claimed."""
    resting = sa.update(EFFECT).where(among(EFFECT.c.case_id, case_ids), EFFECT.c.reason == reason)
    await db.execute(resting.values(due=wall_milliseconds()))


async def effects_of(db: AsyncConnection, case_id: str) -> list[Mapping[str, Any]]:
    """Return what is still to be done for a case, with the reason of the last failed attempt."""
    rows = await db.execute(
        sa.select(EFFECT.c.kind, EFFECT.c.attempts, EFFECT.c.reason).where(EFFECT.c.case_id == case_id)
    )
    return [dict(row) for row in rows.mappings()]


async def count_effects(db: AsyncConnection) -> int:
    """Return how many effects have not been done."""
    return int((await db.execute(sa.select(sa.func.count()).select_from(EFFECT))).scalar_one())


# The audit trail.


_LOCK_HEAD: Final = sa.select(AUDIT_HEAD).with_for_update()
_MOVE_HEAD: Final = sa.update(AUDIT_HEAD).values(position=sa.bindparam("upto"), hash=sa.bindparam("newest"))


async def append_audit(
    db: AsyncConnection, entries: Sequence[tuple[audit.Entry, audit.Personal | None]], now: datetime
) -> None:
    """Append to the chain. Call it last in a transaction: it holds the chain's head until the commit."""
    if not entries:
        return
    head = (await db.execute(_LOCK_HEAD)).one()
    links = audit.chain([entry for entry, _ in entries], position=head.position, previous=head.hash)
    await insert_many(
        db,
        AUDIT,
        [
            {**asdict(link.entry), "position": link.position, "previous": link.previous, "hash": link.hash}
            for link in links
        ],
    )
    await insert_many(
        db,
        PERSONAL,
        [
            {"position": link.position, **asdict(data)}
            for link, (_, data) in zip(links, entries, strict=True)
            if data is not None
        ],
        same={"at": now},
    )
    await db.execute(_MOVE_HEAD, {"upto": links[-1].position, "newest": links[-1].hash})


def link_of(row: Any) -> audit.Link:
    """Return an entry in its place from a row of its table."""
    entry = audit.Entry(
        case_id=row.case_id,
        version=row.version,
        at=row.at,
        actor=row.actor,
        channel=row.channel,
        command=row.command,
        accepted=row.accepted,
        before=row.before,
        after=row.after,
        note=row.note,
        evidence=row.evidence,
        personal=row.personal,
    )
    return audit.Link(row.position, entry, row.previous, row.hash)


async def audit_head(db: AsyncConnection) -> tuple[int, str]:
    """Return the number of entries and the hash of the last."""
    row = (await db.execute(sa.select(AUDIT_HEAD))).one()
    return row.position, row.hash


async def audit_pages(
    db: AsyncConnection, *, size: int = 5_000
) -> AsyncIterator[tuple[list[audit.Link], dict[int, audit.Personal]]]:
    """Yield the whole chain in order, a page at a time, with the personal data still kept for it, by position."""
    beside = PERSONAL.c.position == AUDIT.c.position
    pages = (
        sa.select(AUDIT, PERSONAL.c.salt, PERSONAL.c.ip, PERSONAL.c.user_agent)
        .outerjoin(PERSONAL, beside)
        .where(AUDIT.c.position > sa.bindparam("after"))
        .order_by(AUDIT.c.position)
        .limit(size)
    )
    position = 0
    while rows := (await db.execute(pages, {"after": position})).all():
        kept = {row.position: audit.Personal(row.salt, row.ip, row.user_agent) for row in rows if row.salt is not None}
        yield [link_of(row) for row in rows], kept
        position = rows[-1].position


@dataclass(frozen=True, slots=True)
class Moment:
    """An audit entry with the personal data that is still kept for it."""

    link: audit.Link
    ip: str | None
    user_agent: str | None


async def history(db: AsyncConnection, case_id: str) -> list[Moment]:
    """Return everything that happened to a case, in order."""
    rows = await db.execute(
        sa.select(AUDIT, PERSONAL.c.ip, PERSONAL.c.user_agent)
        .outerjoin(PERSONAL, PERSONAL.c.position == AUDIT.c.position)
        .where(AUDIT.c.case_id == case_id)
        .order_by(AUDIT.c.position)
    )
    return [Moment(link_of(row), row.ip, row.user_agent) for row in rows]


async def erase_personal(db: AsyncConnection, before: datetime) -> int:
    """Erase personal data older than an instant; the chain stays valid. Return how many entries lost theirs."""
    return (await db.execute(sa.delete(PERSONAL).where(PERSONAL.c.at < before))).rowcount


# Connections, as the scanner told of them.


async def save_connections(db: AsyncConnection, changes: Sequence[ConnectionChanged]) -> None:
    """Store connection profiles; an older version than the stored one is ignored."""
    statement = sa.text(
        "INSERT INTO connection (id, name, kind, settings, credentials, version, removed) "
        "VALUES (:id, :name, :kind, :settings, :credentials, :version, :removed) "
        "ON CONFLICT (id) DO UPDATE SET name = excluded.name, kind = excluded.kind, settings = excluded.settings, "
        "credentials = excluded.credentials, version = excluded.version, removed = excluded.removed "
        "WHERE connection.version < excluded.version"
    ).bindparams(sa.bindparam("settings", type_=Json))
    await db.execute(
        statement,
        [
            {
                "id": change.connection_id,
                "name": change.name,
                "kind": change.kind,
                "settings": change.settings,
                "credentials": change.credentials,
                "version": change.version,
                "removed": change.removed,
            }
            for change in changes
        ],
    )


async def connection(db: AsyncConnection, connection_id: str) -> sa.Row[Any] | None:
    """Return a stored connection profile, with its credentials still sealed."""
    return (await db.execute(sa.select(CONNECTION).where(CONNECTION.c.id == connection_id))).one_or_none()
