"""Makes one case of the open cases that a holder has in one suite.

The scanner asks to have the components' cases withdrawn, and the lifecycle answers: it withdraws those that are not
past the decision and refuses the others. When one was really withdrawn, the suite's case is asked for, and opened by
whoever looks at open cases again, if a scan would open it: the seat is judged anew by what is known then. A part's case
that is still open holds the whole back, as in a scan. So no holder is ever asked about the parts and the whole at once,
and where every case was past the decision already, nothing is opened.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from contextlib import aclosing
from typing import Final

from reclaim.common.contracts import CaseClosed
from reclaim.common.db import Unit
from reclaim.common.errors import Transient
from reclaim.scanner import catalog_store, exclusion_store, groups, store
from reclaim.scanner.catalog import Suite
from reclaim.scanner.catalog_store import Opening, Pending
from reclaim.scanner.domain import Found, missing_readings
from reclaim.scanner.opening import must_be_unchanged, open_cases
from reclaim.scanner.ports import Deps
from reclaim.scanner.scan import Scan
from reclaim.scanner.store import Rule
from reclaim.scanner.suites import comparable, plan_merges
from reclaim.scanner.withdrawals import withdraw

log = logging.getLogger(__name__)

REVIEW: Final = "review"
"""The job that looks at open cases again, and opens merged ones."""


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


async def settle(unit: Unit, closed: Sequence[CaseClosed], *, seconds: float) -> None:
    """Ask for the suites' cases where one was withdrawn to be merged; whatever ended otherwise is left out.

    They are looked at so many seconds from now, all that are asked for until then at once.
    """
    ended = {case.case_id: case for case in closed}
    ready, others = [], set(ended)
    for merge in await catalog_store.pending(unit.db, ended):
        if any(case_id in ended and ended[case_id].withdrawn == "merged" for case_id in merge.cases):
            ready.append(merge)
            others -= set(merge.cases)
    await catalog_store.leave_out(unit.db, others)
    await catalog_store.end_merges(unit.db, {merge.merge_id for merge in ready})
    await catalog_store.ask_openings(unit.db, await _openings(unit, [merge for merge in ready if merge.into is None]))
    # What waits until other cases of a holder have ended is looked at when one has.
    waiting = await catalog_store.openings(unit.db, holders=await catalog_store.holders_of(unit.db, ended))
    await catalog_store.ask_to_open(unit.db, {one.rule_id for one in waiting}, unit.now, seconds=seconds)


async def _openings(unit: Unit, merges: Sequence[Pending]) -> list[Opening]:
    """Return the cases to open for merges: of the newest case's scan, and a rehearsal if one of them was."""
    cases = {case_id for merge in merges for case_id in merge.cases}
    origins = {case.case_id: case for case in await catalog_store.flagged(unit.db, cases)}
    found = []
    for merge in merges:
        own = [origins[case_id] for case_id in merge.cases]
        newest = max(own, key=lambda case: (case.flagged_at, case.case_id))
        found.append(
            Opening(
                rule_id=merge.rule_id,
                suite=merge.suite,
                holder_id=newest.found.seat.holder.id,
                run_id=newest.run_id,
                dry_run=any(case.dry_run for case in own),
                cases=merge.cases,
            )
        )
    return found


async def open_merged(deps: Deps, rule: Rule) -> None:
    """Open the suites' cases that a rule's merges wait for, if a scan of the rule would open them now.

    The connection is read as by a scan: whoever uses it, is excluded, kept it, or has another open case, is left alone.
    An opening waits for as long as one of the cases that were to be merged is open.

    Raises:
        Stopped: what was read cannot be everybody, or the rule was edited meanwhile.
        Transient, Permanent: the connection did not answer, or a person has to mend it.
    """
    async with deps.database.reading() as db:
        waiting = {(one.holder_id, one.suite): one for one in await catalog_store.openings(db, rule_id=rule.id)}
    if not waiting:
        return
    if rule.status != "active":
        log.warning("no merged cases of rule %s are opened: it is %s", rule.terms.name, rule.status)
        async with deps.database.unit() as unit:
            await catalog_store.end_openings(unit.db, waiting.values())
        return
    reading, found = await _read(deps, rule, {holder for holder, _suite in waiting})
    batches: dict[tuple[str, bool], list[Found]] = defaultdict(list)
    for seat in found:
        if (opening := waiting.get(seat.key)) is not None:
            batches[opening.run_id, rule.terms.dry_run or opening.dry_run].append(seat)
    async with deps.database.unit() as unit:
        # What was asked for meanwhile has not been judged: it waits for the next time.
        present = await catalog_store.openings(unit.db, rule_id=rule.id, lock=True)
        judged = [one for one in present if waiting.get((one.holder_id, one.suite)) == one]
        must_be_unchanged(rule, await store.rule(unit.db, rule.id))
        await exclusion_store.share_connection(unit.db, rule.connection_id)
        if not await exclusion_store.groups(unit.db, rule.connection_id, unit.now) <= reading.groups.keys():
            raise Transient("A group was excluded while the connection was read: it is read once more.")
        for (run_id, dry_run), batch in sorted(batches.items()):
            await open_cases(unit, rule, reading, batch, run_id=run_id, dry_run=dry_run)
        held = await catalog_store.still_open(unit.db, {case_id for one in judged for case_id in one.cases})
        await catalog_store.end_openings(unit.db, [one for one in judged if held.isdisjoint(one.cases)])
    log.info("%d of %d merged cases of rule %s are as a scan has them", len(found), len(waiting), rule.terms.name)


async def _read(deps: Deps, rule: Rule, holders: set[str]) -> tuple[Scan, list[Found]]:
    """Read a rule's connection, and return what a scan would flag of some holders' seats.

    Raises:
        Transient: a part of what a check needs could not be read, without which it would flag nobody.
        Stopped, Permanent: as `open_merged`.
    """
    async with deps.database.reading() as db:
        connection = await store.connection(db, rule.connection_id)
        covered = await catalog_store.covered(db, rule.terms.products, rule.id)
        related = await catalog_store.relations(db, covered.products)
        prices = await store.prices(db, connection.id)
        baseline = comparable(await store.baseline(db, rule.id, connection.id), rule.terms, covered)
    reading = Scan(
        rule.terms, connection.id, prices, baseline, deps.clock.now(), covered, related, only=frozenset(holders)
    )
    async with deps.reader(connection) as reader:
        survey = await reading.begin(reader, deps.database)
        # What is not opened now is forgotten, so what may be read the next time is waited for.
        groups.must_not_pass(reading.groups)
        if missing := missing_readings(survey, proves_elsewhere=rule.terms.proves_elsewhere):
            unread = (f"{part.replace('_', ' ')} could not be read: {why}" for part, why in missing.items())
            raise Transient(" ".join(unread))
        async with aclosing(reading.pages(reader, survey, deps.database)) as pages:
            return reading, [seat async for page in pages for seat in page.found]
