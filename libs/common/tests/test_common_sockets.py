"""Sockets that are opened before their server."""

from __future__ import annotations

import asyncio
import socket

from reclaim.common.sockets import listen


async def test_what_a_server_accepts_on_it_is_sent_at_once() -> None:
    """An answer is written in two parts: without this the second would wait until the first was acknowledged."""
    accepted: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()
    server = await asyncio.start_server(lambda _, writer: accepted.put_nowait(writer), sock=listen("127.0.0.1", 0))
    async with server:
        _reader, ours = await asyncio.open_connection(*server.sockets[0].getsockname())
        its_end = await accepted.get()
        assert its_end.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        for writer in (ours, its_end):
            writer.close()
            await writer.wait_closed()
