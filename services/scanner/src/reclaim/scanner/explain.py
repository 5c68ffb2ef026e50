"""Why a seat is flagged, or is not: every rule of its connection, step by step, by the code that scans.

What is read is read for this one holder; the judgement is `domain.findings_of`, as in a scan and a preview.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from reclaim.common.contracts import CheckFinding, Person
from reclaim.common.errors import NotFound
from reclaim.connectors.checks import is_unused
from reclaim.connectors.ports import SeatRecord, Survey
from reclaim.scanner import catalog_store, exclusion_store, store
from reclaim.scanner.choosing import chooser
from reclaim.scanner.domain import Chooses, approver_of, findings_of, last_use, not_chosen, sparing
from reclaim.scanner.ports import Deps
from reclaim.scanner.store import Connection, Rule
from reclaim.scanner.suites import fold, spread

Result = Literal["flagged", "would_be_flagged", "left_alone", "unknown", "used", "not_meant"]
"""`would_be_flagged`: by a rule that is not active, and so opens no case."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one rule says about a seat. `findings` are its safety checks, made for used seats as well."""

    rule: Rule
    result: Result
    summary: str
    findings: tuple[CheckFinding, ...]
    approver: Person | None


@dataclass(frozen=True, slots=True)
class Explained:
    """A seat as its system reports it now, and what each rule says about it."""

    connection: Connection
    seat: SeatRecord
    last_used_at: datetime | None
    read_at: datetime
    verdicts: tuple[Verdict, ...]


async def explain(deps: Deps, connection_id: str, holder: str) -> Explained:
    """Judge one holder's seat by every rule of a connection. Nothing is opened or changed.

    Raises:
        NotFound: there is no such connection, or no account of that id.
        Transient: the connected system did not answer.
        Permanent: a person has to mend the connection.
    """
    async with deps.database.reading() as db:
        connection = await store.connection(db, connection_id)
        rules = [rule for rule in await store.rules(db) if rule.connection_id == connection_id]
    now = deps.clock.now()
    longest = max((rule.terms.inactive_days for rule in rules), default=30)
    async with deps.reader(connection) as reader:
        seat = (await reader.seats_of([holder])).get(holder)
        if seat is None:
            raise NotFound(f"{connection.name} has no account with the id {holder}.")
        survey = await reader.survey([holder], since=now - timedelta(days=longest))
    verdicts = []
    async with deps.database.reading() as db:
        prices = await store.prices(db, connection_id)
        exclusions = await exclusion_store.on(db, connection_id, now)
        for rule in rules:
            held = await store.held(
                db, connection_id, {seat.holder.id}, cooldown_days=rule.terms.cooldown_days, now=now
            )
            covered = await catalog_store.covered(db, rule.terms.products, rule.id)
            chooses = await chooser(db, rule.terms, connection_id, {holder}, prices=prices, now=now, covered=covered)
            held = spread(held, await catalog_store.relations(db, covered.products))
            (whole,) = fold([seat], covered.suites)
            verdicts.append(
                judge(
                    rule,
                    whole,
                    survey,
                    excluded=exclusions.evidence(whole),
                    held=held.back.get((whole.holder.id, whole.product)),
                    chooses=chooses,
                    now=now,
                )
            )
    return Explained(connection, seat, last_use(seat, survey), now, tuple(verdicts))


def judge(
    rule: Rule,
    seat: SeatRecord,
    survey: Survey,
    *,
    excluded: str | None,
    held: str | None,
    chooses: Chooses | None,
    now: datetime,
) -> Verdict:
    """Say what a rule makes of a seat, and why."""
    terms = rule.terms
    findings = findings_of(seat, terms, survey, excluded=excluded, held=held, now=now)
    approver = approver_of(seat, terms.fallback)
    result, summary = _result(rule, seat, not_chosen(seat, chooses) or sparing(findings), now)
    return Verdict(rule, result, summary, findings, approver)


def _result(rule: Rule, seat: SeatRecord, finding: CheckFinding | None, now: datetime) -> tuple[Result, str]:
    terms = rule.terms
    if seat.product not in terms.products:
        return "not_meant", f"The rule is about {', '.join(terms.products)}, and the seat is {seat.product}."
    if not seat.active:
        return "not_meant", "The account is not active: it holds no seat."
    latest = seat.created_at if seat.last_used_at is None else seat.last_used_at
    what = "Never used, and made" if seat.last_used_at is None else "Last used"
    since = f"{what} {latest:%Y-%m-%d %H:%M} UTC"
    cutoff = f"{now - timedelta(days=terms.inactive_days):%Y-%m-%d %H:%M} UTC"
    if not is_unused(seat, inactive_days=terms.inactive_days, now=now):
        return "used", f"{since}, which is not before {cutoff}: it counts as used."
    if finding is None:
        unused = f"{since}, which is before {cutoff}, and every check lets it pass"
        if rule.status == "active":
            return "flagged", f"{unused}: the next scan flags it."
        status = rule.status.replace("_", " ")
        return "would_be_flagged", f"{unused}. The rule is {status}, so no case is opened."
    if finding.outcome == "unknown":
        return "unknown", f"{since}. Whether it may be flagged is not known, so it is not: {finding.evidence}."
    return "left_alone", f"{since}, and left alone: {finding.evidence}."
