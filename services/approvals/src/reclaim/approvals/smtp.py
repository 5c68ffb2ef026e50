"""Mail over SMTP. What a refusal means is decided here, by who was refused: a recipient, a mail, or we."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.message import EmailMessage
from typing import Final

import aiosmtplib

from reclaim.approvals.ports import MailDelayed, MailRefused, MailServerAway
from reclaim.approvals.settings import SmtpServer

log = logging.getLogger(__name__)

_START_TLS: Final = {"required": True, "offered": None, "never": False}
_PERMANENT: Final = 500


class SmtpMailer:
    """Sends through one mail server. `timeout` is in seconds, for connecting and again for each mail."""

    def __init__(self, server: SmtpServer | None, *, sender: str, timeout: float) -> None:
        self.sender = sender
        self._server = server
        self._timeout = timeout

    @asynccontextmanager
    async def session(self) -> AsyncIterator[_Session]:
        if self._server is None:
            raise MailServerAway("No mail server is set: give its address in RECLAIM_APPROVALS_SMTP_URL.")
        server = self._server
        client = aiosmtplib.SMTP(
            hostname=server.host,
            port=server.port,
            username=server.username,
            password=server.password,
            use_tls=server.tls,
            start_tls=False if server.tls else _START_TLS[server.starttls],
            timeout=self._timeout,
        )
        try:
            async with asyncio.timeout(self._timeout):
                await client.connect()
        except (aiosmtplib.SMTPException, OSError, TimeoutError, ValueError) as error:
            client.close()
            raise MailServerAway(
                f"The mail server {server!r} cannot be used: {_said(error)}. Check RECLAIM_APPROVALS_SMTP_URL."
            ) from error
        try:
            yield _Session(client, server, self.sender, self._timeout)
        finally:
            await _leave(client)


class _Session:
    def __init__(self, client: aiosmtplib.SMTP, server: SmtpServer, sender: str, timeout: float) -> None:
        self._client = client
        self._server = server
        self._sender = sender
        self._timeout = timeout

    async def send(self, message: EmailMessage, recipient: str) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                await self._client.send_message(message, sender=self._sender, recipients=[recipient])
        except aiosmtplib.SMTPRecipientsRefused as error:
            raise _about_this_mail(error.recipients[0]) from error
        except aiosmtplib.SMTPSenderRefused as error:
            raise MailServerAway(
                f"The mail server {self._server!r} does not take mail from {self._sender}: {_said(error)}. "
                "Check RECLAIM_APPROVALS_SENDER."
            ) from error
        except (aiosmtplib.SMTPRecipientRefused, aiosmtplib.SMTPDataError) as error:
            raise _about_this_mail(error) from error
        except (aiosmtplib.SMTPNotSupported, ValueError) as error:
            # Found before anything was sent: the address cannot be written in this server's dialect.
            raise MailRefused(_said(error)) from error
        except (aiosmtplib.SMTPException, OSError, TimeoutError) as error:
            raise MailServerAway(f"The mail server {self._server!r} broke off: {_said(error)}.") from error


def _about_this_mail(error: aiosmtplib.SMTPResponseException) -> MailRefused | MailDelayed:
    return MailRefused(_said(error)) if error.code >= _PERMANENT else MailDelayed(_said(error))


def _said(error: Exception) -> str:
    if isinstance(error, aiosmtplib.SMTPResponseException):
        return f"{error.code} {' '.join(error.message.split())}"[:500]
    return (" ".join(str(error).split()) or type(error).__name__)[:500]


async def _leave(client: aiosmtplib.SMTP) -> None:
    try:
        await client.quit()
    except (aiosmtplib.SMTPException, OSError, TimeoutError) as error:
        # Whatever was sent was taken already; how the server says goodbye changes nothing.
        log.debug("the mail server left first: %s", error)
    finally:
        client.close()
