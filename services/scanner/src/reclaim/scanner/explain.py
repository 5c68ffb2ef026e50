"""Why a seat is flagged, or is not: every rule of its connection, step by step, by the code that scans.

What is read is read for this one holder; the judgement is `domain.findings_of`, as in a scan and a preview.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from reclaim.common.contracts import CheckFinding, Person
from reclaim.common.errors import NotFound
from reclaim.connectors.ports import SeatReader, SeatRecord, Survey
from reclaim.scanner import catalog_store, exclusion_store, groups, store
from reclaim.scanner.choosing import chooser
from reclaim.scanner.domain import (
    Chooses,
    Terms,
    approver_of,
    finding_of,
    findings_of,
    last_use,
    latest_of,
    not_chosen,
    sparing,
    use_of,
)
from reclaim.scanner.installed_seats import InstalledSeats
from reclaim.scanner.judging import Judge, tells_use
from reclaim.scanner.known_seats import Reporting, Unwritten
from reclaim.scanner.ports import Deps
from reclaim.scanner.store import Connection, Rule
from reclaim.scanner.suites import fold, readable, spread
from reclaim.scanner.usage import Verdict as Usage

Result = Literal["flagged", "would_be_flagged", "left_alone", "unknown", "used", "not_meant"]
"""`would_be_flagged`: by a rule that is not active, and so opens no case."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one rule says about a seat. `findings` are its safety checks, made for used seats as well.

    `use` is what the sources of use say by the rule's condition; `device` where the seat is installed, if it is.
    """

    rule: Rule
    result: Result
    summary: str
    findings: tuple[CheckFinding, ...]
    approver: Person | None
    use: Usage
    device: str = ""


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
        trees = [tree for rule in rules for tree in groups.filters_of(rule.terms)]
        wanted = await groups.wanted(db, connection_id, trees, now)
    async with deps.reader(connection) as reader:
        seats = await _seats(reader, holder)
        if not seats:
            raise NotFound(f"{connection.name} has no account with the id {holder}.")
        seat = seats[0]
        holder = seat.holder.id
        licences = await reader.licences()
        survey = await reader.survey([holder], since=now - timedelta(days=longest))
        members = await groups.read(reader, wanted)
    reading, unwritten = Reporting(), Unwritten(now)
    reading.add(seats)
    unwritten.add(seats)
    verdicts = []
    async with deps.database.reading() as db:
        prices = await store.prices(db, connection_id)
        exclusions = await exclusion_store.on(db, connection_id, now, members)
        for rule in rules:
            held = await store.held(
                db, connection_id, {seat.holder.id}, cooldown_days=rule.terms.cooldown_days, now=now
            )
            covered = await catalog_store.covered(db, rule.terms.products, rule.id)
            chooses = await chooser(
                db,
                rule.terms,
                connection_id,
                {holder},
                prices=prices,
                now=now,
                covered=covered,
                groups=members,
                reading=reading,
                unwritten=unwritten,
            )
            held = spread(held, await catalog_store.relations(db, covered.products))
            whole = fold(seats, covered.suites)
            meant = [one for one in whole if one.product in rule.terms.products] or whole[:1]
            judging = Judge(
                rule.terms,
                covered,
                connection_id,
                now,
                tells_use(survey),
                readable(covered, licences),
                unwritten=unwritten,
            )
            for one, told in zip(meant, await judging.seats(db, meant), strict=True):
                verdicts.append(
                    judge(
                        rule,
                        one,
                        survey,
                        excluded=exclusions.evidence(one),
                        held=held.back.get((one.holder.id, one.product)),
                        chooses=chooses,
                        told=told,
                        now=now,
                    )
                )
    latest = latest_of(last_use(seat, survey), *(verdict.use.last_used_at for verdict in verdicts))
    return Explained(connection, seat, latest, now, tuple(verdicts))


async def _seats(reader: SeatReader, holder: str) -> Sequence[SeatRecord]:
    """Return a holder's seats as their system reports them: of an account one, of devices each installation."""
    if isinstance(reader, InstalledSeats):
        return await reader.all_of([holder])
    seat = (await reader.seats_of([holder])).get(holder)
    return [] if seat is None else [seat]


def judge(
    rule: Rule,
    seat: SeatRecord,
    survey: Survey,
    *,
    excluded: str | None,
    held: str | None,
    chooses: Chooses | None,
    told: Usage,
    now: datetime,
) -> Verdict:
    """Say what a rule makes of a seat, and why; `told` is what sources of use say."""
    terms = rule.terms
    use = use_of(seat, terms, told, now)
    findings = findings_of(seat, terms, survey, excluded=excluded, held=held, now=now, use=use)
    approver = approver_of(seat, terms.fallback)
    unknown = finding_of(use) if use.state == "UNKNOWN" else None
    finding = not_chosen(seat, chooses) or unknown or sparing(findings)
    result, summary = _result(rule, seat, use, finding, now)
    return Verdict(rule, result, summary, findings, approver, told if use.state == told.state else use, seat.device)


def _result(
    rule: Rule, seat: SeatRecord, use: Usage, finding: CheckFinding | None, now: datetime
) -> tuple[Result, str]:
    terms = rule.terms
    if seat.product not in terms.products:
        return "not_meant", f"The rule is about {', '.join(terms.products)}, and the seat is {seat.product}."
    if not seat.active:
        return "not_meant", "The account is not active: it holds no seat."
    since, before, used = _said(terms, seat, use, now)
    if use.state == "USED":
        return "used", f"{since}{used}"
    if finding is None:
        unused = f"{since}{before}, and every check lets it pass"
        if rule.status == "active":
            return "flagged", f"{unused}: the next scan flags it."
        status = rule.status.replace("_", " ")
        return "would_be_flagged", f"{unused}. The rule is {status}, so no case is opened."
    evidence = finding.evidence.removesuffix(".")
    if finding.outcome == "unknown":
        return "unknown", f"{since}. Whether it may be flagged is not known, so it is not: {evidence}."
    return "left_alone", f"{since}, and left alone: {evidence}."


def _said(terms: Terms, seat: SeatRecord, use: Usage, now: datetime) -> tuple[str, str, str]:
    """Return what is known of a seat's use as the beginning of a sentence, and how it goes on: unused, and used."""
    if terms.by_usage or (use.state == "USED" and use.last_used_at is not None):
        where = f"On {seat.device}: " if seat.device else ""
        said = "whether it is used is not known" if use.state == "UNKNOWN" else use.reason.removesuffix(".")
        return f"{where}{said}", "", ", so it counts as used."
    latest = seat.created_at if seat.last_used_at is None else seat.last_used_at
    what = "Never used, and made" if seat.last_used_at is None else "Last used"
    cutoff = f"{now - timedelta(days=terms.inactive_days):%Y-%m-%d %H:%M} UTC"
    since = f"{what} {latest:%Y-%m-%d %H:%M} UTC"
    return since, f", which is before {cutoff}", f", which is not before {cutoff}: it counts as used."
