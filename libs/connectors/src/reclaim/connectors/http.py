"""Calls over httpx to a system that has no client library of its own: guarded, patient, signed in.

What may be sent is a list of methods and addresses, held right above the network. A call is given a meaning for every
way in which it can end; a read is repeated with growing, jittered waits, a write never is. This is the one place that
knows httpx.
"""

from __future__ import annotations

import asyncio
import email.utils
import ssl
import time
import uuid
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Final, Protocol
from urllib.parse import quote, urlsplit

import httpx
import jwt
import msgspec
import stamina

from reclaim.common.clock import Clock
from reclaim.common.errors import Permanent, ReclaimError
from reclaim.common.http_client import CheckedTransport
from reclaim.common.outgoing import Outgoing
from reclaim.connectors.errors import Busy, SignInRefused, Unreachable, WriteForbidden

MOST_BYTES: Final = 64 * 1024 * 1024
"""An answer larger than this is refused while it arrives: a page is never that large."""

_ASSERTION: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


@dataclass(frozen=True, slots=True)
class Tuning:
    """How patient a connection is. Times are seconds; `calls` caps those under way at once."""

    calls: int = 4
    connect_timeout: float = 10.0
    answer_timeout: float = 60.0
    attempts: int = 5
    wait_initial: float = 0.5
    wait_max: float = 20.0
    wait_jitter: float = 1.0
    patience: float = 180.0

    def retrying(self) -> stamina.AsyncRetryingCaller:
        """Return what repeats a call with growing, jittered waits."""
        return stamina.AsyncRetryingCaller(
            attempts=self.attempts,
            timeout=self.patience,
            wait_initial=self.wait_initial,
            wait_max=self.wait_max,
            wait_jitter=self.wait_jitter,
        )

    def worth_repeating(self, error: Exception) -> bool | float:
        """Tell whether, or after how many seconds, a failed read is worth repeating."""
        if not isinstance(error, Busy):
            return False
        if error.retry_after is None:
            return True
        return error.retry_after if error.retry_after <= self.patience else False


@dataclass(frozen=True, slots=True)
class Answer:
    """What a system answered, read to its end."""

    status: int
    headers: httpx.Headers
    content: bytes

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    def text(self, most: int = 200) -> str:
        """Return the beginning of the body as one line, for a message."""
        return " ".join(self.content[: 4 * most].decode(errors="replace").split())[:most]

    def body(self) -> Any:
        """Return the body as JSON, or None if it is none."""
        try:
            return msgspec.json.decode(self.content)
        except msgspec.DecodeError:
            return None


class SignIn(Protocol):
    """What goes into the Authorization header."""

    async def header(self, send: Send, *, instead_of: str | None = None) -> str | None:
        """Return the header; another one than `instead_of`, which was refused, or None if there is no other."""
        ...


