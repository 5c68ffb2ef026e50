"""An org in memory: the same capabilities as a real one, without a network, for simulations of whole life cycles.

It keeps the rules that the life cycle leans on (seats are limited, blocked accounts refuse, records have one owner),
writes a log that nobody else writes, and has trouble only when told to. One contract suite runs over it and over
the Salesforce connector.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta
from typing import Any, Literal, Self

from reclaim.common.clock import Clock
from reclaim.common.contracts import Person
from reclaim.common.errors import NotFound, Permanent, ReclaimError, Transient
from reclaim.connectors.identities import is_anonymous
from reclaim.connectors.ports import (
    FROZEN_BY_ANOTHER,
    NO_SUCH_ACCOUNT,
    ActionResult,
    Application,
    ConnectionProfile,
    Coverage,
    Done,
    Downgrade,
    Grants,
    Guard,
    HandedOver,
    Known,
    Licence,
    Manager,
    Members,
    Reading,
    Refused,
    SeatRecord,
    Stopped,
    Survey,
    TestResult,
    Transfer,
    TryLater,
    Unknown,
    UsagePage,
    UsageRecord,
    unguarded,
)

Trouble = Literal["none", "before", "after"]
"""What befalls one write: nothing, a failure before it was done, or an answer that was lost after it was done."""


@dataclass(slots=True)
class FakeUser:
    """One account. The texts are evidence for the check of the same name; None lets the check pass.

    `frozen_by_another`: somebody else is known to have changed the freeze last.
    """

    id: str
    created_at: datetime
    last_used_at: datetime | None = None
    name: str = ""
    email: str | None = None
    product: str = "SFDC"
    profile: str = ""
    permission_sets: list[str] = field(default_factory=list)
    permission_set_licences: list[str] = field(default_factory=list)
    department: str | None = None
    usage_type: str = "Standard"
    manager_id: str | None = None
    active: bool = True
    frozen: bool = False
    frozen_by_another: bool = False
    frozen_changed_at: datetime | None = None
    seen_elsewhere_at: datetime | None = None
    integration: str | None = None
    administrator: str | None = None
    exempt: str | None = None
    scheduled: str | None = None
    approvals: str | None = None
    queue: str | None = None
    assigned_at: datetime | None = None
    blocked: Refused | None = None


@dataclass(slots=True)
class FakeRecord:
    """One business record; only an open one needs a new owner."""

    id: str
    kind: str
    owner: str
    open: bool = True


@dataclass(frozen=True, slots=True)
class Write:
    """One field of one account or record that was changed through an actor."""

    at: datetime
    id: str
    field: str
    before: object
    after: object


@dataclass(slots=True)
class FakeOrg:
    """The rows of an org in memory, and what goes wrong in it.

    `down` is raised by every reading and turns every action into a failure; `unreadable` names parts of a survey
    that are Unknown, and groups that are in doubt, with the reason; `passing` those groups that may be readable the
    next time, and `unkept` those parts that the org has no data of; `trouble` is asked once for each write
    (operation, id). `run_as` is the user that the connection signs in as.
    `profiles` says which licence each profile assigns, `needs` which licence a permission set needs; a profile called
    as its licence needs no entry. With `one_switch` an account is frozen by being switched off, as where there is
    nothing else to freeze it with. `groups` has, by the group's name, ids of users and names of groups in it.
    """

    clock: Clock
    licences: dict[str, int] = field(default_factory=lambda: {"SFDC": 1_000})
    users: dict[str, FakeUser] = field(default_factory=dict)
    records: dict[str, FakeRecord] = field(default_factory=dict)
    run_as: str | None = None
    profiles: dict[str, str] = field(default_factory=dict)
    needs: dict[str, str] = field(default_factory=dict)
    page_size: int = 200
    writes: list[Write] = field(default_factory=list)
    down: ReclaimError | None = None
    unreadable: dict[str, str] = field(default_factory=dict)
    passing: set[str] = field(default_factory=set)
    unkept: dict[str, str] = field(default_factory=dict)
    trouble: Callable[[str, str], Trouble] = lambda _operation, _id: "none"
    one_switch: bool = False
    groups: dict[str, set[str]] = field(default_factory=dict)
    log: FakeLog = field(init=False)

    def __post_init__(self) -> None:
        self.log = FakeLog(self.clock)

    def reader(self, profile: ConnectionProfile | None = None) -> FakeReader:  # noqa: ARG002  there is one org
        """Return what can only read; with `actor`, this makes an org a `Connectors`."""
        return FakeReader(self)

    def actor(self, profile: ConnectionProfile | None = None) -> FakeActor:  # noqa: ARG002  there is one org
        """Return what can act."""
        return FakeActor(self)

    def usage_reader(self, profile: ConnectionProfile | None = None) -> FakeLog:  # noqa: ARG002  there is one log
        """Return the org's sign-in log."""
        return self.log

    def used(self, product: str) -> int:
        """Return how many seats of a product are in use."""
        return sum(user.active and user.product == product for user in self.users.values())


