"""Jira Service Management Cloud: requests through the service desk API, issues through the platform API.

The marker of a case is a label, and a line of the description. The search may miss an issue for some seconds after it
was opened; for those that were opened here it is told their numbers (`reconcileIssues`), which makes it look.
"""

from __future__ import annotations

import re
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
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
    case_marker,
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

ENTRIES: Final = (
    ADDRESS,
    Entry("email", "E-mail", "The account that Reclaim works as: an agent of the service desk."),
    Entry("api_token", "API token", "A token of that account.", secret=True),
    Entry("service_desk_id", "Service desk", "The number of the service desk."),
    Entry("request_type_id", "Request type", "The number of the request type."),
    Entry(
        "close_transition",
        "Transition to close with",
        "Its name; empty for the first that leads to a status of the category Done.",
        required=False,
    ),
    Entry(
        "reopen_transition",
        "Transition to reopen with",
        "Its name; empty for the first that leads away from the category Done.",
        required=False,
    ),
    PUBLIC_COMMENTS,
    ALLOW_HTTP,
)

PERMISSIONS: Final[Mapping[Deed, str]] = MappingProxyType(
    {
        "open": "the permission to create issues, as an agent or customer of the service project",
        "tag": "the permissions to browse the project and to edit issues",
        "comment": "the permission to add comments",
        "close": "the permission to transition issues, and a transition to a status of the category Done",
        "reopen": "the permission to transition issues, and a transition that leads back from Done",
    }
)
"""What the user that Reclaim works as has to be allowed."""

DONE: Final = "done"
HISTORY: Final = "reclaim:word"
"""What the history of an issue calls a change of ours; its description is the mark of the word that goes with it."""
PAGE: Final = 50
REMEMBERED: Final = 200
"""Issues opened here lately, whose numbers a search is told; it takes 50 at a time, and one is enough."""
FORM_LASTS: Final = 600.0
"""Seconds for which the form of the request type is believed to be as it was."""
_MARKUP: Final = re.compile(r"([\\{\[!|])")
_CHOICES: Final[Mapping[str, FieldKind]] = {"option": "option", "priority": "option", "array": "options"}
_KINDS: Final[Mapping[str, FieldKind]] = {"string": "text", "number": "decimal", "date": "date"}


class _ValidValue(msgspec.Struct, rename="camel"):
    value: str
    label: str = ""


class _JiraSchema(msgspec.Struct, rename="camel"):
    type: str = ""
    items: str | None = None


class _FormField(msgspec.Struct, rename="camel"):
    field_id: str
    name: str = ""
    required: bool = False
    valid_values: list[_ValidValue] = []
    jira_schema: _JiraSchema = msgspec.field(default_factory=_JiraSchema)


class _Form(msgspec.Struct, rename="camel"):
    request_type_fields: list[_FormField]
    can_raise_on_behalf_of: bool = False


class _Made(msgspec.Struct, rename="camel"):
    issue_id: str
    issue_key: str


class _Issue(msgspec.Struct, rename="camel"):
    id: str
    key: str = ""
    fields: dict[str, Any] = {}
    changelog: dict[str, Any] = {}


class _Found(msgspec.Struct, rename="camel"):
    issues: list[_Issue] = []


class _Transitions(msgspec.Struct, rename="camel"):
    transitions: list[dict[str, Any]]


class _CommentOn(msgspec.Struct):
    body: str = ""


class _Comments(msgspec.Struct, rename="camel"):
    values: list[_CommentOn]
    is_last_page: bool = True


class _User(msgspec.Struct, rename="camel"):
    account_id: str
    email_address: str = ""
    display_name: str = ""


class _ServiceDesk(msgspec.Struct, rename="camel"):
    id: str
    project_key: str = ""
    project_name: str = ""


def _explain(body: Any) -> str:
    parts = [body.get("errorMessage") or "", *body.get("errorMessages", [])]
    parts += [f"{name}: {words}" for name, words in (body.get("errors") or {}).items()]
    return "; ".join(part for part in parts if part)


