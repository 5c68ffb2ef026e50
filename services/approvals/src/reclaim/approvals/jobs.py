"""What the stage does by itself: sending mails, and forgetting where answers came from."""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from time import monotonic
from typing import Final

from opentelemetry import metrics

from reclaim.approvals import domain, store
from reclaim.approvals.domain import Request
from reclaim.approvals.handlers import MAIL_JOB, ask_managers, remind_draft, say_unasked, tell_drafts
from reclaim.approvals.mail import Composer, still_needed
from reclaim.approvals.ports import MailDelayed, Mailer, MailRefused, MailServerAway, MailSession
from reclaim.approvals.store import Mail
from reclaim.common.contracts import NoticeDelivered
from reclaim.common.db import Database, Unit
from reclaim.common.timing import backoff

log = logging.getLogger(__name__)

TOGETHER: Final = 200
"""Questions that are put again in one transaction."""

CLAIM: Final = 25
"""Mails claimed at a time, and sent over one connection."""

FIRST_RETRY: Final = 2.0
LAST_RETRY: Final = 900.0
"""Seconds until a mail that could not be sent is tried again; doubling, without end."""

UNDELIVERED: Final = timedelta(days=1)
"""After this a question that could not be delivered stands in attention too, while it is tried on."""

_counter = metrics.get_meter("reclaim.approvals").create_counter(
    "reclaim_mails", description="Mails by what the mail server did with them: sent, refused, delayed"
)


@dataclass(frozen=True, slots=True)
class MailJob:
    """Sends what is queued. No transaction is open while a mail server is spoken to.

    `timeout` is the mailer's, in seconds. A claim holds for three times as long: connecting takes one at most, a
    mail is begun before the end of the second, and is over one later.
    """

    database: Database
    composer: Composer
    mailer: Mailer
    timeout: float

    async def run(self) -> bool:
        """Send some mails; return whether there were any."""
        claimed = await self._claim()
        if claimed is None:
            return False
        waiting = list(claimed)
        until = monotonic() + 2 * self.timeout
        try:
            async with AsyncExitStack() as stack:
                session = await stack.enter_async_context(self.mailer.session()) if waiting else None
                while waiting and session is not None and monotonic() < until:
                    await self._send(session, *waiting[0])
                    waiting.pop(0)
        except MailServerAway as error:
            log.warning("%d mails wait: %s", len(waiting), error)
            await self._put_off([mail for mail, _ in waiting], str(error))
        else:
            await self._give_back([mail for mail, _ in waiting])
        return True

    async def _claim(self) -> list[tuple[Mail, Request]] | None:
        async with self.database.unit() as unit:
            mails = await store.claim_mails(unit.db, most=CLAIM, lease=int(3000 * self.timeout))
            if not mails:
                return None
            requests = await store.load(unit.db, (mail.case_id for mail in mails))
            wanted = []
            for mail in mails:
                request = requests[mail.case_id]
                if still_needed(mail, request):
                    wanted.append((mail, request))
                else:
                    await store.finish(unit.db, mail, "withdrawn", unit.now)
            return wanted

    async def _send(self, session: MailSession, mail: Mail, request: Request) -> None:
        try:
            message = self.composer.compose(mail, request, self.database.clock.now())
        except Exception:
            # A defect of ours in one mail must neither stop the others nor be tried for ever.
            log.exception("case %s: the %s mail could not be written", mail.case_id, mail.kind)
            await self._refused(mail, request, "it could not be written; the log has the error")
            return
        try:
            await session.send(message, mail.recipient)
        except MailRefused as error:
            log.error("case %s: the %s mail was refused: %s", mail.case_id, mail.kind, error)  # noqa: TRY400
            await self._refused(mail, request, str(error))
        except MailDelayed as error:
            log.warning("case %s: the %s mail is put off: %s", mail.case_id, mail.kind, error)
            await self._put_off([mail], str(error))
        else:
            await self._sent(mail, request)

    async def _sent(self, mail: Mail, request: Request) -> None:
        _counter.add(1, {"result": "sent", "kind": mail.kind})
        async with self.database.unit() as unit:
            if not await store.finish(unit.db, mail, "sent", unit.now):
                log.warning("case %s: the %s mail was sent after its lease, and is sent twice", mail.case_id, mail.kind)
                return
            if mail.kind == "ask_holder":
                until = unit.now + timedelta(days=request.policy.holder_days)
                await store.holder_asked(unit.db, mail.case_id, until)
            if mail.kind == "ask" and await self._starts_a_deadline(unit, request):
                unit.emit(
                    NoticeDelivered(
                        case_id=mail.case_id, channel="email", recipient=mail.recipient, delivered_at=unit.now
                    )
                )
                await self._note_if_closed_meanwhile(unit, mail.case_id)

    async def _starts_a_deadline(self, unit: Unit, request: Request) -> bool:
        policy = request.policy
        anew_after = timedelta(days=policy.decision_days) if policy.on_timeout == "escalate" else None
        first = domain.next_reminder(policy, unit.now, unit.now)
        return await store.delivered(unit.db, request.case_id, unit.now, anew_after=anew_after, ask_next_at=first)

    async def _note_if_closed_meanwhile(self, unit: Unit, case_id: str) -> None:
        request = await store.get(unit.db, case_id)
        if request is not None and domain.closing_note_due(request):
            await store.add_mails(unit.db, tell_drafts(request, "closed", holder=False), unit.now)

    async def _refused(self, mail: Mail, request: Request, said: str) -> None:
        _counter.add(1, {"result": "refused", "kind": mail.kind})
        async with self.database.unit() as unit:
            ended = await store.finish(unit.db, mail, "failed", unit.now, error=said)
            if ended and mail.kind == "ask_holder":
                # The holder cannot be asked: it is the manager's turn.
                await store.holder_asked(unit.db, mail.case_id, unit.now)
            if not ended or mail.kind != "ask":
                return
            unaskable = domain.refused_by_server(request, said)
            if await store.ask_failed(unit.db, mail.case_id, f"{unaskable.reason} {unaskable.remedy}", unit.now):
                say_unasked(unit, request.case_id, unaskable)

    async def _put_off(self, mails: list[Mail], reason: str) -> None:
        async with self.database.unit() as unit:
            for mail in mails:
                _counter.add(1, {"result": "delayed", "kind": mail.kind})
                seconds = backoff(mail.attempts, first=FIRST_RETRY, most=LAST_RETRY)
                await store.put_off(unit.db, mail, reason, int(seconds * 1000))
            late = [m.case_id for m in mails if m.kind == "ask" and unit.now - m.created_at > UNDELIVERED]
            for request in await store.ask_delayed(unit.db, late, reason, unit.now) if late else []:
                say_unasked(unit, request.case_id, domain.undelivered(request, reason))

    async def _give_back(self, mails: list[Mail]) -> None:
        if mails:
            async with self.database.unit() as unit:
                await store.give_back(unit.db, mails)