@dataclass(frozen=True, slots=True)
class FakeSignIn:
    """One attempt to sign in. `user` may be a pseudonym; `arrives_at` is when the log shows it."""

    user: str
    product: str
    at: datetime
    arrives_at: datetime
    ok: bool = True


@dataclass(slots=True)
class FakeLog:
    """A sign-in log in memory: a `UsageReader` of the channel `sso`, without a network.

    It forgets what is older than `kept`, and events may reach it `late`. `down` is raised by every reading.
    """

    clock: Clock
    name: str = "log"
    kept: timedelta = timedelta(days=90)
    late: timedelta = timedelta(minutes=60)
    sign_ins: list[FakeSignIn] = field(default_factory=list)
    down: ReclaimError | None = None

    def sign_in(
        self, user: str, product: str, *, at: datetime, ok: bool = True, late: timedelta = timedelta(0)
    ) -> None:
        """Let somebody try to sign in."""
        self.sign_ins.append(FakeSignIn(user, product, at, at + late, ok))

    async def test(self) -> Sequence[TestResult]:
        """Return one result."""
        return [TestResult("Connection", ok=self.down is None, detail=str(self.down or "signed in"))]

    def coverage(self, since: datetime) -> Coverage:
        """Return the part of the time from `since` that the log keeps, and that events no longer arrive for."""
        now = self.clock.now()
        return Coverage(max(since, now - self.kept), now - self.late, "The log forgets, and takes events late.")

    async def applications(self) -> Sequence[Application]:
        """Return everything that somebody signed in to."""
        if self.down is not None:
            raise self.down
        return [Application(each, each) for each in sorted({each.product for each in self.sign_ins})]

    async def usage(self, since: datetime, *, only: Collection[str] = ()) -> AsyncIterator[UsagePage]:
        """Yield a page a day that saw an attempt, in order."""
        if self.down is not None:
            raise self.down
        now = self.clock.now()
        oldest = max(since, now - self.kept).date()
        shown = [
            each
            for each in self.sign_ins
            if each.arrives_at <= now and oldest <= each.at.date() and (not only or each.product in only)
        ]
        for day in sorted({each.at.date() for each in shown}):
            yield self._page(datetime.combine(day, time(), UTC), [each for each in shown if each.at.date() == day])

    def _page(self, start: datetime, attempts: Sequence[FakeSignIn]) -> UsagePage:
        used = [each for each in attempts if each.ok]
        named: dict[tuple[str, str], list[datetime]] = {}
        for each in used:
            if not is_anonymous(each.user):
                named.setdefault((each.user, each.product), []).append(each.at)
        records = [
            UsageRecord(
                source=self.name,
                user=user,
                product=product,
                product_name=product,
                channel="sso",
                period_start=start,
                period_end=start + timedelta(days=1),
                last_used_at=max(instants),
                runs=len(instants),
            )
            for (user, product), instants in named.items()
        ]
        hidden = Counter(each.product for each in used if is_anonymous(each.user))
        return UsagePage(start, records, failed=len(attempts) - len(used), unattributed=dict(hidden))

    async def close(self) -> None:
        """There is nothing to give back."""


