"""Rules on use through two services: what the scanner flags by its sources waits for their word at each step."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from reclaim.common import envelope
from reclaim.common.contracts import CONSUMERS, UserFlagged
from reclaim.lifecycle.domain import State
from reclaim.scanner import actions, store
from reclaim.scanner.ports import Deps
from reclaim.scanner.settings import ScannerSettings
from reclaim.scanner.usage import InstallationRecord, Report, UsageRecord, Window
from reclaim.scanner.usage_store import add_installations, add_records, add_report, end_inventory
from services.lifecycle.tests.lifecycle_site import DAY, NOW, Site, decided, delivered, serving
from services.scanner.tests.scanner_world import TERMS, sealer_of
from services.scanner.tests.test_scanner_acceptance_usage import LONG_AGO, OCTOBER, UNDER_20

RULE: dict[str, Any] = {
    **TERMS,
    **UNDER_20,
    "name": "Visio that nobody draws with",
    "products": ["visio"],
    "young_days": 0,
    "fallback_approver": "desk@example.com",
}


class Both:
    """The scanner and the lifecycle of one installation, each with its database; events go between them by hand."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.running = {running.service.name: running for running in site.host.running}
        scanner = self.running["scanner"]
        self.deps = Deps(
            database=scanner.database,
            clock=site.clock,
            sealer=sealer_of(scanner),
            connectors=site.org,  # type: ignore[arg-type]  # installed software has no connector
            settings=ScannerSettings(),
        )
        self.said: list[Any] = []
        self._carried: set[str] = set()

    async def settle(self) -> None:
        """Carry what each says to the other, and let the lifecycle act, until there is nothing more."""
        await self.site.act()
        while await self._carry():
            await self.site.act()

    async def _carry(self) -> bool:
        before = len(self._carried)
        for running in self.running.values():
            async with running.database.reading() as db:
                rows = (await db.exec_driver_sql("SELECT event_id, body FROM outbox ORDER BY seq")).all()
            for event_id, body in rows:
                if event_id in self._carried:
                    continue
                self._carried.add(event_id)
                message = envelope.join([bytes(body)])
                (event,) = [part.data for part in envelope.split(message)]  # type: ignore[union-attr]
                self.said.append(event)
                for name in CONSUMERS[type(event)]:
                    if name in self.running:
                        await self.running[name].inbox.receive([message])
        return len(self._carried) > before

    async def report(self, hours: float) -> None:
        """Do what an importer does with an inventory and a month of use."""
        now = self.site.clock.now()
        month = {"period_start": OCTOBER.start, "period_end": OCTOBER.end}
        async with self.deps.database.unit() as unit:
            place = {"user": "ann@example.com", "product": "visio", "device": "PC-1"}
            installed = InstallationRecord(**place, installed_at=NOW - 400 * DAY)
            used = UsageRecord(**place, **month, seconds=int(hours * 3600), runs=1)
            await add_installations(unit.db, "sccm", [installed], heard_at=now)
            await end_inventory(unit.db, "sccm", heard_at=now)
            await add_records(unit.db, "sccm", [used], heard_at=now)
            period = Window(LONG_AGO, now)
            await add_report(unit.db, Report(source="sccm", product="visio", period=period, heard_at=now))

    async def flagged(self) -> str:
        """Scan by a rule on installed software; return the case."""
        await self.report(3.5)
        connection = await actions.add_connection(
            self.deps, name="Desktops", kind="installed", settings={"sources": "sccm"}, credentials={}
        )
        rule = await actions.add_rule(self.deps, connection.id, RULE, author="otto")
        await actions.activate_rule(self.deps, rule.id)
        await actions.start_scan(self.deps, rule.id, dry_run=False, accept_population=False, asked_by="otto")
        await self.job("scan")
        await self.settle()
        (event,) = [event for event in self.said if isinstance(event, UserFlagged)]
        return event.case_id

    async def revoke(self, case_id: str) -> None:
        """Let the approver answer."""
        asked, answer = (replace(event, case_id=case_id) for event in (delivered(0), decided(0, "revoke")))
        await self.site.tell(asked, answer)
        await self.settle()

    async def job(self, name: str) -> None:
        await next(job for job in self.running["scanner"].service.jobs if job.name == name).run()

    async def state(self, case_id: str) -> State:
        return (await self.site.case(case_id)).state


@pytest.fixture
async def both(tmp_path: Path) -> AsyncIterator[Both]:
    async with serving(tmp_path, also=["scanner"]) as site:
        yield Both(site)


async def test_installed_software_goes_from_an_inventory_to_a_task(both: Both) -> None:
    case_id = await both.flagged()
    await both.revoke(case_id)
    assert await both.state(case_id) is State.IN_GRACE
    both.site.clock.advance(14 * DAY)
    await both.report(3.5)
    await both.settle()
    assert await both.state(case_id) is State.AWAITING_FULFILMENT
    case = await both.site.case(case_id)
    assert case.told is not None
    assert case.told.reason.startswith("PC-1: 3.50 hours of 20")
    notes = [moment.link.entry.note for moment in await both.site.history(case_id)]
    assert any("Uninstall visio from PC-1" in note for note in notes)
    assert both.site.org.writes == []


async def test_use_that_a_feed_tells_of_cancels_the_open_case(both: Both) -> None:
    case_id = await both.flagged()
    await both.report(20)
    await both.job("usage-news")
    await both.settle()
    assert await both.state(case_id) is State.CANCELLED
    async with both.deps.database.reading() as db:
        assert await store.open_count(db) == 0


async def test_a_source_that_fell_silent_before_the_step_stops_it_for_a_person(both: Both) -> None:
    case_id = await both.flagged()
    both.site.clock.advance(5 * DAY)
    await both.revoke(case_id)
    case = await both.site.case(case_id)
    assert case.state is State.ATTENTION
    assert case.attention is not None
    assert "sccm was last heard from" in case.attention.reason
