"""Open cases and what sources of use say since: what is answered before a step, and cases taken back for new use.

A case is judged by the version of the rule that it was opened under, from the register and the records: nobody outside
is asked, so a page of cases takes a number of statements that does not depend on their number.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from functools import partial
from typing import Final

import msgspec
import sqlalchemy as sa
from opentelemetry import metrics
from sqlalchemy.ext.asyncio import AsyncConnection

from reclaim.common.contracts import UsageQuestioned, Use
from reclaim.common.db import among
from reclaim.common.service import MEASURED_EVERY, Job
from reclaim.scanner import catalog_store, import_store, known_seats, usage_store
from reclaim.scanner.catalog import Coverage
from reclaim.scanner.domain import Terms
from reclaim.scanner.judging import Judge
from reclaim.scanner.known_seats import KNOWN_SEATS, KnownSeat
from reclaim.scanner.ports import Deps
from reclaim.scanner.store import CANDIDATES, OPEN, RULE_VERSIONS
from reclaim.scanner.usage import Verdict
from reclaim.scanner.usage_store import COUNT_UNMATCHED, INSTALLATIONS, NEWS, PAGE, UsageSeat, judge_seats, usage_seat
from reclaim.scanner.withdrawals import withdraw

NEWS_OF_USE: Final = "usage-news"
COUNTED_EVERY: Final = 300.0
"""Seconds after which users without a seat are counted anew."""

WATCHER: Final = "sources of use"
"""Who takes a case back; it stands in the audit trail."""

_stale = metrics.get_meter("reclaim.scanner").create_gauge(
    "reclaim_usage_sources_stale", description="Sources of use that have fallen silent; nobody is flagged by them"
)


@dataclass(frozen=True, slots=True)
class CaseSeat:
    """A case as it is judged: by which version of which rule, and which seat; `devices` of installed software."""

    case_id: str
    rule_id: str
    rule_version: int
    connection_id: str
    holder_id: str
    holder_email: str | None
    product: str
    devices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Judged:
    """What sources say about a case's seat, and why."""

    use: Use
    reason: str


def jobs(deps: Deps) -> tuple[Job, ...]:
    """Return the jobs that watch use."""
    return (
        Job(NEWS_OF_USE, partial(take_back_used, deps), every=5.0),
        Job("usage-freshness", partial(measure, deps), every=MEASURED_EVERY),
        Job(COUNT_UNMATCHED, partial(find_unmatched, deps), every=COUNTED_EVERY),
    )


async def take_back_used(deps: Deps) -> bool:
    """Take back the open cases whose seat turns out to be used, of one product that was heard of; return whether any.

    Taking its news and taking cases back are one transaction. What is heard of meanwhile is news for the next time.
    """
    async with deps.database.reading() as db:
        product = (
            await db.execute(sa.select(NEWS.c.product).order_by(NEWS.c.heard_at, NEWS.c.product).limit(1))
        ).scalar()
    if product is None:
        return False
    async with deps.database.unit() as unit:
        heard = await unit.db.execute(sa.delete(NEWS).where(NEWS.c.product == product).returning(NEWS.c.product))
        if heard.scalar() is None:
            return True
        about = {product}.union(*(await catalog_store.relations(unit.db, {product})).values())
        after = ""
        while cases := await _cases(
            unit.db, OPEN, among(CANDIDATES.c.product, about), CANDIDATES.c.id > after, limit=PAGE
        ):
            judged = await judge_cases(unit.db, cases, unit.now)
            used = [(case_id, f"It is used: {said.reason}") for case_id, said in judged.items() if said.use == "used"]
            withdraw(unit, sorted(used), kind="used", actor=WATCHER)
            after = cases[-1].case_id
    return True


async def judge_asked(db: AsyncConnection, asked: Mapping[str, UsageQuestioned], now: datetime) -> dict[str, Judged]:
    """Return whether the seat of each case is still unused by its case's condition.

    Where that rests on what the connected system says of the account alone, whoever asks has just judged it by that.
    """
    cases = await _cases(db, among(CANDIDATES.c.id, asked))
    return await judge_cases(db, cases, now, asked)


