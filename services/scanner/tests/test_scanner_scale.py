"""What a scan costs as an org grows: calls by the org's own log, and memory, which must not follow the users."""

from __future__ import annotations

import gc
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest

from reclaim.common import migrate, outbox
from reclaim.common.bus.inproc import InprocBus
from reclaim.common.clock import FixedClock
from reclaim.common.contracts import Person
from reclaim.common.service import Running
from reclaim.connectors.fake import FakeOrg, FakeReader
from reclaim.connectors.ports import ConnectionProfile, Licence, SeatRecord
from reclaim.connectors.registry import Registry
from reclaim.sandbox.app import Sandbox
from reclaim.scanner import actions, store
from reclaim.scanner.ports import Deps
from reclaim.scanner.service import build
from reclaim.scanner.store import Run
from services.scanner.tests.scanner_world import (
    FAST,
    NOON,
    SECRET,
    SETTINGS,
    TERMS,
    Scanner,
    filled,
    idle,
    sealer_of,
    settings_for,
    started,
)

ROWS_A_PAGE = 2_000
EACH_CHECK = 4
CHECKS = 10


# ------------------------------------------------------------------------------------------------ calls


async def calls_of_a_scan(folder: Path, users: int) -> tuple[Run, Counter[str]]:
    """Scan a simulated org of so many users; return the run, and the org's log of calls by what they asked for."""
    clock = FixedClock(NOON)
    settings = settings_for(folder, None, outgoing_allowed_hosts=["127.0.0.1"])
    running = Running.start(partial(build, settings=FAST), "scanner", settings, clock, InprocBus())
    await migrate.upgrade(running.database.engine, running.service.migrations)
    deps = Deps(running.database, clock, sealer_of(running), Registry(clock, settings.outgoing()), FAST)
    async with Sandbox(clock=clock, users=users) as sandbox:
        given = {"instance_url": sandbox.url, "client_id": sandbox.client_id}
        secret = {"client_secret": sandbox.client_secret}
        connection = await actions.add_connection(
            deps, name="Org", kind="salesforce", settings=given, credentials=secret
        )
        rule = await actions.add_rule(deps, connection.id, TERMS, author="otto")
        await actions.activate_rule(deps, rule.id)
        before = len(sandbox.org.request_log)
        run = await actions.start_scan(deps, rule.id, dry_run=False, accept_population=False, asked_by="otto")
        await next(job for job in running.service.jobs if job.name == "scan").run()
        log = list(sandbox.org.request_log)[before:]
    async with running.database.reading() as db:
        done = await store.run(db, run.id)
    await running.close()
    await running.bus.close()
    return done, Counter((entry.query or entry.path).partition(" FROM ")[2].partition(" ")[0] for entry in log)


async def test_calls_are_users_by_two_thousand_and_a_constant_for_each_check(tmp_path: Path) -> None:
    others = set()
    for users in (1_000, 9_000):
        run, calls = await calls_of_a_scan(tmp_path / str(users), users)
        assert (run.status, run.seen) == ("finished", users)
        pages = -(-users // ROWS_A_PAGE)
        assert calls.total() <= pages + EACH_CHECK * CHECKS, calls
        others.add(calls.total() - pages)
    assert len(others) == 1, "beside the pages of users nothing grows"


# ------------------------------------------------------------------------------------------------ memory


@dataclass(slots=True)
class LongOrg(FakeOrg):
    """So many users that they are made up while they are listed; every tenth is idle."""

    users_listed: int = 0

    def reader(self, profile: ConnectionProfile | None = None) -> LongReader:
        return LongReader(self)


class LongReader(FakeReader):
    _org: LongOrg

    async def licences(self) -> Sequence[Licence]:
        return [Licence("SFDC", "Salesforce", None, self._org.users_listed)]

    async def seats(self, products: Sequence[str]) -> AsyncIterator[Sequence[SeatRecord]]:
        pattern = self._seat(self._org.users["u00001"])
        for start in range(0, self._org.users_listed, self._org.page_size):
            yield [
                replace(
                    pattern,
                    holder=Person(id=f"h{number:07}", name=f"Holder {number}", email=f"h{number}@acme.example"),
                    last_used_at=pattern.last_used_at if number % 10 == 0 else NOON,
                )
                for number in range(start, min(start + self._org.page_size, self._org.users_listed))
            ]


async def peak_of_a_scan(scanner: Scanner, users: int) -> tuple[Run, int]:
    """Return a scan of so many users, and the most bytes that it had allocated at once."""
    org = scanner.org
    assert isinstance(org, LongOrg)
    org.users_listed = users
    connection = await actions.add_connection(
        scanner.deps,
        name=f"Org of {users}",
        kind="salesforce",
        settings=SETTINGS,
        credentials={"client_secret": SECRET},
    )
    rule = await actions.add_rule(scanner.deps, connection.id, {**TERMS, "name": f"{users}"}, author="otto")
    await actions.activate_rule(scanner.deps, rule.id)
    run = await actions.start_scan(scanner.deps, rule.id, dry_run=False, accept_population=False, asked_by="otto")
    gc.collect()
    tracemalloc.start()
    await scanner.scan_all()
    _now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    async with scanner.running.database.reading() as db:
        return await store.run(db, run.id), peak


@pytest.fixture
def nothing_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep no events in memory for a relay that does not run here; a running service keeps `outbox.AT_HAND` of them."""
    monkeypatch.setattr(outbox, "AT_HAND", 0)


@pytest.mark.usefixtures("nothing_at_hand")
async def test_memory_does_not_grow_with_users(tmp_path: Path, clock: FixedClock) -> None:
    small = filled(clock, [idle(1)])
    org = LongOrg(clock=clock, users=small.users, page_size=500)
    async with started(tmp_path, org, clock) as scanner:
        await peak_of_a_scan(scanner, 1_000)  # what is only made once: statements, parsers, pools
        run, few = await peak_of_a_scan(scanner, 2_000)
        assert (run.status, run.seen, run.flagged) == ("finished", 2_000, 200)
        run, many = await peak_of_a_scan(scanner, 6_000)
        assert (run.status, run.seen, run.flagged) == ("finished", 6_000, 600)
    assert many < 1.1 * few, f"{many:,} bytes for three times as many users, which took {few:,}"


@pytest.mark.usefixtures("nothing_at_hand")
async def test_the_measure_would_notice_users_that_are_kept(tmp_path: Path, clock: FixedClock) -> None:
    """The test above can fail: a reader that holds on to what it listed is seen."""
    hoard: list[Sequence[SeatRecord]] = []

    class Hoarding(LongReader):
        async def seats(self, products: Sequence[str]) -> AsyncIterator[Sequence[SeatRecord]]:
            async for page in super().seats(products):
                hoard.append(page)
                yield page

    class HoardingOrg(LongOrg):
        def reader(self, profile: ConnectionProfile | None = None) -> LongReader:
            return Hoarding(self)

    org = HoardingOrg(clock=clock, users=filled(clock, [idle(1)]).users, page_size=500)
    async with started(tmp_path, org, clock) as scanner:
        await peak_of_a_scan(scanner, 1_000)
        _run, few = await peak_of_a_scan(scanner, 2_000)
        hoard.clear()
        _run, many = await peak_of_a_scan(scanner, 6_000)
    assert many > 1.1 * few
