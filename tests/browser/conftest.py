"""Chromium, and pages behind a real port for it to look at: the scanner's, and those of service desks."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import uvicorn
from playwright.async_api import Browser, Page, async_playwright, expect

from reclaim.common.clock import FixedClock
from reclaim.web.operators import hash_password
from services.scanner.tests.scanner_world import NOON, Served, serving, small_org
from tests.support.itsm_desks import World, gateway

CHROMIUM_VARIABLE = "RECLAIM_TEST_CHROMIUM"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PHONE = {"width": 390, "height": 844}
DESK = {"width": 1280, "height": 900}


@dataclass
class Browsing:
    """Pages behind a port, the first of them and its heading, and a browser to open them in."""

    url: str
    browser: Browser
    first: str
    heading: str

    @asynccontextmanager
    async def page(self, *, phone: bool = True, scripts: bool = True, scheme: str = "light") -> AsyncIterator[Page]:
        """Open a page that an administrator has signed in on; whatever its console complains of fails the test."""
        viewport: Any = PHONE if phone else DESK
        colours: Any = scheme
        context = await self.browser.new_context(
            base_url=self.url, java_script_enabled=scripts, viewport=viewport, color_scheme=colours
        )
        context.set_default_timeout(10_000)
        complaints: list[str] = []
        try:
            page = await context.new_page()
            page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
            page.on("pageerror", lambda error: complaints.append(str(error)))
            await self._sign_in(page)
            yield page
        finally:
            await context.close()
        assert complaints == []

    async def _sign_in(self, page: Page) -> None:
        await page.goto(f"/auth/sign-in?next={self.first}")
        await page.get_by_label("Name").fill("anna")
        await page.get_by_label("Password").fill("admin-password")
        await page.keyboard.press("Enter")
        await expect(page.locator("h1")).to_have_text(self.heading)


@dataclass
class Console(Browsing):
    """The scanner behind its port."""

    served: Served


@dataclass
class DeskConsole(Browsing):
    """The gateway behind its port, and simulated desks behind theirs."""

    world: World


def chromium() -> str:
    """Return where Chromium is.

    Raises:
        pytest.UsageError: it is nowhere; the message says how to get it.
    """
    found = os.environ.get(CHROMIUM_VARIABLE) or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        raise pytest.UsageError(
            "These tests need Chromium: install it (on Debian: apt-get install chromium), or say in "
            f"{CHROMIUM_VARIABLE} where it is."
        )
    return found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    # Chromium's sandbox does not start for root.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    async with async_playwright() as playwright:
        opened = await playwright.chromium.launch(executable_path=chromium(), args=arguments)
        yield opened
        await opened.close()


@pytest_asyncio.fixture(loop_scope="module")
async def console(browser: Browser, tmp_path: Path) -> AsyncIterator[Console]:
    """The scanner over an org of six (two to flag, one in use, two left alone, and their manager), on a real port."""
    clock = FixedClock(NOON)
    with socket.socket() as listening:
        url = _bound(listening)
        async with (
            serving(tmp_path, small_org(clock), clock, public_url=url) as served,
            _answering(served.host.app, listening),
        ):
            yield Console(url, browser, "/scanner/rules", "Rules", served)


@pytest_asyncio.fixture(loop_scope="module")
async def desks(browser: Browser, tmp_path: Path) -> AsyncIterator[DeskConsole]:
    """The gateway without any desk, and the simulated ones, on real ports."""
    operators = {"anna": f"admin:{hash_password('admin-password')}"}
    with socket.socket() as listening:
        url = _bound(listening)
        async with (
            gateway(tmp_path, public_url=url, operators=operators) as world,
            _answering(world.site.host.app, listening),
        ):
            yield DeskConsole(url, browser, "/itsm-gateway/", "Service desk", world)


def _bound(listening: socket.socket) -> str:
    listening.bind(("127.0.0.1", 0))
    return f"http://127.0.0.1:{listening.getsockname()[1]}"


@asynccontextmanager
async def _answering(app: Any, listening: socket.socket) -> AsyncIterator[None]:
    config = uvicorn.Config(app, log_config=None, access_log=False, server_header=False, lifespan="off")
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve(sockets=[listening]))
    yield
    server.should_exit = True
    await running
