"""requests over checked addresses: for simple-salesforce, which brings requests along.

The look-up happens where urllib3 opens a connection, and the connection goes to what was checked there; the name
stays in SNI, in the certificate's check and in `Host`. Where the environment names a proxy (`HTTPS_PROXY`), the
connection goes to the proxy, and the proxy looks the name up: then it is the proxy that must lead nowhere inside.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any

import requests
import requests.adapters
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import NameResolutionError, NewConnectionError

from reclaim.common.outgoing import Outgoing


class PinnedAdapter(requests.adapters.HTTPAdapter):
    """Sends requests to hosts that may be called, over connections to addresses that were checked."""

    def __init__(self, outgoing: Outgoing, connections: int) -> None:
        self._outgoing = outgoing
        super().__init__(pool_maxsize=connections)

    def init_poolmanager(self, *args: Any, **more: Any) -> None:
        super().init_poolmanager(*args, **more)
        self.poolmanager.pool_classes_by_scheme = _pools(self._outgoing)

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: float | tuple[float, float] | tuple[float, None] | None = None,
        verify: bool | str = True,
        cert: bytes | str | tuple[bytes | str, bytes | str] | None = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        self._outgoing.check(request.url or "")
        return super().send(request, stream, timeout, verify, cert, proxies)


def _pools(outgoing: Outgoing) -> dict[str, Any]:
    """Return urllib3's pools, by scheme, with connections that check where they lead."""

    class Checked(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            name = self._dns_host
            try:
                addresses = outgoing.addresses(name, self.port)
            except socket.gaierror as error:
                raise NameResolutionError(self.host, self, error) from error
            except OSError as error:
                raise NewConnectionError(self, str(error)) from error
            failed: NewConnectionError | None = None
            for address in addresses:
                # Only where the connection goes; by then TLS has not asked for its name yet, which is the one below.
                self._dns_host = address
                try:
                    return super()._new_conn()
                except NewConnectionError as error:
                    failed = error
                finally:
                    self._dns_host = name
            assert failed is not None
            raise failed

    class CheckedTls(Checked, HTTPSConnection):
        """urllib3's own connection over TLS, opened as the one above."""

    class Plain(HTTPConnectionPool):
        ConnectionCls = Checked

    class Tls(HTTPSConnectionPool):
        ConnectionCls = CheckedTls

    return {"http": Plain, "https": Tls}
