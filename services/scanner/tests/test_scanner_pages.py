"""The pages, as a browser without scripts uses them."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import httpx
import pytest

from reclaim.common.errors import Permanent, Transient
from reclaim.web.auth import undeclared_routes
from services.scanner.tests.scanner_world import SECRET, SETTINGS, TERMS, Served, nonce_of, signed_in

HOSTILE = "<script>alert(1)</script>"
FORM = {
    **{f"setting-{name}": value for name, value in SETTINGS.items()},
    "name": "Acme",
    "credential-client_secret": SECRET,
}


class Browser:
    """Follows a page's forms: it sends the nonce that stands in them."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client
        self.nonce = ""

    async def get(self, path: str, status: int = 200) -> str:
        answer = await self.client.get(path)
        assert answer.status_code == status, answer.text
        if 'name="form_nonce"' in answer.text:
            self.nonce = nonce_of(answer.text)
        assert SECRET not in answer.text
        return answer.text

    async def post(
        self, path: str, data: dict[str, Any] | None = None, status: int = 303, **more: Any
    ) -> httpx.Response:
        answer = await self.client.post(path, data={"form_nonce": self.nonce, **(data or {})}, **more)
        assert answer.status_code == status, answer.text
        assert SECRET not in answer.text
        return answer

    async def follow(self, path: str, data: dict[str, Any] | None = None) -> str:
        """Post a form and return the page it leads to."""
        answer = await self.post(path, data)
        return await self.get(answer.headers["location"])


@asynccontextmanager
async def browser_as(served: Served, name: str, role: str) -> AsyncIterator[Browser]:
    client = await signed_in(served.host, name, role)
    browser = Browser(client)
    try:
        await browser.get("/scanner/rules")
        yield browser
    finally:
        await client.aclose()


@pytest.fixture
async def admin(served: Served) -> AsyncIterator[Browser]:
    async with browser_as(served, "anna", "admin") as browser:
        yield browser


async def connected(admin: Browser) -> str:
    answer = await admin.post("/scanner/connections", FORM)
    return answer.headers["location"].removeprefix("/scanner/connections/")


async def ruled(admin: Browser, connection_id: str, **more: Any) -> str:
    answer = await admin.post("/scanner/rules/new", {**terms(connection_id), **more})
    return answer.headers["location"].removeprefix("/scanner/rules/").partition("?")[0]


def terms(connection_id: str) -> dict[str, Any]:
    kept = {name: value for name, value in TERMS.items() if name != "dry_run"}
    return {**kept, "connection_id": connection_id, "hand_over": "true", "cooldown_days": "90", "young_days": "30"}


def text_of(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))


def test_every_route_says_who_may_use_it(served: Served) -> None:
    assert undeclared_routes(served.host.app, exempt=["/health", "/metrics", "/openapi.json"]) == []


async def test_without_anything_each_page_says_what_to_do_next(admin: Browser) -> None:
    assert "Connect an org first" in await admin.get("/scanner/rules")
    assert "Connect an org first" in await admin.get("/scanner/rules/new")
    assert "No connection yet" in await admin.get("/scanner/connections")
    assert "No scan yet" in await admin.get("/scanner/scans")


async def test_the_whole_way_from_a_connection_to_flagged_seats(admin: Browser, served: Served) -> None:
    page = await admin.follow("/scanner/connections", FORM)
    assert "Works" in page
    assert 'value="175.00"' in page
    assert "6 of 1,000" in page
    connection_id = re.search(r"/scanner/connections/([\w-]+)/prices", page)[1]  # type: ignore[index]
    new = await admin.get("/scanner/rules/new")
    assert "SFDC (6 in use)" in new
    assert 'name="on_timeout" type="radio" value="freeze" required>' in new, "nothing is chosen beforehand"
    draft = await admin.follow("/scanner/rules/new", {**terms(connection_id), "dry_run": "true"})
    assert "Draft" in draft
    assert "Dry run" in draft
    assert "$4,200" in draft, "it is previewed right away"
    rule_id = re.search(r"/scanner/rules/([\w-]+)/activate", draft)[1]  # type: ignore[index]
    assert "Scan now" in await admin.follow(f"/scanner/rules/{rule_id}/activate")
    queued = await admin.follow(f"/scanner/rules/{rule_id}/scan")
    assert "Queued" in queued
    assert 'http-equiv="refresh"' in queued
    assert 'http-equiv="refresh"' in await admin.get("/scanner/scans")
    await served.scanner.scan_all()
    scans = await admin.get("/scanner/scans")
    assert 'http-equiv="refresh"' not in scans
    assert "Dry run" in text_of(scans), "by its rule, though nobody asked for it here"
    run_id = re.search(r"/scanner/scans/([\w-]+)", scans)[1]  # type: ignore[index]
    done = await admin.get(f"/scanner/scans/{run_id}")
    assert 'http-equiv="refresh"' not in done
    words = text_of(done)
    assert "Holder 1" in words
    assert "Bea Boss" in words
    assert "Administrator" in words
    assert "Takes work from queues" in words
    assert "Finished" in words
    listed = text_of(await admin.get("/scanner/rules"))
    assert "SFDC that has not been used for more than 90 days" in listed


