"""Lines of text out of a file in whatever encoding it came: UTF-8, UTF-16 or Windows-1252, told by what is in it.

A file has one encoding. A line that is in another one than the lines before it is marked, so that a name is never
stored with the wrong letters; the lines after it are read on.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from typing import BinaryIO, Final, Literal

MOST_LINE: Final = 1 << 20
"""Bytes of a line; a longer one is marked, and the rest of it skipped."""

Encoding = Literal["ASCII", "UTF-8", "UTF-16", "Windows-1252"]

_UNDEFINED: Final = bytes((0x81, 0x8D, 0x8F, 0x90, 0x9D))
"""Bytes that stand for nothing in Windows-1252."""


class Lines:
    """The lines of a file, one by one. `number` is that of the line given last; `marked` says what is wrong with some.

    Whoever reads takes the marks of the lines that it is done with out of `marked`, which therefore stays small.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self.number = 0
        self.encoding: Encoding = "ASCII"
        self.marked: dict[int, str] = {}
        self._stream = stream

    def __iter__(self) -> Iterator[str]:
        """Yield the lines with their ends."""
        head = self._stream.read(4)
        if head[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            order: Literal["little", "big"] = "little" if head[:2] == codecs.BOM_UTF16_LE else "big"
            yield from self._utf16(head[2:], order)
        elif len(head) == 4 and (order_of := _unmarked_utf16(head)) is not None:
            yield from self._utf16(head, order_of)
        else:
            if head[:3] == codecs.BOM_UTF8:
                self.encoding = "UTF-8"
                head = head[3:]
            yield from self._bytes(head)

    def _bytes(self, head: bytes) -> Iterator[str]:
        while True:
            # What was read ahead may hold the ends of lines itself.
            end = head.find(b"\n") + 1
            if end:
                line, head = head[:end], head[end:]
            else:
                line, head = head + self._stream.readline(MOST_LINE - len(head)), b""
            if not line:
                return
            self.number += 1
            if len(line) >= MOST_LINE and not line.endswith(b"\n"):
                self._skip_rest()
                self.marked[self.number] = "the line is longer than a megabyte"
                line = b"\n"
            yield self._decoded(line)

    def _skip_rest(self) -> None:
        while (rest := self._stream.readline(MOST_LINE)) and not rest.endswith(b"\n"):
            continue

    def _decoded(self, line: bytes) -> str:
        if line.isascii():
            return line.decode("ascii")
        as_utf8 = _try(line, "utf-8")
        if self.encoding == "ASCII":
            # The first line with a letter beyond ASCII tells the encoding of the file.
            self.encoding = "UTF-8" if as_utf8 is not None else "Windows-1252"
        if self.encoding == "UTF-8":
            if as_utf8 is not None:
                return as_utf8
            self._mark("the file is UTF-8, and this line is not: it was put together from files in two encodings")
            return line.decode("utf-8", "replace")
        if as_utf8 is not None:
            self._mark(
                "the file is Windows-1252, and this line is UTF-8: it was put together from files in two encodings"
            )
            return as_utf8
        if any(byte in _UNDEFINED for byte in line):
            self._mark("the file is Windows-1252, and this line has bytes that stand for no letter in it")
        return line.decode("cp1252", "replace")

    def _utf16(self, head: bytes, order: Literal["little", "big"]) -> Iterator[str]:
        self.encoding = "UTF-16"
        decoder = codecs.getincrementaldecoder("utf-16-le" if order == "little" else "utf-16-be")("replace")
        text = decoder.decode(head)
        ended = False
        while not ended:
            part = self._stream.read(1 << 16)
            ended = not part
            text += decoder.decode(part, final=ended)
            *whole, text = text.split("\n")
            for line in whole:
                yield self._checked(f"{line}\n")
            if len(text) > MOST_LINE:
                text = self._cut(decoder)
        if text:
            yield self._checked(text)

    def _cut(self, decoder: codecs.IncrementalDecoder) -> str:
        """Skip the rest of a line that is too long; return what comes after it, behind an empty line in its place."""
        self.marked[self.number + 1] = "the line is longer than a megabyte"
        while part := self._stream.read(1 << 16):
            _rest, end, after = decoder.decode(part).partition("\n")
            if end:
                return f"\n{after}"
        return "\n"

    def _checked(self, line: str) -> str:
        self.number += 1
        if "\N{REPLACEMENT CHARACTER}" in line:
            self._mark("the file is UTF-16, and this line is not whole in it")
        return line

    def _mark(self, reason: str) -> None:
        self.marked.setdefault(self.number, reason)


def _try(line: bytes, encoding: str) -> str | None:
    try:
        return line.decode(encoding)
    except UnicodeDecodeError:
        return None


def _unmarked_utf16(head: bytes) -> Literal["little", "big"] | None:
    """Tell UTF-16 without its mark by the zero beside each Latin letter of a heading."""
    low, high = head[0] and not head[1], head[1] and not head[0]
    if low and head[2] and not head[3]:
        return "little"
    return "big" if high and head[3] and not head[2] else None
