"""What leaves the application: security headers, assets, error pages and problem documents."""

from __future__ import annotations

import gzip
import hashlib
import re
from importlib import resources
from typing import Annotated

import pytest
from fastapi import Body, Depends, HTTPException
from fastapi.responses import StreamingResponse
from sqlalchemy.exc import DBAPIError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route

from reclaim.web.assets import all_assets, asset_url
from reclaim.web.auth import public
from reclaim.web.body_limit import LARGEST_BODY
from reclaim.web.pages import Pages


async def test_scripts_run_only_with_the_nonce_of_this_answer(site, sign_in):
    async with site.browser() as browser:
        await sign_in(browser, "vera")
        seen = set()
        for _ in range(3):
            page = await browser.get("/cases")
            policy = page.headers["content-security-policy"]
            nonce = re.search(r"script-src 'nonce-([^']+)'", policy)[1]
            seen.add(nonce)
            scripts = re.findall(r"<script[^>]*>", page.text)
            assert len(scripts) == 1
            assert f'nonce="{nonce}"' in scripts[0]
        assert len(seen) == 3
    for part in ("default-src 'self'", "frame-ancestors 'none'", "form-action 'self'", "base-uri 'none'"):
        assert part in policy
    assert "unsafe" not in policy


async def test_pages_for_managers_have_no_script_and_no_navigation(site, sign_in):
    async with site.browser() as browser:
        await sign_in(browser, "anna")
        page = (await browser.get("/decide")).text
    assert "<script" not in page
    assert "<nav" not in page
    assert "anna" not in page


async def test_nothing_on_a_page_is_inline_or_from_elsewhere(site, sign_in):
    async with site.browser() as browser:
        await sign_in(browser, "anna")
        for address in ("/cases", "/decide", "/nowhere", "/auth/sign-in"):
            page = (await browser.get(address)).text
            assert not re.search(r"\sstyle=|<style|\son\w+=|javascript:", page)
            assert not re.search(r'(?:src|href|action)="(?:https?:)?//', page)


@pytest.mark.parametrize("address", ["/decide", "/nowhere", "/api/days", "/api/raise/defect", "/auth/sign-in"])
async def test_every_answer_keeps_to_itself(site, address):
    async with site.program() as program:
        headers = (await program.get(address)).headers
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert headers["x-robots-tag"] == "noindex, nofollow"
    assert "strict-transport-security" not in headers


async def test_over_https_browsers_are_told_to_stay_there(make_site):
    async with make_site(public_url="https://reclaim.example").program() as program:
        assert "max-age=" in (await program.get("/decide")).headers["strict-transport-security"]


async def test_an_answer_with_a_policy_of_its_own_keeps_it(site):
    async with site.program() as program:
        headers = (await program.get("/framed")).headers
    assert headers.get_list("content-security-policy") == ["frame-ancestors 'self'"]
    assert headers["x-content-type-options"] == "nosniff"


async def test_a_mounted_application_can_render_pages(make_site):
    site, pages = make_site(exempt_routes=["/mounted"]), Pages()

    async def page(request: Request):
        return pages.render(request, "sign-in.html", next_path="/", nonce="n", name="", error="", ended=False)

    site.app.mount("/mounted", Starlette(routes=[Route("/", page)]))
    async with site.browser() as browser:
        answer = await browser.get("/mounted/")
    assert answer.status_code == 200
    assert "<h1>Sign in</h1>" in answer.text


async def test_assets_are_cached_for_ever_under_their_digest_only(site):
    address = asset_url("reclaim.css")
    async with site.program() as program:
        named = await program.get(address)
        old = await program.get("/assets/reclaim.css?v=0123456789abcdef")
        unchanged = await program.get(address, headers={"If-None-Match": named.headers["etag"]})
        plain = await program.get(address, headers={"Accept-Encoding": "identity"})
    assert named.status_code == 200
    assert named.headers["content-type"].startswith("text/css")
    assert named.headers["content-encoding"] == "gzip"
    assert "immutable" in named.headers["cache-control"]
    assert old.headers["cache-control"] == "no-cache"
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    assert "content-encoding" not in plain.headers
    assert plain.text == named.text


