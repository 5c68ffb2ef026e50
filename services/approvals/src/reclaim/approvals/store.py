"""All SQL of the stage.

`requests` has a row for each case, which the events fill in whatever order they come. `decision_origins` keeps the
personal data of a decision (IP, user agent) apart, to be erased by itself. `mails` is an effect table: a row is
`queued` until the mail server has taken the mail (`sent`) or never will (`failed`), or nobody needs it any longer
(`withdrawn`); `due` is when it may be claimed, and a claim moves it to the end of its lease. `pulse` is one row: since
when the pages have been up, and when that was noted last.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from secrets import token_urlsafe
from typing import Any, Final, Literal, get_args

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from reclaim.approvals.domain import RENEW_AFTER, Audience, Link, MailKind, Purpose, Request, Status
from reclaim.common import migrate
from reclaim.common.contracts import CheckFinding, Person, Policy, Seat
from reclaim.common.db import Json, UtcDateTime, among, given, prepared
from reclaim.common.ids import new_id
from reclaim.common.timing import wall_milliseconds

MailStatus = Literal["queued", "sent", "failed", "withdrawn"]
STATUSES: Final[tuple[Status, ...]] = get_args(Status)

metadata = migrate.service_metadata()

REMINDED: Final = sa.text("ask_next_at IS NOT NULL")

requests = sa.Table(
    "requests",
    metadata,
    sa.Column("case_id", sa.Text, primary_key=True),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("seat", Json, nullable=False),
    sa.Column("policy", Json, nullable=False),
    sa.Column("findings", Json, nullable=False),
    sa.Column("approver", Json, nullable=False),
    sa.Column("search", sa.Text, nullable=False),
    sa.Column("last_used_at", UtcDateTime),
    sa.Column("flagged_at", UtcDateTime, nullable=False),
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("appeal_epoch", sa.Integer, nullable=False),
    sa.Column("delivered_at", UtcDateTime),
    sa.Column("renewed_at", UtcDateTime),
    sa.Column("ask_failed_at", UtcDateTime),
    sa.Column("ask_failure", sa.Text),
    sa.Column("decision", sa.Text),
    sa.Column("decided_at", UtcDateTime),
    sa.Column("decided_by", sa.Text),
    sa.Column("justification", sa.Text, nullable=False),
    sa.Column("decided_link", sa.Text),
    sa.Column("frozen_at", UtcDateTime),
    sa.Column("frozen_because", sa.Text),
    sa.Column("grace_ends_at", UtcDateTime),
    sa.Column("appealed_at", UtcDateTime),
    sa.Column("appealed_by", sa.Text),
    sa.Column("appeal_reason", sa.Text, nullable=False),
    sa.Column("appeal_link", sa.Text),
    sa.Column("restored_at", UtcDateTime),
    sa.Column("restored_by", sa.Text),
    sa.Column("reclaimed_at", UtcDateTime),
    sa.Column("records_transferred", sa.Integer),
    sa.Column("reactivated_at", UtcDateTime),
    sa.Column("reactivated_by", sa.Text),
    sa.Column("closed_at", UtcDateTime),
    sa.Column("outcome", sa.Text),
    sa.Column("closed_reason", sa.Text),
    sa.Column("asking", sa.Text, nullable=False, server_default="manager"),
    sa.Column("ask_next_at", UtcDateTime),
    sa.Index("requests_status", "status", "case_id"),
    sa.Index("requests_ask_next_at", "ask_next_at", sqlite_where=REMINDED, postgresql_where=REMINDED),
)

decision_origins = sa.Table(
    "decision_origins",
    metadata,
    sa.Column("case_id", sa.Text, sa.ForeignKey("requests.case_id"), primary_key=True),
    sa.Column("purpose", sa.Text, primary_key=True),
    sa.Column("ip", sa.Text),
    sa.Column("user_agent", sa.Text),
    sa.Column("recorded_at", UtcDateTime, nullable=False, index=True),
)

mails = sa.Table(
    "mails",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("once", sa.Text, nullable=False, unique=True),
    sa.Column("case_id", sa.Text, sa.ForeignKey("requests.case_id"), nullable=False, index=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("audience", sa.Text, nullable=False),
    sa.Column("recipient", sa.Text, nullable=False),
    sa.Column("recipient_name", sa.Text, nullable=False),
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("jti", sa.Text, nullable=False),
    sa.Column("details", Json, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("due", sa.BigInteger, nullable=False),
    sa.Column("last_error", sa.Text),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("finished_at", UtcDateTime),
    sa.Index("mails_status", "status", "due"),
)

pulse = sa.Table(
    "pulse",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("since", UtcDateTime, nullable=False),
    sa.Column("until", UtcDateTime, nullable=False),
    sa.Column("beat", sa.BigInteger, nullable=False),
    sa.Column("told", sa.BigInteger, nullable=False),
)


# ---------------------------------------------------------------------------------------------------- requests

_NOT_IN_REQUEST: Final = {"search", "decided_link", "appeal_link"}
_REQUEST: Final = [column for column in requests.c if column.name not in _NOT_IN_REQUEST]


def _request(row: sa.RowMapping) -> Request:
    return Request(
        **{
            **row,
            "seat": msgspec.convert(row["seat"], Seat),
            "policy": msgspec.convert(row["policy"], Policy),
            "findings": msgspec.convert(row["findings"], tuple[CheckFinding, ...]),
            "approver": msgspec.convert(row["approver"], Person | None),
        }
    )


_LOAD: Final = sa.select(*_REQUEST).where(among(requests.c.case_id, given("cases")))


async def load(db: AsyncConnection, case_ids: Iterable[str]) -> dict[str, Request]:
    """Return the requests of these cases, by case id; a case without one is left out."""
    rows = await db.execute(_LOAD, {"cases": set(case_ids)})
    return {row["case_id"]: _request(row) for row in rows.mappings()}


async def get(db: AsyncConnection, case_id: str) -> Request | None:
    """Return the request of one case."""
    return (await load(db, [case_id])).get(case_id)


async def add_requests(db: AsyncConnection, new: Sequence[Request]) -> None:
    """Store requests; one whose case has a row already changes nothing."""
    if new:
        rows = [{**_columns(request), "decided_link": None, "appeal_link": None} for request in new]
        await db.execute(_insert_new(db.dialect, requests), rows)


def _columns(request: Request) -> dict[str, Any]:
    row: dict[str, Any] = {column.name: getattr(request, column.name) for column in _REQUEST}
    for name in ("seat", "policy", "findings", "approver"):
        row[name] = msgspec.to_builtins(row[name])
    row["search"] = _searched(request.seat, request.approver)
    return row


def _searched(seat: Seat, approver: Person | None) -> str:
    people = [seat.holder, *([approver] if approver else [])]
    words = [seat.product_name, *(text for person in people for text in (person.name, person.email or ""))]
    return " ".join(words).lower()


async def ask_somebody_else(db: AsyncConnection, requests_now: Sequence[Request]) -> None:
    """Store another approver for open questions that reached nobody; the links of before open nothing any longer."""
    if not requests_now:
        return
    await db.execute(
        sa.update(requests)
        .where(requests.c.case_id == sa.bindparam("case"), requests.c.status == "open")
        .values(
            approver=sa.bindparam("to"),
            search=sa.bindparam("words"),
            epoch=sa.bindparam("number"),
            ask_failed_at=None,
            ask_failure=None,
        ),
        [
            {
                "case": request.case_id,
                "to": msgspec.to_builtins(request.approver),
                "words": _searched(request.seat, request.approver),
                "number": request.epoch,
            }
            for request in requests_now
        ],
    )


def _once(*names: str) -> sa.Update:
    """Return the statement that fills the named columns if the first is still empty, and ends the question."""
    return (
        sa.update(requests)
        .where(requests.c.case_id == sa.bindparam("case"), requests.c[names[0]].is_(None))
        .values(
            status=sa.case((requests.c.status == "open", "closed"), else_=requests.c.status),
            **{name: sa.bindparam(f"new_{name}") for name in names},
        )
    )


_OUTCOMES: Final = {
    guard: (names, _once(*names))
    for guard, names in {
        "frozen_at": ("frozen_at", "frozen_because", "grace_ends_at"),
        "restored_at": ("restored_at", "restored_by"),
        "reclaimed_at": ("reclaimed_at", "records_transferred"),
        "reactivated_at": ("reactivated_at", "reactivated_by"),
        "closed_at": ("closed_at", "outcome", "closed_reason"),
    }.items()
}


async def record(db: AsyncConnection, what: str, changed: Sequence[Request]) -> None:
    """Store what an event said of each request (`what` is the column of its instant); the first one stands."""
    names, statement = _OUTCOMES[what]
    rows = [
        {"case": request.case_id, **{f"new_{name}": getattr(request, name) for name in names}} for request in changed
    ]
    if rows:
        await db.execute(statement, rows)


# ---------------------------------------------------------------------------------------------------- answers


async def take_decision(db: AsyncConnection, link: Link, choice: str, justification: str, now: datetime) -> bool:
    """Record the decision if the question is still open and the link is its newest; tell whether this one counted."""
    return await _changed(
        db,
        sa.update(requests)
        .where(requests.c.case_id == link.case_id, requests.c.status == "open", requests.c.epoch == link.epoch)
        .values(
            status="decided",
            decision=choice,
            decided_at=now,
            decided_by=link.recipient,
            justification=justification,
            decided_link=link.jti,
        ),
    )


async def take_appeal(db: AsyncConnection, link: Link, reason: str, now: datetime) -> bool:
    """Record the appeal if the seat is frozen, nobody appealed and nothing was done since; tell whether it counted."""
    nothing_since = [
        requests.c[name].is_(None)
        for name in ("appealed_at", "restored_at", "reclaimed_at", "reactivated_at", "closed_at")
    ]
    return await _changed(
        db,
        sa.update(requests)
        .where(
            requests.c.case_id == link.case_id,
            requests.c.appeal_epoch == link.epoch,
            requests.c.frozen_at.is_not(None),
            *nothing_since,
        )
        .values(appealed_at=now, appealed_by=link.recipient, appeal_reason=reason, appeal_link=link.jti),
    )


async def add_origin(
    db: AsyncConnection, case_id: str, purpose: Purpose, ip: str | None, user_agent: str | None, now: datetime
) -> None:
    """Keep where an answer came from, apart from the answer."""
    await db.execute(
        sa.insert(decision_origins),
        {"case_id": case_id, "purpose": purpose, "ip": ip, "user_agent": user_agent, "recorded_at": now},
    )


async def erase_origins(db: AsyncConnection, before: datetime) -> int:
    """Erase where answers of before that instant came from; return how many."""
    return (await db.execute(sa.delete(decision_origins).where(decision_origins.c.recorded_at < before))).rowcount


async def erase_origins_of(db: AsyncConnection, person: str) -> int:
    """Erase where one person's answers came from; return how many. Case does not matter."""
    answered_by = {"decision": requests.c.decided_by, "appeal": requests.c.appealed_by}
    theirs = [
        sa.and_(
            decision_origins.c.purpose == purpose,
            decision_origins.c.case_id.in_(
                sa.select(requests.c.case_id).where(sa.func.lower(column) == sa.func.lower(person))
            ),
        )
        for purpose, column in answered_by.items()
    ]
    return (await db.execute(sa.delete(decision_origins).where(sa.or_(*theirs)))).rowcount


