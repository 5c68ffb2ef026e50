"""What all adapters share: one way to make a call and to read its failure, and one way to open a ticket only once."""

from __future__ import annotations

import asyncio
import base64
import logging
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, ClassVar, Final, Protocol, TypeVar

import httpx
import msgspec
from aiolimiter import AsyncLimiter

from reclaim.common.errors import ReclaimError, Transient
from reclaim.common.http_client import AnswerRefused
from reclaim.connectors.itsm.ports import (
    FieldSpec,
    Json,
    NotThere,
    Passing,
    PermissionResult,
    ReadDecision,
    Refused,
    SignInRefused,
    TicketDraft,
    TicketRef,
    UnknownOutcome,
)
from reclaim.connectors.itsm.profile import Tuning
from reclaim.connectors.itsm.texts import Room, fit, fit_title

log = logging.getLogger(__name__)
T = TypeVar("T")

LONGEST_WAIT: Final = 3600.0
"""Seconds; a desk that asks for more is asked again after this."""
LARGEST_ANSWER: Final = 16 * 1024 * 1024
"""Bytes; no answer that is read here comes near it."""
LONGEST_QUOTE: Final = 300
NOT_DONE: Final = frozenset({408, 425, 429})
"""Statuses that say that the request was not handled at all."""


class Authority(Protocol):
    """Gives the header that lets a call in."""

    async def header(self, line: Line, *, instead_of: str | None = None) -> str:
        """Return the value of `Authorization`; if there is another, not `instead_of`, which is no longer accepted."""
        ...


class Basic:
    """HTTP Basic: there is nothing to renew."""

    def __init__(self, user: str, password: str) -> None:
        self._value = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()

    async def header(self, line: Line, *, instead_of: str | None = None) -> str:  # noqa: ARG002  there is no other
        return self._value


class _Token(msgspec.Struct):
    access_token: str
    expires_in: int | str = 0


class ClientCredentials:
    """OAuth client credentials: a bearer token, fetched at first need and again shortly before it ends."""

    EARLY: Final = 30.0
    """Seconds before its end at which a token is no longer used."""

    def __init__(self, path: str, client_id: str, secret: str, *, in_form: bool) -> None:
        self._path = path
        form = {"grant_type": "client_credentials"}
        self._form = form | ({"client_id": client_id, "client_secret": secret} if in_form else {})
        self._basic = None if in_form else "Basic " + base64.b64encode(f"{client_id}:{secret}".encode()).decode()
        self._value: str | None = None
        self._ends = 0.0
        self._signing_in = asyncio.Lock()

    async def header(self, line: Line, *, instead_of: str | None = None) -> str:
        async with self._signing_in:
            if self._value is None or self._value == instead_of or time.monotonic() > self._ends:
                headers = {"Authorization": self._basic} if self._basic else {}
                # Asking for a token twice does no harm, so a lost answer is only a passing fault.
                token = await line.send("POST", self._path, into=_Token, form=self._form, headers=headers, reads=True)
                lasts = float(token.expires_in) if str(token.expires_in).isdigit() else 0.0
                self._value = f"Bearer {token.access_token}"
                self._ends = time.monotonic() + max(lasts - self.EARLY, self.EARLY)
            return self._value


