"""The session against a server that answers anything at all: what is odd must never be taken for data."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from reclaim.common.clock import FixedClock
from reclaim.common.errors import Permanent, ReclaimError
from reclaim.common.outgoing import Outgoing
from reclaim.connectors.errors import Busy, SignInRefused
from reclaim.connectors.ports import Incomplete
from reclaim.connectors.salesforce.errors import ApiLimit, LocatorExpired, NotReadable, from_answer
from reclaim.connectors.salesforce.profile import read_profile
from reclaim.connectors.salesforce.refusals import refused
from reclaim.connectors.salesforce.session import ReadSession, Tuning, WriteSession, may_write
from reclaim.connectors.salesforce.soql import Query

QUERY = Query("Id", "User")
QUICK = Tuning(attempts=2, wait_initial=0.001, wait_max=0.002, wait_jitter=0, read_timeout=2)
TOKEN = {"access_token": "00D!token", "id": "https://login.salesforce.com/id/00D000000000001/005000000000001AAA"}
USER = "005000000000001AAA"

Answer = tuple[int, Any, dict[str, str]]


class Stub:
    """A server whose answers a test chooses: `token` and `data` return status, body and headers."""

    def __init__(self) -> None:
        self.token: Callable[[], Answer] = lambda: (200, TOKEN, {})
        self.data: Callable[[str], Answer] = lambda _path: (200, {"totalSize": 0, "done": True, "records": []}, {})
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                stub.requests.append((self.command, self.path, dict(self.headers)))
                status, body, headers = stub.token() if self.path.endswith("/token") else stub.data(self.path)
                raw = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                defaults = {"Content-Type": "application/json", "Content-Length": str(len(raw))}
                for name, value in {**defaults, **headers}.items():
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

    def session(self, kind: type[ReadSession] = ReadSession) -> ReadSession:
        profile = read_profile({"instance_url": self.url, "client_id": "id"}, {"client_secret": "secret"})
        return kind(profile, FixedClock(datetime(2026, 11, 21, tzinfo=UTC)), QUICK, Outgoing(["127.0.0.1"]))


@pytest.fixture
def stub() -> Iterator[Stub]:
    stub = Stub()
    yield stub
    stub.server.shutdown()
    stub.server.server_close()


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        ((200, b"<html>maintenance</html>", {}), Busy, "not complete JSON"),
        ((200, b'{"totalSize": 3, "records": [{"Id"', {}), Busy, "not complete JSON"),
        ((200, {"totalSize": 3, "done": True}, {}), Incomplete, "no list of rows"),
        ((200, [1, 2], {}), Incomplete, "no list of rows"),
        ((200, {"records": [], "done": True}, {}), Incomplete, "how many rows"),
        ((200, {"records": [], "totalSize": 0}, {}), Incomplete, "how many rows"),
        ((200, {"records": [], "totalSize": 2, "done": False}, {}), Incomplete, "announced 2 rows and gave 0"),
        (
            (200, {"records": [{"Id": "1"}], "totalSize": 2, "done": False, "nextRecordsUrl": "//evil/x"}, {}),
            Incomplete,
            "announced 2 rows and gave 1",
        ),
        ((302, b"", {"Location": "http://127.0.0.1:1/stolen"}), Permanent, "a redirect: set instance_url"),
        ((502, b"<html>bad gateway</html>", {}), Busy, "overloaded or under maintenance"),
        ((404, b"not json", {}), NotReadable, "answered 404"),
        ((401, b"not json", {}), SignInRefused, "the session it has just given"),
    ],
)
async def test_an_odd_answer_is_an_error(stub: Stub, answer: Answer, error: type[ReclaimError], words: str) -> None:
    stub.data = lambda _path: answer
    session = stub.session()
    with pytest.raises(error, match=words):
        await session.rows(QUERY)
    await session.close()


async def test_a_page_that_leads_to_itself_ends(stub: Stub) -> None:
    empty = {"records": [], "totalSize": 5, "done": False, "nextRecordsUrl": "/services/data/v62.0/query/01g-0"}
    stub.data = lambda _path: (200, empty, {})
    session = stub.session()
    with pytest.raises(Incomplete):
        await session.rows(QUERY)
    await session.close()


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        ((200, b"<html>", {}), SignInRefused, "no token endpoint"),
        ((200, {"access_token": ""}, {}), SignInRefused, "no token endpoint"),
        ((200, {"access_token": 5}, {}), SignInRefused, "no token endpoint"),
        ((400, {"error": "invalid_client", "error_description": "x"}, {}), SignInRefused, "consumer key and secret"),
        ((400, {"error": "unsupported_grant_type"}, {}), SignInRefused, "Allow the client credentials flow"),
        ((400, {"error": "inactive_org"}, {}), SignInRefused, "Check the connected app"),
        ((503, b"down", {}), Busy, "503"),
        ((429, {}, {}), Busy, "429"),
    ],
)
async def test_an_odd_sign_in_is_an_error(stub: Stub, answer: Answer, error: type[ReclaimError], words: str) -> None:
    stub.token = lambda: answer
    session = stub.session()
    with pytest.raises(error, match=words) as caught:
        await session.rows(QUERY)
    assert "secret" not in str(caught.value).replace("consumer secret", "").replace("key and secret", "")
    await session.close()


async def test_credentials_go_nowhere_else(stub: Stub, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login other password stolen\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    stub.data = lambda _path: (200, {"totalSize": 0, "done": True, "records": []}, {"Set-Cookie": "sid=1; Path=/"})
    session = stub.session()
    await session.rows(QUERY)
    await session.rows(QUERY)
    (method, path, _), *asked = stub.requests
    assert (method, path) == ("POST", "/services/oauth2/token")
    assert [headers["Authorization"] for _, _, headers in asked] == ["Bearer 00D!token"] * 2
    assert not any("Cookie" in headers for _, _, headers in asked)
    assert "secret" not in repr(session.profile)
    await session.close()


async def test_who_we_are_is_asked_when_the_token_does_not_say(stub: Stub) -> None:
    stub.token = lambda: (200, {"access_token": "t"}, {})
    stub.data = lambda _path: (200, {"user_id": USER}, {})
    session = stub.session()
    assert await session.user_id() == USER
    assert stub.requests[-1][1] == "/services/oauth2/userinfo"
    await session.close()


async def test_not_knowing_who_we_are_is_an_error(stub: Stub) -> None:
    stub.token = lambda: (200, {"access_token": "t", "id": "https://x/id/00D/not-a-user"}, {})
    stub.data = lambda _path: (200, {"sub": "me"}, {})
    session = stub.session()
    with pytest.raises(Permanent, match="which user the connection runs as"):
        await session.user_id()
    await session.close()


@pytest.mark.parametrize(
    ("header", "used"),
    [
        ("api-usage=18/5000", (18, 5000)),
        ("api-usage=25/5000; per-app-api-usage=17/250(appName=sample)", (25, 5000)),
        ("per-app-api-usage=17/250(appName=sample); api-usage=26/5000", (26, 5000)),
        ("per-app-api-usage=17/250(appName=sample)", None),
        ("nonsense", None),
    ],
)
async def test_the_usage_is_read_from_every_answer(stub: Stub, header: str, used: tuple[int, int] | None) -> None:
    stub.data = lambda _path: (400, [{"errorCode": "MALFORMED_QUERY", "message": "no"}], {"Sforce-Limit-Info": header})
    session = stub.session()
    with pytest.raises(NotReadable):
        await session.rows(QUERY)
    assert (session.usage and (session.usage.used, session.usage.allowed)) == used
    await session.close()


@pytest.mark.parametrize("body", [[], [{"success": True}], {"hasErrors": False}, b""])
async def test_a_collection_without_every_result_is_unsure(stub: Stub, body: Any) -> None:
    stub.data = lambda _path: (200, body, {})
    session = stub.session(WriteSession)
    assert isinstance(session, WriteSession)
    with pytest.raises(Busy) as caught:
        await session.update("User", "IsActive", {USER: False, "005000000000002AAA": False})
    assert caught.value.unsure
    assert [method for method, _, _ in stub.requests] == ["POST", "PATCH"]
    await session.close()


@pytest.mark.parametrize(
    ("status", "code", "message", "kind"),
    [
        (403, "REQUEST_LIMIT_EXCEEDED", "TotalRequests Limit exceeded.", ApiLimit),
        (403, "REQUEST_LIMIT_EXCEEDED", "ConcurrentRequests (Concurrent API Requests) Limit exceeded.", Busy),
        (429, "REQUEST_LIMIT_EXCEEDED", "Too many requests", Busy),
        (503, "SERVER_UNAVAILABLE", "down", Busy),
        (400, "QUERY_TIMEOUT", "slow", Busy),
        (400, "UNABLE_TO_LOCK_ROW", "locked", Busy),
        (500, "UNKNOWN_EXCEPTION", "oops", Busy),
        (400, "INVALID_QUERY_LOCATOR", "gone", LocatorExpired),
        (400, "INVALID_TYPE", "sObject type 'Lead' is not supported.", NotReadable),
        (400, "INVALID_FIELD", "No such column", NotReadable),
        (403, "INSUFFICIENT_ACCESS", "no", NotReadable),
        (403, "API_DISABLED_FOR_ORG", "no", NotReadable),
        (400, "MALFORMED_QUERY", "unexpected token", NotReadable),
        (301, "", "", Permanent),
    ],
)
def test_what_each_answer_means(status: int, code: str, message: str, kind: type[ReclaimError]) -> None:
    error = from_answer(status, [{"errorCode": code, "message": message}])
    assert type(error) is kind
    assert str(status) in str(error)
    if isinstance(error, Busy):
        # An answer below 500 says that nothing was done; behind a gateway nobody knows.
        assert error.unsure is (status >= 500)


@pytest.mark.parametrize(
    ("code", "message", "advice"),
    [
        ("CANNOT_DISABLE_LAST_ADMIN", "whatever", "another user that role"),
        ("LICENSE_LIMIT_EXCEEDED", "License Limit Exceeded", "buy one or free one"),
        ("FIELD_CUSTOM_VALIDATION_EXCEPTION", "Only HR may", "validation rule"),
        ("FIELD_CUSTOM_VALIDATION_EXCEPTION", "Ask the approver", "validation rule"),
        ("FIELD_INTEGRITY_EXCEPTION", "You can only assign profiles that are compatible", "give the user one that"),
        ("FIELD_INTEGRITY_EXCEPTION", "user is part of an Assignment Rule", "assignment rule"),
        ("FIELD_INTEGRITY_EXCEPTION", "the delegated approver of users", "delegated approver"),
        ("INSUFFICIENT_ACCESS_OR_READONLY", "no", "permission to edit"),
        ("SOMETHING_NEW", "never seen", "mend its cause"),
        ("", "", "mend its cause"),
    ],
)
def test_every_refusal_has_a_remedy(code: str, message: str, advice: str) -> None:
    refusal = refused([{"statusCode": code, "message": message, "fields": []}])
    assert advice in refusal.remedy
    assert refusal.code == (code or "UNKNOWN")
    assert refusal.message == (message or "Salesforce gave no reason")


@pytest.mark.parametrize(
    ("sobject", "field", "value", "allowed"),
    [
        ("UserLogin", "IsFrozen", True, True),
        ("UserLogin", "IsFrozen", False, True),
        ("User", "IsActive", True, True),
        ("User", "IsActive", False, True),
        ("Opportunity", "OwnerId", USER, True),
        ("Case", "OwnerId", USER[:15], True),
        ("Lead", "OwnerId", USER, True),
        ("user", "IsActive", False, False),
        ("User", "isactive", False, False),
        ("User", "OwnerId", USER, False),
        ("Lead", "OwnerId", False, False),
        ("Lead", "OwnerId", "", False),
    ],
)
def test_the_list_of_what_may_be_written(sobject: str, field: str, value: object, allowed: bool) -> None:
    assert may_write(sobject, field, value) is allowed
