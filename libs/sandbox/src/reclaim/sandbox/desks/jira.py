"""A simulated Jira Service Management site: requests, issues, transitions, the search that lags, and its webhook."""

from __future__ import annotations

import hmac
import json
import re
from datetime import datetime
from typing import Any, ClassVar

from pydantic import Field

from reclaim.sandbox.rest import Reply

from .core import PRODUCT, Call, Change, Desk, DeskError, Hook, Strict, Ticket, basic_of, hook_id, refuse

EMAIL = "reclaim@example.com"
TOKEN = "sandbox-token"  # noqa: S105  it opens nothing but a simulated desk
ACCOUNT = "557058:f58131cb-b67d-43c7-b30d-6b58d40bd077"
SERVICE_DESK = "10"
REQUEST_TYPE = "25"
PROJECT = "ITD"
LONGEST_TEXT = 32_767
"""Characters of a description or a comment."""
PEOPLE = {"ann@example.com": "557058:11111111-b67d-43c7-b30d-6b58d40bd001"}

_STATUSES = {
    "Waiting for support": ("new", "10000"),
    "In Progress": ("indeterminate", "10001"),
    "Resolved": ("done", "10002"),
    "Canceled": ("done", "10003"),
}
_TRANSITIONS = {
    "Respond to customer": ("11", "In Progress"),
    "Resolve this issue": ("21", "Resolved"),
    "Cancel request": ("31", "Canceled"),
    "Back to in progress": ("41", "In Progress"),
}
_OPTIONS = {"20001": "Keep", "20002": "Revoke", "20003": "Downgrade"}
DECISION_FIELD = "customfield_10050"
_FORM: list[dict[str, Any]] = [
    {"fieldId": "summary", "name": "Summary", "required": True, "jiraSchema": {"type": "string", "system": "summary"}},
    {"fieldId": "description", "name": "Details", "required": False, "jiraSchema": {"type": "string"}},
    {
        "fieldId": "priority",
        "name": "Priority",
        "required": False,
        "validValues": [
            {"value": "2", "label": "High", "children": []},
            {"value": "3", "label": "Medium", "children": []},
        ],
        "jiraSchema": {"type": "priority", "system": "priority"},
    },
    {
        "fieldId": DECISION_FIELD,
        "name": "Decision",
        "required": False,
        "validValues": [{"value": key, "label": label, "children": []} for key, label in _OPTIONS.items()],
        "jiraSchema": {"type": "option", "custom": "com.atlassian.jira.plugin.system.customfieldtypes:select"},
    },
]


class _Create(Strict):
    serviceDeskId: str  # noqa: N815  the API's own name, as all below
    requestTypeId: str  # noqa: N815
    requestFieldValues: dict[str, Any]  # noqa: N815
    raiseOnBehalfOf: str | None = None  # noqa: N815
    requestParticipants: list[str] | None = None  # noqa: N815
    isAdfRequest: bool | None = None  # noqa: N815
    channel: str | None = None
    form: dict[str, Any] | None = None


class _Comment(Strict):
    body: str
    public: bool | None = None


class _TransitionId(Strict):
    id: str


class _HistoryMetadata(Strict):
    activityDescription: str | None = None  # noqa: N815
    activityDescriptionKey: str | None = None  # noqa: N815
    actor: dict[str, str] | None = None
    cause: dict[str, str] | None = None
    description: str | None = None
    descriptionKey: str | None = None  # noqa: N815
    emailDescription: str | None = None  # noqa: N815
    emailDescriptionKey: str | None = None  # noqa: N815
    extraData: dict[str, str] | None = None  # noqa: N815
    generator: dict[str, str] | None = None
    type: str | None = None


class _Transition(Strict):
    transition: _TransitionId
    fields: dict[str, Any] | None = None
    update: dict[str, Any] | None = None
    historyMetadata: _HistoryMetadata | None = None  # noqa: N815
    properties: list[dict[str, Any]] | None = None


class _LabelChange(Strict):
    add: str | None = None
    remove: str | None = None


class _Update(Strict):
    labels: list[_LabelChange]


class _Edit(Strict):
    update: _Update


class _Search(Strict):
    jql: str
    maxResults: int = Field(default=50, ge=1, le=5000)  # noqa: N815
    fields: list[str] = Field(default_factory=lambda: ["id"])
    fieldsByKeys: bool | None = None  # noqa: N815
    expand: str | None = None
    nextPageToken: str | None = None  # noqa: N815
    properties: list[str] | None = None
    reconcileIssues: list[int] = Field(default_factory=list, max_length=50)  # noqa: N815


