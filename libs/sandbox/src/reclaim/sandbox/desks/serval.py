"""A simulated Serval team, public API v2. No search by a key: tickets are listed from an instant on."""

from __future__ import annotations

import json
import secrets
from datetime import UTC, datetime
from typing import Any, ClassVar
from urllib.parse import parse_qsl

from reclaim.sandbox.rest import Reply

from .core import (
    PRODUCT,
    Call,
    Change,
    Desk,
    DeskError,
    Hook,
    Strict,
    Ticket,
    basic_of,
    bearer_of,
    hook_id,
    marker_of,
    refuse,
    standard_headers,
)

CLIENT_ID = "sandbox-client"
CLIENT_SECRET = "sandbox-secret"  # noqa: S105  it opens nothing but a simulated desk
TEAM = "team-it"
USER = "user-reclaim"
TAGS = ("lr_keep", "lr_revoke", "lr_downgrade", "lr_done", "lr_test")
_GROUPS = {"To do": "TODO", "Working on it": "IN_PROGRESS", "Solved": "DONE", "Dropped": "CANCELED"}
_STATUS_IDS = {name: f"status-{place}" for place, name in enumerate(_GROUPS, 1)}
_LABEL_IDS = {name: f"label-{place}" for place, name in enumerate(TAGS, 1)}
_PRIORITY_IDS = {f"priority-{place}": name for place, name in enumerate(("Low", "Medium", "High"), 1)}


class _Create(Strict):
    teamId: str  # noqa: N815  the API's own name, as all below
    name: str
    description: str = ""
    createdByUserId: str  # noqa: N815
    createdAt: str | None = None  # noqa: N815
    assignedToUserId: str | None = None  # noqa: N815
    parentTicketId: str | None = None  # noqa: N815
    channelSyncTargets: list[dict[str, Any]] | None = None  # noqa: N815
    aiActive: bool | None = None  # noqa: N815
    type: str | None = None
    requesterUserId: str | None = None  # noqa: N815
    dueDate: dict[str, int] | None = None  # noqa: N815
    workflowRelationship: dict[str, Any] | None = None  # noqa: N815
    ticketRelationships: list[dict[str, Any]] | None = None  # noqa: N815


class _Update(Strict):
    name: str | None = None
    description: str | None = None
    statusId: str | None = None  # noqa: N815
    priorityId: str | None = None  # noqa: N815
    assignedToUserId: str | None = None  # noqa: N815
    labelIds: list[str] | None = None  # noqa: N815
    slaStartedAt: str | None = None  # noqa: N815
    slaBreachesAt: str | None = None  # noqa: N815
    escalationLevel: str | None = None  # noqa: N815
    requesterUserId: str | None = None  # noqa: N815


class _Message(Strict):
    message: str
    authorUserId: str | None = None  # noqa: N815
    triggerHelpAgent: bool | None = None  # noqa: N815


