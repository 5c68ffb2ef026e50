"""Calls to a server that answers anything at all: guarded, patient, and never sent twice when that could do harm."""

from __future__ import annotations

import json
import ssl
import threading
import time
from base64 import b64decode
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import pytest_asyncio

from reclaim.common.clock import FixedClock
from reclaim.common.errors import Permanent, ReclaimError
from reclaim.common.outgoing import Outgoing
from reclaim.connectors import http
from reclaim.connectors.errors import Busy, SignInRefused, Unreachable, WriteForbidden
from reclaim.connectors.http import Answer, ClientCredentials, Http, Token, Tuning

NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
CLOCK = FixedClock(NOW)
HERE = Outgoing(["127.0.0.1", "localhost"])
QUICK = Tuning(attempts=3, wait_initial=0.001, wait_max=0.002, wait_jitter=0, answer_timeout=2, patience=20)

Reply = tuple[int, Any, dict[str, str]]


class Stub:
    """A server whose answers a test chooses: `token` and `data` return status, body and headers; None hangs up."""

    def __init__(self) -> None:
        self.token: Callable[[], Reply] = lambda: (200, {"access_token": "t1", "token_type": "Bearer"}, {})
        self.data: Callable[[str], Reply | None] = lambda _path: (200, {"ok": True}, {})
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                stub.requests.append((self.command, self.path, dict(self.headers), body))
                reply = stub.token() if self.path == "/token" else stub.data(self.path)
                if reply is None:
                    self.close_connection = True
                    return
                status, given, headers = reply
                raw = given if isinstance(given, bytes) else json.dumps(given).encode()
                self.send_response(status)
                for name, value in {"Content-Length": str(len(raw)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(raw)

            do_GET = do_POST = do_PATCH = answer  # noqa: N815

            def log_message(self, *args: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def paths(self) -> list[str]:
        return [path for _method, path, _headers, _body in self.requests]


@pytest.fixture
def stub() -> Iterator[Stub]:
    stub = Stub()
    yield stub
    stub.server.shutdown()
    stub.server.server_close()


def refusal(answer: Answer) -> ReclaimError:
    return Permanent(f"refused {answer.status} {answer.text()}")


@pytest_asyncio.fixture
async def client(stub: Stub) -> AsyncIterator[Http]:
    client = opened(stub)
    yield client
    await client.close()


def opened(stub: Stub, sign_in: http.SignIn | None = None, tuning: Tuning = QUICK) -> Http:
    allowed = (("GET", f"{stub.url}/data/"), ("PATCH", f"{stub.url}/data/"), ("POST", f"{stub.url}/token"))
    return Http(
        "app", CLOCK, sign_in or Token("Bearer", "s3cret"), allowed, refusal=refusal, tuning=tuning, outgoing=HERE
    )


def client_of(stub: Stub, **more: Any) -> ClientCredentials:
    return ClientCredentials(
        CLOCK, system="app", token_url=f"{stub.url}/token", client_id="re:claim", **{"client_secret": "s3 cret", **more}
    )


async def get(client: Http, stub: Stub, path: str = "/data/x") -> Answer:
    return await client.get(f"{stub.url}{path}", {"q": "a b"}, accept="application/json")


@pytest.mark.parametrize(
    ("method", "path"),
    [("DELETE", "/data/x"), ("POST", "/data/x"), ("GET", "/other"), ("GET", "/token"), ("POST", "/token/x")],
)
async def test_what_is_not_listed_is_not_sent(client: Http, stub: Stub, method: str, path: str) -> None:
    with pytest.raises(WriteForbidden, match=f"may not send {method} {path}"):
        await client.send(method, f"{stub.url}{path}")
    assert stub.requests == []


async def test_nothing_goes_along_but_what_is_meant(client: Http, stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    stub.data = lambda _path: (200, {}, {"Set-Cookie": "sid=1; Path=/"})
    await get(client, stub)
    await get(client, stub)
    (_, path, headers, _), (_, _, again, _) = stub.requests
    assert path == "/data/x?q=a+b"
    assert headers["Authorization"] == again["Authorization"] == "Bearer s3cret"
    assert "Cookie" not in again


@pytest.mark.parametrize(
    ("reply", "error", "words"),
    [
        ((302, b"", {"Location": "http://127.0.0.1:1/"}), Permanent, "a redirect, which is not followed"),
        ((403, b"no", {}), Permanent, "refused 403 no"),
        ((501, b"no", {}), Permanent, "refused 501"),
        ((401, b"no", {}), SignInRefused, "does not accept the connection's credentials"),
        ((503, b"", {}), Busy, "503: it is overloaded"),
        ((429, b"", {}), Busy, "429: too many calls"),
        ((200, b"x" * 3_000, {}), Permanent, "sent more than"),
        ((200, b"{}", {"Content-Encoding": "gzip"}), Permanent, "packed answer"),
    ],
)
async def test_every_answer_has_its_meaning(
    client: Http, stub: Stub, monkeypatch: pytest.MonkeyPatch, reply: Reply, error: type[ReclaimError], words: str
) -> None:
    monkeypatch.setattr(http, "MOST_BYTES", 2_000)
    stub.data = lambda _path: reply
    with pytest.raises(error, match=words) as caught:
        await get(client, stub)
    assert "s3cret" not in str(caught.value)
    assert len(stub.requests) == (3 if isinstance(caught.value, Busy) else 1)


async def test_a_read_is_repeated_and_a_write_is_not(client: Http, stub: Stub) -> None:
    replies: list[Reply | None] = [None, (503, b"", {}), (200, {"ok": True}, {})]
    stub.data = lambda _path: replies.pop(0)
    assert (await get(client, stub)).body() == {"ok": True}
    for lost in (None, (502, b"", {})):
        replies[:] = [lost]
        with pytest.raises(Busy) as caught:
            await client.send("PATCH", f"{stub.url}/data/x", content=b"{}")
        assert caught.value.unsure
    assert stub.paths == ["/data/x?q=a+b"] * 3 + ["/data/x"] * 2


async def test_an_answer_that_does_not_come_is_given_up(stub: Stub) -> None:
    client = opened(stub, tuning=Tuning(attempts=1, answer_timeout=0.2, patience=5))

    def late(_path: str) -> Reply:
        time.sleep(1)
        return 200, {}, {}

    stub.data = late
    with pytest.raises(Busy, match=r"did not answer in 0\.2 s") as caught:
        await get(client, stub)
    assert caught.value.unsure
    await client.close()


async def test_who_is_not_there_was_not_reached() -> None:
    client = Http(
        "app",
        CLOCK,
        Token("Bearer", "x"),
        (("GET", "http://127.0.0.1:9/"),),
        refusal=refusal,
        tuning=QUICK,
        outgoing=HERE,
    )
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1 cannot be reached") as caught:
        await client.get("http://127.0.0.1:9/x", accept="*/*")
    assert not caught.value.unsure
    await client.close()


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": format_datetime(NOW.replace(minute=2), usegmt=True)}, 120.0),
        ({"Retry-After": format_datetime(NOW.replace(hour=8), usegmt=True)}, 0.0),
        ({"X-Rate-Limit-Reset": str(int(NOW.timestamp()) + 30)}, 31.0),
        ({"X-Rate-Limit-Reset": "0"}, 1.0),
        ({"Retry-After": "soon"}, None),
        ({}, None),
    ],
)
async def test_how_long_to_wait_is_told_by_the_answers_own_clock(
    stub: Stub, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str], wait: float | None
) -> None:
    # The machine's clock is years away from the server's: only the difference counts.
    answer = Answer(429, http.httpx.Headers({"Date": format_datetime(NOW, usegmt=True), **headers}), b"")
    busy = http.busy("app", answer, FixedClock(datetime(2031, 1, 1, tzinfo=UTC)))
    assert (busy.retry_after, busy.unsure) == (wait, False)


async def test_a_wait_beyond_patience_is_not_begun(client: Http, stub: Stub) -> None:
    stub.data = lambda _path: (429, b"", {"Retry-After": "21"})
    with pytest.raises(Busy, match="asks to be called again in 21 s"):
        await get(client, stub)
    assert len(stub.requests) == 1


# Tokens.


async def test_a_client_gets_one_token_and_another_when_it_is_refused(stub: Stub) -> None:
    tokens = iter(("t1", "t2"))
    stub.token = lambda: (200, {"access_token": next(tokens), "expires_in": 3600}, {})
    client = opened(stub, client_of(stub, scope="scim"))
    await get(client, stub)
    await get(client, stub)
    replies: list[Reply] = [(401, b"", {}), (200, {}, {})]
    stub.data = lambda _path: replies.pop(0)
    await get(client, stub)
    assert stub.paths == ["/token", "/data/x?q=a+b", "/data/x?q=a+b", "/data/x?q=a+b", "/token", "/data/x?q=a+b"]
    _, _, headers, body = stub.requests[0]
    assert b64decode(headers["Authorization"].removeprefix("Basic ")) == b"re%3Aclaim:s3%20cret"
    assert body == b"grant_type=client_credentials&scope=scim"
    sent = [each["Authorization"] for _, path, each, _ in stub.requests if path != "/token"]
    assert sent == ["Bearer t1", "Bearer t1", "Bearer t1", "Bearer t2"]
    await client.close()


async def test_a_token_that_is_refused_twice_is_an_error_and_no_loop(stub: Stub) -> None:
    stub.data = lambda _path: (401, b"", {})
    client = opened(stub, client_of(stub))
    with pytest.raises(SignInRefused):
        await get(client, stub)
    assert len(stub.requests) == 4
    await client.close()


async def test_a_token_is_renewed_before_it_ends(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    stub.token = lambda: (200, {"access_token": "t", "expires_in": 100}, {})
    client = opened(stub, client_of(stub))
    await get(client, stub)
    monkeypatch.setattr(http, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + 91))
    await get(client, stub)
    assert stub.paths.count("/token") == 2
    await client.close()


@pytest.mark.parametrize(
    ("reply", "error", "words"),
    [
        ((400, {"error": "invalid_client", "error_description": "x"}, {}), SignInRefused, "Check the client id"),
        ((401, {"error": "invalid_client"}, {}), SignInRefused, "Check the client id"),
        ((400, {"error": "invalid_scope"}, {}), SignInRefused, "Grant the client the scope"),
        ((400, {"error": "unauthorized_client"}, {}), SignInRefused, "Allow the client the grant"),
        ((400, {"error": "invalid_dpop_proof"}, {}), SignInRefused, "Do not require DPoP"),
        ((400, {"error": "other"}, {}), SignInRefused, "Check the client and its credentials"),
        ((200, b"<html>", {}), SignInRefused, "no token endpoint"),
        ((200, {"access_token": ""}, {}), SignInRefused, "no token endpoint"),
        ((404, b"", {}), SignInRefused, "no token endpoint"),
        ((503, b"", {}), Busy, "503"),
        ((429, b"", {}), Busy, "429"),
    ],
)
async def test_a_sign_in_that_fails_says_what_to_do(
    stub: Stub, reply: Reply, error: type[ReclaimError], words: str
) -> None:
    stub.token = lambda: reply
    client = opened(stub, client_of(stub))
    with pytest.raises(error, match=words) as caught:
        await get(client, stub)
    assert "s3 cret" not in str(caught.value)
    await client.close()


@pytest.mark.parametrize(("raised", "unsure"), [(httpx.ConnectError, False), (httpx.ReadError, True)])
async def test_tls_that_breaks_off_after_a_write_was_sent_leaves_it_open(
    monkeypatch: pytest.MonkeyPatch, raised: type[httpx.TransportError], unsure: bool
) -> None:
    async def broken(*_: object) -> Answer:
        raise raised("TLS") from ssl.SSLError("bad record mac")

    monkeypatch.setattr(Http, "_read", broken)
    http = Http("wiki", CLOCK, Token("Bearer", "t"), [("PATCH", "https://127.0.0.1/")], refusal=str, outgoing=HERE)  # type: ignore[arg-type]
    with pytest.raises(Unreachable, match="TLS") as caught:
        await http.send("PATCH", "https://127.0.0.1/Users/1")
    assert caught.value.unsure is unsure
    await http.close()
