"""What people do on the pages of service desks, in a real browser: connecting one, and looking at its tickets.

What a page says is tested over HTTP, beside its code; what only a browser can tell is here, as for the scanner.
"""

from __future__ import annotations

import pytest
from playwright.async_api import Page, expect

from reclaim.sandbox.desks import freshservice
from tests.browser.conftest import DeskConsole
from tests.browser.looks import reach, unreadable
from tests.support.itsm_desks import PLATFORMS, World
from tests.support.itsm_gateway import flagged, life

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]

AT = "/itsm-gateway"
SETUP = f"{AT}/setup"


async def stocked(world: World) -> dict[str, str]:
    """Connect a desk by its pages, with a ticket of each state and a webhook; return the address of each page."""
    settings, credentials = PLATFORMS[world.platform]
    steps = {
        "": {"desk_id": "it", "platform": world.platform},
        "/it/sign-in": {"base_url": f"{world.sandbox.url}/desks/{world.platform}", **settings, **credentials},
        "/it/ticket": {"title": "Keep ${product_name}?", "description": "${answers}", "then": "go-on"},
        "/it/answers": {"tag_keep": "lr_keep", "tag_revoke": "lr_revoke", "tag_done": "lr_done"},
        "/it/test": {},
        "/it/trial": {},
        "/it/webhook": {"then": "go-on"},
        "/it/finish": {"asks": "yes"},
    }
    for step, form in steps.items():
        answer = await world.site.call("POST", f"{SETUP}{step}", role="admin", data=form)
        assert answer.status_code == 303, answer.text
    await world.site.tell(flagged("waiting"), flagged("frozen"))
    await world.run("open_tickets")
    await world.site.tell(life("frozen")[0])
    await world.run("tell_tickets")
    waiting = [ticket.tags for ticket in world.tickets()].index(["lr-case-waiting"])
    world.act("close", ticket=waiting)
    await world.run("poll_tickets")
    await world.site.handle()
    world.fault("request_limit", "GET", "freshservice/.*", times=1)
    await world.site.tell(flagged("failed"))
    await world.run("open_tickets")
    pages = {
        "tickets": f"{AT}/",
        "ticket": f"{AT}/requests/frozen",
        "ticket that could not be opened": f"{AT}/requests/failed",
        "webhooks": f"{AT}/deliveries",
        "webhook": f"{AT}/deliveries/1",
        "secrets": f"{AT}/secrets",
        "desks": SETUP,
    }
    return pages | {step: f"{SETUP}{step}" for step in steps if step}


@pytest.mark.parametrize("phone", [True, False], ids=["phone", "desk"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_every_page_of_desks_can_be_read(desks: DeskConsole, scheme: str, phone: bool) -> None:
    pages = await stocked(desks.world)
    async with desks.page(phone=phone, scheme=scheme) as page:
        assert await unreadable(page, pages) == {}


async def test_a_desk_is_connected_without_scripts_on_a_phone(desks: DeskConsole) -> None:
    world = desks.world
    async with desks.page(scripts=False) as page:
        await page.get_by_role("link", name="Connect a service desk").click()
        await page.get_by_role("radio", name="Freshservice").check()
        await page.get_by_label("Name of the connection").fill("it")
        await page.get_by_role("button", name="Begin").click()
        await fills(page, world, api_key="wrong")
        await page.get_by_role("button", name="Store and go on").click()
        await expect(page.get_by_text("No fields yet")).to_be_visible()
        await page.get_by_role("button", name="Store and go on").click()
        await page.get_by_role("button", name="Store and go on").click()
        await page.get_by_role("button", name="Test the connection").click()
        await expect(page.locator("main")).to_contain_text("Enter the credentials again.")
        await page.get_by_role("link", name="1. ").click()
        await expect(page.get_by_label("API key")).to_have_value("")
        await fills(page, world, api_key=freshservice.API_KEY)
        await page.get_by_role("button", name="Store and go on").click()
        await page.goto(f"{SETUP}/it/test")
        await page.get_by_role("button", name="Test the connection").click()
        await expect(page.locator("main")).to_contain_text("Everything that was tried works.")
        await page.get_by_role("link", name="Go on").click()
        await page.get_by_role("button", name="Send the test ticket").click()
        await page.get_by_role("link", name="Go on").click()
        await page.get_by_role("button", name="Make the secret").click()
        await expect(page.locator("main")).to_contain_text("It is not shown again.")
        await page.get_by_role("button", name="Go on without").click()
        await page.get_by_role("radio", name="Are asked at this desk").check()
        await page.get_by_role("button", name="Finish").click()
        await expect(page.locator("main")).to_contain_text("asks new cases")
    assert all(world.desk.is_closed(ticket) for ticket in world.tickets())


async def fills(page: Page, world: World, *, api_key: str) -> None:
    await page.get_by_label("Address").fill(f"{world.sandbox.url}/desks/freshservice")
    await page.get_by_label("API key").fill(api_key)
    await page.get_by_label("Requester").fill("reclaim@example.com")


async def test_a_desk_is_begun_by_keyboard_alone(desks: DeskConsole) -> None:
    async with desks.page(phone=False) as page:
        press, write = page.keyboard.press, page.keyboard.type
        await reach(page, "Connect a service desk")
        await press("Enter")
        await page.wait_for_url(f"**{SETUP}")
        await reach(page, "ServiceNow")
        await press("Space")
        await press("ArrowDown")
        await press("ArrowDown")
        await reach(page, "Name of the connection")
        await write("it")
        await press("Enter")
        await page.wait_for_url("**/it/sign-in")
        await reach(page, "Address")
        await write(f"{desks.world.sandbox.url}/desks/freshservice")
        await reach(page, "API key")
        await write(freshservice.API_KEY)
        await reach(page, "Requester")
        await write("reclaim@example.com")
        await press("Enter")
        await page.wait_for_url("**/it/ticket")
        await expect(page.locator("h1")).to_have_text("What a ticket says")
