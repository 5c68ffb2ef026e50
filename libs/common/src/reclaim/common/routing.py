"""Routers whose routes are analysed once, when something first asks for them.

FastAPI analyses a route when it is declared, and once more for every router that its own is included in; of a service
with a hundred routes, two levels deep, that is most of the start. And what is included stays nested: each request tries
the routers one inside the other. Here a route is only noted until an application takes it, which makes one flat table
of paths; a route's parameters and answer are looked at by its first request, or when the schema is made. A test makes
the schema of every service, so that no route is found to be wrong by a user.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from fastapi import APIRouter, FastAPI
from fastapi.datastructures import DefaultPlaceholder
from fastapi.routing import APIRoute
from starlette.routing import compile_path, get_name


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


class _Late(APIRoute):
    """A route that can be found by its path, and is analysed when more of it is asked for."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        self._options = options
        # What finding a route needs (`starlette.routing.Route.matches` and `url_path_for`).
        self.path, self.endpoint = path, endpoint
        self.name = options.get("name") or get_name(endpoint)
        self.methods = {method.upper() for method in options.get("methods") or ["GET"]}
        self.path_regex, self.path_format, self.param_convertors = compile_path(path)

    def __getattr__(self, name: str) -> Any:
        """Analyse the route: Python comes here for what is not set yet.

        Raises:
            AttributeError: no route has this.
        """
        options = self.__dict__.pop("_options", None)
        if options is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        try:
            super().__init__(self.path, self.endpoint, **options)
        except BaseException:
            self._options = options  # the next one who asks gets the same error
            raise
        return getattr(self, name)


def add_routes(app: FastAPI, router: Router, prefix: str = "") -> None:
    """Let the application serve a router's routes, below a prefix such as `/scanner`."""
    for path, endpoint, options in router.declared():
        app.router.add_api_route(prefix + path, endpoint, route_class_override=_Late, **options)
