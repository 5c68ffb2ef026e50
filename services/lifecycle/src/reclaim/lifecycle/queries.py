"""What the API and the pages show, read in one place so that both show the same."""

from __future__ import annotations

from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from reclaim.common.errors import NotFound
from reclaim.lifecycle import store
from reclaim.lifecycle.domain import Case, State

_TAKEN_BACK = (State.KEPT.value, State.RESTORING.value)
_FREED = ("seat_deactivated", "seat_downgraded", "fulfilled")
_UNDECIDED = {State.FLAGGED.value, State.AWAITING_DECISION.value, State.ATTENTION.value}


async def find(db: AsyncConnection, case_id: str) -> Case:
    """Return a case.

    Raises:
        NotFound: there is none of that id.
    """
    case = await store.find(db, case_id)
    if case is None:
        raise NotFound(f"There is no case {case_id}. Look it up in the list of cases.")
    return case


async def summary(db: AsyncConnection) -> dict[str, Any]:
    """Return how many cases took which way, counted from the audit trail."""
    moves = await store.count_commands(db)
    position, _head = await store.audit_head(db)

    def count(command: str, before: set[str] | None = None, after: set[str] | None = None) -> int:
        return sum(
            number
            for (name, was, became), number in moves.items()
            if name == command and (before is None or was in before) and (after is None or became in after)
        )

    timed_out = {State.CHECKING_BEFORE_FREEZE.value, State.KEPT.value}
    return {
        "cases": await store.count_by_state(db),
        "decided": {
            "keep": count("decide_keep", before=_UNDECIDED, after={State.KEPT.value}),
            "revoke": count("decide_revoke"),
            "timeout": count("deadline_passed", after=timed_out),
        },
        "frozen": count("seat_frozen"),
        "appealed": sum(
            number
            for (name, was, _became), number in moves.items()
            if name == "decide_keep"
            and was not in {State.FLAGGED.value, State.AWAITING_DECISION.value}
            and not (was == State.ATTENTION.value and _became == State.KEPT.value)
        ),
        "restored": count("seat_unfrozen"),
        "downgraded": count("seat_downgraded"),
        "reclaimed": sum(map(count, _FREED)) + count("seat_checked", after={State.RECLAIMED.value}),
        "reactivated": count("seat_given_back") + count("reactivate", after={State.REACTIVATED.value}),
        "records_transferred": await store.sum_records(db),
        "outstanding_effects": await store.count_effects(db),
        "audit_entries": position,
    }