class Line:
    """The wire to one desk: it adds the credentials, keeps the pace, and gives every failure its meaning.

    A desk that asked to be left alone is left alone: until then nothing is sent.
    """

    def __init__(
        self,
        client: httpx.AsyncClient,
        *,
        name: str,
        base: str,
        authority: Authority | None,
        calls_per_minute: int,
        tuning: Tuning,
        explain: Callable[[Any], str],
    ) -> None:
        self.name = name
        self.base = base
        self._client = client
        self._authority = authority
        self._pace = AsyncLimiter(calls_per_minute, 60)
        self._timeout = httpx.Timeout(tuning.read_timeout, connect=tuning.connect_timeout)
        self._unknown_for = tuning.unknown_for
        self._explain = explain
        self._not_before = 0.0

    async def call(
        self,
        method: str,
        path: str,
        *,
        into: type[T],
        params: Mapping[str, str | int] | None = None,
        body: Json = None,
        reads: bool = False,
    ) -> T:
        """Make one call with the connection's credentials; return its answer as `into`.

        Args:
            method: the HTTP method.
            path: below the base address.
            into: a msgspec type; `None` for an answer that does not matter.
            params: the query.
            body: sent as JSON.
            reads: a POST that changes nothing, so that it may be sent again.

        Raises:
            Passing, Refused, UnknownOutcome: see `ports`.
        """
        if self._authority is None:
            return await self.send(method, path, into=into, params=params, body=body, reads=reads)
        header = await self._authority.header(self)
        try:
            return await self.send(
                method, path, into=into, params=params, body=body, headers={"Authorization": header}, reads=reads
            )
        except SignInRefused:
            renewed = await self._authority.header(self, instead_of=header)
            if renewed == header:
                raise
        return await self.send(
            method, path, into=into, params=params, body=body, headers={"Authorization": renewed}, reads=reads
        )

    async def send(
        self,
        method: str,
        path: str,
        *,
        into: type[T],
        params: Mapping[str, str | int] | None = None,
        body: Json = None,
        content: bytes | None = None,
        form: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        reads: bool = False,
    ) -> T:
        """Make one call as it is given; `content` is a body that was encoded (and signed) before."""
        wait = self._not_before - time.monotonic()
        if wait > 0:
            raise Passing(f"{self.name} asked for fewer calls; it is left alone for {wait:.0f} s.", retry_after=wait)
        reads = reads or method == "GET"
        if body is not None:
            content = msgspec.json.encode(body)
        async with self._pace:
            status, answer_headers, raw = await self._exchange(
                method, path, params=params, content=content, form=form, headers=headers, reads=reads
            )
        if not 200 <= status < 300:
            raise self._failure(status, answer_headers, raw, reads=reads)
        try:
            return msgspec.convert(_decoded(raw) if raw else None, into, strict=False)
        except (msgspec.DecodeError, RecursionError) as error:
            # A page instead of JSON: a sign-in page, a proxy, an instance that is asleep.
            said = f"{self.name} answered {status} with something that is not its API's answer ({error})."
            raise self._unclear(said, reads=reads) from None

    async def _exchange(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str | int] | None,
        content: bytes | None,
        form: Mapping[str, str] | None,
        headers: Mapping[str, str] | None,
        reads: bool,
    ) -> tuple[int, httpx.Headers, bytes]:
        sent = {"Accept": "application/json", **(headers or {})}
        if content is not None:
            sent["Content-Type"] = "application/json"
        try:
            async with self._client.stream(
                method,
                f"{self.base}{path}",
                params=params,
                content=content,
                data=form,
                headers=sent,
                timeout=self._timeout,
                follow_redirects=False,
            ) as answer:
                raw = bytearray()
                async for chunk in answer.aiter_bytes():
                    raw += chunk
                    if len(raw) > LARGEST_ANSWER:
                        raise self._unclear(f"{self.name} sent an answer without end.", reads=reads)
                return answer.status_code, answer.headers, bytes(raw)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise Passing(f"{self.name} cannot be reached ({type(error).__name__}): check its address.") from None
        except httpx.RequestError as error:
            said = f"The connection to {self.name} gave no answer ({type(error).__name__})."
            raise self._unclear(said, reads=reads) from None
        except AnswerRefused as error:
            # Of a call that changes something it says only that its answer was of no use.
            if reads:
                raise
            raise self._unclear(str(error), reads=False) from None
        except RuntimeError:
            if not self._client.is_closed:
                raise
            # The connection was changed meanwhile. A client that is closed sends nothing.
            raise Passing(f"The connection to {self.name} was changed just now; it is tried again.") from None
        except httpx.InvalidURL:
            raise Refused(f"{self.name} has no such address.", "Check the address of the connection.") from None

    def _unclear(self, said: str, *, reads: bool) -> Passing | UnknownOutcome:
        if reads:
            return Passing(f"{said} Try again later.")
        return UnknownOutcome(
            f"{said} It may have been done: look before it is done again.", look_after=self._unknown_for
        )

    def _failure(self, status: int, headers: httpx.Headers, raw: bytes, *, reads: bool) -> ReclaimError:
        said = f"{self.name} answered {status}{self._quote(raw)}."
        wait = retry_after(headers)
        if status == 429 or (status == 503 and wait is not None):
            self._not_before = time.monotonic() + (wait or 0.0)
        if status in NOT_DONE:
            return Passing(f"{said} It is tried again later.", retry_after=wait)
        if status >= 500:
            if reads:
                return Passing(f"{said} It is tried again later.", retry_after=wait)
            return UnknownOutcome(
                f"{said} It may have been done: look before it is done again.", look_after=wait or self._unknown_for
            )
        if status == 401:
            return SignInRefused(said, "Enter the credentials again.")
        if status == 403:
            return Refused(said, "Give the connection's user the permission, then test the connection.")
        if status in {404, 410}:
            return NotThere(said, "Check that it still exists, and that the connection's user may see it.")
        if 300 <= status < 400:
            return Refused(said, "Enter the address that it redirects to: redirects are not followed.")
        return Refused(said, "Mend what it names in the connection's settings or in the field mapping.")

    def _quote(self, raw: bytes) -> str:
        try:
            words = self._explain(_decoded(raw))
        except (msgspec.DecodeError, RecursionError, AttributeError, TypeError, KeyError, IndexError, ValueError):
            words = ""  # no JSON, or not in the platform's shape: a page says nothing worth quoting
        words = " ".join(str(words).split())[:LONGEST_QUOTE].rstrip(".")
        return f": {words}" if words else ""


