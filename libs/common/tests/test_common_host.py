"""The host: loops that fail come back, a start is ready only when the bus carries, and a stop comes to its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import httpx
import msgspec
import pytest
import sqlalchemy as sa
from cryptography.fernet import Fernet
from starlette.types import Receive, Scope, Send

from libs.common.tests.common_world import NOW, Carrier, Wall, closed, message, notice, settings, until, versions
from reclaim.common import host as hosting
from reclaim.common import migrate
from reclaim.common.bus import DEAD, RECEIPTS, Bus
from reclaim.common.bus.inproc import InprocBus
from reclaim.common.clock import FixedClock
from reclaim.common.contracts import CONSUMERS, CaseClosed, NoticeDelivered, NoticeFailed
from reclaim.common.db import Unit
from reclaim.common.errors import Invalid, Transient
from reclaim.common.host import READY_FOR, Host, _supervise
from reclaim.common.inbox import Received
from reclaim.common.outbox import Receipt
from reclaim.common.routing import Router
from reclaim.common.service import Build, Job, Runtime, Service, chosen, installed


async def ignore(unit: Unit, events: object) -> None:
    """Handle an event by doing nothing."""


def build_of(
    folder: Path,
    name: str = "lifecycle",
    *,
    jobs: tuple[Job, ...] = (),
    close: Callable[[], Awaitable[None]] | None = None,
) -> Build:
    def build(_runtime: Runtime) -> Service:
        return Service(
            name=name,
            metadata=migrate.service_metadata(),
            migrations=versions(folder, name),
            subscriptions={event: ignore for event, consumers in CONSUMERS.items() if name in consumers},
            jobs=jobs,
            router=Router(),
            close=close,
        )

    return build


@contextlib.asynccontextmanager
async def started(folder: Path, *jobs: Job, bus: Bus | None = None, **builds: Build) -> AsyncIterator[Host]:
    host = Host(
        settings(folder),
        builds or {"lifecycle": build_of(folder, jobs=jobs)},
        bus=bus or InprocBus(),
        clock=FixedClock(NOW),
    )
    await host.prepare()
    async with host.started():
        yield host


class Probed(Carrier):
    """A bus whose probes come back while it is not away."""

    async def probe(self, service: str) -> None:
        await asyncio.sleep(0)
        if self.away is not None:
            raise self.away


async def test_a_service_catches_up_when_the_bus_has_carried_for_a_while(
    tmp_path: Path, wall: Wall, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others may still be about to publish what had to wait."""
    monkeypatch.setattr(hosting, "PROBE_EVERY", 0.01)
    given: list[Runtime] = []

    def build(runtime: Runtime) -> Service:
        given.append(runtime)
        return build_of(tmp_path)(runtime)

    bus = Probed(settles=25)
    async with started(tmp_path, bus=bus, lifecycle=build) as host:
        (runtime,) = given
        for _ in range(2):
            await until(lambda: "lifecycle" in host.carrying_since)
            await until(lambda: host.running[0].relayed)
            with pytest.raises(Transient, match="others may have more to say"):
                await runtime.catch_up()
            wall.move(25)
            await runtime.catch_up()
            bus.away = Transient("the broker is away")
            with pytest.raises(Transient, match="away"):
                await runtime.catch_up()
            await until(lambda: "lifecycle" not in host.carrying_since)
            bus.away = None


async def test_a_service_catches_up_when_what_was_said_before_the_start_is_on_the_bus(tmp_path: Path) -> None:
    given: list[Runtime] = []

    def build(runtime: Runtime) -> Service:
        given.append(runtime)
        return build_of(tmp_path)(runtime)

    bus = Probed(away=Transient("the broker is away"))
    host = Host(settings(tmp_path), {"lifecycle": build}, bus=bus, clock=FixedClock(NOW))
    await host.prepare()
    async with host.running[0].database.unit() as unit:
        unit.emit(closed(1))
    host.carrying_since["lifecycle"] = 0
    (runtime,) = given
    async with host.started():
        await asyncio.sleep(0.1)
        with pytest.raises(Transient, match="still being published"):
            await runtime.catch_up()
        bus.away = None
        await until(lambda: host.running[0].relayed)
        await until(lambda: "lifecycle" in host.carrying_since)
        await runtime.catch_up()
        assert len(bus.published) == 1


# ------------------------------------------------------------------------------------------- supervision


