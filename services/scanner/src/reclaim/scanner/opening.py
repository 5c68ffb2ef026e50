"""Opens cases for seats that were judged: the one place where a candidate becomes a case, whoever judged it.

In one transaction, and last of all, everything that can have changed since the seats were read is looked at again: the
rule, the exclusions, and what our own records hold back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reclaim.common.contracts import UserFlagged
from reclaim.common.db import Unit
from reclaim.common.ids import new_id
from reclaim.scanner import catalog_store, exclusion_store, store, usage_store
from reclaim.scanner.domain import Found, Stopped
from reclaim.scanner.scan import Scan
from reclaim.scanner.store import Rule
from reclaim.scanner.suites import spread


@dataclass(frozen=True, slots=True)
class Opened:
    """How many cases were opened, and how many seats were excluded since they were read; the others are held back."""

    cases: int
    excluded: int


async def open_cases(
    unit: Unit, rule: Rule, reading: Scan, found: Sequence[Found], *, run_id: str, dry_run: bool
) -> Opened:
    """Open a case for each seat that a reading found, unless something speaks against it by now.

    Raises:
        Stopped: the rule is not active any more, or was edited since.
    """
    await exclusion_store.share_connection(unit.db, rule.connection_id)
    must_be_unchanged(rule, await store.rule(unit.db, rule.id))
    exclusions = await exclusion_store.on(unit.db, rule.connection_id, unit.now, reading.groups)
    wanted = [seat for seat in found if exclusions.evidence(seat.seat) is None]
    opened = await _open(
        unit, rule, reading, wanted, run_id=run_id, dry_run=dry_run, ask_scanner=exclusions.may_come_to_apply
    )
    return Opened(opened, len(found) - len(wanted))


async def _open(
    unit: Unit,
    rule: Rule,
    reading: Scan,
    found: Sequence[Found],
    *,
    run_id: str,
    dry_run: bool,
    ask_scanner: bool,
) -> int:
    await catalog_store.lock_seats(unit.db, rule.connection_id)
    held = await store.held(
        unit.db,
        rule.connection_id,
        {seat.seat.holder.id for seat in found},
        cooldown_days=rule.terms.cooldown_days,
        now=reading.now,
        run_id=reading.run_id,
    )
    held = spread(held, reading.related)
    free = {new_id(): seat for seat in found if seat.key not in held.back and seat.key not in held.flagged}
    opened = await store.open_candidates(unit.db, run_id, free, rule=rule, dry_run=dry_run, now=unit.now)
    policy = rule.terms.policy(rule.id, rule.version, dry_run=dry_run, prices=reading.prices, ask_scanner=ask_scanner)
    unit.emit(
        *(
            UserFlagged(
                case_id=case_id,
                seat=seat.seat,
                approver=seat.approver,
                policy=policy,
                findings=seat.findings,
                last_used_at=seat.last_used_at,
                flagged_at=unit.now,
                run_id=run_id,
                seats_total=reading.tally.by_product[seat.seat.product],
            )
            for case_id, seat in free.items()
            if case_id in opened
        )
    )
    # What was heard while the seats were read found no case to take back: these are looked at once more.
    await usage_store.tell_news(unit.db, {free[case_id].seat.product for case_id in opened}, unit.now)
    return len(opened)


def must_be_active(rule: Rule) -> None:
    """Refuse to open cases by a rule that is not active; Stopped, saying what to do."""
    if rule.status != "active":
        raise Stopped(f"The rule is {rule.status.replace('_', ' ')}.", "Activate it and start the scan again.")


def must_be_unchanged(read: Rule, present: Rule) -> None:
    """Refuse to open cases by what a rule said when it was read, if it says something else now; Stopped."""
    must_be_active(present)
    if present.version != read.version:
        raise Stopped("The rule was edited while the scan was under way.", "Start the scan again.")
