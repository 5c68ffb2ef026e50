"""What the lifecycle does by itself, as time goes by."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Final, cast

from reclaim.common.db import Database
from reclaim.common.errors import Transient
from reclaim.common.timing import wall_milliseconds
from reclaim.lifecycle import store, uptime_store
from reclaim.lifecycle.domain import TIMED, Case, Command, DeadlinePassed, GraceOver, Timer, TimerName
from reclaim.lifecycle.submit import Submission, submit
from reclaim.lifecycle.uptime import Uptime, answered_on_pages

log = logging.getLogger(__name__)

AT_ONCE: Final = 200

LOOK_AGAIN: Final = timedelta(minutes=1)
"""After how long a wait is looked at again that cannot end while nothing is heard of the pages to answer on."""


class Heard:
    """Until when everything that was sent here has been heard; a decision from before then waits in no queue.

    `catch_up` is the runtime's.
    """

    def __init__(self, catch_up: Callable[[], Awaitable[None]]) -> None:
        self._catch_up = catch_up
        self.until = datetime(1970, 1, 1, tzinfo=UTC)

    async def listen(self, now: datetime) -> bool:
        """Hear what was sent before `now`, which has passed; return whether that came about."""
        try:
            await self._catch_up()
        except Transient as error:
            log.warning("timers wait until what was sent here is read: %s", error)
            return False
        self.until = now
        return True


async def fire_timers(database: Database, heard: Heard) -> bool:
    """Give the commands whose time has come. Taking a timer out and its effect are one transaction: it fires once.

    None fires before everything was heard that was sent by its time: after an outage a decision may wait in the queue
    that was made in time. A case leaves its timer behind when it leaves the state that the timer ends; such a one is
    only taken out.

    What can be answered on the pages of approvals does not end while these are not heard of: once they are, it is known
    for how long they were down, and that is added to the wait.
    """
    async with database.unit() as unit:
        # A clock that was set back must not make an hour count as heard which is still to come.
        heard.until = min(heard.until, unit.now)
        passed = await store.due_timers(unit.db, unit.now, most=AT_ONCE)
        due = [case_id for case_id, at in passed if at <= heard.until]
        # The case is locked before its timers, as everybody does it.
        cases = await store.load(unit.db, due)
        taken = await store.take_timers(unit.db, cases, heard.until)
        over = [(cases[case_id], command) for case_id, command in taken if cases[case_id].state in TIMED[command]]
        uptime = await uptime_store.uptime(unit.db) if over else Uptime()
        known = uptime.known(wall_milliseconds())
        put_off = [(case.id, command) for case, command in over if not known and answered_on_pages(case)]
        later = unit.now + LOOK_AGAIN
        await store.set_timers(unit.db, [(case_id, Timer(cast("TimerName", name), later)) for case_id, name in put_off])
        await submit(
            unit,
            [
                Submission(case.id, _command(command, case, uptime, unit.now), channel="timer")
                for case, command in over
                if (case.id, command) not in put_off
            ],
        )
    if passed and not due:
        return await heard.listen(unit.now) and await fire_timers(database, heard)
    return bool(due)


def _command(timer: str, case: Case, uptime: Uptime, now: datetime) -> Command:
    began = case.notified_at if timer == "deadline" else case.frozen_at
    down = uptime.missed(began, now) if began is not None and answered_on_pages(case) else timedelta()
    return DeadlinePassed(down) if timer == "deadline" else GraceOver(down)


async def erase_personal(database: Database, keep_days: int) -> bool:
    """Erase the IP addresses and user agents of old decisions; the audit chain stays valid."""
    async with database.unit() as unit:
        await store.erase_personal(unit.db, unit.now - timedelta(days=keep_days))
    return False
