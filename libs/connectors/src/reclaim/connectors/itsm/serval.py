"""Serval, public API v2.

Tickets have no key of ours, so the marker of a case is a line of the description, and a ticket is found by reading the
team's tickets since the case began. Serval's assistant is told to keep out (`aiActive`, `triggerHelpAgent`): it might
resolve a ticket that waits for a person.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, Final

import httpx
import msgspec

from reclaim.connectors.itsm.base import Adapter, ClientCredentials, Line, closed_at_last, marked, moment, only, tried
from reclaim.connectors.itsm.decisions import read
from reclaim.connectors.itsm.ports import (
    TEST_TAG,
    Choice,
    Deed,
    FieldSpec,
    Json,
    PermissionResult,
    ReadDecision,
    Refused,
    TicketDraft,
    TicketRef,
    case_marker,
)
from reclaim.connectors.itsm.profile import ALLOW_HTTP, DeskProfile, Entered, Entry, Tuning

ENTRIES: Final = (
    Entry("base_url", "Address", "The address of the API.", required=False, default="https://public.api.serval.com"),
    Entry("client_id", "Client id", "Of an API client with access to the team's tickets."),
    Entry("client_secret", "Client secret", "The secret of that client.", secret=True),
    Entry("team_id", "Team", "The id of the team whose tickets these are."),
    Entry("user_id", "User", "The id of the user in whose name Reclaim opens tickets and writes messages."),
    ALLOW_HTTP,
)

PERMISSIONS: Final[Mapping[Deed, str]] = MappingProxyType(
    {
        "open": "an API client that may create tickets of the team",
        "tag": "an API client that may change tickets, and the label in the team",
        "comment": "an API client that may write messages in the name of the user that was entered",
        "close": "an API client that may change tickets, and a status of the group Done",
        "reopen": "an API client that may change tickets, and a status of the group In progress or To do",
    }
)
"""What the user that Reclaim works as has to be allowed."""

PAGE: Final = 1000
SLACK: Final = timedelta(minutes=15)
"""How far our clock and the desk's may be apart."""
CLOSED_GROUPS: Final = frozenset({"DONE", "CANCELED"})
STATUS: Final = "status"
"""The decision field: Serval's tickets have no close code, but a team has statuses of its own."""
AFTERWARDS: Final = frozenset({"priorityId"})
"""Fields that are taken by an update only."""


class _Ticket(msgspec.Struct, rename="camel"):
    id: str
    friendly_identifier: str = ""
    description: str | None = ""
    status_id: str = ""
    priority_id: str | None = None
    assigned_to_user_id: str | None = None
    completed_at: str | None = None
    created_at: str = ""
    label_ids: list[str] = []


class _One(msgspec.Struct, rename="camel"):
    data: _Ticket


class _Many(msgspec.Struct, rename="camel"):
    data: list[_Ticket] = []
    next_page_token: str | None = None


class _Message(msgspec.Struct):
    content: str | None = ""


class _Messages(msgspec.Struct, rename="camel"):
    data: list[_Message] = []
    next_page_token: str | None = None


class _Status(msgspec.Struct, rename="camel"):
    id: str
    name: str = ""
    status_group: str = ""
    is_default: bool = False

    @property
    def group(self) -> str:
        return self.status_group.removeprefix("TICKET_STATUS_GROUP_")


class _Statuses(msgspec.Struct, rename="camel"):
    data: list[_Status]


class _Label(msgspec.Struct, rename="camel"):
    id: str
    name: str


class _Labels(msgspec.Struct, rename="camel"):
    data: list[_Label] = []
    next_page_token: str | None = None


class _Priorities(msgspec.Struct, rename="camel"):
    data: list[dict[str, Any]]


def _explain(body: Any) -> str:
    return str(body.get("message") or body.get("error_description") or body.get("code") or "")


