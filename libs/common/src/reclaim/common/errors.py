"""One error base. A type says once whether trying again can help, and how the error is shown over HTTP.

`Transient` means *retry with backoff*, `Permanent` means *set aside for a person*; anything that is neither is a
defect and is treated as permanent after the same number of attempts. Over HTTP every error is a problem document
(RFC 9457) whose `detail` says what to do.
"""

from __future__ import annotations

from typing import ClassVar


class ReclaimError(Exception):
    """The base of every error raised on purpose. `str(error)` says what happened and what to do."""

    status: ClassVar[int] = 500
    title: ClassVar[str] = "Something went wrong"

    @property
    def detail(self) -> str:
        return str(self)


class Transient(ReclaimError):
    """Something outside was not available; the same call may succeed later."""

    status = 503
    title = "Not available right now"


class NotYet(Transient):
    """An event arrived before the one it builds on; it is tried again when that one has come."""

    title = "Too early"


class Permanent(ReclaimError):
    """The same call would fail again; a person has to look."""

    status = 422
    title = "Cannot be done"


class Undecodable(Permanent):
    """Bytes that are no message of ours."""

    title = "Not a message"


class Invalid(Permanent):
    """Input that does not fit. `field` names the part, where one part is to blame."""

    status = 422
    title = "Invalid input"

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class NotFound(Permanent):
    """Nothing of that name or id."""

    status = 404
    title = "Not found"


class Conflict(Permanent):
    """The request does not fit the present state; `detail` names that state."""

    status = 409
    title = "Conflict"


class NotSignedIn(Permanent):
    """No valid session or token."""

    status = 401
    title = "Sign in first"


class Forbidden(Permanent):
    """Signed in, but without the role it needs."""

    status = 403
    title = "Not allowed"