class Jira(Adapter):
    """One request type of one service desk."""

    room = Room(title=254, text=32_767)

    def __init__(self, profile: DeskProfile, client: httpx.AsyncClient, tuning: Tuning) -> None:
        entered = Entered(profile, ENTRIES)
        super().__init__(
            Line(
                client,
                name="Jira",
                base=entered.url("base_url"),
                authority=Basic(entered["email"], entered["api_token"]),
                calls_per_minute=300,
                tuning=tuning,
                explain=_explain,
            ),
            tuning,
        )
        self.decisions = profile.decisions
        self.service_desk_id = str(entered.number("service_desk_id", 1, 2**63))
        self.request_type_id = str(entered.number("request_type_id", 1, 2**63))
        self.close_transition, self.reopen_transition = entered["close_transition"], entered["reopen_transition"]
        self.public_comments = entered.flag("public_comments")
        if any(not tag or any(char.isspace() for char in tag) for tag in self.decisions.tags):
            raise Invalid("A label in Jira has no spaces.", field="decisions")
        self._form_read: tuple[float, _Form] | None = None
        self._opened: OrderedDict[str, int] = OrderedDict()

    async def test_connection(self) -> Sequence[PermissionResult]:
        async def signs_in() -> str:
            return f"Signed in as {(await self.line.call('GET', '/rest/api/3/myself', into=_User)).display_name}."

        async def sees_desk() -> str:
            path = f"/rest/servicedeskapi/servicedesk/{self.service_desk_id}"
            desk = await self.line.call("GET", path, into=_ServiceDesk)
            return f"{desk.project_name} ({desk.project_key})."

        async def sees_form() -> str:
            names = {field.field_id for field in (await self._form(fresh=True)).request_type_fields}
            missing = sorted({"summary", "description"} - names)
            if missing:
                raise Refused(
                    f"The request type has no field {', '.join(missing)}.", "Add it to the request type's form."
                )
            return f"{len(names)} fields."

        async def searches() -> str:
            await self._search("lr-case-connection-test")
            return "Issues can be searched."

        return [
            await tried("sign in", signs_in),
            await tried("see the service desk", sees_desk),
            await tried("see the request type's form", sees_form),
            await tried("search issues", searches),
        ]

    async def discover_fields(self) -> Sequence[FieldSpec]:
        return [_spec(field) for field in (await self._form(fresh=True)).request_type_fields]

    async def find_by_case(self, case_id: str, *, since: datetime) -> TicketRef | None:  # noqa: ARG002  labels are indexed
        marker = case_marker(case_id)
        carriers = [issue for issue in await self._search(marker) if _carries(issue, marker)]
        return only([self._ref(issue.id, issue.key) for issue in carriers], case_id)

    async def _comment(self, ref: TicketRef, text: str, mark: str = "") -> None:  # noqa: ARG002  it is in the text
        await self.line.call(
            "POST",
            f"/rest/servicedeskapi/request/{ref.key}/comment",
            into=object,
            body={"body": _plain(text), "public": self.public_comments},
        )

    async def _close(self, ref: TicketRef, text: str, mark: str) -> None:
        await self._move(ref, text, mark, closed=True, name=self.close_transition)

    async def _reopen(self, ref: TicketRef, text: str, mark: str) -> None:
        await self._move(ref, text, mark, closed=False, name=self.reopen_transition)

    @staticmethod
    def _written(text: str) -> str:
        return _plain(text)

    async def _says(self, ref: TicketRef, mark: str) -> bool:
        path, start = f"/rest/servicedeskapi/request/{ref.key}/comment", 0
        while True:
            page = await self.line.call("GET", path, into=_Comments, params={"start": start, "limit": PAGE})
            if marked((comment.body for comment in page.values), mark):
                return True
            if page.is_last_page or not page.values:
                return False
            start += len(page.values)

    async def _closed_with(self, ref: TicketRef, mark: str) -> bool:
        # Only what moves an issue has a mark of its own: the history keeps it beside the change of status.
        histories = (await self._read(ref, ["status"], history=True)).changelog.get("histories", [])
        notes = (history.get("historyMetadata") or {} for history in histories)
        return marked((str(note.get("description", "")) for note in notes), mark)

    async def read_decision(self, ref: TicketRef) -> ReadDecision:
        field = self.decisions.decision_field
        names = ["status", "labels", "updated", *([field] if field else [])]
        issue = await self._read(ref, names, history=True)
        actor, at = _last_change(issue, {"labels", "status", "resolution", *([field] if field else [])})
        return read(
            self.decisions,
            closed=_is_done(issue),
            tags=issue.fields.get("labels") or [],
            values=_texts(issue.fields.get(field)) if field else (),
            actor=actor,
            at=at or moment(issue.fields.get("updated")),
        )

    async def _open(self, draft: TicketDraft) -> TicketRef:
        form = await self._form()
        names = {field.field_id for field in form.request_type_fields}
        values: dict[str, Json] = {name: value for name, value in draft.fields.items() if name in names}
        values["summary"] = self._subject(draft)
        if "description" in names:
            values["description"] = self._description(draft)
        if "labels" in names:
            values["labels"] = list(draft.tags)
        body: dict[str, Json] = {
            "serviceDeskId": self.service_desk_id,
            "requestTypeId": self.request_type_id,
            "requestFieldValues": values,
        }
        requester = await self._account(draft.requester_email) if form.can_raise_on_behalf_of else None
        if requester is not None:
            body["raiseOnBehalfOf"] = requester
        try:
            made = await self.line.call("POST", "/rest/servicedeskapi/request", into=_Made, body=body)
        except Refused:
            self._form_read = None  # the form may have changed since it was read
            raise
        self._opened[draft.marker] = int(made.issue_id)
        while len(self._opened) > REMEMBERED:
            self._opened.popitem(last=False)
        return self._ref(made.issue_id, made.issue_key)

    async def _prepare(self, draft: TicketDraft) -> None:
        names = {field.field_id for field in (await self._form()).request_type_fields}
        unknown = sorted(set(draft.fields) - names)
        if unknown:
            raise Refused(
                f"The request type has no field {', '.join(unknown)}.", "Take it out of the field mapping, or add it."
            )

    async def _complete(self, ref: TicketRef, draft: TicketDraft) -> None:
        labels = (await self._read(ref, ["labels"])).fields.get("labels") or []
        missing = [tag for tag in draft.tags if tag not in labels]
        if missing:
            await self.line.call(
                "PUT",
                f"/rest/api/3/issue/{ref.key}",
                into=object,
                body={"update": {"labels": [{"add": tag} for tag in missing]}},
            )

    async def _form(self, *, fresh: bool = False) -> _Form:
        now = time.monotonic()
        if fresh or self._form_read is None or now - self._form_read[0] > FORM_LASTS:
            path = f"/rest/servicedeskapi/servicedesk/{self.service_desk_id}/requesttype/{self.request_type_id}/field"
            self._form_read = (now, await self.line.call("GET", path, into=_Form))
        return self._form_read[1]

    async def _search(self, marker: str) -> list[_Issue]:
        body: dict[str, Json] = {
            "jql": f'labels = "{marker}" OR description ~ "\\"{marker}\\"" ORDER BY created ASC',
            "maxResults": PAGE,
            "fields": ["labels", "description", "created"],
        }
        if marker in self._opened:
            body["reconcileIssues"] = [self._opened[marker]]
        return (await self.line.call("POST", "/rest/api/3/search/jql", into=_Found, body=body, reads=True)).issues

    async def _account(self, email: str | None) -> str | None:
        if not email:
            return None
        users = await self.line.call("GET", "/rest/api/3/user/search", into=list[_User], params={"query": email})
        # Most sites hide addresses: then nobody is found, and the request is Reclaim's own.
        return next((user.account_id for user in users if user.email_address.casefold() == email.casefold()), None)

    async def _move(self, ref: TicketRef, text: str, mark: str, *, closed: bool, name: str) -> None:
        if _is_done(await self._read(ref, ["status"])) is closed:
            return
        path = f"/rest/api/3/issue/{ref.key}/transitions"
        offered = (await self.line.call("GET", path, into=_Transitions)).transitions
        fitting = [each for each in offered if (_category(each.get("to")) == DONE) is closed]
        if name:
            fitting = [each for each in fitting if str(each.get("name", "")).casefold() == name.casefold()]
        if not fitting:
            raise Refused(
                f"No transition {f'called “{name}” ' if name else ''}{'closes' if closed else 'reopens'} {ref.number}.",
                "Add one to the workflow, or allow it to the account that Reclaim works as.",
            )
        body: dict[str, Json] = {"transition": {"id": str(fitting[0]["id"])}}
        if mark:
            body["historyMetadata"] = {"type": HISTORY, "description": mark}
        await self.line.call("POST", path, into=object, body=body)
        if closed:
            closed_at_last(ref, closed=_is_done(await self._read(ref, ["status"])))
        await self._comment(ref, text)

    async def _read(self, ref: TicketRef, names: Sequence[str], *, history: bool = False) -> _Issue:
        params = {"fields": ",".join(names)}
        if history:
            params["expand"] = "changelog"
        return await self.line.call("GET", f"/rest/api/3/issue/{ref.key}", into=_Issue, params=params)

    def _ref(self, issue_id: str, key: str) -> TicketRef:
        # By its number, because the key changes when an issue moves to another project.
        return TicketRef(issue_id, key or issue_id, f"{self.line.base}/browse/{key or issue_id}")


