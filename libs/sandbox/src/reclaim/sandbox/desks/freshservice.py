"""A simulated Freshservice account, API v2. Its webhook has no signature, only a static header: it is a hint."""

from __future__ import annotations

import html
import json
import re
from datetime import datetime
from typing import Annotated, Any, ClassVar

from pydantic import Field

from reclaim.sandbox.rest import Reply

from .core import PRODUCT, Call, Change, Desk, DeskError, Hook, Strict, Ticket, basic_of, hook_id, refuse

API_KEY = "sandbox-api-key"
_STATUSES = {2: "Open", 3: "Pending", 4: "Resolved", 5: "Closed"}
_FIELDS: list[dict[str, Any]] = [
    {"name": "subject", "label": "Subject", "field_type": "default_subject", "default_field": True, "required": True},
    {
        "name": "status",
        "label": "Status",
        "field_type": "default_status",
        "default_field": True,
        "choices": [{"id": number, "value": label} for number, label in _STATUSES.items()],
    },
    {
        "name": "priority",
        "label": "Priority",
        "field_type": "default_priority",
        "default_field": True,
        "choices": [
            {"id": place, "value": label} for place, label in enumerate(("Low", "Medium", "High", "Urgent"), 1)
        ],
    },
    {
        "name": "decision",
        "label": "Decision",
        "field_type": "custom_dropdown",
        "default_field": False,
        "choices": [{"id": 71, "value": "Keep"}, {"id": 72, "value": "Revoke"}],
    },
    {
        "name": "ticket_type",
        "label": "Type",
        "field_type": "default_ticket_type",
        "default_field": True,
        "choices": [{"id": 1, "value": "Incident"}],
    },
    {"name": "group", "label": "Group", "field_type": "default_group", "default_field": True, "choices": []},
    {
        "name": "department",
        "label": "Department",
        "field_type": "default_department",
        "default_field": True,
        "choices": [{"id": 4100, "value": "Sales"}],
    },
    {"name": "cost", "label": "Cost", "field_type": "custom_decimal", "default_field": False},
]
_CUSTOM: dict[str, tuple[type, ...]] = {"decision": (str,), "cost": (int, float)}
_HTML = re.compile(r"<[^>]+>")


class _Fields(Strict):
    """What a ticket may be made of, as documented for create and update."""

    email: str | None = None
    requester_id: int | None = None
    phone: str | None = None
    name: str | None = None
    subject: str | None = Field(default=None, max_length=255)
    description: str | None = None
    type: str | None = None
    status: int | None = Field(default=None, ge=2, le=5)
    priority: int | None = Field(default=None, ge=1, le=4)
    source: int | None = None
    urgency: int | None = None
    impact: int | None = None
    responder_id: int | None = None
    group_id: int | None = None
    department_id: int | None = None
    category: str | None = None
    sub_category: str | None = None
    item_category: str | None = None
    due_by: str | None = None
    fr_due_by: str | None = None
    cc_emails: list[str] | None = None
    tags: list[Annotated[str, Field(min_length=1, max_length=32, pattern="^[^,]*$")]] | None = None
    custom_fields: dict[str, Any] | None = None
    workspace_id: int | None = None


class _Note(Strict):
    body: str
    private: bool | None = None
    incoming: bool | None = None
    notify_emails: list[str] | None = None
    user_id: int | None = None


