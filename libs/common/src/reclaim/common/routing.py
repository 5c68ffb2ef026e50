"""Routers whose routes are analysed once, by the application that serves them.

FastAPI analyses a route when it is declared, and once more for every router that its own is included in; of a service
with a hundred routes, two levels deep, that is most of the start. And what is included stays nested: each request tries
the routers one inside the other. Here a route is only noted until an application takes it, which makes one flat table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from fastapi import APIRouter, FastAPI
from fastapi.datastructures import DefaultPlaceholder


class Declared(NamedTuple):
    """A route as it was declared: its path, what answers, and the options of FastAPI's `add_api_route`."""

    path: str
    endpoint: Callable[..., Any]
    options: dict[str, Any]


class Router(APIRouter):
    """An `APIRouter` whose routes `add_routes` gives to an application, and may include others of its kind."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._declared: list[Declared] = []

    def add_api_route(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        """Note a route; the options are those of FastAPI."""
        self._declared.append(Declared(path, endpoint, options))

    def include_router(self, router: APIRouter, **options: Any) -> None:
        """Note the routes of another router.

        Raises:
            TypeError: it is a plain `APIRouter`, or options are given: give them to the router when it is made.
        """
        if not isinstance(router, Router) or options:
            raise TypeError("include a reclaim.common.routing.Router, whose own arguments say how")
        self._declared.extend(router.declared())

    def declared(self) -> Iterator[Declared]:
        """Return the routes with what this router says of all of its own."""
        for path, endpoint, given in self._declared:
            options = {
                **given,
                "tags": [*self.tags, *(given.get("tags") or ())],
                "dependencies": [*self.dependencies, *(given.get("dependencies") or ())],
                "include_in_schema": self.include_in_schema and given.get("include_in_schema", True),
            }
            if isinstance(given.get("response_class", self.default_response_class), DefaultPlaceholder):
                options["response_class"] = self.default_response_class
            yield Declared(self.prefix + path, endpoint, options)


def add_routes(app: FastAPI, router: Router, prefix: str = "") -> None:
    """Let the application serve a router's routes, below a prefix such as `/scanner`."""
    for path, endpoint, options in router.declared():
        app.router.add_api_route(prefix + path, endpoint, **options)