async def measure(deps: Deps) -> bool:
    """Count the sources that have fallen silent."""
    async with deps.database.reading() as db:
        silent = {source.source for source in await usage_store.sources(db, deps.clock.now()) if source.stale}
        silent |= {each.source for each in await import_store.inventories(db, deps.clock.now()) if each.stale}
    _stale.set(len(silent))
    return False


async def find_unmatched(deps: Deps) -> bool:
    """Count the users whom no known seat belongs to; what is counted is written down afterwards."""
    async with deps.database.reading() as db:
        found = await usage_store.count_unmatched(db)
    async with deps.database.unit() as unit:
        await usage_store.keep_unmatched(unit.db, found, unit.now)
    return False


async def judge_cases(
    db: AsyncConnection,
    cases: Sequence[CaseSeat],
    now: datetime,
    asked: Mapping[str, UsageQuestioned] | None = None,
) -> dict[str, Judged]:
    """Return what sources say about each case's seat; `asked` has what the connected systems said just now."""
    alike: dict[tuple[str, int], list[CaseSeat]] = defaultdict(list)
    for case in cases:
        alike[case.rule_id, case.rule_version].append(case)
    found: dict[str, Judged] = {}
    for (rule_id, version), own in sorted(alike.items()):
        stored = await db.execute(
            sa.select(RULE_VERSIONS.c.terms).where(
                RULE_VERSIONS.c.rule_id == rule_id, RULE_VERSIONS.c.version == version
            )
        )
        terms = msgspec.convert(stored.scalar_one(), Terms)
        if asked is not None and not terms.by_usage:
            found |= {case.case_id: Judged("unused", "No exclusion covers it.") for case in own}
            continue
        covered = await catalog_store.covered(db, terms.products, rule_id)
        found |= await _judged_by(db, terms, covered, own, now, asked or {})
    return found


async def _judged_by(
    db: AsyncConnection,
    terms: Terms,
    covered: Coverage,
    cases: Sequence[CaseSeat],
    now: datetime,
    asked: Mapping[str, UsageQuestioned],
) -> dict[str, Judged]:
    """Judge cases of one version of a rule, the whole of a product at a time."""
    connection_id = cases[0].connection_id
    known = await _known(db, connection_id, {case.holder_id for case in cases})
    there = await _there(db, {case.holder_id for case in cases}) if terms.applies_to == "installed" else set()
    found: dict[str, Judged] = {}
    members = {part for case in cases for part in (case.product, *covered.tree.get(case.product, ()))}
    # As in a scan: of a component that the connection does not list, it sees no use, however lately it was asked.
    listed = await known_seats.products(db, connection_id, members)
    groups: dict[tuple[str, bool], list[CaseSeat]] = defaultdict(list)
    for case in cases:
        read = case.case_id in asked and asked[case.case_id].read
        groups[case.product, read].append(case)
    for (product, read), own in sorted(groups.items()):
        parts = (product, *covered.tree.get(product, ()))
        judge = Judge(terms, covered, connection_id, now, told=read, listed=listed)
        chosen = await judge.plan(db, product)
        seats: list[tuple[CaseSeat, UsageSeat]] = []
        for case in own:
            devices = case.devices or ("",)
            left = [
                device
                for device in devices
                if not case.devices or any((case.holder_id, part, device) in there for part in parts)
            ]
            if not left:
                found[case.case_id] = Judged("gone", f"no longer installed on {', '.join(case.devices)}")
            seats += [(case, _seat(case, terms, parts, device, known, asked.get(case.case_id), now)) for device in left]
        verdicts = await judge_seats(db, chosen, [seat for _case, seat in seats])
        by_case: dict[str, list[tuple[UsageSeat, Verdict]]] = defaultdict(list)
        for (case, seat), verdict in zip(seats, verdicts, strict=True):
            by_case[case.case_id].append((seat, verdict))
        found |= {case_id: _together(told) for case_id, told in by_case.items()}
    return found


