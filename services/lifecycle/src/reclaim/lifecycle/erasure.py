"""Erasing one person's address and browser from the audit trail, on request, without breaking it."""

from __future__ import annotations

from reclaim.common.db import Database
from reclaim.lifecycle import audit_store
from reclaim.lifecycle.audit import Entry
from reclaim.lifecycle.submit import record


async def erase(database: Database, actor: str, *, by: str, reason: str) -> int:
    """Erase the personal data of everything that `actor` did, and record that it was; return how many entries had any.

    What is recorded names the person and not the data. The chain holds digests only, and stays valid.
    """
    async with database.unit() as unit:
        erased = await audit_store.erase_personal_of(unit.db, actor)
        entry = Entry(
            case_id="",
            version=0,
            at=unit.now,
            actor=by,
            channel="console",
            command="erase_personal",
            accepted=True,
            before="",
            after="",
            note=f"address and browser of {actor} erased from {erased} {'entry' if erased == 1 else 'entries'}",
            evidence=reason,
        )
        record(unit, [(entry, None)])
    return erased
