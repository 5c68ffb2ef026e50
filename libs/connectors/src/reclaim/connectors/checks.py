"""The ten safety checks, and whether a seat is unused: pure functions over what a connector read.

Nothing here reads a clock, a network or a database. Data that could not be read, or that is too old, makes a check
`unknown`; an unknown check never lets a seat through, whatever a rule says.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from typing import Any, Final

from reclaim.common.contracts import CheckFinding
from reclaim.connectors.ports import Reading, SeatRecord, Survey, Unknown

YOUNG_DAYS: Final = 30
"""An account is left alone for so many days after it was created or thawed, unless the caller says otherwise."""

FRESH_FOR: Final = timedelta(hours=6)
"""A survey older than this proves nothing about the present."""


OUT_OF_SIGHT: Final = "the account went out of sight while it was being read"


@dataclass(frozen=True, slots=True)
class Check:
    """One safety check as a page shows it; `may_warn` tells whether a rule can make it warn instead of skip."""

    order: int
    name: str
    description: str
    may_warn: bool


CHECKS: Final[tuple[Check, ...]] = (
    Check(1, "new_account", "The account is new, or was given back to its holder a short while ago.", may_warn=False),
    Check(2, "active_elsewhere", "The holder works through an app, an API or single sign-on.", may_warn=False),
    Check(3, "integration_user", "The account belongs to a program, not to a person.", may_warn=False),
    Check(4, "administrator", "The holder administers the system, or Reclaim signs in as this user.", may_warn=False),
    Check(5, "exempt", "The holder is exempt: on leave, on legal hold, or to be left alone.", may_warn=False),
    Check(6, "already_frozen", "The seat is frozen already, is in an open case, or was kept recently.", may_warn=False),
    Check(7, "scheduled_jobs", "Jobs or dashboards run as this holder and would stop.", may_warn=True),
    Check(8, "pending_approvals", "Approvals wait for the holder, or are delegated to the holder.", may_warn=True),
    Check(9, "queue_member", "The holder takes work from a queue, and that work would wait unseen.", may_warn=True),
    Check(10, "no_successor", "The holder has open business, and there is no manager to take it over.", may_warn=True),
)  # fmt: skip

CHECK_NAMES: Final = tuple(check.name for check in CHECKS)
WARNABLE: Final = frozenset(check.name for check in CHECKS if check.may_warn)
"""The checks that `Policy.warn_only` may name; naming another changes nothing."""

_PASSED: Final = {
    "new_account": "neither created nor thawed recently",
    "active_elsewhere": "no use through other channels",
    "integration_user": "a person's account",
    "administrator": "no administrator's rights",
    "exempt": "not exempt",
    "already_frozen": "not frozen, no open case, no recent keep",
    "scheduled_jobs": "no jobs or dashboards run as this user",
    "pending_approvals": "no approvals wait for this user",
    "queue_member": "in no queue",
    "no_successor": "no open business, or somebody who can take it over",
}
_PASS: Final = {name: CheckFinding(check=name, outcome="pass", evidence=evidence) for name, evidence in _PASSED.items()}


def is_unused(seat: SeatRecord, *, inactive_days: int, now: datetime) -> bool:
    """Tell whether an active seat was last used before the window `[now - inactive_days * 24 h, now)`.

    For a seat that was never used the clock starts when the account was created. A use, or a creation, exactly at
    the start of the window lies within it. Only the system's own sign-in counts here; other channels are a check.
    """
    if inactive_days <= 0:
        raise ValueError(f"inactive_days must be at least 1, not {inactive_days}")
    latest = seat.created_at if seat.last_used_at is None else seat.last_used_at
    return seat.active and latest < now - timedelta(days=inactive_days)


def evaluate(
    seat: SeatRecord,
    survey: Survey,
    *,
    now: datetime,
    inactive_days: int,
    warn_only: Collection[str] = (),
    young_days: int = YOUNG_DAYS,
    frozen_by_us: Collection[str] = (),
    held: Mapping[str, str] | None = None,
    excluded: str | None = None,
    successor: str | None = None,
    fresh_for: timedelta = FRESH_FOR,
    proven_unused: str | None = None,
) -> tuple[CheckFinding, ...]:
    """Run the ten checks on one seat; the result has one finding a check, in their order.

    Args:
        seat: The seat as the connector reported it.
        survey: What the checks read, covering at least `inactive_days` of use elsewhere.
        now: The instant to judge by, timezone-aware.
        inactive_days: The rule's window: use elsewhere counts when it lies within it.
        warn_only: The checks that the rule lets warn instead of skip; only those in `WARNABLE` heed it.
        young_days: For how many days after its creation, or its last thaw, an account is new.
        frozen_by_us: Holders that a case of ours froze. They do not trip `already_frozen`, and the freeze does not
            make the account young; a freeze of ours that somebody else undid does.
        held: What keeps a holder from being flagged in our own records (an open case, a recent keep), by holder id,
            as evidence to show.
        excluded: Why our own records exempt this seat, as evidence to show; None if they do not.
        successor: Who takes open business over in the manager's place, if the rule names somebody.
        fresh_for: How old the survey may be.
        proven_unused: What sources of use prove, over every channel that the check is about, as evidence to show. It
            answers `active_elsewhere` where the system keeps nothing that could; a reading that failed stays unknown,
            and what the system did see goes before it.
    """
    holder = seat.holder.id
    age = now - survey.taken_at
    if abs(age) > fresh_for:
        survey = _nothing(
            survey, f"the data was read at {_stamp(survey.taken_at)}, too far from {_stamp(now)}: read it again"
        )
    elif survey.misses(holder):
        survey = _nothing(survey, OUT_OF_SIGHT)
    return (
        _new_account(seat, survey, now - timedelta(days=young_days), frozen_by_us),
        _active_elsewhere(holder, survey, now - timedelta(days=inactive_days), proven_unused),
        _integration_user(seat, survey),
        _named("administrator", holder, survey.administrators),
        _named("exempt", holder, survey.exempt) if excluded is None else _skip("exempt", excluded),
        _already_frozen(holder, survey, frozen_by_us, held),
        _named("scheduled_jobs", holder, survey.scheduled_work, warn_only),
        _named("pending_approvals", holder, survey.pending_approvals, warn_only),
        _named("queue_member", holder, survey.queues, warn_only),
        _no_successor(seat, survey, warn_only, successor),
    )


def _nothing(survey: Survey, reason: str) -> Survey:
    """Return a survey of which no part tells anything, for one reason."""
    parts: dict[str, Any] = {
        part.name: Unknown(reason) for part in fields(survey) if part.name not in ("taken_at", "seen")
    }
    return replace(survey, **parts)


def clears(findings: Iterable[CheckFinding]) -> bool:
    """Tell whether the seat may go on: every check was made, and none skips or is unknown.

    A warning lets it go on. Fewer findings than checks do not: a check that was not made has not passed.
    """
    seen = {finding.check: finding.outcome for finding in findings}
    return all(seen.get(name) in ("pass", "warn") for name in CHECK_NAMES)


def left_alone_by(findings: Iterable[CheckFinding]) -> str | None:
    """Return the first check, in the checks' order, that skips, is unknown or was not made; None if the seat clears."""
    seen = {finding.check: finding.outcome for finding in findings}
    return next((name for name in CHECK_NAMES if seen.get(name) not in ("pass", "warn")), None)


