"""Ending tasks for certain."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any


async def cancel(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel tasks and wait until each has ended; what they raise stays with them."""
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        # Until Python 3.12 `wait_for` loses a cancellation that comes as its future is done: then it is asked again.
        _done, pending = await asyncio.wait(pending, timeout=0.5)
