"""Keeps pages of seats on disk until the last one was read: some questions can only be answered then.

The file has no name and is gone with whoever opened it. Memory holds one page, however many there are.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncGenerator, Sequence
from typing import BinaryIO, Final, Self

import msgspec

from reclaim.connectors.ports import SeatRecord

_LENGTH: Final = 8
_seats: Final = msgspec.msgpack.Decoder(list[SeatRecord])


class Spool:
    """Pages of seats in the order in which they were kept; closed with the block that opened it."""

    def __init__(self) -> None:
        self._file: BinaryIO | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        if self._file is not None:
            self._file.close()

    async def keep(self, page: Sequence[SeatRecord]) -> None:
        """Add a page at the end."""
        await asyncio.to_thread(self._write, msgspec.msgpack.encode(list(page)))

    async def pages(self) -> AsyncGenerator[list[SeatRecord], None]:
        """Yield all pages; nothing is kept after that."""
        if self._file is None:
            return
        self._file.seek(0)
        while body := await asyncio.to_thread(self._read, self._file):
            yield _seats.decode(body)

    def _write(self, body: bytes) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="reclaim-")  # noqa: SIM115 - closed with the block
        self._file.write(len(body).to_bytes(_LENGTH))
        self._file.write(body)

    @staticmethod
    def _read(file: BinaryIO) -> bytes:
        return file.read(int.from_bytes(file.read(_LENGTH)))