@pytest.mark.parametrize("path", ["nothing.css", "../auth.py", "%2e%2e/auth.py", "vendor/VENDORED.md", "vendor", ""])
async def test_nothing_but_assets_is_served(site, path):
    async with site.program() as program:
        assert (await program.get(f"/assets/{path}")).status_code == 404


def test_vendored_files_are_the_ones_that_were_written_down():
    vendor = resources.files("reclaim.web") / "static" / "vendor"
    listed = re.findall(r"^\| `([^`]+)` .*`([0-9a-f]{64})` \|$", (vendor / "VENDORED.md").read_text(), re.MULTILINE)
    served = {path.removeprefix("vendor/") for path in all_assets() if path.startswith("vendor/")}
    assert {path for path, _ in listed} == served
    for path, digest in listed:
        assert hashlib.sha256((vendor / path).read_bytes()).hexdigest() == digest
    for licence in ("pico/LICENSE.md", "htmx/LICENSE"):
        assert "Permission" in (vendor / licence).read_text()


def test_assets_load_nothing_from_elsewhere():
    for path, asset in all_assets().items():
        assert gzip.decompress(asset.gzipped) == asset.body
        if path.endswith(".css"):
            assert not re.search(rb"url\(\s*['\"]?(?:https?:)?//|@import", asset.body), path


PROBLEMS = [
    ("missing", 404, "Not found", "There is no case c-1."),
    ("conflict", 409, "Conflict", "The case is closed already; open its history."),
    ("invalid", 422, "Invalid input", "Give a number of days from 1 to 730."),
    ("transient", 503, "Not available right now", "Salesforce does not answer. Try again in a minute."),
]


@pytest.mark.parametrize(("kind", "status", "title", "detail"), PROBLEMS)
async def test_a_program_gets_a_problem_document(site, kind, status, title, detail):
    async with site.program() as program:
        answer = await program.get(f"/api/raise/{kind}")
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert {"type": "about:blank", "title": title, "status": status, "detail": detail}.items() <= problem.items()
    assert problem.get("errors") == ([{"field": "days", "message": detail}] if kind == "invalid" else None)
    assert ("retry-after" in answer.headers) == (kind == "transient")


@pytest.mark.parametrize(("kind", "status", "title", "detail"), PROBLEMS)
async def test_a_browser_gets_a_page_that_says_what_to_do(site, sign_in, kind, status, title, detail):
    async with site.browser() as browser:
        answer = await browser.get(f"/api/raise/{kind}")
        assert answer.status_code == status
        assert f"<h1>{title}</h1>" in answer.text
        assert answer.text.count(detail) == 1
        assert "<nav" not in answer.text
        await sign_in(browser, "vera")
        assert "<nav" in (await browser.get(f"/api/raise/{kind}")).text


async def test_htmx_gets_a_fragment_for_the_place_of_notices(site, sign_in):
    async with site.browser() as browser:
        await sign_in(browser, "vera")
        answer = await browser.get("/api/raise/conflict", headers={"HX-Request": "true"})
        page = await browser.get("/cases")
    assert answer.status_code == 409
    assert answer.headers["hx-retarget"] == "#notices"
    assert answer.text.startswith('<div class="notice"')
    assert '<div id="notices"' in page.text


async def test_an_unknown_address_and_a_wrong_method_are_explained(site):
    async with site.program() as program, site.browser() as browser:
        assert (await program.get("/nowhere")).json()["title"] == "Not found"
        wrong = await program.delete("/decide")
        assert (wrong.status_code, wrong.headers["allow"]) == (405, "GET")
        assert wrong.json()["title"] == "Method not allowed"
        assert "There is nothing at this address" in (await browser.get("/nowhere")).text


async def test_what_a_route_says_in_an_http_exception_is_kept(site):
    @site.app.get("/gone", dependencies=[Depends(public())])
    async def gone() -> None:
        raise HTTPException(404, "This export was deleted yesterday.")

    async with site.program() as program:
        assert (await program.get("/gone")).json()["detail"] == "This export was deleted yesterday."


