"""The judge of a simulation. It believes the org's own log of writes and what people really did, and no table of ours.

`Judge` is told of every write in the moment it is made, of every event that reaches the broker, of what people sent
and what they were answered, and of what the org was read for. Rules are about cases as people know them: somebody's
seat was flagged under a policy. Where more than one case of a holder could be meant, a write is right if one of them
allows it.

Clocks may be wrong in a history, so a span of time counts as over if the clock that measured it says so, or if it
really is. What is counted for a limit is counted low: nobody is blamed for a figure that can be read in two ways.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Literal
from zoneinfo import ZoneInfo

import msgspec

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
from reclaim.lifecycle.audit import Entry

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


@dataclass(frozen=True)
class Cheaper:
    """The cheaper licence: the profile that assigns it, and the permission sets that it cannot hold."""

    profile: str
    cannot_hold: frozenset[str]


def works(policy: Policy, day: date) -> bool:
    """Tell whether a day is a working day under a rule."""
    return day.weekday() < 5 and day not in policy.days_off


def may_take(policy: Policy, at: datetime) -> bool:
    """Tell whether a rule lets a seat be freed at an instant: on no day that it forbids, and within its hours."""
    local = at.astimezone(ZoneInfo(policy.time_zone))
    today, tomorrow = local.date(), local.date() + timedelta(days=1)
    if policy.no_reclaim_before_days_off and not (works(policy, today) and works(policy, tomorrow)):
        return False
    if policy.act_from is None or policy.act_until is None:
        return True
    return works(policy, today) and policy.act_from <= local.time() < policy.act_until


def grace_over(policy: Policy, since: Instant, at: Instant, slack: timedelta) -> bool:
    """Tell whether a rule's grace is over, by the clock that measured it or in truth, or nearly so."""
    if at.since(since) + slack < timedelta(days=policy.grace_days):
        return False
    if policy.grace_calendar == "calendar":
        return True
    zone = ZoneInfo(policy.time_zone)

    def worked(start: datetime, end: datetime) -> int:
        first, last = start.astimezone(zone).date(), (end + slack).astimezone(zone).date()
        return sum(works(policy, first + timedelta(days=n)) for n in range(1, (last - first).days + 1))

    return max(worked(since.clock, at.clock), worked(since.true, at.true)) >= policy.grace_days


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
    withdrawn: bool = False
    withdrawal_heard: int | None = None
    """The step in which the lifecycle had heard of both the case and its withdrawal."""
    done: int = 0
    """How often somebody said that they freed the seat by hand."""
    grace_from: Instant | None = None
    """When its record says that grace began, in a dry run and for a task too, of which the org's log knows nothing."""
    timers: Counter[str] = field(default_factory=Counter)
    """How often each timer may still fire."""

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
        self.cheaper: Cheaper | None = None
        self.removed: int | None = None
        """The step in which the lifecycle heard that the connection was removed."""
        self.set_back = timedelta()
        """By how much clocks were set, all in all: what two hosts measure can be over by as much too early."""
        self.replicas = False
        """Whether each service runs on two hosts; else only what two services measure is meant by that."""
        self.limits: Limits | None = None
        self.switches: dict[str, Switch] = {}
        self.let_through: set[str] = set()
        """Holders whose cases two people let go beyond a limit."""
        self.canary_confirmed: int | None = None
        """The step in which somebody let the rule go on after its first batch."""

    @property
    def skew(self) -> timedelta:
        """By how much the lifecycle's hosts may differ."""
        return self.set_back if self.replicas else timedelta()

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
        if isinstance(event, SeatReclaimed) and count > self._times_freed(holder):
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

    # What our record says was done by itself: timers, and the intents of dry runs, of which the org knows nothing.

    def recorded(self, entry: Entry, at: Instant, step: tuple[int, Instant]) -> None:
        """Judge an entry of the audit trail, made in a step with that number and beginning."""
        case = self.cases.get(entry.case_id)
        if case is None:
            return
        if entry.command in {"deadline_passed", "grace_over"}:
            self._fired(case, entry, at)
        if not entry.accepted:
            return
        if entry.command == "notice_arrived":
            case.timers["deadline_passed"] += 1
        if entry.after in {"frozen", "in_grace"} and (entry.before != entry.after or entry.command == "grace_over"):
            case.timers["grace_over"] += 1
        if entry.command == "seat_frozen" or (entry.before, entry.after) == ("checking_before_freeze", "in_grace"):
            case.grace_from = at
        if case.policy.dry_run and entry.command in {"seat_frozen", "seat_deactivated", "seat_downgraded"}:
            self._intended(case, entry.command, Write(at, case.holder, "intent", None, None, False, *step))

    def _fired(self, case: Known, entry: Entry, at: Instant) -> None:
        if not case.timers[entry.command]:
            self.blame(f"{case.holder}: the timer of {entry.command} fired once more than it was set")
        case.timers[entry.command] -= 1
        if entry.command == "deadline_passed":
            allowed = timedelta(days=case.policy.decision_days) - self.set_back
            early = not any(at.since(asked) >= allowed for asked in case.asked)
        else:
            early = case.grace_from is None or not grace_over(case.policy, case.grace_from, at, self.skew)
        if early:
            self.blame(f"{case.holder}: the timer of {entry.command} fired early")

    def _intended(self, case: Known, command: str, intent: Write) -> None:
        """Judge what a dry run would have done as if it had done it."""
        what = f"{command} in a dry run"
        if not self._decided(case, intent):
            self.blame(f"{case.holder}: {what} without a decision, or a time-out after a question that had arrived")
        self._freshly_checked(what, case.holder, intent)
        grace, since = timedelta(days=case.policy.grace_days), case.grace_from
        if any(
            heard < intent.began and (since is None or made.since(since) < grace) for heard, made in case.keeps_heard
        ):
            self.blame(f"{case.holder}: {what} after a keep had been heard")
        if command == "seat_frozen":
            return
        if since is None or not grace_over(case.policy, since, intent.at, self.skew):
            self.blame(f"{case.holder}: {what} before grace was over")
        if not any(may_take(case.policy, at) for at in (intent.step_at.clock, intent.step_at.true, intent.at.true)):
            self.blame(f"{case.holder}: {what} on a day or at an hour that the rule forbids")

    # What we wrote, judged in the moment before it is done.

    def wrote(self, write: Write, user: FakeUser | None) -> None:
        """Judge a write of ours; `user` is the account as it is before it."""
        if self.removed is not None and self.removed < write.began:
            self.blame(f"{write.id}: {write.field} was written after the connection had been removed")
        match write.field, write.after:
            case "frozen", True:
                self._freeze(write)
            case "frozen", False:
                self._unfreeze(write)
            case "active", False:
                self._deactivate(write)
            case "active", True:
                self._reactivate(write)
            case (("profile" | "permission_sets" | "permission_set_licences"), _):
                self._change_licence(write, user)
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
        self._in_its_hours(write, allowed)
        # Whoever hung in the moment of writing comes after all that followed; in the end nothing of it may be left.
        hung = any(write.began < undone.began for undone in self._ours(write.id, "frozen", after=False))
        if len(self._ours(write.id, "frozen", after=True)) >= len(self._live(write.id)) and not hung:
            self.blame(f"{write.id}: frozen more often than it was flagged")

    def _unfreeze(self, write: Write) -> None:
        if not self._last_ours(write.id, "frozen"):
            self.blame(f"{write.id}: unfrozen, though it was not us who had frozen it")

    def _deactivate(self, write: Write) -> None:
        allowed = self._begin("deactivated", write.id, write)
        self._free("deactivated", write, allowed)
        whole = [case for case in allowed if case.policy.reclaim_by == "deactivate"]
        if allowed and not any(self._decided(case, write, by="revoke") for case in whole):
            self.blame(f"{write.id}: deactivated, and nobody decided to take the whole account")
        if len(self._ours(write.id, "active", after=False)) >= len(self._live(write.id)):
            self.blame(f"{write.id}: deactivated more often than it was flagged")

    def _free(self, what: str, write: Write, allowed: Sequence[Known]) -> None:
        """Judge a write that frees a seat, or a part of what it rests on."""
        self._after_grace(what, write.id, write, allowed)
        self._freshly_checked(what, write.id, write)
        self._within_limits(what, write.id, write)
        moments = (write.step_at.clock, write.step_at.true, write.at.clock, write.at.true)
        if allowed and not any(may_take(case.policy, at) for case in allowed for at in moments):
            self.blame(f"{write.id}: {what} on a day or at an hour that the rule forbids")

    def _in_its_hours(self, write: Write, allowed: Sequence[Known]) -> None:
        """Judge when a freeze is made: of the days that a rule forbids only those of its hours count."""
        moments = (write.step_at.clock, write.step_at.true, write.at.clock, write.at.true)
        policies = [msgspec.structs.replace(case.policy, no_reclaim_before_days_off=False) for case in allowed]
        if policies and not any(may_take(policy, at) for policy in policies for at in moments):
            self.blame(f"{write.id}: frozen at an hour that the rule forbids")

    def _change_licence(self, write: Write, user: FakeUser | None) -> None:
        assert self.cheaper is not None
        assert user is not None
        if write.field == "profile":
            taken = write.after == self.cheaper.profile
        else:
            taken = bool(set(_names(write.before)) - set(_names(write.after)))
        if not taken:
            self._give_back(write)
            return
        allowed = self._begin("downgraded", write.id, write)
        self._free("downgraded", write, allowed)
        meant = [case for case in allowed if case.policy.downgrade_to is not None]
        if allowed and not any(
            self._decided(case, write, by="revoke" if case.policy.reclaim_by == "downgrade" else "downgrade")
            for case in meant
        ):
            self.blame(f"{write.id}: downgraded, and nobody decided to")
        if write.field == "profile" and self.cheaper.cannot_hold & set(user.permission_sets):
            self.blame(f"{write.id}: moved to the cheaper licence with permission sets that it cannot hold")
        if write.field == "profile" and len(self._moved_down(write.id)) >= len(self._live(write.id)):
            self.blame(f"{write.id}: downgraded more often than it was flagged")

    def _give_back(self, write: Write) -> None:
        """Judge a write that puts something back: it must be what we took."""
        ours = [each for each in self._of[write.id, write.field] if each.by_us]
        if write.field == "profile":
            if not ours or write.after != ours[-1].before:
                self.blame(f"{write.id}: given another profile than it had")
            return
        took = {name for each in ours for name in set(_names(each.before)) - set(_names(each.after))}
        if more := set(_names(write.after)) - set(_names(write.before)) - took:
            self.blame(f"{write.id}: given {', '.join(sorted(more))}, which we had not taken")

    def _moved_down(self, holder: str) -> list[Write]:
        return [each for each in self._of[holder, "profile"] if each.by_us and each.after == self._cheaper_profile]

    @property
    def _cheaper_profile(self) -> str | None:
        return self.cheaper.profile if self.cheaper is not None else None

    def _times_freed(self, holder: str) -> int:
        """Return how often a seat was freed: by us in the org's log, or by hand in somebody's word."""
        by_hand = sum(case.done for case in self._by_holder[holder])
        return len(self._ours(holder, "active", after=False)) + len(self._moved_down(holder)) + by_hand

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
        elif all(case.policy.reclaim_by == "task" for case in self._live(holder)):
            self.blame(f"{holder}: {what}, and it is a person who frees the seat")
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
        if cases and not any(grace_over(case.policy, freezes[-1].at, write.at, self.skew) for case in cases):
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

    def _decided(self, case: Known, write: Write, *, by: str = "") -> bool:
        """Tell whether a person decided to take the seat, or (`by`) to take it in this way, or the rule in time."""
        if any(decision in ({by} if by else {"revoke", "downgrade"}) for decision, _at in case.sent):
            return True
        if by == "downgrade":
            return False
        if by == "revoke" and case.policy.reclaim_by == "downgrade" and ("downgrade" in dict(case.sent)):
            return True
        allowed = timedelta(days=case.policy.decision_days)
        return case.policy.on_timeout == "freeze" and any(write.at.since(asked) >= allowed for asked in case.asked)

    def _kept(self, case: Known, write: Write) -> bool:
        """Whether a keep that was made in time, or a withdrawal, had been heard before the step began that writes."""
        if case.withdrawal_heard is not None and case.withdrawal_heard < write.began:
            return True
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
        if user.frozen and not self._left_by_another(user) and self._last_ours(case.holder, "frozen"):
            self.blame(f"{case.holder}: somebody asked in time to keep it, and it is still frozen ({state})")
        if not user.active and self._last_ours(case.holder, "active"):
            self.blame(f"{case.holder}: somebody asked in time to keep it, and it is still deactivated ({state})")
        if self._has_less(user):
            self.blame(f"{case.holder}: somebody asked in time to keep it, and it still has less ({state})")

    def _has_less(self, user: FakeUser) -> bool:
        """Tell whether somebody has a cheaper licence from us, or lacks what was taken away for it."""
        if (moves := self._of[user.id, "profile"]) and moves[-1].by_us and user.profile == self._cheaper_profile:
            return True
        had = {
            name
            for part in ("permission_sets", "permission_set_licences")
            for each in self._of[user.id, part]
            for name in _names(each.before)
            if each.by_us
        }
        return not had <= {*user.permission_sets, *user.permission_set_licences}

    def _left_by_another(self, user: FakeUser) -> bool:
        """Tell whether somebody else deactivated an account since we froze it last, or it is not active now."""
        freezes = self._ours(user.id, "frozen", after=True)
        return not user.active or any(
            not write.by_us and write.at.true >= freezes[-1].at.true
            for write in (self._of[user.id, "active"] if freezes else ())
        )

    def _left_behind(self, case: Known, state: str, user: FakeUser) -> None:
        """A case that ends without its seat leaves nothing of ours behind.

        But for who was deactivated by somebody else meanwhile: that case ends as it stands, and the daily comparison
        tells of the freeze once they are let in again.
        """
        if case.policy.dry_run or state in {"attention", "reclaimed"} or self._live(case.holder)[-1] is not case:
            return
        left = self._left_by_another(user)
        if user.frozen and not left and self._last_ours(case.holder, "frozen"):
            self.blame(f"{case.holder}: its case ended as {state}, and our freeze is still on the account")
        if not user.active and self._last_ours(case.holder, "active"):
            self.blame(f"{case.holder}: its case ended as {state}, and the account is deactivated by us")
        if self._has_less(user) and user.active:
            self.blame(f"{case.holder}: its case ended as {state}, and the account has less than before")

    def compared(self, listed: set[str], states: dict[str, str], users: dict[str, FakeUser], hidden: set[str]) -> None:
        """Judge what the daily comparison lists, by case, against the accounts as they are.

        Who has a freed seat again is listed, and nobody whose case has ended otherwise and was not given back. A case
        in attention, and one whose seat was given back, is left out: what it is compared with depends on its past.
        """
        for holder, cases in self._by_holder.items():
            case, user = cases[-1], users[holder]
            state = states.get(case.id)
            if state is None or state in {"attention", "reactivated"}:
                continue
            back = user.active and holder not in hidden and user.profile != self._cheaper_profile
            expected = state == "reclaimed" and not case.policy.dry_run and back
            if expected is not (case.id in listed):
                said = "was" if case.id in listed else "was not"
                self.blame(f"{holder}: its case is {state}, and {said} listed by the comparison")

    def parked(self, service: str, poisoned: int, ids: Sequence[str], counted: int, alerts: int, failures: int) -> None:
        """Judge what waits for an operator: each message that cannot be read, once, and nothing else.

        `alerts` is how often the log called somebody: once for each of them. It does so anew, up to `failures` times,
        where the process or its database failed before the message was parked.
        """
        if not len(ids) == len(set(ids)) == counted == poisoned:
            self.blame(f"{service}: {counted} messages are parked ({len(ids)} listed), and {poisoned} cannot be read")
        if not poisoned <= alerts <= poisoned + failures:
            self.blame(f"{service}: {alerts} alerts were raised for {poisoned} messages that cannot be read")

    def savings(self, booked: dict[str, Decimal], states: dict[str, str], users: dict[str, FakeUser]) -> None:
        """Judge the figures of each holder: a month's price for each seat that we took and did not give back."""
        for holder, cases in sorted(self._by_holder.items()):
            if any(states.get(case.id) == "attention" for case in cases):
                continue
            expected = self._worth(holder, cases, states)
            found = booked.get(holder, Decimal(0))
            if found not in expected:
                figures = " or ".join(map(str, sorted(expected)))
                self.blame(f"{holder}: {found} a month was booked as saved, and the org's log says {figures}")

    def _worth(self, holder: str, cases: Sequence[Known], states: dict[str, str]) -> set[Decimal]:
        """Return what may be booked; more than one figure where a person freed the seat, and several had decided."""
        case = cases[-1]
        price, cheaper = case.seat.price, case.policy.downgrade_to
        full = price.amount if price is not None else Decimal(0)
        # Of a licence whose price is not known nothing is saved.
        known = cheaper is not None and cheaper.price is not None
        less = full - cheaper.price.amount if known else Decimal(0)  # type: ignore[union-attr]
        if case.policy.reclaim_by == "task":
            worth = {Decimal(0)}
            for each in cases:
                if states.get(each.id) == "reclaimed" and not each.policy.dry_run:
                    ways = {full, less} if "downgrade" in dict(each.sent) else {full}
                    worth = {so_far + way for so_far in worth for way in ways}
            return worth
        taken = len(self._ours(holder, "active", after=False)) - len(self._ours(holder, "active", after=True))
        moved = len(self._moved_down(holder))
        moved -= sum(each.by_us and each.before == self._cheaper_profile for each in self._of[holder, "profile"])
        return {taken * full + moved * less}


def _names(value: object) -> tuple[str, ...]:
    """Return the names in a field that holds some."""
    assert isinstance(value, list)
    return tuple(value)
