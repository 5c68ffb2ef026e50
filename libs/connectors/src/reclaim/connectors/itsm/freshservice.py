"""Freshservice, API v2.

The marker of a case is a tag, and a line of the description: a new ticket may be missing from the search by tag for
some minutes, and the list of what changed lately has it at once. Descriptions and notes are HTML, so texts are escaped.
A tag is kept short, and so is the marker in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from html import escape
from types import MappingProxyType
from typing import Any, Final

import httpx
import msgspec

from reclaim.common.errors import Invalid
from reclaim.connectors.itsm.base import Adapter, Basic, Line, closed_at_last, marked, moment, only, tried
from reclaim.connectors.itsm.decisions import read
from reclaim.connectors.itsm.ports import (
    Choice,
    Deed,
    FieldKind,
    FieldSpec,
    Json,
    PermissionResult,
    ReadDecision,
    Refused,
    TicketDraft,
    TicketRef,
    UnknownOutcome,
    case_marker,
    short_marker,
)
from reclaim.connectors.itsm.profile import (
    ADDRESS,
    ALLOW_HTTP,
    PUBLIC_COMMENTS,
    DeskProfile,
    Entered,
    Entry,
    Tuning,
)
from reclaim.connectors.itsm.texts import Room

OPEN: Final = 2
RESOLVED: Final = 4
CLOSED: Final = 5
PAGE: Final = 100
MOST_PAGES: Final = 100
SLACK: Final = timedelta(minutes=15)
"""How far our clock and the desk's may be apart."""
CUSTOM: Final = "custom_fields."
LONGEST_TAG: Final = 32
"""Characters of a tag. How many there may be is not documented: no more than this is safe."""

ENTRIES: Final = (
    ADDRESS,
    Entry("api_key", "API key", "The key of an agent, from its profile settings.", secret=True),
    Entry("requester_email", "Requester", "The e-mail address tickets are opened for when a case has none."),
    Entry("workspace_id", "Workspace", "The number of the workspace; empty for the primary one.", required=False),
    Entry("priority", "Priority", "1 low, 2 medium, 3 high, 4 urgent.", required=False, default="2"),
    PUBLIC_COMMENTS,
    ALLOW_HTTP,
)

PERMISSIONS: Final[Mapping[Deed, str]] = MappingProxyType(
    {
        "open": "an agent whose role may create tickets, in the workspace that was entered",
        "tag": "an agent whose role may edit the properties of tickets",
        "comment": "an agent whose role may add notes, or reply where comments are public",
        "close": "an agent whose role may edit tickets, and no field that is required to close one",
        "reopen": "an agent whose role may edit tickets that are closed",
    }
)
"""What the user that Reclaim works as has to be allowed."""

_KINDS: Final[Mapping[str, FieldKind]] = {
    "text": "text",
    "paragraph": "text",
    "url": "text",
    "number": "integer",
    "decimal": "decimal",
    "checkbox": "boolean",
    "date": "date",
    "dropdown": "choice",
    "status": "level",
    "priority": "level",
    "urgency": "level",
    "impact": "level",
    "source": "level",
    "ticket_type": "choice",
    "multi_select_dropdown": "choices",
    "agent": "integer",
    "group": "integer",
    "department": "level",
}
_NAMES: Final[Mapping[str, str]] = {
    "agent": "responder_id",
    "group": "group_id",
    "department": "department_id",
    "ticket_type": "type",
}
"""What a ticket calls a field that the form has under another name."""


class _Ticket(msgspec.Struct):
    id: int
    status: int = OPEN
    subject: str = ""
    description_text: str | None = ""
    tags: list[str] | msgspec.UnsetType = msgspec.UNSET
    custom_fields: dict[str, Any] | None = None
    updated_at: str | None = None
    created_at: str | None = None


class _One(msgspec.Struct):
    ticket: _Ticket


class _Many(msgspec.Struct):
    tickets: list[_Ticket]


