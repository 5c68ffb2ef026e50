"""Wall-clock time for the machinery (leases, backoff), which a moved business clock must not touch."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

_source: Callable[[], float] = time.time


def wall_milliseconds() -> int:
    """Return milliseconds since 1970."""
    return int(_source() * 1000)


def backoff(attempt: int, *, first: float, most: float) -> float:
    """Return the seconds to wait after the given attempt (from 1): doubling, capped, with a fifth of jitter."""
    return min(first * 2.0 ** min(attempt - 1, 32), most) * random.uniform(0.8, 1.2)  # noqa: S311
