"""Reading ahead: one page, no more, and nothing left running."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from reclaim.common.tasks import read_ahead


class Source:
    """Pages that note when they are asked for and whether they were given back."""

    def __init__(self, count: int, *, fails_at: int | None = None) -> None:
        self.asked: list[int] = []
        self.closed = False
        self._count, self._fails_at = count, fails_at

    async def pages(self) -> AsyncIterator[int]:
        try:
            for number in range(self._count):
                self.asked.append(number)
                await asyncio.sleep(0)
                if number == self._fails_at:
                    raise ValueError(number)
                yield number
        finally:
            self.closed = True


async def test_everything_comes_in_order_and_one_page_is_read_ahead() -> None:
    source = Source(4)
    ahead = []
    found = []
    async for page in read_ahead(source.pages()):
        await asyncio.sleep(0.01)
        found.append(page)
        ahead.append(len(source.asked) - len(found))
    assert found == [0, 1, 2, 3]
    assert ahead == [1, 1, 1, 0]
    assert source.closed


async def test_nothing_is_nothing() -> None:
    assert [page async for page in read_ahead(Source(0).pages())] == []


async def test_a_failure_comes_after_what_was_given_before_it() -> None:
    listed = read_ahead(Source(5, fails_at=2).pages())
    assert [await anext(listed), await anext(listed)] == [0, 1]
    with pytest.raises(ValueError, match="2"):
        await anext(listed)


async def test_whoever_stops_early_leaves_nothing_running() -> None:
    source = Source(5)
    listed = read_ahead(source.pages())
    assert await anext(listed) == 0
    await listed.aclose()
    assert source.closed
    assert len(asyncio.all_tasks()) == 1
