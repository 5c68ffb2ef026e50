"""The pages of products, as a browser without scripts uses them."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import pytest

from reclaim.scanner import catalog_store
from reclaim.scanner.catalog import Changes, Row
from services.scanner.tests.scanner_world import SECRET, SETTINGS, TERMS, Served, nonce_of, signed_in

WORD = {"key": "WORD", "name": "Word", "publisher": "Acme", "components": "", "processes": "windows:winword.exe\n"}
OFFICE = {"key": "OFFICE", "name": "Office", "publisher": "Acme", "components": "WORD\r\n", "processes": ""}
HOSTILE = "<script>alert(1)</script>"


class Browser:
    """Posts forms with the nonce of the last page."""

    def __init__(self, client: object) -> None:
        self.client = client
        self.nonce = ""

    async def get(self, path: str, status: int = 200) -> str:
        answer = await self.client.get(path)  # type: ignore[attr-defined]
        assert answer.status_code == status, answer.text
        if 'name="form_nonce"' in answer.text:
            self.nonce = nonce_of(answer.text)
        return str(answer.text)

    async def post(self, path: str, data: dict[str, str] | None = None, status: int = 303, **more: object) -> str:
        answer = await self.client.post(path, data={"form_nonce": self.nonce, **(data or {})}, **more)  # type: ignore[attr-defined]
        assert answer.status_code == status, answer.text
        return await self.get(answer.headers["location"]) if status == 303 else str(answer.text)


@pytest.fixture
async def operator(served: Served) -> AsyncIterator[Browser]:
    client = await signed_in(served.host, "otto", "operator")
    browser = Browser(client)
    await browser.get("/scanner/products")
    yield browser
    await client.aclose()


async def ruled(served: Served, *products: str) -> str:
    api = served.api()
    connection = await api(
        "POST",
        "/connections",
        201,
        json={"name": "Acme", "settings": SETTINGS, "credentials": {"client_secret": SECRET}},
    )
    rule = await api(
        "POST", "/rules", 201, json={**TERMS, "connection_id": connection["id"], "products": list(products)}
    )
    return str(rule["id"])


async def test_a_catalogue_is_made_searched_and_looked_at(operator: Browser) -> None:
    assert "No product yet" in await operator.get("/scanner/products")
    page = await operator.post("/scanner/products", WORD)
    assert "winword.exe" in page
    page = await operator.post("/scanner/products", OFFICE)
    assert "Suite" in page
    assert 'href="/scanner/products/WORD"' in page
    assert "Office" in await operator.get("/scanner/products/WORD"), "the suite it is in"
    found = await operator.get("/scanner/products?q=wor")
    assert 'href="/scanner/products/WORD"' in found
    assert 'href="/scanner/products/OFFICE"' not in found
    assert "Nothing found" in await operator.get("/scanner/products?q=nothing")
    page = await operator.post("/scanner/products/WORD", {**WORD, "name": HOSTILE})
    assert HOSTILE not in page
    assert "&lt;script&gt;" in page
    page = await operator.post("/scanner/products/remove", {"key": "WORD"})
    assert "Office" in page
    assert 'href="/scanner/products/WORD"' not in page
    await operator.get("/scanner/products/WORD", 404)


async def test_what_was_entered_is_kept_beside_what_does_not_fit(operator: Browser) -> None:
    page = await operator.post("/scanner/products", {**WORD, "processes": "word.exe"}, 422)
    assert 'value="WORD"' in page
    assert "is no platform" in page
    await operator.post("/scanner/products", WORD)
    page = await operator.post("/scanner/products/WORD", {**WORD, "components": "NONE"}, 422)
    assert "no product NONE" in page


async def test_a_file_is_imported_and_its_bad_lines_are_listed(operator: Browser) -> None:
    data = b"key,name\nWORD,Word\n=cmd(),Formula\n"
    page = await operator.post("/scanner/products.csv", status=200, files={"file": ("products.csv", data, "text/csv")})
    assert "1 added" in page
    assert "Line 3" in page
    assert "1 lines were left out" in page
    nothing = await operator.post("/scanner/products.csv", status=422, files={"file": ("", b"", "text/csv")})
    assert "Choose a CSV file" in nothing
    assert "WORD,Word" in await operator.get("/scanner/products.csv")


async def test_a_rules_page_shows_components_read_only_under_their_suite(served: Served, operator: Browser) -> None:
    await operator.post("/scanner/products", WORD)
    await operator.post("/scanner/products", OFFICE)
    rule = await ruled(served, "SFDC")
    base = f"/scanner/rules/{rule}/products"
    assert base in await operator.get(f"/scanner/rules/{rule}")
    page = await operator.post(base, {"product": "OFFICE", "filter": ""})
    assert "Components of Office" in page
    async with served.scanner.running.database.reading() as db:
        rows = {stored.row.product: stored for stored in await catalog_store.rows(db, rule)}
    assert f"{base}/{rows['OFFICE'].id}/remove" in page
    assert rows["WORD"].id not in page, "a component has no form"
    refused = await operator.post(f"{base}/{rows['WORD'].id}", {"filter": ""}, 409)
    assert "Change the row of OFFICE" in refused
    assert "At character 2" in await operator.post(f"{base}/{rows['OFFICE'].id}", {"filter": "x"}, 422)
    page = await operator.post(f"{base}/{rows['OFFICE'].id}", {"product": "WORD"})
    assert "Components of" not in page
    async with served.scanner.running.database.reading() as db:
        word = next(one.id for one in await catalog_store.rows(db, rule) if one.row.product == "WORD")
    page = await operator.post(f"{base}/{word}/remove")
    assert word not in page
    await operator.post(f"{base}/{word}/nothing", status=404)


async def test_a_legacy_row_can_be_renewed(served: Served, operator: Browser) -> None:
    await operator.post("/scanner/products", WORD)
    await operator.post("/scanner/products", OFFICE)
    rule = await ruled(served, "OFFICE")
    async with served.scanner.running.database.unit() as unit:
        rows = tuple(stored.row for stored in await catalog_store.rows(unit.db, rule))
        change = Changes(added=(Row(product="OFFICE", mode="legacy"),), removed=rows)
        await catalog_store.write(unit.db, rule, change, author="before", now=unit.now)
    page = await operator.get(f"/scanner/rules/{rule}/products")
    assert "Legacy" in page
    renew = re.search(rf"/scanner/rules/{rule}/products/[\w-]+/renew", page)
    assert renew
    assert "Components of Office" in await operator.post(renew[0])


async def test_a_viewer_sees_no_form(served: Served, operator: Browser) -> None:
    await operator.post("/scanner/products", WORD)
    rule = await ruled(served, "WORD")
    client = await signed_in(served.host, "vera", "viewer")
    viewer = Browser(client)
    for path in ("/scanner/products", "/scanner/products/WORD", f"/scanner/rules/{rule}/products"):
        page = await viewer.get(path)
        assert 'action="/scanner/products"' not in page or 'method="get"' in page
        assert "/remove" not in page
    answer = await client.post("/scanner/products", data={"form_nonce": viewer.nonce, **OFFICE})
    assert answer.status_code == 403
    await client.aclose()