class FakeReader:
    """The `SeatReader` of an org in memory; none of its methods changes a row."""

    def __init__(self, org: FakeOrg) -> None:
        self._org = org

    async def test(self) -> Sequence[TestResult]:
        """Return one result a part of the survey, and one for the connection."""
        down = self._org.down
        results = [TestResult("Connection", ok=down is None, detail=str(down or "signed in"))]
        return results + [TestResult(part, ok=False, detail=why) for part, why in self._org.unreadable.items()]

    async def licences(self) -> Sequence[Licence]:
        """Return the pools of seats."""
        self._up()
        return [Licence(key, key, total, self._org.used(key)) for key, total in self._org.licences.items()]

    async def seats(self, products: Sequence[str]) -> AsyncIterator[Sequence[SeatRecord]]:
        """Yield all active seats of the given products, a page at a time."""
        self._up()
        missing = set(products) - set(self._org.licences)
        if missing:
            raise NotFound(f"The org has no licence {', '.join(sorted(missing))}.")
        found = [
            user_id
            for user_id, user in sorted(self._org.users.items())
            if user.active and user.product in products and user.usage_type == "Standard"
        ]
        for start in range(0, len(found), self._org.page_size):
            self._up()
            yield [self._seat(self._org.users[each]) for each in found[start : start + self._org.page_size]]

    async def seats_of(self, holders: Sequence[str]) -> Mapping[str, SeatRecord]:
        """Return the present record of each holder; one that no longer exists is left out."""
        self._up()
        return {each: self._seat(self._org.users[each]) for each in holders if each in self._org.users}

    async def survey(self, holders: Sequence[str] | None, *, since: datetime) -> Survey:
        """Read what the safety checks need, for the given holders or for everybody."""
        self._up()
        asked = None if holders is None else set(holders)
        users = [user for user in self._org.users.values() if asked is None or user.id in asked]

        def texts(name: str) -> Mapping[str, str]:
            return {user.id: getattr(user, name) for user in users if getattr(user, name) is not None}

        administrators = dict(texts("administrator"))
        if self._org.run_as is not None:
            administrators[self._org.run_as] = "Reclaim signs in as this user"
        seen = {user.id: user.seen_elsewhere_at for user in users if user.seen_elsewhere_at is not None}
        thawed = {user.id: user.frozen_changed_at for user in users if user.frozen_changed_at and not user.frozen}
        owners = Counter(record.owner for record in self._org.records.values() if record.open)
        return Survey(
            taken_at=self._org.clock.now(),
            last_seen_elsewhere=self._read("last_seen_elsewhere", {key: at for key, at in seen.items() if at >= since}),
            integration_users=self._read("integration_users", texts("integration")),
            administrators=self._read("administrators", administrators),
            exempt=self._read("exempt", texts("exempt")),
            frozen=self._read(
                "frozen",
                frozenset(user.id for user in users if user.frozen or (self._org.one_switch and not user.active)),
            ),
            thawed_at=self._read("thawed_at", thawed),
            scheduled_work=self._read("scheduled_work", texts("scheduled")),
            pending_approvals=self._read("pending_approvals", texts("approvals")),
            queues=self._read("queues", texts("queue")),
            open_business=self._read("open_business", {user.id: owners[user.id] for user in users if owners[user.id]}),
            seen=None if asked is None else frozenset(user.id for user in users),
        )

    async def members(self, groups: Sequence[str]) -> Mapping[str, Members]:
        """Return who is in each of some groups."""
        self._up()
        known = self._org.groups
        return {
            name: Members(
                frozenset(self._inside(name, set())),
                self._org.unreadable.get(name, "" if name in known else f"The org has no group {name!r}."),
                name in self._org.passing,
            )
            for name in groups
        }

    def _inside(self, name: str, passed: set[str]) -> set[str]:
        if name in passed:
            return set()
        passed.add(name)
        inside = self._org.groups.get(name, set())
        found = inside & self._org.users.keys()
        return found.union(*(self._inside(each, passed) for each in inside - found))

    async def grants(self, holders: Sequence[str]) -> Mapping[str, Grants]:
        """Return what each holder's licence rests on."""
        self._up()
        users = (self._org.users[each] for each in dict.fromkeys(holders) if each in self._org.users)
        return {
            user.id: Grants(
                user.product,
                user.profile or user.product,
                tuple(sorted(user.permission_sets)),
                tuple(sorted(user.permission_set_licences)),
            )
            for user in users
        }

    async def open_records(self, holders: Sequence[str]) -> Mapping[str, Mapping[str, Sequence[str]]]:
        """Return the ids of each holder's open records by object type; a holder without any is left out."""
        self._up()
        asked = set(holders)
        found: dict[str, dict[str, list[str]]] = {}
        for record in self._org.records.values():
            if record.open and record.owner in asked:
                found.setdefault(record.owner, {}).setdefault(record.kind, []).append(record.id)
        return found

    async def close(self) -> None:
        """There is nothing to give back."""

    def _up(self) -> None:
        if self._org.down is not None:
            raise self._org.down

    def _read(self, part: str, value: Any) -> Reading[Any]:
        if (why := self._org.unkept.get(part)) is not None:
            return Unknown(why, kept=False)
        why = self._org.unreadable.get(part)
        return Known(value) if why is None else Unknown(why)

    def _seat(self, user: FakeUser) -> SeatRecord:
        above = self._org.users.get(user.manager_id or "")
        return SeatRecord(
            holder=_person(user),
            product=user.product,
            product_name=user.product,
            department=user.department,
            active=user.active,
            usage_type=user.usage_type,
            created_at=user.created_at,
            last_used_at=user.last_used_at,
            manager=None if above is None else Manager(_person(above), able=above.active and not above.frozen),
            one_switch=self._org.one_switch,
            assigned_at=user.assigned_at,
        )


