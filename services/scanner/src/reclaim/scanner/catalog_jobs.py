"""Looks again at open cases after the catalogue changed: whether each still stands on what its rule covers now.

The connection is read as a scan reads it, with the same refusals to believe what cannot be everybody. A case whose seat
is in use, is gone, or is no longer the rule's is taken back, and the lifecycle undoes what was done for it. Nothing is
opened but what merged cases wait for, and that by itself: what has to be taken back waits for no opening.
"""

from __future__ import annotations

import logging
from contextlib import aclosing
from functools import partial
from typing import Final

from reclaim.common.db import is_outage
from reclaim.common.errors import Permanent, Transient
from reclaim.common.service import Job
from reclaim.common.timing import backoff
from reclaim.connectors.ports import Incomplete, SeatReader
from reclaim.scanner import catalog_store, store
from reclaim.scanner.catalog import Coverage
from reclaim.scanner.catalog_store import Review
from reclaim.scanner.domain import Baseline, SeatKey, check_population, expected_seats, use_of
from reclaim.scanner.judging import Judge
from reclaim.scanner.merging import REVIEW, open_merged
from reclaim.scanner.ports import Deps
from reclaim.scanner.store import Rule
from reclaim.scanner.suites import comparable, folded, outlived, pooled, readable
from reclaim.scanner.withdrawals import withdraw

log = logging.getLogger(__name__)

REVIEWER: Final = "the catalogue"
"""Who takes a case back; it stands in the audit trail."""

LEASE_SECONDS: Final = 600.0
"""For how long one reading may take; a second process that begins anew then does no harm."""


def jobs(deps: Deps) -> tuple[Job, ...]:
    """Return the catalogue's jobs."""
    return (Job(REVIEW, partial(review, deps), every=5.0),)


async def review(deps: Deps) -> bool:
    """Look again at the open cases of one rule whose products changed, or open its merged ones; tell whether any."""
    async with deps.database.reading() as db:
        if not await catalog_store.anything_to_review(db):
            return False
    async with deps.database.unit() as unit:
        claimed = await catalog_store.claim_review(unit.db, lease_seconds=LEASE_SECONDS)
    if claimed is None:
        return False
    try:
        await (_open(deps, claimed) if claimed.openings else _review(deps, claimed))
    except (Transient, Permanent) as error:
        await _put_off(deps, claimed, error)
    except Exception as error:
        if not is_outage(error):
            await _put_off(deps, claimed, error)
        raise
    return True


async def _put_off(deps: Deps, claimed: Review, error: Exception) -> None:
    """Try again after a while; a review that a day did not help is given up, and its rule's page says why."""
    wait = None
    if claimed.attempt < deps.settings.most_attempts:
        wait = backoff(claimed.attempt, first=deps.settings.first_wait_seconds, most=deps.settings.longest_wait_seconds)
    known = isinstance(error, Transient | Permanent)
    problem = str(error) if known else f"An error on our side: {type(error).__name__}."
    if claimed.openings:
        problem = f"Merged cases wait to be opened: {problem}"
    log.warning("the open cases of rule %s were not looked at again: %s", claimed.rule_id, problem)
    async with deps.database.unit() as unit:
        await catalog_store.review_later(unit.db, claimed, wait, problem)


async def _open(deps: Deps, claimed: Review) -> None:
    """Open the merged cases that a rule's openings ask for; what waits for other cases to end is asked for then."""
    async with deps.database.reading() as db:
        rule = await store.rule(db, claimed.rule_id)
    await open_merged(deps, rule)
    async with deps.database.unit() as unit:
        await catalog_store.end_review(unit.db, claimed, seconds=deps.settings.merge_seconds)


async def _review(deps: Deps, claimed: Review) -> None:
    async with deps.database.reading() as db:
        rule = await store.rule(db, claimed.rule_id)
        connection = await store.connection(db, rule.connection_id)
        covered = await catalog_store.covered(db, rule.terms.products, rule.id)
        baseline = await store.baseline(db, rule.id, connection.id)
        cases = await catalog_store.open_cases(db, rule.id, claimed.products)
    seen: dict[SeatKey, bool] = {}
    if cases:
        holders = frozenset(case.holder_id for case in cases)
        async with deps.reader(connection) as reader:
            seen = await _seen(deps, reader, rule, covered, baseline, holders)
    async with deps.database.unit() as unit:
        present = await store.lock_rule(unit.db, rule.id)
        if present.version != rule.version:
            await catalog_store.review_later(unit.db, claimed, 0, None)
            return
        still = await catalog_store.open_cases(unit.db, rule.id, claimed.products)
        known = {case.case_id for case in cases}
        gone = outlived([case for case in still if case.case_id in known], seen, covered)
        for case_id, why in sorted(gone.items()):
            withdraw(unit, [(case_id, why.reason)], kind=why.kind, actor=REVIEWER)
        await catalog_store.end_review(unit.db, claimed)
    log.info("%d open cases of rule %s looked at again, %d taken back", len(cases), rule.terms.name, len(gone))


async def _seen(
    deps: Deps, reader: SeatReader, rule: Rule, covered: Coverage, baseline: Baseline | None, holders: frozenset[str]
) -> dict[SeatKey, bool]:
    """Return the present seats of some holders, suites folded, and whether each is in use.

    Raises:
        Stopped: what was read cannot be everybody.
        Transient, Permanent: the connection did not answer, or a person has to mend it.
    """
    licences = await reader.licences()
    expected = expected_seats(rule.terms, pooled(licences, covered.suites))
    now = deps.clock.now()
    count = 0
    seen: dict[SeatKey, bool] = {}
    products = readable(covered, licences)
    judge = Judge(rule.terms, covered, rule.connection_id, now, told=False, listed=products)
    try:
        async with aclosing(folded(reader.seats(products), covered.suites)) as pages:
            async for page in pages:
                count += len(page)
                theirs = [seat for seat in page if seat.holder.id in holders]
                async with deps.database.reading() as db:
                    told = await judge.seats(db, theirs)
                for seat, said in zip(theirs, told, strict=True):
                    used = use_of(seat, rule.terms, said, now).state == "USED" or not seat.active
                    key = (seat.holder.id, seat.product)
                    seen[key] = seen.get(key, False) or used
    except Incomplete as error:
        raise Transient(f"The list of seats ended early: {error}") from error
    before = comparable(baseline, rule.terms, covered)
    check_population(rule.terms, before, expected=expected, seen=count)
    return seen