async def test_a_connection_that_does_not_work_says_why_and_forgets_the_secret(admin: Browser, served: Served) -> None:
    served.scanner.org.down = Transient("No answer from acme.my.salesforce.com. Check the address.")
    page = (await admin.post("/scanner/connections", FORM, 422)).text
    assert "No answer from acme.my.salesforce.com. Check the address." in page
    assert 'value="https://acme.my.salesforce.com"' in page, "what was entered is kept"
    assert "No connection yet" in page
    forced = await admin.follow("/scanner/connections", {**FORM, "force": "yes"})
    assert "Does not work" in forced
    served.scanner.org.down = None
    again = await admin.follow(re.search(r"/scanner/connections/[\w-]+/test", forced)[0])  # type: ignore[index]
    assert "Does not work" not in again


async def test_a_connection_is_changed_priced_and_removed(admin: Browser, served: Served) -> None:
    connection_id = await connected(admin)
    base = f"/scanner/connections/{connection_id}"
    kept = {name: value for name, value in FORM.items() if not name.startswith("credential-")}
    assert "Acme Europe" in await admin.follow(base, {**kept, "name": "Acme Europe"})
    elsewhere = {**kept, "setting-instance_url": "https://evil.example"}
    assert "enter the credentials again" in (await admin.post(base, elsewhere, 422)).text
    priced = await admin.follow(
        f"{base}/prices",
        {"product": ["SFDC", "AUL"], "amount": ["150.00", ""], "currency": ["EUR", "USD"]},
    )
    assert 'value="150.00"' in priced
    exact = {"product": ["SFDC"], "amount": ["149.9999"], "currency": ["EUR"]}
    assert 'value="149.9999"' in await admin.follow(f"{base}/prices", exact), "saving it again must not change it"
    assert "AUL" not in text_of(priced), "a price that was emptied is gone"
    await admin.post(f"{base}/prices", {"product": "SFDC", "amount": "free", "currency": "EUR"}, 422)
    served.scanner.org.down = Transient("503 SERVER_UNAVAILABLE")
    assert "could not be asked for its licences" in await admin.get(base)
    served.scanner.org.down = None
    assert "No connection yet" in await admin.follow(f"{base}/remove")
    await admin.get(base, 404)


async def test_a_form_with_mistakes_comes_back_with_each_of_them_and_what_was_entered(admin: Browser) -> None:
    connection_id = await connected(admin)
    wrong = {**terms(connection_id), "inactive_days": "3", "grace_days": "", "schedule": "daily", "name": HOSTILE}
    del wrong["on_timeout"]
    page = (await admin.post("/scanner/rules/new", wrong, 422)).text
    for says in (
        "from 30 to 3650, not 3",
        "Grace period must be",
        "What happens when nobody answers",
        "five cron fields",
    ):
        assert says in text_of(page)
    assert 'value="3"' in page
    assert HOSTILE not in page
    assert "checked" in re.search(r'<input id="products-SFDC"[^>]*>', page)[0]  # type: ignore[index]


async def test_preview_works_as_a_plain_button_and_as_a_fragment(admin: Browser) -> None:
    connection_id = await connected(admin)
    half = {"connection_id": connection_id, "products": "SFDC", "inactive_days": "90"}
    page = (await admin.post("/scanner/rules/preview", half, 200)).text
    assert "<!doctype html>" in page
    assert "$4,200" in page
    assert 'value="90"' in page
    fragment = (await admin.post("/scanner/rules/preview", half, 200, headers={"hx-request": "true"})).text
    assert fragment.startswith('<section id="preview"')
    assert "$4,200" in fragment
    missing = (await admin.post("/scanner/rules/preview", {**half, "inactive_days": ""}, 200)).text
    assert "Unused for must be" in text_of(missing)


async def test_a_preview_of_an_org_that_is_away_says_so(admin: Browser, served: Served) -> None:
    rule_id = await ruled(admin, await connected(admin))
    served.scanner.org.down = Permanent("The secret is wrong. Enter it again.")
    page = await admin.get(f"/scanner/rules/{rule_id}?preview=true")
    assert "The secret is wrong. Enter it again." in page
    problem = (await admin.post(f"/scanner/rules/{rule_id}/activate", status=422)).text
    assert "The secret is wrong" in problem


async def test_a_rule_is_changed_into_a_new_version_unless_somebody_was_faster(admin: Browser) -> None:
    connection_id = await connected(admin)
    rule_id = await ruled(admin, connection_id)
    base = f"/scanner/rules/{rule_id}"
    page = await admin.follow(base, {**terms(connection_id), "grace_days": "30", "version": "1"})
    assert "version 2" in page
    late = (await admin.post(base, {**terms(connection_id), "grace_days": "60", "version": "1"}, 409)).text
    assert "Somebody else changed this rule" in late
    assert 'value="60"' in late