def _decoded(raw: bytes) -> Any:
    """Return a JSON answer without NUL characters: PostgreSQL keeps none in a text, and nobody reads them."""
    answer = msgspec.json.decode(raw)
    return _without_nul(answer) if rb"\u0000" in raw else answer


def _without_nul(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\0", "")
    if isinstance(value, list):
        return [_without_nul(each) for each in value]
    if isinstance(value, dict):
        return {_without_nul(name): _without_nul(each) for name, each in value.items()}
    return value


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds after which a desk asks to be called again, if it says so.

    `Retry-After` is seconds or a date; a date is held against the answer's own `Date`, since clocks differ.
    `X-RateLimit-Reset` is an instant in seconds.
    """
    text = headers.get("retry-after", "").strip()
    seconds: float | None = None
    if text.isascii() and text.isdigit():
        seconds = float(text)
    elif text:
        until = _http_date(text)
        now = _http_date(headers.get("date", "")) or datetime.now(UTC)
        seconds = None if until is None else (until - now).total_seconds()
    else:
        reset = headers.get("x-ratelimit-reset", "")
        if reset.isascii() and reset.isdigit():
            seconds = float(reset) - time.time()
    return None if seconds is None else min(max(seconds, 0.0), LONGEST_WAIT)


def _http_date(text: str) -> datetime | None:
    try:
        found = parsedate_to_datetime(text)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


class Adapter(ABC):
    """The part of a `ServiceDesk` that is the same everywhere: a ticket is opened once, and texts have room."""

    room: ClassVar[Room] = Room()

    def __init__(self, line: Line, tuning: Tuning) -> None:
        self.line = line
        self.tuning = tuning

    async def create(self, draft: TicketDraft, *, tried: bool = False) -> TicketRef:
        """See `ServiceDesk.create`: look, open, and after an unknown outcome look again."""
        await self._prepare(draft)
        ref = await self._look_again(draft) if tried else await self.find_by_case(draft.case_id, since=draft.opened_at)
        if ref is None:
            try:
                ref = await self._open(draft)
            except UnknownOutcome as lost:
                ref = await self._found_after(lost, draft)
        try:
            await self._complete(ref, draft)
        except Passing as error:
            # Something was done: the ticket is open, and whoever calls again finds and completes it.
            raise UnknownOutcome(
                f"{ref.number} is open and not yet complete. {error}", look_after=error.retry_after or 0.0
            ) from None
        return ref

    async def _found_after(self, lost: UnknownOutcome, draft: TicketDraft) -> TicketRef:
        """Return the ticket that was opened although no answer said so.

        Raises:
            UnknownOutcome: it was not found. It is not opened again here, because it may still appear: the caller looks
                once more before the next attempt.
        """
        try:
            ref = await self._look_again(draft)
        except Passing as error:
            wait = max(lost.look_after, error.retry_after or 0.0)
            raise UnknownOutcome(f"{lost} It could not be looked for: {error}", look_after=wait) from None
        if ref is None:
            raise lost
        return ref

    async def _look_again(self, draft: TicketDraft) -> TicketRef | None:
        for wait in (0.0, *self.tuning.look_again):
            await asyncio.sleep(wait)
            ref = await self._find_slowly(draft)
            if ref is not None:
                return ref
        return None

    async def _find_slowly(self, draft: TicketDraft) -> TicketRef | None:
        """Look for a ticket that may be too new for the platform's search."""
        return await self.find_by_case(draft.case_id, since=draft.opened_at)

    async def _prepare(self, draft: TicketDraft) -> None:  # noqa: B027  a hook
        """Refuse, before anything is opened, what could not be completed."""

    async def _complete(self, ref: TicketRef, draft: TicketDraft) -> None:  # noqa: B027  a hook
        """Add what the platform takes only after a ticket is open; does nothing where that is done."""

    @abstractmethod
    async def _open(self, draft: TicketDraft) -> TicketRef: ...

    @abstractmethod
    async def find_by_case(self, case_id: str, *, since: datetime) -> TicketRef | None:
        """See `ServiceDesk.find_by_case`."""

    @abstractmethod
    async def test_connection(self) -> Sequence[PermissionResult]:
        """See `ServiceDesk.test_connection`."""

    @abstractmethod
    async def discover_fields(self) -> Sequence[FieldSpec]:
        """See `ServiceDesk.discover_fields`."""

    async def comment(self, ref: TicketRef, text: str, *, mark: str = "", tried: bool = False) -> None:
        """See `ServiceDesk.comment`."""
        if not (tried and await self._says(ref, mark)):
            await self._comment(ref, self._fitted(text, mark), mark)

    async def close(self, ref: TicketRef, text: str, *, mark: str = "", tried: bool = False) -> None:
        """See `ServiceDesk.close`."""
        if not (tried and await self._says(ref, mark)):
            await self._close(ref, self._fitted(text, mark), mark)

    async def was_closed(self, ref: TicketRef, *, mark: str) -> bool:
        """See `ServiceDesk.was_closed`."""
        return await self._says(ref, mark) or await self._closed_with(ref, mark)

    async def reopen(self, ref: TicketRef, text: str, *, mark: str = "", tried: bool = False) -> None:
        """See `ServiceDesk.reopen`."""
        if not (tried and await self._says(ref, mark)):
            await self._reopen(ref, self._fitted(text, mark), mark)

    async def _says(self, ref: TicketRef, mark: str) -> bool:  # noqa: ARG002  for those that can be asked
        """Tell whether a comment carries a mark; False too where the platform lets nobody read comments."""
        return False

    async def _closed_with(self, ref: TicketRef, mark: str) -> bool:  # noqa: ARG002  for those that can be asked
        """Tell whether what closed the ticket carries a mark, though no comment of ours does: its answer was lost."""
        return False

    def _subject(self, draft: TicketDraft) -> str:
        """Return a draft's title as it is sent."""
        return fit_title(draft.subject, self.room.title)

    def _description(self, draft: TicketDraft) -> str:
        """Return a draft's description with its marker, as it is sent."""
        return self._written(fit(draft.description.strip(), draft.reference, self.room.text, self._written))

    def _fitted(self, text: str, mark: str) -> str:
        return fit(text, f"\n\n({mark})" if mark else "", self.room.text, self._written)

    @staticmethod
    def _written(text: str) -> str:
        """Return a text as the platform is sent it, so that it shows it as it is."""
        return text

    @abstractmethod
    async def _comment(self, ref: TicketRef, text: str, mark: str) -> None:
        """Add a comment; `text` has the mark already."""

    @abstractmethod
    async def _close(self, ref: TicketRef, text: str, mark: str) -> None:
        """Close a ticket unless it is closed; `text` has the mark already.

        A comment with the mark comes after the closing, and only where the ticket reads as closed (`closed_at_last`):
        whoever finds the mark takes the ticket for one that was closed.
        """

    @abstractmethod
    async def _reopen(self, ref: TicketRef, text: str, mark: str) -> None:
        """Open a ticket unless it is open; `text` has the mark already."""

    @abstractmethod
    async def read_decision(self, ref: TicketRef) -> ReadDecision:
        """See `ServiceDesk.read_decision`."""


async def tried(what: str, attempt: Callable[[], Awaitable[str]]) -> PermissionResult:
    """Try one thing that a connection needs; `attempt` returns what was seen."""
    try:
        return PermissionResult(what, True, await attempt())
    except Refused as error:
        return PermissionResult(what, False, str(error), error.remedy)
    except Transient as error:
        return PermissionResult(what, False, str(error), "Test the connection again in a few minutes.")
    except ReclaimError as error:
        # What forbids an address says itself what to do.
        return PermissionResult(what, False, str(error), "Mend it, then test the connection again.")


def closed_at_last(ref: TicketRef, *, closed: bool) -> None:
    """Refuse to believe in a closing that the desk accepted and that its ticket does not show."""
    if not closed:
        raise Refused(
            f"{ref.number} was to be closed, and is still open: the desk accepted that without doing it.",
            "Let the connection's user close tickets: a permission, a rule or a workflow of the desk forbids it.",
        )


def marked(texts: Iterable[str], mark: str) -> bool:
    """Tell whether one of the texts carries a mark, as itself and not as the beginning of another."""
    found = re.compile(rf"(?<![\w-]){re.escape(mark)}(?![\w-])")
    return bool(mark) and any(found.search(text) for text in texts)


def only(found: Sequence[TicketRef], case_id: str) -> TicketRef | None:
    """Return the first of the tickets of a case, which is the oldest; more than one is worth a word in the log."""
    if len(found) > 1:
        log.warning("case %s has %d tickets; the oldest, %s, is used", case_id, len(found), found[0].number)
    return found[0] if found else None


def moment(text: str | None) -> datetime | None:
    """Return an instant as platforms write it, in UTC; None where there is none or it is not one."""
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):  # in UTC it may be before the first year, or after the last
        return None
