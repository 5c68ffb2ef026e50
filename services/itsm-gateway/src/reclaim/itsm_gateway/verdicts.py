"""What becomes of a webhook, by what is known of its case and what its ticket says. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, cast, get_args

from reclaim.common.contracts import Decision
from reclaim.common.errors import Permanent, ReclaimError
from reclaim.connectors.itsm.ports import NotThere
from reclaim.itsm_gateway import domain
from reclaim.itsm_gateway.delivery_store import Delivery
from reclaim.itsm_gateway.ports import TicketState
from reclaim.itsm_gateway.store import TicketRequest

DECISIONS: Final = frozenset(get_args(Decision))


class NotConnected(Permanent):
    """The connection has no service desk from which the ticket could be read back."""

    def __init__(self, connection_id: str) -> None:
        super().__init__(
            f"No service desk is connected as {connection_id}, so its ticket cannot be read back, and a webhook alone "
            "takes no seat away. Connect the desk and replay this webhook, or decide the case on its own page."
        )


class NoTicket(Permanent):
    """The desk has no ticket of the case."""

    def __init__(self, case_id: str) -> None:
        super().__init__(
            f"The service desk has no ticket of case {case_id}, or Reclaim's user there may not see it. Look for the "
            "ticket, then replay this webhook, or decide the case on its own page."
        )


class NoTask(Permanent):
    """No ticket was opened for the task of freeing the case's seat."""

    def __init__(self, case_id: str) -> None:
        super().__init__(
            f"Reclaim has opened no ticket for a task in case {case_id}. Look at the case's page; if the seat was "
            "freed by hand, say so there."
        )


class OnAnotherDesk(Permanent):
    """The case's ticket is on another desk than the one that the webhook is of: its key means nothing here."""

    def __init__(self, case_id: str, desk_id: str) -> None:
        super().__init__(
            f"The ticket of case {case_id} is on the desk {desk_id}, and this webhook is of another connection. Answer "
            "on that ticket, or decide the case on its own page."
        )


class ElsewhereNow(Permanent):
    """The ticket was opened in another place than the one that its connection leads to now."""

    def __init__(self, number: str, desk_id: str, *, was: str, now: str) -> None:
        super().__init__(
            f"Ticket {number} was opened on {was}, and {desk_id} leads to {now} now, where {number} is another ticket "
            f"or none: it is neither read nor told there. Connect the first as {desk_id} again and the second under "
            "another name, or decide the case on its own page."
        )


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known when a delivery is judged. `ticket` is None for a generic sender, or where `problem` says why.

    `before` is what was last heard from this ticket, `decided` what the last webhook said that decided its case.
    `reopened`: it is open, and was closed when it was last heard. `ended`: its case is over, and we close it ourselves.
    `how` says how to answer on this ticket. `ours`: it says what it says by having been closed from here. `downgrade`:
    its case's rule names a licence to downgrade to.
    """

    delivery: Delivery
    request: TicketRequest | None
    ticket: TicketState | None
    problem: ReclaimError | None
    before: str | None
    decided: str | None = None
    reopened: bool = False
    ended: bool = False
    how: str = ""
    ours: bool = False
    downgrade: bool = True


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a delivery, and for one that was taken, what was decided by whom.

    `done` is what was said of a task, None where nothing was. `word` is what the ticket is told because of it. `at` is
    when it was decided, None for when the webhook came. With `heard` False the ticket counts as not read: what it says
    is still news once it may say it.
    """

    state: Literal["taken", "ignored", "failed"]
    outcome: str
    says: Decision | None = None
    actor: str = ""
    reason: str = ""
    done: bool | None = None
    word: str | None = None
    at: datetime | None = None
    heard: bool = True
    undecided: str | None = None


def judge(facts: Facts) -> Verdict:
    """Return what becomes of a delivery."""
    delivery, request = facts.delivery, facts.request
    if delivery.case_id is None:
        return Verdict(
            "failed", "It names no case, or more than one. Its ticket needs one label lr-case-… and no other."
        )
    if delivery.kind == "question" and request is None:
        return Verdict(
            "failed",
            f"No case {delivery.case_id} is asked through a service desk. Check the id, and the route of its rule; "
            "then replay this webhook.",
        )
    if facts.problem is not None:
        if delivery.kind == "task" and isinstance(facts.problem, NotThere) and not facts.ended:
            return _task_is_gone(facts, str(facts.problem))
        gone = isinstance(facts.problem, NotThere) and delivery.kind == "question" and _waits(request)
        return Verdict("failed", str(facts.problem), undecided=str(facts.problem) if gone else None)
    if facts.ticket is None:
        return _taken(facts, cast("Decision", delivery.says), delivery.actor, delivery.reason)
    if delivery.kind == "trial":
        said = "has no answer yet" if facts.ticket.says == "open" else f"says {facts.ticket.says}"
        return Verdict("ignored", f"Test ticket {facts.ticket.ticket} {said}: the way here and back works.")
    if delivery.kind == "task":
        return _by_task(facts, facts.ticket)
    assert request is not None
    return _by_ticket(facts, request, facts.ticket)


def _by_ticket(facts: Facts, request: TicketRequest, ticket: TicketState) -> Verdict:
    if ticket.test and not request.dry_run:
        return Verdict("ignored", f"Ticket {ticket.ticket} is marked as a test, and decides nothing.", heard=False)
    if facts.reopened:
        return _reopened(facts, request, ticket)
    if ticket.says == "open":
        return Verdict("ignored", f"Ticket {ticket.ticket} has no answer yet.")
    if facts.ours:
        # That does not complete an answer which its people had not given by closing it.
        return Verdict("ignored", f"Ticket {ticket.ticket} was closed from here.")
    if ticket.says in {"undecided", "done"}:
        return _decides_nothing(facts, request, ticket)
    return _taken(facts, cast("Decision", ticket.says), _who(facts, ticket), _why(facts, ticket))


