"""All SQL of the ITSM gateway: which cases go through the desk, what is asked, and which webhooks were taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from reclaim.common import migrate
from reclaim.common.contracts import UserFlagged
from reclaim.common.db import BigKey, UtcDateTime, among, given
from reclaim.itsm_gateway.domain import NO_DESK, RANK, Step, through_the_desk

metadata = migrate.service_metadata()

CASE_ROUTE = sa.Table(
    "case_route",
    metadata,
    sa.Column("case_id", sa.Text, primary_key=True),
    sa.Column("through_the_desk", sa.Boolean, nullable=False),
    sa.Column("ended", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("desk", sa.Text),
)
"""Every case, so that an event of one that is asked by mail is not taken for one that came too early.

`ended` outlasts the order in which events come: after the end of a case nobody is asked to do anything for it. `desk`
is the one that the case's rule names.
"""

TICKET_REQUEST = sa.Table(
    "ticket_request",
    metadata,
    sa.Column("number", BigKey, primary_key=True, autoincrement=True),
    sa.Column("case_id", sa.Text, nullable=False, unique=True),
    sa.Column("route", sa.Text, nullable=False),
    sa.Column("connection_id", sa.Text, nullable=False),
    sa.Column("product", sa.Text, nullable=False),
    sa.Column("product_name", sa.Text, nullable=False),
    sa.Column("holder_name", sa.Text, nullable=False),
    sa.Column("holder_email", sa.Text),
    sa.Column("department", sa.Text),
    sa.Column("rule_id", sa.Text, nullable=False),
    sa.Column("rule_name", sa.Text, nullable=False),
    sa.Column("dry_run", sa.Boolean, nullable=False),
    sa.Column("flagged_at", UtcDateTime, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("rank", sa.Integer, nullable=False),
    sa.Column("outcome", sa.Text),
    sa.Column("failure", sa.Text),
)
"""What a ticket should ask. `failure` says why there is no ticket."""

TICKET_STEP = sa.Table(
    "ticket_step",
    metadata,
    sa.Column("event_id", sa.Text, primary_key=True),
    sa.Column("case_id", sa.Text, nullable=False, index=True),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
)
"""What the ticket should be told, step by step."""

WEBHOOK_LEDGER = sa.Table(
    "webhook_ledger",
    metadata,
    sa.Column("connection_id", sa.Text, primary_key=True),
    sa.Column("webhook_id", sa.Text, primary_key=True),
    sa.Column("received", sa.BigInteger, nullable=False, index=True),
)
"""Webhooks that were taken, in wall-clock milliseconds: each has its effect once, after a restart too."""


@dataclass(frozen=True)
class TicketRequest:
    """A request as it stands."""

    number: int
    case_id: str
    route: str
    connection_id: str
    product: str
    product_name: str
    holder_name: str
    holder_email: str | None
    department: str | None
    rule_id: str
    rule_name: str
    dry_run: bool
    flagged_at: datetime
    state: str
    outcome: str | None
    failure: str | None

    @property
    def standing(self) -> str:
        """How it ended, or how far it is; a seat that was given back stands above how its case ended."""
        return self.state if self.outcome is None or self.state == "reactivated" else self.outcome


_REQUEST_COLUMNS = [TICKET_REQUEST.c[name] for name in TicketRequest.__dataclass_fields__]


_ROUTES: Final = sa.select(CASE_ROUTE.c.case_id, CASE_ROUTE.c.through_the_desk).where(
    among(CASE_ROUTE.c.case_id, given("cases"))
)


async def routes(db: AsyncConnection, case_ids: set[str]) -> dict[str, bool]:
    """Return which of these cases are known here, and whether they are asked through a service desk."""
    rows = await db.execute(_ROUTES, {"cases": case_ids})
    return {row.case_id: row.through_the_desk for row in rows}


async def add_routes(db: AsyncConnection, flagged: Sequence[UserFlagged]) -> None:
    """Record new cases."""
    if flagged:
        await db.execute(
            sa.insert(CASE_ROUTE),
            [
                {
                    "case_id": event.case_id,
                    "through_the_desk": through_the_desk(event),
                    "ended": False,
                    "desk": event.policy.desk,
                }
                for event in flagged
            ],
        )


async def named_desks(db: AsyncConnection, case_ids: set[str]) -> dict[str, str | None]:
    """Return the desks that the rules of these cases name; None for one that names none."""
    found = await db.execute(
        sa.select(CASE_ROUTE.c.case_id, CASE_ROUTE.c.desk).where(among(CASE_ROUTE.c.case_id, case_ids))
    )
    return {row.case_id: row.desk for row in found}


async def end(db: AsyncConnection, case_ids: set[str], of: set[str]) -> set[str]:
    """Record that cases have ended; return which of the cases `of` have, these among them.

    They stay locked: who asks for a ticket and who ends its case at the same time take turns, and the second sees what
    the first has done.
    """
    if not case_ids | of:
        return set()
    locked = sa.select(CASE_ROUTE.c.case_id, CASE_ROUTE.c.ended).where(among(CASE_ROUTE.c.case_id, case_ids | of))
    rows = (await db.execute(locked.order_by(CASE_ROUTE.c.case_id).with_for_update())).all()
    over = {row.case_id for row in rows if row.ended}
    if case_ids - over:
        mine = among(CASE_ROUTE.c.case_id, case_ids - over)
        await db.execute(sa.update(CASE_ROUTE).where(mine).values(ended=True))
    return (over | case_ids) & of


async def has_ended(db: AsyncConnection, case_id: str) -> bool:
    """Tell whether a case is over."""
    found = await db.execute(sa.select(CASE_ROUTE.c.ended).where(CASE_ROUTE.c.case_id == case_id))
    return bool(found.scalar_one_or_none())


async def add_requests(db: AsyncConnection, flagged: Sequence[UserFlagged]) -> None:
    """Record what tickets should ask."""
    if not flagged:
        return
    await db.execute(
        sa.insert(TICKET_REQUEST),
        [
            {
                "case_id": event.case_id,
                "route": event.policy.route,
                "connection_id": event.seat.connection_id,
                "product": event.seat.product,
                "product_name": event.seat.product_name,
                "holder_name": event.seat.holder.name,
                "holder_email": event.seat.holder.email,
                "department": event.seat.department,
                "rule_id": event.policy.rule_id,
                "rule_name": event.policy.rule_name,
                "dry_run": event.policy.dry_run,
                "flagged_at": event.flagged_at,
                "state": "waiting",
                "rank": RANK["waiting"],
                "failure": NO_DESK,
            }
            for event in flagged
        ],
    )


async def add_steps(db: AsyncConnection, steps: Sequence[Step]) -> None:
    """Add to the timelines, and move requests on to a state that is further along."""
    if not steps:
        return
    await db.execute(
        sa.insert(TICKET_STEP),
        [{"event_id": one.event_id, "case_id": one.case_id, "at": one.at, "text": one.text} for one in steps],
    )
    moved = [{"of": one.case_id, "to": one.state, "further": RANK[one.state]} for one in steps if one.state]
    if moved:
        await db.execute(
            sa.update(TICKET_REQUEST)
            .where(TICKET_REQUEST.c.case_id == sa.bindparam("of"), TICKET_REQUEST.c.rank < sa.bindparam("further"))
            .values(state=sa.bindparam("to"), rank=sa.bindparam("further")),
            moved,
        )


async def set_outcomes(db: AsyncConnection, outcomes: dict[str, str]) -> None:
    """Record how cases ended."""
    if outcomes:
        await db.execute(
            sa.update(TICKET_REQUEST)
            .where(TICKET_REQUEST.c.case_id == sa.bindparam("of"))
            .values(outcome=sa.bindparam("as")),
            [{"of": case_id, "as": outcome} for case_id, outcome in outcomes.items()],
        )


async def forget_webhooks(db: AsyncConnection, before: int) -> None:
    """Drop ledger entries from before an instant in wall-clock milliseconds."""
    await db.execute(sa.delete(WEBHOOK_LEDGER).where(WEBHOOK_LEDGER.c.received < before))


async def requests(
    db: AsyncConnection, *, open_only: bool = False, before: int | None = None, limit: int
) -> list[TicketRequest]:
    """Return requests, newest first; `before` is the number of the last one on the page before."""
    query = sa.select(*_REQUEST_COLUMNS).order_by(TICKET_REQUEST.c.number.desc()).limit(limit)
    if open_only:
        query = query.where(TICKET_REQUEST.c.outcome.is_(None))
    if before is not None:
        query = query.where(TICKET_REQUEST.c.number < before)
    return [TicketRequest(*row) for row in await db.execute(query)]


async def request_of_case(db: AsyncConnection, case_id: str) -> TicketRequest | None:
    """Return the request of a case, or None if it is not asked through a desk."""
    row = (await db.execute(sa.select(*_REQUEST_COLUMNS).where(TICKET_REQUEST.c.case_id == case_id))).one_or_none()
    return None if row is None else TicketRequest(*row)


async def requests_of(db: AsyncConnection, case_ids: set[str]) -> dict[str, TicketRequest]:
    """Return the requests of those of these cases that are asked through a desk."""
    if not case_ids:
        return {}
    found = await db.execute(sa.select(*_REQUEST_COLUMNS).where(among(TICKET_REQUEST.c.case_id, case_ids)))
    return {request.case_id: request for request in (TicketRequest(*row) for row in found)}


async def timeline(db: AsyncConnection, case_id: str) -> list[tuple[datetime, str]]:
    """Return what a case's ticket should be told, oldest first."""
    rows = await db.execute(
        sa.select(TICKET_STEP.c.at, TICKET_STEP.c.text)
        .where(TICKET_STEP.c.case_id == case_id)
        .order_by(TICKET_STEP.c.at, TICKET_STEP.c.event_id)
    )
    return [(row.at, row.text) for row in rows]
