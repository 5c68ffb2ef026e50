"""Profiles, sources and imports as programs and browsers use them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from reclaim.common.errors import Permanent
from reclaim.scanner import sync_store
from reclaim.web.plugin import UPLOADS
from services.scanner.tests.feeds_world import DAY, connect, connect_log, give_log, send, sync
from services.scanner.tests.scanner_world import NOON, Served, nonce_of, signed_in

HEADING = "User,Device,Product,Month,Seconds,Runs\n"
ROW = "ann@acme.example,PC-1,Visio,2026-10,60,1\n"
FORM = {"shape": "csv", "what": "usage", "source": "Head office", "time_zone": "UTC", "silence_days": "40"}


async def test_a_file_is_streamed_in_and_its_progress_and_refusals_are_shown(served: Served) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield HEADING.encode()
        for _ in range(40_000):
            yield ROW.encode()
        yield b"ann@acme.example,PC-1,Visio,yesterday,60,1\n"

    api = served.api("operator")
    begun = await api("POST", "/usage/imports?shape=csv&source=Feed&file_name=a.csv&complete=true", 202, content=body())
    assert (begun["status"], begun["file_name"], begun["bytes"] > 1_500_000) == ("queued", "a.csv", True)
    while await served.scanner.job("import"):
        pass
    one = await served.api("viewer")("GET", f"/usage/imports/{begun['id']}")
    assert (one["status"], one["rows"], one["bad"], one["kept"], one["author"]) == (
        "finished", 40_001, 1, 1, "the-operator"
    )  # fmt: skip
    assert one["bytes_read"] == one["bytes"]
    assert [(row["line"], row["reason"]) for row in one["refused"]] == [(40_002, "month is no month such as 2026-10")]
    listed = await served.api("viewer")("GET", "/usage/imports")
    assert [each["id"] for each in listed] == [begun["id"]]


async def test_who_may_not_send_is_refused_before_a_file_is_read(served: Served) -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield HEADING.encode()
        raise AssertionError("the file was read")

    await served.api("viewer")("POST", "/usage/imports?shape=csv", 403, content=endless())
    answer = await served.client_as("viewer").post(
        "/scanner/api/usage/imports?shape=csv", content=endless(), headers={"authorization": ""}
    )
    assert answer.status_code == 401


@pytest.mark.parametrize(
    ("query", "body", "field"),
    [
        ("shape=excel", HEADING + ROW, "shape"),
        ("shape=csv&time_zone=Mars", HEADING + ROW, "time_zone"),
        ("shape=csv", "", "file"),
        ("shape=sccm", "Colour\nred\n", "file"),
    ],
)
async def test_what_does_not_fit_is_answered_with_what_to_enter(
    served: Served, query: str, body: str, field: str
) -> None:
    problem = await served.api("operator")("POST", f"/usage/imports?{query}", 422, content=body.encode())
    assert field in str(problem)
    assert await served.scanner.rows("SELECT * FROM imports") == []


async def test_only_what_takes_files_takes_large_bodies(served: Served) -> None:
    large = b"x" * 1_200_000
    api = served.api("operator")
    await api("POST", "/usage", 413, content=large)
    await api("POST", "/usage/imports?shape=csv", 422, content=large)
    declared = {"content-length": str(UPLOADS["/scanner/api/usage/imports"] + 1)}
    await api("POST", "/usage/imports?shape=csv", 413, content=b"x", headers=declared)


async def test_applications_are_listed_chosen_and_taken_back(served: Served) -> None:
    log = give_log(served.scanner)
    log.sign_in("u1@acme.example", "wiki", at=NOON - DAY)
    org, sso = await connect(served.scanner), await connect_log(served.scanner)
    api = served.api("operator")
    base = f"/connections/{sso.id}/applications"
    assert [(each["id"], each["chosen"], each["profile"]) for each in await api("GET", base)] == [("wiki", False, None)]
    wanted = {"seats_connection_id": org.id, "product": "SFDC"}
    chosen = await api("PUT", f"{base}/wiki", json=wanted)
    assert (chosen["rule_status"], chosen["how"], chosen["product"]) == ("needs_review", "sso", "SFDC")
    assert await api("PUT", f"{base}/wiki", json=wanted) == chosen
    await sync(served.scanner)
    found = await served.api("viewer")("GET", "/profiles")
    assert sorted((each["how"], each["rule_status"]) for each in found) == [
        ("direct", "needs_review"),
        ("sso", "needs_review"),
    ]
    (log_sync,) = [each for each in await served.api("viewer")("GET", "/syncs") if each["what"] == "usage"]
    assert (log_sync["status"], log_sync["records"], log_sync["problem"]) == ("idle", 1, None)
    await served.api("viewer")("POST", f"/connections/{sso.id}/sync", 403)
    again = await api("POST", f"/connections/{sso.id}/sync", 202)
    assert [each["status"] for each in again] == ["queued"]
    await api("DELETE", f"{base}/wiki", 204)
    await api("DELETE", f"{base}/wiki", 404)
    (ended,) = [each["profile"] for each in await api("GET", base)]
    assert ended["ended_why"] == "the application Wiki of SSO is no longer a profile"
    rule = await api("GET", f"/rules/{chosen['rule_id']}")
    assert rule["moved_why"] == ended["ended_why"]


async def test_a_browser_without_scripts_sends_a_file_and_sees_what_became_of_it(served: Served) -> None:
    browser = await signed_in(served.host)
    page = await browser.get("/scanner/imports")
    assert 'enctype="multipart/form-data"' in page.text
    form = {**FORM, "complete": "yes", "form_nonce": nonce_of(page.text)}
    bad = "ann@acme.example,PC-1,Visio,soon,60,1\n"
    sent = {"file": ("october.csv", (HEADING + ROW + bad).encode(), "text/csv")}
    answer = await browser.post("/scanner/imports", data=form, files=sent)
    assert answer.status_code == 303
    waiting = await browser.get(answer.headers["location"])
    assert '<noscript><meta http-equiv="refresh"' in waiting.text
    while await served.scanner.job("import"):
        pass
    done = await browser.get(answer.headers["location"])
    assert "Month is no month such as 2026-10." in done.text
    assert "Not marked complete, because 1 row was refused" in done.text
    assert "refresh" not in done.text.partition("<body")[0]
    download = await browser.get(f"{answer.headers['location']}/refused.csv")
    assert download.headers["content-disposition"].startswith("attachment; filename=")
    assert "soon" in download.text
    await browser.aclose()


async def test_a_form_that_does_not_fit_comes_back_as_it_was_filled_in(served: Served) -> None:
    browser = await signed_in(served.host)
    nonce = nonce_of((await browser.get("/scanner/imports")).text)
    sent = {"file": ("a.csv", b"Colour\nred\n", "text/csv")}
    answer = await browser.post("/scanner/imports", data={**FORM, "form_nonce": nonce}, files=sent)
    assert answer.status_code == 422
    assert "this is not the heading of such an export" in answer.text
    assert 'value="Head office"' in answer.text
    none = await browser.post("/scanner/imports", data={**FORM, "form_nonce": nonce}, files={"x": b""})
    assert "Choose a CSV file." in none.text
    await browser.aclose()


async def test_the_sources_page_shows_progress_trouble_and_whom_nobody_knows(served: Served) -> None:
    scanner = served.scanner
    log = give_log(scanner)
    log.sign_in("stranger@acme.example", "wiki", at=NOON - DAY)
    org, sso = await connect(scanner), await connect_log(scanner)
    browser = await signed_in(served.host)
    assert "Choose applications" in (await browser.get("/scanner/sources")).text
    page = await browser.get(f"/scanner/connections/{sso.id}/applications")
    await sync(scanner)
    page = await browser.get(f"/scanner/connections/{sso.id}/applications")
    assert "Acme org: SFDC" in page.text
    form = {"application": "wiki", "seats": f"{org.id} SFDC", "form_nonce": nonce_of(page.text)}
    assert (await browser.post(str(page.url), data=form)).status_code == 303
    busy = (await browser.get("/scanner/sources")).text
    assert 'hx-trigger="every 2s"' in busy
    await sync(scanner)
    await scanner.job("usage-unmatched")
    page = await browser.get("/scanner/sources")
    assert "Fresh" in page.text
    assert "stranger@acme.example" in page.text
    log.down = Permanent("the token has ended: make another")
    scanner.clock.advance(10 * DAY)
    read = await browser.post(f"/scanner/sources/{sso.id}/read", data={"form_nonce": nonce_of(page.text)})
    assert read.status_code == 303
    await sync(scanner)
    page = await browser.get("/scanner/sources")
    assert "SSO is stale" in page.text
    assert "the token has ended: make another" in page.text
    listed = await browser.get(f"/scanner/connections/{sso.id}/applications")
    assert "The applications could not be listed" in listed.text
    drop = {"application": "wiki", "form_nonce": nonce_of(page.text)}
    assert (await browser.post(f"/scanner/connections/{sso.id}/applications/drop", data=drop)).status_code == 303
    shown = await browser.get(f"/scanner/connections/{sso.id}")
    assert "no longer a profile" in shown.text
    await browser.aclose()


async def test_a_rule_that_the_integration_made_says_so_until_somebody_changes_it(served: Served) -> None:
    await connect(served.scanner)
    await sync(served.scanner)
    (rule,) = await served.api("viewer")("GET", "/rules")
    browser = await signed_in(served.host)
    assert "Made by the integration" in (await browser.get(f"/scanner/rules/{rule['id']}")).text
    await served.api("operator")("PATCH", f"/rules/{rule['id']}", json={"grace_days": 20})
    assert "Made by the integration" not in (await browser.get(f"/scanner/rules/{rule['id']}")).text
    await browser.aclose()


async def test_a_source_that_lists_installations_is_stale_when_it_lists_no_more(served: Served) -> None:
    text = "Device,Product\nPC-1,Visio\n"
    await send(served.scanner, text, what="installations", complete="yes", silence_days="5", source="Inventory")
    browser = await signed_in(served.host)
    assert "lists what is installed" in (await browser.get("/scanner/sources")).text
    served.scanner.clock.advance(6 * DAY)
    assert "Inventory is stale" in (await browser.get("/scanner/sources")).text
    (source,) = await served.api("viewer")("GET", "/usage/sources")
    assert (source["tells"], source["stale"]) == ("installations", True)
    await browser.aclose()


async def test_a_connection_from_before_there_were_profiles_gets_its_rules_when_somebody_asks(served: Served) -> None:
    org = await connect(served.scanner)
    async with served.scanner.deps.database.unit() as unit:
        await sync_store.remove(unit.db, org.id)
    await sync(served.scanner)
    browser = await signed_in(served.host)
    page = await browser.get(f"/scanner/connections/{org.id}")
    assert "Look for new products" in page.text
    asked = await browser.post(f"{page.url}/sync", data={"form_nonce": nonce_of(page.text)})
    assert asked.status_code == 303
    await sync(served.scanner)
    assert [rule["status"] for rule in await served.api("viewer")("GET", "/rules")] == ["needs_review"]
    await browser.aclose()
