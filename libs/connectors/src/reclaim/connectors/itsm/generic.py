"""Any desk that speaks Standard Webhooks: every question is a signed POST to one address, answered with JSON.

What is sent, and what is expected back, is written down in the reference (docs/reference/itsm.md).
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final, TypeVar

import httpx
import msgspec
from standardwebhooks import Webhook

from reclaim.common.errors import Invalid
from reclaim.common.ids import new_id
from reclaim.connectors.itsm.base import Adapter, Line, closed_at_last, moment, tried
from reclaim.connectors.itsm.decisions import read
from reclaim.connectors.itsm.ports import (
    Choice,
    Deed,
    FieldKind,
    FieldSpec,
    Json,
    PermissionResult,
    ReadDecision,
    TicketDraft,
    TicketRef,
    case_marker,
)
from reclaim.connectors.itsm.profile import ALLOW_HTTP, DeskProfile, Entered, Entry, Tuning

ENTRIES: Final = (
    Entry("base_url", "Address", "Where the signed questions are posted, such as https://desk.example.com/reclaim."),
    Entry("secret", "Signing secret", "A Standard Webhooks secret: whsec_ and base64.", secret=True),
    Entry(
        "previous_secret",
        "Signing secret before",
        "While one secret replaces another, questions carry a signature of each.",
        required=False,
        secret=True,
    ),
    ALLOW_HTTP,
)

PERMISSIONS: Final[Mapping[Deed, str]] = MappingProxyType(
    {
        "open": "an answer to ticket.create",
        "tag": "an answer to ticket.read that has the tags of the ticket",
        "comment": "an answer to ticket.comment",
        "close": "an answer to ticket.close that comes when the ticket is closed",
        "reopen": "an answer to ticket.reopen that comes when the ticket is open",
    }
)
"""What the user that Reclaim works as has to be allowed."""

PREFIX: Final = "whsec_"
SHORTEST_SECRET: Final = 24
"""Bytes; the least that Standard Webhooks recommends."""
T = TypeVar("T")


class _Ticket(msgspec.Struct):
    key: str
    number: str = ""
    url: str = ""
    closed: bool = False
    tags: list[str] = []
    fields: dict[str, Any] = {}
    actor: str | None = None
    changed_at: str | None = None


class _Answer(msgspec.Struct):
    ticket: _Ticket


class _Maybe(msgspec.Struct):
    ticket: _Ticket | None = None


class _Field(msgspec.Struct):
    name: str
    label: str = ""
    kind: FieldKind = "text"
    required: bool = False
    choices: list[str] = []


class _Fields(msgspec.Struct):
    fields: list[_Field] = []


def _explain(body: Any) -> str:
    return str(body.get("detail") or body.get("message") or body.get("error") or "")


class Generic(Adapter):
    """One receiver of signed questions."""

    def __init__(self, profile: DeskProfile, client: httpx.AsyncClient, tuning: Tuning) -> None:
        entered = Entered(profile, ENTRIES)
        super().__init__(
            Line(
                client,
                name="The service desk",
                base=entered.url("base_url"),
                authority=None,
                calls_per_minute=300,
                tuning=tuning,
                explain=_explain,
            ),
            tuning,
        )
        self.decisions = profile.decisions
        self._signers = [_signer(name, entered[name]) for name in ("secret", "previous_secret") if entered[name]]

    async def test_connection(self) -> Sequence[PermissionResult]:
        async def answers() -> str:
            await self._ask("connection.test", {}, object)
            return "The signed question was answered."

        return [await tried("ask a signed question", answers)]

    async def discover_fields(self) -> Sequence[FieldSpec]:
        return [
            FieldSpec(
                each.name,
                each.label or each.name,
                each.kind,
                each.required,
                tuple(Choice(one, one) for one in each.choices),
            )
            for each in (await self._ask("fields.list", {}, _Fields)).fields
        ]

    async def find_by_case(self, case_id: str, *, since: datetime) -> TicketRef | None:
        case_marker(case_id)
        data: dict[str, Json] = {"case_id": case_id, "since": _iso(since)}
        found = (await self._ask("ticket.find", data, _Maybe)).ticket
        return None if found is None else _ref(found)

    async def close(self, ref: TicketRef, text: str, *, mark: str = "", tried: bool = False) -> None:
        """See `ServiceDesk.close`."""
        await super().close(ref, text, mark=mark, tried=tried)
        # One that may have been closed before and is open may have been reopened since: there is no mark to tell by.
        if not tried:
            closed_at_last(ref, closed=(await self._read(ref)).closed)

    async def _comment(self, ref: TicketRef, text: str, mark: str) -> None:
        await self._change("ticket.comment", ref, text, mark)

    async def _close(self, ref: TicketRef, text: str, mark: str) -> None:
        if not (await self._read(ref)).closed:
            await self._change("ticket.close", ref, text, mark)

    async def _reopen(self, ref: TicketRef, text: str, mark: str) -> None:
        if (await self._read(ref)).closed:
            await self._change("ticket.reopen", ref, text, mark)

    async def read_decision(self, ref: TicketRef) -> ReadDecision:
        ticket = await self._read(ref)
        value = ticket.fields.get(self.decisions.decision_field) if self.decisions.decision_field else None
        return read(
            self.decisions,
            closed=ticket.closed,
            tags=ticket.tags,
            values=[] if value is None else [str(value)],
            actor=ticket.actor,
            at=moment(ticket.changed_at),
        )

    async def _open(self, draft: TicketDraft) -> TicketRef:
        data: dict[str, Json] = {
            "case_id": draft.case_id,
            "title": self._subject(draft),
            "description": self._description(draft),
            "requester_email": draft.requester_email,
            "tags": list(draft.tags),
            "fields": dict(draft.fields),
            "test": draft.test,
        }
        # The same id at every attempt: a receiver that knows it opens no second ticket.
        made = await self._ask("ticket.create", data, _Answer, question=f"create-{draft.marker}", reads=False)
        return _ref(made.ticket)

    async def _change(self, kind: str, ref: TicketRef, text: str, mark: str) -> None:
        # The same id at every attempt, as for a ticket: whoever knows it has done it. It does not name the kind, since
        # a word that closes comes as a comment when the answer to its first attempt was lost and the ticket is closed.
        await self._ask(kind, {"key": ref.key, "text": text}, object, question=mark, reads=False)

    async def _read(self, ref: TicketRef) -> _Ticket:
        return (await self._ask("ticket.read", {"key": ref.key}, _Answer)).ticket

    async def _ask(
        self, kind: str, data: Mapping[str, Json], into: type[T], *, question: str = "", reads: bool = True
    ) -> T:
        now = datetime.now(UTC)
        body = msgspec.json.encode({"type": kind, "timestamp": _iso(now), "data": data})
        question = question or f"msg-{new_id()}"
        signatures = " ".join(signer.sign(question, now, body.decode()) for signer in self._signers)
        headers = {
            "webhook-id": question,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": signatures,
        }
        return await self.line.send("POST", "", into=into, content=body, headers=headers, reads=reads)


def _ref(ticket: _Ticket) -> TicketRef:
    # It becomes a link: what is no page of the web, such as a script, is left out.
    url = ticket.url if ticket.url.lower().startswith(("https://", "http://")) else ""
    return TicketRef(ticket.key, ticket.number or ticket.key, url)


def _iso(at: datetime) -> str:
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _signer(name: str, secret: str) -> Webhook:
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except ValueError:
        key = b""
    if not secret.startswith(PREFIX) or len(key) < SHORTEST_SECRET:
        raise Invalid(f"Enter {PREFIX} and the base64 of at least {SHORTEST_SECRET} random bytes.", field=name)
    return Webhook(secret)
