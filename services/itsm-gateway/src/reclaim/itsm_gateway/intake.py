"""The door for webhooks: verify, enter in the ledger, store, and only then say that it was accepted.

Requests that come while a transaction is under way share the next one, and each is answered after it (*group commit*).
The door is an ASGI application of its own, in front of the web framework, whose work for a request would take longer
than all that is done here. A fault of ours that passes is answered with 503, so that the sender tries again.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, Literal, TypeVar

import msgspec
from opentelemetry import metrics
from starlette.types import Receive, Scope, Send

from reclaim.common.db import Database, Unit, is_outage
from reclaim.common.errors import Invalid, Permanent, Transient
from reclaim.common.timing import wall_milliseconds
from reclaim.itsm_gateway import delivery_store, hints, webhooks
from reclaim.itsm_gateway.delivery_store import Arrival
from reclaim.itsm_gateway.hints import Hint
from reclaim.itsm_gateway.keyring import Keyring
from reclaim.itsm_gateway.webhooks import HEADERS, LARGEST_BODY, Refused, TooLarge, Verified
from reclaim.web.problems import PROBLEM_JSON, RETRY_AFTER_SECONDS

log = logging.getLogger(__name__)

PATH: Final = "/webhooks/"
HANDLE: Final = "handle_deliveries"
"""The job that is woken when a delivery was stored."""

MOST_TOGETHER: Final = 256
MOST_WAITING: Final = 2048
"""Webhooks that wait for a transaction; more are asked to come again."""

T = TypeVar("T")
R = TypeVar("R")
Answer = Literal["accepted", "already_taken", "ignored"]

_results = metrics.get_meter("reclaim.itsm_gateway").create_counter(
    "reclaim_webhooks", description="Webhooks by what became of them: accepted, already_taken, ignored, refused, …"
)


class Busy(Transient):
    """More comes than can be stored."""


class Together(Generic[T, R]):
    """Lets what waits share a transaction: `submit` returns an item's result once the whole of it is committed.

    If the transaction fails for another reason than that the database is away, each item is tried alone, so that one
    which cannot be stored fails by itself.
    """

    def __init__(self, commit: Callable[[Sequence[T]], Awaitable[Sequence[R]]]) -> None:
        self._commit = commit
        self._waiting: deque[tuple[T, asyncio.Future[R]]] = deque()
        self._task: asyncio.Task[None] | None = None

    async def submit(self, item: T) -> R:
        """Wait until the item is committed; return its result.

        Raises:
            Busy: too many wait already.
        """
        if len(self._waiting) >= MOST_WAITING:
            raise Busy("Too many webhooks wait to be stored. Send it again in a few seconds.")
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._task is None:
            self._task = asyncio.create_task(self._drain())
        return await future

    async def _drain(self) -> None:
        try:
            while self._waiting:
                count = min(len(self._waiting), MOST_TOGETHER)
                await self._settle([self._waiting.popleft() for _ in range(count)])
        finally:
            self._task = None

    async def _settle(self, batch: Sequence[tuple[T, asyncio.Future[R]]]) -> None:
        try:
            results = await self._commit([item for item, _ in batch])
        except Exception as error:
            if len(batch) > 1 and not is_outage(error):
                for one in batch:
                    await self._settle([one])
                return
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
        else:
            for (_, future), result in zip(batch, results, strict=True):
                if not future.done():
                    future.set_result(result)

    async def close(self) -> None:
        """Let what waits be committed."""
        if self._task is not None:
            await self._task


@dataclass(frozen=True, slots=True)
class _Taken:
    answer: Answer | None
    """None: the secret that verified it was dropped meanwhile."""


class Intake:
    """Takes webhooks, as an ASGI application for `POST …/webhooks/{connection_id}`."""

    def __init__(self, database: Database, keyring: Keyring) -> None:
        self._database = database
        self._keyring = keyring
        self._together: Together[Arrival, _Taken] = Together(self._store)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "POST":
            await _say(send, 405, _NOT_A_POST, (b"allow", b"POST"))
            return
        _, _, connection_id = scope["path"].partition(PATH)
        result: str
        try:
            body = await _read(scope, receive)
            if body is None:
                return
            result = await self.take(connection_id, body, _told(scope["headers"]))
        except Refused as error:
            result = "refused"
            await _say(send, error.status, _problem(error))
        except TooLarge as error:
            result = "too_large"
            # The rest of it is not read: whoever sends on hears nothing more.
            await _say(send, error.status, _problem(error), (b"connection", b"close"))
        except Permanent as error:
            result = "unreadable"
            await _say(send, error.status, _problem(error))
        except Exception as error:
            if not isinstance(error, Transient) and not is_outage(error):
                result = "failed"
                log.exception("a webhook could not be taken")
                await _say(send, 500, _FAILED)
            else:
                result = "away"
                log.warning("a webhook was sent back for now: %s", type(error).__name__)
                away = error if isinstance(error, Transient) else Transient(_AWAY)
                await _say(send, 503, _problem(away), (b"retry-after", b"%d" % RETRY_AFTER_SECONDS))
        else:
            await _say(send, 202, _ACCEPTED[result])
        _results.add(1, {"result": result})

    async def take(self, connection_id: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Verify a webhook, read it, and store what it says; return once that is committed.

        Raises:
            Refused: nothing proves that a sender of this connection sent it.
            Invalid: it is verified, and does not fit. It is kept, and its id is not used up.
            Transient: it could not be stored now.
        """
        verified = await self._verified(connection_id, body, headers)
        key = verified.key
        digest = hashlib.sha256(body).hexdigest()
        hint: Hint | None = None
        problem: Invalid | None = None
        try:
            hint = hints.read(key.platform, body)
        except Invalid as error:
            problem = error
        if hint is None and problem is None:
            return "ignored"
        taken = await self._together.submit(
            Arrival(
                connection_id,
                key.platform,
                verified.webhook_id,
                key.id,
                # Not by its id: what its sender mends may be sent again under the same one.
                verified.once if problem is None else (f"unreadable:{digest}",),
                digest,
                hint,
                None if problem is None else body,
                None if problem is None else str(problem),
            )
        )
        if taken.answer is None:
            log.warning("webhook for %r refused: its secret has just been dropped", connection_id)
            raise Refused
        if problem is not None:
            raise problem
        return taken.answer

    async def _verified(self, connection_id: str, body: bytes, headers: Mapping[str, str]) -> Verified:
        keys = await self._keyring.keys(connection_id)
        try:
            return webhooks.verify(connection_id, keys, body, headers, wall_milliseconds())
        except Refused:
            # It may be signed with a secret that another process was given a moment ago.
            if not await self._keyring.refresh():
                raise
        keys = await self._keyring.keys(connection_id)
        return webhooks.verify(connection_id, keys, body, headers, wall_milliseconds())

    async def _store(self, arrivals: Sequence[Arrival]) -> list[_Taken]:
        async with self._database.unit() as unit:
            return await _stored(unit, arrivals)

    async def close(self) -> None:
        """Let what waits be stored."""
        await self._together.close()