class Send(Protocol):
    """Sends one request as it is, once."""

    async def __call__(
        self, method: str, url: str, *, form: Mapping[str, str] | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer: ...


@dataclass(frozen=True, slots=True)
class Token:
    """A token that an administrator made: there is nothing to renew."""

    scheme: str
    token: str = field(repr=False)

    async def header(self, send: Send, *, instead_of: str | None = None) -> str | None:
        """Return the token, which cannot be exchanged for another."""
        del send
        return None if instead_of is not None else f"{self.scheme} {self.token}"


class ClientCredentials:
    """OAuth 2.0's client credentials grant (RFC 6749, 4.4), with a secret, or with a signed assertion (RFC 7523).

    The token is fetched once and kept until the system refuses it, or until shortly before it ends.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        system: str,
        token_url: str,
        client_id: str,
        client_secret: str | None = None,
        private_key: str | None = None,
        key_id: str | None = None,
        scope: str = "",
    ) -> None:
        self._clock = clock
        self._system = system
        self._token_url = token_url
        self._client_id = client_id
        self._client_secret = client_secret
        self._private_key = private_key
        self._key_id = key_id
        self._scope = scope
        self._lock = asyncio.Lock()
        self._header: str | None = None
        self._ends_at: float | None = None

    async def header(self, send: Send, *, instead_of: str | None = None) -> str | None:
        """Return the token in use, or a new one when there is none, or it has ended, or it was refused.

        Raises:
            SignInRefused: the system gives none.
            Busy: it did not answer.
        """
        async with self._lock:
            ended = self._ends_at is not None and time.monotonic() >= self._ends_at
            if self._header is None or ended or self._header == instead_of:
                self._header = None
                self._header = await self._fetch(send)
            return self._header

    async def _fetch(self, send: Send) -> str:
        form = {"grant_type": "client_credentials"}
        if self._scope:
            form["scope"] = self._scope
        headers = {"Accept": "application/json"}
        if self._private_key is not None:
            form |= {"client_assertion_type": _ASSERTION, "client_assertion": self._assertion(self._private_key)}
        else:
            pair = f"{quote(self._client_id, safe='')}:{quote(self._client_secret or '', safe='')}"
            headers["Authorization"] = f"Basic {b64encode(pair.encode()).decode()}"
        answer = await send("POST", self._token_url, form=form, headers=headers)
        if answer.status == 429 or answer.status >= 500:
            raise busy(self._system, answer, self._clock)
        body = answer.body()
        token = body.get("access_token") if isinstance(body, dict) else None
        if not answer.ok or not isinstance(token, str) or not token:
            raise SignInRefused(self._advice(answer, body))
        lasts = body.get("expires_in")
        # A little early, so that a token does not end on its way.
        self._ends_at = time.monotonic() + 0.9 * lasts if isinstance(lasts, int | float) and lasts > 0 else None
        return f"Bearer {token}"

    def _assertion(self, private_key: str) -> str:
        now = self._clock.now()
        claims = {
            "iss": self._client_id,
            "sub": self._client_id,
            "aud": self._token_url,
            "iat": int(now.timestamp()),
            "exp": int((now + timedelta(minutes=5)).timestamp()),
            "jti": str(uuid.uuid4()),
        }
        return jwt.encode(
            claims, private_key, algorithm="RS256", headers={"kid": self._key_id} if self._key_id else None
        )

    def _advice(self, answer: Answer, body: object) -> str:
        error = body if isinstance(body, dict) else {}
        code = str(error.get("error") or error.get("errorCode") or "")
        why = str(error.get("error_description") or error.get("errorSummary") or "")
        said = f"{self._system} refuses the sign-in ({answer.status} {code}: {why})".replace(" : )", ")")
        if code == "invalid_client":
            return f"{said}. Check the client id, and that the secret or the key is the one registered for it."
        if code == "invalid_scope":
            return f"{said}. Grant the client the scope {self._scope!r}, or correct it."
        if code in ("unauthorized_client", "unsupported_grant_type"):
            return f"{said}. Allow the client the grant client_credentials."
        if code == "invalid_dpop_proof":
            return f"{said}. Do not require DPoP (demonstrating proof of possession) of this client."
        if not code:
            return f"{said}. There is no token endpoint at this address: check token_url."
        return f"{said}. Check the client and its credentials."


class Http:
    """One connection's HTTP: listed requests only, no redirects, no cookies, every answer bounded and in time."""

    def __init__(
        self,
        system: str,
        clock: Clock,
        sign_in: SignIn,
        allowed: Sequence[tuple[str, str]],
        *,
        refusal: Callable[[Answer], ReclaimError],
        tuning: Tuning | None = None,
        outgoing: Outgoing | None = None,
    ) -> None:
        """Open nothing yet.

        Args:
            system: what it is called in messages.
            clock: the time, for what is signed.
            sign_in: what goes into the Authorization header.
            allowed: methods and addresses; an address that ends with a slash stands for all below it.
            refusal: the meaning of an answer that is neither a success nor a matter of waiting or signing in.
            tuning: how patient it is.
            outgoing: which addresses may be called; without one, none inside a network.
        """
        self.system = system
        self.clock = clock
        self.tuning = tuning or Tuning()
        self._outgoing = outgoing or Outgoing()
        self._sign_in = sign_in
        self._allowed = tuple(allowed)
        self._refusal = refusal
        self._client: httpx.AsyncClient | None = None
        self._free = asyncio.Semaphore(self.tuning.calls)
        self._retrying = self.tuning.retrying().on(self.tuning.worth_repeating)

    async def get(self, url: str, params: Mapping[str, str] | None = None, *, accept: str) -> Answer:
        """Read, as often as it takes.

        Raises:
            Busy: the system did not answer, or not in time, to the last attempt.
            SignInRefused: it does not accept the credentials.
            ReclaimError: what `refusal` makes of the answer.
        """

        async def read() -> Answer:
            return await self.send("GET", url, params=params, headers={"Accept": accept})

        return await self._retrying(read)

    async def send(
        self,
        method: str,
        url: str,
        *,
        params: Mapping[str, str] | None = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send one request, once; a second time only when the token was refused, so that nothing was done.

        Raises:
            WriteForbidden: it is not listed; nothing was sent.
            Busy: there was no answer, or one to wait for; `unsure` tells whether it may have been carried out.
            SignInRefused: the system does not accept the credentials.
            ReclaimError: what `refusal` makes of the answer.
        """
        header = await self._sign_in.header(self._once)
        answer = await self._once(
            method, url, params=params, content=content, headers={**(headers or {}), "Authorization": header or ""}
        )
        if answer.status == 401:
            renewed = await self._sign_in.header(self._once, instead_of=header)
            if renewed is not None:
                answer = await self._once(
                    method, url, params=params, content=content, headers={**(headers or {}), "Authorization": renewed}
                )
        if answer.status == 401:
            raise SignInRefused(
                f"{self.system} does not accept the connection's credentials (401): check that they are whole, have "
                "not expired and were not withdrawn."
            )
        if answer.status in (408, 425, 429) or (answer.status >= 500 and answer.status != 501):
            raise busy(self.system, answer, self.clock)
        if not answer.ok:
            raise self._refusal(answer)
        return answer

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def _once(
        self,
        method: str,
        url: str,
        *,
        params: Mapping[str, str] | None = None,
        form: Mapping[str, str] | None = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        self._must_be_listed(method, url)
        request = self._opened().build_request(
            method, url, params=params, data=form, content=content, headers=dict(headers or {})
        )
        try:
            async with self._free, asyncio.timeout(self.tuning.answer_timeout):
                return await self._read(request)
        except TimeoutError:
            raise Busy(
                f"{self.system} did not answer in {self.tuning.answer_timeout:g} s; try again later.", unsure=True
            ) from None
        except httpx.TransportError as error:
            raise self._broken(error, url) from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Permanent(
                f"The call to {self.system} could not be made ({type(error).__name__}): check its address."
            ) from None

    async def _read(self, request: httpx.Request) -> Answer:
        response = await self._opened().send(request, stream=True)
        try:
            content = await response.aread()
        finally:
            await response.aclose()
        return Answer(response.status_code, response.headers, content)

    def _must_be_listed(self, method: str, url: str) -> None:
        for verb, target in self._allowed:
            if method == verb and (url.startswith(target) if target.endswith("/") else url == target):
                return
        raise WriteForbidden(f"This connection may not send {method} {urlsplit(url).path}.")

    def _opened(self) -> httpx.AsyncClient:
        if self._client is None:
            self._client = httpx.AsyncClient(
                transport=CheckedTransport(self._outgoing, within=self.tuning.answer_timeout, largest=MOST_BYTES),
                follow_redirects=False,
                trust_env=False,
                cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
                timeout=httpx.Timeout(self.tuning.answer_timeout, connect=self.tuning.connect_timeout),
                headers={"User-Agent": "Reclaim", "Accept-Encoding": "identity"},
            )
        return self._client

    def _broken(self, error: httpx.TransportError, url: str) -> ReclaimError:
        host = urlsplit(url).hostname
        if isinstance(error, httpx.UnsupportedProtocol | httpx.LocalProtocolError):
            return Permanent(f"The call to {host} could not be made ({type(error).__name__}): check its address.")
        if isinstance(error.__context__, ssl.SSLError) or isinstance(error.__cause__, ssl.SSLError):
            # TLS can break off after the request was read, too.
            before = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
            return Unreachable(
                f"No trusted TLS connection to {host}: check the address and the certificates.", unsure=not before
            )
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout | httpx.ProxyError):
            return Unreachable(f"{host} cannot be reached: check the address and the network.")
        if isinstance(error, httpx.TimeoutException):
            return Busy(f"{host} did not answer in time; try again later.", unsure=True)
        return Unreachable(f"The connection to {host} broke off; try again later.", unsure=True)


def busy(system: str, answer: Answer, clock: Clock) -> Busy:
    """Return the error for an answer that says *not now*.

    A 429 was not carried out; behind a gateway's 5xx the call may well have been.
    """
    wait = _wait_of(answer, clock)
    when = "" if wait is None else f" and asks to be called again in {wait:g} s"
    why = "too many calls" if answer.status == 429 else "it is overloaded or under maintenance"
    return Busy(
        f"{system} answered {answer.status}{when}: {why}; try again later.",
        unsure=answer.status != 429,
        retry_after=wait,
    )


def _wait_of(answer: Answer, clock: Clock) -> float | None:
    """Return how many seconds an answer asks to be left in peace: `Retry-After`, or the end of a window of calls.

    Instants are measured by the answer's own `Date`, so that a wrong clock on either side makes no wait wrong.
    """
    said_at = _date(answer.headers.get("Date", "")) or clock.now()
    after = answer.headers.get("Retry-After", "").strip()
    if after.isascii() and after.isdigit():
        return float(after[:9])
    at = _date(after)
    if at is not None:
        return max(0.0, (at - said_at).total_seconds())
    return reset_in(answer, clock) if answer.status == 429 else None


def reset_in(answer: Answer, clock: Clock) -> float | None:
    """Return in how many seconds the window that an answer's calls are counted in ends (`X-Rate-Limit-Reset`)."""
    said_at = _date(answer.headers.get("Date", "")) or clock.now()
    reset = answer.headers.get("X-Rate-Limit-Reset", "").strip()
    if not (reset.isascii() and reset.isdigit()):
        return None
    # It ends within that second, not at its beginning.
    return max(1.0, int(reset[:12]) - said_at.timestamp() + 1)


def _date(text: str) -> datetime | None:
    try:
        at = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    return at if at.tzinfo is not None else None