class _Raw(msgspec.Struct):
    ticket: dict[str, Any]


class _Form(msgspec.Struct):
    ticket_fields: list[dict[str, Any]]


class _Note(msgspec.Struct):
    conversation: dict[str, Any]


class _Conversation(msgspec.Struct):
    body: str | None = None
    body_text: str | None = None


class _Conversations(msgspec.Struct):
    conversations: list[_Conversation]


def _explain(body: Any) -> str:
    if "errors" in body:
        parts = "; ".join(f"{each.get('field', '')}: {each['message']}".lstrip(": ") for each in body["errors"])
        return f"{body.get('description', '')} ({parts})"
    return str(body.get("message") or body.get("description") or "")


class Freshservice(Adapter):
    """The tickets of one account."""

    room = Room(title=255)

    def __init__(self, profile: DeskProfile, client: httpx.AsyncClient, tuning: Tuning) -> None:
        entered = Entered(profile, ENTRIES)
        super().__init__(
            Line(
                client,
                name="Freshservice",
                base=entered.url("base_url"),
                authority=Basic(entered["api_key"], "X"),
                calls_per_minute=90,  # the smallest plan allows 100
                tuning=tuning,
                explain=_explain,
            ),
            tuning,
        )
        self.decisions = profile.decisions
        self.requester_email = entered["requester_email"]
        if "@" not in self.requester_email:
            raise Invalid("Enter an e-mail address.", field="requester_email")
        self.priority = entered.number("priority", 1, 4)
        self.workspace_id = entered.number("workspace_id", 1, 2**53) if entered["workspace_id"] else None
        self.private_notes = not entered.flag("public_comments")
        # How long a tag may be is not known: ours are short, and those that people use there have been tried by them.
        if any(not tag or "," in tag for tag in self.decisions.tags):
            raise Invalid("A tag in Freshservice has at least one character, and no comma.", field="decisions")

    async def test_connection(self) -> Sequence[PermissionResult]:
        async def sees_tickets() -> str:
            await self.line.call("GET", "/api/v2/tickets", into=_Many, params={"per_page": 1})
            return "Tickets can be read."

        async def sees_fields() -> str:
            names = {spec.name for spec in await self.discover_fields()}
            field = self.decisions.decision_field
            if field and field not in names:
                raise Refused(f"There is no ticket field {field}.", "Choose one of the fields that the form has.")
            return f"{len(names)} fields."

        async def searches() -> str:
            await self._tagged("lr-case-connection-test")
            return "Tickets can be searched by tag."

        return [
            await tried("read tickets", sees_tickets),
            await tried("read the ticket form", sees_fields),
            await tried("search by tag", searches),
        ]

    async def discover_fields(self) -> Sequence[FieldSpec]:
        params = {"workspace_id": self.workspace_id} if self.workspace_id else None
        form = await self.line.call("GET", "/api/v2/ticket_form_fields", into=_Form, params=params)
        return [_spec(each) for each in form.ticket_fields if isinstance(each.get("name"), str)]

    async def find_by_case(self, case_id: str, *, since: datetime) -> TicketRef | None:  # noqa: ARG002  tags are indexed
        return only(await self._of_case(await self._tagged(*_marks(case_id)), case_id), case_id)

    async def _comment(self, ref: TicketRef, text: str, mark: str = "") -> None:  # noqa: ARG002  it is in the text
        await self.line.call(
            "POST",
            f"/api/v2/tickets/{ref.key}/notes",
            into=_Note,
            body={"body": _html(text), "private": self.private_notes},
        )

    async def _close(self, ref: TicketRef, text: str, mark: str) -> None:
        ticket = await self._read(ref)
        if not _is_closed(ticket):
            change: dict[str, Json] = {"status": CLOSED}
            if mark and ticket.tags is not msgspec.UNSET:
                # A list of tags may replace those that are there: where they are not shown, none is added.
                change["tags"] = sorted({*ticket.tags, mark})
            closed_at_last(ref, closed=_is_closed(await self._update(ref, change)))
            await self._comment(ref, text)

    async def _reopen(self, ref: TicketRef, text: str, mark: str) -> None:  # noqa: ARG002  it is in the text
        if _is_closed(await self._read(ref)):
            await self._update(ref, {"status": OPEN})
            await self._comment(ref, text)

    @staticmethod
    def _written(text: str) -> str:
        return _html(text)

    async def _says(self, ref: TicketRef, mark: str) -> bool:
        path = f"/api/v2/tickets/{ref.key}/conversations"
        for page in range(1, MOST_PAGES + 1):
            params = {"per_page": PAGE, "page": page}
            found = (await self.line.call("GET", path, into=_Conversations, params=params)).conversations
            if marked((text for each in found for text in (each.body_text, each.body) if text), mark):
                return True
            if len(found) < PAGE:
                break
        return False

    async def _closed_with(self, ref: TicketRef, mark: str) -> bool:
        return mark in _tags(await self._read(ref))

    async def read_decision(self, ref: TicketRef) -> ReadDecision:
        ticket = await self._read(ref)
        return read(
            self.decisions,
            closed=_is_closed(ticket),
            tags=_tags(ticket),
            values=await self._decided_values(ref, ticket),
            at=moment(ticket.updated_at),
        )

    async def _decided_values(self, ref: TicketRef, ticket: _Ticket) -> list[str]:
        field = self.decisions.decision_field
        if not field:
            return []
        if field.startswith(CUSTOM):
            value = (ticket.custom_fields or {}).get(field.removeprefix(CUSTOM))
        else:
            raw = await self.line.call("GET", f"/api/v2/tickets/{ref.key}", into=_Raw)
            value = raw.ticket.get(field)
        return [str(each) for each in (value if isinstance(value, list) else [value]) if each is not None]

    async def _open(self, draft: TicketDraft) -> TicketRef:
        custom = {name.removeprefix(CUSTOM): value for name, value in draft.fields.items() if name.startswith(CUSTOM)}
        body: dict[str, Json] = {"priority": self.priority}
        body |= {name: value for name, value in draft.fields.items() if not name.startswith(CUSTOM)}
        body |= {
            "email": draft.requester_email or self.requester_email,
            "subject": self._subject(draft),
            "description": self._description(draft),
            "status": OPEN,
            "tags": _wanted(draft),
        }
        if custom:
            body["custom_fields"] = custom
        if self.workspace_id:
            body["workspace_id"] = self.workspace_id
        made = await self.line.call("POST", "/api/v2/tickets", into=_One, body=body)
        return self._ref(made.ticket)

    async def _complete(self, ref: TicketRef, draft: TicketDraft) -> None:
        present = set(_tags(await self._read(ref)))
        missing = set(_wanted(draft)) - present
        if not present.isdisjoint(_marks(draft.case_id)):
            missing.discard(_tag(draft.case_id))
        if missing:
            # Whether a list of tags replaces the old one is not documented: the union is right either way.
            await self._update(ref, {"tags": sorted(present | missing)})

    async def _find_slowly(self, draft: TicketDraft) -> TicketRef | None:
        found = await self.find_by_case(draft.case_id, since=draft.opened_at)
        if found is not None:
            return found
        since = f"{draft.opened_at.astimezone(UTC) - SLACK:%Y-%m-%dT%H:%M:%SZ}"
        lately: list[_Ticket] = []
        for page in range(1, MOST_PAGES + 1):
            params: dict[str, str | int] = {"updated_since": since, "per_page": PAGE, "page": page}
            if self.workspace_id:
                params["workspace_id"] = self.workspace_id
            tickets = (await self.line.call("GET", "/api/v2/tickets", into=_Many, params=params)).tickets
            lately += [each for each in tickets if _is_of(each, draft.case_id)]
            if len(tickets) < PAGE:
                return only(await self._of_case(lately, draft.case_id), draft.case_id)
        raise UnknownOutcome(
            "Freshservice has more new tickets than can be looked through; its search will have this one later.",
            look_after=self.tuning.unknown_for * 10,
        )

    async def _tagged(self, *markers: str) -> list[_Ticket]:
        anyone = " OR ".join(f"tag:'{marker}'" for marker in markers)
        params: dict[str, str | int] = {"query": f'"{anyone}"'}
        if self.workspace_id:
            params["workspace_id"] = self.workspace_id
        return (await self.line.call("GET", "/api/v2/tickets/filter", into=_Many, params=params)).tickets

    async def _of_case(self, tickets: Sequence[_Ticket], case_id: str) -> list[TicketRef]:
        """Return the tickets that really carry the marker, the oldest first; a search may answer without their tags."""
        refs = []
        for each in sorted(tickets, key=lambda ticket: ticket.id):
            ref = self._ref(each)
            if _is_of(each, case_id) or _is_of(await self._read(ref), case_id):
                refs.append(ref)
        return refs

    async def _read(self, ref: TicketRef) -> _Ticket:
        """Return a ticket with its tags, for which some accounts have to be asked by name."""
        path = f"/api/v2/tickets/{ref.key}"
        ticket = (await self.line.call("GET", path, into=_One)).ticket
        if ticket.tags is msgspec.UNSET:
            ticket = (await self.line.call("GET", path, into=_One, params={"include": "tags"})).ticket
        return ticket

    async def _update(self, ref: TicketRef, change: Mapping[str, Json]) -> _Ticket:
        return (await self.line.call("PUT", f"/api/v2/tickets/{ref.key}", into=_One, body=change)).ticket

    def _ref(self, ticket: _Ticket) -> TicketRef:
        return TicketRef(str(ticket.id), f"#{ticket.id}", f"{self.line.base}/a/tickets/{ticket.id}")


