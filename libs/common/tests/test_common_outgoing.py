"""Where a URL may lead: nobody inside is reached by a name, a spelling, a redirect or a second look-up."""

from __future__ import annotations

import asyncio
import gzip
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydantic import ValidationError

from reclaim.common import http_client
from reclaim.common.http_client import AnswerRefused, open_client
from reclaim.common.outgoing import AddressRefused, Outgoing, canonical
from reclaim.common.settings import Settings

PUBLIC, PUBLIC_6 = "93.184.216.34", "2606:2800:220:1::1"


def leading_to(*addresses: str, allowed: Sequence[str] = ()) -> Outgoing:
    return Outgoing(allowed, lookup=lambda _host, _port: list(addresses))


# ------------------------------------------------------------------------------------------------ addresses


@pytest.mark.parametrize("address", [PUBLIC, "8.8.8.8", PUBLIC_6, "2a00:1450::8"])
def test_a_public_address_may_be_called(address: str) -> None:
    assert leading_to(address).addresses("desk.example.com", 443) == [address]


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.8.9.10", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1",
        "100.127.255.254", "169.254.169.254", "168.63.129.16", "0.0.0.0", "0.1.2.3", "192.0.0.8", "192.0.2.1",
        "192.88.99.1", "198.18.0.1", "198.51.100.7", "203.0.113.9", "224.0.0.1", "239.1.2.3", "240.0.0.1",
        "255.255.255.255",
        "::", "::1", "fe80::1", "fe80::1%1", "febf::1", "fec0::1", "fc00::1", "fd00:ec2::254", "ff02::1", "100::1",
        "2001:db8::1", "3fff::1", "4000::1", "5f00::1",
        # An IPv4 address inside: mapped, compatible, translated, NAT64, local NAT64, 6to4, Teredo.
        "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::127.0.0.1", "::ffff:0:10.0.0.1", "64:ff9b::10.0.0.1",
        "64:ff9b::8.8.8.8", "64:ff9b:1::10.0.0.1", "2002:7f00:1::", "2002:808:808::1", "2001:0:7f00:1::",
        "not an address",
    ],
)  # fmt: skip
def test_an_address_that_is_no_services_is_refused(address: str) -> None:
    with pytest.raises(AddressRefused, match="leads to an address"):
        leading_to(address).addresses("desk.example.com", 443)


def test_a_name_that_leads_outside_and_inside_is_refused_as_a_whole() -> None:
    with pytest.raises(AddressRefused):
        leading_to(PUBLIC, "10.0.0.1").addresses("desk.example.com", 443)


def test_a_name_without_an_address_is_an_error_of_the_network() -> None:
    with pytest.raises(OSError, match="no address"):
        leading_to().addresses("desk.example.com", 443)


def test_the_text_does_not_say_where_a_name_leads() -> None:
    with pytest.raises(AddressRefused) as refused:
        leading_to("10.11.12.13").addresses("desk.example.com", 443)
    assert "10.11.12.13" not in str(refused.value)
    assert "RECLAIM_OUTGOING_ALLOWED_HOSTS" in str(refused.value)


# ------------------------------------------------------------------------------------------------ spellings


