"""One decision for many cases: what would happen to each, and then that it happens, once.

What is shown before is found by the same pure decision that is made afterwards. A batch has an id which its
confirmation was given: however often it arrives, it is carried out once, and its results are kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from reclaim.common.db import Database
from reclaim.common.errors import Invalid, NotFound
from reclaim.lifecycle import console_store, store
from reclaim.lifecycle.console_store import Batch
from reclaim.lifecycle.domain import Accepted, Case, Command, Decide, Retry, Verdict, decide
from reclaim.lifecycle.submit import Submission, submit
from reclaim.web.formatting import sentence

Action = Literal["keep", "retry", "revoke"]

MOST: Final = 500
"""Cases of one batch: what a person can still answer for, and one short transaction."""

KEPT: Final = timedelta(days=30)
"""How long it is remembered that a batch was carried out; a form is good for as long as a session, half a day."""

WORDS: Final[dict[Action, str]] = {"keep": "Keep the seats", "retry": "Try again", "revoke": "Revoke the seats"}

UNKNOWN: Final = "There is no such case."


def command_of(action: Action, operator: str, reason: str, now: datetime) -> Command:
    """Return the command that an action gives to each case."""
    return Retry(operator) if action == "retry" else Decide(action, operator, "console", reason, now)


def checked(case_ids: Sequence[str]) -> list[str]:
    """Return the ids without repetitions, in their order.

    Raises:
        Invalid: there is none, or there are more than one batch may have.
    """
    ids = list(dict.fromkeys(case_ids))
    if not ids:
        raise Invalid("No case is selected. Tick some in the list and try again.", field="case")
    if len(ids) > MOST:
        raise Invalid(f"{len(ids)} cases are selected; {MOST} are the most at once.", field="case")
    return ids


@dataclass(frozen=True, slots=True)
class Group:
    """Cases that would meet the same end. `after` is None where the command would be refused for `reason`."""

    before: str
    after: str | None
    reason: str
    holders: tuple[str, ...]

    @property
    def count(self) -> int:
        return len(self.holders)


@dataclass(frozen=True, slots=True)
class Preview:
    """What a batch would do, the larger groups first. `live` counts the cases that are no dry run."""

    groups: list[Group]
    accepted: int
    refused: int
    live: int


async def preview(database: Database, action: Action, case_ids: Sequence[str], operator: str) -> Preview:
    """Say what an action would do to cases as they are now. Nothing is changed or locked."""
    async with database.reading() as db:
        cases = await console_store.cases(db, case_ids)
    command = command_of(action, operator, "", database.clock.now())
    found: dict[tuple[str, str | None, str], list[str]] = {}
    live = 0
    for case_id in case_ids:
        case = cases.get(case_id)
        if case is None:
            found.setdefault(("", None, UNKNOWN), []).append(case_id)
            continue
        verdict = decide(case, command, database.clock.now())
        key: tuple[str, str | None, str]
        if isinstance(verdict, Accepted):
            live += not case.policy.dry_run
            key = (case.state.value, verdict.case.state.value, "")
        else:
            key = ("", None, sentence(verdict.reason))
        found.setdefault(key, []).append(case.seat.holder.name)
    groups = [Group(*key, tuple(holders)) for key, holders in found.items()]
    groups.sort(key=lambda group: (group.after is None, -group.count))
    accepted = sum(group.count for group in groups if group.after is not None)
    return Preview(groups, accepted, len(case_ids) - accepted, live)


async def carry_out(
    database: Database, batch_id: str, action: Action, case_ids: Sequence[str], operator: str, reason: str
) -> Batch:
    """Give an action to cases, all in one transaction, and return what became of each. Refusals are recorded as well.

    A batch of this id that was carried out before is returned as it was, and nothing is done.
    """
    async with database.unit() as unit:
        fresh = Batch(batch_id, unit.now, operator, action, reason, [])
        if not await console_store.begin_batch(unit.db, fresh):
            return await find(database, batch_id)
        cases = await store.load(unit.db, case_ids)
        known = [case_id for case_id in case_ids if case_id in cases]
        command = command_of(action, operator, reason, unit.now)
        verdicts = await submit(
            unit,
            [Submission(case_id, command, actor=operator, channel="console", evidence=reason) for case_id in known],
        )
        by_case = dict(zip(known, verdicts, strict=True))
        results = [_result(case_id, cases.get(case_id), by_case.get(case_id)) for case_id in case_ids]
        await console_store.finish_batch(unit.db, batch_id, results)
    return Batch(batch_id, fresh.at, operator, action, reason, results)


async def find(database: Database, batch_id: str) -> Batch:
    """Return a batch that was carried out.

    Raises:
        NotFound: there is none of that id.
    """
    async with database.reading() as db:
        found = await console_store.batch(db, batch_id)
    if found is None:
        raise NotFound("There is no such batch. Select the cases in the list again.")
    return found


async def forget(database: Database) -> bool:
    """Remove the results of old batches; what became of each case is in the audit trail."""
    async with database.unit() as unit:
        await console_store.forget_batches(unit.db, unit.now - KEPT)
    return False


def counts(batch: Batch) -> Counter[str]:
    """Return how many cases of a batch were `accepted` and `refused`."""
    return Counter("accepted" if result["accepted"] else "refused" for result in batch.results)


def _result(case_id: str, case: Case | None, verdict: Verdict | None) -> dict[str, Any]:
    result: dict[str, Any] = {"case_id": case_id, "holder": case.seat.holder.name if case is not None else case_id}
    match verdict:
        case None:
            return result | {"accepted": False, "state": "", "note": UNKNOWN}
        case Accepted():
            return result | {"accepted": True, "state": verdict.case.state.value, "note": sentence(verdict.note)}
        case _:
            assert case is not None
            return result | {"accepted": False, "state": case.state.value, "note": sentence(verdict.reason)}
