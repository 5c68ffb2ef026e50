"""Every request that an adapter sends, held against what its platform's reference documents, and nothing beyond it.

The schemas are written by hand from the references (`docs/reference/itsm.md` says which): they allow no other key and
no other type. A request that no entry here allows fails, and so does an entry that no request uses.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import parse_qsl

import httpx
import jsonschema
import pytest

from reclaim.common.clock import FixedClock
from reclaim.common.http_client import usual_trust
from reclaim.connectors.itsm.decisions import DecisionRules
from reclaim.connectors.itsm.ports import Json, ServiceDesk, TicketDraft
from reclaim.connectors.itsm.profile import DeskProfile, Tuning
from reclaim.connectors.itsm.registry import open_desk
from reclaim.sandbox.app import Sandbox
from reclaim.sandbox.desks import freshservice, jira, serval, servicenow

NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
QUICK = Tuning(connect_timeout=2, read_timeout=2, look_again=(0.0,), unknown_for=0.0)


def body(required: str, **properties: Any) -> dict[str, Any]:
    """Return the schema of a JSON object: which keys it must have, and the type of every one that it may have."""
    return {
        "type": "object",
        "properties": properties,
        "required": required.split(),
        "additionalProperties": False,
    }


TEXT: Final = {"type": "string"}
NAMED: Final = {"type": "string", "minLength": 1}
FLAG: Final = {"type": "boolean"}
WHOLE: Final = {"type": "integer"}
TEXTS: Final = {"type": "array", "items": NAMED}
ID: Final = {"type": "string", "pattern": "^[0-9]+$"}
"""In Jira an id is a text, also where it is all digits."""
NUMBER, BOOL, ANY = r"[0-9]+", "true|false", r".+"


@dataclass(frozen=True)
class Documented:
    """One call of a reference: the names of its query with what each takes, and the schema of its body."""

    method: str
    path: str
    query: dict[str, str] = field(default_factory=dict)
    body: dict[str, Any] | None = None
    form: bool = False


_TABLE = "/api/now/table"
_ROW = {"sysparm_fields": r"[a-z_.,]+", "sysparm_exclude_reference_link": BOOL}
_INCIDENT = dict.fromkeys(("short_description", "description", "correlation_id", "correlation_display"), NAMED)
_REQUEST, _ISSUE = "/rest/servicedeskapi/request", "/rest/api/3/issue"
_OPTION = body("id", id=ID)
_PAGE = {"page": NUMBER, "per_page": NUMBER}

CALLS: Final[dict[str, list[Documented]]] = {
    "servicenow": [
        Documented(
            "POST",
            "/oauth_token.do",
            form=True,
            body=body(
                "grant_type client_id client_secret",
                grant_type={"const": "client_credentials"},
                client_id=NAMED,
                client_secret=NAMED,
            ),
        ),
        Documented(
            "GET",
            rf"{_TABLE}/(incident|label|label_entry|sys_user|sys_dictionary|sys_choice|sys_db_object)",
            {**_ROW, "sysparm_query": ANY, "sysparm_limit": NUMBER, "sysparm_offset": NUMBER},
        ),
        Documented("GET", rf"{_TABLE}/incident/[0-9a-f]{{32}}", {**_ROW, "sysparm_display_value": "true|false|all"}),
        Documented(
            "POST",
            rf"{_TABLE}/incident",
            {"sysparm_exclude_reference_link": BOOL},
            body(
                "short_description description correlation_id correlation_display",
                **_INCIDENT,
                caller_id={"type": "string", "pattern": "^[0-9a-f]{32}$"},
                urgency=TEXT,
            ),
        ),
        Documented(
            "POST",
            rf"{_TABLE}/label_entry",
            body=body("label table table_key", label=NAMED, table={"const": "incident"}, table_key=NAMED),
        ),
        Documented(
            "PATCH",
            rf"{_TABLE}/incident/[0-9a-f]{{32}}",
            _ROW,
            {
                "oneOf": [
                    body("work_notes", work_notes=NAMED),
                    body("state work_notes", state={"const": "2"}, work_notes=NAMED),
                    body("state close_code close_notes", state={"const": "6"}, close_code=NAMED, close_notes=NAMED),
                ]
            },
        ),
    ],
    "jira": [
        Documented("GET", "/rest/api/3/myself"),
        Documented("GET", "/rest/api/3/user/search", {"query": ANY}),
        Documented("GET", "/rest/servicedeskapi/servicedesk/[0-9]+"),
        Documented("GET", "/rest/servicedeskapi/servicedesk/[0-9]+/requesttype/[0-9]+/field"),
        Documented(
            "POST",
            _REQUEST,
            body=body(
                "serviceDeskId requestTypeId requestFieldValues",
                serviceDeskId=ID,
                requestTypeId=ID,
                requestFieldValues=body(
                    "summary description",
                    summary={**NAMED, "maxLength": 254},
                    description=NAMED,
                    priority=_OPTION,
                    customfield_10050=_OPTION,
                ),
                raiseOnBehalfOf={"type": "string", "pattern": "^[0-9a-zA-Z:-]+$"},
            ),
        ),
        Documented("POST", rf"{_REQUEST}/[0-9]+/comment", body=body("body public", body=NAMED, public=FLAG)),
        Documented("GET", rf"{_REQUEST}/[0-9]+/comment", {"start": NUMBER, "limit": NUMBER}),
        Documented("GET", rf"{_ISSUE}/[0-9]+", {"fields": r"[a-z0-9_,]+", "expand": "changelog"}),
        Documented(
            "PUT",
            rf"{_ISSUE}/[0-9]+",
            body=body(
                "update",
                update=body("labels", labels={"type": "array", "items": body("add", add=NAMED), "minItems": 1}),
            ),
        ),
        Documented("GET", rf"{_ISSUE}/[0-9]+/transitions"),
        Documented(
            "POST",
            rf"{_ISSUE}/[0-9]+/transitions",
            body=body(
                "transition",
                transition=_OPTION,
                historyMetadata=body("type description", type=NAMED, description=NAMED),
            ),
        ),
        Documented(
            "POST",
            "/rest/api/3/search/jql",
            body=body(
                "jql maxResults fields",
                jql=NAMED,
                maxResults={"type": "integer", "minimum": 1, "maximum": 5000},
                fields=TEXTS,
                reconcileIssues={"type": "array", "items": WHOLE, "maxItems": 50},
            ),
        ),
    ],
    "freshservice": [
        Documented("GET", "/api/v2/tickets", {**_PAGE, "updated_since": ANY, "workspace_id": NUMBER}),
        Documented(
            "GET", "/api/v2/tickets/filter", {"query": r"\"tag:'[^']+'( OR tag:'[^']+')*\"", "workspace_id": NUMBER}
        ),
        Documented("GET", "/api/v2/ticket_form_fields", {"workspace_id": NUMBER}),
        Documented("GET", "/api/v2/tickets/[0-9]+", {"include": "tags"}),
        Documented("GET", "/api/v2/tickets/[0-9]+/conversations", _PAGE),
        Documented(
            "POST",
            "/api/v2/tickets",
            body=body(
                "email subject description status priority tags",
                email={"type": "string", "pattern": "@"},
                subject=NAMED,
                description=NAMED,
                status={"const": 2},
                priority={"type": "integer", "minimum": 1, "maximum": 4},
                tags=TEXTS,
                custom_fields=body("", decision=TEXT, cost={"type": "number"}),
                workspace_id=WHOLE,
            ),
        ),
        Documented(
            "PUT",
            "/api/v2/tickets/[0-9]+",
            body=body("", status={"type": "integer", "enum": [2, 5]}, tags=TEXTS) | {"minProperties": 1},
        ),
        Documented("POST", "/api/v2/tickets/[0-9]+/notes", body=body("body private", body=NAMED, private=FLAG)),
    ],
    "serval": [
        Documented(
            "POST",
            "/v2/auth/token",
            form=True,
            body=body("grant_type", grant_type={"const": "client_credentials"}),
        ),
        Documented(
            "GET",
            "/v2/tickets",
            {"teamId": ANY, "startTime.seconds": NUMBER, "pageSize": NUMBER, "pageToken": ANY},
        ),
        Documented("GET", "/v2/(labels|statuses|priorities)", {"teamId": ANY, "pageToken": ANY}),
        Documented("GET", r"/v2/tickets/[\w-]+"),
        Documented("GET", r"/v2/tickets/[\w-]+/messages", {"pageToken": ANY}),
        Documented(
            "POST",
            "/v2/tickets",
            body=body(
                "teamId name description createdByUserId aiActive",
                teamId=NAMED,
                name=NAMED,
                description=NAMED,
                createdByUserId=NAMED,
                aiActive={"const": False},
                assignedToUserId=NAMED,
                requesterUserId=NAMED,
            ),
        ),
        Documented(
            "PUT",
            r"/v2/tickets/[\w-]+",
            body=body("", statusId=NAMED, priorityId=NAMED, labelIds=TEXTS, description=NAMED) | {"minProperties": 1},
        ),
        Documented(
            "POST",
            r"/v2/tickets/[\w-]+/messages",
            body=body(
                "message authorUserId triggerHelpAgent", message=NAMED, authorUserId=NAMED, triggerHelpAgent=FLAG
            ),
        ),
    ],
}
CONNECTED: Final[dict[str, tuple[dict[str, str], dict[str, str], dict[str, Json]]]] = {
    "servicenow": (
        {"client_id": servicenow.CLIENT_ID},
        {"client_secret": servicenow.CLIENT_SECRET},
        {"urgency": "2"},
    ),
    "jira": (
        {"email": jira.EMAIL, "service_desk_id": jira.SERVICE_DESK, "request_type_id": jira.REQUEST_TYPE},
        {"api_token": jira.TOKEN},
        {"priority": {"id": "2"}, jira.DECISION_FIELD: {"id": "20001"}},
    ),
    "freshservice": (
        {"requester_email": "reclaim@example.com", "workspace_id": "3"},
        {"api_key": freshservice.API_KEY},
        {"custom_fields.decision": "Keep", "custom_fields.cost": 12.5},
    ),
    "serval": (
        {"client_id": serval.CLIENT_ID, "team_id": serval.TEAM, "user_id": serval.USER},
        {"client_secret": serval.CLIENT_SECRET},
        {"priorityId": "priority-2", "assignedToUserId": "user-ann", "requesterUserId": "user-bo"},
    ),
}
"""Settings, credentials, and fields that are mapped, of each platform."""


def undocumented(platform: str, request: httpx.Request, used: set[int]) -> str | None:
    """Return what a request has that its platform does not document; note which entry allows it."""
    path = request.url.path.removeprefix(f"/desks/{platform}")
    said = f"{request.method} {path}?{request.url.query.decode()}"
    entries = [
        (place, each)
        for place, each in enumerate(CALLS[platform])
        if each.method == request.method and re.fullmatch(each.path, path)
    ]
    if not entries:
        return f"{said}: no such call"
    ((place, entry),) = entries
    used.add(place)
    for name, value in request.url.params.multi_items():
        if not re.fullmatch(entry.query.get(name, "(?!)"), value):
            return f"{said}: {name}={value}"
    sent = request.content
    if entry.body is None:
        return f"{said}: has a body" if sent else None
    kind = "application/x-www-form-urlencoded" if entry.form else "application/json"
    if request.headers["content-type"] != kind or request.headers["accept"] != "application/json":
        return f"{said}: {request.headers['content-type']}"
    values = dict(parse_qsl(sent.decode())) if entry.form else json.loads(sent)
    wrong = next(jsonschema.Draft202012Validator(entry.body).iter_errors(values), None)
    return None if wrong is None else f"{said}: {wrong.message} in {values}"


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(clock=FixedClock(NOW), users=0) as running:
        yield running


@pytest.mark.parametrize("platform", CALLS)
async def test_every_request_is_one_that_the_platform_documents(sandbox: Sandbox, platform: str) -> None:
    sent: list[httpx.Request] = []

    async def note(request: httpx.Request) -> None:
        await request.aread()
        sent.append(request)

    settings, credentials, fields = CONNECTED[platform]
    address = {"base_url": f"{sandbox.url}/desks/{platform}"}
    rules = (
        DecisionRules() if platform != "freshservice" else DecisionRules(decision_field="type", values={"x": "keep"})
    )
    async with httpx.AsyncClient(verify=usual_trust(), event_hooks={"request": [note]}) as client:
        profile = DeskProfile(platform, {**address, **settings}, credentials, rules)
        await everything(sandbox, open_desk(profile, client, QUICK), fields)
    used: set[int] = set()
    wrong = {said for request in sent if (said := undocumented(platform, request, used))}
    assert wrong == set()
    unused = [each for place, each in enumerate(CALLS[platform]) if place not in used]
    assert unused == [], "nothing stands here that is not sent"


async def everything(sandbox: Sandbox, desk: ServiceDesk, fields: dict[str, Json]) -> None:
    """Have an adapter make every call that it can make."""
    draft = TicketDraft("case-1", "Keep or revoke?", "Please.", NOW, "ann@example.com", fields)
    await desk.test_connection()
    await desk.discover_fields()
    ref = await desk.create(draft)
    await desk.create(replace(draft, case_id="case-2", test=True), tried=True)
    for simulated in sandbox.world.desks.by_name.values():
        simulated.search_lag = 1
    await desk.create(replace(draft, case_id="case-3"))
    assert await desk.find_by_case("case-1", since=NOW) == ref
    for tried in (False, True):
        await desk.comment(ref, "The seat was frozen.", mark="lr-note-1", tried=tried)
        await desk.close(ref, "It is over.", mark="lr-note-2", tried=tried)
    assert (await desk.read_decision(ref)).closed
    assert await desk.was_closed(ref, mark="lr-note-2")
    assert not await desk.was_closed(ref, mark="lr-note-3")
    await desk.reopen(ref, "It is not.", mark="lr-note-3")


def test_a_request_that_is_not_documented_is_told() -> None:
    def sent(method: str, path: str, content: Any = None) -> str | None:
        request = httpx.Request(method, f"https://desk.example/desks/jira{path}", json=content)
        request.headers["accept"] = "application/json"
        return undocumented("jira", request, set())

    comment = f"{_REQUEST}/1/comment"
    assert sent("POST", comment, {"body": "x", "public": False}) is None
    assert "'public' is a required" in str(sent("POST", comment, {"body": "x"}))
    assert "is not of type" in str(sent("POST", comment, {"body": "x", "public": "false"}))
    assert "Additional properties" in str(sent("POST", comment, {"body": "x", "public": False, "colour": "red"}))
    assert "limit=all" in str(sent("GET", f"{comment}?limit=all"))
    assert "no such call" in str(sent("DELETE", comment))
