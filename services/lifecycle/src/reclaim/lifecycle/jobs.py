"""What the lifecycle does by itself, as time goes by."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from reclaim.common.db import Database
from reclaim.lifecycle import store
from reclaim.lifecycle.domain import TIMED, Command, DeadlinePassed, GraceOver
from reclaim.lifecycle.submit import Submission, submit

AT_ONCE: Final = 200

COMMANDS: Final[dict[str, Command]] = {"deadline": DeadlinePassed(), "grace": GraceOver()}


async def fire_timers(database: Database) -> bool:
    """Give the commands whose time has come. Taking a timer out and its effect are one transaction: it fires once.

    A case leaves its timer behind when it leaves the state that the timer ends; such a one is only taken out.
    """
    async with database.unit() as unit:
        due = await store.due_cases(unit.db, unit.now, most=AT_ONCE)
        # The case is locked before its timers, as everybody does it.
        cases = await store.load(unit.db, due)
        taken = await store.take_timers(unit.db, cases, unit.now)
        await submit(
            unit,
            [
                Submission(case_id, COMMANDS[command], channel="timer")
                for case_id, command in taken
                if cases[case_id].state in TIMED[command]
            ],
        )
    return bool(due)


async def erase_personal(database: Database, keep_days: int) -> bool:
    """Erase the IP addresses and user agents of old decisions; the audit chain stays valid."""
    async with database.unit() as unit:
        await store.erase_personal(unit.db, unit.now - timedelta(days=keep_days))
    return False
