"""Taking open cases back: the lifecycle restores what was frozen and closes them; until it has, they stay open here."""

from __future__ import annotations

from collections.abc import Iterable

from reclaim.common.contracts import CaseWithdrawn, Withdrawal
from reclaim.common.db import Unit


def withdraw(unit: Unit, cases: Iterable[tuple[str, str]], *, kind: Withdrawal, actor: str) -> int:
    """Say that cases are taken back, each with its reason: (case id, reason). Return how many.

    A case that has gone too far is not taken back, and the lifecycle records that: a second withdrawal does no harm.
    """
    events = [
        CaseWithdrawn(case_id=case_id, kind=kind, reason=reason, actor=actor, withdrawn_at=unit.now)
        for case_id, reason in cases
    ]
    unit.emit(*events)
    return len(events)
