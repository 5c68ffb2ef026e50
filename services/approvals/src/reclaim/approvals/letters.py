"""What the mails say. A letter is written once and rendered as text and as HTML, so that both say the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from reclaim.approvals.domain import Request, clean
from reclaim.common.contracts import USE
from reclaim.web.formatting import format_day, format_instant, format_money, words

WHY_YOU: Final = "You get this mail because you are entered as the manager of the account's holder."
WHY_FALLBACK: Final = (
    "You get this mail because you are entered as the one who decides where an account's holder has no manager."
)
WHY_HOLDER: Final = "You get this mail because the account is yours."
WHY_OPERATIONS: Final = "You get this mail because this address is entered for operations in Reclaim."


@dataclass(frozen=True, slots=True)
class Button:
    """A link that the reader may follow. Following it decides nothing."""

    label: str
    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """The content of one mail: plain text throughout.

    `warnings` stand out, `outcomes` say what follows from each answer, `small` is the small print.
    """

    subject: str
    heading: str
    paragraphs: Sequence[str]
    facts: Sequence[tuple[str, str]] = ()
    warnings: Sequence[str] = ()
    buttons: Sequence[Button] = ()
    after: Sequence[str] = ()
    outcomes: Sequence[tuple[str, str]] = ()
    small: Sequence[str] = ()
    rehearsal: bool = False


def days(number: int) -> str:
    """Write a number of days."""
    return f"{number} day" if number == 1 else f"{number} days"


def grace(request: Request) -> str:
    """Write how long a freeze can be undone."""
    policy = request.policy
    return days(policy.grace_days).replace("day", "working day" if policy.grace_calendar == "business" else "day")


def last_use(request: Request) -> str:
    """Write when the seat was last used."""
    return format_day(request.last_used_at) if request.last_used_at else "never, as far as is known"


def after_revoke(request: Request) -> str:
    """Write what happens when the manager revokes."""
    policy = request.policy
    handed = f" Open records go to {_successor(request)}." if policy.hand_over else ""
    if policy.reclaim_by == "task":
        return (
            f"Nothing changes for {clean(request.holder.name)} yet: for {grace(request)} the seat can still be kept. "
            "After that the account is checked once more, and somebody takes the seat back by hand."
        )
    if policy.reclaim_by == "downgrade" and policy.downgrade_to is not None:
        return (
            f"The account is checked once more and then frozen: {clean(request.holder.name)} can no longer sign in. "
            f"For {grace(request)} you or the holder can undo it with one click. After that the holder is moved to "
            f"{clean(policy.downgrade_to.product_name)} and can sign in again.{handed}"
        )
    return (
        f"The account is checked once more and then frozen: {clean(request.holder.name)} can no longer sign in. For "
        f"{grace(request)} you or the holder can undo it with one click. After that the seat is freed."
        f"{handed}"
    )


def _successor(request: Request) -> str:
    if request.policy.hand_over_to is not None:
        return "the account that the rule names"
    return "the holder's manager" if request.in_place_of_manager else "you"


def after_keep(request: Request) -> str:
    """Write what happens when the manager keeps the seat."""
    return f"Nothing changes for {clean(request.holder.name)}. Your reason is recorded."


def after_holder_revokes(request: Request) -> str:
    """Write what happens when the holder gives the seat up."""
    if request.policy.reclaim_by == "task":
        return f"For {grace(request)} you can still keep it. After that somebody takes the seat back by hand."
    return (
        f"The account is checked once more and then frozen: you can no longer sign in. For {grace(request)} you or "
        "your manager can undo it with one click."
    )


def after_holders_silence(request: Request) -> str:
    """Write what happens when the holder does not answer in time."""
    if request.in_place_of_manager or request.approver is None:
        return "Somebody else is asked."
    return "Your manager is asked."


def after_silence(request: Request) -> str:
    """Write what happens when nobody answers in time."""
    match request.policy.on_timeout:
        case "freeze" if request.policy.reclaim_by == "task":
            return f"The seat is taken back by hand, as if it had been revoked; for {grace(request)} it can be kept."
        case "freeze":
            return f"The account is frozen, as if it had been revoked, and for {grace(request)} that can be undone."
        case "keep":
            return "The seat is kept."
        case "escalate":
            return "Nothing happens to the account, and an administrator is asked to look."


def why_you(request: Request) -> str:
    """Write why the approver gets a mail."""
    return WHY_FALLBACK if request.in_place_of_manager else WHY_YOU


def _your_part(request: Request) -> str:
    holder = clean(request.holder.name)
    if request.in_place_of_manager:
        return f"{holder} has no manager who could be asked, so"
    return f"As the manager of {holder}"


def account(request: Request) -> str:
    """Name the account: whose, and of what."""
    return f"{clean(request.holder.name)}'s {clean(request.seat.product_name)} account"


def facts(request: Request, *, price: bool = True) -> list[tuple[str, str]]:
    """Return what the reader needs to recognise the seat; its price is not the holder's affair."""
    holder = request.holder
    rows = [("Holder", clean(f"{holder.name} <{holder.email}>" if holder.email else holder.name))]
    if request.seat.department:
        rows.append(("Department", clean(request.seat.department)))
    rows.append(("Product", clean(request.seat.product_name)))
    if request.seat.devices:
        rows.append(("Installed on", clean(", ".join(request.seat.devices))))
    if price:
        amount = request.price_per_year
        rows.append(("Price", f"{format_money(amount)} a year" if amount else "not in the price book"))
    rows.append(("Last used", last_use(request)))
    rows.extend(("Use", clean(finding.evidence)) for finding in request.findings if finding.check == USE)
    return rows


