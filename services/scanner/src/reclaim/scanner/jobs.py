"""The scanner's work in the background: scans, and the schedules that ask for them.

A scan first reads everybody and keeps what it found, page by page; only when the reading proved whole does it open
cases, again page by page, each page's candidates and events in one transaction. So a truncated list opens nothing,
and a process that dies at any moment leaves nothing half done: whoever takes the run over reads again, and a seat
that this run flagged already, or that has an open case of any run, is not flagged a second time.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from datetime import datetime
from functools import partial
from typing import Any, Final

from sqlalchemy.exc import SQLAlchemyError

from reclaim.common.db import Unit, is_outage
from reclaim.common.errors import Permanent, Transient
from reclaim.common.service import Job
from reclaim.common.timing import backoff
from reclaim.scanner import (
    catalog_jobs,
    catalog_store,
    import_jobs,
    known_seats,
    leases,
    questions,
    store,
    sync_jobs,
    usage_cases,
)
from reclaim.scanner.domain import Stopped, Tally, last_due
from reclaim.scanner.opening import must_be_active, open_cases
from reclaim.scanner.ports import Deps
from reclaim.scanner.scan import Scan
from reclaim.scanner.store import Claim, LeaseLost, Rule
from reclaim.scanner.suites import comparable, suite_keys, unlike
from reclaim.scanner.takebacks import take_back_excluded
from reclaim.scanner.usage_store import COUNT_UNMATCHED

log = logging.getLogger(__name__)

SCAN: Final = "scan"

OWN_CHECK: Final = "already_frozen"
"""The check under which seats are counted that our own records hold back."""

ACCEPTED: Final = "Whoever started the scan accepted the population as it is."
"""Why the population of such a scan is compared with no other."""

EXCLUDED: Final = "exempt"
"""The check under which seats are counted that a person excluded."""


def jobs(deps: Deps) -> tuple[Job, ...]:
    """Return the scanner's jobs."""
    return (
        Job(SCAN, partial(scan, deps), every=1.0),
        Job("schedule", partial(schedule, deps), every=5.0),
        *catalog_jobs.jobs(deps),
        *usage_cases.jobs(deps),
        *questions.jobs(deps),
        *sync_jobs.jobs(deps),
        *import_jobs.jobs(deps),
    )


async def schedule(deps: Deps) -> bool:
    """Enqueue a scan for each active rule whose schedule asks for one; of instants that were missed, the latest."""
    async with deps.database.reading() as db:
        rules = await store.rules(db)
        now = deps.clock.now()
        due = [(rule.id, at) for rule in rules if (at := _due(rule, now)) is not None]
    for rule_id, at in due:
        async with deps.database.unit() as unit:
            rule = await store.lock_rule(unit.db, rule_id)
            if _due(rule, now) == at and await store.add_due_run(unit.db, rule, due_at=at, now=unit.now):
                unit.wake(SCAN)
    return False


def _due(rule: Rule, now: datetime) -> datetime | None:
    if rule.status != "active":
        return None
    at = last_due(rule.terms, now)
    if at is None or rule.scheduled_until is None or at <= rule.scheduled_until:
        return None
    return at


async def scan(deps: Deps) -> bool:
    """Work on one run that waits, or whose process died; return whether there was one."""
    async with deps.database.reading() as db:
        if not await store.anything_to_claim(db):
            return False
    async with deps.database.unit() as unit:
        claim = await store.claim_run(unit.db, lease_seconds=deps.settings.lease_seconds, now=unit.now)
    if claim is None:
        return False

    async def prolong() -> None:
        async with deps.database.unit() as unit:
            await store.update_run(unit.db, claim, store.lease_until(deps.settings.lease_seconds))

    try:
        async with leases.kept(prolong, seconds=deps.settings.lease_seconds, what=f"scan {claim.run_id}"):
            await _attempt(deps, claim)
    except LeaseLost:
        log.warning("scan %s was taken over by another process", claim.run_id)
    except asyncio.CancelledError:
        await _hand_back(deps, claim)
        raise
    except Exception as error:
        if is_outage(error):
            raise
        await _give_up(deps, claim, error)
    return True