async def renew(db: AsyncConnection, link: Link, now: datetime) -> int | None:
    """Number a new link for an open question, unless one was sent a moment ago; return the number, or None."""
    rested = sa.or_(requests.c.renewed_at.is_(None), requests.c.renewed_at <= now - RENEW_AFTER)
    changed = await _changed(
        db,
        sa.update(requests)
        .where(requests.c.case_id == link.case_id, requests.c.status == "open", requests.c.epoch == link.epoch, rested)
        .values(epoch=link.epoch + 1, renewed_at=now),
    )
    return link.epoch + 1 if changed else None


async def next_epoch(db: AsyncConnection, case_id: str, purpose: Purpose) -> int | None:
    """Number the next links of a request, at an operator's word; None if the question was answered meanwhile."""
    statement = sa.update(requests).where(requests.c.case_id == case_id)
    if purpose == "decision":
        column = requests.c.epoch
        statement = statement.where(requests.c.status == "open")
    else:
        column = requests.c.appeal_epoch
        statement = statement.where(requests.c.appealed_at.is_(None))
    return (await db.execute(statement.values({column: column + 1}).returning(column))).scalar_one_or_none()


async def delivered(
    db: AsyncConnection,
    case_id: str,
    now: datetime,
    *,
    anew_after: timedelta | None = None,
    ask_next_at: datetime | None = None,
) -> bool:
    """Note that the question arrived; tell whether that starts a deadline, and with it the reminders.

    It does the first time, and, where the rule leaves an unanswered question to people (`anew_after` its deadline),
    when somebody had it asked again after that.
    """
    await db.execute(
        sa.update(requests).where(requests.c.case_id == case_id).values(ask_failed_at=None, ask_failure=None)
    )
    starts: sa.ColumnElement[bool] = requests.c.delivered_at.is_(None)
    if anew_after is not None:
        starts = sa.or_(starts, requests.c.delivered_at <= now - anew_after)
    return await _changed(
        db,
        sa.update(requests)
        .where(requests.c.case_id == case_id, starts)
        .values(delivered_at=now, ask_next_at=ask_next_at),
    )


