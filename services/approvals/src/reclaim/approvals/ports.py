"""What the stage needs from outside: something that delivers mail."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from email.message import EmailMessage
from typing import Protocol

from reclaim.common.errors import Permanent, Transient


class MailRefused(Permanent):
    """The server will never take this mail. The message is what the server said."""


class MailDelayed(Transient):
    """The server does not take this mail now; others may go through."""


class MailServerAway(Transient):
    """No mail goes through at present: the server cannot be reached, or will not have us. Says what to do."""


class MailSession(Protocol):
    """An open connection to the mail server."""

    async def send(self, message: EmailMessage, recipient: str) -> None:
        """Hand one mail over; on return the server has taken it.

        Raises:
            MailRefused: never send it again.
            MailDelayed: try this one again later.
            MailServerAway: try all again later; the session is of no more use.
        """
        ...


class Mailer(Protocol):
    """Opens sessions. `sender` is the address that mails come from."""

    sender: str

    def session(self) -> AbstractAsyncContextManager[MailSession]:
        """Connect for a few mails.

        Raises:
            MailServerAway: nobody answers, or we are not let in.
        """
        ...
