"""What can go wrong between Reclaim and any connected system; what is particular to one system lies with it."""

from __future__ import annotations

from reclaim.common.errors import Permanent, Transient


class Busy(Transient):
    """The system answered that it cannot just now, or did not answer; the same read is worth repeating at once.

    `unsure` is True when the system may have carried the call out although no answer came; `retry_after` are the
    seconds after which it asks to be tried again, where it says so.
    """

    def __init__(self, message: str, *, unsure: bool = False, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.unsure = unsure
        self.retry_after = retry_after


class Unreachable(Busy):
    """No connection to the system could be made, or it broke off."""


class SignInRefused(Permanent):
    """The system does not accept the connection's credentials."""

    title = "Sign-in refused"


class WriteForbidden(Permanent):
    """Something outside the list of what Reclaim may send was about to be sent; a defect, stopped here."""


class NotOffered(Permanent):
    """A capability that the kind of connection does not have; the message says what has it."""

    title = "Not offered by this kind of connection"
