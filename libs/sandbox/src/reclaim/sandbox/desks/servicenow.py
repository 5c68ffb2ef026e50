"""A simulated ServiceNow instance: the Table API over incidents, tags, users and the dictionary."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Iterable
from datetime import datetime
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
    Ticket,
    basic_of,
    bearer_of,
    hook_id,
    marker_of,
    refuse,
    standard_headers,
)

USER = "reclaim.bot"
PASSWORD = "sandbox-password"  # noqa: S105  it opens nothing but a simulated desk
CLIENT_ID = "sandbox-client"
CLIENT_SECRET = "sandbox-secret"  # noqa: S105  the same
TAGS = ("lr_keep", "lr_revoke", "lr_downgrade", "lr_done", "lr_test")
CALLER = ("5137153cc611227c000bbd1bd8cd2005", "ann@example.com")

Row = dict[str, str]

_FIELDS: dict[str, tuple[str, str, str]] = {
    # element: (label, type, table)
    "number": ("Number", "string", "task"),
    "short_description": ("Short description", "string", "task"),
    "description": ("Description", "string", "task"),
    "state": ("State", "integer", "incident"),
    "priority": ("Priority", "integer", "task"),
    "urgency": ("Urgency", "integer", "task"),
    "category": ("Category", "string", "incident"),
    "assignment_group": ("Assignment group", "reference", "task"),
    "caller_id": ("Caller", "reference", "incident"),
    "close_code": ("Resolution code", "string", "incident"),
    "close_notes": ("Resolution notes", "string", "incident"),
    "correlation_id": ("Correlation ID", "string", "task"),
    "correlation_display": ("Correlation display", "string", "task"),
    "work_notes": ("Work notes", "journal_input", "task"),
    "comments": ("Additional comments", "journal_input", "task"),
    "u_decision": ("Decision", "string", "incident"),
    "u_due": ("Answer until", "glide_date", "incident"),
}
_CHOICES: dict[str, list[tuple[str, str]]] = {
    "state": [
        ("1", "New"),
        ("2", "In Progress"),
        ("3", "On Hold"),
        ("6", "Resolved"),
        ("7", "Closed"),
        ("8", "Canceled"),
    ],
    "urgency": [("1", "High"), ("2", "Medium"), ("3", "Low")],
    "close_code": [
        ("Solution provided", "Solution provided"),
        ("Keep seat", "Keep seat"),
        ("Revoke seat", "Revoke seat"),
    ],
    "u_decision": [("keep", "Keep the seat"), ("revoke", "Revoke the seat"), ("downgrade", "Downgrade the seat")],
}
_LONGEST = {"short_description": 160, "correlation_id": 100}
LONGEST_TEXT = 4_000
"""Characters of a column and of a journal, as they are delivered."""
_OWN = {"short_description": "subject", "description": "description", "state": "status"}
_JOURNALS: tuple[str, ...] = ("work_notes", "comments")
_READ_ONLY = {"number", "sys_id", "sys_created_by", "sys_created_on", "sys_updated_on", "sys_updated_by"}
_SHOWN = ("sysparm_fields", "sysparm_display_value", "sysparm_exclude_reference_link", "sysparm_view")
_LISTED = (*_SHOWN, "sysparm_query", "sysparm_limit", "sysparm_offset")
_WRITTEN = (*_SHOWN, "sysparm_input_display_value")
"""The query of each kind of call, as the reference of the Table API has it."""
_PART = re.compile(r"(?P<field>[a-z_.]+)(?P<operator>ISNOTEMPTY|ISEMPTY|IN|!=|=|>=|<=)(?P<value>.*)", re.DOTALL)


class ServiceNowDesk(Desk):
    name = "servicenow"
    label = "ServiceNow"
    statuses = ("1", "2", "3", "6", "7", "8")
    closed_statuses = ("6", "7", "8")
    open_status = "1"
    first_id = 10_001
    documented: ClassVar[str] = "Table API"

    def register(self) -> None:
        self._tagged: dict[tuple[int, str], tuple[str, datetime]] = {}
        self._tokens: set[str] = set()
        self._labels = {f"{100 + place:032x}": name for place, name in enumerate(TAGS)}
        self.route("POST", r"/oauth_token\.do", self._token)
        self.route("GET", r"/api/now/table/(\w+)", self._list)
        self.route("GET", r"/api/now/table/(\w+)/(\w+)", self._get)
        self.route("POST", r"/api/now/table/(\w+)", self._create)
        self.route("PATCH", r"/api/now/table/(\w+)/(\w+)", self._update)

    def admit(self, call: Call) -> None:
        if call.path == "/oauth_token.do":
            return
        if basic_of(call.headers) != (USER, PASSWORD) and bearer_of(call.headers) not in self._tokens:
            raise DeskError(401, "User Not Authenticated")
        if "application/json" not in call.headers.get("accept", ""):
            refuse(406, "Accept must be application/json")

    def refusal(self, error: DeskError) -> Reply:
        if error.status == 401 and error.code == "invalid_client":
            return Reply(401, {"error": "access_denied", "error_description": error.message})
        body = {"error": {"message": error.message, "detail": error.field or None}, "status": "failure"}
        return Reply(error.status, body)

    def key_of(self, number: int) -> str:
        return f"INC{number:07d}"

    def hook(self, ticket: Ticket, changes: list[Change]) -> Hook | None:
        watched = {"status", "tags", "close_code", "u_decision"}
        case_id = marker_of(ticket) or ticket.fields.get("correlation_id", "").removeprefix("lr-case-")
        if not case_id or not watched & {change.field for change in changes}:
            return None
        body = json.dumps({"case_id": case_id, "ticket": ticket.key, "actor": _name(changes[-1].by)}).encode()
        message_id = hook_id()
        return Hook(message_id, ticket.key, standard_headers(self.hooks.secret, message_id, body), body)

    def change(self, ticket: Ticket, *, by: str, **values: Any) -> None:
        """Change parts of a ticket; tags are rows of a table of their own, and leave the record as it is."""
        for tag in values.get("tags", ()):
            if tag not in ticket.tags:
                self._tagged[ticket.id, tag] = (by, self.clock.now())
        updated = ticket.updated_at, ticket.updated_by
        super().change(ticket, by=by, **values)
        if set(values) == {"tags"}:
            ticket.updated_at, ticket.updated_by = updated

    def clear(self) -> None:
        super().clear()
        self._tagged.clear()

    # Calls --------------------------------------------------------------------------------------------------------

    def _token(self, call: Call) -> Reply:
        form = dict(parse_qsl(call.raw.decode("utf-8", "replace")))
        right = {"grant_type": "client_credentials", "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}
        if form != right:
            refuse(401, "access_denied", code="invalid_client")
        token = secrets.token_urlsafe(24)
        self._tokens.add(token)
        return Reply(200, {"access_token": token, "token_type": "Bearer", "expires_in": 1799, "scope": "useraccount"})

    def end_sessions(self) -> None:
        """Let the tokens that were given be worth nothing."""
        self._tokens.clear()

    def _list(self, call: Call) -> Reply:
        call.only(*_LISTED)
        rows = list(self._rows(call.parts[0]))
        known = {name for row in rows for name in row} | self._columns(call.parts[0])
        order = ""
        for part in call.params.get("sysparm_query", "").split("^"):
            if part.startswith("ORDERBY"):
                order = part.removeprefix("ORDERBYDESC").removeprefix("ORDERBY")
                continue
            keep = _condition(part, known)
            rows = [row for row in rows if keep(row)]
        if order in known:
            rows.sort(key=lambda row: row.get(order, ""))
        offset = int(call.params.get("sysparm_offset", "0") or 0)
        limit = call.number("sysparm_limit", 10_000, 10_000)
        page = [self._shown(row, call) for row in rows[offset : offset + limit]]
        return Reply(200, {"result": page}, {"X-Total-Count": str(len(rows))})

    def _get(self, call: Call) -> Reply:
        call.only(*_SHOWN)
        table, sys_id = call.parts
        for row in self._rows(table):
            if row["sys_id"] == sys_id:
                if table == "incident" and call.params.get("sysparm_display_value") == "true":
                    row = {**row, **self._journals(self._ticket(sys_id))}
                return Reply(200, {"result": self._shown(row, call)})
        raise DeskError(404, "No Record found", field="Record doesn't exist or ACL restricts the record retrieval")

    def _create(self, call: Call) -> Reply:
        call.only(*_WRITTEN)
        body = self._body(call)
        if call.parts[0] == "label_entry":
            return self._tag(body)
        if call.parts[0] != "incident":
            refuse(403, f"Nothing may be created in {call.parts[0]}")
        values = self._checked(body)
        own = {_OWN[name]: value for name, value in values.items() if name in _OWN}
        if not own.get("subject"):
            refuse(400, "short_description is mandatory", field="short_description")
        notes = {name: values.pop(name) for name in _JOURNALS if name in values}
        ticket = self.open(
            subject=own["subject"],
            description=own.get("description", ""),
            requester=values.get("caller_id", ""),
            fields={name: value for name, value in values.items() if name not in _OWN},
        )
        self._journal(ticket, notes)
        return Reply(201, {"result": self._shown(self._row(ticket), call)}, {"Location": f"/{sys_id_of(ticket)}"})

    def _update(self, call: Call) -> Reply:
        call.only(*_WRITTEN)
        if call.parts[0] != "incident":
            refuse(403, f"Nothing may be changed in {call.parts[0]}")
        ticket = self._ticket(call.parts[1])
        values = self._checked(self._body(call))
        notes = {name: values.pop(name) for name in _JOURNALS if name in values}
        if values.get("state") in {"6", "7"}:
            missing = [
                name for name in ("close_code", "close_notes") if not (values.get(name) or ticket.fields.get(name))
            ]
            if missing:
                refuse(403, "Data Policy Exception", field=f"The following fields are mandatory: {', '.join(missing)}")
        self.change(ticket, by=PRODUCT, **{_OWN.get(name, name): value for name, value in values.items()})
        self._journal(ticket, notes)
        return Reply(200, {"result": self._shown(self._row(ticket), call)})

    def _tag(self, body: Row) -> Reply:
        if set(body) != {"label", "table", "table_key"} or body["label"] not in self._labels:
            refuse(400, "label_entry takes label, table and table_key")
        ticket = self._ticket(body["table_key"])
        tag = self._labels[body["label"]]
        if tag not in ticket.tags:
            self.change(ticket, by=PRODUCT, tags=[*ticket.tags, tag])
        return Reply(201, {"result": {"sys_id": f"{ticket.id:016x}{body['label'][-16:]}", **body}})

    def _body(self, call: Call) -> Row:
        try:
            body = json.loads(call.raw)
        except ValueError:
            refuse(400, "Exception while reading request", field="The payload is not valid JSON")
        if not isinstance(body, dict) or not all(isinstance(value, str) for value in body.values()):
            refuse(400, "Exception while reading request", field="Expected names and texts")
        return body

    def _checked(self, body: Row) -> Row:
        for name, value in body.items():
            if name not in _FIELDS or name in _READ_ONLY:
                refuse(400, f"Invalid field {name}", field=name)
            # The instance cuts what is longer without a word; a caller that is right here cuts it itself.
            if len(value.encode("utf-16-le")) // 2 > _LONGEST.get(name, LONGEST_TEXT):
                refuse(400, f"Value of {name} too long", field=name)
            # A choice field of ServiceNow takes any text, but a state that is none breaks its workflow.
            if name == "state" and value not in self.statuses:
                refuse(400, f"Invalid state {value}", field=name)
        return body

    def _journal(self, ticket: Ticket, notes: Row) -> None:
        for name, text in notes.items():
            self.say(ticket, text, public=name == "comments", by=PRODUCT)

    def _journals(self, ticket: Ticket) -> Row:
        """Return the journals as their display value has them: every entry, the newest first."""
        found = dict.fromkeys(_JOURNALS, "")
        for each in ticket.comments:
            name, label = ("comments", "Additional comments") if each.public else ("work_notes", "Work notes")
            found[name] = f"{each.at:%Y-%m-%d %H:%M:%S} - {each.by} ({label})\n{each.text}\n\n{found[name]}"
        return found

    def _ticket(self, sys_id: str) -> Ticket:
        for ticket in self.tickets.values():
            if sys_id_of(ticket) == sys_id:
                return ticket
        raise DeskError(404, "No Record found", field="Record doesn't exist or ACL restricts the record retrieval")

    # Tables -------------------------------------------------------------------------------------------------------

    def _columns(self, table: str) -> set[str]:
        return {*_FIELDS, *_READ_ONLY} if table == "incident" else set()

    def _rows(self, table: str) -> Iterable[Row]:
        match table:
            case "incident":
                return [self._row(ticket) for ticket in self.tickets.values()]
            case "label":
                return [{"sys_id": sys_id, "name": name} for sys_id, name in self._labels.items()]
            case "label_entry":
                ids = {name: sys_id for sys_id, name in self._labels.items()}
                return [
                    {
                        "sys_id": f"{ticket.id:016x}{place:016x}",
                        "label": ids.get(tag, ""),
                        "label.name": tag,
                        "table": "incident",
                        "table_key": sys_id_of(ticket),
                        **self._created(*self._tagged.get((ticket.id, tag), (PRODUCT, ticket.created_at))),
                    }
                    for ticket in self.tickets.values()
                    for place, tag in enumerate(ticket.tags)
                ]
            case "sys_user":
                return [{"sys_id": CALLER[0], "email": CALLER[1], "active": "true"}]
            case "sys_db_object":
                return [
                    {"sys_id": "1", "name": "incident", "super_class.name": "task"},
                    {"sys_id": "2", "name": "task", "super_class.name": ""},
                ]
            case "sys_dictionary":
                return [
                    {
                        "sys_id": name,
                        "name": table_name,
                        "element": name,
                        "column_label": label,
                        "internal_type": kind,
                        "mandatory": "true" if name == "short_description" else "false",
                        "read_only": "true" if name == "number" else "false",
                        "active": "true",
                    }
                    for name, (label, kind, table_name) in _FIELDS.items()
                ]
            case "sys_choice":
                return [
                    {
                        "sys_id": f"{element}.{value}",
                        "name": _FIELDS[element][2],
                        "element": element,
                        "value": value,
                        "label": label,
                        "language": "en",
                        "inactive": "false",
                    }
                    for element, offered in _CHOICES.items()
                    for value, label in offered
                ]
        raise DeskError(400, f"Invalid table {table}")

    def _row(self, ticket: Ticket) -> Row:
        fields = {name: str(value) for name, value in ticket.fields.items()}
        return (
            dict.fromkeys(_FIELDS, "")
            | fields
            | {
                "sys_id": sys_id_of(ticket),
                "number": ticket.key,
                "short_description": ticket.subject,
                "description": ticket.description,
                "state": ticket.status,
                "work_notes": "",
                "comments": "",
                "sys_updated_on": f"{ticket.updated_at:%Y-%m-%d %H:%M:%S}",
                "sys_updated_by": _name(ticket.updated_by),
            }
            | self._created(ticket.history[0].by, ticket.created_at)
        )

    @staticmethod
    def _created(by: str, at: datetime) -> Row:
        return {"sys_created_by": _name(by), "sys_created_on": f"{at:%Y-%m-%d %H:%M:%S}"}

    def _shown(self, row: Row, call: Call) -> dict[str, Any]:
        names = [name for name in call.params.get("sysparm_fields", "").split(",") if name]
        return {name: row.get(name, "") for name in names} if names else row


def _name(by: str) -> str:
    """Return the account of somebody."""
    return USER if by == PRODUCT else by


def sys_id_of(ticket: Ticket) -> str:
    """Return the record's id: 32 characters."""
    return f"{ticket.id:032x}"


def _condition(part: str, known: set[str]) -> Callable[[Row], bool]:
    """Return one part of an encoded query; as in ServiceNow, one that is not understood lets everything through."""
    match = _PART.fullmatch(part)
    if match is None or match["field"] not in known:
        return lambda _row: True
    name, operator, value = match["field"], match["operator"], match["value"]
    conditions: dict[str, Callable[[Row], bool]] = {
        "=": lambda row: row.get(name, "").casefold() == value.casefold(),
        "!=": lambda row: row.get(name, "").casefold() != value.casefold(),
        ">=": lambda row: row.get(name, "") >= value,
        "<=": lambda row: row.get(name, "") <= value,
        "IN": lambda row: row.get(name, "") in value.split(","),
        "ISNOTEMPTY": lambda row: row.get(name, "") != "",
        "ISEMPTY": lambda row: row.get(name, "") == "",
    }
    return conditions[operator]