def _decides_nothing(facts: Facts, request: TicketRequest, ticket: TicketState) -> Verdict:
    if not _waits(request):
        # The case was decided elsewhere, and we closed the ticket ourselves: this is the echo.
        return Verdict("ignored", f"The case has moved on without ticket {ticket.ticket}.")
    why = domain.NO_TASK if ticket.says == "done" else ticket.reason
    said = f"Ticket {ticket.ticket} decides nothing. {why}".strip()
    outcome = f"{said} Answer on the ticket and replay this webhook, or decide the case on its own page."
    if facts.before == ticket.says:
        # It is told once: every change of the ticket sends a webhook, this comment too.
        return Verdict("failed", outcome)
    return Verdict("failed", outcome, word=domain.no_answer(why, facts.how), undecided=said)


def _waits(request: TicketRequest | None) -> bool:
    return request is not None and request.state == "waiting" and request.outcome is None


def _reopened(facts: Facts, request: TicketRequest, ticket: TicketState) -> Verdict:
    """Take a ticket that its people opened again for an appeal, unless there is nothing to appeal against."""
    freed = request.standing == "reclaimed"
    word = domain.reopened_too_late(request.outcome) if request.outcome is not None else None
    if request.outcome is not None and not freed:
        return Verdict("ignored", f"Ticket {ticket.ticket} was reopened after the end of its case.", word=word)
    if request.state == "waiting" and facts.decided not in {"revoke", "downgrade"}:
        if ticket.says in DECISIONS and ticket.says != facts.before:
            return _taken(facts, cast("Decision", ticket.says), _who(facts, ticket), _why(facts, ticket))
        return Verdict("ignored", f"Ticket {ticket.ticket} was reopened and has no answer yet.")
    # Whether one that comes after the end was made in time, the case itself says.
    outcome = "Reopened, which is an appeal" + (": it counts only if it was made in time." if freed else ".")
    reason = f"Ticket {ticket.ticket} was reopened."
    at = _said_at(facts, ticket.moved_at or ticket.at)
    who = _named(facts, ticket, ticket.actor if ticket.ours is None else ticket.moved_by)
    return Verdict("taken", outcome, "keep", who, reason, word=word, at=at)


def _by_task(facts: Facts, ticket: TicketState) -> Verdict:
    if ticket.test:
        return Verdict("ignored", f"Ticket {ticket.ticket} is marked as a test, and says nothing.", heard=False)
    if facts.reopened and (facts.ended or facts.before == "done"):
        outcome = facts.request.outcome if facts.request else None
        told = domain.reopened_too_late(outcome or ("reclaimed" if facts.before == "done" else None))
        return Verdict("ignored", f"Ticket {ticket.ticket} was reopened after its task was done.", word=told)
    if facts.ended:
        return Verdict("ignored", f"The case has ended, and with it the task of ticket {ticket.ticket}.")
    if ticket.says == "keep":
        return _taken(facts, "keep", _who(facts, ticket), _why(facts, ticket))
    if not ticket.closed:
        return Verdict("ignored", f"Ticket {ticket.ticket} is open: its task is not done yet.")
    if facts.before == ticket.says and not facts.reopened:
        return Verdict("ignored", f"Ticket {ticket.ticket} is closed, as it was before.")
    who = _who(facts, ticket)
    if ticket.says == "done":
        return Verdict(
            "taken", "The task is done.", None, who, facts.delivery.reason or f"Ticket {ticket.ticket}", done=True
        )
    reason = f"ticket {ticket.ticket} was closed without saying that the seat is free"
    return Verdict("taken", "The task was given up: a person is called.", None, who, reason, done=False)


def _task_is_gone(facts: Facts, problem: str) -> Verdict:
    if facts.before == "undecided":
        return Verdict("ignored", "The ticket of this task is gone, as it was before.")
    reason = f"the ticket of the task is gone: {problem}"
    outcome = "The ticket of the task is gone: a person is called."
    return Verdict("taken", outcome, None, facts.delivery.actor or "the service desk", reason, done=False)


def _who(facts: Facts, ticket: TicketState) -> str:
    return _named(facts, ticket, ticket.actor)


def _named(facts: Facts, ticket: TicketState, actor: str | None) -> str:
    """Return who is said to have done something: somebody of the desk, and never our own account there."""
    told = facts.delivery.actor
    return actor or (told if told != ticket.ours else "") or "service desk"


def _why(facts: Facts, ticket: TicketState) -> str:
    return facts.delivery.reason or ticket.reason or f"Ticket {ticket.ticket}"


def _taken(facts: Facts, says: Decision, actor: str, reason: str) -> Verdict:
    if facts.ticket is not None and facts.before == says:
        # Every change of a ticket sends a webhook, ours too; what it says was heard.
        return Verdict("ignored", f"The ticket says {says}, as it did before.")
    if says == "downgrade" and not facts.downgrade:
        outcome = "Decided: revoke. The rule names no cheaper licence, and then a downgrade means that."
        return Verdict("taken", outcome, "revoke", actor, reason, word=domain.A_DOWNGRADE_REVOKES)
    # To keep a seat counts from when it was said; what takes one away, from when it was heard.
    at = _said_at(facts, facts.ticket.at) if says == "keep" and facts.ticket is not None else None
    return Verdict("taken", f"Decided: {says}.", says, actor, reason, at=at)


def _said_at(facts: Facts, told: datetime | None) -> datetime | None:
    """Return when something was said: a reading may come long after it, and nothing is older than its case."""
    if told is None:
        return None
    at = min(told, facts.delivery.received_at)
    return at if facts.request is None else max(at, facts.request.flagged_at)
