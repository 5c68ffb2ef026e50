"""The HTTP client for addresses that an operator entered: checked, bounded, and never led elsewhere.

Every connection goes to an address that `outgoing` has checked, while the name stays in SNI, in the certificate's
check and in `Host`. A redirect is an error. An answer is read up to a size and within a time, and is not unpacked,
so that a small one cannot become a large one. Proxies of the environment are not used: one would look the name up
again, where nobody checks.
"""

from __future__ import annotations

import asyncio
import functools
import ssl
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any, Final

import httpcore
import httpx

from reclaim.common.errors import Permanent
from reclaim.common.outgoing import Outgoing

LARGEST_ANSWER: Final = 4 * 1024 * 1024
"""Bytes of an answer's body, unless a client is opened for another size."""

TIMEOUT: Final = httpx.Timeout(connect=5, read=20, write=20, pool=20)
WITHIN: Final = 60.0
"""Seconds from sending a request to the last byte of its answer."""


class AnswerRefused(Permanent):
    """An answer that is not read: a redirect, one that is too large, or a packed one."""

    title = "Answer not usable"


def open_client(
    outgoing: Outgoing,
    base_url: str,
    *,
    headers: Mapping[str, str] | None = None,
    auth: httpx.Auth | tuple[str, str] | None = None,
    timeout: httpx.Timeout = TIMEOUT,
    within: float = WITHIN,
    largest: int = LARGEST_ANSWER,
    verify: Any = True,
) -> httpx.AsyncClient:
    """Return a client for one service; nothing is sent before its first call. Close it after use.

    `verify` is what httpx takes: True, or an SSL context that trusts other certificates.

    Raises:
        AddressRefused: no request may go to this address.
    """
    outgoing.check(base_url)
    return httpx.AsyncClient(
        base_url=base_url,
        headers={"Accept-Encoding": "identity", **(headers or {})},
        auth=auth,
        timeout=timeout,
        transport=CheckedTransport(outgoing, within=within, largest=largest, verify=verify),
        follow_redirects=False,
        trust_env=False,
    )


@functools.cache
def usual_trust() -> ssl.SSLContext:
    """Return the one TLS context that trusts the usual authorities: reading their certificates outlasts most calls."""
    return httpx.create_ssl_context()


class CheckedTransport(httpx.AsyncHTTPTransport):
    """httpx's own transport over connections to checked addresses, with bounded answers."""

    def __init__(
        self, outgoing: Outgoing, *, within: float = WITHIN, largest: int = LARGEST_ANSWER, verify: Any = True
    ) -> None:
        context = usual_trust() if verify is True else httpx.create_ssl_context(verify=verify)
        super().__init__(verify=context)
        # httpx passes everything on to its pool but this; its own pool has no connection yet.
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=context, max_connections=20, keepalive_expiry=15, network_backend=_CheckedNetwork(outgoing)
        )
        self._outgoing = outgoing
        self._within = within
        self._largest = largest

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self._outgoing.check(str(request.url))
        until = asyncio.get_running_loop().time() + self._within
        try:
            async with asyncio.timeout_at(until):
                answer = await super().handle_async_request(request)
        except TimeoutError:
            raise httpx.ReadTimeout(f"no answer within {self._within:g} s", request=request) from None
        refusal = self._refusal(answer)
        if refusal is not None:
            await answer.aclose()
            raise AnswerRefused(f"{request.url.host} {refusal}")
        assert isinstance(answer.stream, httpx.AsyncByteStream)
        return httpx.Response(
            answer.status_code,
            headers=answer.headers,
            stream=_Bounded(answer.stream, request, self._largest, until),
            extensions=answer.extensions,
        )

    def _refusal(self, answer: httpx.Response) -> str | None:
        if answer.has_redirect_location:
            return "answered with a redirect, which is not followed: enter the address that it leads to."
        if answer.headers.get("content-encoding", "identity").strip().lower() not in {"", "identity"}:
            return "sent a packed answer although an unpacked one was asked for."
        declared = answer.headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > self._largest:
            return f"sent more than {self._largest:,} bytes."
        return None


class _Bounded(httpx.AsyncByteStream):
    """An answer's body that ends with an error where it goes on for too long, in bytes or in seconds."""

    def __init__(self, stream: httpx.AsyncByteStream, request: httpx.Request, most: int, until: float) -> None:
        self._stream = stream
        self._request = request
        self._most = most
        self._until = until

    async def __aiter__(self) -> AsyncIterator[bytes]:
        parts = aiter(self._stream)
        read = 0
        while True:
            try:
                async with asyncio.timeout_at(self._until):
                    part = await anext(parts)
            except StopAsyncIteration:
                return
            except TimeoutError:
                raise httpx.ReadTimeout("the answer did not end in time", request=self._request) from None
            read += len(part)
            if read > self._most:
                raise AnswerRefused(f"{self._request.url.host} sent more than {self._most:,} bytes.")
            yield part

    async def aclose(self) -> None:
        await self._stream.aclose()


class _CheckedNetwork(httpcore.AsyncNetworkBackend):
    """Connects to the addresses that a name was found to have, and was checked to have, a moment ago."""

    def __init__(self, outgoing: Outgoing) -> None:
        self._outgoing = outgoing
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        loop = asyncio.get_running_loop()
        until = None if timeout is None else loop.time() + timeout
        try:
            async with asyncio.timeout_at(until):
                addresses = await asyncio.to_thread(self._outgoing.addresses, host, port)
        except TimeoutError:
            raise httpcore.ConnectTimeout(f"{host} was not found in time") from None
        except OSError as error:
            raise httpcore.ConnectError(f"{host} was not found: {error}") from error
        failed: httpcore.ConnectError | None = None
        for address in addresses:
            left = None if until is None else max(0.0, until - loop.time())
            try:
                return await self._network.connect_tcp(
                    address, port, timeout=left, local_address=local_address, socket_options=socket_options
                )
            except httpcore.ConnectError as error:
                failed = error
        assert failed is not None
        raise failed

    async def sleep(self, seconds: float) -> None:
        await self._network.sleep(seconds)
