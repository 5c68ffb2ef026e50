"""What a connector can do, by capability.

Reading and acting are two objects. A dry run is given the reader only, so it cannot write: there is nothing on
what it holds that could. Everything takes many holders at once, because the systems behind charge per call.

A reading that failed is `Unknown`, never an empty answer: an empty answer would pass every safety check.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Generic, Literal, Protocol, TypeVar

from reclaim.common.contracts import Person
from reclaim.common.errors import Permanent, ReclaimError, Transient

T_co = TypeVar("T_co", covariant=True)


class Incomplete(Permanent):
    """A listing ended before everything it announced had been seen: it must not be taken for everything."""

    title = "Incomplete data"


class Stopped(Transient):
    """A guard's word that nothing more may be written for now; what was sent before it stays as it was answered."""

    title = "Stopped"


Guard = Callable[[], Awaitable[None]]
"""Asked right before each call that writes, again and again within one action: it returns, or raises `Stopped`.

A guard that cannot tell raises `Stopped` too. Its time is part of the window between the read and the write, so it
should be short.
"""


async def unguarded() -> None:
    """The guard of an actor that was given none: everything may be written."""


@dataclass(frozen=True, slots=True)
class Known(Generic[T_co]):
    """Data that was read, completely."""

    value: T_co


@dataclass(frozen=True, slots=True)
class Unknown:
    """Data that could not be read, and why (for a person to mend).

    Not `kept`: the system has no such data, so its silence hides nothing, and other sources may answer in its place.
    """

    reason: str
    kept: bool = True


Reading = Known[T_co] | Unknown


@dataclass(frozen=True, slots=True)
class Manager:
    """Who a holder reports to. `able` is False when that account is inactive or frozen."""

    person: Person
    able: bool


@dataclass(frozen=True, slots=True)
class SeatRecord:
    """One seat as the system reports it.

    `product` is the system's stable key of the licence, `last_used_at` the last interactive sign-in (None: never, or
    the system does not tell, and then the survey's `last_seen_elsewhere` is Unknown), `usage_type` the kind of account
    (`Standard` in Salesforce; other kinds are never candidates). `one_switch` is True where freezing an account and
    freeing its seat are one and the same switch, so that an inactive account may be one that was frozen.

    `assigned_at` is when the holder got the licence, if the system keeps that. An installation has its `device`, and
    the `version` and the device's `platform` if they are known; no account goes with it.
    """

    holder: Person
    product: str
    product_name: str
    department: str | None
    active: bool
    usage_type: str
    created_at: datetime
    last_used_at: datetime | None
    manager: Manager | None
    one_switch: bool = False
    assigned_at: datetime | None = None
    device: str = ""
    version: str | None = None
    platform: str | None = None


@dataclass(frozen=True, slots=True)
class Survey:
    """What the safety checks read, for one scan or for a handful of holders. Holders are ids.

    `last_seen_elsewhere` holds the latest use over API, OAuth and SSO; `thawed_at` when an account was last changed
    by an administrator's freeze or unfreeze; `open_business` counts open records that need a new owner.
    The values of the mappings that name things (schedules, approvals, queues) are evidence to show a person.

    `seen` are those of the holders asked about whose account this reading came upon: of any other the parts say
    nothing, though no part names it. None where everybody was asked about, or no account stands behind a seat.
    """

    taken_at: datetime
    last_seen_elsewhere: Reading[Mapping[str, datetime]]
    integration_users: Reading[Mapping[str, str]]
    administrators: Reading[Mapping[str, str]]
    exempt: Reading[Mapping[str, str]]
    frozen: Reading[frozenset[str]]
    thawed_at: Reading[Mapping[str, datetime]]
    scheduled_work: Reading[Mapping[str, str]]
    pending_approvals: Reading[Mapping[str, str]]
    queues: Reading[Mapping[str, str]]
    open_business: Reading[Mapping[str, int]]
    seen: frozenset[str] | None = None

    def misses(self, holder: str) -> bool:
        """Tell whether this reading was about a holder's account and did not come upon it."""
        return self.seen is not None and holder not in self.seen


