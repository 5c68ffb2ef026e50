"""What all simulated desks share: tickets, a write log, the way a call is answered, and webhooks on their way.

A desk is strict: a key that its platform does not document, or a value of another type, is refused, also where the real
platform would quietly ignore it. A caller that is right here is right there.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import json
import re
import secrets
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar, NoReturn, TypeVar

import httpx
from fastapi import Request, Response
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.background import BackgroundTask

from reclaim.common.clock import Clock
from reclaim.common.http_client import usual_trust
from reclaim.sandbox.faults import Fault, Faults
from reclaim.sandbox.rest import Reply
from reclaim.sandbox.salesforce import drop

BodyT = TypeVar("BodyT", bound=BaseModel)
PRODUCT = "product"
"""Who did what came through the API; everybody else is a person."""
REQUESTS_KEPT = 100_000
BODY_TYPES = frozenset({"application/json", "application/x-www-form-urlencoded"})
HOOK_TIMEOUT = 10.0
HOOK_ATTEMPTS = 3


class Strict(BaseModel):
    """The body of a call as a platform documents it: nothing else, and nothing of another type."""

    model_config = ConfigDict(extra="forbid", strict=True)


class DeskError(Exception):
    """A refusal; each desk gives it its platform's shape. `field` names what is to blame, where one part is."""

    def __init__(self, status: int, message: str, *, field: str = "", code: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.field = field
        self.code = code


@dataclass(frozen=True, slots=True)
class Comment:
    """Something that was said on a ticket."""

    id: int
    at: datetime
    by: str
    text: str
    public: bool


@dataclass(frozen=True, slots=True)
class Change:
    """One field of one ticket that was changed, in the order in which it happened."""

    seq: int
    at: datetime
    desk: str
    ticket: str
    field: str
    before: Any
    after: Any
    by: str


@dataclass(slots=True)
class Ticket:
    """A ticket, whatever its platform calls its parts.

    `unseen` counts the searches that do not find it yet; lists and direct reads do.
    """

    id: int
    key: str
    subject: str
    description: str
    status: str
    requester: str
    created_at: datetime
    updated_at: datetime
    updated_by: str = PRODUCT
    tags: list[str] = field(default_factory=list)
    fields: dict[str, Any] = field(default_factory=dict)
    comments: list[Comment] = field(default_factory=list)
    history: list[Change] = field(default_factory=list)
    unseen: int = 0


@dataclass(frozen=True, slots=True)
class Called:
    """One call that the desk answered."""

    seq: int
    method: str
    path: str
    status: int
    body: Any
    fault: str | None


@dataclass(slots=True)
class Hook:
    """One webhook: what is sent, and what became of it. `status` is 0 while nobody has answered."""

    id: str
    ticket: str
    headers: dict[str, str]
    body: bytes
    attempts: int = 0
    status: int = 0


@dataclass(slots=True)
class Hooks:
    """Where a desk's webhooks go, and what happens to them on the way.

    `drop` of the next are lost, `repeat` of the next are sent twice. While `hold` is set they are kept back; letting
    go sends them, the last first when `reverse` is asked for.
    """

    url: str = ""
    secret: str = ""
    drop: int = 0
    repeat: int = 0
    hold: bool = False


@dataclass(frozen=True, slots=True)
class Call:
    """A call, read: `parts` are what its path names."""

    method: str
    path: str
    parts: tuple[str, ...]
    params: Mapping[str, str]
    raw: bytes
    headers: Mapping[str, str]

    def json(self, shape: type[BodyT]) -> BodyT:
        """Return the body as a platform documents it.

        Raises:
            DeskError: it is not JSON, or has another shape.
        """
        try:
            return shape.model_validate_json(self.raw)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise DeskError(400, f"{where}: {first['msg']}", field=where, code="invalid_value") from None

    def only(self, *names: str) -> None:
        """Refuse a query parameter that the platform does not document."""
        unknown = sorted(set(self.params) - set(names))
        if unknown:
            raise DeskError(400, f"{unknown[0]}: not a parameter of this call", field=unknown[0], code="invalid_field")

    def number(self, name: str, default: int, most: int) -> int:
        """Return a query parameter that is a whole number from 1."""
        text = self.params.get(name, str(default))
        if not (text.isascii() and text.isdigit() and 1 <= int(text) <= most):
            raise DeskError(400, f"{name}: a whole number from 1 to {most}", field=name, code="invalid_value")
        return int(text)


Answering = Callable[[Call], Reply]


class Desk(ABC):
    """One simulated desk, mounted below `/desks/{name}`."""

    name: ClassVar[str]
    label: ClassVar[str]
    closed_statuses: ClassVar[tuple[str, ...]]
    open_status: ClassVar[str]
    statuses: ClassVar[tuple[str, ...]]
    first_id: ClassVar[int] = 1
    documented: ClassVar[str]
    """Where the platform describes the API, in words."""

    def __init__(self, clock: Clock, faults: Faults, log: list[Change]) -> None:
        self.clock = clock
        self.faults = faults
        self.log = log
        self.tickets: dict[int, Ticket] = {}
        self.called: deque[Called] = deque(maxlen=REQUESTS_KEPT)
        self.hooks = Hooks()
        self.sent: list[Hook] = []
        self.keeps_open = False
        """Whether what a caller closes stays open, without a word: a rule of the desk forbids it."""
        self.search_lag = 0
        """How many searches do not find a new ticket yet."""
        self._waiting: list[Hook] = []
        self._sending = asyncio.Lock()
        self._calls = 0
        self._comments = 0
        self._routes: list[tuple[str, re.Pattern[str], Answering]] = []
        self.register()

    @abstractmethod
    def register(self) -> None:
        """Name the calls that are answered, with `route`."""

    @abstractmethod
    def admit(self, call: Call) -> None:
        """Refuse a call without the right credentials."""

    @abstractmethod
    def refusal(self, error: DeskError) -> Reply:
        """Return a refusal in the platform's shape."""

    @abstractmethod
    def key_of(self, number: int) -> str:
        """Return what the platform calls its ticket of a number."""

    @abstractmethod
    def hook(self, ticket: Ticket, changes: list[Change]) -> Hook | None:
        """Return the signed webhook about changes of a ticket, or None where it sends none."""

    def objects(self, raw: bytes) -> frozenset[str]:  # noqa: ARG002  for those that tell by the body
        """Return what a fault may name as `object` to strike a call by, beside its path; in small letters."""
        return frozenset()

    def route(self, method: str, pattern: str, answer: Answering) -> None:
        """Answer calls of a method on paths that a pattern (without the desk's own prefix) fits."""
        self._routes.append((method, re.compile(pattern), answer))

    # Tickets ------------------------------------------------------------------------------------------------------

    def open(
        self,
        *,
        subject: str,
        description: str = "",
        requester: str = "",
        tags: list[str] | None = None,
        fields: dict[str, Any] | None = None,
        by: str = PRODUCT,
    ) -> Ticket:
        """Open a ticket."""
        number = self.first_id + len(self.tickets)
        now = self.clock.now()
        ticket = Ticket(
            id=number,
            key=self.key_of(number),
            subject=subject,
            description=description,
            status=self.open_status,
            requester=requester,
            created_at=now,
            updated_at=now,
            updated_by=by,
            tags=list(tags or []),
            fields=dict(fields or {}),
            unseen=self.search_lag,
        )
        self.tickets[number] = ticket
        self._announce(ticket, [self._note(ticket, "ticket", None, ticket.subject, by)])
        return ticket

    def change(self, ticket: Ticket, *, by: str, **values: Any) -> None:
        """Change parts of a ticket: `subject`, `description`, `status`, `tags`, or one of its fields."""
        if self.keeps_open and by == PRODUCT and values.get("status") in self.closed_statuses:
            del values["status"]
        changes = []
        for name, after in values.items():
            own = name in {"subject", "description", "status", "tags"}
            before = getattr(ticket, name) if own else ticket.fields.get(name)
            if before == after:
                continue
            changes.append(self._note(ticket, name, before, after, by))
            if own:
                setattr(ticket, name, after)
            else:
                ticket.fields[name] = after
        if changes:
            ticket.updated_at, ticket.updated_by = self.clock.now(), by
            self._announce(ticket, changes)

    def person_sets(self, ticket: Ticket, name: str, text: str, by: str) -> None:
        """Let a person fill a field of the form."""
        self.change(ticket, by=by, **{name: text})

    def say(self, ticket: Ticket, text: str, *, public: bool, by: str) -> Comment:
        """Add a comment."""
        self._comments += 1
        comment = Comment(self._comments, self.clock.now(), by, text, public)
        ticket.comments.append(comment)
        ticket.updated_at, ticket.updated_by = comment.at, by
        self._announce(ticket, [self._note(ticket, "comment", None, text, by)])
        return comment

    def is_closed(self, ticket: Ticket) -> bool:
        return ticket.status in self.closed_statuses

    def find(self, key: str) -> Ticket:
        """Return a ticket by its number or by what its platform calls it.

        Raises:
            DeskError: there is none.
        """
        for ticket in self.tickets.values():
            if key in (ticket.key, str(ticket.id)):
                return ticket
        raise DeskError(404, f"There is no ticket {key}", code="not_found")

    def searchable(self) -> list[Ticket]:
        """Return the tickets that a search finds; those it does not find yet are missing once less."""
        found = []
        for ticket in self.tickets.values():
            if ticket.unseen:
                ticket.unseen -= 1
            else:
                found.append(ticket)
        return found

    def clear(self) -> None:
        """Forget tickets, calls and webhooks; where webhooks go stays."""
        self.tickets.clear()
        self.called.clear()
        self.sent.clear()
        self._waiting.clear()

    def _note(self, ticket: Ticket, name: str, before: Any, after: Any, by: str) -> Change:
        change = Change(len(self.log) + 1, self.clock.now(), self.name, ticket.key, name, before, after, by)
        self.log.append(change)
        ticket.history.append(change)
        return change

    # Calls --------------------------------------------------------------------------------------------------------

    async def handle(self, request: Request, path: str) -> Response:
        """Answer one call, whatever it is; a fault may strike it (see `faults`)."""
        raw = await request.body()
        fault = self.faults.take(request.method, f"/desks/{self.name}{path}", self.objects(raw))
        if fault is not None and fault.kind == "slow":
            await asyncio.sleep(float(fault.params.get("seconds", 1)))
        if fault is not None and fault.kind == "connection_lost":
            self._log_call(request, path, raw, 0, fault)
            return await drop(request, fault)
        if fault is not None and fault.phase == "instead":
            reply = self._struck(fault)
        else:
            reply = self._answer(request, path, raw)
        self._log_call(request, path, raw, reply.status, fault)
        if fault is not None and fault.kind == "timeout_after_commit":
            await self.deliver()
            return await drop(request, fault)
        content = None if reply.body is None else json.dumps(reply.body, ensure_ascii=False)
        return Response(
            content,
            reply.status,
            {"Date": _http_date(datetime.now(UTC)), **reply.headers},
            "application/json;charset=UTF-8",
            background=BackgroundTask(self.deliver),
        )

    def _answer(self, request: Request, path: str, raw: bytes) -> Reply:
        try:
            return self._routed(request, path, raw)
        except DeskError as error:
            return self.refusal(error)

    def _routed(self, request: Request, path: str, raw: bytes) -> Reply:
        headers = dict(request.headers)
        matches = [(method, match, answer) for method, fits, answer in self._routes if (match := fits.fullmatch(path))]
        for method, match, answer in matches:
            if method != request.method:
                continue
            call = Call(method, path, match.groups(), dict(request.query_params), raw, headers)
            self.admit(call)
            if raw and headers.get("content-type", "").partition(";")[0] not in BODY_TYPES:
                raise DeskError(415, "Content-Type must be application/json", code="invalid_content_type")
            return answer(call)
        raise DeskError(405 if matches else 404, f"{request.method} {path} is no call of this API", code="not_found")

    def _struck(self, fault: Fault) -> Reply:
        statuses = {
            "server_unavailable": (503, "The service is temporarily unavailable"),
            "too_many_requests": (429, "Too many requests"),
            "session_expired": (401, "The credentials are not accepted"),
            "request_limit": (403, "You have no permission for this"),
        }
        status, message = statuses.get(fault.kind, (500, "Internal error"))
        reply = self.refusal(DeskError(status, message, code="struck"))
        if "retry_after" in fault.params:
            reply.headers["Retry-After"] = str(fault.params["retry_after"])
        return reply

    def _log_call(self, request: Request, path: str, raw: bytes, status: int, fault: Fault | None) -> None:
        self._calls += 1
        try:
            body = json.loads(raw) if raw else None
        except ValueError:
            body = None
        self.called.append(Called(self._calls, request.method, path, status, body, fault.kind if fault else None))

    # Webhooks -----------------------------------------------------------------------------------------------------

    def _announce(self, ticket: Ticket, changes: list[Change]) -> None:
        if not self.hooks.url:
            return
        hook = self.hook(ticket, changes)
        if hook is None:
            return
        if self.hooks.drop:
            self.hooks.drop -= 1
            return
        self._waiting.append(hook)
        if self.hooks.repeat:
            self.hooks.repeat -= 1
            self._waiting.append(hook)

    async def deliver(self) -> None:
        """Send the webhooks that wait, one after the other, unless they are held back."""
        async with self._sending:
            while self._waiting and not self.hooks.hold:
                await self._send(self._waiting.pop(0))

    async def release(self, *, reverse: bool = False) -> None:
        """Send the webhooks that were held back."""
        self.hooks.hold = False
        if reverse:
            self._waiting.reverse()
        await self.deliver()

    async def resend(self) -> None:
        """Send again the webhooks that nobody took."""
        async with self._sending:
            for hook in [each for each in self.sent if not 200 <= each.status < 300]:
                await self._send(hook, again=True)

    @property
    def held(self) -> int:
        return len(self._waiting)

    async def _send(self, hook: Hook, *, again: bool = False) -> None:
        if not again and all(hook is not each for each in self.sent):
            self.sent.append(hook)
        async with httpx.AsyncClient(timeout=HOOK_TIMEOUT, verify=usual_trust()) as client:
            for _ in range(HOOK_ATTEMPTS):
                hook.attempts += 1
                try:
                    answer = await client.post(self.hooks.url, content=hook.body, headers=hook.headers)
                except httpx.HTTPError:
                    hook.status = 0
                else:
                    hook.status = answer.status_code
                    if answer.status_code < 500 and answer.status_code not in {408, 409, 425, 429}:
                        return


def hook_id() -> str:
    """Return a fresh id of a webhook."""
    return f"msg_{secrets.token_hex(12)}"


def standard_headers(secret: str, message_id: str, body: bytes) -> dict[str, str]:
    """Return the headers of Standard Webhooks, by the machine's clock."""
    at = str(int(datetime.now(UTC).timestamp()))
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signature = hmac.digest(key, f"{message_id}.{at}.".encode() + body, "sha256")
    return {
        "content-type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": at,
        "webhook-signature": f"v1,{base64.b64encode(signature).decode()}",
    }


def basic_of(headers: Mapping[str, str]) -> tuple[str, str]:
    """Return user and password of HTTP Basic; empty texts where there are none."""
    scheme, _, text = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return "", ""
    try:
        user, _, password = base64.b64decode(text, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return "", ""
    return user, password


def bearer_of(headers: Mapping[str, str]) -> str:
    """Return a bearer token, or an empty text."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def refuse(status: int, message: str, *, field: str = "", code: str = "invalid_value") -> NoReturn:
    """Refuse a call."""
    raise DeskError(status, message, field=field, code=code)


def marker_of(ticket: Ticket) -> str:
    """Return the case that a ticket is about: what follows `lr-case-` in its tags or its description."""
    for word in (*ticket.tags, *re.split(r"[\s<>]+", ticket.description)):
        if word.startswith("lr-case-"):
            return word.removeprefix("lr-case-")
    return ""


def _http_date(at: datetime) -> str:
    return at.strftime("%a, %d %b %Y %H:%M:%S GMT")