def _together(told: Sequence[tuple[UsageSeat, Verdict]]) -> Judged:
    """Return what verdicts on all devices of a case come to: used if any is, unused only if all are."""
    words = " ".join(
        f"{seat.device_id}: {verdict.reason}" if seat.device_id else verdict.reason for seat, verdict in told
    )
    states = {verdict.state for _seat, verdict in told}
    if "USED" in states:
        return Judged("used", words)
    return Judged("unknown" if "UNKNOWN" in states else "unused", words)


def _seat(
    case: CaseSeat,
    terms: Terms,
    parts: Sequence[str],
    device: str,
    known: Mapping[tuple[str, str, str], KnownSeat],
    asked: UsageQuestioned | None,
    now: datetime,
) -> UsageSeat:
    """Return a case's seat as it is judged: of a suite, as young as its youngest part, used when any is."""
    own = [seat for part in parts if (seat := known.get((case.holder_id, part, device))) is not None]
    first = [seat.first_seen_at for seat in own if seat.first_seen_at is not None]
    granted: list[datetime | None]
    if not terms.by_usage:
        granted = [seat.granted_at or seat.account_created_at for seat in own]
    else:
        granted = [seat.held_since for seat in own]
        if None in granted and any(seat.returned for seat in own):
            granted = [*first]
    uses = [seat.last_used_at for seat in own if seat.last_used_at is not None]
    if asked is not None and asked.last_used_at is not None:
        uses.append(asked.last_used_at)
    if own:
        face = usage_seat(own[0])
    else:
        face = UsageSeat(holder_id=case.holder_id, holder_email=case.holder_email, device_id=device)
    return replace(
        face,
        granted_at=None if not granted or None in granted else max(at for at in granted if at is not None),
        first_seen_at=max(first, default=now),
        last_used_at=max(uses, default=None),
        asked=asked is not None and asked.read,
    )


async def _cases(
    db: AsyncConnection, *conditions: sa.ColumnElement[bool] | sa.TextClause, limit: int | None = None
) -> list[CaseSeat]:
    """Return the cases that meet some conditions, by id; at most `limit` of them."""
    rows = await db.execute(
        sa.select(
            CANDIDATES.c.id,
            CANDIDATES.c.rule_id,
            CANDIDATES.c.rule_version,
            CANDIDATES.c.connection_id,
            CANDIDATES.c.holder_id,
            CANDIDATES.c.holder_email,
            CANDIDATES.c.product,
            CANDIDATES.c.devices,
        )
        .where(*conditions)
        .order_by(CANDIDATES.c.id)
        .limit(limit)
    )
    return [
        CaseSeat(
            case_id=row.id,
            rule_id=row.rule_id,
            rule_version=row.rule_version,
            connection_id=row.connection_id,
            holder_id=row.holder_id,
            holder_email=row.holder_email,
            product=row.product,
            devices=tuple(row.devices),
        )
        for row in rows
    ]


async def _known(
    db: AsyncConnection, connection_id: str, holders: Collection[str]
) -> dict[tuple[str, str, str], KnownSeat]:
    """Return the seats of some holders as they were last read, by holder, product and device."""
    rows = await db.execute(
        sa.select(KNOWN_SEATS).where(
            KNOWN_SEATS.c.connection_id == connection_id, among(KNOWN_SEATS.c.holder_id, holders)
        )
    )
    names = [part.name for part in fields(KnownSeat)]
    return {
        (row["holder_id"], row["product"], row["device_id"]): KnownSeat(**{name: row[name] for name in names})
        for row in rows.mappings()
    }


async def _there(db: AsyncConnection, holders: Collection[str]) -> set[tuple[str, str, str]]:
    """Return what is installed now for some holders: holder, product and device."""
    rows = await db.execute(
        sa.select(INSTALLATIONS.c.holder_key, INSTALLATIONS.c.product, INSTALLATIONS.c.device).where(
            among(INSTALLATIONS.c.holder_key, holders)
        )
    )
    return {(row.holder_key, row.product, row.device) for row in rows}