@dataclass(frozen=True, slots=True)
class Licence:
    """One pool of seats: how many were bought (None: the system does not tell) and how many are in use."""

    product: str
    name: str
    total: int | None
    used: int


@dataclass(frozen=True, slots=True)
class Members:
    """Who is in a group, by id, directly or through the groups in it.

    `doubt` says why others may be in it as well, for a person to mend; empty: nobody else is. A doubt that is `passing`
    may be gone with the next reading.
    """

    ids: frozenset[str] = frozenset()
    doubt: str = ""
    passing: bool = False

    @classmethod
    def unread(cls, error: ReclaimError, doubt: str) -> Members:
        """Return that nobody can tell who is in a group, as reading it ended with an error."""
        return cls(doubt=doubt, passing=isinstance(error, Transient | Incomplete))

    def has(self, holder: str) -> bool | None:
        """Tell whether a holder is in it; None if that is not known."""
        return True if holder in self.ids else None if self.doubt else False


@dataclass(frozen=True, slots=True)
class TestResult:
    """One thing that a connection needs, whether it works, and what to do if not."""

    what: str
    ok: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Grants:
    """What a holder's licence rests on, by the system's ids: the image to put back after a downgrade."""

    product: str
    profile: str
    permission_sets: tuple[str, ...] = ()
    permission_set_licences: tuple[str, ...] = ()


class SeatReader(Protocol):
    """Everything a scan and a re-check need, and no way to change anything."""

    async def test(self) -> Sequence[TestResult]:
        """Try each permission that scanning needs; one result each, never an exception for a failed one."""
        ...

    async def licences(self) -> Sequence[Licence]:
        """Return the pools of seats."""
        ...

    def seats(self, products: Sequence[str]) -> AsyncIterator[Sequence[SeatRecord]]:
        """Yield all active seats of the given products, a page at a time (memory stays that of a page).

        The seats of one holder come one after the other: what belongs to one suite is put together on the way.

        Raises:
            Incomplete: paging ended early; what was yielded must not be taken for everything.
            Transient: the system did not answer, or its call limit is near.
            Permanent: the credentials or permissions do not allow it.
        """
        ...

    async def seats_of(self, holders: Sequence[str]) -> Mapping[str, SeatRecord]:
        """Return the present record of each holder; one that no longer exists is left out."""
        ...

    async def survey(self, holders: Sequence[str] | None, *, since: datetime) -> Survey:
        """Read what the safety checks need, for the given holders or (None) for everybody.

        `since` bounds the history that counts as use elsewhere and, for everybody, of freezes and thaws; for everybody
        `open_business` may leave out who has a manager that can take it over. The number of calls does not grow with
        holders except by paging. A part that could not be read is `Unknown`.
        """
        ...

    async def members(self, groups: Sequence[str]) -> Mapping[str, Members]:
        """Return who is in each of some groups, by the group's name as its system shows it.

        The number of calls does not grow with members except by paging. Of a group that is not there, or that could
        not be read whole, the doubt says so: a name that is misspelt must not make everybody a person outside it.

        Raises:
            Transient, Permanent: as `survey`.
        """
        ...

    async def grants(self, holders: Sequence[str]) -> Mapping[str, Grants]:
        """Return what each holder's licence rests on; a holder that no longer exists is left out."""
        ...

    async def open_records(self, holders: Sequence[str]) -> Mapping[str, Mapping[str, Sequence[str]]]:
        """Return the ids of each holder's open records by object type; a holder without any is left out."""
        ...

    async def close(self) -> None:
        """Give back sockets and threads."""
        ...


@dataclass(frozen=True, slots=True)
class Done:
    """The seat is as asked. `changed` is False when it was so already; `before` is what to put back to undo."""

    changed: bool
    before: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Refused:
    """The system will not do it, in its own words, and what a person can do about it.

    Never while something may have been written of which nobody knows: that is `TryLater`. Of an action of several
    writes (`reactivate`, `downgrade`, `upgrade`), what came before the one that is refused is done and stays.
    """

    code: str
    message: str
    remedy: str


