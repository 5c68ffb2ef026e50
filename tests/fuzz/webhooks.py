"""Webhooks altered in a million ways, none of which may be accepted, in process and over TCP.

An alteration changes something that proves where a webhook comes from: the signed texts, the signature, the secret,
the connection, the method. What it changes nothing of (a header nobody reads) is no alteration, and drawn again. A seed
plays again exactly, but for the signatures, which carry the time.

    python -m tests.fuzz --requests 1000000 --tcp 20000
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import uvicorn
from pydantic import SecretStr
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reclaim.itsm_gateway.settings import ItsmGatewaySettings
from reclaim.itsm_gateway.webhooks import HEADERS, LARGEST_BODY
from tests.support.itsm_gateway import FOREIGN, NEW, OLD, Site, answer, by_jira, flagged, of_jira, signed, started

JIRA = "jira-secret-of-thirty-two-letters"
STATIC = "freshservice-secret-of-many-letters"
PROVING: dict[str, frozenset[bytes]] = {
    "desk": frozenset(name.encode() for name in HEADERS["standard"]),
    "it": frozenset({b"x-hub-signature"}),
    "fresh": frozenset({b"x-reclaim-secret"}),
}
"""The headers that prove something, by connection."""

FRESH_FOR = 60.0
"""Seconds after which the originals are signed anew: what is refused must not be refused for its age."""

PREFIX = "/itsm-gateway/webhooks/"
CHUNK = 16 * 1024
REFUSED = frozenset({400, 401, 404, 405, 413, 414, 431})
"""What an altered request may be answered with; over TCP the HTTP parser may refuse it first."""


@dataclass(frozen=True)
class Request:
    """One webhook as it is sent."""

    connection: str
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    method: str = "POST"

    def proof(self) -> tuple[object, ...]:
        """Return everything that proves where it comes from, by its connection's scheme.

        A secret that is sent along proves no body, and Jira does not sign its identifier.
        """
        if self.connection not in PROVING:
            return (self.connection,)
        names = PROVING[self.connection]
        read = sorted((name.lower(), value) for name, value in self.headers if name.lower() in names)
        return self.connection, self.method, tuple(read), None if self.connection == "fresh" else self.body

    def carried(self) -> Request:
        """Return it as HTTP carries it: spaces around a value are none of it, and a line end would begin a new line."""
        headers = ((name, value.translate(None, b"\r\n").strip(b" \t")) for name, value in self.headers)
        return replace(self, headers=tuple(headers))


def originals() -> list[Request]:
    """Return webhooks that are accepted as they are, signed now."""
    generic = [json.dumps(answer(f"case-{number}", reason="x" * number)).encode() for number in (1, 40, 900)]
    found = [
        _request("desk", body, signed(secret, body, f"msg_{n}"))
        for n, body in enumerate(generic)
        for secret in (NEW, OLD)
    ]
    jira = of_jira("lr-case-c", "lr_revoke", nonce=time.time_ns())
    found.append(_request("it", jira, {**by_jira(JIRA, jira, f"jira-{time.time_ns()}")}))
    fresh = json.dumps({"ticket_id": 42, "tags": "lr-case-c"}).encode()
    found.append(_request("fresh", fresh, {"x-reclaim-secret": STATIC}))
    return found


def _request(connection: str, body: bytes, headers: dict[str, str]) -> Request:
    return Request(connection, tuple((name.encode(), value.encode("latin-1")) for name, value in headers.items()), body)


class Mutator:
    """Draws alterations."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self._ways: tuple[Callable[[Request, Sequence[Request]], Request], ...] = (
            self._alter_body, self._alter_body, self._alter_value, self._alter_value, self._alter_value,
            self._drop_header, self._double_header, self._swap_header, self._other_connection, self._other_method,
            self._resign, self._respell_signature, self._respell_time, self._replace_body, self._wrap_body,
        )  # fmt: skip

    def draw(self, valid: Sequence[Request], *, on_the_wire: bool = False) -> Request:
        """Return one of the valid requests, altered in one to three ways; `on_the_wire`, so that HTTP can carry it."""
        while True:
            original = altered = self.chance.choice(valid)
            for _ in range(self.chance.choice((1, 1, 1, 2, 3))):
                altered = self.chance.choice(self._ways)(altered, valid)
            if on_the_wire:
                altered = altered.carried()
            # Two alterations may undo one another, or lead to another valid request.
            if altered.proof() not in {one.proof() for one in valid} and original is not altered:
                return altered

    def _bytes(self, value: bytes) -> bytes:
        """Alter some bytes: one turned, left out, put in, doubled, or a run of them."""
        changed = bytearray(value)
        at = self.chance.randrange(len(changed) + 1)
        match self.chance.randrange(6):
            case 0 if changed:
                changed[at % len(changed)] ^= 1 << self.chance.randrange(8)
            case 1 if changed:
                changed[at % len(changed)] = self.chance.randrange(256)
            case 2 if changed:
                del changed[at : at + self.chance.choice((1, 1, 2, 8, 64))]
            case 3:
                changed[at:at] = self.chance.choice(_TOKENS)
            case 4:
                changed[at:at] = self.chance.randbytes(self.chance.choice((1, 1, 2, 16)))
            case _:
                changed += changed[at:]
        return bytes(changed)

    def _header(self, request: Request) -> int:
        return self.chance.randrange(len(request.headers)) if request.headers else -1

    def _with(self, request: Request, at: int, *pairs: tuple[bytes, bytes]) -> Request:
        return replace(request, headers=(*request.headers[:at], *pairs, *request.headers[at + 1 :]))

    def _alter_body(self, request: Request, _valid: Sequence[Request]) -> Request:
        return replace(request, body=self._bytes(request.body))

    def _alter_value(self, request: Request, _valid: Sequence[Request]) -> Request:
        at = self._header(request)
        if at < 0:
            return request
        name, value = request.headers[at]
        return self._with(request, at, (name, self._bytes(value)))

    def _drop_header(self, request: Request, _valid: Sequence[Request]) -> Request:
        at = self._header(request)
        return request if at < 0 else self._with(request, at)

    def _double_header(self, request: Request, _valid: Sequence[Request]) -> Request:
        at = self._header(request)
        if at < 0:
            return request
        name, value = request.headers[at]
        return self._with(request, at, (name, value), (name, self._bytes(value)))

    def _swap_header(self, request: Request, valid: Sequence[Request]) -> Request:
        at, other = self._header(request), self.chance.choice(valid)
        if at < 0:
            return request
        return self._with(request, at, self.chance.choice(other.headers))

    def _other_connection(self, request: Request, valid: Sequence[Request]) -> Request:
        names = (
            *(one.connection for one in valid),
            "unknown",
            "empty",
            "",
            "desk/",
            "DESK",
            "desk%00",
            "../desk",
            "d" * 300,
        )
        return replace(request, connection=self.chance.choice(names))

    def _other_method(self, request: Request, _valid: Sequence[Request]) -> Request:
        return replace(request, method=self.chance.choice(("GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "post")))

    def _resign(self, request: Request, _valid: Sequence[Request]) -> Request:
        """Sign it rightly, with a secret that is not the connection's, or at another time."""
        moved = timedelta(seconds=self.chance.choice((-3600, -360, 360, 86_400)))
        try:
            if request.connection == "it":
                headers = by_jira(FOREIGN, request.body)
            elif self.chance.random() < 0.5:
                headers = signed(FOREIGN, request.body, "msg_1")
            else:
                headers = signed(NEW, request.body, "msg_1", at=datetime.now(UTC) + moved)
        except UnicodeDecodeError:
            return self._alter_value(request, ())
        return _request(request.connection, request.body, headers)

    def _respell_signature(self, request: Request, _valid: Sequence[Request]) -> Request:
        """Write the same signature in another way, which a lenient reader takes for the same."""
        for at, (name, value) in enumerate(request.headers):
            if name == b"webhook-signature" and value.startswith(b"v1,"):
                text = value[3:]
                ways = (
                    b"v1," + text.rstrip(b"="), b"v1," + text + b"=", b"v1, " + text, b"V1," + text, b"v1;" + text,
                    b"v1," + text.replace(b"+", b"-").replace(b"/", b"_") + b"\n", b"v01," + text, b"v1," + text[:-2],
                    b"v1," + base64.b64encode(text), b",v1," + text, b"v1,v1," + text, value + b",", b" " + value,
                    value + b" ", value.replace(b",", b" "), b"v2," + text, b"v1a," + text, text,
                    b"v1," + text[:-2] + bytes(last ^ 1 for last in text[-2:-1]) + b"=",
                )  # fmt: skip
                return self._with(request, at, (name, self.chance.choice(ways)))
            if name == b"x-hub-signature":
                ways = (
                    value.upper(), b"sha1=" + value[7:], value[7:], value + b" ", b" " + value, value + b",",
                    value[:-1],
                    b"sha256=" + value[7:].upper(), b"SHA256=" + value[7:], value.replace(b"=", b":"), value * 2,
                    b"sha256=", b"sha256=" + b"0" * 64,
                )  # fmt: skip
                return self._with(request, at, (name, self.chance.choice(ways)))
        return self._alter_value(request, ())

    def _respell_time(self, request: Request, _valid: Sequence[Request]) -> Request:
        for at, (name, value) in enumerate(request.headers):
            if name == b"webhook-timestamp" and value.isdigit():
                number = int(value)
                ways = (
                    value + b".0", value + b".5", b"+" + value, b" " + value, value + b" ", b"0" + value, value + b"e0",
                    b"%d" % (number + 1), b"%d" % (number - 1), b"%d" % (number * 1000), b"-" + value, b"nan", b"inf",
                    b"1e400", hex(number).encode(), f"{number:_}".encode(), b"", b"9" * 400, value + b"\x00",
                )  # fmt: skip
                return self._with(request, at, (name, self.chance.choice(ways)))
        return self._alter_value(request, ())

    def _replace_body(self, request: Request, valid: Sequence[Request]) -> Request:
        if self.chance.random() < 0.01:
            return replace(request, body=b"x" * (LARGEST_BODY + self.chance.choice((1, 1000, 1_000_000))))
        bodies = (b"", b"{}", b"[]", b"null", b"\xff\xfe", b"[" * 5000, b"0" * 400, *(one.body for one in valid))
        return replace(request, body=self.chance.choice(bodies))

    def _wrap_body(self, request: Request, _valid: Sequence[Request]) -> Request:
        around = self.chance.choice((b" ", b"\n", b"\x00", b"\xef\xbb\xbf", b"\r\n", b"{}", b"."))
        return replace(request, body=around + request.body if self.chance.random() < 0.5 else request.body + around)


_TOKENS = (
    b"\x00", b"\r\n", b" ", b",", b".", b"=", b"\xc3\xa9", b"\xff", b'"', b"{", b"}", b"v1,", b"keep", b"%00",
    b"\\u0000",
)  # fmt: skip


@dataclass
class Found:
    """What came of it: how many of each status, the most bytes of a body that were taken in, and what went wrong."""

    statuses: Counter[int] = field(default_factory=Counter)
    most_read: int = 0
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)

    def note(self, request: Request, status: int, read: int) -> None:
        self.statuses[status] += 1
        self.most_read = max(self.most_read, read)
        if status not in REFUSED and len(self.wrong) < 20:
            self.wrong.append(f"{status} for {request!r:.2000}")

    @property
    def total(self) -> int:
        return self.statuses.total()

    def describe(self) -> str:
        each = ", ".join(f"{count:,} x {status}" for status, count in sorted(self.statuses.items()))
        rate = self.total / self.seconds if self.seconds else 0.0
        return (
            f"{self.total:,} altered webhooks in {self.seconds:.0f} s ({rate:,.0f} a second): {each}; "
            f"at most {self.most_read:,} bytes of a body came in (64 KiB are kept, a part that is too much is dropped)"
        )


@asynccontextmanager
async def gateway(folder: Path) -> AsyncIterator[Site]:
    """Run a gateway with a connection of each scheme. Refusals are not logged: there are too many."""
    loggers = [logging.getLogger(name) for name in ("reclaim.itsm_gateway.webhooks", "uvicorn.error")]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    settings = ItsmGatewaySettings(
        _env_file=None,  # type: ignore[call-arg]
        webhook_secrets={"desk": [SecretStr(NEW), SecretStr(OLD)], "empty": []},
    )
    try:
        async with started(folder, settings) as site:
            await site.secret("it", "jira", JIRA)
            await site.secret("fresh", "freshservice", STATIC)
            await site.tell(flagged("c"))
            yield site
    finally:
        for logger in loggers:
            logger.setLevel(logging.NOTSET)


async def in_process(site: Site, count: int, seed: int) -> Found:
    """Send altered webhooks to the application itself."""
    found, mutator = Found(), Mutator(seed)
    began = signed_at = time.monotonic()
    valid = await _accepted(site)
    for number in range(count):
        if number % 1000 == 0 and time.monotonic() - signed_at > FRESH_FOR:
            valid, signed_at = await _accepted(site), time.monotonic()
        request = mutator.draw(valid)
        status, read = await _call(site.host.app, request)
        found.note(request, status, read)
        if number % 1000 == 0:
            await asyncio.sleep(0)
    found.seconds = time.monotonic() - began
    return found


async def _accepted(site: Site) -> list[Request]:
    """Sign the originals anew, and make sure that they themselves are taken."""
    valid = originals()
    for one in valid:
        status, _ = await _call(site.host.app, one)
        assert status == 202, f"{status} for a webhook that nobody altered: {one}"
    return valid


async def _call(app: ASGIApp, request: Request) -> tuple[int, int]:
    status = read = 0
    chunks = [request.body[start : start + CHUNK] for start in range(0, len(request.body), CHUNK)] or [b""]

    async def receive() -> Message:
        nonlocal read
        chunk = chunks.pop(0)
        read += len(chunk)
        return {"type": "http.request", "body": chunk, "more_body": bool(chunks)}

    async def send(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]

    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": "http",
        "path": PREFIX + request.connection,
        "raw_path": (PREFIX + request.connection).encode(),
        "query_string": b"",
        "root_path": "",
        "headers": list(request.headers),
        "client": ("192.0.2.1", 1),
        "server": ("127.0.0.1", 80),
        "state": {},
    }
    await app(scope, receive, send)
    return status, read


async def over_tcp(site: Site, count: int, seed: int, connections: int = 16) -> Found:
    """Send altered webhooks to a server, as bytes that no client library has tidied up."""
    found, mutator = Found(), Mutator(seed)
    watched = _Watched(site.host.app)
    began = signed_at = time.monotonic()
    async with _serving(watched) as port:
        valid, left = await _accepted(site), count

        async def send_some() -> None:
            nonlocal left, valid, signed_at
            wire = _Wire(port)
            while left > 0:
                left -= 1
                if time.monotonic() - signed_at > FRESH_FOR:
                    signed_at = time.monotonic()
                    valid = await _accepted(site)
                request = mutator.draw(valid, on_the_wire=True)
                found.note(request, await wire.exchange(request), watched.most_read)
            wire.close()

        await asyncio.gather(*(send_some() for _ in range(connections)))
    found.seconds = time.monotonic() - began
    return found


class _Watched:
    """An application, and the most bytes of one body that it has asked for."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.most_read = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        read = 0

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            self.most_read = max(self.most_read, read)
            return message

        await self._app(scope, counted, send)


@asynccontextmanager
async def _serving(app: ASGIApp) -> AsyncIterator[int]:
    server = uvicorn.Server(
        uvicorn.Config(app, port=0, log_config=None, access_log=False, server_header=False, lifespan="off")
    )
    task = asyncio.create_task(server._serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn says so by nothing else
        await asyncio.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = server.force_exit = True
        await task


class _Wire:
    """One connection, opened anew where the server has closed it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._open: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def exchange(self, request: Request) -> int:
        """Send a request and return the status of its answer.

        A request line or a header that is none closes the connection, sometimes before all was sent.
        """
        if self._open is None:
            self._open = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._open
        head = [f"{request.method} {PREFIX}{request.connection} HTTP/1.1".encode(), b"Host: fuzz"]
        head += [name + b": " + value for name, value in request.headers]
        body, length = request.body, len(request.body)
        if length > LARGEST_BODY and length % 2:
            # Without a word on how much there will be.
            head.append(b"Transfer-Encoding: chunked")
            chunks = [body[start : start + CHUNK] for start in range(0, length, CHUNK)]
            body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in (*chunks, b""))
        else:
            head.append(b"Content-Length: %d" % length)
        writer.write(b"\r\n".join((*head, b"", b"")) + body)
        # Refused before all of it was there, the answer may have come all the same.
        with suppress(ConnectionError):
            await asyncio.wait_for(writer.drain(), 20)
        try:
            return await asyncio.wait_for(self._status(reader, request.method), 20)
        except (ConnectionError, asyncio.IncompleteReadError):
            self.close()
            return 400
        finally:
            if reader.at_eof():
                self.close()

    async def _status(self, reader: asyncio.StreamReader, method: str) -> int:
        head = await reader.readuntil(b"\r\n\r\n")
        status = int(head.split(b" ", 2)[1])
        fields = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(b":") for line in head.split(b"\r\n")[1:])
        }
        if method != "HEAD":
            await reader.readexactly(int(fields.get(b"content-length", b"0")))
        if status in {400, 413} or fields.get(b"connection") == b"close":
            self.close()
        return status

    def close(self) -> None:
        """Close the connection."""
        if self._open is not None:
            self._open[1].close()
            self._open = None