async def _stored(unit: Unit, arrivals: Sequence[Arrival]) -> list[_Taken]:
    wanted = {arrival.secret_id for arrival in arrivals if arrival.secret_id is not None}
    there = await delivery_store.still_there(unit.db, wanted) if wanted else set()
    valid = [arrival for arrival in arrivals if arrival.secret_id is None or arrival.secret_id in there]
    entries = {(arrival.connection_id, once) for arrival in valid for once in arrival.once}
    new = await delivery_store.enter(unit.db, entries, wall_milliseconds()) if entries else set()
    fresh: list[Arrival] = []
    results: list[_Taken] = []
    for arrival in arrivals:
        if arrival.secret_id is not None and arrival.secret_id not in there:
            results.append(_Taken(None))
            continue
        own = {(arrival.connection_id, once) for once in arrival.once}
        if own <= new:
            fresh.append(arrival)
        results.append(_Taken("accepted" if own <= new else "already_taken"))
        new -= own
    if fresh:
        await delivery_store.add_deliveries(unit.db, fresh, unit.now)
        unit.wake(HANDLE)
    return results


# ------------------------------------------------------------------------------------------------ ASGI

_READ: Final = {name.encode(): name for names in HEADERS.values() for name in names}


def _told(headers: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
    """Return the headers that a scheme reads. One that stands twice could mean either: then it means nothing."""
    told: dict[str, str] = {}
    for raw, value in headers:
        name = _READ.get(raw)
        if name is not None:
            told[name] = "" if name in told else value.decode("latin-1")
    return told


async def _read(scope: Scope, receive: Receive) -> bytes | None:
    """Return the raw body, or None if the sender went away; never hold more of it than is allowed.

    Raises:
        TooLarge: there is more.
    """
    for name, value in scope["headers"]:
        if name == b"content-length" and (not value.isdigit() or len(value) > 9 or int(value) > LARGEST_BODY):
            raise TooLarge
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body", False):
        whole: bytes = message.get("body", b"")
        if len(whole) > LARGEST_BODY:
            raise TooLarge
        return whole
    body = bytearray()
    while message["type"] == "http.request":
        part = message.get("body", b"")
        if len(body) + len(part) > LARGEST_BODY:
            raise TooLarge
        body += part
        if not message.get("more_body", False):
            return bytes(body)
        message = await receive()
    return None


def _problem(error: Permanent | Transient) -> bytes:
    document = {"type": "about:blank", "title": error.title, "status": error.status, "detail": error.detail}
    return msgspec.json.encode(document)


_AWAY: Final = "The database did not answer. Nothing was lost: send it again in a few seconds."
_FAILED: Final = msgspec.json.encode(
    {
        "type": "about:blank",
        "title": "Something went wrong",
        "status": 500,
        "detail": "The error is on our side, and the log has it. Send it again later.",
    }
)
_NOT_A_POST: Final = msgspec.json.encode(
    {
        "type": "about:blank",
        "title": "Method not allowed",
        "status": 405,
        "detail": "Webhooks are sent by POST.",
    }
)
_ACCEPTED: Final[dict[str, bytes]] = {
    status: msgspec.json.encode({"status": status}) for status in ("accepted", "already_taken", "ignored")
}
_HEADERS: Final = ((b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff"))
"""Those of a page say what a browser may do with it; no browser reads these answers."""


async def _say(send: Send, status: int, document: bytes, *more: tuple[bytes, bytes]) -> None:
    kind = b"application/json" if status == 202 else PROBLEM_JSON.encode()
    headers: list[Any] = [
        (b"content-type", kind),
        (b"content-length", b"%d" % len(document)),
        *_HEADERS,
        *more,
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": document})
