"""Statements that tests have in common: what one test's engine compiled, the next one's need not.

A service compiles a statement once in its life. A test's engine lives for one test, and would compile all of them anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.util import LRUCache


class Compiled(LRUCache[Any, Any]):
    """A cache for the engines of a worker: what was compiled for a dialect is good for all engines that speak it.

    All of a session's PostgreSQL databases are one server's, and all of its SQLite is one library's.
    """

    def get(self, key: Any, default: Any = None) -> Any:
        return super().get(_shared(key), default)

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(_shared(key))

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(_shared(key), value)


def _shared(key: Any) -> Any:
    dialect, *more = key
    return type(dialect), *more


def sharing(create: Callable[..., AsyncEngine]) -> Callable[..., AsyncEngine]:
    """Return what creates engines that compile into one cache."""
    compiled = Compiled(5_000)

    def create_async_engine(*args: Any, **given: Any) -> AsyncEngine:
        engine = create(*args, **given)
        engine.sync_engine._compiled_cache = compiled
        return engine

    return create_async_engine