def warnings(request: Request) -> list[str]:
    """Return what the safety checks found that the reader should know."""
    return [
        f"{words(finding.check)}: {finding.evidence}"
        for finding in request.findings
        if finding.outcome in {"warn", "unknown"}
    ]


def ask(request: Request, *, keep: Button, revoke: Button, deadline: datetime, again: bool = False) -> Letter:
    """Ask the approver; `again` if the question was not answered yet."""
    policy = request.policy
    question = f"Is {account(request)} still needed?"
    return Letter(
        subject=f"Reminder: {question}" if again else question,
        heading=question,
        paragraphs=[
            *([f"We asked you before, and need your answer by {format_instant(deadline)}."] if again else []),
            f"It has {policy.unused_for}. {_your_part(request)} you decide whether the seat stays.",
        ],
        facts=[*facts(request), ("Please answer by", format_instant(deadline))],
        warnings=warnings(request),
        buttons=[keep, revoke],
        after=["Both open a page where you confirm. Opening it changes nothing."],
        outcomes=[
            ("If you keep it", after_keep(request)),
            ("If you revoke it", after_revoke(request)),
            ("If nobody answers", after_silence(request)),
        ],
        small=[
            "The links are for you alone: whoever has this mail can answer in your name, so please do not forward it.",
            why_you(request),
        ],
        rehearsal=policy.dry_run,
    )


def ask_holder(request: Request, *, keep: Button, revoke: Button, until: datetime) -> Letter:
    """Ask the holder, before the manager is."""
    question = f"Do you still need your {clean(request.seat.product_name)} account?"
    return Letter(
        subject=question,
        heading=question,
        paragraphs=[f"It has {request.policy.unused_for}. You are asked first."],
        facts=[*facts(request, price=False), ("Please answer by", format_instant(until))],
        warnings=warnings(request),
        buttons=[keep, revoke],
        after=["Both open a page where you confirm. Opening it changes nothing."],
        outcomes=[
            ("If you need it", after_keep(request)),
            ("If you do not", after_holder_revokes(request)),
            ("If you do not answer", after_holders_silence(request)),
        ],
        small=["The links are for you alone: please do not forward this mail.", WHY_HOLDER],
        rehearsal=request.policy.dry_run,
    )


def frozen(request: Request, *, holder: bool, appeal: Button | None, overtime: bool = False) -> Letter:
    """Tell that the account is frozen, and how to undo it; `overtime` if only for as long as the seat is not freed."""
    assert request.frozen_at is not None
    assert request.grace_ends_at is not None
    whose = f"Your {clean(request.seat.product_name)} account" if holder else account(request)
    if request.frozen_because == "timeout" and request.decision is not None and not holder:
        why = "Your answer came when the time to answer was over, and the rule then freezes the account."
    elif request.frozen_because == "timeout":
        why = "Nobody answered the question whether it is still needed, and the rule then freezes the account."
    elif holder:
        why = f"It has {request.policy.unused_for}, and the seat was given up."
    elif request.decision == "revoke":
        why = "This is what you decided."
    else:
        why = "This was decided after you were asked whether it is still needed."
    who = "You" if holder else clean(request.holder.name)
    if appeal and overtime:
        then = (
            f"{who} cannot sign in. The time to undo the freeze ended on {format_instant(request.grace_ends_at)}, but "
            "the seat has not been freed yet: until it is, the freeze can still be undone."
        )
    elif appeal:
        then = (
            f"{who} cannot sign in, but nothing is lost yet: until {format_instant(request.grace_ends_at)} the freeze "
            "can be undone. After that the seat is freed."
        )
    else:
        then = "It cannot be undone here any more."
    return Letter(
        subject=f"{whose} was frozen",
        heading=f"{whose} was frozen",
        paragraphs=[f"It was frozen on {format_instant(request.frozen_at)}. {why}", then],
        facts=[*facts(request, price=not holder), ("Can be undone until", format_instant(request.grace_ends_at))],
        buttons=[appeal] if appeal else [],
        after=["It opens a page where you say why the account is needed. Opening it changes nothing."]
        if appeal
        else [],
        small=[
            *(["The link is for you alone: please do not forward this mail."] if appeal else []),
            WHY_HOLDER if holder else why_you(request),
        ],
        rehearsal=request.policy.dry_run,
    )