@dataclass(frozen=True, slots=True)
class AskJob:
    """Puts questions again that were not answered, and to the manager those that the holder did not answer in time.

    Of reminders that were missed, one is sent.
    """

    database: Database

    async def run(self) -> bool:
        """Queue what is due; return whether there may be more."""
        async with self.database.unit() as unit:
            due = await store.to_ask(unit.db, unit.now, most=TOGETHER)
            turns = [request for request in due if request.asking == "holder"]
            await store.set_next(unit.db, [(request.case_id, _next(request, unit.now)) for request in due])
            await store.ask_managers(unit.db, [request.case_id for request in turns])
            drafts = [remind_draft(request) for request in due if domain.reminder_wanted(request, unit.now)]
            drafts += await ask_managers(unit, [request for request in turns if request.status == "open"])
            await store.add_mails(unit.db, drafts, unit.now)
            if drafts:
                unit.wake(MAIL_JOB)
        return len(due) == TOGETHER


def _next(request: Request, now: datetime) -> datetime | None:
    if request.asking == "holder" or request.delivered_at is None:
        return None
    return domain.next_reminder(request.policy, request.delivered_at, now)


@dataclass(frozen=True, slots=True)
class EraseJob:
    """Erases IP addresses and user agents once they are old; the decisions stay."""

    database: Database
    retention: timedelta

    async def run(self) -> bool:
        """Erase what is due; there is never more to do at once."""
        async with self.database.unit() as unit:
            erased = await store.erase_origins(unit.db, unit.now - self.retention)
        if erased:
            log.info("erased where %d answers came from", erased)
        return False