def _is_done(issue: _Issue) -> bool:
    return _category(issue.fields.get("status")) == DONE


def _category(status: Any) -> str:
    category = status.get("statusCategory") if isinstance(status, Mapping) else None
    return str(category.get("key", "")) if isinstance(category, Mapping) else ""


def _carries(issue: _Issue, marker: str) -> bool:
    if marker in (issue.fields.get("labels") or []):
        return True
    return any(marker in text.split() for text in _document_texts(issue.fields.get("description")))


def _document_texts(node: Any) -> Iterator[str]:
    """Yield the texts of a description, which is a document in Atlassian's own format."""
    if isinstance(node, str):
        yield node
    elif isinstance(node, Mapping):
        if isinstance(node.get("text"), str):
            yield node["text"]
        yield from _document_texts(node.get("content"))
    elif isinstance(node, list):
        for each in node:
            yield from _document_texts(each)


def _texts(value: Any) -> list[str]:
    """Return what a field's value is called: a text, an option, a resolution, or a list of them."""
    if isinstance(value, list):
        return [text for each in value for text in _texts(each)]
    if isinstance(value, Mapping):
        return [str(value[name]) for name in ("id", "value", "name") if value.get(name) is not None]
    return [] if value is None else [str(value)]


def _last_change(issue: _Issue, fields: set[str]) -> tuple[str | None, datetime | None]:
    """Return who last changed one of these fields, and when."""
    last: tuple[datetime, str | None] | None = None
    for history in issue.changelog.get("histories", []):
        at = moment(history.get("created"))
        touched = {name for item in history.get("items", []) for name in (item.get("field"), item.get("fieldId"))}
        if at is not None and touched & fields and (last is None or at > last[0]):
            author = history.get("author") or {}
            last = (at, author.get("emailAddress") or author.get("displayName"))
    return (None, None) if last is None else (last[1], last[0])


def _plain(text: str) -> str:
    """Return text that the wiki renderer shows as it is: no macros, links, pictures or tables."""
    return _MARKUP.sub(r"\\\1", text)


def _spec(field: _FormField) -> FieldSpec:
    kind = field.jira_schema.type
    chosen = _CHOICES.get(kind) if field.valid_values else None
    if kind == "array" and field.jira_schema.items == "string":
        chosen = "choices"
    return FieldSpec(
        field.field_id,
        field.name or field.field_id,
        chosen or _KINDS.get(kind, "unsupported"),
        field.required,
        tuple(Choice(each.value, each.label or each.value) for each in field.valid_values),
    )
