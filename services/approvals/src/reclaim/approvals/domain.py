"""What the stage decides: whom it may ask, what a link opens, and who is told what. Pure: no clock, no I/O."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, Literal

from reclaim.common.contracts import CheckFinding, Decision, Money, Outcome, Person, Policy, Seat

Purpose = Literal["decision", "appeal"]
Status = Literal["not_ours", "open", "decided", "closed"]
Asking = Literal["manager", "holder"]
MailKind = Literal[
    "ask", "ask_holder", "remind", "frozen", "restored", "reclaimed", "reactivated", "closed", "attention"
]
Audience = Literal["manager", "holder", "operations"]

SYSTEM: Final = "Salesforce"
NOW: Final = "That is for the next time: this case waits for a decision on its own page."
"""Where an operator corrects people and their managers, as a remedy names it."""

MAX_JUSTIFICATION: Final = 2_000
ALLOWED: Final[dict[Purpose, tuple[Decision, ...]]] = {"decision": ("keep", "revoke"), "appeal": ("keep",)}
RENEW_AFTER: Final = timedelta(minutes=15)
"""A new link is sent at most this often for one request."""

APPEAL_HOLDS: Final = timedelta(days=180)
"""How long after the end of grace a link still opens the appeal, if the seat has not been freed by then."""

_ADDRESS: Final = re.compile(r"""[^@\s<>()\[\],;:\\"]+@[^@\s<>()\[\],;:\\".]+(\.[^@\s<>()\[\],;:\\".]+)*""")
_REORDERING: Final = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that show the text around them in another order than it has."""

_MAX_ADDRESS: Final = 254  # RFC 5321, 4.5.3.1.3, less the angle brackets


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One case as this stage knows it: the question, the answer, and what became of the seat.

    Each `..._at` is set by one event, whichever order the events come in; None means that it has not come.
    `epoch` and `appeal_epoch` number the links: only the newest ones open the question. `asking` is whose
    turn it is; at `ask_next_at` an unanswered question is put again, or to the manager after the holder.
    """

    case_id: str
    status: Status
    seat: Seat
    policy: Policy
    findings: tuple[CheckFinding, ...]
    approver: Person | None
    last_used_at: datetime | None
    flagged_at: datetime
    epoch: int = 1
    appeal_epoch: int = 1
    delivered_at: datetime | None = None
    renewed_at: datetime | None = None
    ask_failed_at: datetime | None = None
    ask_failure: str | None = None
    decision: Decision | None = None
    decided_at: datetime | None = None
    decided_by: str | None = None
    justification: str = ""
    frozen_at: datetime | None = None
    frozen_because: Literal["revoke", "downgrade", "timeout"] | None = None
    grace_ends_at: datetime | None = None
    appealed_at: datetime | None = None
    appealed_by: str | None = None
    appeal_reason: str = ""
    restored_at: datetime | None = None
    restored_by: str | None = None
    reclaimed_at: datetime | None = None
    records_transferred: int | None = None
    reactivated_at: datetime | None = None
    reactivated_by: str | None = None
    closed_at: datetime | None = None
    outcome: Outcome | None = None
    closed_reason: str | None = None
    ask_next_at: datetime | None = None
    asking: Asking = "manager"

    @property
    def holder(self) -> Person:
        return self.seat.holder

    @property
    def manager_address(self) -> str | None:
        return usable_address(self.approver.email) if self.approver else None

    @property
    def in_place_of_manager(self) -> bool:
        """Whether the rule's fallback is asked, because there is no manager who could be."""
        return self.approver is not None and self.approver == self.policy.fallback_approver

    @property
    def holder_address(self) -> str | None:
        return usable_address(self.holder.email)

    @property
    def deadline(self) -> datetime | None:
        """When the time to answer ends; None as long as the question has not been delivered."""
        return self.delivered_at + timedelta(days=self.policy.decision_days) if self.delivered_at else None

    @property
    def price_per_year(self) -> Money | None:
        price = self.seat.price
        return Money(amount=price.amount * 12, currency=price.currency) if price else None

    @property
    def appealable(self) -> bool:
        """Whether the seat is frozen and nothing has happened to it since.

        Grace is never shorter than was said, and often longer: while a kill switch, a brake, a day off or a person
        holds the step that would free the seat, it is not freed, and can be given back.
        """
        later = (self.appealed_at, self.restored_at, self.reclaimed_at, self.reactivated_at, self.closed_at)
        return self.frozen_at is not None and not any(later)

    def overtime(self, now: datetime) -> bool:
        """Whether the time promised for an appeal is over: one that comes now counts until the seat is freed."""
        return self.appealable and self.grace_ends_at is not None and now >= self.grace_ends_at

    @property
    def appealed_in_overtime(self) -> bool:
        """Whether somebody appealed after the time that was promised for it."""
        ended, appealed = self.grace_ends_at, self.appealed_at
        return ended is not None and appealed is not None and appealed >= ended


@dataclass(frozen=True, slots=True)
class Link:
    """What a signed link says. `jti` is its random id; `choices` are the decisions that it can take."""

    purpose: Purpose
    case_id: str
    epoch: int
    recipient: str
    choices: tuple[str, ...]
    expires_at: datetime
    jti: str


class Opens(StrEnum):
    """What a link opens now. Everything but `QUESTION` is a page that says why not."""

    QUESTION = "question"
    ANSWERED = "answered"
    CLOSED = "closed"
    SUPERSEDED = "superseded"
    EXPIRED = "expired"
    FORGED = "forged"


def opens(link: Link, request: Request | None, now: datetime) -> Opens:
    """Tell what a link whose signature was right opens. What was decided is shown even on an old link."""
    if request is None or link.recipient not in _recipients(link.purpose, request):
        return Opens.FORGED
    if link.purpose == "decision":
        answered, open_, epoch = request.decision is not None, request.status == "open", request.epoch
    else:
        answered, open_, epoch = request.appealed_at is not None, request.appealable, request.appeal_epoch
    if answered:
        return Opens.ANSWERED
    if not open_:
        return Opens.CLOSED
    if link.epoch != epoch:
        return Opens.SUPERSEDED
    if now >= link.expires_at:
        return Opens.EXPIRED
    return Opens.QUESTION


def _recipients(purpose: Purpose, request: Request) -> set[str | None]:
    everyone = {request.manager_address, request.holder_address}
    if purpose == "decision" and request.policy.ask_first != "holder":
        everyone = {request.manager_address}
    return everyone - {None}


@dataclass(frozen=True, slots=True)
class Unaskable:
    """Why nobody can be asked, and what a person has to do."""

    reason: str
    remedy: str


def whom_to_ask(seat: Seat, approver: Person | None, policy: Policy) -> tuple[Person | None, Unaskable | None]:
    """Return who is asked, and why nobody can be; the rule's fallback is, where the approver cannot."""
    unaskable = why_unaskable(seat, approver)
    fallback = policy.fallback_approver
    if unaskable is not None and fallback is not None and why_unaskable(seat, fallback) is None:
        return fallback, None
    return approver, unaskable


def why_unaskable(seat: Seat, approver: Person | None) -> Unaskable | None:
    """Return why the question cannot be sent, or None when it can."""
    holder = f"{clean(seat.holder.name)} ({seat.holder.id})"
    if approver is None:
        return Unaskable(
            f"{holder} has no manager, so there is nobody to ask.",
            f"Set the manager of {holder} in {SYSTEM}. {NOW}",
        )
    manager = f"{clean(approver.name)} ({approver.id})"
    own_address = seat.holder.email and approver.email and seat.holder.email.lower() == approver.email.lower()
    if approver.id == seat.holder.id or own_address:
        return Unaskable(
            f"{holder} is entered as their own manager, and nobody decides about their own seat.",
            f"Set another person as the manager of {holder} in {SYSTEM}. {NOW}",
        )
    if not approver.email:
        return Unaskable(
            f"{manager}, the manager of {holder}, has no e-mail address.",
            f"Enter the e-mail address of {manager} in {SYSTEM}. {NOW}",
        )
    if usable_address(approver.email) is None:
        return Unaskable(
            f"The e-mail address of {manager}, the manager of {holder}, is not a valid one.",
            f"Correct the e-mail address of {manager} in {SYSTEM}. {NOW}",
        )
    return None


def refused_by_server(request: Request, said: str) -> Unaskable:
    """Return what to say when the mail server will not take the question for the manager's address."""
    manager = f"{clean(request.approver.name)} ({request.approver.id})" if request.approver else "the manager"
    return Unaskable(
        f"The mail server refused the mail to {manager}: {said}",
        f"Correct the e-mail address of {manager} in {SYSTEM}. If the address is right, repair the mailbox and send "
        f"the question again from the approvals page. {NOW}",
    )


def undelivered(request: Request, said: str) -> Unaskable:
    """Return what to say when the question could not be delivered for `UNDELIVERED`; it is tried on all the same."""
    manager = f"{clean(request.approver.name)} ({request.approver.id})" if request.approver else "the manager"
    return Unaskable(
        f"The question to {manager} could not be delivered for a day: {said}",
        f"Repair the mailbox of {manager}, or the mail server: the question arrives by itself as soon as that works. "
        "Or decide on the case's own page.",
    )


def next_reminder(policy: Policy, delivered_at: datetime, after: datetime) -> datetime | None:
    """Return when a question is put again, later than `after`; None if it is not, or its deadline would have passed."""
    days = (day for day in policy.remind_days if 0 < day < policy.decision_days)
    return min((at for day in days if (at := delivered_at + timedelta(days=day)) > after), default=None)


def reminder_wanted(request: Request, now: datetime) -> bool:
    """Tell whether a question still waits for an answer that it can reach, and is not over yet."""
    return (
        request.status == "open"
        and request.asking == "manager"
        and request.ask_failed_at is None
        and request.manager_address is not None
        and request.deadline is not None
        and now < request.deadline
    )


def closing_note_due(request: Request) -> bool:
    """Whether the manager is told that the case ended: after a question that arrived, about what they did not decide.

    A restored or a reclaimed seat has a mail of its own.
    """
    if request.delivered_at is None or request.closed_at is None or request.status == "not_ours":
        return False
    if request.outcome in {"restored", "reclaimed"}:
        return False
    return not (request.outcome == "kept" and request.decision == "keep")


class Refused(StrEnum):
    """Why a form is not taken as it was sent."""

    NO_CHOICE = "Choose one of the two."
    NO_JUSTIFICATION = "Say in a few words why the seat is still needed."
    TOO_LONG = f"Please use at most {MAX_JUSTIFICATION:,} characters."


def check_answer(link: Link, choice: str, justification: str) -> Refused | None:
    """Return what is wrong with an answer, or None. A seat is kept for a stated reason; taking it back needs none."""
    if choice not in link.choices:
        return Refused.NO_CHOICE
    if len(justification) > MAX_JUSTIFICATION:
        return Refused.TOO_LONG
    if choice == "keep" and not justification:
        return Refused.NO_JUSTIFICATION
    return None


def plain_text(text: str) -> str:
    """Return text as a person typed it: one kind of line end, no control characters, no blank margins."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").expandtabs(1).split("\n")
    return "\n".join(_printable(line).rstrip() for line in lines).strip()


def clean(text: str) -> str:
    """Return a name on one line: a line end in it could otherwise start a header of a mail."""
    return " ".join(_printable(" ".join(text.split())).split())


def _printable(text: str) -> str:
    return "".join(
        character
        for character in text
        if unicodedata.category(character) not in {"Cc", "Cs"} and character not in _REORDERING
    )


def usable_address(address: str | None) -> str | None:
    """Return the address if a mail can be sent to it, else None; nothing around it is repaired."""
    if not address or len(address) > _MAX_ADDRESS or not _ADDRESS.fullmatch(address):
        return None
    return address if _printable(address) == address else None


def distinct(people: Iterable[tuple[Audience, str, str | None]]) -> list[tuple[Audience, str, str]]:
    """Return `(audience, name, address)` of those who have an address, each address once, the first one given."""
    found: dict[str, tuple[Audience, str, str]] = {}
    for audience, name, address in people:
        if address is not None:
            found.setdefault(address.lower(), (audience, name, address))
    return list(found.values())
