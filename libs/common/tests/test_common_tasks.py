from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from reclaim.common.tasks import ahead


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


class Source:
    """Numbers from 0, and what is done to it."""

    def __init__(self, most: int = 100, fails: Exception | None = None) -> None:
        self.begun: list[int] = []
        self.closed = False
        self.most = most
        self.fails = fails

    async def numbers(self) -> AsyncGenerator[int, None]:
        try:
            for number in range(self.most):
                self.begun.append(number)
                await asyncio.sleep(0)
                yield number
            if self.fails is not None:
                raise self.fails
        finally:
            self.closed = True


async def test_what_a_source_yields_comes_in_order_and_ends() -> None:
    source = Source(5)
    async with aclosing(ahead(source.numbers())) as numbers:
        assert [number async for number in numbers] == [0, 1, 2, 3, 4]
    assert source.closed


async def test_the_next_one_is_worked_on_meanwhile_and_no_further() -> None:
    source = Source()
    async with aclosing(ahead(source.numbers())) as numbers:
        assert await anext(numbers) == 0
        await settled()
        assert source.begun == [0, 1]
        assert await anext(numbers) == 1


async def test_what_a_source_raises_comes_after_all_that_it_yielded() -> None:
    source = Source(2, fails=ValueError("torn"))
    found = []

    async def read() -> None:
        async with aclosing(ahead(source.numbers())) as numbers:
            async for number in numbers:
                found.append(number)
                await settled()

    with pytest.raises(ValueError, match="torn"):
        await read()
    assert found == [0, 1]


async def test_who_stops_early_closes_the_source_whatever_it_was_about_to_raise() -> None:
    for fails, most in ((None, 100), (ValueError("never seen"), 1)):
        source = Source(most, fails=fails)
        async with aclosing(ahead(source.numbers())) as numbers:
            assert await anext(numbers) == 0
            await settled()
        assert source.closed


async def test_who_is_cancelled_while_waiting_closes_the_source() -> None:
    class Hanging(Source):
        async def numbers(self) -> AsyncGenerator[int, None]:
            try:
                yield 0
                await asyncio.Event().wait()
            finally:
                self.closed = True

    source = Hanging()

    async def read() -> None:
        async with aclosing(ahead(source.numbers())) as numbers:
            async for _ in numbers:
                pass

    reading = asyncio.create_task(read())
    await settled()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert source.closed
