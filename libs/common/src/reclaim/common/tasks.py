"""Tasks that end for certain, and work that is done ahead in one."""

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


async def ahead(source: AsyncIterator[T]) -> AsyncGenerator[T, None]:
    """Yield what a source yields, and let it work on the next one meanwhile: one that is taken, and one that is ready.

    What the source raises comes where it would have come without this. Close it when you stop early, with `aclosing`:
    then the source is closed as well.
    """

    async def following() -> Any:
        return await anext(source, _END)

    coming = asyncio.create_task(following())
    try:
        while (one := await coming) is not _END:
            coming = asyncio.create_task(following())
            yield one
    finally:
        await cancel([coming])
        if not coming.cancelled():
            coming.exception()
        if isinstance(source, AsyncGenerator):
            await source.aclose()