class Serval(Adapter):
    """The tickets of one team."""

    def __init__(self, profile: DeskProfile, client: httpx.AsyncClient, tuning: Tuning) -> None:
        entered = Entered(profile, ENTRIES)
        super().__init__(
            Line(
                client,
                name="Serval",
                base=entered.url("base_url"),
                authority=ClientCredentials(
                    "/v2/auth/token", entered["client_id"], entered["client_secret"], in_form=False
                ),
                calls_per_minute=120,
                tuning=tuning,
                explain=_explain,
            ),
            tuning,
        )
        self.decisions = profile.decisions
        self.team_id, self.user_id = entered.name("team_id"), entered.name("user_id")

    async def test_connection(self) -> Sequence[PermissionResult]:
        async def sees_tickets() -> str:
            await self.line.call("GET", "/v2/tickets", into=_Many, params={"teamId": self.team_id, "pageSize": 1})
            return "The team's tickets can be read."

        async def sees_statuses() -> str:
            groups = {status.group for status in await self._statuses()}
            if not groups & CLOSED_GROUPS:
                raise Refused("The team has no status that closes a ticket.", "Add one of the group Done.")
            return f"{len(groups)} groups of statuses."

        async def sees_labels() -> str:
            missing = sorted({*self.decisions.tags, TEST_TAG} - set(await self._labels()))
            if missing:
                raise Refused(f"The team has no label {', '.join(missing)}.", "Create the labels in the team.")
            return "Every label exists."

        return [
            await tried("read tickets", sees_tickets),
            await tried("read statuses", sees_statuses),
            await tried("read labels", sees_labels),
        ]

    async def discover_fields(self) -> Sequence[FieldSpec]:
        found = (await self.line.call("GET", "/v2/priorities", into=_Priorities, params={"teamId": self.team_id})).data
        priorities = tuple(
            Choice(str(each["id"]), str(each.get("name") or each.get("priority") or each["id"])) for each in found
        )
        return [
            FieldSpec("name", "Name", "text", required=True),
            FieldSpec("description", "Description", "text"),
            FieldSpec("priorityId", "Priority", "choice", choices=priorities),
            FieldSpec("assignedToUserId", "Assignee (user id)", "text"),
            FieldSpec("requesterUserId", "Requester (user id)", "text"),
        ]

    async def find_by_case(self, case_id: str, *, since: datetime) -> TicketRef | None:
        marker = case_marker(case_id)
        found: list[_Ticket] = []
        params: dict[str, str | int] = {
            "teamId": self.team_id,
            "startTime.seconds": str(int((since.astimezone(UTC) - SLACK).timestamp())),
            "pageSize": PAGE,
        }
        while True:
            page = await self.line.call("GET", "/v2/tickets", into=_Many, params=params)
            found += [ticket for ticket in page.data if marker in (ticket.description or "").split()]
            if not page.next_page_token:
                break
            params["pageToken"] = page.next_page_token
        found.sort(key=lambda ticket: (moment(ticket.created_at) or since, ticket.id))
        return only([self._ref(ticket) for ticket in found], case_id)

    async def _comment(self, ref: TicketRef, text: str, mark: str = "") -> None:  # noqa: ARG002  it is in the text
        await self.line.call(
            "POST",
            f"/v2/tickets/{ref.key}/messages",
            into=object,
            body={"message": text, "authorUserId": self.user_id, "triggerHelpAgent": False},
        )

    async def _close(self, ref: TicketRef, text: str, mark: str) -> None:
        await self._move(ref, text, mark, closed=True)

    async def _reopen(self, ref: TicketRef, text: str, mark: str) -> None:  # noqa: ARG002  it is in the text
        await self._move(ref, text, "", closed=False)

    async def _says(self, ref: TicketRef, mark: str) -> bool:
        params: dict[str, str | int] = {}
        while True:
            page = await self.line.call("GET", f"/v2/tickets/{ref.key}/messages", into=_Messages, params=params)
            if marked((message.content or "" for message in page.data), mark):
                return True
            if not page.next_page_token:
                return False
            params["pageToken"] = page.next_page_token

    async def _closed_with(self, ref: TicketRef, mark: str) -> bool:
        return marked([(await self._read(ref)).description or ""], mark)

    async def read_decision(self, ref: TicketRef) -> ReadDecision:
        ticket = await self._read(ref)
        names = {label_id: name for name, label_id in (await self._labels()).items()} if ticket.label_ids else {}
        status = next((each for each in await self._statuses() if each.id == ticket.status_id), None)
        closed = self._is_closed(ticket, status)
        return read(
            self.decisions,
            closed=closed,
            tags=[names[each] for each in ticket.label_ids if each in names],
            values=[status.name] if status and self.decisions.decision_field == STATUS else (),
            # Of one that was reopened it is when it was closed before.
            at=moment(ticket.completed_at) if closed else None,
        )

    async def _open(self, draft: TicketDraft) -> TicketRef:
        body: dict[str, Json] = {name: value for name, value in draft.fields.items() if name not in AFTERWARDS}
        body |= {
            "teamId": self.team_id,
            "name": self._subject(draft),
            "description": self._description(draft),
            "createdByUserId": self.user_id,
            "aiActive": False,
        }
        return self._ref((await self.line.call("POST", "/v2/tickets", into=_One, body=body)).data)

    async def _prepare(self, draft: TicketDraft) -> None:
        if draft.test and TEST_TAG not in await self._labels():
            raise Refused(f"The team has no label {TEST_TAG}.", "Create it in the team.")

    async def _complete(self, ref: TicketRef, draft: TicketDraft) -> None:
        change: dict[str, Json] = {}
        later = {name: value for name, value in draft.fields.items() if name in AFTERWARDS}
        if not (draft.test or later):
            return
        ticket = await self._read(ref)
        if later.get("priorityId") not in (None, ticket.priority_id):
            change |= later
        if draft.test:
            label = (await self._labels())[TEST_TAG]
            if label not in ticket.label_ids:
                change["labelIds"] = [*ticket.label_ids, label]
        if change:
            await self._update(ref, change)

    async def _move(self, ref: TicketRef, text: str, mark: str, *, closed: bool) -> None:
        ticket = await self._read(ref)
        statuses = await self._statuses()
        present = next((each for each in statuses if each.id == ticket.status_id), None)
        if self._is_closed(ticket, present) is closed:
            return
        wanted = ("DONE", "CANCELED") if closed else ("IN_PROGRESS", "TODO")
        fitting = [each for group in wanted for each in statuses if each.group == group]
        if not fitting:
            raise Refused(f"The team has no status of the groups {', '.join(wanted)}.", "Add one to the team.")
        change: dict[str, Json] = {"statusId": fitting[0].id}
        if mark:
            # A ticket has no field of ours and no readable history: what closed it stands below its description.
            change["description"] = f"{(ticket.description or '').rstrip()}\nClosed by Reclaim: {mark}".lstrip()
        moved = await self._update(ref, change)
        if closed:
            present = next((each for each in statuses if each.id == moved.status_id), None)
            closed_at_last(ref, closed=self._is_closed(moved, present))
        await self._comment(ref, text)

    async def _read(self, ref: TicketRef) -> _Ticket:
        return (await self.line.call("GET", f"/v2/tickets/{ref.key}", into=_One)).data

    async def _update(self, ref: TicketRef, change: Mapping[str, Json]) -> _Ticket:
        return (await self.line.call("PUT", f"/v2/tickets/{ref.key}", into=_One, body=change)).data

    async def _statuses(self) -> list[_Status]:
        return (await self.line.call("GET", "/v2/statuses", into=_Statuses, params={"teamId": self.team_id})).data

    async def _labels(self) -> dict[str, str]:
        """Return the ids of the team's labels by their names."""
        found: dict[str, str] = {}
        params: dict[str, str | int] = {"teamId": self.team_id}
        while True:
            page = await self.line.call("GET", "/v2/labels", into=_Labels, params=params)
            found |= {label.name: label.id for label in page.data}
            if not page.next_page_token:
                return found
            params["pageToken"] = page.next_page_token

    @staticmethod
    def _is_closed(ticket: _Ticket, status: _Status | None) -> bool:
        return ticket.completed_at is not None if status is None else status.group in CLOSED_GROUPS

    def _ref(self, ticket: _Ticket) -> TicketRef:
        # The address of a ticket's page is not documented; people know it by its identifier.
        return TicketRef(ticket.id, ticket.friendly_identifier or ticket.id, "")