async def test_with_several_connections_one_is_chosen_first(admin: Browser) -> None:
    await connected(admin)
    other = (await admin.post("/scanner/connections", {**FORM, "name": "Other"})).headers["location"]
    chooser = await admin.get("/scanner/rules/new")
    assert "Unused for" not in chooser
    assert "Other" in chooser
    page = await admin.get(f"/scanner/rules/new?connection={other.rsplit('/', 1)[1]}")
    assert "Licences of Other" in page


async def test_a_rule_whose_connection_was_removed_is_shown_and_cannot_be_used(admin: Browser) -> None:
    connection_id = await connected(admin)
    rule_id = await ruled(admin, connection_id)
    await admin.post(f"/scanner/connections/{connection_id}/remove")
    page = await admin.get(f"/scanner/rules/{rule_id}?preview=true")
    assert "Its connection was removed" in page
    assert "Save" not in text_of(page)


async def test_a_stopped_scan_offers_to_accept_the_new_population(admin: Browser, served: Served) -> None:
    rule_id = await ruled(admin, await connected(admin))
    await admin.post(f"/scanner/rules/{rule_id}/activate")
    await admin.post(f"/scanner/rules/{rule_id}/scan")
    await served.scanner.scan_all()
    served.scanner.clock.advance(timedelta(minutes=1))
    del served.scanner.org.users["u00003"]
    stopped = (await admin.post(f"/scanner/rules/{rule_id}/scan")).headers["location"]
    await served.scanner.scan_all()
    page = await admin.get(stopped)
    assert "5 seats in use, where the last good scan had 6" in page
    assert "Accept the new population" in page
    again = (await admin.post(f"/scanner/rules/{rule_id}/scan", {"accept_population": "true"})).headers["location"]
    await served.scanner.scan_all()
    assert "Finished" in await admin.get(again)


async def test_long_lists_of_flagged_seats_have_pages(admin: Browser, served: Served) -> None:
    from services.scanner.tests.scanner_world import idle

    served.scanner.org.users |= {f"u{number:05}": idle(number) for number in range(10, 120)}
    rule_id = await ruled(admin, await connected(admin))
    await admin.post(f"/scanner/rules/{rule_id}/activate")
    run = (await admin.post(f"/scanner/rules/{rule_id}/scan")).headers["location"]
    await served.scanner.scan_all()
    seen: list[str] = []
    path = run
    while path:
        page = await admin.get(path)
        seen += re.findall(r"Holder \d+", page)
        older = re.search(r'href="([^"]+)" rel="next"', page)
        path = older[1].replace("&amp;", "&") if older else ""
    assert len(seen) == len(set(seen)) == 112


async def test_what_an_org_says_is_escaped(admin: Browser, served: Served) -> None:
    served.scanner.org.users["u00001"].name = HOSTILE
    served.scanner.org.users["u00001"].department = HOSTILE
    rule_id = await ruled(admin, await connected(admin))
    page = await admin.get(f"/scanner/rules/{rule_id}?preview=true")
    assert "&lt;script&gt;alert(1)" in page
    assert HOSTILE not in page


@pytest.mark.parametrize(("name", "role"), [("vera", "viewer"), ("otto", "operator")])
async def test_roles_see_what_they_may_do(admin: Browser, served: Served, name: str, role: str) -> None:
    connection_id = await connected(admin)
    rule_id = await ruled(admin, connection_id)
    async with browser_as(served, name, role) as browser:
        rule = await browser.get(f"/scanner/rules/{rule_id}")
        connections = await browser.get("/scanner/connections")
        connection = await browser.get(f"/scanner/connections/{connection_id}")
        await browser.get("/scanner/scans")
        assert "Test and add" not in connections
        assert "Change the connection" not in connection
        assert ("Activate" in rule) is (role == "operator")
        assert ("<fieldset disabled" in rule) is (role == "viewer")
        await browser.get("/scanner/rules/new", 200 if role == "operator" else 403)
        await browser.post("/scanner/connections", FORM, 403)
        await browser.post(f"/scanner/connections/{connection_id}", FORM, 403)
        await browser.post(f"/scanner/connections/{connection_id}/prices", {}, 403)
        await browser.post(f"/scanner/connections/{connection_id}/remove", {}, 403)
        if role == "viewer":
            for path in ("new", rule_id, f"{rule_id}/activate", f"{rule_id}/pause", f"{rule_id}/scan"):
                await browser.post(f"/scanner/rules/{path}", terms(connection_id), 403)


async def test_a_form_without_its_nonce_changes_nothing(admin: Browser) -> None:
    admin.nonce = "forged"
    await admin.post("/scanner/connections", FORM, 403)
    assert "No connection yet" in await admin.get("/scanner/connections")