async def holder_asked(db: AsyncConnection, case_id: str, until: datetime) -> None:
    """Note until when the holder may answer before the manager is asked; the first time counts."""
    await db.execute(
        sa.update(requests)
        .where(requests.c.case_id == case_id, requests.c.asking == "holder", requests.c.ask_next_at.is_(None))
        .values(ask_next_at=until)
    )


async def ask_managers(db: AsyncConnection, case_ids: Sequence[str]) -> None:
    """Let it be the manager's turn in these cases."""
    await db.execute(sa.update(requests).where(among(requests.c.case_id, case_ids)).values(asking="manager"))


async def to_ask(db: AsyncConnection, now: datetime, *, most: int) -> list[Request]:
    """Return questions that are due to be put again, or to the next one; others wait until the transaction ends."""
    due = (
        sa.select(*_REQUEST)
        .where(requests.c.ask_next_at <= now)
        .order_by(requests.c.ask_next_at, requests.c.case_id)
        .limit(most)
        .with_for_update(skip_locked=True)
    )
    return [_request(row) for row in (await db.execute(due)).mappings()]


async def set_next(db: AsyncConnection, next_ones: Sequence[tuple[str, datetime | None]]) -> None:
    """Set when each question is put again: (case id, instant or None)."""
    if next_ones:
        await db.execute(
            sa.update(requests)
            .where(requests.c.case_id == sa.bindparam("case"))
            .values(ask_next_at=sa.bindparam("at")),
            [{"case": case_id, "at": at} for case_id, at in next_ones],
        )