class JiraDesk(Desk):
    name = "jira"
    label = "Jira Service Management"
    statuses = tuple(_STATUSES)
    closed_statuses = ("Resolved", "Canceled")
    open_status = "Waiting for support"
    first_id = 10_100
    documented: ClassVar[str] = "Jira Service Management Cloud REST API, Jira Cloud platform REST API v3"
    labels_on_form = False
    """Whether the request type's form has the field for labels; most have not."""

    def register(self) -> None:
        self._notes: dict[int, dict[str, Any]] = {}
        request, issue = r"/rest/servicedeskapi/request", r"/rest/api/3/issue"
        self.route("GET", r"/rest/api/3/myself", self._myself)
        self.route("GET", r"/rest/api/3/user/search", self._users)
        self.route("GET", r"/rest/servicedeskapi/servicedesk/(\d+)", self._service_desk)
        self.route("GET", r"/rest/servicedeskapi/servicedesk/(\d+)/requesttype/(\d+)/field", self._form)
        self.route("POST", request, self._create)
        self.route("POST", rf"{request}/([\w-]+)/comment", self._comment)
        self.route("GET", rf"{request}/([\w-]+)/comment", self._said_on)
        self.route("GET", rf"{issue}/([\w-]+)", self._issue)
        self.route("PUT", rf"{issue}/([\w-]+)", self._edit)
        self.route("GET", rf"{issue}/([\w-]+)/transitions", self._transitions)
        self.route("POST", rf"{issue}/([\w-]+)/transitions", self._transition)
        self.route("POST", r"/rest/api/3/search/jql", self._search)

    def admit(self, call: Call) -> None:
        if basic_of(call.headers) != (EMAIL, TOKEN):
            raise DeskError(401, "Client must be authenticated to access this resource.")

    def refusal(self, error: DeskError) -> Reply:
        if error.code == "platform":
            errors = {error.field: error.message} if error.field else {}
            return Reply(error.status, {"errorMessages": [] if errors else [error.message], "errors": errors})
        message = error.message
        return Reply(error.status, {"errorMessage": message, "i18nErrorMessage": {"i18nKey": "sd", "parameters": []}})

    def key_of(self, number: int) -> str:
        return f"{PROJECT}-{number - 10_000}"

    def hook(self, ticket: Ticket, changes: list[Change]) -> Hook | None:
        if {change.field for change in changes} & {"ticket", "comment"}:
            return None
        message = {
            "timestamp": int(datetime.now().astimezone().timestamp() * 1000),
            "webhookEvent": "jira:issue_updated",
            "issue_event_type_name": "issue_generic",
            "user": self._person(ticket.updated_by),
            "issue": {"id": str(ticket.id), "key": ticket.key, "fields": self._fields(ticket)},
            "changelog": {"id": str(changes[-1].seq), "items": [_item(change) for change in changes]},
        }
        body = json.dumps(message).encode()
        message_id = hook_id()
        signature = hmac.new(self.hooks.secret.encode(), body, "sha256").hexdigest()
        headers = {
            "content-type": "application/json",
            "x-hub-signature": f"sha256={signature}",
            "x-atlassian-webhook-identifier": message_id,
        }
        return Hook(message_id, ticket.key, headers, body)

    def person_sets(self, ticket: Ticket, name: str, text: str, by: str) -> None:
        ids = {label: key for key, label in _OPTIONS.items()}
        self.change(ticket, by=by, **{name: {"id": ids[text]} if text in ids else text})

    # Calls --------------------------------------------------------------------------------------------------------

    def _myself(self, _call: Call) -> Reply:
        return Reply(200, self._person(PRODUCT))

    def _users(self, call: Call) -> Reply:
        call.only("query", "username", "accountId", "startAt", "maxResults", "property")
        wanted = call.params.get("query", "").casefold()
        found = [
            {"accountId": account, "emailAddress": email, "displayName": email.partition("@")[0], "active": True}
            for email, account in PEOPLE.items()
            if wanted and wanted in email
        ]
        return Reply(200, found)

    def _service_desk(self, call: Call) -> Reply:
        if call.parts[0] != SERVICE_DESK:
            raise DeskError(404, "The service desk you are trying to view does not exist")
        return Reply(
            200,
            {"id": SERVICE_DESK, "projectId": "10001", "projectName": "IT desk", "projectKey": PROJECT, "_links": {}},
        )

    def _form(self, call: Call) -> Reply:
        if call.parts != (SERVICE_DESK, REQUEST_TYPE):
            raise DeskError(404, "The request type you are trying to view does not exist")
        fields = [*_FORM]
        if self.labels_on_form:
            schema = {"type": "array", "items": "string", "system": "labels"}
            fields.append({"fieldId": "labels", "name": "Labels", "required": False, "jiraSchema": schema})
        return Reply(
            200,
            {"requestTypeFields": fields, "canRaiseOnBehalfOf": True, "canAddRequestParticipants": True},
        )

    def _create(self, call: Call) -> Reply:
        body = call.json(_Create)
        if (body.serviceDeskId, body.requestTypeId) != (SERVICE_DESK, REQUEST_TYPE):
            refuse(400, "The request type or service desk does not exist")
        values = dict(body.requestFieldValues)
        known = {field["fieldId"] for field in _FORM} | ({"labels"} if self.labels_on_form else set())
        unknown = sorted(set(values) - known)
        if unknown:
            refuse(400, f"Field '{unknown[0]}' cannot be set. It is not on the request type, or unknown.")
        summary, description = values.pop("summary", None), values.pop("description", "")
        labels = values.pop("labels", [])
        if not isinstance(summary, str) or not summary.strip():
            refuse(400, "You must specify a summary of the request.")
        if len(summary.encode("utf-16-le")) // 2 >= 255 or "\n" in summary:
            refuse(400, "Summary must be one line of less than 255 characters.")
        if not isinstance(description, str):
            refuse(400, "Operation value must be a string")
        _has_room(description)
        for name, value in values.items():
            if not isinstance(value, dict) or set(value) - {"id", "name", "value"}:
                refuse(400, f"{name}: Specify a valid 'id' or 'name'")
        ticket = self.open(
            subject=summary,
            description=description,
            requester=body.raiseOnBehalfOf or ACCOUNT,
            tags=_labels(labels),
            fields=values,
        )
        links = {"self": f"/rest/servicedeskapi/request/{ticket.id}", "web": f"/servicedesk/customer/{ticket.key}"}
        made = {"issueId": str(ticket.id), "issueKey": ticket.key, "requestTypeId": REQUEST_TYPE}
        return Reply(201, {**made, "serviceDeskId": SERVICE_DESK, "_links": links})

    def _comment(self, call: Call) -> Reply:
        body = call.json(_Comment)
        _has_room(body.body)
        comment = self.say(self.find(call.parts[0]), body.body, public=body.public is not False, by=PRODUCT)
        return Reply(201, {"id": str(comment.id), "body": comment.text, "public": comment.public, "_links": {}})

    def _said_on(self, call: Call) -> Reply:
        call.only("public", "internal", "expand", "start", "limit")
        size, start = call.number("limit", 100, 100), int(call.params.get("start", "0"))
        said = self.find(call.parts[0]).comments
        values = [
            {"id": str(each.id), "body": each.text, "public": each.public, "author": self._person(each.by)}
            for each in said[start : start + size]
        ]
        page = {"size": len(values), "start": start, "limit": size, "isLastPage": start + size >= len(said)}
        return Reply(200, {**page, "values": values, "_links": {}})

    def _issue(self, call: Call) -> Reply:
        call.only("fields", "expand", "fieldsByKeys", "properties", "updateHistory", "failFast")
        ticket = self._found(call.parts[0])
        names = call.params.get("fields", "*all").split(",")
        issue = self._shown(ticket, names)
        if "changelog" in call.params.get("expand", ""):
            issue["changelog"] = {
                "startAt": 0,
                "histories": [
                    {
                        "id": str(change.seq),
                        "author": self._person(change.by),
                        "created": _when(change.at),
                        "items": [_item(change)],
                        **({"historyMetadata": self._notes[change.seq]} if change.seq in self._notes else {}),
                    }
                    for change in reversed(ticket.history)
                    if change.field not in {"ticket", "comment"}
                ],
            }
        return Reply(200, issue)

    def _edit(self, call: Call) -> Reply:
        call.only("notifyUsers", "returnIssue", "overrideScreenSecurity")
        body = call.json(_Edit)
        ticket = self._found(call.parts[0])
        labels = list(ticket.tags)
        for change in body.update.labels:
            if change.add is not None and change.add not in labels:
                labels += _labels([change.add])
            if change.remove is not None:
                labels = [label for label in labels if label != change.remove]
        self.change(ticket, by=PRODUCT, tags=labels)
        return Reply(204)

    def _transitions(self, call: Call) -> Reply:
        ticket = self._found(call.parts[0])
        return Reply(
            200,
            {
                "expand": "transitions",
                "transitions": [
                    {"id": number, "name": name, "to": _status(to), "isAvailable": True}
                    for name, (number, to) in _TRANSITIONS.items()
                    if to != ticket.status
                ],
            },
        )

    def _transition(self, call: Call) -> Reply:
        body = call.json(_Transition)
        ticket = self._found(call.parts[0])
        targets = {number: to for number, to in _TRANSITIONS.values() if to != ticket.status}
        if body.transition.id not in targets:
            refuse(400, f"Transition id '{body.transition.id}' is not valid for this issue.", code="platform")
        self.change(ticket, by=PRODUCT, status=targets[body.transition.id])
        last = ticket.history[-1]
        if body.historyMetadata is not None and last.field == "status":
            self._notes[last.seq] = body.historyMetadata.model_dump(exclude_unset=True)
        return Reply(204)

    def _search(self, call: Call) -> Reply:
        body = call.json(_Search)
        wanted = re.search(r'labels = "([^"]+)" OR description ~ "\\"([^"\\]+)\\""', body.jql)
        if wanted is None or wanted[1] != wanted[2]:
            refuse(400, "Error in the JQL Query", code="platform")
        marker = wanted[1]
        found = [ticket for ticket in self.searchable() if _matches(ticket, marker)]
        seen = {ticket.id for ticket in found}
        found += [
            ticket
            for number, ticket in self.tickets.items()
            if number in body.reconcileIssues and number not in seen and _matches(ticket, marker)
        ]
        found.sort(key=lambda ticket: ticket.id)
        issues = [self._shown(ticket, body.fields) for ticket in found[: body.maxResults]]
        return Reply(200, {"issues": issues, "isLast": True})

    # Shapes -------------------------------------------------------------------------------------------------------

    def _found(self, key: str) -> Ticket:
        try:
            return self.find(key)
        except DeskError:
            message = "Issue does not exist or you do not have permission to see it."
            raise DeskError(404, message, code="platform") from None

    def _shown(self, ticket: Ticket, names: list[str]) -> dict[str, Any]:
        issue: dict[str, Any] = {"id": str(ticket.id)}
        fields = self._fields(ticket)
        wanted = {name: value for name, value in fields.items() if name in names or "*all" in names}
        if names != ["id"]:
            issue |= {"key": ticket.key, "self": f"/rest/api/3/issue/{ticket.id}", "fields": wanted}
        return issue

    def _fields(self, ticket: Ticket) -> dict[str, Any]:
        done = self.is_closed(ticket)
        chosen = {name: _option(value) for name, value in ticket.fields.items()}
        return {
            DECISION_FIELD: None,
            **chosen,
            "summary": ticket.subject,
            "description": _document(ticket.description),
            "labels": ticket.tags,
            "status": _status(ticket.status),
            "resolution": {"id": "10000", "name": "Done"} if done else None,
            "created": _when(ticket.created_at),
            "updated": _when(ticket.updated_at),
        }

    def _person(self, by: str) -> dict[str, Any]:
        if by == PRODUCT:
            return {"accountId": ACCOUNT, "displayName": "Reclaim", "emailAddress": EMAIL, "active": True}
        return {"accountId": f"person:{by}", "displayName": by, "active": True}


