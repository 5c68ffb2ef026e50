"""What may be taken away now, purely: caps, canaries and the kill switch decide before anything is done.

A *step* is a freeze or a reclaim (handing over and deactivating are one). Each case needs one *permit* a step, and
`reserve` says who gets one from what has been taken so far. It is given the counts of one connection, dry and live
cases apart, by a caller who holds the connection's row locked, so that nobody else is counting at the same time.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Final, Literal

from reclaim.lifecycle.domain import Case, Effect

Step = Literal["freeze", "reclaim"]
Cap = Literal["run", "day", "month", "canary"]
Scope = Literal["global", "connection", "rule"]

STEPS: Final[tuple[Step, ...]] = ("freeze", "reclaim")

STEP_OF: Final[Mapping[Effect, Step]] = {
    Effect.FREEZE: "freeze",
    Effect.HAND_OVER: "reclaim",
    Effect.DEACTIVATE: "reclaim",
    Effect.DOWNGRADE: "reclaim",
}
"""The effects that take something away, and need a permit. Giving back never does."""

WINDOWS: Final[Mapping[Cap, timedelta]] = {"day": timedelta(hours=24), "month": timedelta(days=30)}

PERMIT_HOLDS: Final = timedelta(days=1)
"""How long after the latest attempt a permit serves for another one at its step; an older one is reserved anew."""

NAMES: Final[Mapping[Cap, str]] = {"run": "one scan run", "day": "24 hours", "month": "30 days"}


ROOM_AGAIN: Final = " There is room again, but a tripped brake does not clear itself."

REMEDY: Final = (
    "On the page Brakes, have the held cases tried again within the limits, or ask for an override of this batch, "
    "which another operator has to approve."
)


@dataclass(frozen=True, slots=True)
class Limits:
    """The most freezes, and as many reclaims: in number, and in per cent of the connection's seats.

    The smaller of both holds. `canary` is how many seats a new version of a rule freezes before a person confirms it.
    """

    run_most: int = 25
    run_share: int = 5
    day_most: int = 25
    day_share: int = 5
    month_most: int = 100
    month_share: int = 15
    canary: int = 5

    def of(self, cap: Cap) -> tuple[int, int]:
        """Return the number and the share of a cap."""
        most: int = getattr(self, f"{cap}_most")
        share: int = getattr(self, f"{cap}_share")
        return most, share

    def allowed(self, cap: Cap, seats: int | None) -> int:
        """Return how many steps a cap allows on a connection of so many seats.

        A share never rounds down to none: a small org would otherwise stand still. Where the seats are not known yet,
        the number holds alone.
        """
        most, share = self.of(cap)
        return most if seats is None else min(most, max(1, seats * share // 100))


@dataclass(frozen=True, slots=True)
class Request:
    """A case that wants to take a step."""

    case_id: str
    step: Step
    run_id: str | None
    rule_id: str
    rule_version: int
    dry_run: bool
    most_a_day: int | None = None
    most_a_month: int | None = None

    def own_cap(self, cap: Cap) -> int | None:
        """Return how many steps its rule takes at most in a window; None if the rule says nothing of it."""
        return {"day": self.most_a_day, "month": self.most_a_month}.get(cap)

    @property
    def rule(self) -> str:
        """Return the name that a canary of this rule and version has as a scope."""
        return f"{self.rule_id}/{self.rule_version}"


@dataclass(frozen=True, slots=True)
class Canary:
    """The first live batch of a rule's version: how many it has frozen, of how many, and whether it may go on."""

    frozen: int
    size: int
    confirmed: bool


Tripped = tuple[Cap, Step, str]
"""A brake as it trips: which cap, for which step, and the run or rule that it is about (empty: the connection)."""


@dataclass(slots=True)
class Ledger:
    """What one connection has taken so far, dry or live.

    `runs` counts permits by (step, run), `windows` by (cap, step), `rules` by (cap, step, rule); `open` are the brakes
    that tripped and were not dealt with; `permits` are the (case, step) that need none any more. `overridden`: what
    rules say of themselves does not hold either.
    """

    limits: Limits
    seats: int | None
    runs: Counter[tuple[Step, str]] = field(default_factory=Counter)
    windows: Counter[tuple[Cap, Step]] = field(default_factory=Counter)
    rules: Counter[Tripped] = field(default_factory=Counter)
    canaries: dict[str, Canary] = field(default_factory=dict)
    open: frozenset[Tripped] = frozenset()
    permits: frozenset[tuple[str, Step]] = frozenset()
    overridden: bool = False


@dataclass(frozen=True, slots=True)
class Permit:
    """The step may be taken. `new`: it is to be stored, and counted from now on."""

    request: Request
    new: bool


@dataclass(frozen=True, slots=True)
class Stop:
    """The step may not be taken: `used` of `allowed` were taken."""

    request: Request
    cap: Cap
    scope: str
    used: int
    allowed: int
    reason: str
    remedy: str

    @property
    def tripped(self) -> Tripped:
        return self.cap, self.request.step, self.scope


