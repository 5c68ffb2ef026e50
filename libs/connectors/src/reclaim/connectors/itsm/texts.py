"""Texts that fit: what a platform has no room for is cut out, and the reader is told. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

CUT: Final = "…"
LEFT_OUT: Final = "\n\n[… cut here: this desk takes no longer text. The case's page has all of it.]\n\n"
TAIL: Final = 1_000
"""Characters of the end of a text that are kept when it is cut: there stands how to answer."""


@dataclass(frozen=True, slots=True)
class Room:
    """How long a title and a text (a description, a comment) may be, in characters as most platforms count them.

    A character outside the first 65,536, as most emoji, counts as two.
    """

    title: int = 240
    text: int = 30_000


def length(text: str) -> int:
    """Return the length of a text in UTF-16 code units: never less than any platform counts."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def fit_title(title: str, room: int) -> str:
    """Return a title that has room; one that is cut ends with `…`."""
    return title if length(title) <= room else _longest(lambda kept: title[:kept].rstrip() + CUT, len(title), room)


def fit(text: str, end: str, room: int, written: Callable[[str], str] = str) -> str:
    """Return a text and its end, which is never cut, so that they have room as the platform is sent them.

    Args:
        text: what may be cut: in the middle, so that its last words stay.
        end: what is put below it.
        room: the most characters.
        written: how the platform is sent a text; what is returned is not written yet.
    """
    if length(written(text + end)) <= room:
        return text + end
    size = min(TAIL, room // 4)
    while size > 1 and length(written(LEFT_OUT + text[-size:] + end)) > room:
        size //= 2
    tail = text[-size:]

    def cut(kept: int) -> str:
        return text[:kept].rstrip() + LEFT_OUT + tail.lstrip() + end

    return _longest(cut, len(text) - len(tail), room, written)


def _longest(cut: Callable[[int], str], most: int, room: int, written: Callable[[str], str] = str) -> str:
    """Return the longest of the texts that `cut` makes of a number of characters, as far as it has room."""
    least = 0
    while least < most:
        middle = (least + most + 1) // 2
        if length(written(cut(middle))) <= room:
            least = middle
        else:
            most = middle - 1
    return cut(least)
