"""Routers are noted, put into each other, and served as one flat table."""

from __future__ import annotations

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI
from fastapi.responses import HTMLResponse, PlainTextResponse
from fastapi.routing import APIRoute

from reclaim.common.routing import Router, add_routes


async def outer_guard() -> None: ...


async def inner_guard() -> None: ...


@pytest.fixture
def app() -> FastAPI:
    inner = Router(prefix="/rules", tags=["rules"], dependencies=[Depends(inner_guard)])

    @inner.get("/{number}")
    async def one(number: int) -> str:
        return f"<p>{number}</p>"

    @inner.post("", status_code=201, response_class=PlainTextResponse, tags=["new"])
    async def add() -> str:
        return "added"

    outer = Router(
        prefix="/api", tags=["scanner"], dependencies=[Depends(outer_guard)], default_response_class=HTMLResponse
    )
    outer.include_router(inner)
    hidden = Router(include_in_schema=False)

    @hidden.get("/quiet")
    async def quiet() -> dict[str, int]:
        return {"seats": 3}

    whole = Router()
    whole.include_router(outer)
    whole.include_router(hidden)
    app = FastAPI()
    add_routes(app, whole, "/scanner")
    return app


def routes(app: FastAPI) -> dict[str, APIRoute]:
    return {route.path: route for route in app.routes if isinstance(route, APIRoute)}


async def test_what_routers_say_of_all_their_routes_holds_at_every_depth(app: FastAPI) -> None:
    one = routes(app)["/scanner/api/rules/{number}"]
    assert one.tags == ["scanner", "rules"]
    assert [each.dependency for each in one.dependencies] == [outer_guard, inner_guard]
    assert routes(app)["/scanner/api/rules"].tags == ["scanner", "rules", "new"]
    assert set(app.openapi()["paths"]) == {"/scanner/api/rules", "/scanner/api/rules/{number}"}


async def test_routes_answer_with_the_nearest_response_class(app: FastAPI) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as http:
        one = await http.get("/scanner/api/rules/7")
        assert (one.status_code, one.headers["content-type"], one.text) == (
            200,
            "text/html; charset=utf-8",
            "<p>7</p>",
        )
        added = await http.post("/scanner/api/rules")
        assert (added.status_code, added.headers["content-type"]) == (201, "text/plain; charset=utf-8")
        assert (await http.get("/scanner/quiet")).json() == {"seats": 3}
        assert (await http.get("/scanner/api/rules/seven")).status_code == 422
        assert (await http.put("/scanner/api/rules")).status_code == 405


def test_what_would_be_analysed_twice_is_refused() -> None:
    with pytest.raises(TypeError, match="Router"):
        Router().include_router(APIRouter())
    with pytest.raises(TypeError, match="own arguments"):
        Router().include_router(Router(), prefix="/api")
