"""A simulated desk of somebody's own making: it answers signed questions, and decides by signed webhooks."""

from __future__ import annotations

import base64
import hmac
import json
from datetime import UTC, datetime
from typing import Any, ClassVar

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
    hook_id,
    marker_of,
    standard_headers,
)

SECRET = "whsec_" + base64.b64encode(b"a secret of the simulated generic desk").decode()
TOLERANCE = 300.0
_DECISIONS = {"lr_keep": "keep", "lr_revoke": "revoke", "lr_downgrade": "downgrade"}


class _Question(Strict):
    type: str
    timestamp: str
    data: dict[str, Any]


class _Create(Strict):
    case_id: str
    title: str
    description: str
    requester_email: str | None
    tags: list[str]
    fields: dict[str, Any]
    test: bool


class _Find(Strict):
    case_id: str
    since: str


class _Read(Strict):
    key: str


class _Say(Strict):
    key: str
    text: str


class GenericDesk(Desk):
    name = "generic"
    label = "Generic desk"
    statuses = ("open", "closed")
    closed_statuses = ("closed",)
    open_status = "open"
    documented: ClassVar[str] = "docs/reference/itsm.md"

    def register(self) -> None:
        self._created: dict[str, int] = {}
        self._done: set[str] = set()
        self.route("POST", r"/?", self._ask)

    def clear(self) -> None:
        super().clear()
        self._created.clear()
        self._done.clear()

    def admit(self, call: Call) -> None:
        message_id, at = call.headers.get("webhook-id", ""), call.headers.get("webhook-timestamp", "")
        if not (at.isdigit() and abs(datetime.now(UTC).timestamp() - int(at)) < TOLERANCE and message_id):
            raise DeskError(401, "no signature that is valid now")
        key = base64.b64decode(SECRET.removeprefix("whsec_"))
        signature = hmac.digest(key, f"{message_id}.{at}.".encode() + call.raw, "sha256")
        wanted = f"v1,{base64.b64encode(signature).decode()}"
        given = call.headers.get("webhook-signature", "").split(" ")
        if not any(hmac.compare_digest(wanted.encode(), each.encode()) for each in given):
            raise DeskError(401, "no signature that is valid now")

    def refusal(self, error: DeskError) -> Reply:
        return Reply(error.status, {"detail": error.message})

    def objects(self, raw: bytes) -> frozenset[str]:
        """Return the type of the question: all of them have one path."""
        try:
            return frozenset({str(json.loads(raw)["type"]).lower()})
        except (ValueError, KeyError, TypeError):
            return frozenset()

    def key_of(self, number: int) -> str:
        return f"T-{number}"

    def hook(self, ticket: Ticket, changes: list[Change]) -> Hook | None:
        case_id = marker_of(ticket)
        decided = [_DECISIONS[tag] for tag in ticket.tags if tag in _DECISIONS]
        if len(decided) != 1 or not case_id or not {"tags", "status"} & {change.field for change in changes}:
            return None
        said = {
            "case_id": case_id,
            "decision": decided[0],
            "actor": ticket.updated_by,
            "reason": f"Ticket {ticket.key}",
        }
        body, message_id = json.dumps(said).encode(), hook_id()
        return Hook(message_id, ticket.key, standard_headers(self.hooks.secret, message_id, body), body)

    def _ask(self, call: Call) -> Reply:
        question = call.json(_Question)
        inner = Call(call.method, call.path, call.parts, call.params, json.dumps(question.data).encode(), call.headers)
        match question.type:
            case "connection.test":
                return Reply(200, {})
            case "fields.list":
                fields = [{"name": "team", "label": "Team", "kind": "choice", "choices": ["IT", "Finance"]}]
                return Reply(200, {"fields": fields})
            case "ticket.find":
                wanted = f"lr-case-{inner.json(_Find).case_id}"
                found = [ticket for ticket in self.tickets.values() if wanted in ticket.tags]
                return Reply(200, {"ticket": self._shown(found[0]) if found else None})
            case "ticket.create":
                return self._create(inner)
            case "ticket.read":
                return Reply(200, {"ticket": self._shown(self.find(inner.json(_Read).key))})
            case "ticket.comment" | "ticket.close" | "ticket.reopen":
                return self._change(call.headers["webhook-id"], question.type, inner.json(_Say))
        raise DeskError(400, f"{question.type} is no question that is known")

    def _create(self, call: Call) -> Reply:
        # The id of a message says which one it is: the same one twice opens one ticket.
        known = self._created.get(call.headers["webhook-id"])
        if known in self.tickets:
            return Reply(200, {"ticket": self._shown(self.tickets[known])})
        body = call.json(_Create)
        ticket = self.open(
            subject=body.title,
            description=body.description,
            requester=body.requester_email or "",
            tags=body.tags,
            fields=body.fields,
        )
        self._created[call.headers["webhook-id"]] = ticket.id
        return Reply(201, {"ticket": self._shown(ticket)})

    def _change(self, message_id: str, kind: str, body: _Say) -> Reply:
        ticket = self.find(body.key)
        if message_id in self._done or (self.keeps_open and kind == "ticket.close"):
            return Reply(200, {})
        self._done.add(message_id)
        if kind != "ticket.comment":
            self.change(ticket, by=PRODUCT, status="closed" if kind == "ticket.close" else "open")
        self.say(ticket, body.text, public=False, by=PRODUCT)
        return Reply(200, {})

    def _shown(self, ticket: Ticket) -> dict[str, Any]:
        return {
            "key": ticket.key,
            "number": ticket.key,
            "url": "",
            "closed": self.is_closed(ticket),
            "tags": ticket.tags,
            "fields": ticket.fields,
            "actor": ticket.updated_by,
            "changed_at": ticket.updated_at.isoformat(),
        }