@dataclass(frozen=True, slots=True)
class TryLater:
    """Not finished, and the same call may succeed later; what it did by then, the next one finds done.

    It is not said whether something was written: a caller that gives up has to reckon with it.

    `moved` counts the records of a hand-over that belong to the successor by now, for when there is no next call.
    """

    reason: str
    moved: int = 0


ActionResult = Done | Refused | TryLater

NO_SUCH_ACCOUNT: Final = "NOT_FOUND"
"""The code of a refusal: the connection shows no such account. It may have been deleted, or be out of its sight."""

FROZEN_BY_ANOTHER: Final = "FROZEN_BY_ANOTHER"
"""The code of a refusal: the account is frozen, and it was not us who changed its freeze last."""


@dataclass(frozen=True, slots=True)
class Downgrade:
    """One holder's way to a cheaper licence. `profile` names what assigns it; empty: the only one there is."""

    holder: str
    product: str
    profile: str = ""


@dataclass(frozen=True, slots=True)
class Transfer:
    """Records of one holder that are to belong to `successor`: ids by object type, fixed before the first write."""

    holder: str
    successor: str
    records: Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class HandedOver:
    """How many of a transfer's records belong to the successor now, by object type, whichever attempt moved them,
    and those that could not be moved (record id → why not). A record that was closed, deleted or given
    to somebody else meanwhile is neither.
    """

    moved: Mapping[str, int]
    failed: Mapping[str, Refused]


class SeatActor(Protocol):
    """The only thing that can change accounts. Every method reads before it writes and reads back after.

    Each returns one result per holder, whatever happens to the others, and can be repeated safely: a seat that is
    already as asked is `Done(changed=False)`. No method raises for a single holder.
    """

    def guarded(self, guard: Guard) -> SeatActor:
        """Return this actor with another guard, over the same connections: who closes one closes both.

        The guard is asked right before every call that writes, each part of a large action and each repetition
        included; reading is not asked about. Once it raises `Stopped`, what was not sent by then is `TryLater` with
        its words, what needed no writing is `Done(changed=False)`, and what was sent ends as it was answered.
        """
        ...

    async def freeze(self, holders: Sequence[str]) -> Mapping[str, ActionResult]:
        """Block sign-in, keep the seat. Where the system says who did it, another's freeze is `FROZEN_BY_ANOTHER`."""
        ...

    async def unfreeze(self, holders: Sequence[str]) -> Mapping[str, ActionResult]:
        """Let the holder sign in again; another's freeze is left alone, and refused as `FROZEN_BY_ANOTHER`.

        So is it in every method that lets the holder sign in at its end.
        """
        ...

    async def deactivate(self, holders: Sequence[str]) -> Mapping[str, ActionResult]:
        """Free the seat."""
        ...

    async def reactivate(self, holders: Sequence[str]) -> Mapping[str, ActionResult]:
        """Give the seat back, unfrozen; refused when none is free."""
        ...

    async def downgrade(self, downgrades: Sequence[Downgrade]) -> Mapping[str, ActionResult]:
        """Free the seat by giving the holder a cheaper licence, unfrozen; what needs the old one is taken away first.

        Read `grants` before: what was taken away by an earlier attempt is not seen here any more.
        """
        ...

    async def upgrade(self, images: Mapping[str, Grants]) -> Mapping[str, ActionResult]:
        """Put back what holders had before their downgrade, unfrozen; refused when no seat is free."""
        ...

    async def hand_over(self, transfers: Sequence[Transfer]) -> Mapping[str, HandedOver | Refused | TryLater]:
        """Give records to their successors, by holder id; those that belong to the successor already are counted."""
        ...

    async def close(self) -> None:
        """Give back sockets and threads."""
        ...


Channel = Literal["ui", "mobile", "api", "sso"]
"""The way in which something was used: at its own pages or window, on a phone, by a program, or signed in to."""


