"""The judge of a simulation. It believes the org's own log of writes and what people really did, and no table of ours.

`Judge` is told of every write in the moment it is made, of every event that reaches the broker, of what people sent
and what they were answered, and of what the org was read for. Rules are about cases as people know them: somebody's
seat was flagged under a policy. Where more than one case of a holder could be meant, a write is right if one of them
allows it.

Clocks may be wrong in a history, so a span of time counts as over if the clock that measured it says so, or if it
really is. What is counted for a limit is counted low: nobody is blamed for a figure that can be read in two ways.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Literal

from reclaim.common.contracts import (
    Event,
    Policy,
    Seat,
    SeatReactivated,
    SeatReclaimed,
    UserFlagged,
    UserFrozen,
    UserRestored,
)
from reclaim.connectors.fake import FakeUser

CHECK_IS_FRESH = timedelta(minutes=30)
"""A quarter of an hour to read what the checks need, and another between the check and the step it was made for."""


@dataclass(frozen=True)
class Instant:
    """One moment: as a process's clock had it, and as it really was."""

    clock: datetime
    true: datetime

    def since(self, earlier: Instant) -> timedelta:
        """Return the longer of the two spans: either clock may have been set between."""
        return max(self.clock - earlier.clock, self.true - earlier.true)


@dataclass(frozen=True)
class Write:
    """One change in the org. `by_us`: through an actor; else somebody did it in the org.

    `began` numbers the step that made it, `called` the one in which the org was called: later, if it was stopped.
    """

    at: Instant
    id: str
    field: str
    before: object
    after: object
    by_us: bool
    began: int
    step_at: Instant
    called: int = 0


@dataclass(frozen=True)
class Look:
    """What the org was read for about a holder, and whether what it showed allowed to go on."""

    at: Instant
    serial: int
    part: Literal["seat", "survey"]
    clear: bool
    frozen: bool


@dataclass(frozen=True)
class Limits:
    """The most seats that may be frozen, and as many reclaimed, on the connection; `canary` is a rule's first batch."""

    run: int
    day: int
    month: int
    canary: int


WINDOWS = {"day": timedelta(hours=24), "month": timedelta(days=30)}


@dataclass
class Switch:
    """A kill switch that somebody engaged, and was told so, in the step of that number."""

    scope: str
    target: str
    since: int

    def stops(self, case: Known) -> bool:
        named = {"global": "", "connection": case.seat.connection_id, "rule": case.policy.rule_id}[self.scope]
        return self.target == named


@dataclass
class Known:
    """A case as people know it."""

    id: str
    seat: Seat
    policy: Policy
    run_id: str | None = None
    asked: list[Instant] = field(default_factory=list)
    sent: list[tuple[str, Instant]] = field(default_factory=list)
    confirmed: list[tuple[str, Instant]] = field(default_factory=list)
    flag_heard: bool = False
    keeps_heard: list[tuple[int, Instant]] = field(default_factory=list)
    early: list[Instant] = field(default_factory=list)
    """Keeps that the lifecycle has had since before it heard of the case."""
    reactivations: int = 0

    @property
    def holder(self) -> str:
        return self.seat.holder.id