class FakeActor:
    """The `SeatActor` of an org in memory. It writes one account or record a call, and asks its guard about each."""

    def __init__(self, org: FakeOrg, guard: Guard = unguarded) -> None:
        self._org = org
        self._guard = guard

    def guarded(self, guard: Guard) -> Self:
        """Return this actor, of whatever class it is, with another guard."""
        twin = copy.copy(self)
        twin._guard = guard  # noqa: SLF001  it is one of ours
        return twin

    async def freeze(self, holders: Sequence[str]) -> Mapping[str, ActionResult]:
        """Block sign-in, and keep the seat where that is another switch."""
        if self._org.one_switch:
            return await self._set("freeze", holders, "active", value=False)
        return await self._set("freeze", holders, "frozen", value=True)

    async def unfreeze(self, holders: Sequence[str]) -> Mapping[str, ActionResult]:
        """Let the holder sign in again."""
        if self._org.one_switch:
            return await self._set("unfreeze", holders, "active", value=True)
        return await self._set("unfreeze", holders, "frozen", value=False)

    async def deactivate(self, holders: Sequence[str]) -> Mapping[str, ActionResult]:
        """Free the seat."""
        return await self._set("deactivate", holders, "active", value=False)

    async def reactivate(self, holders: Sequence[str]) -> Mapping[str, ActionResult]:
        """Give the seat back, unfrozen; refused when none is free."""
        results = await self._set("reactivate", holders, "active", value=True)
        awake = [holder for holder, result in results.items() if isinstance(result, Done)]
        for holder, thawed in (await self._set("unfreeze", awake, "frozen", value=False)).items():
            woken = results[holder]
            if isinstance(thawed, Done) and isinstance(woken, Done):
                thawed = Done(woken.changed or thawed.changed, {**woken.before, **thawed.before})
            results[holder] = thawed
        return results

    async def downgrade(self, downgrades: Sequence[Downgrade]) -> Mapping[str, ActionResult]:
        """Take away what needs another licence, give the cheaper one, let the holder sign in."""
        return {each.holder: await self._downgrade(each) for each in downgrades}

    async def upgrade(self, images: Mapping[str, Grants]) -> Mapping[str, ActionResult]:
        """Put back what holders had before their downgrade."""
        return {holder: await self._upgrade(holder, image) for holder, image in images.items()}

    async def _downgrade(self, wanted: Downgrade) -> ActionResult:
        org, user = self._org, self._org.users.get(wanted.holder)
        there = [name for name, product in org.profiles.items() if product == wanted.product] or [wanted.product]
        found = [name for name in there if wanted.profile in ("", name)]
        if org.down is not None:
            return _failure(org.down)
        if len(found) != 1:
            return Refused("NO_PROFILE", f"the org has {', '.join(there)}", "Give the rule a profile that there is.")
        if user is None or not user.active:
            return Refused("INACTIVE_USER", "the account is inactive or gone", "The account is gone: scan again.")
        if wanted.holder == org.run_as:
            return Refused("OWN_USER", "Reclaim signs in as this user", "Leave it alone.")
        kept = [each for each in user.permission_sets if org.needs.get(each, wanted.product) == wanted.product]
        return await self._in_turn(
            wanted.holder,
            ("permission_sets", kept),
            ("permission_set_licences", []),
            ("profile", found[0]),
            ("frozen", False),
        )

    async def _upgrade(self, holder: str, image: Grants) -> ActionResult:
        org, user = self._org, self._org.users.get(holder)
        if org.down is not None:
            return _failure(org.down)
        if user is None:
            return Refused(NO_SUCH_ACCOUNT, "the org has no such user", "The account is gone: scan again.")
        more = [each for each in image.permission_sets if each not in user.permission_sets]
        added = [each for each in image.permission_set_licences if each not in user.permission_set_licences]
        return await self._in_turn(
            holder,
            ("active", True),
            ("profile", image.profile),
            ("permission_set_licences", [*user.permission_set_licences, *added]),
            ("permission_sets", [*user.permission_sets, *more]),
            ("frozen", False),
        )

    async def _in_turn(self, holder: str, *wanted: tuple[str, Any]) -> ActionResult:
        """Set fields of a user one after the other; what fails leaves those before it done."""
        changed, image = False, dict[str, object]()
        for name, value in wanted:
            operation = "upgrade" if name == "active" else "downgrade"
            result = await self._set_guarded(operation, holder, name, value=value)
            if not isinstance(result, Done):
                return result
            changed = changed or result.changed
            image |= result.before
        return Done(changed, image)

    async def hand_over(self, transfers: Sequence[Transfer]) -> Mapping[str, HandedOver | Refused | TryLater]:
        """Give records to their successors, by holder id; those that belong to the successor already are counted."""
        return {transfer.holder: await self._hand_over(transfer) for transfer in transfers}

    async def close(self) -> None:
        """There is nothing to give back."""

    async def _hand_over(self, transfer: Transfer) -> HandedOver | Refused | TryLater:
        org = self._org
        if org.down is not None:
            return _failure(org.down)
        successor = org.users.get(transfer.successor)
        if transfer.successor == transfer.holder:
            return Refused("SAME_OWNER", "the successor is the holder", "Choose another successor.")
        if successor is None or not successor.active:
            return Refused("INACTIVE_SUCCESSOR", "the successor is inactive or gone", "Choose an active successor.")
        if successor.frozen:
            return Refused("FROZEN_SUCCESSOR", "the successor is frozen", "Choose a successor who can sign in.")
        moved: Counter[str] = Counter()
        for record_id in (each for ids in transfer.records.values() for each in ids):
            record = org.records.get(record_id)
            if record is None:
                continue
            if record.owner == transfer.holder and record.open:
                try:
                    await self._guard()
                except Stopped as stopped:
                    return TryLater(str(stopped), moved=moved.total())
                trouble = org.trouble("hand_over", record_id)
                if trouble != "before":
                    self._log(record_id, "owner", record.owner, transfer.successor)
                    record.owner = transfer.successor
                if trouble != "none":
                    return TryLater("the org did not answer", moved=moved.total() + (trouble == "after"))
            if record.owner == transfer.successor:
                moved[record.kind] += 1
        return HandedOver(dict(moved), {})

    async def _set(
        self, operation: str, holders: Sequence[str], name: Literal["active", "frozen"], *, value: bool
    ) -> dict[str, ActionResult]:
        return {
            holder: await self._set_guarded(operation, holder, name, value=value) for holder in dict.fromkeys(holders)
        }

    async def _set_guarded(self, operation: str, holder: str, name: str, *, value: Any) -> ActionResult:
        if self._settled(operation, holder, name, value=value) is None:
            try:
                await self._guard()
            except Stopped as stopped:
                return TryLater(str(stopped))
        return self._set_one(operation, holder, name, value=value)

    def _settled(self, operation: str, holder: str, name: str, *, value: Any) -> ActionResult | None:
        """Return what becomes of an account for which nothing is to be written; None where something is."""
        org = self._org
        if org.down is not None:
            return _failure(org.down)
        user = org.users.get(holder)
        if user is None:
            return Refused(NO_SUCH_ACCOUNT, "the org has no such user", "The account is gone: scan again.")
        if holder == org.run_as and operation in ("freeze", "deactivate"):
            return Refused("OWN_USER", "Reclaim signs in as this user", "Leave it alone.")
        if name == "frozen" and user.frozen and user.frozen_by_another:
            return Refused(FROZEN_BY_ANOTHER, "somebody else froze the account", "Unfreeze it in the org, then retry.")
        if _value(user, name) == value:
            return Done(changed=False, before={_FIELDS[name]: value})
        return None

    def _set_one(self, operation: str, holder: str, name: str, *, value: Any) -> ActionResult:
        settled = self._settled(operation, holder, name, value=value)
        if settled is not None:
            return settled
        org, user = self._org, self._org.users[holder]
        before = _value(user, name)
        if operation == "deactivate" and user.blocked is not None:
            return user.blocked
        product = org.profiles.get(value, value) if name == "profile" else user.product
        takes_a_seat = (name == "active" and value) or (name == "profile" and product != user.product)
        if takes_a_seat and org.used(product) >= org.licences.get(product, 0):
            return Refused("LICENSE_LIMIT_EXCEEDED", "License Limit Exceeded", "Buy a seat or free one, then retry.")
        trouble = org.trouble(operation, holder)
        if trouble != "before":
            self._log(holder, name, before, value)
            setattr(user, name, value)
            user.product = product
            if name == "frozen":
                user.frozen_changed_at, user.frozen_by_another = org.clock.now(), False
        if trouble != "none":
            return TryLater("the org did not answer")
        return Done(changed=True, before={_FIELDS[name]: before})

    def _log(self, record_id: str, name: str, before: object, after: object) -> None:
        self._org.writes.append(Write(self._org.clock.now(), record_id, name, before, after))


_FIELDS = {
    "active": "IsActive",
    "frozen": "IsFrozen",
    "profile": "ProfileId",
    "permission_sets": "PermissionSets",
    "permission_set_licences": "PermissionSetLicences",
}


def _value(user: FakeUser, name: str) -> Any:
    return (user.profile or user.product) if name == "profile" else getattr(user, name)


def _person(user: FakeUser) -> Person:
    return Person(id=user.id, name=user.name or user.id, email=user.email)


def _failure(error: ReclaimError) -> Refused | TryLater:
    if isinstance(error, Transient):
        return TryLater(str(error))
    assert isinstance(error, Permanent)
    return Refused("REFUSED", str(error), "Test the connection, mend what it lists, then retry.")
