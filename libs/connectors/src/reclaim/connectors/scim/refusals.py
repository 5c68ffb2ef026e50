"""What a SCIM service refuses, in its own words, and what a person can do about it.

`KNOWN` is the whole of it: the first line that fits by status, `scimType` (RFC 7644, 3.12) and words gives the remedy.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from reclaim.common.errors import Permanent
from reclaim.connectors.http import Answer
from reclaim.connectors.ports import Refused


class ScimError(Permanent):
    """The service understood the call and refuses it; the message has its words and the remedy.

    `answered` is the status that it answered with, `code` its `scimType` or else that status.
    """

    def __init__(self, system: str, status: int, scim_type: str, detail: str) -> None:
        self.answered = status
        self.code = scim_type or f"HTTP_{status}"
        self.said = detail or "the service gave no reason"
        self.remedy = remedy(status, scim_type, detail)
        head = f"{system} answered {status} {scim_type}".rstrip()
        super().__init__(f"{head}: {self.said.rstrip('.')}. {self.remedy}")

    def as_refused(self) -> Refused:
        """Return it as the result of an action."""
        return Refused(self.code, self.said, self.remedy)


class Known(NamedTuple):
    """A refusal that is known: its status (0 for any), `scimType` and words of its detail ("" for any), the remedy."""

    status: int
    scim_type: str
    words: str
    remedy: str


_SEAT: Final = "No seat is free: buy one or free one in the application, then retry."

KNOWN: Final[tuple[Known, ...]] = (
    Known(0, "invalidFilter", "", "Correct the filter in the connection's settings; the service does not take it."),
    Known(0, "tooMany", "", "Enter a smaller page_size, or a user_filter that matches fewer accounts."),
    Known(0, "uniqueness", "", "Another account has the same name meanwhile: change one of them, then retry."),
    Known(0, "mutability", "", "The service keeps this account as it is: change it in the application, then retry."),
    Known(0, "sensitive", "", "The service does not take such a value in an address: report it to its vendor."),
    Known(0, "invalidVers", "", "The service speaks another version of SCIM: enter the address of version 2.0."),
    Known(0, "", "licen", _SEAT),
    Known(0, "", "seat", _SEAT),
    Known(0, "", "quota", _SEAT),
    Known(0, "", "owner", "Make somebody else the owner in the application, then retry."),
    Known(0, "", "last admin", "Give another account the administrator's role first, then retry."),
    Known(401, "", "", "Test the connection, renew its token, then retry."),
    Known(403, "", "", "Give the token the right to read and to change users, then retry."),
    Known(404, "", "", "Nothing is there: check base_url; it is the address that /Users comes after."),
    Known(405, "", "", "The service does not allow this call: let an administrator of it free the seat."),
    Known(409, "", "", "Something in the application stands against it: mend what the service names, then retry."),
    Known(412, "", "", "Somebody changed the account in the same moment: retry."),
    Known(413, "", "", "The answer or the request is too large for the service: enter a smaller page_size."),
    Known(501, "", "", "The service cannot do this by SCIM: let an administrator of it free the seat."),
)

UNKNOWN: Final = "Look up what the service says, mend its cause in the application, then retry."


def remedy(status: int, scim_type: str, detail: str) -> str:
    """Return what a person can do about a refusal."""
    said = detail.lower()
    return next(
        (
            known.remedy
            for known in KNOWN
            if known.status in (0, status) and known.scim_type in ("", scim_type) and known.words in said
        ),
        UNKNOWN,
    )


def refusal_of(system: str, answer: Answer) -> ScimError:
    """Return the error for an answer that is no success."""
    body = answer.body()
    error: dict[Any, Any] = body if isinstance(body, dict) else {}
    scim_type, detail = error.get("scimType"), error.get("detail")
    return ScimError(
        system,
        answer.status,
        scim_type if isinstance(scim_type, str) else "",
        " ".join(detail.split())[:300].rstrip(".") if isinstance(detail, str) else answer.text(),
    )