class Naps:
    """Stands in for the host's `asyncio.sleep`: notes how long, and takes no time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.taken: list[float] = []
        self._sleep = asyncio.sleep
        monkeypatch.setattr(hosting.asyncio, "sleep", self)

    async def __call__(self, seconds: float) -> None:
        self.taken.append(seconds)
        await self._sleep(0)


async def supervised(run: Callable[[], Awaitable[None]], finished: asyncio.Event) -> None:
    task = asyncio.create_task(_supervise("lifecycle.job", run))
    async with asyncio.timeout(5):
        await finished.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_loop_that_fails_starts_again_with_growing_waits(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    naps, finished, runs = Naps(monkeypatch), asyncio.Event(), 0

    async def run() -> None:
        nonlocal runs
        runs += 1
        if runs > 12:
            finished.set()
            await asyncio.Event().wait()
        raise (Transient("the desk is away") if runs % 2 else ZeroDivisionError("a defect"))

    await supervised(run, finished)
    assert len(naps.taken) == 12
    for number, nap in enumerate(naps.taken):
        assert 0.8 * min(0.1 * 2**number, 15) <= nap <= 1.2 * min(0.1 * 2**number, 15)
    by_level = {record.levelno: record for record in caplog.records}
    assert by_level[logging.WARNING].exc_info is None, "an outage is no reason for a stack trace"
    assert by_level[logging.ERROR].exc_info is not None
    assert "lifecycle.job stopped" in caplog.text


async def test_after_a_minute_of_quiet_the_waits_begin_anew(monkeypatch: pytest.MonkeyPatch, wall: Wall) -> None:
    naps, finished, runs = Naps(monkeypatch), asyncio.Event(), 0

    async def run() -> None:
        nonlocal runs
        runs += 1
        if runs == 6:
            wall.move(61)
        if runs > 6:
            finished.set()
            await asyncio.Event().wait()
        raise Transient("away")

    await supervised(run, finished)
    assert naps.taken[4] > 1
    assert naps.taken[5] < 0.2


async def test_a_loop_whose_library_cancels_what_it_waits_for_starts_again(monkeypatch: pytest.MonkeyPatch) -> None:
    naps, finished, runs = Naps(monkeypatch), asyncio.Event(), 0

    async def run() -> None:
        nonlocal runs
        runs += 1
        if runs > 3:
            finished.set()
            await asyncio.Event().wait()
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    await supervised(run, finished)
    assert len(naps.taken) == 3


async def test_a_failing_job_takes_no_neighbour_along(tmp_path: Path) -> None:
    runs = {"bad": 0, "good": 0}

    async def bad() -> bool:
        runs["bad"] += 1
        raise ZeroDivisionError

    async def good() -> bool:
        runs["good"] += 1
        return False

    async with started(tmp_path, Job("bad", bad, every=0.01), Job("good", good, every=0.01)) as host:
        await until(lambda: runs["good"] > 20 and runs["bad"] > 2)
        await until(lambda: "lifecycle" in host.carried_at)


async def test_a_job_that_found_work_looks_again_at_once_and_a_woken_one_too(tmp_path: Path) -> None:
    left, looked = 5, 0

    async def work() -> bool:
        nonlocal left, looked
        looked += 1
        left -= left > 0
        return left > 0

    async with started(tmp_path, Job("work", work, every=3600)) as host:
        await until(lambda: left == 0)
        settled = looked
        (running,) = host.running
        async with running.database.unit() as unit:
            left = 3
            unit.wake("work")
        await until(lambda: left == 0)
        assert looked > settled


# ------------------------------------------------------------------------------------------- readiness


async def test_it_is_ready_once_a_message_made_the_round_trip_and_for_a_while(tmp_path: Path, wall: Wall) -> None:
    builds = {name: build_of(tmp_path, name) for name in ("scanner", "lifecycle")}
    host = Host(settings(tmp_path), builds, bus=InprocBus(), clock=FixedClock(NOW))
    await host.prepare()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(host.app), base_url="http://host") as client:
        before = await client.get("/health/ready")
        assert before.status_code == 503
        assert before.json() == {"status": "waiting", "waiting_for_the_bus": ["scanner", "lifecycle"]}
        assert (await client.get("/health/live")).status_code == 200, "waiting is no reason to be killed"
        async with host.started():
            await until(lambda: len(host.carried_at) == 2)
            ready = await client.get("/health/ready")
            assert (ready.status_code, ready.json()["status"]) == (200, "ready")
            wall.move(READY_FOR / 1000 + 1)
            stale = await client.get("/health/ready")
            assert stale.status_code == 503, "a round trip long ago says nothing"
        assert (await client.get("/metrics")).status_code == 200


async def test_it_is_ready_while_it_works_off_what_waits_before_its_probe(tmp_path: Path) -> None:
    class Behind(InprocBus):
        """A bus with so much in its queues that no probe comes back in time."""

        async def probe(self, service: str) -> None:
            raise Transient(f"the queue of {service} is long")

    bus = Behind()
    async with (
        started(tmp_path, bus=bus) as host,
        httpx.AsyncClient(transport=httpx.ASGITransport(host.app), base_url="http://host") as client,
    ):
        assert (await client.get("/health/ready")).status_code == 503
        await bus.publish([(NoticeDelivered.wire, message(notice(1)))])
        await until(lambda: "lifecycle" in host.carried_at)
        assert (await client.get("/health/ready")).status_code == 200


async def test_it_is_not_ready_while_the_bus_does_not_carry(tmp_path: Path) -> None:
    async with started(tmp_path, bus=Carrier()) as host:
        transport = httpx.ASGITransport(host.app)
        await asyncio.sleep(0.2)
        async with httpx.AsyncClient(transport=transport, base_url="http://host") as client:
            assert (await client.get("/health/ready")).status_code == 503


# ------------------------------------------------------------------------------------------- receipts, the dead


async def test_what_is_no_receipt_holds_up_no_receipt(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bus = InprocBus()
    async with started(tmp_path, bus=bus) as host:
        (running,) = host.running
        async with running.database.unit() as unit:
            unit.emit(closed(1))
        published: list[str] = []

        async def hear(messages: object) -> None:
            published.append("once")

        hearing = asyncio.create_task(bus.consume("scanner", "events", hear))
        await until(lambda: published != [])
        async with running.database.reading() as db:
            event_id = (await db.execute(sa.text("SELECT event_id FROM outbox"))).scalar_one()
        for bad in (b"", b"\xff", b"[]", b'{"consumer":"nobody","ids":[]}', b'{"consumer":1}'):
            await bus.acknowledge("lifecycle", bad)
        for consumer in CONSUMERS[CaseClosed]:
            await bus.acknowledge("lifecycle", msgspec.json.encode(Receipt(consumer, [event_id])))

        async def emptied() -> bool:
            return await running.outbox.depth(running.database) == 0

        await until(emptied)
        assert not bus._queue("lifecycle", DEAD).waiting
        assert not bus._queue("lifecycle", RECEIPTS).waiting
        assert "what came as a receipt is none" in caplog.text
        assert "nobody" in caplog.text
        hearing.cancel()


# ------------------------------------------------------------------------------------------- stopping


async def test_a_swallowed_cancellation_cannot_keep_it_alive(tmp_path: Path) -> None:
    swallowed = 0

    async def stubborn() -> bool:
        nonlocal swallowed
        while swallowed < 3:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                swallowed += 1
        return False

    closed_down: list[str] = []

    async def close() -> None:
        closed_down.append("lifecycle")

    build = build_of(tmp_path, jobs=(Job("stubborn", stubborn, every=1),), close=close)
    async with asyncio.timeout(15):
        async with started(tmp_path, lifecycle=build):
            await asyncio.sleep(0.1)
    assert swallowed == 3
    assert closed_down == ["lifecycle"]


async def test_a_stop_in_mid_handler_leaves_nothing_half_done(tmp_path: Path) -> None:
    begun, bus = asyncio.Event(), InprocBus()

    async def slow(unit: Unit, events: list[Received[object]]) -> None:
        unit.emit(closed("half done"))
        begun.set()
        await asyncio.sleep(3600)

    def build(runtime: Runtime) -> Service:
        service = build_of(tmp_path)(runtime)
        return Service(
            name=service.name,
            metadata=service.metadata,
            migrations=service.migrations,
            subscriptions=dict.fromkeys(service.subscriptions, slow),  # type: ignore[arg-type]
        )

    async with asyncio.timeout(15):
        async with started(tmp_path, bus=bus, lifecycle=build) as host:
            await bus.publish([(type(notice(1)).wire, message(notice(1)))])
            await begun.wait()
            database = host.running[0].database
    reopened = Host(settings(tmp_path), {"lifecycle": build_of(tmp_path)}, bus=InprocBus(), clock=FixedClock(NOW))
    assert database is not reopened.running[0].database
    assert await reopened.running[0].outbox.depth(reopened.running[0].database) == 0
    assert bus._queue("lifecycle", "events").waiting, "and the message still waits"
    await reopened.close()


PROGRAM = """
import asyncio, sys
from pathlib import Path
from reclaim.common import host, migrate
from reclaim.common.contracts import CONSUMERS
from reclaim.common.service import Job, Service
from reclaim.common.settings import Settings

