"""What every application does before it serves, done once for each table of routes: a test's host is one of hundreds.

Looking whether every route says who may use it analyses all of them, which takes longer than most tests.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from types import CodeType

from fastapi import FastAPI
from starlette.routing import Route

Undeclared = Callable[..., list[str]]
Table = frozenset[tuple[str, frozenset[str], CodeType]]


class OncePerTable:
    """`undeclared_routes` that knows the tables in which every route was declared."""

    def __init__(self, undeclared_routes: Undeclared) -> None:
        self._undeclared_routes = undeclared_routes
        self._declared: set[tuple[Table, frozenset[str]]] = set()

    def __call__(self, app: FastAPI, *, exempt: Collection[str] = ()) -> list[str]:
        """Name the routes that say neither `require` nor `public`."""
        table = _table(app)
        if table is not None and (table, frozenset(exempt)) in self._declared:
            return []
        undeclared = self._undeclared_routes(app, exempt=exempt)
        if table is not None and not undeclared:
            self._declared.add((table, frozenset(exempt)))
        return undeclared


def _table(app: FastAPI) -> Table | None:
    """Return which functions answer where; none if there is more than functions."""
    table = set()
    for route in app.routes:
        code = getattr(getattr(route, "endpoint", None), "__code__", None)
        if not isinstance(route, Route) or code is None:
            return None
        table.add((route.path, frozenset(route.methods or ()), code))
    return frozenset(table)