class Judge:
    """Keeps its own record of a history and lists what must not have happened."""

    def __init__(self) -> None:
        self.violations: list[str] = []
        self.cases: dict[str, Known] = {}
        self.writes: list[Write] = []
        self._by_holder: dict[str, list[Known]] = defaultdict(list)
        self._of: dict[tuple[str, str], list[Write]] = defaultdict(list)
        self._looks: dict[str, list[Look]] = defaultdict(list)
        self._events: set[str] = set()
        self._said: dict[tuple[str, type[Event]], int] = defaultdict(int)
        self._done: dict[str, list[tuple[str, Write]]] = defaultdict(list)
        self.protected: dict[str, str] = {}
        self.limits: Limits | None = None
        self.switches: dict[str, Switch] = {}
        self.let_through: set[str] = set()
        """Holders whose cases two people let go beyond a limit."""
        self.canary_confirmed: int | None = None
        """The step in which somebody let the rule go on after its first batch."""

    def blame(self, what: str) -> None:
        """Note a violation."""
        self.violations.append(what)

    # What happened.

    def flagged(self, event: UserFlagged) -> None:
        if event.case_id not in self.cases:
            known = self.cases[event.case_id] = Known(event.case_id, event.seat, event.policy, event.run_id)
            self._by_holder[known.holder].append(known)

    def said(self, event_id: str, event: Event, users: dict[str, FakeUser]) -> None:
        """An event reached the broker: what it says must be so in the org."""
        if event_id in self._events:
            return
        self._events.add(event_id)
        if isinstance(event, UserFlagged):
            self.flagged(event)
        if not isinstance(event, UserFrozen | UserRestored | SeatReclaimed | SeatReactivated) or event.dry_run:
            return
        holder = event.seat.holder.id
        self._said[holder, type(event)] += 1
        count = self._said[holder, type(event)]
        user = users[holder]
        freezes = self._ours(holder, "frozen", after=True)
        if isinstance(event, UserFrozen) and count > len(freezes):
            self.blame(f"{holder}: we said that it was frozen, and the org's log has no such write")
        if isinstance(event, SeatReclaimed) and count > len(self._ours(holder, "active", after=False)):
            self.blame(f"{holder}: we said that its seat was freed, and the org's log has no such write")
        if isinstance(event, UserRestored) and user.frozen and self._last_ours(holder, "frozen"):
            self.blame(f"{holder}: we said that it was restored, and it is frozen")
        if isinstance(event, SeatReactivated) and not user.active and self._last_ours(holder, "active"):
            self.blame(f"{holder}: we said that it was given back, and it is inactive")

    def looked(self, holder: str, look: Look) -> None:
        self._looks[holder].append(look)

    def person_wrote(self, write: Write) -> None:
        self.writes.append(write)
        self._of[write.id, write.field].append(write)

    # What we wrote, judged in the moment before it is done.

    def wrote(self, write: Write, user: FakeUser | None) -> None:
        """Judge a write of ours; `user` is the account as it is before it."""
        match write.field, write.after:
            case "frozen", True:
                self._freeze(write)
            case "frozen", False:
                self._unfreeze(write)
            case "active", False:
                self._deactivate(write)
            case "active", True:
                self._reactivate(write)
            case _:
                self._hand_over(write)
        self.writes.append(write)
        self._of[write.id, write.field].append(write)

    def _freeze(self, write: Write) -> None:
        allowed = self._begin("frozen", write.id, write)
        decided = [case for case in allowed if self._decided(case, write)]
        if allowed and not decided:
            self.blame(f"{write.id}: frozen without a decision, or a time-out after a question that had arrived")
        if decided and all(self._kept(case, write) for case in decided):
            self.blame(f"{write.id}: frozen after a keep had been heard")
        self._freshly_checked("frozen", write.id, write)
        self._within_limits("frozen", write.id, write)
        if len(self._ours(write.id, "frozen", after=True)) >= len(self._live(write.id)):
            self.blame(f"{write.id}: frozen more often than it was flagged")

    def _unfreeze(self, write: Write) -> None:
        if not self._last_ours(write.id, "frozen"):
            self.blame(f"{write.id}: unfrozen, though it was not us who had frozen it")

    def _deactivate(self, write: Write) -> None:
        allowed = self._begin("deactivated", write.id, write)
        self._after_grace("deactivated", write.id, write, allowed)
        self._freshly_checked("deactivated", write.id, write)
        self._within_limits("deactivated", write.id, write)
        if len(self._ours(write.id, "active", after=False)) >= len(self._live(write.id)):
            self.blame(f"{write.id}: deactivated more often than it was flagged")

    def _reactivate(self, write: Write) -> None:
        if not self._last_ours(write.id, "active"):
            self.blame(f"{write.id}: given back, though it was not us who had deactivated it")

    def _hand_over(self, write: Write) -> None:
        holder = str(write.before)
        allowed = self._begin("robbed of a record", holder, write)
        self._after_grace("robbed of a record", holder, write, allowed)
        self._within_limits("robbed of a record", holder, write)
        if any(earlier.by_us and earlier.before == holder for earlier in self._of[write.id, write.field]):
            self.blame(f"{write.id}: handed over twice")

    def _begin(self, what: str, holder: str, write: Write) -> list[Known]:
        cases = self._by_holder[holder]
        if not cases:
            self.blame(f"{holder}: {what} without ever having been flagged")
        elif not self._live(holder):
            self.blame(f"{holder}: {what} in a dry run")
        if holder in self.protected:
            self.blame(f"{holder}: {what}, though it is {self.protected[holder]}")
        live = self._live(holder)
        for switch in self.switches.values():
            if switch.since < write.called and live and all(switch.stops(case) for case in live):
                self.blame(f"{holder}: {what} while the kill switch was engaged")
        return live

    def _after_grace(self, what: str, holder: str, write: Write, cases: Sequence[Known]) -> None:
        freezes = self._ours(holder, "frozen", after=True)
        if not freezes:
            self.blame(f"{holder}: {what} without a freeze of ours")
            return
        since = write.at.since(freezes[-1].at)
        if cases and all(since < timedelta(days=case.policy.grace_days) for case in cases):
            self.blame(f"{holder}: {what} {since} after the freeze, before grace was over")
        if cases and all(self._kept(case, write) for case in cases):
            self.blame(f"{holder}: {what} after a keep had been heard")

    def _within_limits(self, what: str, holder: str, write: Write) -> None:
        """Count the holders that had this done to them, this one among them, as the org's log shows it."""
        if self.limits is None or holder in self.let_through:
            return
        done = self._done[what]
        done.append((holder, write))
        counted = {
            cap: {
                other
                for other, earlier in done
                if write.step_at.clock - earlier.step_at.clock < window
                and write.step_at.true - earlier.step_at.true < window
            }
            for cap, window in WINDOWS.items()
        }
        runs = self._runs(holder)
        if len(runs) == 1:
            counted["run"] = {other for other, _ in done if self._runs(other) == runs}
        for cap, holders in counted.items():
            most = getattr(self.limits, cap)
            if len(holders - self.let_through) > most:
                self.blame(f"{holder}: {what} as number {len(holders)} for the limit of {most} a {cap}")
        if what == "frozen" and self.limits.canary:
            free = self.canary_confirmed
            first = {other for other, earlier in done if free is None or earlier.began <= free}
            if holder in first and len(first) > self.limits.canary:
                self.blame(f"{holder}: frozen as number {len(first)}, and the canary of {self.limits.canary} unseen")

    def _runs(self, holder: str) -> set[str | None]:
        return {case.run_id for case in self._live(holder)}

    def _freshly_checked(self, what: str, holder: str, write: Write) -> None:
        looks = [
            look
            for look in self._looks[holder]
            if look.serial >= write.began
            or abs(write.step_at.clock - look.at.clock) <= CHECK_IS_FRESH
            or abs(write.step_at.true - look.at.true) <= CHECK_IS_FRESH
        ]
        for part in ("seat", "survey"):
            of_part = [look for look in looks if look.part == part]
            if not any(look.clear for look in of_part):
                why = "what was read forbade it" if of_part else "without a fresh re-check"
                self.blame(f"{holder}: {what} though {why} ({part})")

    def _live(self, holder: str) -> list[Known]:
        return [case for case in self._by_holder[holder] if not case.policy.dry_run]

    def _decided(self, case: Known, write: Write) -> bool:
        if any(decision in {"revoke", "downgrade"} for decision, _at in case.sent):
            return True
        allowed = timedelta(days=case.policy.decision_days)
        return case.policy.on_timeout == "freeze" and any(write.at.since(asked) >= allowed for asked in case.asked)

    def _kept(self, case: Known, write: Write) -> bool:
        """Whether a keep that was made in time had been heard before the step began that writes."""
        freezes = self._ours(case.holder, "frozen", after=True)
        grace = timedelta(days=case.policy.grace_days)
        return any(
            heard < write.began and (not freezes or made.since(freezes[-1].at) < grace)
            for heard, made in case.keeps_heard
        )

    def _ours(self, holder: str, name: str, *, after: bool) -> list[Write]:
        return [write for write in self._of[holder, name] if write.by_us and write.after is after]

    def _last_ours(self, holder: str, name: str) -> bool:
        writes = self._of[holder, name]
        return bool(writes) and writes[-1].by_us

    # The end, when faults have stopped and everything was given the time it needs.

    def ended(self, states: dict[str, str], users: dict[str, FakeUser], ended: frozenset[str]) -> None:
        """Judge where every case stands, and what it did to its holder."""
        for case in self.cases.values():
            state = states.get(case.id)
            if state is None:
                if not any(other.id in states for other in self._by_holder[case.holder]):
                    self.blame(f"{case.holder}: its case {case.id} was lost")
                continue
            if state not in ended and state != "attention":
                self.blame(f"{case.holder}: its case stands in {state}, and nothing moves it on")
            self._kept_in_the_end(case, state, users[case.holder])
            self._left_behind(case, state, users[case.holder])

    def _kept_in_the_end(self, case: Known, state: str, user: FakeUser) -> None:
        if case.policy.dry_run or state == "attention" or self._live(case.holder)[-1] is not case:
            return
        freezes = self._ours(case.holder, "frozen", after=True)
        grace = timedelta(days=case.policy.grace_days)
        in_time = any(
            decision == "keep" and (not freezes or made.since(freezes[-1].at) < grace)
            for decision, made in case.confirmed
        )
        if not in_time:
            return
        if user.frozen and self._last_ours(case.holder, "frozen"):
            self.blame(f"{case.holder}: somebody asked in time to keep it, and it is still frozen ({state})")
        if not user.active and self._last_ours(case.holder, "active"):
            self.blame(f"{case.holder}: somebody asked in time to keep it, and it is still deactivated ({state})")

    def _left_behind(self, case: Known, state: str, user: FakeUser) -> None:
        """A case that ends without its seat leaves nothing of ours behind.

        But for who was deactivated by somebody else meanwhile: that case ends as it stands, and whoever lets them in
        again unfreezes them.
        """
        if case.policy.dry_run or state in {"attention", "reclaimed"} or self._live(case.holder)[-1] is not case:
            return
        freezes = self._ours(case.holder, "frozen", after=True)
        left = not user.active or any(
            not write.by_us and write.at.true >= freezes[-1].at.true
            for write in (self._of[case.holder, "active"] if freezes else ())
        )
        if user.frozen and not left and self._last_ours(case.holder, "frozen"):
            self.blame(f"{case.holder}: its case ended as {state}, and our freeze is still on the account")
        if not user.active and self._last_ours(case.holder, "active"):
            self.blame(f"{case.holder}: its case ended as {state}, and the account is deactivated by us")

    def savings(self, booked: dict[str, Decimal], states: dict[str, str], users: dict[str, FakeUser]) -> None:
        """Judge the figures of each holder: a month's price for each seat that we took and did not give back."""
        for holder, cases in sorted(self._by_holder.items()):
            if any(states.get(case.id) == "attention" for case in cases):
                continue
            taken = len(self._ours(holder, "active", after=False)) - len(self._ours(holder, "active", after=True))
            price = cases[-1].seat.price
            expected = taken * (price.amount if price is not None else Decimal(0))
            found = booked.get(holder, Decimal(0))
            if found != expected:
                self.blame(f"{holder}: {found} a month was booked as saved, and the org's log says {expected}")
