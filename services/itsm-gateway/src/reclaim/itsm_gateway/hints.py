"""What the body of a verified webhook says, for each platform. Pure.

A webhook of a service desk is a *hint*: it names a case, and perhaps what its ticket seems to say. What the ticket
really says is read back from the desk. Only a *generic* sender, who has no desk to be asked, decides by its words.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Final, Literal, NoReturn, get_args

import msgspec

from reclaim.common.contracts import Decision
from reclaim.common.errors import Invalid
from reclaim.connectors.itsm.decisions import DEFAULT_TAGS
from reclaim.connectors.itsm.ports import marked_case

Platform = Literal["generic", "servicenow", "serval", "jira", "freshservice"]
PLATFORMS: Final[tuple[Platform, ...]] = get_args(Platform)

LABELS: Final[dict[Platform, str]] = {
    "generic": "Generic (Standard Webhooks)",
    "servicenow": "ServiceNow",
    "serval": "Serval",
    "jira": "Jira Service Management",
    "freshservice": "Freshservice",
}

# That a task is done is no decision: only the ticket, read back, says so.
TAGS: Final[dict[str, Decision]] = {tag: answer for tag, answer in DEFAULT_TAGS.items() if answer != "done"}

_UNREADABLE: Final = (msgspec.DecodeError, RecursionError)
"""What a body raises that does not fit; also one of boxes in boxes, which is nested deeper than anybody's."""

# No NUL: PostgreSQL stores none in a text.
_Text = Annotated[str, msgspec.Meta(max_length=2000, pattern=r"^[^\x00]*\Z")]
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200, pattern=r"^[^\x00]+\Z")]


@dataclass(frozen=True, slots=True)
class Hint:
    """What a webhook says: of which case, on which ticket, by whom. `says` is None where only the ticket can tell.

    `case_id` is what the desk knows the ticket by: see `domain.of_reference`.
    `trial` is True for one that was sent to see whether the way here works.
    """

    case_id: str | None = None
    ticket: str | None = None
    says: Decision | None = None
    actor: str = ""
    reason: str = ""
    trial: bool = False


def read(platform: Platform, body: bytes) -> Hint | None:
    """Read the body of a verified webhook; None means that it is about nothing of ours.

    Raises:
        Invalid: it is not what this platform sends; the message says which part, and what to send.
    """
    match platform:
        case "generic":
            return _generic(body)
        case "servicenow" | "serval":
            return _ticket(body)
        case "jira":
            return _jira(body)
        case "freshservice":
            return _freshservice(body)


def sent_at(body: bytes) -> int | None:
    """Return the instant in a Jira webhook's body, in milliseconds since 1970; None if there is none."""
    try:
        return _stamped.decode(body).timestamp
    except _UNREADABLE:
        return None


# ------------------------------------------------------------------------------------------------ our own forms


