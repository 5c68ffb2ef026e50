"""The one way a case changes: load, decide purely, save the outcome and its audit entry in the same transaction."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

import msgspec

from reclaim.common.db import Unit
from reclaim.common.errors import NotYet
from reclaim.lifecycle import store
from reclaim.lifecycle.audit import Entry, Personal
from reclaim.lifecycle.domain import Accepted, Case, Command, Decide, Timer, Verdict, decide

SYSTEM = "reclaim"
"""The actor of what no person did."""


class Submission(msgspec.Struct, frozen=True):
    """A command for a case, with who is behind it. `evidence` is what the record keeps to show it was right."""

    case_id: str
    command: Command
    actor: str = SYSTEM
    channel: str = "lifecycle"
    evidence: str = ""
    personal: Personal | None = None


def command_name(command: Command) -> str:
    """Return a command's name in the audit trail; a decision's says which."""
    name = _snake_case(type(command).__name__)
    return f"{name}_{command.decision}" if isinstance(command, Decide) else name


@cache
def _snake_case(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


async def submit(unit: Unit, submissions: Sequence[Submission]) -> list[Verdict]:
    """Give commands to their cases, in order, and return what became of each. Refusals are recorded as well.

    Raises:
        NotYet: a case is not known here (yet).
    """
    cases = await store.load(unit.db, {submission.case_id for submission in submissions})
    changed: dict[str, Case] = {}
    effects: dict[str, Accepted] = {}
    timers: list[tuple[str, Timer]] = []
    entries: list[tuple[Entry, Personal | None]] = []
    verdicts: list[Verdict] = []
    for submission in submissions:
        case = cases.get(submission.case_id)
        if case is None:
            raise NotYet(f"case {submission.case_id} is not open here yet")
        verdict = decide(case, submission.command, unit.now)
        verdicts.append(verdict)
        after = case
        if isinstance(verdict, Accepted):
            after = cases[case.id] = changed[case.id] = verdict.case
            unit.emit(*verdict.events)
            if verdict.timer is not None:
                timers.append((case.id, verdict.timer))
            if after.state is not case.state or verdict.effect is not None:
                # The effect of a state that the case has left in the same transaction is void.
                effects[case.id] = verdict
        entries.append((_entry(submission, case, after, verdict, unit), submission.personal))
    await store.update(unit.db, list(changed.values()), unit.now)
    await store.set_timers(unit.db, timers)
    wanted = [(verdict.case, verdict.effect) for verdict in effects.values() if verdict.effect is not None]
    await store.add_effects(unit.db, [(cases[case.id], effect) for case, effect in wanted])
    if wanted:
        unit.wake("act")
    if timers:
        unit.wake("timers")
    record(unit, entries)
    return verdicts


def record(unit: Unit, entries: Sequence[tuple[Entry, Personal | None]]) -> None:
    """Append to the audit trail, as the last thing the unit does: the head of the chain is everybody's to lock."""

    async def append() -> None:
        await store.append_audit(unit.db, entries, unit.now)

    unit.at_end(append)


def _entry(submission: Submission, before: Case, after: Case, verdict: Verdict, unit: Unit) -> Entry:
    return Entry(
        case_id=before.id,
        version=after.version,
        at=unit.now,
        actor=submission.actor,
        channel=submission.channel,
        command=command_name(submission.command),
        accepted=isinstance(verdict, Accepted),
        before=before.state.value,
        after=after.state.value,
        note=verdict.note if isinstance(verdict, Accepted) else verdict.reason,
        evidence=submission.evidence,
        personal=submission.personal.digest() if submission.personal is not None else None,
    )