folder, stubborn = Path(sys.argv[1]), sys.argv[2] == "stubborn"

async def ignore(unit, events):
    pass

async def work():
    (folder / "working").touch()
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        (folder / "cancelled").touch()
        if not stubborn:
            raise
        await asyncio.sleep(3600)

async def close():
    (folder / "closed").touch()

def build(runtime):
    heard = [event for event, consumers in CONSUMERS.items() if "lifecycle" in consumers]
    return Service(
        name="lifecycle", metadata=migrate.service_metadata(), migrations=folder / "lifecycle-migrations",
        subscriptions=dict.fromkeys(heard, ignore), jobs=[Job("work", work, every=1)], close=close,
    )

host.chosen = lambda names: {"lifecycle": build}
host.run(Settings(), ["lifecycle"])
(folder / "returned").touch()
"""


@pytest.mark.parametrize(
    ("sign", "job"),
    [(signal.SIGTERM, "obedient"), (signal.SIGTERM, "stubborn"), (signal.SIGINT, "obedient")],
    ids=lambda one: one.name if isinstance(one, signal.Signals) else one,
)
def test_a_signal_stops_it_in_time_and_in_order(tmp_path: Path, sign: signal.Signals, job: str) -> None:
    versions(tmp_path, "lifecycle")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RECLAIM_")} | {
        "RECLAIM_ENVIRONMENT": "test",
        "RECLAIM_DATA_DIR": str(tmp_path / "data"),
        "RECLAIM_SECRET_KEYS": f'["{"s" * 32}"]',
        "RECLAIM_SEALING_KEYS": f'["{Fernet.generate_key().decode()}"]',
        "RECLAIM_PORT": str(port),
    }
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, str(program), str(tmp_path), job], env=environment, cwd=tmp_path, stderr=output
        )
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "working").exists() or not _answers(port):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        process.send_signal(sign)
        asked = time.monotonic()
        assert process.wait(timeout=30) == 0, log.read_text()
        assert time.monotonic() - asked < 20
    finally:
        process.kill()
        process.wait()
    for step in ("cancelled", "closed", "returned"):
        assert (tmp_path / step).exists(), f"not {step}:\n{log.read_text()}"


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health/live", timeout=1, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


# ------------------------------------------------------------------------------------------- starting


async def test_a_start_waits_for_servers_that_are_not_up_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    naps = Naps(monkeypatch)
    host = Host(settings(tmp_path), {"lifecycle": build_of(tmp_path)}, bus=InprocBus(), clock=FixedClock(NOW))
    failures: list[Exception] = [Transient("no broker"), ConnectionRefusedError("no database"), OSError("no name")]

    async def declare() -> None:
        if failures:
            raise failures.pop()

    monkeypatch.setattr(host.bus, "declare", declare)
    await hosting._prepared(host)
    assert len([nap for nap in naps.taken if nap]) >= 3
    assert "waiting for the database and the broker: no broker" in caplog.text
    await host.close()


async def test_a_start_that_cannot_succeed_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(settings(tmp_path), {"lifecycle": build_of(tmp_path)}, bus=InprocBus(), clock=FixedClock(NOW))

    async def declare() -> None:
        raise ValueError("a defect")

    monkeypatch.setattr(host.bus, "declare", declare)
    with pytest.raises(ValueError, match="a defect"):
        await hosting._prepared(host)
    await host.close()


def test_a_service_that_is_not_installed_is_named_with_those_that_are() -> None:
    with pytest.raises(Invalid, match=r"'lifecicle' is not installed here\. Installed: scanner, approvals"):
        chosen(["scanner", "lifecicle"])
    assert list(chosen(["savings", "scanner"])) == ["scanner", "savings"], "in the order of the flow"
    assert list(chosen([])) == list(installed())


def test_a_service_whose_handlers_do_not_fit_the_contracts_is_not_built(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"savings: contracts\.CONSUMERS and its handlers disagree about NoticeFailed"):
        Service(
            name="savings",
            metadata=migrate.service_metadata(),
            migrations=tmp_path,
            subscriptions={
                event: ignore
                for event, consumers in CONSUMERS.items()
                if "savings" in consumers or event is NoticeFailed
            },
        )


async def test_a_door_stands_in_front_of_the_web_framework(tmp_path: Path) -> None:
    """A service's own application gets what lies under its path, whole; everything else goes the usual way."""
    seen: list[str] = []

    async def door(scope: Scope, _receive: Receive, send: Send) -> None:
        seen.append(scope["path"])
        await send({"type": "http.response.start", "status": 299, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    def build(runtime: Runtime) -> Service:
        return replace(build_of(tmp_path)(runtime), doors={"/raw/": door})

    async with started(tmp_path, lifecycle=build) as host:
        transport = httpx.ASGITransport(host.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8080") as client:
            statuses = [
                (await client.request(method, path)).status_code
                for method, path in (
                    ("PUT", "/lifecycle/raw/a/b"),
                    ("GET", "/health/live"),
                    ("GET", "/lifecycle/rawer"),
                )
            ]
    assert statuses == [299, 200, 404]
    assert seen == ["/lifecycle/raw/a/b"]