async def test_invalid_input_is_named_and_never_repeated(site):
    async with site.program() as program, site.browser() as browser:
        problem = (await program.get("/api/days", params={"count": "hunter2"})).json()
        page = (await browser.get("/api/days", params={"count": "hunter2"})).text
    assert problem["status"] == 422
    assert [error["field"] for error in problem["errors"]] == ["count"]
    assert "hunter2" not in str(problem) + page
    assert "<strong>Count</strong>" in page


@pytest.mark.parametrize("kind", ["browser", "program"])
async def test_a_defect_shows_an_incident_id_that_is_in_the_log_and_nothing_else(site, caplog, kind):
    async with getattr(site, kind)() as client:
        answer = await client.get("/api/raise/defect")
    assert answer.status_code == 500
    for inside in ("secret detail", "RuntimeError", "Traceback", "conftest"):
        assert inside not in answer.text
    [record] = [record for record in caplog.records if record.name == "reclaim.web.problems"]
    assert record.incident in answer.text
    assert record.route == "/api/raise/{kind}"
    assert record.exc_info[0] is RuntimeError
    assert answer.headers["cache-control"] == "no-store"


async def test_a_defect_after_the_answer_began_cuts_the_connection(site):
    async def broken():
        yield b"half"
        raise RuntimeError("gone")

    @site.app.get("/stream", dependencies=[Depends(public())])
    async def stream() -> StreamingResponse:
        return StreamingResponse(broken())

    async with site.program() as program:
        with pytest.raises(RuntimeError, match="gone"):
            await program.get("/stream")


@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_that_nothing_here_needs_is_not_read_to_its_end(site, declared):
    @site.app.post("/api/notes", dependencies=[Depends(public())])
    async def take(note: Annotated[dict[str, str], Body()]) -> int:
        return len(note["text"])

    read = []

    async def endless():
        for _ in range(64):
            read.append(1)
            yield b"x" * 100_000

    longest = b'{"text": "%s"}' % (b"x" * (LARGEST_BODY - 12))
    async with site.program(**{"Content-Type": "application/json"}) as program:
        answer = await program.post("/api/notes", content=longest + b" " if declared else endless())
        assert (await program.post("/api/notes", content=longest)).json() == LARGEST_BODY - 12
    assert answer.status_code == 413
    assert answer.headers["content-type"] == "application/problem+json"
    assert "at most 1,048,576 bytes" in answer.json()["detail"]
    if not declared:
        assert len(read) < 12


async def test_who_hangs_up_in_mid_request_is_no_defect(site, caplog):
    @site.app.post("/raw", dependencies=[Depends(public())])
    async def raw(request: Request) -> int:
        return len(await request.body())

    async def hung_up():
        return {"type": "http.disconnect"}

    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/raw", "query_string": b"", "headers": []}
    await site.app(scope, hung_up, send)
    assert sent[0]["status"] == 400
    assert [record for record in caplog.records if record.name == "reclaim.web.problems"] == []


class DriverError(Exception):
    def __init__(self, sqlstate):
        super().__init__("secret detail of the inside")
        self.sqlstate = sqlstate


REFUSED_BY_THE_DATABASE = [
    (DBAPIError("SELECT", {}, DriverError("22021")), 422, "NUL character"),
    (DBAPIError("SELECT", {}, DriverError("22P05")), 422, "NUL character"),
    (DBAPIError("SELECT", {}, DriverError("40P01")), 503, "try again"),
    (DBAPIError("SELECT", {}, DriverError("57P01")), 503, "try again"),
    (ConnectionRefusedError("secret detail of the inside"), 503, "try again"),
    (DBAPIError("SELECT", {}, DriverError("42703")), 500, "incident"),
]


@pytest.mark.parametrize(("error", "status", "says"), REFUSED_BY_THE_DATABASE)
async def test_what_a_database_refuses_is_told_apart_from_one_that_is_away(site, error, status, says):
    @site.app.get("/stored", dependencies=[Depends(public())])
    async def stored() -> None:
        raise error

    async with site.program() as program:
        answer = await program.get("/stored")
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert says in answer.json()["detail"]
    assert "secret detail" not in answer.text
    assert ("retry-after" in answer.headers) == (status == 503)
