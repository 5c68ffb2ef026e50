"""Answers the lifecycle, which is about to take a step: is the seat still unused, and does no exclusion cover it now?

Whoever joined an excluded group since the case was opened is found by asking the connected system for the group's
members anew. That is outside, so such a question waits in a table, and a job asks once for all that wait. A scan takes
cases back as well, see `takebacks`: the group may be excluded only since the case was opened.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from reclaim.common.contracts import Person, Seat, UsageJudged, UsageQuestioned
from reclaim.common.db import Json, Unit, UtcDateTime, among, insert_many, is_outage
from reclaim.common.envelope import Received
from reclaim.common.errors import NotYet, Permanent, Transient
from reclaim.common.service import Job
from reclaim.common.timing import backoff, wall_milliseconds
from reclaim.connectors.ports import Members
from reclaim.scanner import exclusion_store, groups, installed_seats, known_seats, store, usage_cases
from reclaim.scanner.domain import Exclusions
from reclaim.scanner.known_seats import user_key
from reclaim.scanner.ports import Deps
from reclaim.scanner.store import CANDIDATES, metadata
from reclaim.scanner.usage_cases import Judged

log = logging.getLogger(__name__)

QUESTIONS = sa.Table(
    "questions",
    metadata,
    sa.Column("case_id", sa.Text, primary_key=True),
    sa.Column("connection_id", sa.Text, nullable=False, index=True),
    sa.Column("question", Json, nullable=False),
    sa.Column("asked_at", UtcDateTime, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    # From when on it may be claimed, in wall-clock milliseconds.
    sa.Column("look_at", sa.BigInteger, nullable=False, index=True),
)

ANSWER: Final = "answer"
TOGETHER: Final = 500
LEASE_SECONDS: Final = 120.0
MOST_ATTEMPTS: Final = 8
"""Then a question is dropped: the lifecycle asks again by itself, and calls a person when it is never answered."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """Questions about the cases of one connection, by case, and which attempt at answering each of them this is."""

    connection_id: str
    asked: Mapping[str, UsageQuestioned]
    attempts: Mapping[str, int]


def jobs(deps: Deps) -> tuple[Job, ...]:
    """Return the job that answers what could not be answered at once."""
    return (Job(ANSWER, partial(answer_waiting, deps), every=5.0),)


async def hear(_deps: Deps, unit: Unit, events: Sequence[Received[UsageQuestioned]]) -> None:
    """Answer at once where no group is excluded; else let the question wait until it was asked who is in them."""
    asked = {received.data.case_id: received.data for received in events}
    rows = await unit.db.execute(
        sa.select(CANDIDATES.c.id, CANDIDATES.c.connection_id).where(among(CANDIDATES.c.id, asked))
    )
    where: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        where[row.connection_id].append(row.id)
    if unknown := sorted(asked.keys() - {case_id for own in where.values() for case_id in own}):
        raise NotYet(f"no seat was flagged here under case {', '.join(unknown[:3])}")
    for connection_id, own in sorted(where.items()):
        theirs = {case_id: asked[case_id] for case_id in own}
        exclusions = await exclusion_store.on(unit.db, connection_id, unit.now)
        if exclusions.groups:
            await _keep(unit, connection_id, theirs)
        else:
            await _answer(unit, theirs, exclusions)


async def answer_waiting(deps: Deps) -> bool:
    """Answer the questions that wait about one connection; return whether there were any."""
    async with deps.database.reading() as db:
        due = sa.select(QUESTIONS.c.case_id).where(QUESTIONS.c.look_at <= wall_milliseconds()).limit(1)
        if (await db.execute(due)).first() is None:
            return False
    async with deps.database.unit() as unit:
        waiting = await _claim(unit)
    if waiting is None:
        return False
    try:
        members = await _members(deps, waiting.connection_id)
    except (Transient, Permanent) as error:
        await _put_off(deps, waiting, error)
        return True
    except Exception as error:
        if not is_outage(error):
            await _put_off(deps, waiting, error)
        raise
    async with deps.database.unit() as unit:
        await known_seats.set_members(unit.db, waiting.connection_id, members, unit.now)
        # One that was asked anew meanwhile waits for its own answer.
        same = await _locked(unit, waiting)
        these = among(QUESTIONS.c.case_id, same)
        exclusions = await exclusion_store.on(unit.db, waiting.connection_id, unit.now, members)
        if exclusions.groups <= members.keys():
            await _answer(unit, same, exclusions)
            await unit.db.execute(sa.delete(QUESTIONS).where(these))
        else:
            # One was excluded meanwhile: that it was not read yet is no reason to leave everybody alone.
            await unit.db.execute(sa.update(QUESTIONS).where(these).values(attempts=0, look_at=wall_milliseconds()))
    return True


async def _members(deps: Deps, connection_id: str) -> dict[str, Members]:
    """Return who is in each excluded group of a connection now.

    Raises:
        Transient, Permanent: as `groups.read`; or a group could not be read just now, and an answer would be for good.
    """
    async with deps.database.reading() as db:
        connection = await store.connection(db, connection_id)
        wanted = await exclusion_store.groups(db, connection_id, deps.clock.now())
    async with deps.reader(connection) as reader:
        found = await groups.read(reader, wanted)
    groups.must_not_pass(found)
    return found


async def _answer(unit: Unit, asked: Mapping[str, UsageQuestioned], exclusions: Exclusions) -> None:
    """Say of each case whether an exclusion covers it now, and else what sources say of its use."""
    if not asked:
        return
    judged = await usage_cases.judge_asked(unit.db, asked, unit.now)
    for case_id, seat in (await _seats(unit, asked)).items():
        if (evidence := exclusions.evidence(seat)) is not None:
            judged[case_id] = Judged("excluded", evidence)
    unit.emit(
        *(
            UsageJudged(
                case_id=case_id, use=said.use, reason=said.reason, asked_at=asked[case_id].asked_at, judged_at=unit.now
            )
            for case_id, said in sorted(judged.items())
        )
    )


async def _seats(unit: Unit, asked: Mapping[str, UsageQuestioned]) -> dict[str, Seat]:
    """Return the seats of cases; in the department that the connected system just told, if it did.

    Behind installed software there is no account that could be asked: of its holders the department counts that another
    system named last.
    """
    rows = (await unit.db.execute(sa.select(CANDIDATES).where(among(CANDIDATES.c.id, asked)))).all()
    people = await installed_seats.people(unit.db, {user_key(row.holder_id) for row in rows if row.devices})
    named = {row.id: person.department for row in rows if (person := people.get(user_key(row.holder_id))) is not None}
    return {
        row.id: Seat(
            connection_id=row.connection_id,
            product=row.product,
            product_name=row.product_name,
            holder=Person(id=row.holder_id, name=row.holder_name, email=row.holder_email),
            department=asked[row.id].department or named.get(row.id) or row.department,
            devices=tuple(row.devices),
        )
        for row in rows
    }


async def _keep(unit: Unit, connection_id: str, asked: Mapping[str, UsageQuestioned]) -> None:
    rows = [
        {"case_id": case_id, "question": msgspec.to_builtins(question), "asked_at": question.asked_at}
        for case_id, question in sorted(asked.items())
    ]
    same: dict[str, Any] = {"connection_id": connection_id, "attempts": 0, "look_at": wall_milliseconds()}
    await insert_many(unit.db, QUESTIONS, rows, same=same, replacing=("case_id",), unless_newer="asked_at")
    unit.wake(ANSWER)


async def _claim(unit: Unit) -> Waiting | None:
    """Take the questions that are due about the connection whose question waits longest."""
    now = wall_milliseconds()
    first = (
        await unit.db.execute(
            sa.select(QUESTIONS.c.connection_id)
            .where(QUESTIONS.c.look_at <= now)
            .order_by(QUESTIONS.c.look_at, QUESTIONS.c.case_id)
            .limit(1)
        )
    ).scalar_one_or_none()
    due = (
        sa.select(QUESTIONS)
        .where(QUESTIONS.c.connection_id == first, QUESTIONS.c.look_at <= now)
        .order_by(QUESTIONS.c.case_id)
        .limit(TOGETHER)
        .with_for_update(skip_locked=True)
    )
    rows = (await unit.db.execute(due)).all()
    if first is None or not rows:
        return None
    asked = {row.case_id: msgspec.convert(row.question, UsageQuestioned) for row in rows}
    await unit.db.execute(
        sa.update(QUESTIONS)
        .where(among(QUESTIONS.c.case_id, asked))
        .values(attempts=QUESTIONS.c.attempts + 1, look_at=now + int(LEASE_SECONDS * 1000))
    )
    return Waiting(first, asked, {row.case_id: row.attempts + 1 for row in rows})


async def _locked(unit: Unit, waiting: Waiting) -> dict[str, UsageQuestioned]:
    """Return the questions that are still the ones that were claimed, locked until the transaction ends."""
    rows = await unit.db.execute(
        sa.select(QUESTIONS.c.case_id, QUESTIONS.c.asked_at)
        .where(among(QUESTIONS.c.case_id, waiting.asked))
        .order_by(QUESTIONS.c.case_id)
        .with_for_update()
    )
    return {row.case_id: one for row in rows if (one := waiting.asked[row.case_id]).asked_at == row.asked_at}


async def _put_off(deps: Deps, waiting: Waiting, error: Exception) -> None:
    """Try each question again after a while of its own, or drop it once it was tried often enough."""
    log.warning("%d questions before a step are not answered yet: %s", len(waiting.asked), error)
    async with deps.database.unit() as unit:
        alike: dict[int, list[str]] = defaultdict(list)
        for case_id in await _locked(unit, waiting):
            alike[waiting.attempts[case_id]].append(case_id)
        for attempt, own in sorted(alike.items()):
            these = among(QUESTIONS.c.case_id, own)
            if attempt >= MOST_ATTEMPTS:
                await unit.db.execute(sa.delete(QUESTIONS).where(these))
                continue
            wait = backoff(attempt, first=deps.settings.first_wait_seconds, most=deps.settings.longest_wait_seconds)
            look_at = wall_milliseconds() + int(wait * 1000)
            await unit.db.execute(sa.update(QUESTIONS).where(these).values(look_at=look_at))
