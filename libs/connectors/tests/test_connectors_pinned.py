"""requests over checked addresses, as simple-salesforce uses it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests

from reclaim.common.clock import FixedClock
from reclaim.common.outgoing import AddressRefused, Outgoing
from reclaim.connectors.pinned import PinnedAdapter
from reclaim.connectors.ports import ConnectionProfile
from reclaim.connectors.registry import Registry
from reclaim.connectors.salesforce import open_actor, open_reader

PUBLIC = "93.184.216.34"


class Names:
    """A name server that gives the next of its answers each time that it is asked; the last one for ever."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    def __call__(self, host: str, _port: int) -> list[str]:
        self.asked.append(host)
        return [self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    heads: list[tuple[str, str]]

    def do_GET(self) -> None:
        self.heads.append((self.path, self.headers["Host"]))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    Handler.heads = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def session(outgoing: Outgoing) -> requests.Session:
    made = requests.Session()
    made.trust_env = False
    made.adapters.clear()
    for scheme in ("http://", "https://"):
        made.mount(scheme, PinnedAdapter(outgoing, connections=2))
    return made


def test_the_name_stays_while_the_connection_goes_to_the_checked_address(server: ThreadingHTTPServer) -> None:
    names = Names("127.0.0.1")
    with session(Outgoing(["org.example.com"], lookup=names)) as http:
        for _ in range(2):
            assert http.get(f"http://org.example.com:{server.server_port}/x", timeout=5).text == "ok"
    assert Handler.heads == [("/x", f"org.example.com:{server.server_port}")] * 2
    assert names.asked == ["org.example.com"], "one connection, one look-up"


def test_a_name_that_changes_its_address_reaches_nobody_inside(server: ThreadingHTTPServer) -> None:
    names = Names(PUBLIC, "127.0.0.1")
    outgoing = Outgoing(lookup=names)
    assert outgoing.addresses("org.example.com", 443) == [PUBLIC]
    with session(outgoing) as http, pytest.raises(AddressRefused):
        http.get(f"https://org.example.com:{server.server_port}/", timeout=5)
    assert Handler.heads == []


def test_tls_asks_for_the_name_at_the_checked_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is sent: what is looked at is where the connection would go, and for whom."""
    reached: list[object] = []

    def connect(where: object, *_args: object, **_more: object) -> socket.socket:
        reached.append(where)
        raise OSError("nobody is outside of a test")

    monkeypatch.setattr("urllib3.util.connection.create_connection", connect)
    names = Names(PUBLIC, "127.0.0.1")
    with session(Outgoing(lookup=names)) as http, pytest.raises(requests.ConnectionError):
        http.get("https://org.example.com/", timeout=5)
    assert (reached, names.asked) == ([(PUBLIC, 443)], ["org.example.com"])


@pytest.mark.parametrize(
    "url", ["http://org.example.com/", "https://127.0.0.1/", "https://[::1]/", "https://0x7f000001/", "https://127.1/"]
)
def test_a_url_that_may_not_be_called_is_refused_before_anybody_is_asked(url: str) -> None:
    names = Names("127.0.0.1")
    with session(Outgoing(lookup=names)) as http, pytest.raises(AddressRefused):
        http.get(url, timeout=5)
    assert names.asked == []


@pytest.mark.parametrize("opened", [open_reader, open_actor])
async def test_a_salesforce_connection_calls_nobody_inside_unless_that_is_allowed(
    server: ThreadingHTTPServer, opened: type
) -> None:
    url = f"http://127.0.0.1:{server.server_port}"
    profile = ConnectionProfile(
        "c1", "Org", "salesforce", {"instance_url": url, "client_id": "id"}, {"client_secret": "secret"}
    )
    org = opened(profile, FixedClock(datetime(2026, 11, 21, tzinfo=UTC)))
    with pytest.raises(AddressRefused, match="RECLAIM_OUTGOING_ALLOWED_HOSTS"):
        await org._session.user_id()
    await org.close()
    assert Handler.heads == []


async def test_nor_does_one_that_the_registry_opens(server: ThreadingHTTPServer) -> None:
    settings = {"instance_url": f"http://localhost:{server.server_port}", "client_id": "id"}
    profile = ConnectionProfile("c1", "Org", "salesforce", settings, {"client_secret": "secret"})
    reader = Registry(FixedClock(datetime(2026, 11, 21, tzinfo=UTC))).reader(profile)
    [signed_in, *_] = await reader.test()
    assert not signed_in.ok
    assert "over https" in signed_in.detail
    await reader.close()