async def ask_delayed(db: AsyncConnection, case_ids: Collection[str], reason: str, now: datetime) -> list[Request]:
    """Note that open questions have not arrived for long; return those of which that was not said yet."""
    late = (
        sa.update(requests)
        .where(among(requests.c.case_id, case_ids), requests.c.status == "open", requests.c.ask_failed_at.is_(None))
        .values(ask_failed_at=now, ask_failure=reason)
        .returning(requests.c.case_id)
    )
    fresh = list((await db.execute(late)).scalars())
    return list((await load(db, fresh)).values()) if fresh else []


async def ask_failed(db: AsyncConnection, case_id: str, reason: str, now: datetime) -> bool:
    """Note that an open question cannot arrive; tell whether it is open."""
    return await _changed(
        db,
        sa.update(requests)
        .where(requests.c.case_id == case_id, requests.c.status == "open")
        .values(ask_failed_at=now, ask_failure=reason),
    )


# ---------------------------------------------------------------------------------------------------- mails


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A mail to be sent. Of two drafts with the same `once` the first is sent and the second is forgotten."""

    case_id: str
    kind: MailKind
    audience: Audience
    recipient: str
    recipient_name: str
    epoch: int = 0
    occasion: str = ""
    details: dict[str, str] = field(default_factory=dict)

    @property
    def once(self) -> str:
        return f"{self.case_id} {self.kind} {self.recipient.lower()} {self.epoch} {self.occasion}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mail:
    """A row of `mails`."""

    id: str
    case_id: str
    kind: MailKind
    audience: Audience
    recipient: str
    recipient_name: str
    epoch: int
    jti: str
    details: dict[str, str]
    status: MailStatus
    attempts: int
    due: int
    last_error: str | None
    created_at: datetime
    finished_at: datetime | None


_MAIL: Final = [column for column in mails.c if column.name != "once"]


async def add_mails(db: AsyncConnection, drafts: Sequence[Draft], now: datetime) -> None:
    """Queue mails. Wake the job `mail` in the same unit."""
    if not drafts:
        return
    due = wall_milliseconds()
    await db.execute(
        _insert_new(db.dialect, mails),
        [
            {
                "id": new_id(),
                "once": draft.once,
                "case_id": draft.case_id,
                "kind": draft.kind,
                "audience": draft.audience,
                "recipient": draft.recipient,
                "recipient_name": draft.recipient_name,
                "epoch": draft.epoch,
                "jti": token_urlsafe(16),
                "details": draft.details,
                "status": "queued",
                "attempts": 0,
                "due": due,
                "last_error": None,
                "created_at": now,
                "finished_at": None,
            }
            for draft in drafts
        ],
    )


_DUE: Final = (
    sa.select(mails.c.id)
    .where(mails.c.status == "queued", mails.c.due <= sa.bindparam("now"))
    .order_by(mails.c.due, mails.c.id)
    .limit(sa.bindparam("most", type_=sa.Integer))
    .with_for_update(skip_locked=True)
)
_CLAIM: Final = (
    sa.update(mails)
    .where(among(mails.c.id, given("ids")))
    .values(due=sa.bindparam("until"), attempts=mails.c.attempts + 1)
    .returning(*_MAIL)
)


async def claim_mails(db: AsyncConnection, *, most: int, lease: int) -> list[Mail]:
    """Take mails that are due, for `lease` milliseconds; each claim counts as an attempt."""
    now = wall_milliseconds()
    ids = list((await db.execute(_DUE, {"now": now, "most": most})).scalars())
    if not ids:
        return []
    claimed = [Mail(**row) for row in (await db.execute(_CLAIM, {"ids": ids, "until": now + lease})).mappings()]
    return sorted(claimed, key=lambda mail: ids.index(mail.id))


async def finish(db: AsyncConnection, mail: Mail, status: MailStatus, now: datetime, error: str | None = None) -> bool:
    """End a claimed mail; False if its lease ran out and somebody else has claimed it since."""
    return await _changed(db, _claimed(mail).values(status=status, finished_at=now, last_error=error))


async def put_off(db: AsyncConnection, mail: Mail, error: str, milliseconds: int) -> None:
    """Give a claimed mail back, to be tried again after a while; `error` is what an operator sees meanwhile."""
    await db.execute(_claimed(mail).values(due=wall_milliseconds() + milliseconds, last_error=error))


async def give_back(db: AsyncConnection, unsent: Sequence[Mail]) -> None:
    """Give back claimed mails that were not tried."""
    for mail in unsent:
        await db.execute(_claimed(mail).values(due=wall_milliseconds(), attempts=mail.attempts - 1))


def _claimed(mail: Mail) -> sa.Update:
    # The number of attempts is the fence: a later claim has counted on.
    return sa.update(mails).where(mails.c.id == mail.id, mails.c.status == "queued", mails.c.attempts == mail.attempts)


async def queue_again(db: AsyncConnection, case_id: str, kinds: Collection[MailKind]) -> int:
    """Queue the failed mails of a case that are of these kinds again; return how many."""
    statement = (
        sa.update(mails)
        .where(mails.c.case_id == case_id, mails.c.status == "failed", mails.c.kind.in_(sorted(kinds)))
        .values(status="queued", due=wall_milliseconds(), finished_at=None)
    )
    return (await db.execute(statement)).rowcount


async def mails_of(db: AsyncConnection, case_ids: Iterable[str]) -> dict[str, list[Mail]]:
    """Return the mails of these cases, by case id, oldest first."""
    statement = sa.select(*_MAIL).where(among(mails.c.case_id, list(case_ids))).order_by(mails.c.id)
    found: dict[str, list[Mail]] = {}
    for row in (await db.execute(statement)).mappings():
        found.setdefault(row["case_id"], []).append(Mail(**row))
    return found


# ---------------------------------------------------------------------------------------------------- reading

Filter = Literal["not_ours", "open", "decided", "closed", "unreachable"]
"""A status, or `unreachable`: a mail of the case failed or keeps being put off, or nobody could be asked."""


async def page(
    db: AsyncConnection, *, which: Filter | None, text: str, before: str | None, limit: int
) -> list[Request]:
    """Return requests, newest case first, beginning below the case id `before`."""
    statement = sa.select(*_REQUEST).order_by(requests.c.case_id.desc()).limit(limit)
    if which == "unreachable":
        statement = statement.where(
            sa.or_(
                sa.and_(requests.c.status == "open", requests.c.ask_failed_at.is_not(None)),
                requests.c.case_id.in_(sa.select(mails.c.case_id).where(_in_trouble())),
            )
        )
    elif which is not None:
        statement = statement.where(requests.c.status == which)
    if text:
        statement = statement.where(requests.c.search.contains(text.lower(), autoescape=True))
    if before is not None:
        statement = statement.where(requests.c.case_id < before)
    return [_request(row) for row in (await db.execute(statement)).mappings()]


def _in_trouble() -> sa.ColumnElement[bool]:
    return sa.or_(mails.c.status == "failed", sa.and_(mails.c.status == "queued", mails.c.last_error.is_not(None)))


@dataclass(frozen=True, slots=True)
class Summary:
    """Figures of the stage. `unreachable` counts the open questions that nobody could be asked."""

    by_status: dict[str, int]
    by_decision: dict[str, int]
    appeals: int
    unreachable: int
    mails: dict[str, int]


async def summary(db: AsyncConnection) -> Summary:
    """Count requests by status and decision, appeals, and mails by status; every status is there, also with 0."""
    counted = (
        await db.execute(
            sa.select(
                requests.c.status,
                requests.c.decision,
                sa.func.count(),
                sa.func.count(requests.c.appealed_at),
                sa.func.sum(
                    sa.case((sa.and_(requests.c.status == "open", requests.c.ask_failed_at.is_not(None)), 1), else_=0)
                ),
            ).group_by(requests.c.status, requests.c.decision)
        )
    ).tuples()
    by_status: dict[str, int] = dict.fromkeys(STATUSES, 0)
    by_decision = {"keep": 0, "revoke": 0}
    appeals = unreachable = 0
    for status, decision, count, appealed, unasked in counted:
        by_status[status] += count
        if decision is not None:
            by_decision[decision] = by_decision.get(decision, 0) + count
        appeals += appealed
        unreachable += unasked
    by_mail: dict[str, int] = dict.fromkeys(get_args(MailStatus), 0)
    by_mail.update(
        (await db.execute(sa.select(mails.c.status, sa.func.count()).group_by(mails.c.status))).tuples().all()
    )
    return Summary(by_status, by_decision, appeals, unreachable, by_mail)


# ---------------------------------------------------------------------------------------------------- helpers


@cache
def _insert_new(dialect: sa.Dialect, table: sa.Table) -> sa.TextClause:
    insert = (sqlite if dialect.name == "sqlite" else postgresql).insert(table)
    return prepared(insert.on_conflict_do_nothing(), dialect, table.c.keys())


async def _changed(db: AsyncConnection, statement: sa.Update) -> bool:
    return (await db.execute(statement)).rowcount == 1