def reserve(requests: Sequence[Request], ledger: Ledger) -> list[Permit | Stop]:
    """Say for each request, in order, whether it gets a permit; what one takes is counted for the next."""
    runs, windows, rules = Counter(ledger.runs), Counter(ledger.windows), Counter(ledger.rules)
    canaries, tripped = dict(ledger.canaries), set(ledger.open)
    verdicts: list[Permit | Stop] = []
    for request in requests:
        step = request.step
        if (request.case_id, step) in ledger.permits:
            verdicts.append(Permit(request, new=False))
            continue
        stop = _stop_of(request, ledger, runs, windows, canaries, tripped)
        stop = stop or _stop_by_rule(request, ledger, rules, tripped)
        if stop is not None:
            tripped.add(stop.tripped)
            verdicts.append(stop)
            continue
        if request.run_id is not None:
            runs[step, request.run_id] += 1
        for cap in WINDOWS:
            windows[cap, step] += 1
            rules[cap, step, request.rule_id] += 1
        if step == "freeze" and not request.dry_run:
            canary = canaries.get(request.rule) or Canary(0, ledger.limits.canary, confirmed=False)
            canaries[request.rule] = Canary(canary.frozen + 1, canary.size, canary.confirmed)
        verdicts.append(Permit(request, new=True))
    return verdicts


def lifted(ledger: Ledger) -> Ledger:
    """Return the ledger as an approved override sees it: no cap holds, but a canary still does."""
    unlimited = {f"{cap}_most": sys.maxsize for cap in NAMES}
    return replace(ledger, limits=replace(ledger.limits, **unlimited), seats=None, open=frozenset(), overridden=True)


def _stop_of(
    request: Request,
    ledger: Ledger,
    runs: Mapping[tuple[Step, str], int],
    windows: Mapping[tuple[Cap, Step], int],
    canaries: Mapping[str, Canary],
    tripped: Collection[Tripped],
) -> Stop | None:
    step = request.step
    if step == "freeze" and not request.dry_run:
        canary = canaries.get(request.rule) or Canary(0, ledger.limits.canary, confirmed=False)
        if canary.size and not canary.confirmed and canary.frozen >= canary.size:
            return _held_by_canary(request, canary)
    counts: list[tuple[Cap, str, int]] = [(cap, "", windows.get((cap, step), 0)) for cap in WINDOWS]
    if request.run_id is not None:
        counts.insert(0, ("run", request.run_id, runs.get((step, request.run_id), 0)))
    for cap, scope, used in counts:
        allowed = ledger.limits.allowed(cap, ledger.seats)
        if used >= allowed or (cap, step, scope) in tripped:
            return _over(request, cap, scope, used, allowed, ledger)
    return None


def _stop_by_rule(
    request: Request, ledger: Ledger, rules: Mapping[Tripped, int], tripped: Collection[Tripped]
) -> Stop | None:
    """Return what stops a step because its rule has taken what it says it takes at most."""
    for cap in () if ledger.overridden else WINDOWS:
        allowed = request.own_cap(cap)
        key: Tripped = (cap, request.step, request.rule_id)
        used = rules.get(key, 0)
        if allowed is not None and (used >= allowed or key in tripped):
            rehearsed = "dry-run " if request.dry_run else ""
            reason = (
                f"The rule's own brake stopped this {request.step}: {used} of at most {allowed} {rehearsed}"
                f"{request.step}s of its seats in {NAMES[cap]} were taken."
            )
            if used < allowed:
                reason += ROOM_AGAIN
            return Stop(request, cap, request.rule_id, used, allowed, reason, REMEDY)
    return None


def _over(request: Request, cap: Cap, scope: str, used: int, allowed: int, ledger: Ledger) -> Stop:
    most, share = ledger.limits.of(cap)
    seats = "not known yet" if ledger.seats is None else str(ledger.seats)
    rehearsed = "dry-run " if request.dry_run else ""
    reason = (
        f"A brake stopped this {request.step}: {used} of at most {allowed} {rehearsed}{request.step}s in {NAMES[cap]} "
        f"were taken (the limit is {most}, and {share} % of the connection's seats, which are {seats})."
    )
    if used < allowed:
        reason += ROOM_AGAIN
    return Stop(request, cap, scope, used, allowed, reason, REMEDY)


def _held_by_canary(request: Request, canary: Canary) -> Stop:
    reason = (
        f"Held by the canary: version {request.rule_version} of the rule acts for the first time, and its first "
        f"{canary.size} seats are to be looked at before it goes on."
    )
    remedy = "On the page Brakes, look at what became of the first seats, and let the rule go on."
    return Stop(request, "canary", request.rule, canary.frozen, canary.size, reason, remedy)


@dataclass(frozen=True, slots=True)
class Switch:
    """An engaged kill switch."""

    scope: Scope
    target: str
    engaged_by: str
    reason: str

    def stops(self, case: Case) -> bool:
        """Tell whether nothing may be taken away in this case."""
        return {
            "global": True,
            "connection": self.target == case.seat.connection_id,
            "rule": self.target == case.policy.rule_id,
        }[self.scope]

    def __str__(self) -> str:
        where = {"global": "for everything", "connection": "for this connection", "rule": "for this rule"}[self.scope]
        return f"the kill switch is engaged {where} by {self.engaged_by}: {self.reason}"


def stopping(switches: Iterable[Switch], case: Case) -> Switch | None:
    """Return the first engaged switch that stops a case, or None."""
    return next((switch for switch in switches if switch.stops(case)), None)


def same_person(one: str, other: str) -> bool:
    """Tell whether two operators' names are one person's."""
    return one.strip().casefold() == other.strip().casefold()
