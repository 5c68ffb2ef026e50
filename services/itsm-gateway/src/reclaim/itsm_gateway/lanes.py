"""Desks side by side: each has a lane of its own for a kind of work, so that one that hangs holds up no other.

What a lane claims and how much of it is under way at a time is its own business; there is one lane a desk and process.
A lane that takes long is left to itself: it goes on while others come and go, and its desk gets no second one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

from reclaim.common.tasks import cancel

PASSED: Final = 1.0
"""Seconds after which nobody waits for a lane any more that is still under way."""


class Lanes:
    """One kind of work, desk by desk.

    Args:
        name: what the work is called.
        due: returns the ids of the desks for which something is due.
        work: does some of a desk's; what it raises comes out of `run`.
    """

    def __init__(
        self, name: str, due: Callable[[], Awaitable[set[str]]], work: Callable[[str], Coroutine[Any, Any, None]]
    ) -> None:
        self._name = name
        self._due = due
        self._work = work
        self._under_way: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> bool:
        """Let every desk that has something due, and no lane under way, do some of it; tell whether any did or does."""
        free = sorted(await self._due() - self._under_way.keys())
        begun = {desk: asyncio.create_task(self._work(desk), name=f"{self._name} {desk}") for desk in free}
        self._under_way |= begun
        if begun:
            await asyncio.wait(begun.values(), timeout=PASSED)
        elif self._under_way:
            await asyncio.wait(self._under_way.values(), timeout=PASSED, return_when=asyncio.FIRST_COMPLETED)
        else:
            return False
        self._heed_ended()
        return True

    async def close(self) -> None:
        """End what is under way: whatever was claimed is taken over when its lease is over."""
        await cancel(self._under_way.values())
        self._under_way.clear()

    def _heed_ended(self) -> None:
        ended = [(desk, lane) for desk, lane in self._under_way.items() if lane.done()]
        for desk, _ in ended:
            del self._under_way[desk]
        problems = [problem for _, lane in ended if not lane.cancelled() and (problem := lane.exception()) is not None]
        if problems:
            raise problems[0]
