"""A case's history as a person reads it: who did what, when, over which channel, on what evidence."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from reclaim.common.contracts import USE
from reclaim.common.timing import wall_milliseconds
from reclaim.lifecycle.console_store import Step
from reclaim.lifecycle.domain import TIMED, Case, State
from reclaim.lifecycle.store import Moment
from reclaim.web.formatting import sentence
from reclaim.web.pages import TimelineEntry

TONES: Final[dict[str, str]] = {
    State.FROZEN: "notice",
    State.ATTENTION: "bad",
    State.KEPT: "good",
    State.RESTORED: "good",
    State.RECLAIMED: "good",
    State.REACTIVATED: "good",
}

ERASED: Final = "Address and browser were recorded and have been erased."
HIDDEN: Final = "Address and browser are recorded; administrators see them."


def entry_of(moment: Moment, *, personal: bool) -> TimelineEntry:
    """Return an audit entry as a step of the timeline; `personal` if the reader may see address and browser."""
    entry = moment.link.entry
    if entry.accepted:
        title, tone = entry.note, TONES.get(entry.after, "neutral")
    else:
        # A timer or an answer that came too late is no fault of anybody's.
        title, tone = f"Not done: {entry.note}", "neutral"
    moved = entry.before != entry.after
    detail = readable(entry.evidence)
    return TimelineEntry(
        at=entry.at,
        title=sentence(title).removesuffix("."),
        actor=f"{entry.actor} · {entry.channel}",
        # Some steps have nothing to show but what they say.
        detail=detail if detail not in {"", entry.note} else None,
        tone=tone,
        change=(entry.before, entry.after) if moved else None,
        quiet=not entry.accepted,
        private=_private(moment, personal=personal),
    )


def _private(moment: Moment, *, personal: bool) -> str | None:
    if moment.link.entry.personal is None:
        return None
    if moment.ip is None and moment.user_agent is None:
        return ERASED
    if not personal:
        return HIDDEN
    return f"From {moment.ip or 'an unknown address'}, with {moment.user_agent or 'an unknown browser'}."


@dataclass(frozen=True, slots=True)
class Ahead:
    """Something that is still to come. `at` is when, in the time that the pages speak of; None for at once."""

    what: str
    at: datetime | None
    attempts: int = 0
    reason: str = ""


def ahead(case: Case, steps: list[Step], timers: dict[str, datetime], now: datetime) -> list[Ahead]:
    """Return what a case waits for, the next first: steps with their next attempt, then deadlines."""
    wall = wall_milliseconds()
    found = []
    for step in steps:
        # Steps are due by the wall clock, which does not move with a demo's.
        wait = timedelta(milliseconds=step.due - wall)
        at = now + wait if wait > timedelta() else None
        found.append(Ahead(STEPS.get(step.kind, step.kind.replace("_", " ")), at, step.attempts, step.reason))
    deadlines = [
        Ahead(
            {
                "deadline": f"No answer by then means: {case.policy.on_timeout}",
                "grace": "Grace ends; the seat is checked again and reclaimed",
            }.get(command, command),
            at,
        )
        for command, at in sorted(timers.items(), key=lambda timer: timer[1])
        # What a timer would end may be over already; then it means nothing any more.
        if case.state in TIMED.get(command, {case.state})
    ]
    return [*found, *deadlines]


STEPS: Final[dict[str, str]] = {
    "check": "Run the safety checks again",
    "freeze": "Freeze the account",
    "unfreeze": "Unfreeze the account",
    "hand_over": "Hand over open records",
    "deactivate": "Deactivate the account",
    "reactivate": "Reactivate the account",
}


def readable(evidence: str) -> str:
    """Return evidence as a person reads it: a document becomes sentences, of the checks only what stood out."""
    try:
        document = json.loads(evidence)
    except ValueError:
        return evidence
    if not isinstance(document, dict):
        return evidence
    parts = []
    for name, value in document.items():
        if name == "findings":
            checks = [one for one in value if one["check"] != USE]
            noticed = [one for one in checks if one["outcome"] != "pass"]
            parts.append(f"{len(checks) - len(noticed)} safety checks passed")
            parts.extend(f"use: {one['evidence']}" for one in value if one["check"] == USE)
            parts.extend(f"{one['check'].replace('_', ' ')}: {one['evidence']}" for one in noticed)
        elif value not in (None, {}, [], ""):
            parts.append(f"{name.replace('_', ' ')}: {_plain(value)}")
    return "; ".join(parts)


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_plain(one)}" for name, one in value.items())
    if isinstance(value, list):
        return ", ".join(_plain(one) for one in value)
    return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)