def _labels(labels: Any) -> list[str]:
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        refuse(400, "Labels: a list of texts")
    for label in labels:
        if not label or " " in label or len(label) > 255:
            refuse(400, f"The label '{label}' contains spaces which is invalid.", code="platform", field="labels")
    return list(labels)


def _matches(ticket: Ticket, marker: str) -> bool:
    return marker in ticket.tags or marker in ticket.description.split()


def _status(name: str) -> dict[str, Any]:
    category, number = _STATUSES[name]
    return {"id": number, "name": name, "statusCategory": {"key": category, "name": category}}


def _option(value: Any) -> Any:
    if isinstance(value, dict) and value.get("id") in _OPTIONS:
        return {"id": value["id"], "value": _OPTIONS[value["id"]]}
    return value


def _has_room(text: str) -> None:
    if len(text.encode("utf-16-le")) // 2 > LONGEST_TEXT:
        refuse(400, "The entered text is too long. It exceeds the allowed limit of 32,767 characters.")


def _document(text: str) -> dict[str, Any] | None:
    """Return a description as version 3 of the API has it: a document, a paragraph a line."""
    if not text:
        return None
    lines = [
        {"type": "paragraph", "content": [{"type": "text", "text": line}] if line else []} for line in text.split("\n")
    ]
    return {"type": "doc", "version": 1, "content": lines}


_CUSTOM = {field["fieldId"]: field["name"] for field in _FORM if field["fieldId"].startswith("customfield_")}
"""What people call the fields that a site has added: a changelog's `field`, which has the id beside it."""


def _item(change: Change) -> dict[str, Any]:
    name = {"tags": "labels", "subject": "summary"}.get(change.field, change.field)
    before, after = (
        " ".join(value) if isinstance(value, list) else str(value or "") for value in (change.before, change.after)
    )
    shown, kind = (_CUSTOM[name], "custom") if name in _CUSTOM else (name, "jira")
    return {"field": shown, "fieldId": name, "fieldtype": kind, "fromString": before, "toString": after}


def _when(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03d}+0000"