class ServalDesk(Desk):
    name = "serval"
    label = "Serval"
    statuses = tuple(_GROUPS)
    closed_statuses = ("Solved", "Dropped")
    open_status = "To do"
    first_id = 1
    documented: ClassVar[str] = "Serval public API v2"

    def register(self) -> None:
        self._tokens: set[str] = set()
        self.route("POST", r"/v2/auth/token", self._token)
        self.route("GET", r"/v2/tickets", self._list)
        self.route("POST", r"/v2/tickets", self._create)
        self.route("GET", r"/v2/tickets/([\w-]+)", self._get)
        self.route("PUT", r"/v2/tickets/([\w-]+)", self._update)
        self.route("POST", r"/v2/tickets/([\w-]+)/messages", self._message)
        self.route("GET", r"/v2/tickets/([\w-]+)/messages", self._messages)
        self.route("GET", r"/v2/labels", self._labels)
        self.route("GET", r"/v2/statuses", self._statuses)
        self.route("GET", r"/v2/priorities", self._priorities)

    def admit(self, call: Call) -> None:
        if call.path == "/v2/auth/token":
            if basic_of(call.headers) != (CLIENT_ID, CLIENT_SECRET):
                raise DeskError(401, "invalid client credentials", code="unauthenticated")
        elif bearer_of(call.headers) not in self._tokens:
            raise DeskError(401, "invalid bearer token", code="unauthenticated")

    def refusal(self, error: DeskError) -> Reply:
        codes = {400: "invalid_argument", 403: "permission_denied", 404: "not_found", 429: "resource_exhausted"}
        code = codes.get(error.status, error.code or "unavailable")
        return Reply(error.status, {"code": code, "message": error.message})

    def key_of(self, number: int) -> str:
        return f"IT-{number}"

    def hook(self, ticket: Ticket, changes: list[Change]) -> Hook | None:
        case_id = marker_of(ticket)
        if not case_id or not {"status", "tags"} & {change.field for change in changes}:
            return None
        body = json.dumps({"case_id": case_id, "ticket": ticket.key, "actor": ticket.updated_by}).encode()
        message_id = hook_id()
        return Hook(message_id, ticket.key, standard_headers(self.hooks.secret, message_id, body), body)

    def end_sessions(self) -> None:
        """Let the tokens that were given be worth nothing."""
        self._tokens.clear()

    # Calls --------------------------------------------------------------------------------------------------------

    def _token(self, call: Call) -> Reply:
        if dict(parse_qsl(call.raw.decode("utf-8", "replace"))) != {"grant_type": "client_credentials"}:
            refuse(400, "grant_type must be client_credentials")
        token = secrets.token_urlsafe(24)
        self._tokens.add(token)
        return Reply(200, {"access_token": token, "token_type": "Bearer", "expires_in": 3600})

    def _list(self, call: Call) -> Reply:
        call.only("teamId", "startTime.seconds", "startTime.nanos", "pageSize", "pageToken")
        self._of_team(call)
        seconds = call.params.get("startTime.seconds", "0")
        if not seconds.isdigit():
            refuse(400, "startTime.seconds: not a number")
        since = datetime.fromtimestamp(int(seconds), UTC)
        found = [ticket for ticket in self.tickets.values() if ticket.created_at >= since]
        size, start = call.number("pageSize", 2000, 5000), int(call.params.get("pageToken") or 0)
        more = str(start + size) if len(found) > start + size else None
        return Reply(200, {"data": [_shown(each) for each in found[start : start + size]], "nextPageToken": more})

    def _create(self, call: Call) -> Reply:
        body = call.json(_Create)
        if body.teamId != TEAM:
            raise DeskError(404, "team not found")
        if body.createdByUserId != USER:
            refuse(400, "createdByUserId: no such user")
        if not body.name.strip():
            refuse(400, "name: must not be empty")
        ticket = self.open(
            subject=body.name,
            description=body.description,
            requester=body.requesterUserId or body.createdByUserId,
            fields={"aiActive": body.aiActive is not False, "assignedToUserId": body.assignedToUserId},
        )
        return Reply(200, {"data": _shown(ticket)})

    def _get(self, call: Call) -> Reply:
        return Reply(200, {"data": _shown(self._found(call.parts[0]))})

    def _update(self, call: Call) -> Reply:
        given = call.json(_Update).model_dump(exclude_unset=True, exclude_none=True)
        ticket = self._found(call.parts[0])
        names = {"name": "subject", "description": "description"}
        values = {names.get(name, name): value for name, value in given.items()}
        if "statusId" in values:
            by_id = {status_id: name for name, status_id in _STATUS_IDS.items()}
            values["status"] = by_id.get(values.pop("statusId")) or refuse(400, "statusId: no such status")
        if "labelIds" in values:
            by_id = {label_id: name for name, label_id in _LABEL_IDS.items()}
            values["tags"] = [
                by_id.get(each) or refuse(400, "labelIds: no such label") for each in values.pop("labelIds")
            ]
        if values.get("priorityId", "priority-1") not in _PRIORITY_IDS:
            refuse(400, "priorityId: no such priority")
        self.change(ticket, by=PRODUCT, **values)
        return Reply(200, {"data": _shown(ticket)})

    def _message(self, call: Call) -> Reply:
        body = call.json(_Message)
        comment = self.say(self._found(call.parts[0]), body.message, public=True, by=PRODUCT)
        return Reply(200, {"data": {"messageId": f"message-{comment.id}"}})

    def _messages(self, call: Call) -> Reply:
        call.only("pageSize", "pageToken")
        said = self._found(call.parts[0]).comments
        size, start = call.number("pageSize", 2000, 5000), int(call.params.get("pageToken") or 0)
        shown = [{"id": f"message-{each.id}", "content": each.text} for each in said[start : start + size]]
        return Reply(200, {"data": shown, "nextPageToken": str(start + size) if len(said) > start + size else None})

    def _labels(self, call: Call) -> Reply:
        call.only("teamId", "pageSize", "pageToken")
        self._of_team(call)
        return Reply(200, {"data": [{"id": key, "teamId": TEAM, "name": name} for name, key in _LABEL_IDS.items()]})

    def _statuses(self, call: Call) -> Reply:
        call.only("teamId", "pageSize", "pageToken")
        self._of_team(call)
        shown = [
            {"id": _STATUS_IDS[name], "teamId": TEAM, "statusGroup": f"TICKET_STATUS_GROUP_{group}", "name": name}
            for name, group in _GROUPS.items()
        ]
        return Reply(200, {"data": shown})

    def _priorities(self, call: Call) -> Reply:
        call.only("teamId", "pageSize", "pageToken")
        self._of_team(call)
        return Reply(200, {"data": [{"id": key, "teamId": TEAM, "name": name} for key, name in _PRIORITY_IDS.items()]})

    def _of_team(self, call: Call) -> None:
        if call.params.get("teamId") != TEAM:
            raise DeskError(404, "team not found")

    def _found(self, key: str) -> Ticket:
        for ticket in self.tickets.values():
            if key == _id(ticket):
                return ticket
        raise DeskError(404, "ticket not found")


def _id(ticket: Ticket) -> str:
    return f"ticket-{ticket.id:06d}"


def _shown(ticket: Ticket) -> dict[str, Any]:
    closed = _GROUPS[ticket.status] in {"DONE", "CANCELED"}
    shown = {
        "id": _id(ticket),
        "friendlyIdentifier": ticket.key,
        "teamId": TEAM,
        "name": ticket.subject,
        "description": ticket.description,
        "createdAt": ticket.created_at.isoformat().replace("+00:00", "Z"),
        "createdByUserId": USER,
        "requesterUserId": ticket.requester,
        "statusId": _STATUS_IDS[ticket.status],
        "escalationLevel": "HUMAN",
        "labelIds": [_LABEL_IDS[tag] for tag in ticket.tags if tag in _LABEL_IDS],
    }
    if ticket.fields.get("priorityId"):
        shown["priorityId"] = ticket.fields["priorityId"]
    if closed:
        shown["completedAt"] = ticket.updated_at.isoformat().replace("+00:00", "Z")
    return shown