@dataclass(frozen=True, slots=True)
class UsageRecord:
    """One user's use of one product within one period, as one source tells it.

    Instants are UTC; the period is `[period_start, period_end)`. Records with the same source, user, product, process,
    version, device, channel and period tell of the same use: the later one replaces the earlier. One with no seconds
    and no runs says that there was no use.
    """

    source: str
    """Who tells it: the name of a connection, or of a feed."""
    user: str | None
    """Whom the source names, as it writes it (a sign-in name, an address); None: nobody, only a device."""
    product: str
    """The source's key of the product; "" where it names a process only."""
    product_name: str
    channel: Channel
    period_start: datetime
    period_end: datetime
    last_used_at: datetime | None
    """None: used, but the source does not tell when."""
    runs: int | None = None
    """How often it was started or signed in to; None: not counted."""
    seconds: int | None = None
    """For how long it was used; None: not measured."""
    process: str | None = None
    """The file name of the process, for installed software."""
    version: str | None = None
    platform: str | None = None
    device: str | None = None


@dataclass(frozen=True, slots=True)
class Installation:
    """One product installed on one device, as one source tells it; `user` is whom the source names with the device."""

    source: str
    device: str
    product: str
    version: str | None = None
    publisher: str | None = None
    platform: str | None = None
    installed_at: datetime | None = None
    user: str | None = None


@dataclass(frozen=True, slots=True)
class Coverage:
    """The time for which a source would have told of a use: absence proves something within `[since, until)` only.

    `reason` says, for a person, why it is no longer.
    """

    since: datetime
    until: datetime
    reason: str


@dataclass(frozen=True, slots=True)
class UsagePage:
    """A part of what a source tells: of the day (UTC) that begins at `day`.

    `failed` counts attempts that did not come to a use. `unattributed` counts, by product, uses of somebody whom the
    source does not name, or names by a pseudonym: as long as there are any, nobody's absence is proven there.
    """

    day: datetime
    records: Sequence[UsageRecord]
    failed: int = 0
    unattributed: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Application:
    """Something that people sign in to through a source; `id` is the product that its records name."""

    id: str
    name: str
    active: bool = True


class UsageReader(Protocol):
    """A source that tells of use, and no way to change anything."""

    async def test(self) -> Sequence[TestResult]:
        """Try each permission that reading needs; one result each, never an exception for a failed one."""
        ...

    def coverage(self, since: datetime) -> Coverage:
        """Return for which part of the time from `since` until now this source can vouch. Calls nobody."""
        ...

    async def applications(self) -> Sequence[Application]:
        """Return what the source can tell the use of, by name.

        Raises:
            Transient: the system did not answer.
            Permanent: the credentials or permissions do not allow it.
        """
        ...

    def usage(self, since: datetime, *, only: Collection[str] = ()) -> AsyncIterator[UsagePage]:
        """Yield what is known of use from `since` until now, in whole days of UTC; memory stays that of a day.

        `only` are ids of applications; none: of all that the source tells about.

        Reading again from an earlier instant gives the same records again, and what arrived late with them.

        Raises:
            Incomplete: paging ended early; absence from what was yielded proves nothing.
            Transient: the system did not answer.
            Permanent: the credentials or permissions do not allow it.
        """
        ...

    async def close(self) -> None:
        """Give back sockets and threads."""
        ...


Capability = Literal["seats", "usage", "groups", "freeze", "reclaim", "downgrade", "hand_over"]


@dataclass(frozen=True, slots=True)
class ConnectionProfile:
    """What is needed to open a connection: `settings` may be shown, `credentials` never."""

    id: str
    name: str
    kind: str
    settings: Mapping[str, str]
    credentials: Mapping[str, str] = field(repr=False)


class Connectors(Protocol):
    """Opens connections by their kind; what a service is given instead of any one connector."""

    def reader(self, profile: ConnectionProfile) -> SeatReader:
        """Return a connector that can only read."""
        ...

    def usage_reader(self, profile: ConnectionProfile) -> UsageReader:
        """Return a source of usage.

        Raises:
            NotOffered: this kind of connection tells nobody's use, or tells it with its seats only.
        """
        ...

    def actor(self, profile: ConnectionProfile) -> SeatActor:
        """Return a connector that can act. Never called for a dry run.

        Raises:
            NotOffered: this kind of connection cannot act.
        """
        ...