async def _attempt(deps: Deps, claim: Claim) -> None:
    async with deps.database.unit() as unit:
        run = await store.run(unit.db, claim.run_id)
        rule = await store.rule(unit.db, run.rule_id)
        must_be_active(rule)
        covered = await catalog_store.covered(unit.db, rule.terms.products, rule.id)
        related = await catalog_store.relations(unit.db, covered.products)
        covers = {"products": list(covered.products), "suites": list(suite_keys(covered))}
        await store.update_run(unit.db, claim, {"rule_version": rule.version, **covers})
        connection = await store.connection(unit.db, rule.connection_id)
        prices = await store.prices(unit.db, connection.id)
        baseline = None if run.accept_population else await store.baseline(unit.db, rule.id, connection.id)
    uncompared = ACCEPTED if run.accept_population else unlike(baseline, rule.terms, covered)
    baseline = comparable(baseline, rule.terms, covered)
    reading = Scan(rule.terms, connection.id, prices, baseline, deps.clock.now(), covered, related, run.id)
    log.info("scan %s of rule %s begins, attempt %d", run.id, rule.terms.name, claim.attempt)
    async with deps.reader(connection) as reader:
        survey = await reading.begin(reader, deps.database)
        async with deps.database.unit() as unit:
            await store.update_run(unit.db, claim, {"uncompared": uncompared})
            await _note(deps, unit, claim, reading.tally)
            # By groups already here: what follows may stop the scan.
            await take_back_excluded(unit, connection.id, reading.groups, since=reading.now)
        async with aclosing(reading.pages(reader, survey, deps.database)) as pages:
            async for page in pages:
                async with deps.database.unit() as unit:
                    await _note(deps, unit, claim, reading.tally)
                    if page.found:
                        await store.keep_page(unit.db, run.id, reading.tally.pages, page.found)
    async with deps.database.unit() as unit:
        await take_back_excluded(unit, connection.id, reading.groups, since=reading.now)
    dry_run = rule.terms.dry_run or run.dry_run
    while await _open_page(deps, claim, rule, reading, dry_run=dry_run):
        log.debug("scan %s opened a page of cases", run.id)
    async with deps.database.unit() as unit:
        await known_seats.end_reading(unit.db, connection.id, reading.products, reading.now)
        flagged = await store.flagged_by(unit.db, run.id)
        await store.update_run(
            unit.db,
            claim,
            {**store.progress(reading.tally), **store.ended("finished", unit.now), "flagged": flagged},
        )
        unit.wake(COUNT_UNMATCHED)
    log.info("scan %s of rule %s finished: %d seen, %d flagged", run.id, rule.terms.name, reading.tally.seen, flagged)


async def _open_page(deps: Deps, claim: Claim, rule: Rule, reading: Scan, *, dry_run: bool) -> bool:
    """Open the cases of the next kept page, in one transaction; return whether there was one."""
    async with deps.database.unit() as unit:
        found = await store.take_page(unit.db, claim.run_id)
        if found is None:
            return False
        opened = await open_cases(unit, rule, reading, found, run_id=claim.run_id, dry_run=dry_run)
        if opened.excluded:
            reading.tally.flagged -= opened.excluded
            reading.tally.left_alone[EXCLUDED] += opened.excluded
        lost = len(found) - opened.excluded - opened.cases
        if lost:
            # Somebody else's since they were read: another run opened a case, or a person asked to keep the seat.
            reading.tally.flagged -= lost
            reading.tally.left_alone[OWN_CHECK] += lost
        await _note(deps, unit, claim, reading.tally)
    return True


async def _note(deps: Deps, unit: Unit, claim: Claim, tally: Tally) -> None:
    """Write the progress down, and prove in the same transaction that the run is still ours."""
    await store.update_run(unit.db, claim, {**store.progress(tally), **store.lease_until(deps.settings.lease_seconds)})


async def _give_up(deps: Deps, claim: Claim, error: Exception) -> None:
    """Write down why an attempt ended: it is made again after a while if that can help, else a person is told."""
    async with deps.database.unit() as unit:
        try:
            await store.update_run(unit.db, claim, _ending(deps, claim, error, unit.now))
        except LeaseLost:
            log.warning("scan %s was taken over by another process", claim.run_id)


def _ending(deps: Deps, claim: Claim, error: Exception, now: datetime) -> dict[str, Any]:
    match error:
        case Transient() if claim.attempt < deps.settings.most_attempts:
            wait = backoff(
                claim.attempt, first=deps.settings.first_wait_seconds, most=deps.settings.longest_wait_seconds
            )
            log.warning("scan %s waits %.0f s: %s", claim.run_id, wait, error)
            return store.waiting(wait, str(error), f"Nothing is lost: it is tried again in about {_span(wait)}.")
        case Transient():
            return store.ended(
                "failed",
                now,
                f"Tried {claim.attempt} times, in the end: {error}",
                "Test the connection; when the org answers again, start the scan again.",
            )
        case Stopped():
            return {**store.ended("stopped", now, error.reason, error.remedy), "acceptable": error.acceptable}
        case Permanent():
            return store.ended("failed", now, str(error), "Mend that, test the connection, then start the scan again.")
    log.error("scan %s failed", claim.run_id, exc_info=error)
    return store.ended(
        "failed",
        now,
        f"An error on our side: {type(error).__name__}.",
        "Start the scan again; if it fails again, give the log of this moment to whoever looks after Reclaim.",
    )


async def _hand_back(deps: Deps, claim: Claim) -> None:
    """Let another process go on at once, instead of when the lease ends."""
    try:
        async with deps.database.unit() as unit:
            await store.update_run(unit.db, claim, store.handed_back())
    except (LeaseLost, SQLAlchemyError, OSError) as error:
        log.warning("scan %s was not handed back and waits for its lease to end: %s", claim.run_id, error)


def _span(seconds: float) -> str:
    return f"{seconds:.0f} seconds" if seconds < 90 else f"{seconds / 60:.0f} minutes"
