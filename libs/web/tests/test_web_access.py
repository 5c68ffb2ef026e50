"""Who may do what: roles, form nonces, origins, API tokens, and that every route says who it is for."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import pytest
from fastapi import APIRouter, Depends, FastAPI
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.staticfiles import StaticFiles

from reclaim.web.auth import issue_api_token, public, require, undeclared_routes
from reclaim.web.operators import Operator


def token_of(site, role, **changes):
    settings = {
        "secret_keys": site.app.state.web.secret_keys,
        "name": "cli",
        "role": role,
        "lifetime": timedelta(days=1),
        "now": site.sign_in_clock.now,
    }
    return issue_api_token(**{**settings, **changes})


def name_of(operator: Annotated[Operator, Depends(require("viewer"))]) -> str:
    return operator.name


@pytest.mark.parametrize(("role", "scan", "kill"), [("viewer", 403, 403), ("operator", 200, 403), ("admin", 200, 200)])
async def test_a_role_may_do_what_the_ones_below_it_may(site, role, scan, kill):
    async with site.program(Authorization=f"Bearer {token_of(site, role)}") as program:
        assert (await program.post("/api/scans")).status_code == scan
        assert (await program.post("/api/kill")).status_code == kill
    assert len(site.changes) == [scan, kill].count(200)


async def test_a_missing_role_is_named(site):
    async with site.program(Authorization=f"Bearer {token_of(site, 'viewer')}") as program:
        answer = await program.post("/api/kill")
    assert answer.json()["detail"] == "This needs the role admin; cli has the role viewer. Ask an administrator."


async def test_a_token_expires_and_is_worth_nothing_under_another_key_or_as_a_session(site):
    token = token_of(site, "admin")
    other_key = token_of(site, "admin", secret_keys=["another-key-another-key-another-key"])
    for worthless in (other_key, "", "nonsense", token[:-2] + "xx"):
        async with site.program(Authorization=f"Bearer {worthless}") as program:
            assert (await program.post("/api/scans")).status_code == 401
    async with site.browser() as browser:
        browser.cookies.set("reclaim", token)
        assert (await browser.get("/cases")).status_code == 303
    async with site.program(Authorization=f"bearer {token}") as program:
        site.sign_in_clock.advance(timedelta(days=1) - timedelta(seconds=1))
        assert (await program.post("/api/scans")).status_code == 200
        site.sign_in_clock.advance(timedelta(seconds=1))
        assert (await program.post("/api/scans")).status_code == 401


async def test_a_session_is_no_token(site, sign_in):
    async with site.browser() as browser:
        await sign_in(browser, "anna")
        cookie = browser.cookies["reclaim"]
    async with site.program(Authorization=f"Bearer {cookie}") as program:
        assert (await program.post("/api/kill")).status_code == 401


async def test_a_request_with_a_token_is_judged_by_it_alone(site, sign_in):
    async with site.browser() as browser:
        await sign_in(browser, "anna")
        answer = await browser.post("/api/kill", headers={"Authorization": "Bearer nonsense"})
    assert answer.status_code == 401
    assert site.changes == []


@pytest.mark.parametrize("lifetime", [timedelta(0), timedelta(days=-1), timedelta(days=367)])
def test_a_token_without_an_end_is_not_issued(site, lifetime):
    with pytest.raises(ValueError, match="a token lives between"):
        token_of(site, "viewer", lifetime=lifetime)


def test_an_unknown_role_is_refused_where_it_is_written(site):
    with pytest.raises(ValueError, match="'root' is no role"):
        require("root")
    with pytest.raises(ValueError, match="'root' is no role"):
        token_of(site, "root")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "null"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "https://reclaim.example"}, 403),
        ({"Origin": "https://reclaim.example"}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "https://reclaim.example.evil.example"}, 403),
        ({"Origin": "https://["}, 403),
        ({"Origin": "null"}, 403),
        ({}, 403),
    ],
)
async def test_a_change_over_https_must_come_from_one_of_our_pages(make_site, sign_in, page_nonce, headers, status):
    site = make_site(public_url="https://reclaim.example")
    async with site.browser() as browser:
        await sign_in(browser, "otto")
        nonce = page_nonce((await browser.get("/cases")).text)
        del browser.headers["Sec-Fetch-Site"]
        answer = await browser.post("/scans", data={"rule": "r-1", "form_nonce": nonce}, headers=headers)
    assert answer.status_code == status
    assert len(site.changes) == (status == 200)


async def test_on_plain_http_where_browsers_name_no_site_the_nonce_decides(site, sign_in, page_nonce):
    async with site.browser() as browser:
        await sign_in(browser, "otto")
        nonce = page_nonce((await browser.get("/cases")).text)
        del browser.headers["Sec-Fetch-Site"]
        for origin, status in (("null", 200), ("http://127.0.0.1:8000", 200), ("http://evil.example", 403)):
            form = {"rule": "r-1", "form_nonce": nonce}
            answer = await browser.post("/scans", data=form, headers={"Origin": origin})
            assert answer.status_code == status


async def test_a_form_needs_the_nonce_of_its_own_session(site, sign_in, page_nonce):
    async with site.browser() as otto, site.browser() as anna:
        await sign_in(otto, "otto")
        await sign_in(anna, "anna")
        of_anna = page_nonce((await anna.get("/cases")).text)
        of_otto = page_nonce((await otto.get("/cases")).text)
        for nonce in ("", "nonsense", of_anna):
            assert (await otto.post("/scans", data={"rule": "r-1", "form_nonce": nonce})).status_code == 403
        assert (await otto.post("/scans", data={"rule": "r-1"})).status_code == 403
        assert (await otto.post("/scans?form_nonce=" + of_otto, data={"rule": "r-1"})).status_code == 403
        assert site.changes == []
        assert (await otto.post("/scans", data={"rule": "r-1", "form_nonce": of_otto})).status_code == 200
        multipart = {"rule": (None, "r-2"), "form_nonce": (None, of_otto)}
        assert (await otto.post("/scans", files=multipart)).status_code == 200
    assert site.changes == ["otto session r-1", "otto session r-2"]


async def test_a_script_of_a_page_sends_the_nonce_in_a_header(site, sign_in, page_nonce):
    async with site.browser() as browser:
        await sign_in(browser, "otto")
        page = (await browser.get("/cases")).text
        nonce = page_nonce(page)
        assert f'hx-headers=\'{{"X-Form-Nonce": "{nonce}"}}\'' in page
        assert (await browser.post("/api/scans", json={})).status_code == 403
        assert (await browser.post("/api/scans", json={}, headers={"X-Form-Nonce": nonce})).status_code == 200
    assert site.changes == ["otto session"]


async def test_a_viewer_with_a_good_nonce_is_still_a_viewer(site, sign_in, page_nonce):
    async with site.browser() as browser:
        await sign_in(browser, "vera")
        nonce = page_nonce((await browser.get("/cases")).text)
        assert (await browser.post("/scans", data={"rule": "r-1", "form_nonce": nonce})).status_code == 403
    assert site.changes == []


def test_every_route_that_the_package_brings_is_declared(site):
    assert undeclared_routes(site.app) == []


def test_a_route_that_says_nothing_is_named_wherever_it_hides(site, tmp_path):
    app = FastAPI()
    inner, outer, guarded = APIRouter(), APIRouter(), APIRouter(dependencies=[Depends(require("admin"))])

    @inner.post("/forgotten")
    async def forgotten() -> None: ...

    @inner.get("/fine", dependencies=[Depends(public())])
    async def fine() -> None: ...

    @guarded.delete("/all")
    async def guarded_route() -> None: ...

    @app.get("/nested")
    async def nested(name: Annotated[str, Depends(name_of)]) -> None: ...

    @app.websocket("/socket")
    async def socket() -> None: ...

    outer.include_router(inner, prefix="/inner")
    app.include_router(outer, prefix="/outer")
    app.include_router(guarded)
    app.mount("/mounted", Starlette(routes=[Route("/page", lambda request: PlainTextResponse(""))]))
    app.mount("/files", StaticFiles(directory=tmp_path))
    assert undeclared_routes(app) == [
        "APIWEBSOCKETROUTE /socket",
        "GET|HEAD /docs",
        "GET|HEAD /docs/oauth2-redirect",
        "GET|HEAD /mounted/page",
        "GET|HEAD /openapi.json",
        "GET|HEAD /redoc",
        "MOUNT /files",
        "POST /outer/inner/forgotten",
    ]
    assert undeclared_routes(app, exempt=["/docs", "/redoc", "/openapi.json", "/mounted", "/files", "/socket"]) == [
        "POST /outer/inner/forgotten"
    ]


async def test_an_application_with_such_a_route_does_not_serve(site):
    @site.app.get("/health/live")
    async def live() -> None: ...

    async with site.program() as program:
        assert (await program.get("/health/live")).status_code == 200

    @site.app.get("/forgotten")
    async def forgotten() -> None: ...

    site.app.middleware_stack = None
    async with site.program() as program:
        with pytest.raises(RuntimeError, match="do not say who may use them: GET /forgotten"):
            await program.get("/health/live")


def test_the_api_description_names_the_token(site):
    scheme = site.app.openapi()["components"]["securitySchemes"]["HTTPBearer"]
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