@pytest.mark.parametrize(
    ("written", "means"),
    [
        ("Desk.Example.COM", "desk.example.com"),
        ("desk.example.com.", "desk.example.com"),
        ("my_host", "my_host"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("desk。example。com", "desk.example.com"),
        ("\uff11\uff12\uff17.0.0.1", "127.0.0.1"),
        ("127.0.0.1.", "127.0.0.1"),
        ("0:0:0:0:0:0:0:1", "::1"),
        ("2606:2800:0220:0001::0001", PUBLIC_6),
    ],
)
def test_a_host_has_one_spelling(written: str, means: str) -> None:
    assert canonical(written) == means


@pytest.mark.parametrize(
    "written",
    [
        "", ".", "..", "a..b", ".example.com", "example.com..", "-a.example", "a b", "a\x00b", "a/b", "a%2eb", "a@b",
        "x" * 64, "x." * 130,
        # Addresses that some readers take for 127.0.0.1.
        "2130706433", "0x7f000001", "0x7f.0.0.1", "0177.0.0.1", "127.1", "127.0.1", "127.0.0.01", "0x7f.1",
        "127.0.0.0x1",
        "1.2.3.4.5", "256.1.1.1",
        "fe80::1%eth0", "::1%lo", "[::1]", "::ffff:0x7f.1", ":::1",
    ],
)  # fmt: skip
def test_a_host_that_readers_disagree_about_is_refused(written: str) -> None:
    with pytest.raises(AddressRefused, match="is no host"):
        canonical(written)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://desk.example.com", "file:///etc/passwd", "desk.example.com", "https://", "https://:443",
        "https://desk.example.com:0", "https://desk.example.com:99999", "https://[::1", "gopher://127.0.0.1:25/x",
        "https://127.0.0.1/", "https://[::1]/", "https://[::ffff:10.0.0.1]/", "https://169.254.169.254/latest",
        "https://2130706433/", "https://0x7f000001/", "https://0177.0.0.1/", "https://127.1/", "https://127.0.0.1./",
        "https://\uff11\uff12\uff17。0。0。1/", "https://user@10.0.0.1/", "http://desk.example.com/", "http://93.184.216.34/",
    ],
)  # fmt: skip
def test_a_url_that_shows_where_it_leads_is_refused_before_anybody_is_asked(url: str) -> None:
    with pytest.raises(AddressRefused):
        Outgoing(lookup=_nobody).check(url)


def _nobody(host: str, _port: int) -> list[str]:
    raise AssertionError(f"{host} was looked up")


def test_localhost_is_a_name_like_others() -> None:
    Outgoing().check("https://localhost")
    with pytest.raises(AddressRefused):
        Outgoing().addresses("localhost", 443)


# ------------------------------------------------------------------------------------------------ the allow-list


def test_a_host_that_is_listed_may_lead_inside_and_be_called_over_http() -> None:
    outgoing = leading_to("10.0.0.7", allowed=["Desk.Internal."])
    outgoing.check("http://desk.internal:8080/api")
    assert outgoing.addresses("DESK.internal", 8080) == ["10.0.0.7"]
    with pytest.raises(AddressRefused):
        outgoing.addresses("other.internal", 8080)
    with pytest.raises(AddressRefused):
        outgoing.addresses("evil.desk.internal", 8080)


@pytest.mark.parametrize("address", ["169.254.169.254", "0.0.0.0", "fe80::1", "224.0.0.1", "::ffff:10.0.0.7"])
def test_a_host_that_is_listed_leads_to_no_metadata_all_the_same(address: str) -> None:
    with pytest.raises(AddressRefused):
        leading_to(address, allowed=["desk.internal"]).addresses("desk.internal", 80)


def test_an_address_that_is_listed_is_meant_as_a_url_has_it() -> None:
    outgoing = leading_to("10.0.0.7", allowed=["10.0.0.7", "[::1]"])
    outgoing.check("http://10.0.0.7/")
    outgoing.check("http://[::1]:8090/")
    with pytest.raises(AddressRefused):
        outgoing.addresses("rebound.example.com", 80)


def test_a_network_that_is_listed_may_be_reached_by_any_name_over_https() -> None:
    outgoing = leading_to("10.20.1.1", allowed=["10.20.0.0/16", "fd12::/16"])
    assert outgoing.addresses("desk.example.com", 443) == ["10.20.1.1"]
    outgoing.check("https://10.20.0.5/")
    outgoing.check("https://[fd12::1]/")
    for url in ("http://10.20.0.5/", "https://10.21.0.5/"):
        with pytest.raises(AddressRefused):
            outgoing.check(url)


def test_behind_nat64_the_inner_address_is_judged() -> None:
    allowed = ["64:ff9b::/96"]
    assert leading_to("64:ff9b::8.8.8.8", allowed=allowed).addresses("desk.example.com", 443) == ["64:ff9b::808:808"]
    with pytest.raises(AddressRefused):
        leading_to("64:ff9b::10.0.0.1", allowed=allowed).addresses("desk.example.com", 443)