class _Generic(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    case_id: _Name
    decision: Decision
    actor: _Name
    reason: _Text = ""


class _Ticket(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    case_id: _Name
    ticket: _Name
    decision: Decision | None = None
    actor: _Text = ""
    reason: _Text = ""


class _Trial(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    test: _Text


_generic_body = msgspec.json.Decoder(_Generic)
_ticket_body = msgspec.json.Decoder(_Ticket)
_trial_body = msgspec.json.Decoder(_Trial)


def _generic(body: bytes) -> Hint:
    try:
        said = _generic_body.decode(body)
    except _UNREADABLE as error:
        return _trial(body) or _misfit(
            error,
            "Send a JSON object with case_id, decision (keep, revoke or downgrade), actor and, if you like, reason.",
        )
    return Hint(said.case_id, None, said.decision, said.actor, said.reason)


def _ticket(body: bytes) -> Hint:
    try:
        said = _ticket_body.decode(body)
    except _UNREADABLE as error:
        return _trial(body) or _misfit(
            error, "Send a JSON object with case_id, ticket and, if you like, decision, actor and reason."
        )
    return Hint(said.case_id, said.ticket, said.decision, said.actor, said.reason)


def _trial(body: bytes) -> Hint | None:
    try:
        return Hint(reason=_trial_body.decode(body).test, trial=True)
    except _UNREADABLE:
        return None


def _misfit(error: Exception, send: str) -> NoReturn:
    raise Invalid(f"The webhook's body does not fit: {error}. {send}") from error


# ------------------------------------------------------------------------------------------------ Jira


class _JiraFields(msgspec.Struct, frozen=True):
    labels: list[_Name] = []


class _JiraIssue(msgspec.Struct, frozen=True):
    key: _Name
    fields: _JiraFields = _JiraFields()


class _JiraUser(msgspec.Struct, frozen=True, rename="camel"):
    display_name: _Text = ""


class _JiraChange(msgspec.Struct, frozen=True, rename="camel"):
    field: _Text = ""
    field_id: _Text | None = None


class _JiraChangelog(msgspec.Struct, frozen=True):
    items: list[_JiraChange] = []


class _Jira(msgspec.Struct, frozen=True, rename="camel"):
    webhook_event: _Name
    issue: _JiraIssue | None = None
    user: _JiraUser | None = None
    changelog: _JiraChangelog | None = None


class _Stamped(msgspec.Struct, frozen=True):
    timestamp: int


_jira_body = msgspec.json.Decoder(_Jira)
_stamped = msgspec.json.Decoder(_Stamped)

_DECIDING: Final = frozenset({"status", "resolution", "labels"})
"""The fields by which a ticket says something; a change of others alone, or a comment, is no hint."""


def _jira(body: bytes) -> Hint | None:
    try:
        said = _jira_body.decode(body)
    except _UNREADABLE as error:
        _misfit(error, "Send Jira's own webhook for issue events, unchanged.")
    if said.issue is None or said.webhook_event not in {"jira:issue_updated", "jira:issue_deleted"}:
        return None
    cases = _cases(said.issue.fields.labels)
    if not cases:
        return None
    # A field that a site added of its own may decide as well (`customfield_…`); its `field` is what people call it.
    changed = (
        {name.lower() for item in said.changelog.items for name in (item.field, item.field_id or "")}
        if said.changelog
        else _DECIDING
    )
    if not any(name in _DECIDING or name.startswith("customfield_") for name in changed):
        return None
    return Hint(
        case_id=cases.pop() if len(cases) == 1 else None,
        ticket=said.issue.key,
        says=_decision(said.issue.fields.labels),
        actor=said.user.display_name if said.user else "",
    )


# ------------------------------------------------------------------------------------------------ Freshservice


class _Freshservice(msgspec.Struct, frozen=True):
    ticket_id: _Name | int
    tags: _Text | list[_Name] = ""


_freshservice_body = msgspec.json.Decoder(_Freshservice)


def _freshservice(body: bytes) -> Hint | None:
    try:
        said = _freshservice_body.decode(body)
    except _UNREADABLE as error:
        return _trial(body) or _misfit(error, "Send a JSON object with ticket_id and tags from the Workflow Automator.")
    tags = said.tags.split(",") if isinstance(said.tags, str) else said.tags
    cases = _cases(tags)
    if not cases:
        return None
    return Hint(case_id=cases.pop() if len(cases) == 1 else None, ticket=str(said.ticket_id), says=_decision(tags))


# ------------------------------------------------------------------------------------------------ tags


def _cases(tags: Iterable[str]) -> set[str]:
    return {found for tag in tags if (found := marked_case(tag.strip())) is not None}


def _decision(tags: Iterable[str]) -> Decision | None:
    """Return the one decision that tags name; two that disagree are none."""
    found = {TAGS[tag.strip().lower()] for tag in tags if tag.strip().lower() in TAGS}
    return found.pop() if len(found) == 1 else None
