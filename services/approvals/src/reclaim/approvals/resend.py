"""Sending again, at an operator's word."""

from __future__ import annotations

from dataclasses import replace
from typing import Final, get_args

from reclaim.approvals import domain, store
from reclaim.approvals.domain import MailKind
from reclaim.approvals.handlers import MAIL_JOB, ask_draft, tell_drafts
from reclaim.approvals.store import Draft
from reclaim.common.db import Unit
from reclaim.common.errors import Conflict, NotFound

_KINDS: Final[frozenset[MailKind]] = frozenset(get_args(MailKind))


async def resend(unit: Unit, case_id: str) -> int:
    """Ask the open question of a case again with fresh links, and queue its failed mails; return how many mails.

    Raises:
        NotFound: there is no such case here.
        Conflict: there is nothing to send, or nobody to send it to; the message says what to do.
    """
    request = await store.get(unit.db, case_id)
    if request is None:
        raise NotFound(f"No case {case_id} was asked about here.")
    if request.status == "not_ours":
        raise Conflict("This case is asked about in the service desk: send it again there.")
    drafts: list[Draft] = []
    asked: set[MailKind] = {"ask", "ask_holder", "remind"}
    if request.status == "open":
        unaskable = domain.why_unaskable(request.seat, request.approver) if request.asking == "manager" else None
        if unaskable is not None:
            raise Conflict(f"{unaskable.reason} {unaskable.remedy}")
        epoch = await store.next_epoch(unit.db, case_id, "decision")
        if epoch is not None:
            drafts = [ask_draft(replace(request, epoch=epoch))]
    elif request.appealable:
        asked.add("frozen")
        epoch = await store.next_epoch(unit.db, case_id, "appeal")
        if epoch is not None:
            drafts = tell_drafts(replace(request, appeal_epoch=epoch), "frozen", holder=True)
    await store.add_mails(unit.db, drafts, unit.now)
    again = await store.queue_again(unit.db, case_id, _KINDS - asked)
    if not drafts and not again:
        raise Conflict("There is nothing to send: no question of this case is open, and none of its mails failed.")
    unit.wake(MAIL_JOB)
    return len(drafts) + again
