"""The org of a simulation: it keeps its own log, tells the judge of every write and reading, and has its troubles."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import fields, replace
from datetime import datetime, timedelta
from random import Random
from typing import Any, Protocol

from reclaim.common.clock import Clock
from reclaim.common.errors import Permanent, Transient
from reclaim.connectors.fake import FakeActor, FakeOrg, FakeReader, FakeUser, Trouble
from reclaim.connectors.ports import (
    ActionResult,
    Downgrade,
    Grants,
    HandedOver,
    Incomplete,
    Known,
    Licence,
    Refused,
    SeatRecord,
    Survey,
    Transfer,
    TryLater,
    unguarded,
)
from tests.simulation.invariants import Instant, Judge, Look, Write

PRODUCT = "SFDC"
CHEAPER = "AUL"
INACTIVE_DAYS = 90
OUTAGES = (
    "503 Service Unavailable",
    "429 Too Many Requests",
    "403 REQUEST_LIMIT_EXCEEDED",
    "INVALID_SESSION_ID: Session expired or invalid",
    "the answer timed out",
)


class Moments(Protocol):
    """What the org needs to know of whoever calls: what time it is there, and which step it is."""

    def moment(self, process: str) -> Instant: ...

    def step(self) -> tuple[int, Instant]: ...

    def serial(self) -> int: ...


class SimOrg(FakeOrg):
    """An org in memory whose writes and readings are judged as they happen."""

    def __init__(
        self,
        clock: Clock,
        judge: Judge,
        moments: Moments,
        chance: Random,
        likely: float,
        happened: Callable[[str], None],
    ) -> None:
        super().__init__(clock)
        self._likely = likely
        self.judge, self.moments, self.chance, self.happened = judge, moments, chance, happened
        self.calm = False
        self.revoked = False
        """Whether the credentials that we have are good for nothing."""
        self.hidden: set[str] = set()
        """Accounts that the user we run as may not see."""
        self.lost: str | None = None
        """The part of every survey whose fields that user may not read."""
        self.called = 0
        """The step in which the call was made that is being answered."""

    def wrote(self, record_id: str, name: str, before: object, after: object) -> None:
        """Have a write of ours judged in the moment before it is done."""
        began, step_at = self.moments.step()
        now = self.moments.moment("lifecycle")
        write = Write(now, record_id, name, before, after, True, began, step_at, self.called)
        self.judge.wrote(write, self.users.get(record_id))

    def person(self, holder: str, **changes: object) -> None:
        """Let somebody change an account in the org, as an administrator or by using it."""
        user = self.users[holder]
        began, step_at = self.moments.step()
        for name, value in changes.items():
            if name in {"active", "frozen"} and getattr(user, name) is not value:
                at = self.moments.moment("lifecycle")
                self.judge.person_wrote(Write(at, holder, name, getattr(user, name), value, False, began, step_at))
                if name == "frozen":
                    user.frozen_changed_at, user.frozen_by_another = self.clock.now(), True
            setattr(user, name, value)

    def strikes(self, *kinds: str, times: float = 1.0) -> str | None:
        """Return the trouble that there is now, if any; `times` as likely as others."""
        if self.calm or not self._likely or self.chance.random() >= self._likely * times:
            return None
        kind = self.chance.choice(kinds)
        self.happened(f"org: {kind}")
        return kind

    def outage(self) -> None:
        """Fail a call before it does anything, half as often as anything else goes wrong."""
        if self.revoked:
            raise Permanent("simulated: INVALID_LOGIN: the credentials were revoked")
        if self._likely and self.chance.random() < 0.5 and (kind := self.strikes(*OUTAGES)) is not None:
            raise Transient(f"simulated: {kind}")

    def looked(self, process: str, part: Any, holders: Sequence[str] | None) -> None:
        """Tell the judge what a reading showed about each holder."""
        if process != "lifecycle":
            return
        at, serial = self.moments.moment(process), self.moments.serial()
        for holder in self.users if holders is None else holders:
            user = self.users.get(holder)
            if user is not None and holder not in self.hidden:
                clear = self._seat_allows(user, at.clock) if part == "seat" else self._survey_allows(user, at.clock)
                self.judge.looked(holder, Look(at, serial, part, clear, user.frozen))

    def _seat_allows(self, user: FakeUser, now: datetime) -> bool:
        used = user.last_used_at or user.created_at
        return user.usage_type == "Standard" and used < now - timedelta(days=INACTIVE_DAYS)

    def _survey_allows(self, user: FakeUser, now: datetime) -> bool:
        seen = user.seen_elsewhere_at
        named = (user.integration, user.administrator, user.exempt, user.scheduled, user.approvals, user.queue)
        quiet = seen is None or seen < now - timedelta(days=INACTIVE_DAYS)
        return quiet and not any(named) and user.id != self.run_as


def _without(hidden: set[str], part: Any) -> Any:
    """Return one part of a survey as it is for whom these accounts are hidden."""
    if isinstance(part, frozenset):
        return part - hidden
    if not isinstance(part, Known):
        return part
    if isinstance(part.value, frozenset):
        return Known(part.value - hidden)
    return Known({holder: value for holder, value in part.value.items() if holder not in hidden})


Gate = Callable[[str], Awaitable[None]]


class Connected:
    """The `Connectors` of one process: its way to the org, on which it may be stopped or killed."""

    def __init__(self, org: SimOrg, process: str, gate: Gate) -> None:
        self._org, self._process, self._gate = org, process, gate

    def reader(self, profile: object) -> SimReader:
        return SimReader(self._org, self._process, self._gate)

    def actor(self, profile: object) -> SimActor:
        return SimActor(self._org, self._gate)


class SimReader(FakeReader):
    """Reads, with the troubles that reading has."""

    def __init__(self, org: SimOrg, process: str, gate: Gate) -> None:
        super().__init__(org)
        self._sim, self._process, self._gate = org, process, gate

    async def _before(self, what: str) -> None:
        await self._gate(f"before {what}")
        self._sim.outage()

    async def licences(self) -> Sequence[Licence]:
        await self._before("licences")
        return await super().licences()

    async def seats(self, products: Sequence[str]) -> AsyncIterator[Sequence[SeatRecord]]:
        trouble = self._sim.strikes("cut list", "short list", "empty list")
        async for page in super().seats(products):
            await self._before("seats")
            if trouble == "cut list":
                raise Incomplete("simulated: the list ended before its announced size")
            if trouble == "empty list":
                continue
            page = [seat for seat in page if seat.holder.id not in self._sim.hidden]
            yield page[: len(page) // 2] if trouble == "short list" else page

    async def seats_of(self, holders: Sequence[str]) -> Mapping[str, SeatRecord]:
        await self._before("seats_of")
        self._sim.looked(self._process, "seat", holders)
        found = await super().seats_of([each for each in holders if each not in self._sim.hidden])
        await self._gate("after seats_of")
        return found

    async def survey(self, holders: Sequence[str] | None, *, since: datetime) -> Survey:
        await self._before("survey")
        if self._sim.strikes("unreadable part"):
            part = self._sim.chance.choice(("exempt", "frozen", "administrators", "last_seen_elsewhere"))
            self._sim.unreadable = {part: "simulated: the query failed"}
        if self._sim.lost is not None:
            self._sim.unreadable = {self._sim.lost: "simulated: No such column, or its field is not accessible"}
        try:
            self._sim.looked(self._process, "survey", holders)
            found = await super().survey(holders, since=since)
        finally:
            self._sim.unreadable = {}
        await self._gate("after survey")
        return self._visible(found)

    def _visible(self, survey: Survey) -> Survey:
        hidden = self._sim.hidden
        if not hidden:
            return survey
        parts = {part.name: getattr(survey, part.name) for part in fields(survey)}
        return replace(survey, **{name: _without(hidden, part) for name, part in parts.items()})

    async def grants(self, holders: Sequence[str]) -> Mapping[str, Grants]:
        await self._before("grants")
        found = await super().grants(holders)
        await self._gate("after grants")
        return found

    async def open_records(self, holders: Sequence[str]) -> Mapping[str, Mapping[str, Sequence[str]]]:
        await self._before("open_records")
        return await super().open_records(holders)


class SimActor(FakeActor):
    """Acts, with the troubles that acting has: each row of a collection ends in its own way."""

    def __init__(self, org: SimOrg, gate: Gate) -> None:
        super().__init__(org)
        self._sim, self._gate = org, gate

    async def freeze(self, holders: Sequence[str]) -> Mapping[str, ActionResult]:
        return await self._acting("freeze", holders, super().freeze)

    async def unfreeze(self, holders: Sequence[str]) -> Mapping[str, ActionResult]:
        return await self._acting("unfreeze", holders, super().unfreeze)

    async def deactivate(self, holders: Sequence[str]) -> Mapping[str, ActionResult]:
        return await self._acting("deactivate", holders, super().deactivate)

    async def reactivate(self, holders: Sequence[str]) -> Mapping[str, ActionResult]:
        return await self._acting("reactivate", holders, super().reactivate)

    async def downgrade(self, downgrades: Sequence[Downgrade]) -> Mapping[str, ActionResult]:
        return await self._acting("downgrade", downgrades, super().downgrade)

    async def upgrade(self, images: Mapping[str, Grants]) -> Mapping[str, ActionResult]:
        return await self._acting("upgrade", images, super().upgrade)

    async def hand_over(self, transfers: Sequence[Transfer]) -> Mapping[str, HandedOver | Refused | TryLater]:
        return await self._acting("hand_over", transfers, super().hand_over)

    def _settled(self, operation: str, holder: str, name: str, *, value: Any) -> ActionResult | None:
        if holder in self._sim.hidden:
            return Refused("NOT_FOUND", "the org has no such user", "The account is gone: scan again.")
        return super()._settled(operation, holder, name, value=value)

    def _log(self, record_id: str, name: str, before: object, after: object) -> None:
        super()._log(record_id, name, before, after)
        self._sim.wrote(record_id, name, before, after)

    async def _acting(self, what: str, given: Any, act: Callable[[Any], Awaitable[Any]]) -> Any:
        called = self._sim.moments.serial()
        if called % 2:
            # It hangs after its last look, at which nothing stood in the way.
            self._guard = unguarded
        await self._gate(f"before {what}")
        self._sim.outage()
        trouble = self._sim.strikes("timed out after commit", "partial success", "UNABLE_TO_LOCK_ROW", times=4)
        rows: dict[str | None, tuple[Trouble, ...]] = {
            "timed out after commit": ("after",),
            "partial success": ("none", "before", "after"),
            "UNABLE_TO_LOCK_ROW": ("none", "before"),
        }
        choices = rows.get(trouble, ("none",))
        self._sim.trouble = lambda _operation, _id: self._sim.chance.choice(choices) if trouble else "none"
        self._sim.called = called
        try:
            results = await act(given)
        finally:
            self._sim.trouble = lambda _operation, _id: "none"
        await self._gate(f"after {what}")
        return results
