"""Salesforce's answers as errors: what each means, whether the same call can succeed later, and what to do.

What it answers about single rows is in `refusals`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from reclaim.common.errors import Permanent, Transient
from reclaim.connectors.errors import Busy


class ApiLimit(Transient):
    """The org's daily allowance of API calls is used up, or what is left of it is reserved for others."""


class LocatorExpired(Transient):
    """The place in a listing is no longer known to the org; the query has to start again."""


class NotReadable(Permanent):
    """The org understood the call and refuses it: a missing permission, object or field."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


PERMISSION: Final = frozenset(
    {
        "INSUFFICIENT_ACCESS",
        "INSUFFICIENT_ACCESS_OR_READONLY",
        "INSUFFICIENT_ACCESS_ON_CROSS_REFERENCE_ENTITY",
        "API_DISABLED_FOR_ORG",
        "API_CURRENTLY_DISABLED",
        "FUNCTIONALITY_NOT_ENABLED",
    }
)
_BUSY: Final = frozenset({"QUERY_TIMEOUT", "SERVER_UNAVAILABLE", "UNABLE_TO_LOCK_ROW", "UNKNOWN_EXCEPTION"})
LOCKED: Final = "UNABLE_TO_LOCK_ROW"


def first_error(content: object) -> tuple[str, str]:
    """Return the code and message of an error answer, which is a list of errors, one error, or no JSON at all."""
    if isinstance(content, list) and content:
        content = content[0]
    if isinstance(content, Mapping):
        code = content.get("errorCode") or content.get("statusCode") or content.get("error") or ""
        message = content.get("message") or content.get("error_description") or ""
        return str(code), str(message)
    text = content.decode(errors="replace") if isinstance(content, bytes) else str(content or "")
    return "", " ".join(text.split())[:200]


def from_answer(status: int, content: object) -> Transient | Permanent:
    """Return the error for an answer that is not a success (a 401 is the session's own business)."""
    code, message = first_error(content)
    said = f"Salesforce answered {status} {code}: {message}".rstrip(": ")
    if status == 429:
        return Busy(f"{said}. The org asks for fewer calls at a time; try again later.")
    if code == "REQUEST_LIMIT_EXCEEDED":
        if "concurrent" in message.lower():
            return Busy(f"{said}. Too many long requests run at once; trying again helps.")
        return ApiLimit(
            f"{said}. The org's daily API calls are used up: wait until Salesforce frees some (it counts the last "
            "24 hours), or have the allowance raised."
        )
    if code == "INVALID_QUERY_LOCATOR":
        return LocatorExpired(f"{said}. The listing has to start again.")
    if status >= 500 or code in _BUSY:
        # Behind a gateway's 502 or 504 the org may well have carried the call out.
        return Busy(f"{said}. The org is overloaded or under maintenance; try again later.", unsure=status >= 500)
    if code in PERMISSION or status == 403:
        return NotReadable(code, f"{said}. Give the user that Reclaim runs as the permission, and test again.")
    if code in ("INVALID_TYPE", "INVALID_FIELD"):
        return NotReadable(
            code, f"{said}. The object or field does not exist in this org, or the user may not see it: check both."
        )
    if 300 <= status < 400:
        return Permanent(f"Salesforce answered {status}, a redirect: set instance_url to the org's present address.")
    return NotReadable(code, said)
