"""What becomes of a webhook, by what is known of its case and what its ticket says. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, cast, get_args

from reclaim.common.contracts import Decision
from reclaim.common.errors import Permanent, ReclaimError
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


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known when a delivery is judged. `ticket` is None for a generic sender, or where `problem` says why.

    `before` is what the last webhook said that decided this case.
    """

    delivery: Delivery
    request: TicketRequest | None
    ticket: TicketState | None
    problem: ReclaimError | None
    before: str | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a delivery, and for one that was taken, what was decided by whom."""

    state: Literal["taken", "ignored", "failed"]
    outcome: str
    says: Decision | None = None
    actor: str = ""
    reason: str = ""


def judge(facts: Facts) -> Verdict:
    """Return what becomes of a delivery."""
    delivery, request = facts.delivery, facts.request
    if delivery.case_id is None:
        return Verdict(
            "failed", "It names no case, or more than one. Its ticket needs one label lr-case-… and no other."
        )
    if request is None:
        return Verdict(
            "failed",
            f"No case {delivery.case_id} is asked through a service desk. Check the id, and the route of its rule; "
            "then replay this webhook.",
        )
    if facts.problem is not None:
        return Verdict("failed", str(facts.problem))
    if facts.ticket is None:
        return _taken(facts, cast("Decision", delivery.says), delivery.actor, delivery.reason)
    return _by_ticket(facts, request, facts.ticket)


def _by_ticket(facts: Facts, request: TicketRequest, ticket: TicketState) -> Verdict:
    if ticket.test and not request.dry_run:
        return Verdict("ignored", f"Ticket {ticket.ticket} is marked as a test, and decides nothing.")
    if ticket.says == "open":
        return Verdict("ignored", f"Ticket {ticket.ticket} has no answer yet.")
    if ticket.says == "undecided":
        if request.state != "waiting" or request.outcome is not None:
            # The case was decided elsewhere, and we closed the ticket ourselves: this is the echo.
            return Verdict("ignored", f"The case has moved on without ticket {ticket.ticket}.")
        return Verdict(
            "failed",
            f"Ticket {ticket.ticket} decides nothing. {ticket.reason} Answer on the ticket and replay this webhook, or "
            "decide the case on its own page.",
        )
    if ticket.says == "done":
        return Verdict(
            "failed", f"Ticket {ticket.ticket} says that the task was carried out. Say so on the case's own page."
        )
    reason = facts.delivery.reason or ticket.reason or f"Ticket {ticket.ticket}"
    return _taken(facts, ticket.says, ticket.actor or facts.delivery.actor or "service desk", reason)


def _taken(facts: Facts, says: Decision, actor: str, reason: str) -> Verdict:
    if facts.ticket is not None and facts.before == says:
        # Every change of a ticket sends a webhook, ours too; what it says was heard.
        return Verdict("ignored", f"The ticket says {says}, as it did before.")
    return Verdict("taken", f"Decided: {says}.", says, actor, reason)