class FreshserviceDesk(Desk):
    name = "freshservice"
    label = "Freshservice"
    statuses = ("2", "3", "4", "5")
    closed_statuses = ("4", "5")
    open_status = "2"
    first_id = 301
    documented: ClassVar[str] = "Freshservice API v2"
    tags_by_name_only = False
    """Whether a ticket shows its tags only to a call that asks for them, as some accounts do."""

    def register(self) -> None:
        self.route("GET", r"/api/v2/tickets", self._list)
        self.route("POST", r"/api/v2/tickets", self._create)
        self.route("GET", r"/api/v2/tickets/filter", self._filter)
        self.route("GET", r"/api/v2/tickets/(\d+)", self._get)
        self.route("PUT", r"/api/v2/tickets/(\d+)", self._update)
        self.route("POST", r"/api/v2/tickets/(\d+)/notes", self._note_on)
        self.route("GET", r"/api/v2/tickets/(\d+)/conversations", self._conversations)
        self.route("GET", r"/api/v2/ticket_form_fields", self._form)

    def admit(self, call: Call) -> None:
        if basic_of(call.headers)[0] != API_KEY:
            raise DeskError(401, "You have to be logged in to perform this action.", code="invalid_credentials")

    def refusal(self, error: DeskError) -> Reply:
        if error.status == 400:
            named = {"field": error.field, "message": error.message, "code": error.code}
            return Reply(400, {"description": "Validation failed", "errors": [named]})
        return Reply(error.status, {"code": error.code or "error", "message": error.message})

    def key_of(self, number: int) -> str:
        return str(number)

    def hook(self, ticket: Ticket, changes: list[Change]) -> Hook | None:
        if {change.field for change in changes} & {"ticket", "comment"}:
            return None
        body = json.dumps({"ticket_id": ticket.key, "tags": ",".join(ticket.tags)}).encode()
        headers = {"content-type": "application/json", "x-reclaim-secret": self.hooks.secret}
        return Hook(hook_id(), ticket.key, headers, body)

    def person_sets(self, ticket: Ticket, name: str, text: str, by: str) -> None:
        self.change(ticket, by=by, custom_fields={**ticket.fields.get("custom_fields", {}), name: text})

    # Calls --------------------------------------------------------------------------------------------------------

    def _list(self, call: Call) -> Reply:
        call.only(
            "filter", "updated_since", "page", "per_page", "include", "workspace_id", "order_type", "type", "email"
        )
        since = call.params.get("updated_since")
        try:
            after = datetime.fromisoformat(since) if since else None
        except ValueError:
            refuse(400, "It should be a valid date", field="updated_since")
        found = [ticket for ticket in self.tickets.values() if after is None or ticket.updated_at >= after]
        found.sort(key=lambda ticket: ticket.id, reverse=True)
        return self._page(call, found, tags="tags" in call.params.get("include", ""))

    def _filter(self, call: Call) -> Reply:
        call.only("query", "page", "per_page", "workspace_id")
        query = call.params.get("query", "")
        if len(query) > 512 or not re.fullmatch(r"\"tag:'[^']+'( OR tag:'[^']+')*\"", query):
            refuse(400, "Given query is invalid", field="query")
        asked = set(re.findall(r"tag:'([^']+)'", query))
        return self._page(call, [each for each in self.searchable() if not asked.isdisjoint(each.tags)], tags=True)

    def _page(self, call: Call, found: list[Ticket], *, tags: bool) -> Reply:
        size, page = call.number("per_page", 30, 100), call.number("page", 1, 10_000)
        shown = [self._shown(ticket, tags=tags) for ticket in found[(page - 1) * size : page * size]]
        return Reply(200, {"tickets": shown, "total": len(found)})

    def _create(self, call: Call) -> Reply:
        body = call.json(_Fields)
        given = body.model_dump(exclude_unset=True)
        missing = [name for name in ("subject", "description", "status", "priority") if not given.get(name)]
        if not (body.email or body.requester_id):
            missing.append("email")
        if missing:
            refuse(400, "It should not be blank as this is a mandatory field", field=missing[0], code="missing_field")
        if body.email is not None and "@" not in body.email:
            refuse(400, "It should be in the 'valid email address' format", field="email")
        self._custom(body.custom_fields)
        ticket = self.open(
            subject=str(body.subject),
            description=str(body.description),
            requester=str(body.email or body.requester_id),
            tags=body.tags,
            fields={"priority": body.priority, "custom_fields": body.custom_fields or {}},
        )
        return Reply(201, {"ticket": self._shown(ticket, tags=True)}, {"Location": f"/api/v2/tickets/{ticket.id}"})

    def _get(self, call: Call) -> Reply:
        call.only("include")
        asked = "tags" in call.params.get("include", "")
        ticket = self._found(call.parts[0])
        return Reply(200, {"ticket": self._shown(ticket, tags=asked or not self.tags_by_name_only)})

    def _update(self, call: Call) -> Reply:
        given = call.json(_Fields).model_dump(exclude_unset=True)
        ticket = self._found(call.parts[0])
        if not given:
            refuse(400, "The request has no field to change", code="missing_field")
        self._custom(given.get("custom_fields"))
        if "custom_fields" in given:
            given["custom_fields"] = {**ticket.fields.get("custom_fields", {}), **given["custom_fields"]}
        if "status" in given:
            given["status"] = str(given["status"])
        self.change(ticket, by=PRODUCT, **given)
        return Reply(200, {"ticket": self._shown(ticket, tags=True)})

    def _note_on(self, call: Call) -> Reply:
        body = call.json(_Note)
        comment = self.say(self._found(call.parts[0]), body.body, public=body.private is False, by=PRODUCT)
        shown = {
            "id": comment.id,
            "body": comment.text,
            "body_text": _text(comment.text),
            "private": not comment.public,
        }
        return Reply(201, {"conversation": shown})

    def _conversations(self, call: Call) -> Reply:
        call.only("per_page", "page")
        size, page = call.number("per_page", 30, 100), call.number("page", 1, 10_000)
        said = self._found(call.parts[0]).comments[(page - 1) * size : page * size]
        shown = [
            {"id": each.id, "body": each.text, "body_text": _text(each.text), "private": not each.public}
            for each in said
        ]
        return Reply(200, {"conversations": shown})

    def _form(self, call: Call) -> Reply:
        call.only("workspace_id", "page", "per_page")
        return Reply(
            200,
            {
                "ticket_fields": [
                    {"id": place, "required_for_agents": field.get("required", False), **field}
                    for place, field in enumerate(_FIELDS, 1)
                ]
            },
        )

    # Shapes -------------------------------------------------------------------------------------------------------

    def _custom(self, fields: dict[str, Any] | None) -> None:
        for name, value in (fields or {}).items():
            kind = _CUSTOM.get(name)
            if kind is None:
                refuse(400, "Unexpected/invalid field in request", field=name, code="invalid_field")
            if not isinstance(value, kind) or isinstance(value, bool):
                refuse(400, "It has another type", field=name, code="datatype_mismatch")

    def _found(self, key: str) -> Ticket:
        ticket = self.tickets.get(int(key))
        if ticket is None:
            raise DeskError(404, "The requested resource was not found", code="not_found")
        return ticket

    def _shown(self, ticket: Ticket, *, tags: bool) -> dict[str, Any]:
        shown = {
            "id": ticket.id,
            "subject": ticket.subject,
            "description": ticket.description,
            "description_text": _text(ticket.description),
            "status": int(ticket.status),
            "priority": ticket.fields.get("priority", 1),
            "custom_fields": {"decision": None, "cost": None, **ticket.fields.get("custom_fields", {})},
            "created_at": f"{ticket.created_at:%Y-%m-%dT%H:%M:%SZ}",
            "updated_at": f"{ticket.updated_at:%Y-%m-%dT%H:%M:%SZ}",
        }
        return {**shown, "tags": ticket.tags} if tags else shown


def _text(document: str) -> str:
    return html.unescape(_HTML.sub(" ", document)).strip()
