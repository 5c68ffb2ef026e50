"""Makes one case of the open cases that a holder has in one suite.

The scanner asks to have the components' cases withdrawn, and the lifecycle answers: it withdraws those that are not
past the decision and refuses the others. The suite's case is opened when the first one was really withdrawn, in the
transaction that learns of it. So no holder is ever asked about the parts and the whole at once, and where every case
was past the decision already, nothing is opened.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from datetime import timedelta

from reclaim.common.contracts import CaseClosed, UserFlagged
from reclaim.common.db import Unit
from reclaim.common.ids import new_id
from reclaim.scanner import catalog_store, exclusion_store, store, usage_store
from reclaim.scanner.catalog import Suite
from reclaim.scanner.catalog_jobs import REVIEW
from reclaim.scanner.catalog_store import Flagged, Pending
from reclaim.scanner.domain import Found, price_of
from reclaim.scanner.store import Rule
from reclaim.scanner.suites import plan_merges, united
from reclaim.scanner.withdrawals import withdraw

log = logging.getLogger(__name__)


async def begin(unit: Unit, rule: Rule, suites: Sequence[Suite], *, actor: str) -> None:
    """Ask to have the open cases of a rule withdrawn that one case of these suites shall stand for."""
    about = {product for suite in suites for product in suite.products}
    if not about:
        return
    merges = plan_merges(await catalog_store.open_cases(unit.db, rule.id, about), suites)
    await catalog_store.begin_merges(unit.db, rule.id, merges)
    names = {suite.product: suite.name for suite in suites}
    for merge in merges:
        whole = f"case {merge.into}" if merge.into else "one case for the holder"
        reason = f"{names[merge.suite]} is reclaimed as a whole now: {whole} stands for this one."
        withdraw(unit, [(case_id, reason) for case_id in merge.withdrawn], kind="merged", actor=actor)


async def settle(unit: Unit, closed: Sequence[CaseClosed]) -> None:
    """Open the suites' cases for those that were withdrawn to be merged; whatever ended otherwise is left out."""
    ended = {case.case_id: case for case in closed}
    ready, others = [], set(ended)
    for merge in await catalog_store.pending(unit.db, ended):
        if any(case_id in ended and ended[case_id].withdrawn == "merged" for case_id in merge.cases):
            ready.append(merge)
            others -= set(merge.cases)
    await catalog_store.leave_out(unit.db, others)
    await catalog_store.end_merges(unit.db, {merge.merge_id for merge in ready})
    by_rule: dict[str, list[Pending]] = defaultdict(list)
    for merge in ready:
        if merge.into is None:
            by_rule[merge.rule_id].append(merge)
    for rule_id, merges in sorted(by_rule.items()):
        await _open(unit, await store.rule(unit.db, rule_id), merges)


async def _open(unit: Unit, rule: Rule, merges: Sequence[Pending]) -> None:
    """Open one case for each of these merges of a rule, unless it has lost its reason meanwhile."""
    if rule.connection_id not in {connection.id for connection in await store.connections(unit.db)}:
        log.warning("no merged cases of rule %s are opened: its connection was removed", rule.terms.name)
        return
    await exclusion_store.share_connection(unit.db, rule.connection_id)
    exclusions = await exclusion_store.on(unit.db, rule.connection_id, unit.now)
    await catalog_store.lock_seats(unit.db, rule.connection_id)
    covered = await catalog_store.covered(unit.db, rule.terms.products, rule.id)
    suites = {suite.product: suite for suite in covered.suites}
    prices = await store.prices(unit.db, rule.connection_id)
    origins = {case.case_id: case for case in await catalog_store.flagged(unit.db, _cases(merges))}
    since = unit.now - timedelta(days=rule.terms.cooldown_days)
    about = {product for suite in covered.suites for product in suite.products}
    holders = {case.found.seat.holder.id for case in origins.values()}
    kept = await catalog_store.kept(unit.db, rule.connection_id, holders, about, since)
    # By what a case's record has to say of its scan, and whether it is rehearsed.
    batches: dict[tuple[str, bool], dict[str, Found]] = defaultdict(dict)
    for merge in merges:
        own = sorted((origins[case_id] for case_id in merge.cases), key=_age)
        suite = suites.get(merge.suite)
        if suite is None or own[-1].found.seat.holder.id in kept:
            continue
        price = price_of(prices, suite.product, suite.name)
        found = united([case.found for case in own], suite, price)
        if exclusions.evidence(found.seat) is not None:
            continue
        dry_run = rule.terms.dry_run or any(case.dry_run for case in own)
        batches[own[-1].run_id, dry_run][new_id()] = found
    for (run_id, dry_run), batch in sorted(batches.items()):
        opened = await store.open_candidates(unit.db, run_id, batch, rule=rule, dry_run=dry_run, now=unit.now)
        policy = rule.terms.policy(rule.id, rule.version, dry_run=dry_run, prices=prices)
        unit.emit(
            *(
                UserFlagged(
                    case_id=case_id,
                    seat=found.seat,
                    approver=found.approver,
                    policy=policy,
                    findings=found.findings,
                    last_used_at=found.last_used_at,
                    flagged_at=unit.now,
                    run_id=run_id,
                )
                for case_id, found in batch.items()
                if case_id in opened
            )
        )
        await usage_store.tell_news(unit.db, {batch[case_id].seat.product for case_id in opened}, unit.now)
    if batches:
        # What the holder does with the other components was never looked at by the cases that were merged.
        await catalog_store.ask_review(unit.db, rule.id, {merge.suite for merge in merges}, unit.now)
        unit.wake(REVIEW)


def _cases(merges: Sequence[Pending]) -> set[str]:
    return {case_id for merge in merges for case_id in merge.cases}


def _age(case: Flagged) -> tuple[object, str]:
    return case.flagged_at, case.case_id
