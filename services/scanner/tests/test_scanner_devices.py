"""What a file says of devices is there for filters: their names and their platforms."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from reclaim.common.clock import FixedClock
from reclaim.common.contracts import UserFlagged
from reclaim.scanner import catalog_actions
from reclaim.scanner.known_seats import KNOWN_SEATS
from services.scanner.tests.feeds_world import send
from services.scanner.tests.scanner_world import Scanner, filled, idle, started
from services.scanner.tests.test_scanner_acceptance_usage import complete, feed, installed_rule, inventory, on, visio
from services.scanner.tests.test_scanner_scan import ready, scanned


@pytest.fixture
async def one(tmp_path: Path, clock: FixedClock) -> AsyncIterator[Scanner]:
    async with started(tmp_path, filled(clock, [idle(1)]), clock) as scanner:
        yield scanner


@pytest.mark.parametrize(
    ("text", "flagged"),
    [
        ("device/name eq 'PC-1'", ["PC-1"]),
        ("device/platform eq 'macos'", ["MAC-1"]),
        ("not (device/platform eq 'macos')", ["PC-1"]),
        ("device/platform eq null", ["PC-2"]),
    ],
)
async def test_a_filter_asks_for_the_device_and_its_platform(one: Scanner, text: str, flagged: list[str]) -> None:
    file = (
        "User,Device,Product,Version,Platform,Installed On\n"
        "u1@acme.example,PC-1,visio,1.0,Windows 11,2025-01-02\n"
        "u1@acme.example,MAC-1,visio,1.0,macOS,2025-01-02\n"
        "u1@acme.example,PC-2,visio,1.0,,2025-01-02\n"
    )
    read = await send(one, file, what="installations", source="sccm", complete="true")
    assert (read.status, read.kept) == ("finished", 3), read
    devices = ("PC-1", "MAC-1", "PC-2")
    await feed(one, *(visio("u1@acme.example", 0.1, device) for device in devices), report=complete(product="visio"))
    run = await scanned(one, await installed_rule(one, filter=text))
    (event,) = await one.said(UserFlagged)
    assert list(event.seat.devices) == flagged
    assert (run.left_alone.get("filter"), run.seen) == (2, 3)


async def test_of_a_manager_nobody_has_read_yet_it_is_not_said_that_they_can_answer(one: Scanner) -> None:
    """As after an upgrade: the seats were read by a release that did not keep it. The fallback is asked."""
    await scanned(one, await ready(one), dry_run=True)
    async with one.running.database.unit() as unit:
        await unit.db.execute(sa.update(KNOWN_SEATS).values(manager_able=None))
    await catalog_actions.add_product(one.deps, {"key": "visio", "name": "Visio"}, author="otto")
    await inventory(one, on("PC-1"))
    await feed(one, visio("u1@acme.example", 1, "PC-1"), report=complete(product="visio"))
    await scanned(one, await installed_rule(one, fallback_approver="desk@acme.example"))
    event = (await one.said(UserFlagged))[-1]
    assert event.seat.devices == ("PC-1",)
    assert event.approver.email == "desk@acme.example"
