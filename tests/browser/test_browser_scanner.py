"""What business people do on the scanner's pages, in a real browser: on a phone, by keyboard alone, without scripts.

What a page says is tested over HTTP, beside its code. Here is what only a browser can tell: what is hidden or cut off,
what cannot be read in one of the two colour schemes, where the keyboard leads, and what scripts replace.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from playwright.async_api import Browser, expect

from reclaim.common.contracts import DeskChanged
from reclaim.scanner.domain import KINDS
from services.scanner.tests.feeds_world import send
from services.scanner.tests.scanner_world import SECRET, SETTINGS, TERMS
from tests.browser.conftest import Console
from tests.browser.looks import READS, reach, unreadable

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]

LEGAL = {"kind": "department", "value": "Legal", "reason": "under review"}


async def stocked(console: Console) -> dict[str, str]:
    """Fill the console with one of everything; return the address of each page."""
    api = console.served.api()
    connection = await api(
        "POST",
        "/connections",
        201,
        json={
            "name": "Acme",
            "kind": "salesforce",
            "settings": SETTINGS,
            "credentials": {"client_secret": SECRET},
        },
    )
    for product in (
        {"key": "WORD", "name": "Word", "processes": ["windows:winword.exe"]},
        {"key": "SFDC", "name": "Sales", "components": ["WORD"]},
    ):
        await api("POST", "/products", 201, json=product)
    rule = await api("POST", "/rules", 201, json={**TERMS, "connection_id": connection["id"]})
    await api("PATCH", f"/rules/{rule['id']}", json={"filter": "user/department eq 'Sales'"})
    await api("POST", f"/rules/{rule['id']}/activate")
    await api("POST", "/exclusions", 201, json=LEGAL)
    run = await api("POST", "/scans", 202, json={"rule_id": rule["id"]})
    await console.served.scanner.scan_all()
    await api("POST", "/usage", json={"source": "agent", "records": [_record()]})
    (row, *_) = (await api("GET", f"/rules/{rule['id']}/products"))["products"]
    at = "/scanner"
    return {
        "connections": f"{at}/connections",
        "connection": f"{at}/connections/{connection['id']}",
        "applications": f"{at}/connections/{connection['id']}/applications",
        "products": f"{at}/products",
        "product": f"{at}/products/SFDC",
        "rules": f"{at}/rules",
        "new rule": f"{at}/rules/new",
        "rule": f"{at}/rules/{rule['id']}?preview=true",
        "its products": f"{at}/rules/{rule['id']}/products",
        "a product's filter": f"{at}/rules/{rule['id']}/products/{row['id']}/filter",
        "what changed": f"{at}/rules/{rule['id']}/diff",
        "exclusions": f"{at}/exclusions",
        "filters": f"{at}/filters",
        "scans": f"{at}/scans",
        "scan": f"{at}/scans/{run['id']}",
        "explain": f"{at}/explain?connection_id={connection['id']}&holder=u00004",
        "sources": f"{at}/sources",
        "imports": f"{at}/imports",
    }


def _record() -> dict[str, Any]:
    return {
        "user": "nobody-here",
        "product": "SFDC",
        "period_start": "2026-10-01T00:00:00Z",
        "period_end": "2026-11-01T00:00:00Z",
        "seconds": 60,
    }


async def _others(console: Console) -> dict[str, str]:
    """Return pages of the other kinds of connection, and of a file with a bad row."""
    scanner = console.served.scanner
    file = await send(scanner, "User,Product,Month,Runs\nann,Visio,2026-10,1\nbo,=x,2026-10,1\n")
    await send(scanner, "Device,Product\nPC-1,Visio\n", what="installations", complete="yes")
    fleet = await console.served.api()("POST", "/connections", 201, json={"name": "Fleet", "kind": "installed"})
    return {
        "a file": f"/scanner/imports/{file.id}",
        "a rule on devices": f"/scanner/rules/new?connection={fleet['id']}",
        **{f"connect {kind}": f"/scanner/connections?kind={kind}" for kind in KINDS},
    }


@pytest.mark.parametrize("phone", [True, False], ids=["phone", "desk"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_every_page_can_be_read(console: Console, scheme: str, phone: bool) -> None:
    pages = {**await stocked(console), **await _others(console)}
    async with console.page(phone=phone, scheme=scheme) as page:
        assert await unreadable(page, pages) == {}


async def test_what_is_wrong_with_a_page_would_be_found(browser: Browser) -> None:
    page = await browser.new_page(viewport={"width": 390, "height": 844})
    await page.set_content(
        "<body style='background:#fff'><p style='color:#999'>pale</p><input name='bare'><a href='/'></a>"
        "<p id='twin'>one</p><p id='twin' style='width:900px'>two</p></body>"
    )
    wrong = " ".join(await page.evaluate(READS))
    await page.close()
    for what in ("wider than the screen", "not one heading", "called twin", "no label: bare", "no text", "pale"):
        assert what in wrong


async def test_the_preview_stands_beside_the_form_and_under_it_on_a_phone(console: Console) -> None:
    pages = await stocked(console)
    for phone in (False, True):
        async with console.page(phone=phone) as page:
            await page.goto(pages["rule"])
            form = await page.locator("form", has=page.get_by_role("button", name="Preview")).bounding_box()
            shown = await page.locator("#preview").bounding_box()
        assert form is not None
        assert shown is not None
        beside = shown["x"] >= form["x"] + form["width"] and shown["y"] == form["y"]
        below = shown["x"] == form["x"] and shown["y"] >= form["y"] + form["height"]
        assert (beside, below) == (not phone, phone)


async def test_the_preview_follows_the_form_and_says_what_saving_changes(console: Console) -> None:
    pages = await stocked(console)
    async with console.page(phone=False) as page:
        await page.goto(pages["rule"].partition("?")[0])
        preview = page.locator("#preview")
        await expect(preview).to_contain_text("Nothing is opened or changed")
        await page.get_by_label("Grace period (days)").fill("33")
        await page.get_by_label("Grace period (days)").blur()
        await expect(preview).to_contain_text("Would be flagged")
        await expect(preview.get_by_role("row", name="Grace period (days)")).to_contain_text("33")
        await expect(preview.get_by_role("row", name="Grace period (days)")).to_be_in_viewport()
        await expect(page.get_by_label("Grace period (days)")).to_have_value("33")


async def test_a_filter_is_put_together_with_scripts_and_the_form_stays(console: Console) -> None:
    pages = await stocked(console)
    async with console.page() as page:
        await page.goto(pages["new rule"])
        await page.get_by_label("Name", exact=True).fill("Half entered")
        await page.get_by_text("Which of these seats").click()
        await page.get_by_label("Field").select_option("user/department")
        await page.get_by_label("Value").fill("Sales")
        await page.get_by_role("button", name="Write the text from the rows").click()
        await expect(page.get_by_label("As text")).to_have_value("user/department eq 'Sales'")
        await page.get_by_role("button", name="Add a condition").click()
        await expect(page.get_by_label("Field")).to_have_count(2)
        await expect(page.get_by_label("Name", exact=True)).to_have_value("Half entered")
        assert page.url.endswith("/scanner/rules/new")


async def test_a_rule_is_made_by_keyboard_alone(console: Console) -> None:
    await stocked(console)
    async with console.page(phone=False) as page:
        await page.keyboard.press("Tab")
        assert await page.evaluate("document.activeElement.textContent") == "Skip to the content"
        await page.keyboard.press("Enter")
        await reach(page, "New rule")
        await page.keyboard.press("Enter")
        await page.wait_for_url("**/rules/new")
        press, write = page.keyboard.press, page.keyboard.type
        await reach(page, "Name")
        await write("By keyboard")
        await reach(page, "SFDC")
        await press("Space")
        await reach(page, "Which of these seats")
        await press("Enter")
        await reach(page, "Field")
        await write("Holder: dep")
        await reach(page, "Value")
        await write("Sales")
        await reach(page, "Unused for (days)")
        await write("90")
        await reach(page, "By e-mail")
        await press("Space")
        await reach(page, "Time to decide (days)")
        await write("7")
        await reach(page, "Freeze the seat")
        await press("ArrowDown")
        await reach(page, "Grace period (days)")
        await write("14")
        # Enter saves; it does not press the first button of the filter, which would take its row out.
        await press("Enter")
        await page.wait_for_url("**/rules/*?preview=true")
        await expect(page.locator("h1")).to_have_text("By keyboard")
        await expect(page.get_by_label("As text")).to_have_value("user/department eq 'Sales'")
        await expect(page.get_by_role("radio", name="Keep the seat")).to_be_checked()


async def test_a_rule_is_made_previewed_and_scanned_without_scripts(console: Console) -> None:
    await stocked(console)
    async with console.page(scripts=False) as page:
        await page.goto("/scanner/rules/new")
        await page.get_by_label("Name", exact=True).fill("Without scripts")
        await page.get_by_role("checkbox", name="SFDC").check()
        await page.get_by_text("Which of these seats").click()
        await page.get_by_label("Field").select_option("price")
        await page.get_by_label("Value").fill("many")
        await page.get_by_role("button", name="Write the text from the rows").click()
        await expect(page.locator("#filter_value-0-0-error")).to_contain_text("number")
        await expect(page.get_by_label("Name", exact=True)).to_have_value("Without scripts")
        await page.get_by_label("Value").fill("100")
        await page.get_by_label("Comparison").select_option("gt")
        await page.get_by_label("Unused for (days)").fill("90")
        await page.get_by_role("button", name="Preview").click()
        assert page.url.endswith("#preview")
        await expect(page.locator("#preview")).to_contain_text("Would be flagged")
        await page.get_by_role("radio", name="By e-mail").check()
        await page.get_by_label("Time to decide (days)").fill("7")
        await page.get_by_role("radio", name="Keep the seat").check()
        await page.get_by_label("Grace period (days)").fill("14")
        await page.get_by_role("button", name="Save as draft").click()
        await expect(page.locator("h1")).to_have_text("Without scripts")
        await expect(page.get_by_label("As text")).to_have_value("price gt 100")
        await page.get_by_role("button", name="Activate").click()
        await page.get_by_role("button", name="Scan now").click()
        await expect(page.locator("h1")).to_have_text("Without scripts")
        await expect(page.locator("noscript meta[http-equiv=refresh]")).to_have_count(1)
        await console.served.scanner.scan_all()
        await page.reload()
        await expect(page.locator("main")).to_contain_text("Finished")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_a_rules_desk_is_chosen_without_scripts_on_a_phone(console: Console, scheme: str) -> None:
    pages = await stocked(console)
    hear = console.served.scanner.hear
    await hear(DeskChanged(desk_id="emea", platform="jira", asks=False, version=1))
    rule = pages["rule"].partition("?")[0]
    async with console.page(scripts=False, scheme=scheme) as page:
        await page.goto(rule)
        await page.get_by_role("radio", name="By service desk").check()
        await page.get_by_label("Service desk").last.select_option("emea")
        await page.get_by_role("button", name="Save", exact=True).click()
        await expect(page.get_by_label("Service desk").last).to_have_value("emea")
        await hear(DeskChanged(desk_id="emea", platform="jira", asks=False, version=2, removed=True))
        await page.goto(rule)
        await expect(page.get_by_role("alert")).to_contain_text("The service desk emea was disconnected")
        await expect(page.get_by_label("Service desk").last).to_have_value("emea")
        assert await unreadable(page, {"with its desk gone": rule}) == {}


async def test_a_scan_shows_its_progress_and_its_end_by_itself(console: Console) -> None:
    pages = await stocked(console)
    connectors = console.served.scanner.connectors
    go_on, reading = asyncio.Event(), asyncio.Event()
    opened = connectors.reader

    def slowly(profile: Any) -> Any:
        reader = opened(profile)
        seats = reader.seats

        async def halting(products: Any) -> Any:
            async for part in seats(products):
                yield part
                reading.set()
                await go_on.wait()

        reader.seats = halting
        return reader

    connectors.reader = slowly  # type: ignore[method-assign]
    async with console.page() as page:
        await page.goto(pages["rule"].partition("?")[0])
        await page.get_by_role("button", name="Scan as dry run").click()
        working = asyncio.create_task(console.served.scanner.scan_all())
        await reading.wait()
        await expect(page.locator("#run")).to_contain_text("Running")
        await expect(page.get_by_role("progressbar", name="Seats read")).to_be_visible()
        go_on.set()
        await working
        await expect(page.locator("#run")).to_contain_text("Finished")
        await expect(page.locator("#run[hx-trigger]")).to_have_count(0)
