"""Runs services: loops, HTTP, lifespan and signals, for one service or for all of them in one process.

The host knows no service. It starts what is installed (or what it is told), gives each its database and the bus,
and supervises: a loop that fails is logged and started again with backoff, and never takes its neighbours along.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import signal
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from importlib.metadata import entry_points
from typing import Final, Protocol, cast

import msgspec
import prometheus_client
import uvicorn
import uvloop
from fastapi import FastAPI, Response
from opentelemetry import metrics
from starlette.types import ASGIApp, Scope, Send
from starlette.types import Receive as ReceiveHttp

from reclaim.common import migrate
from reclaim.common.bus import DEAD, EVENTS, RECEIPTS, Bus, Receive, open_bus
from reclaim.common.clock import Clock, open_clock
from reclaim.common.contracts import SERVICES
from reclaim.common.db import is_outage
from reclaim.common.errors import Invalid, Transient
from reclaim.common.inbox import hold
from reclaim.common.outbox import Receipt
from reclaim.common.routing import add_routes
from reclaim.common.service import Build, Job, Running, chosen
from reclaim.common.settings import Settings
from reclaim.common.tasks import cancel
from reclaim.common.telemetry import set_up_logging, set_up_telemetry
from reclaim.common.timing import backoff, wall_milliseconds

log = logging.getLogger(__name__)

PROBE_EVERY: Final = 15.0
READY_FOR: Final = 60_000
"""Milliseconds for which one successful round trip through the broker counts."""

RECEIPTS_GATHER: Final = 0.1
"""Seconds for which receipts gather; nothing waits for them."""

_receipt = msgspec.json.Decoder(Receipt)


class Plugin(Protocol):
    """Adds something to the HTTP side of every process (the console's look, sign-in); group `reclaim.host`."""

    def __call__(self, app: FastAPI, host: Host) -> None:
        """Add it, once, before any service's routes are added."""
        ...


class Host:
    """A set of services in this process."""

    def __init__(
        self,
        settings: Settings,
        builds: dict[str, Build],
        *,
        bus: Bus | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.settings = settings
        self.clock: Clock = clock or open_clock(settings.clock_url)
        self.bus = bus or open_bus(settings.bus_url, prefix=settings.bus_prefix, settles=settings.bus_settle_seconds)
        self.running = [
            Running.start(build, name, settings, self.clock, self.bus, catch_up=partial(self._catch_up, name))
            for name, build in builds.items()
        ]
        # When the bus last brought a service a message: its own probe, or while much waits before that, any other.
        self.carried_at: dict[str, int] = {}
        # Since when the bus has been seen to carry a service's messages, without a break.
        self.carrying_since: dict[str, int] = {}
        self.app = self._application()

    def _application(self) -> FastAPI:
        app = FastAPI(title="Reclaim", version="0.1.0", docs_url=None, redoc_url=None, openapi_url="/openapi.json")
        for entry in entry_points(group="reclaim.host"):
            cast("Plugin", entry.load())(app, self)
        for running in self.running:
            if running.service.router is not None:
                add_routes(app, running.service.router, f"/{running.service.name}")
        app.add_api_route("/health/live", self._live, methods=["GET"], include_in_schema=False)
        app.add_api_route("/health/ready", self._ready, methods=["GET"], include_in_schema=False)
        app.add_api_route("/metrics", self._metrics, methods=["GET"], include_in_schema=False)
        doors = {
            f"/{running.service.name}{path}": door
            for running in self.running
            for path, door in running.service.doors.items()
        }
        if doors:
            # The one added last is outermost: nothing of the web framework's work is done for these.
            app.add_middleware(_Doors, doors=doors)
        return app

    async def _live(self) -> dict[str, str]:
        return {"status": "live"}

    async def _ready(self, response: Response) -> dict[str, object]:
        oldest = wall_milliseconds() - READY_FOR
        waiting = [r.service.name for r in self.running if self.carried_at.get(r.service.name, 0) < oldest]
        if waiting:
            response.status_code = 503
        return {"status": "waiting" if waiting else "ready", "waiting_for_the_bus": waiting}

    async def _metrics(self) -> Response:
        return Response(prometheus_client.generate_latest(), media_type=prometheus_client.CONTENT_TYPE_LATEST)

    async def prepare(self) -> None:
        """Migrate every service's database, declare the queues, and make what was under way due again."""
        for running in self.running:
            await migrate.upgrade(running.database.engine, running.service.migrations)
            await running.outbox.publish_again(running.database)
        await self.bus.declare()

    @asynccontextmanager
    async def started(self) -> AsyncIterator[Host]:
        """Run every loop for as long as the block lasts. Call `prepare` first."""
        loops = [loop for running in self.running for loop in self._loops(running)]
        tasks = [asyncio.create_task(_supervise(name, run), name=name) for name, run in loops]
        try:
            yield self
        finally:
            await cancel(tasks)
            await self.close()

    async def _catch_up(self, name: str) -> None:
        """Wait until a service has handled what waits for it. Its neighbours in this process are heard first.

        Raises:
            Transient: it did not come about.
        """
        if not all(running.relayed for running in self.running):
            raise Transient("what was said before the start is still being published")
        since = self.carrying_since.get(name)
        if since is None or wall_milliseconds() < since + 1000 * self.bus.settles:
            raise Transient(f"the bus carries for less than {self.bus.settles:g} s, and others may have more to say")
        await self._round_trip(name)

    async def _round_trip(self, name: str) -> None:
        try:
            await self.bus.probe(name)
        except Transient:
            self.carrying_since.pop(name, None)
            raise

    async def _consume(self, name: str, queue: str, handle: Receive) -> None:
        try:
            await self.bus.consume(name, queue, handle)
        finally:
            # It ends with its connection.
            self.carrying_since.pop(name, None)

    async def close(self) -> None:
        """Give back databases, connectors and the bus."""
        for running in self.running:
            await running.close()
        await self.bus.close()

    def _loops(self, running: Running) -> list[tuple[str, Callable[[], Awaitable[None]]]]:
        name = running.service.name

        async def receive(messages: Sequence[bytes]) -> None:
            await hold(running.inbox.receive, messages)
            self.carried_at[name] = wall_milliseconds()

        async def bury(messages: Sequence[bytes]) -> None:
            await hold(running.inbox.bury, messages)

        async def confirm(messages: Sequence[bytes]) -> None:
            await running.outbox.confirm(running.database, _receipts(name, messages))
            # An event's consumers answer at about the same time: the next receipts are cleared together.
            await asyncio.sleep(RECEIPTS_GATHER)

        async def probe() -> None:
            while True:
                await self._round_trip(name)
                self.carried_at[name] = wall_milliseconds()
                self.carrying_since.setdefault(name, self.carried_at[name])
                await asyncio.sleep(PROBE_EVERY)

        consumers = [
            (f"{name}.{queue}", partial(self._consume, name, queue, handle))
            for queue, handle in ((EVENTS, receive), (RECEIPTS, confirm), (DEAD, bury))
        ]
        jobs = [(f"{name}.{job.name}", lambda job=job: _again(job, running.wakers[job.name])) for job in running.jobs()]
        return [*consumers, *jobs, (f"{name}.probe", probe)]


class _Doors:
    """ASGI middleware: leads what a service takes at a door of its own past everything else."""

    def __init__(self, app: ASGIApp, doors: Mapping[str, ASGIApp]) -> None:
        self._app = app
        self._doors = tuple(doors.items())

    async def __call__(self, scope: Scope, receive: ReceiveHttp, send: Send) -> None:
        app = self._app
        if scope["type"] == "http":
            for path, door in self._doors:
                if scope["path"].startswith(path):
                    app = door
        await app(scope, receive, send)


def _receipts(service: str, messages: Sequence[bytes]) -> list[Receipt]:
    """Read receipts. One that cannot be read is left out: it would come back for ever, and the event comes again."""
    receipts = []
    for message in messages:
        try:
            receipt = _receipt.decode(message)
        except msgspec.DecodeError as error:
            log.warning("%s: what came as a receipt is none: %s", service, error)
            continue
        if receipt.consumer in SERVICES:
            receipts.append(receipt)
        else:
            log.warning("%s: a receipt came from %r, which is no service known here", service, receipt.consumer)
    return receipts


async def _again(job: Job, woken: asyncio.Event) -> None:
    while True:
        woken.clear()
        if await job.run():
            await asyncio.sleep(0)
            continue
        try:
            async with asyncio.timeout(job.every):
                await woken.wait()
        except TimeoutError:
            continue


_failures = metrics.get_meter("reclaim.host").create_counter(
    "reclaim_loop_failures", description="Times a loop of a service failed and was started again"
)


async def _supervise(name: str, run: Callable[[], Awaitable[None]]) -> None:
    """Run a loop for ever. A failure that comes after a minute of quiet counts as a first one."""
    attempt = 0
    while True:
        began = wall_milliseconds()
        try:
            await _uncancelled(run)
        except Exception as error:
            attempt = 1 if wall_milliseconds() - began > 60_000 else attempt + 1
            _failures.add(1, {"loop": name})
            wait = backoff(attempt, first=0.1, most=15)
            known = isinstance(error, Transient)
            log.log(
                logging.WARNING if known else logging.ERROR,
                "%s stopped and starts again in %.1f s: %s",
                name,
                wait,
                error,
                exc_info=None if known else error,
            )
            await asyncio.sleep(wait)


async def _uncancelled(run: Callable[[], Awaitable[None]]) -> None:
    try:
        await run()
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        # Nobody cancelled the loop: a future it waited for was, by a library whose connection went.
        raise Transient("what it waited for was cancelled") from error


async def _prepared(host: Host) -> None:
    attempt = 0
    while True:
        try:
            return await host.prepare()
        except Exception as error:
            if not isinstance(error, Transient | OSError) and not is_outage(error):
                raise
            attempt += 1
            log.warning("waiting for the database and the broker: %s", error)
            await asyncio.sleep(backoff(attempt, first=0.5, most=10))


async def prepare(settings: Settings, names: Sequence[str]) -> None:
    """Migrate the databases of the named services and declare the queues, waiting for servers that still start.

    Raises:
        Invalid: a name is not installed.
    """
    host = Host(settings, chosen(names))
    try:
        await _prepared(host)
    finally:
        await host.close()


class _Server(uvicorn.Server):
    """Stops at a signal, and lets the host stop after it; uvicorn raises the signal again, which would cut that off."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            # A second signal ends the process at once.
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)


def settle_collector() -> None:
    """Set the garbage collector up for a service that has started.

    What lives now lives until the end and is left out of every later collection. A transaction's events, some ten
    thousand objects, are gone with it and hold no cycles: at Python's own threshold of 700 they would be searched over
    and over while they live.
    """
    gc.collect()
    gc.freeze()
    collect_seldom()


def collect_seldom() -> None:
    """Let the garbage collector search for cycles after 50,000 new objects, not after 700."""
    gc.set_threshold(50_000, 10, 10)


def _must_be_free(host: str, port: int) -> None:
    """Refuse an address that is taken before any work is taken up; what else is wrong with it, the server says."""
    for family, kind, protocol, _, address in socket.getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    ):
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                probe.bind(address)
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    raise Invalid(
                        f"Something else listens at port {port} of {host}: stop it, or set RECLAIM_PORT to another."
                    ) from error


async def serve(settings: Settings, names: Sequence[str]) -> None:
    """Run the named services (all that are installed if none is named) until SIGINT or SIGTERM.

    Raises:
        Invalid: a name is not installed, or somebody else listens at the port.
    """
    builds = chosen(names)
    _must_be_free(settings.host, settings.port)
    set_up_logging(settings)
    set_up_telemetry(settings, names[0] if len(names) == 1 else "all")
    host = Host(settings, builds)
    await _prepared(host)
    async with host.started():
        settle_collector()
        server = _Server(
            uvicorn.Config(
                host.app,
                host=settings.host,
                port=settings.port,
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=bool(settings.forwarded_allow_ips),
                forwarded_allow_ips=settings.forwarded_allow_ips,
                timeout_graceful_shutdown=10,
            )
        )
        await server.serve()


def run(settings: Settings, names: Sequence[str]) -> None:
    """Serve until interrupted, on uvloop."""
    collect_seldom()  # from here on: what is loaded now stays, and was searched over and over while it was loaded
    uvloop.run(serve(settings, names))
