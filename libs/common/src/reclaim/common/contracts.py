"""Everything the services say to one another, in one file.

An event is a fact in the past tense. Its wire name carries a version; a change that an old reader could not
read is a new version beside the old one. `CONSUMERS` is the whole reaction map: who must receive what. It is
the topology of the broker, and an outbox row is kept until everyone it names has a receipt for it.

Instants are timezone-aware UTC. Money is a decimal with its currency, never a float. Prices are per month.
"""

from __future__ import annotations

from datetime import date, datetime, time
from decimal import Decimal
from typing import ClassVar, Final, Literal

import msgspec


class Value(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A part of an event. Unknown fields are ignored, so that a reader survives a newer writer."""


class Money(Value, frozen=True, omit_defaults=False):
    """An amount in one currency (ISO 4217). Amounts in two currencies are never added."""

    amount: Decimal
    currency: str


class Person(Value, frozen=True):
    """Somebody as the connected system knows them; `email` is None where the system has none."""

    id: str
    name: str
    email: str | None = None


class Seat(Value, frozen=True):
    """One holder's right to one product on one connection, with its price a month (None: not in the price book).

    A suite is one seat: `components` are the products that go with it, whichever of them the holder has. Installed
    software is one seat a holder: `devices` are those that it is to be taken from; a subscription has none.
    """

    connection_id: str
    product: str
    product_name: str
    holder: Person
    department: str | None = None
    price: Money | None = None
    components: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()

    def covers(self, product: str) -> bool:
        """Tell whether holding this product is holding the seat."""
        return product == self.product or product in self.components


Decision = Literal["keep", "revoke", "downgrade"]
"""What a person may decide. A time-out is not one of them: it is the rule's, and the lifecycle takes it."""

Channel = Literal["email", "itsm", "console"]
Route = Literal["email", "itsm", "both"]
TimeoutAction = Literal["freeze", "keep", "escalate"]
AskFirst = Literal["manager", "holder"]
GraceCalendar = Literal["calendar", "business"]
ReclaimBy = Literal["deactivate", "downgrade", "task"]
"""How a seat is freed: by us, by us with a cheaper licence in its place, or by a person who is given the task."""

Outcome = Literal["kept", "cancelled", "skipped", "restored", "reclaimed"]

Withdrawal = Literal["exempted", "merged", "rule_withdrawn", "profile_removed", "vanished", "used"]
"""Why the scanner takes a case of its own back: its seat was exempted, another case took it over, its rule was
withdrawn, the connection it rested on was removed, the seat is no longer there, or a source tells that it is used."""

Use = Literal["used", "unused", "unknown", "gone", "excluded"]
"""What the scanner says about a seat: `unknown` neither flags nor acts, of a `gone` one nothing is left to take, and
an `excluded` one somebody wants left alone."""


class CheaperLicence(Value, frozen=True):
    """What a holder is moved to instead of losing the account, with its price a month (None: not in the price book).

    `profile` is what the connected system assigns it by (in Salesforce the name of a profile); empty: the only one.
    """

    product: str
    product_name: str
    price: Money | None = None
    profile: str = ""


class UsageTerms(Value, frozen=True):
    """A condition that sources of use have to prove; only the scanner can judge it, see `UsageQuestioned`.

    `words` say it after "It has", for people: "not been used for 90 days, by what its sources report".
    """

    words: str


class Policy(Value, frozen=True):
    """The rule as it stood when the case was opened; a later edit of the rule does not reach the case.

    `inactive_days` is the rule's condition (last used before that many days ago). `decision_days` count from the
    moment the notice was delivered, `grace_days` from the freeze. An account is new for `young_days`. `warn_only` names
    the safety checks that warn instead of skipping.

    `grace_calendar` says whether `grace_days` are any days or working days; with `no_reclaim_before_days_off` no seat
    is freed on a day off or on the day before one. Days off are Saturday, Sunday and `days_off`, in `time_zone`.
    A downgrade, whether the rule's way or a person's decision, needs `downgrade_to`.

    `hand_over_to` is the connected system's id of the user who takes open records over; None: the holder's manager.
    Something is taken away only from `act_from` until `act_until` on working days, in `time_zone`; None: at any time.
    `fallback_approver` is asked when there is no manager who could be. A question that was delivered `remind_days` ago
    and is not answered is put again. With `ask_first` the holder is asked by mail for `holder_days` before the approver
    is; the decision deadline starts with the approver's question. `desk` is the service desk that opens the ticket, by
    the id it is connected as; None: the one where new cases get theirs. Of the rule's seats at most `most_a_day` are
    frozen, and apart from them as many freed, in 24 hours, and `most_a_month` in 30 days, within what its connection
    allows; None: as many as that.

    With `usage` the condition is that one, and `inactive_days` how far back use over other channels counts. With
    `ask_scanner` the scanner is asked before each step, whatever the condition: an exclusion may have come to apply.
    """

    rule_id: str
    rule_version: int
    rule_name: str
    inactive_days: int
    route: Route
    decision_days: int
    on_timeout: TimeoutAction
    grace_days: int
    hand_over: bool
    dry_run: bool
    young_days: int = 30
    warn_only: tuple[str, ...] = ()
    grace_calendar: GraceCalendar = "calendar"
    no_reclaim_before_days_off: bool = False
    days_off: tuple[date, ...] = ()
    time_zone: str = "UTC"
    reclaim_by: ReclaimBy = "deactivate"
    downgrade_to: CheaperLicence | None = None
    hand_over_to: str | None = None
    act_from: time | None = None
    act_until: time | None = None
    fallback_approver: Person | None = None
    remind_days: tuple[int, ...] = ()
    ask_first: AskFirst = "manager"
    holder_days: int = 3
    desk: str | None = None
    most_a_day: int | None = None
    most_a_month: int | None = None
    usage: UsageTerms | None = None
    ask_scanner: bool = False

    @property
    def unused_for(self) -> str:
        """How long the seat has not been used, after "It has", for people."""
        if self.usage is not None:
            return self.usage.words
        return f"not been used for more than {self.inactive_days} days"


USE: Final = "usage"
"""The name of the finding that is no check: what sources of use say, in a case whose rule rests on them."""


class CheckFinding(Value, frozen=True):
    """What one safety check found. `unknown` means its data could not be read; it never counts as a pass."""

    check: str
    outcome: Literal["pass", "skip", "warn", "unknown"]
    evidence: str


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The base of every event; `wire` is its name and version on the bus."""

    wire: ClassVar[str]


class CaseEvent(Event, frozen=True):
    """An event of one case. `case_id` is also the CloudEvents subject."""

    case_id: str


class UserFlagged(CaseEvent, frozen=True):
    """A rule found a seat unused and every safety check let it pass: a case begins.

    `run_id` is the scan that flagged it, `seats_total` how many seats of the connection and product that scan saw.
    """

    wire = "reclaim.UserFlagged.v1"

    seat: Seat
    approver: Person | None
    policy: Policy
    findings: tuple[CheckFinding, ...]
    last_used_at: datetime | None
    flagged_at: datetime
    run_id: str | None = None
    seats_total: int | None = None


class CaseWithdrawn(CaseEvent, frozen=True):
    """The scanner takes a case of its own back: whatever was done to the account is undone, and the case closes.

    What was reclaimed already stays so, and a case that was decided upon is not merged any more: that is recorded.
    `actor` is the person or the part of the system that is behind it; `reason` is for people.
    """

    wire = "reclaim.CaseWithdrawn.v1"

    kind: Withdrawal
    reason: str
    actor: str
    withdrawn_at: datetime


class UsageQuestioned(CaseEvent, frozen=True):
    """A step is about to be taken, and only the scanner can say whether the seat is still unused, or excluded by now.

    `last_used_at` is what the connected system said at `asked_at` (None: never), if `read`; else it keeps no last use.
    `department` is what it said then of the holder; None if it said nothing.
    """

    wire = "reclaim.UsageQuestioned.v1"

    asked_at: datetime
    last_used_at: datetime | None = None
    read: bool = False
    department: str | None = None


class UsageJudged(CaseEvent, frozen=True):
    """The scanner judged a seat by the condition that its case was opened under; `asked_at` is the question's."""

    wire = "reclaim.UsageJudged.v1"

    use: Use
    reason: str
    asked_at: datetime
    judged_at: datetime


class NoticeDelivered(CaseEvent, frozen=True):
    """The question really reached the approver's mail server or service desk: the decision deadline starts."""

    wire = "reclaim.NoticeDelivered.v1"

    channel: Channel
    recipient: str
    delivered_at: datetime


class NoticeFailed(CaseEvent, frozen=True):
    """Nobody could be asked. `remedy` says what a person has to do."""

    wire = "reclaim.NoticeFailed.v1"

    channel: Channel
    reason: str
    remedy: str
    failed_at: datetime


class TicketUndecided(CaseEvent, frozen=True):
    """The ticket that asks was closed without an answer or with two that disagree, or is gone: it decides nothing.

    The time to decide runs on, and a person has to look; `remedy` says what they can do.
    """

    wire = "reclaim.TicketUndecided.v1"

    reason: str
    remedy: str
    noticed_at: datetime


class DecisionReceived(CaseEvent, frozen=True):
    """A person decided. A `keep` while the seat is frozen is an appeal.

    `ip` and `user_agent` are personal data: readers keep them apart from the record of the decision.
    """

    wire = "reclaim.DecisionReceived.v1"

    decision: Decision
    channel: Channel
    actor: str
    reason: str
    decided_at: datetime
    ip: str | None = None
    user_agent: str | None = None


class UserFrozen(CaseEvent, frozen=True):
    """The holder can no longer sign in; the seat is not free yet, and an appeal restores it until `grace_ends_at`.

    `downgrade_to`, here and below, is what the holder gets in the seat's place: what is saved is the difference.
    """

    wire = "reclaim.UserFrozen.v1"

    seat: Seat
    decision: Literal["revoke", "downgrade", "timeout"]
    frozen_at: datetime
    grace_ends_at: datetime
    dry_run: bool
    downgrade_to: CheaperLicence | None = None


class UserRestored(CaseEvent, frozen=True):
    """An appeal was granted: the holder can sign in again."""

    wire = "reclaim.UserRestored.v1"

    seat: Seat
    actor: str
    reason: str
    restored_at: datetime
    dry_run: bool
    downgrade_to: CheaperLicence | None = None


class FulfilmentAnnounced(CaseEvent, frozen=True):
    """A seat that a person frees was decided upon: they are asked when grace is over, and nothing is done before.

    Until `grace_ends_at` it can be kept.
    """

    wire = "reclaim.FulfilmentAnnounced.v1"

    seat: Seat
    decision: Literal["revoke", "downgrade", "timeout"]
    announced_at: datetime
    grace_ends_at: datetime
    dry_run: bool
    downgrade_to: CheaperLicence | None = None


class FulfilmentRequested(CaseEvent, frozen=True):
    """Grace is over, and a person has to free the seat: Reclaim changes nothing for it. `instructions` say what to do.

    Who has done it says so on the case; a dry run asks nobody.
    """

    wire = "reclaim.FulfilmentRequested.v1"

    seat: Seat
    rule_id: str
    rule_name: str
    method: Literal["deactivate", "downgrade"]
    instructions: str
    requested_at: datetime
    dry_run: bool
    downgrade_to: CheaperLicence | None = None


class FulfilmentReported(CaseEvent, frozen=True):
    """Somebody said what became of the task of freeing a seat: `done`, or it cannot be done, and `note` says why.

    `actor` is who said it, `channel` where.
    """

    wire = "reclaim.FulfilmentReported.v1"

    done: bool
    channel: Channel
    actor: str
    note: str
    reported_at: datetime


class SeatReclaimed(CaseEvent, frozen=True):
    """The seat is free, and the holder's open records have a new owner. `fulfilled_by` is who freed it by hand."""

    wire = "reclaim.SeatReclaimed.v1"

    seat: Seat
    rule_id: str
    rule_name: str
    method: Literal["deactivate", "downgrade"]
    records_transferred: int
    reclaimed_at: datetime
    dry_run: bool
    downgrade_to: CheaperLicence | None = None
    fulfilled_by: str | None = None


class SeatReactivated(CaseEvent, frozen=True):
    """A reclaimed seat was given back to its holder; its saving ends."""

    wire = "reclaim.SeatReactivated.v1"

    seat: Seat
    rule_id: str
    rule_name: str
    actor: str
    reason: str
    reactivated_at: datetime
    dry_run: bool
    downgrade_to: CheaperLicence | None = None


class CaseClosed(CaseEvent, frozen=True):
    """A case ended, whichever way. The holder and product may be flagged again from now on.

    `frozen` is the seat that had been frozen and was neither restored nor freed by us: what it might have saved is off.
    `withdrawn` is why the scanner took back a case for which nothing had been done to the account yet; a case of a seat
    that is used is `cancelled`, and has none.
    """

    wire = "reclaim.CaseClosed.v1"

    outcome: Outcome
    reason: str
    closed_at: datetime
    frozen: Seat | None = None
    downgrade_to: CheaperLicence | None = None
    dry_run: bool = False
    withdrawn: Withdrawal | None = None


class AttentionRaised(CaseEvent, frozen=True):
    """Only a person can move the case on. `remedy` says how."""

    wire = "reclaim.AttentionRaised.v1"

    seat: Seat
    reason: str
    remedy: str
    raised_at: datetime


class PagesServed(Event, frozen=True):
    """The pages on which people answer were up from `since` until `until`, without a break that counts as an outage.

    Said again and again while they are: a later `until` of the same `since` goes on where the earlier one ended, and
    after a break there is a new `since`. `beat` is `until` by the machine's clock, in milliseconds, which does not move
    with a demo's.
    """

    wire = "reclaim.PagesServed.v1"

    since: datetime
    until: datetime
    beat: int


class ConnectionChanged(Event, frozen=True):
    """An integration profile was added, edited or removed.

    `credentials` is sealed with the installation's key (see `security.Sealer`); it is never readable on the bus.
    """

    wire = "reclaim.ConnectionChanged.v1"

    connection_id: str
    name: str
    kind: str
    settings: dict[str, str]
    credentials: str
    version: int
    removed: bool = False


class DeskChanged(Event, frozen=True):
    """A service desk was connected, or disconnected, or what is said of it here changed.

    `desk_id` is what it is connected as, and `platform` the kind of desk. The one that `asks` is where new cases get
    their tickets whose rule names none. `version` goes on counting when a desk of the same id is connected again.
    """

    wire = "reclaim.DeskChanged.v1"

    desk_id: str
    platform: str
    asks: bool
    version: int
    removed: bool = False


SERVICES: Final = ("scanner", "approvals", "itsm-gateway", "lifecycle", "savings")
"""Every service, in an order that never changes: an outbox row's outstanding receipts are bits by this index."""

CONSUMERS: Final[dict[type[Event], tuple[str, ...]]] = {
    ConnectionChanged: ("lifecycle",),
    DeskChanged: ("scanner",),
    UserFlagged: ("approvals", "itsm-gateway", "lifecycle"),
    CaseWithdrawn: ("lifecycle",),
    UsageQuestioned: ("scanner",),
    UsageJudged: ("lifecycle",),
    NoticeDelivered: ("lifecycle",),
    NoticeFailed: ("lifecycle",),
    TicketUndecided: ("lifecycle",),
    PagesServed: ("lifecycle",),
    DecisionReceived: ("lifecycle",),
    UserFrozen: ("approvals", "itsm-gateway", "savings"),
    UserRestored: ("approvals", "itsm-gateway", "savings"),
    FulfilmentAnnounced: ("itsm-gateway",),
    FulfilmentRequested: ("itsm-gateway",),
    FulfilmentReported: ("lifecycle",),
    SeatReclaimed: ("approvals", "itsm-gateway", "savings"),
    SeatReactivated: ("scanner", "approvals", "itsm-gateway", "savings"),
    CaseClosed: ("scanner", "approvals", "itsm-gateway", "savings"),
    AttentionRaised: ("approvals",),
}

BY_WIRE: Final[dict[str, type[Event]]] = {event.wire: event for event in CONSUMERS}