def _is_closed(ticket: _Ticket) -> bool:
    return ticket.status in {RESOLVED, CLOSED}


def _tags(ticket: _Ticket) -> list[str]:
    return [] if ticket.tags is msgspec.UNSET else ticket.tags


def _tag(case_id: str) -> str:
    return short_marker(case_id, LONGEST_TAG)


def _marks(case_id: str) -> list[str]:
    """Return the tags that a case's ticket may be known by: earlier releases tagged it with its marker in full."""
    return list(dict.fromkeys((_tag(case_id), case_marker(case_id))))


def _wanted(draft: TicketDraft) -> list[str]:
    return [_tag(draft.case_id) if tag == draft.marker else tag for tag in draft.tags]


def _is_of(ticket: _Ticket, case_id: str) -> bool:
    """Tell whether a ticket carries the marker of a case: as a tag, or in its description."""
    words = {*_tags(ticket), *(ticket.description_text or "").split()}
    return not words.isdisjoint(_marks(case_id))


def _html(text: str) -> str:
    return escape(text).replace("\n", "<br>")


def _spec(field: Mapping[str, Any]) -> FieldSpec:
    custom = field.get("default_field") is False
    kind = str(field.get("field_type", "")).removeprefix("custom_").removeprefix("default_")
    kind_here: FieldKind = _KINDS.get(kind, "unsupported")
    return FieldSpec(
        name=f"{CUSTOM}{field['name']}" if custom else _NAMES.get(kind, str(field["name"])),
        label=str(field.get("label") or field["name"]),
        kind=kind_here,
        required=field.get("required_for_agents") is True,
        choices=tuple(_choices(field.get("choices"), by_id=kind_here == "level")),
    )


def _choices(found: Any, *, by_id: bool) -> list[Choice]:
    """Return choices in either of the forms that fields have them in; of a level the API wants the number."""
    choices = []
    for each in found if isinstance(found, list) else []:
        label = str(each.get("value") if isinstance(each, Mapping) else each)
        value = str(each.get("id")) if by_id and isinstance(each, Mapping) else label
        choices.append(Choice(value, label))
    return choices
