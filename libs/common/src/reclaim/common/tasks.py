"""Ending tasks for certain, and reading ahead."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Collection
from typing import Any, Final, TypeVar

T = TypeVar("T")

_END: Final = object()


async def cancel(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel tasks and wait until each has ended; what they raise stays with them."""
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        # Until Python 3.12 `wait_for` loses a cancellation that comes as its future is done: then it is asked again.
        _done, pending = await asyncio.wait(pending, timeout=0.5)


async def read_ahead(pages: AsyncIterator[T]) -> AsyncGenerator[T, None]:
    """Yield what an iterator gives while the next of it is being read already; so at most two are held at once.

    What the iterator raises comes after everything that it gave before. It is closed with this one.
    """

    async def following() -> T | object:
        return await anext(pages, _END)

    coming = asyncio.create_task(following())
    try:
        while (page := await coming) is not _END:
            coming = asyncio.create_task(following())
            yield page  # type: ignore[misc]
    finally:
        await cancel([coming])
        if isinstance(pages, AsyncGenerator):
            await pages.aclose()