def restored(request: Request, *, holder: bool) -> Letter:
    """Tell that the freeze was undone."""
    assert request.restored_at is not None
    whose = f"Your {clean(request.seat.product_name)} account" if holder else account(request)
    who = "You" if holder else clean(request.holder.name)
    by = "" if holder or not request.restored_by else f", at the word of {clean(request.restored_by)}"
    return Letter(
        subject=f"{whose} works again",
        heading=f"{whose} works again",
        paragraphs=[
            f"The freeze was undone on {format_instant(request.restored_at)}{by}. {who} can sign in as before."
        ],
        small=[WHY_HOLDER if holder else why_you(request)],
        rehearsal=request.policy.dry_run,
    )


def reclaimed(request: Request) -> Letter:
    """Tell the manager that the seat is free."""
    assert request.reclaimed_at is not None
    records = request.records_transferred or 0
    if records == 0:
        moved = "There were no open records to hand over."
    else:
        moved = f"{records:,} open record{'' if records == 1 else 's'} got a new owner."
    return Letter(
        subject=f"{account(request)} was given up",
        heading=f"{account(request)} was given up",
        paragraphs=[
            f"The time to undo it is over. The seat was freed on {format_instant(request.reclaimed_at)}. {moved}",
            "If the holder needs the product again, ask your administrator: the account can be activated again.",
        ],
        facts=facts(request),
        small=[why_you(request)],
        rehearsal=request.policy.dry_run,
    )


def reactivated(request: Request, *, holder: bool) -> Letter:
    """Tell that a freed seat was given back."""
    assert request.reactivated_at is not None
    whose = f"Your {clean(request.seat.product_name)} account" if holder else account(request)
    by = "" if holder or not request.reactivated_by else f" by {clean(request.reactivated_by)}"
    return Letter(
        subject=f"{whose} is active again",
        heading=f"{whose} is active again",
        paragraphs=[f"The seat was given back on {format_instant(request.reactivated_at)}{by}."],
        small=[WHY_HOLDER if holder else why_you(request)],
        rehearsal=request.policy.dry_run,
    )


def closed(request: Request) -> Letter:
    """Tell the manager that the case ended in another way than they decided."""
    return Letter(
        subject=f"{account(request)} stays as it is",
        heading=f"{account(request)} stays as it is",
        paragraphs=[
            f"We asked you whether it is still needed. This has been settled: {how_closed(request)}",
            "There is nothing left to do, and the links of our earlier mail no longer open the question.",
        ],
        small=[why_you(request)],
        rehearsal=request.policy.dry_run,
    )


def how_closed(request: Request) -> str:
    """Write how a case ended, in one sentence."""
    what = {
        "kept": "the seat is kept",
        "cancelled": "the reason to take it back no longer holds",
        "skipped": "the case was dropped",
        "restored": "the freeze was undone",
        "reclaimed": "the seat was freed",
        None: "the case ended",
    }[request.outcome]
    reason = clean(request.closed_reason or "").rstrip(".")
    return f"{what} ({reason})." if reason else f"{what}."


def attention(request: Request, *, reason: str, remedy: str, console: str) -> Letter:
    """Tell operations that a case waits for a person."""
    return Letter(
        subject=f"A case needs you: {account(request)}",
        heading="A case needs you",
        paragraphs=[clean(reason), f"What to do: {clean(remedy)}"],
        facts=[*facts(request), ("Case", request.case_id), ("Rule", clean(request.policy.rule_name))],
        buttons=[Button("Open the console", console)],
        small=[WHY_OPERATIONS],
        rehearsal=request.policy.dry_run,
    )