def _new_account(seat: SeatRecord, survey: Survey, cutoff: datetime, frozen_by_us: Collection[str]) -> CheckFinding:
    if seat.created_at >= cutoff:
        return _skip("new_account", f"created {_stamp(seat.created_at)}")
    holder = seat.holder.id
    if isinstance(survey.thawed_at, Unknown):
        return _unknown("new_account", survey.thawed_at)
    thawed = survey.thawed_at.value.get(holder)
    if thawed is None or thawed < cutoff:
        return _PASS["new_account"]
    if holder in frozen_by_us:
        if isinstance(survey.frozen, Unknown):
            return _unknown("new_account", survey.frozen)
        if holder in survey.frozen.value:
            return _PASS["new_account"]
    return _skip("new_account", f"an administrator changed it, its freeze or its lock {_stamp(thawed)}")


def _active_elsewhere(holder: str, survey: Survey, cutoff: datetime, proven_unused: str | None) -> CheckFinding:
    if isinstance(survey.last_seen_elsewhere, Unknown):
        if proven_unused is not None and not survey.last_seen_elsewhere.kept:
            return CheckFinding(check="active_elsewhere", outcome="pass", evidence=proven_unused)
        return _unknown("active_elsewhere", survey.last_seen_elsewhere)
    seen = survey.last_seen_elsewhere.value.get(holder)
    if seen is None or seen < cutoff:
        return _PASS["active_elsewhere"]
    return _skip("active_elsewhere", f"used through an app, an API or single sign-on {_stamp(seen)}")


def _integration_user(seat: SeatRecord, survey: Survey) -> CheckFinding:
    if seat.usage_type != "Standard":
        return _skip("integration_user", f"an account of the kind {seat.usage_type}")
    return _named("integration_user", seat.holder.id, survey.integration_users)


def _already_frozen(
    holder: str, survey: Survey, frozen_by_us: Collection[str], held: Mapping[str, str] | None
) -> CheckFinding:
    evidence = None if held is None else held.get(holder)
    if evidence is not None:
        return _skip("already_frozen", evidence)
    if isinstance(survey.frozen, Unknown):
        return _unknown("already_frozen", survey.frozen)
    if holder in survey.frozen.value and holder not in frozen_by_us:
        return _skip("already_frozen", "frozen by somebody else")
    return _PASS["already_frozen"]


def _no_successor(seat: SeatRecord, survey: Survey, warn_only: Collection[str], successor: str | None) -> CheckFinding:
    if isinstance(survey.open_business, Unknown):
        return _unknown("no_successor", survey.open_business)
    count = survey.open_business.value.get(seat.holder.id, 0)
    if count <= 0 or successor not in (None, seat.holder.id):
        return _PASS["no_successor"]
    if seat.manager is None:
        why = "no manager is set"
    elif seat.manager.person.id == seat.holder.id:
        why = "the manager is the holder"
    elif not seat.manager.able:
        why = f"the manager, {seat.manager.person.name}, is inactive or frozen"
    else:
        return _PASS["no_successor"]
    return _leave("no_successor", f"{count} open record{'s' if count > 1 else ''}, and {why}", warn_only)


def _named(
    check: str, holder: str, reading: Reading[Mapping[str, str]], warn_only: Collection[str] = ()
) -> CheckFinding:
    if isinstance(reading, Unknown):
        return _unknown(check, reading)
    evidence = reading.value.get(holder)
    return _PASS[check] if evidence is None else _leave(check, evidence, warn_only)


def _leave(check: str, evidence: str, warn_only: Collection[str]) -> CheckFinding:
    if check in warn_only and check in WARNABLE:
        return CheckFinding(check=check, outcome="warn", evidence=evidence)
    return _skip(check, evidence)


def _skip(check: str, evidence: str) -> CheckFinding:
    return CheckFinding(check=check, outcome="skip", evidence=evidence)


def _unknown(check: str, reading: Unknown) -> CheckFinding:
    return CheckFinding(check=check, outcome="unknown", evidence=reading.reason)


_stamp: Callable[[datetime], str] = "{:%Y-%m-%d %H:%M} UTC".format