@pytest.mark.parametrize("entry", ["10.0.0.1/8", "desk/16", "a..b", "127.1", "http://desk"])
def test_an_entry_that_is_none_stops_the_start(entry: str) -> None:
    with pytest.raises(ValueError, match="RECLAIM_OUTGOING_ALLOWED_HOSTS"):
        Outgoing([entry])
    with pytest.raises(ValidationError, match="RECLAIM_OUTGOING_ALLOWED_HOSTS"):
        Settings(
            _env_file=None,  # type: ignore[call-arg]
            secret_keys=["s" * 32],
            sealing_keys=["A" * 43 + "="],
            outgoing_allowed_hosts=[entry],
        )


# ------------------------------------------------------------------------------------------------ the client


Answer = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


class Server:
    """A server on this machine, over TLS for `desk.example.com`, that keeps the head of every request."""

    def __init__(self, folder: Path) -> None:
        self.heads: list[bytes] = []
        self.names: list[str | None] = []
        self.connections = 0
        self.answer: Answer = say(b"hello")
        certificate, key = _certificate("desk.example.com")
        (folder / "server.pem").write_bytes(key + certificate)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(folder / "server.pem")
        self._context.sni_callback = lambda _socket, name, _context: self.names.append(name)
        self.trusting = ssl.create_default_context(cadata=certificate.decode())

    @asynccontextmanager
    async def running(self) -> AsyncIterator[int]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.heads.append(head)
                await self.answer(head, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def say(body: bytes, *headers: bytes, status: bytes = b"200 OK") -> Answer:
    async def answer(_head: bytes, writer: asyncio.StreamWriter) -> None:
        length = b"Content-Length: %d" % len(body)
        writer.write(b"\r\n".join((b"HTTP/1.1 " + status, length, *headers, b"", b"")) + body)
        await writer.drain()

    return answer


def _certificate(name: str) -> tuple[bytes, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM), private


class Rebinding:
    """A name server that gives the next of its answers each time that it is asked; the last one for ever."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    def __call__(self, host: str, _port: int) -> list[str]:
        self.asked.append(host)
        return [self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]]


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[tuple[Server, int]]:
    server = Server(tmp_path)
    async with server.running() as port:
        yield server, port


async def test_the_name_stays_while_the_connection_goes_to_the_checked_address(server: tuple[Server, int]) -> None:
    desk, port = server
    names = Rebinding("127.0.0.1")
    outgoing = Outgoing(["desk.example.com"], lookup=names)
    async with open_client(outgoing, f"https://desk.example.com:{port}", verify=desk.trusting) as client:
        first = await client.get("/api", headers={"X-Own": "1"})
        second = await client.get("/api")
    assert (first.text, second.text) == ("hello", "hello")
    assert (desk.names, desk.connections, names.asked) == (["desk.example.com"], 1, ["desk.example.com"])
    assert f"Host: desk.example.com:{port}".encode() in desk.heads[0]
    assert b"Accept-Encoding: identity" in desk.heads[0]


async def test_the_certificate_must_be_the_names(server: tuple[Server, int]) -> None:
    desk, port = server
    outgoing = Outgoing(["other.example.com"], lookup=Rebinding("127.0.0.1"))
    async with open_client(outgoing, f"https://other.example.com:{port}", verify=desk.trusting) as client:
        with pytest.raises(httpx.ConnectError, match="certificate"):
            await client.get("/")
    assert desk.heads == []


async def test_a_name_that_changes_its_address_reaches_nobody_inside(server: tuple[Server, int]) -> None:
    """What was public when it was entered is this machine when it is called."""
    desk, port = server
    names = Rebinding(PUBLIC, "127.0.0.1")
    outgoing = Outgoing(lookup=names)
    assert outgoing.addresses("desk.example.com", port) == [PUBLIC]
    async with open_client(outgoing, f"https://desk.example.com:{port}", verify=desk.trusting) as client:
        with pytest.raises(AddressRefused):
            await client.get("/")
    assert (desk.connections, len(names.asked)) == (0, 2)


async def test_a_connection_goes_to_what_was_checked_and_asks_no_second_time(
    monkeypatch: pytest.MonkeyPatch, server: tuple[Server, int]
) -> None:
    """The look-up that is checked is the only one: an answer that changes right after it is never seen."""
    desk, port = server
    names = Rebinding(PUBLIC, "127.0.0.1")
    reached: list[str] = []

    async def connect(_self: object, host: str, _port: int, **_more: object) -> None:
        reached.append(host)
        ip_address(host)
        raise http_client.httpcore.ConnectError("nobody is outside of a test")

    monkeypatch.setattr(http_client.httpcore.AnyIOBackend, "connect_tcp", connect)
    async with open_client(Outgoing(lookup=names), f"https://desk.example.com:{port}") as client:
        with pytest.raises(httpx.ConnectError):
            await client.get("/")
    assert (reached, names.asked, desk.connections) == ([PUBLIC], ["desk.example.com"], 0)


async def test_the_next_address_is_tried_where_one_does_not_answer(server: tuple[Server, int]) -> None:
    desk, port = server
    outgoing = Outgoing(["desk.example.com"], lookup=lambda _host, _port: ["127.0.0.2", "::1", "127.0.0.1"])
    async with open_client(outgoing, f"https://desk.example.com:{port}", verify=desk.trusting) as client:
        assert (await client.get("/")).status_code == 200


@pytest.mark.parametrize("status", [b"301 Moved", b"302 Found", b"303 See Other", b"307 T", b"308 P"])
async def test_a_redirect_is_not_followed(server: tuple[Server, int], status: bytes) -> None:
    desk, port = server
    desk.answer = say(b"", b"Location: http://169.254.169.254/latest/", status=status)
    outgoing = Outgoing(["desk.example.com"], lookup=Rebinding("127.0.0.1"))
    async with open_client(outgoing, f"https://desk.example.com:{port}", verify=desk.trusting) as client:
        with pytest.raises(AnswerRefused, match="redirect"):
            await client.get("/", follow_redirects=True)
    assert len(desk.heads) == 1


async def test_an_answer_is_bounded_whether_or_not_it_says_how_long_it_is(server: tuple[Server, int]) -> None:
    desk, port = server
    outgoing = Outgoing(["desk.example.com"], lookup=Rebinding("127.0.0.1"))
    sent = 0

    async def endless(_head: bytes, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"400\r\n" + b"x" * 1024 + b"\r\n")
            await writer.drain()
            sent += 1024

    async with open_client(
        outgoing, f"https://desk.example.com:{port}", verify=desk.trusting, largest=10_000
    ) as client:
        desk.answer = say(b"x" * 10_000)
        assert len((await client.get("/")).content) == 10_000
        for answer in (say(b"x" * 10_001), endless):
            desk.answer = answer
            with pytest.raises(AnswerRefused, match="more than 10,000 bytes"):
                await client.get("/")
        desk.answer = say(gzip.compress(b"x" * 1_000_000), b"Content-Encoding: gzip")
        with pytest.raises(AnswerRefused, match="packed"):
            await client.get("/")


async def test_an_answer_that_trickles_ends_in_time(server: tuple[Server, int]) -> None:
    desk, port = server

    async def trickle(_head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.02)

    desk.answer = trickle
    outgoing = Outgoing(["desk.example.com"], lookup=Rebinding("127.0.0.1"))
    async with open_client(outgoing, f"https://desk.example.com:{port}", verify=desk.trusting, within=0.3) as client:
        with pytest.raises(httpx.ReadTimeout):
            await client.get("/")


async def test_a_client_goes_where_its_url_says_and_refuses_others_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    outgoing = Outgoing(lookup=_nobody)
    with pytest.raises(AddressRefused):
        open_client(outgoing, "http://desk.example.com")
    async with open_client(outgoing, "https://desk.example.com") as client:
        for url in ("http://desk.example.com/", "https://127.0.0.1/", "https://[fe80::1]/"):
            with pytest.raises(AddressRefused):
                await client.get(url)


async def test_a_name_that_nobody_knows_is_an_error_of_the_connection() -> None:
    def unknown(_host: str, _port: int) -> list[str]:
        raise OSError("Name or service not known")

    async with open_client(Outgoing(lookup=unknown), "https://desk.example.com") as client:
        with pytest.raises(httpx.ConnectError, match="not found"):
            await client.get("/")
