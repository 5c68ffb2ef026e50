"""Sockets that are opened before the server that will use them."""

from __future__ import annotations

import socket


def listen(host: str, port: int) -> socket.socket:
    """Return a TCP socket that listens; port 0 takes a free one.

    Its connections send at once. asyncio sees to that only where a socket names its protocol, which those of
    `socket.create_server` do not: head and body of an answer, written one after the other, were then 40 ms apart.

    Raises:
        OSError: the port is taken.
    """
    listener = socket.create_server((host, port))
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener
