"""What Salesforce refuses about one record, in its own words, and what a person can do about it.

`KNOWN` is the whole of it, one table: the first line that fits gives the remedy. A line fits by the code, by words of
the message, or by both; messages are matched without regard to case, because most that block a user share one code.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from reclaim.connectors.ports import Refused
from reclaim.connectors.salesforce.errors import LOCKED, PERMISSION, first_error


class Known(NamedTuple):
    """A refusal that is known: its code ("" for any), words of its message ("" for any), and what to do."""

    code: str
    words: str
    remedy: str


_LEADS: Final = "Choose another user in Setup, Lead Settings and Web-to-Lead, then retry."
_CASES: Final = "Choose another user in Setup, Support Settings, then retry."
_SEAT: Final = "No seat of this licence is free: buy one or free one, then retry."

KNOWN: Final[tuple[Known, ...]] = (
    # By the code alone: the message of the org's own rules may hold any words.
    Known(
        "FIELD_CUSTOM_VALIDATION_EXCEPTION",
        "",
        "A validation rule of the org forbids it: meet it or change it, then retry.",
    ),
    Known(
        "CANNOT_INSERT_UPDATE_ACTIVATE_ENTITY",
        "",
        "A trigger or flow of the org failed on it: have the one that the message names mended, then retry.",
    ),
    Known(
        "CANNOT_DISABLE_LAST_ADMIN",
        "",
        "This is the last user who can administer the org: give another user that role first, then retry.",
    ),
    Known("LICENSE_LIMIT_EXCEEDED", "", _SEAT),
    Known("DUPLICATE_USERNAME", "", "Another account took the username meanwhile: change one of them, then retry."),
    Known(
        "OP_WITH_INVALID_USER_TYPE_EXCEPTION",
        "",
        "The successor's licence cannot own such records: choose another successor.",
    ),
    Known(
        "TRANSFER_REQUIRES_READ",
        "",
        "The successor may not read such records: give the right to do so, or choose another successor.",
    ),
    Known("INACTIVE_OWNER_OR_USER", "", "The new owner is inactive: choose another successor."),
    Known("ENTITY_IS_DELETED", "", "The record is deleted and nothing is left to do: retry."),
    Known("CANNOT_UPDATE_CONVERTED_LEAD", "", "The lead was converted meanwhile and nothing is left to do: retry."),
    Known("INVALID_CROSS_REFERENCE_KEY", "", "The record no longer exists, or Reclaim's user may not see it."),
    Known("MIXED_DML_OPERATION", "", "Salesforce was changing setup and business records at once; retry."),
    Known(LOCKED, "", "Somebody else holds the record; retry later."),
    *(
        Known(code, "", "Give the user that Reclaim runs as the permission to edit this record, then retry.")
        for code in sorted(PERMISSION)
    ),
    # By words of the message: what makes a user indispensable mostly comes as FIELD_INTEGRITY_EXCEPTION.
    Known(
        "", "hierarchy field", "Empty the field that the message names on the users that point at this one, then retry."
    ),
    Known("", "default lead owner", _LEADS),
    Known("", "default owner of leads", _LEADS),
    Known("", "web to lead", _LEADS),
    Known("", "web-to-lead", _LEADS),
    Known("", "default case owner", _CASES),
    Known("", "default owner of cases", _CASES),
    Known("", "automated case user", _CASES),
    Known("", "default workflow user", "Choose another user in Setup, Process Automation Settings, then retry."),
    Known("", "assignment rule", "Take the user out of the assignment rule that the message names, then retry."),
    Known("", "auto-response", "Take the user out of the auto-response rule that the message names, then retry."),
    Known("", "escalation rule", "Take the user out of the escalation rule that the message names, then retry."),
    Known("", "delegated approver", "Choose another delegated approver for the users that name this one, then retry."),
    Known("", "approver", "Take the user out of the approval processes in Setup, Approval Processes, then retry."),
    Known("", "dashboard", "Choose another running user for the dashboards that the message names, then retry."),
    Known("", "not enough licen", _SEAT),
    Known("", "license limit", _SEAT),
    Known(
        "",
        "compatible",
        "The profile does not go with the user's licence, permission sets or permission set licences: give the user "
        "one that does, or take away what it does not allow, then retry.",
    ),
    Known("", "license doesn't allow", "Take away what the licence does not allow, then retry."),
)

UNKNOWN: Final = "Look up Salesforce's message, mend its cause in the org, then retry."


def refused(errors: object) -> Refused:
    """Return a row's refusal in Salesforce's own words, with what a person can do about it."""
    code, message = first_error(errors)
    return Refused(code=code or "UNKNOWN", message=message or "Salesforce gave no reason", remedy=remedy(code, message))


def remedy(code: str, message: str) -> str:
    """Return what a person can do about a refusal."""
    said = message.lower()
    fitting = (known.remedy for known in KNOWN if known.code in ("", code) and known.words in said)
    return next(fitting, UNKNOWN)
