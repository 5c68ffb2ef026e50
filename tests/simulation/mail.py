"""The mail server of a simulation, and what lies in people's mailboxes."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from email.message import EmailMessage
from random import Random

from reclaim.approvals.domain import Request
from reclaim.approvals.links import Links
from reclaim.approvals.mail import Composer
from reclaim.approvals.ports import MailDelayed, MailRefused, MailServerAway
from reclaim.approvals.store import Mail

_TOKEN = re.compile(r"/approvals/d/([^?\s]+)")


@dataclass(eq=False)
class Letter:
    """A mail that arrived."""

    case_id: str
    kind: str
    recipient: str
    token: str | None
    readings: int = 0


class Sheet(EmailMessage):
    """A message without the standard's headers, which would take longer to write than everything else of it."""

    def __init__(self, case_id: str, kind: str, text: str) -> None:
        super().__init__()
        self.case_id, self.kind, self.text = case_id, kind, text


class PlainComposer(Composer):
    """Writes the product's own letters, with their signed links, and leaves out the typesetting."""

    def __init__(self, links: Links, *, sender: str, public_url: str) -> None:
        self._links = links
        self._sender = sender
        self._console = f"{public_url}/"

    def compose(self, mail: Mail, request: Request, now: datetime) -> EmailMessage:
        letter = self._letter(mail, request, now)
        return Sheet(mail.case_id, mail.kind, "\n".join(button.url for button in letter.buttons))


class PostOffice:
    """The `Mailer` of one process; `letters` is shared by all that ever ran."""

    sender = "reclaim@example.com"

    def __init__(
        self,
        chance: Random,
        likely: float,
        gate: Callable[[str], Awaitable[None]],
        happened: Callable[[str], None],
        accepted: Callable[[Letter], None],
    ) -> None:
        self._chance, self._gate, self._happened, self._accepted = chance, gate, happened, accepted
        self._likely = likely
        self.calm = False

    @asynccontextmanager
    async def session(self) -> AsyncIterator[PostOffice]:
        if self._strikes():
            self._happened("mail: server away")
            raise MailServerAway("simulated: nobody answers")
        yield self

    async def send(self, message: EmailMessage, recipient: str) -> None:
        await self._gate("before mail")
        if self._strikes():
            self._happened("mail: 451")
            raise MailDelayed("simulated: 451 try again later")
        if self._strikes(0.3):
            self._happened("mail: 550")
            raise MailRefused("simulated: 550 no such mailbox")
        assert isinstance(message, Sheet)
        found = _TOKEN.search(message.text)
        self._accepted(Letter(message.case_id, message.kind, recipient, found[1] if found else None))
        if self._strikes():
            self._happened("mail: timed out after it was accepted")
            raise MailServerAway("simulated: the answer timed out")
        await self._gate("after mail")

    def _strikes(self, part: float = 1.0) -> bool:
        return not self.calm and self._chance.random() < self._likely * part
