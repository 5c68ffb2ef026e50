"""A service is data: a name, what it subscribes to, the jobs it runs, its routes and its tables.

Each service package has one `service.py` with one `build(runtime)`, its composition root, found through the entry
point group `reclaim.services`. The host runs whatever is installed; tests call the same `build`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Final, cast

import sqlalchemy as sa
from opentelemetry import metrics
from starlette.types import ASGIApp

from reclaim.common.bus import Bus
from reclaim.common.clock import Clock
from reclaim.common.contracts import CONSUMERS, SERVICES, Event
from reclaim.common.db import Database
from reclaim.common.errors import Invalid
from reclaim.common.inbox import Handle, Inbox
from reclaim.common.outbox import Outbox
from reclaim.common.routing import Router
from reclaim.common.security import Sealer, Signer
from reclaim.common.settings import Settings

GROUP: Final = "reclaim.services"

MEASURED_EVERY: Final = 15.0
"""Seconds between two readings of what waits; about as often as it is scraped."""

_meter = metrics.get_meter("reclaim.service")
_outbox_depth = _meter.create_gauge(
    "reclaim_outbox_depth", description="Outbox rows not yet confirmed by every consumer"
)
_parked = _meter.create_gauge("reclaim_parked_messages", description="Messages that wait for an operator")


@dataclass(frozen=True, slots=True)
class Job:
    """Work that is looked for again and again.

    `run` does some of it and tells whether there was any: if so it is called again at once, if not after `every`
    seconds, or as soon as a unit that woke the job by its name has committed.
    """

    name: str
    run: Callable[[], Awaitable[bool]]
    every: float


@dataclass(frozen=True, slots=True)
class Runtime:
    """What the host gives a service to build itself from.

    `catch_up` returns when everything has been handled that waited in the service's queue as it was called. It raises
    `Transient` if that does not come about within a few seconds, as while the bus is away.
    """

    settings: Settings
    clock: Clock
    database: Database
    signer: Signer
    sealer: Sealer
    catch_up: Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Service:
    """One stage. Routes are served under `/{name}`; `close` gives back what `build` opened.

    `doors` are ASGI applications for what comes too often for the web framework: they get every request whose path,
    after `/{name}`, starts with theirs, and say themselves who may use them.
    """

    name: str
    metadata: sa.MetaData
    migrations: Path
    subscriptions: Mapping[type[Event], Handle]
    jobs: Sequence[Job] = ()
    router: Router | None = None
    doors: Mapping[str, ASGIApp] = field(default_factory=dict)
    close: Callable[[], Awaitable[None]] | None = None

    def __post_init__(self) -> None:
        heard = {event for event, consumers in CONSUMERS.items() if self.name in consumers}
        if heard != set(self.subscriptions):
            odd = sorted(event.__name__ for event in heard ^ set(self.subscriptions))
            raise ValueError(f"{self.name}: contracts.CONSUMERS and its handlers disagree about {', '.join(odd)}")


Build = Callable[[Runtime], Service]


def installed() -> dict[str, EntryPoint]:
    """Return where the composition roots of the installed services are, by name, in the order of the flow."""
    found = {entry.name: entry for entry in entry_points(group=GROUP)}
    return {name: found[name] for name in SERVICES if name in found}


def chosen(names: Sequence[str] = ()) -> dict[str, Build]:
    """Return the named services' composition roots, or those of all that are installed if none is named.

    Raises:
        Invalid: a name is no installed service; the message lists those there are.
    """
    there = installed()
    for name in names:
        if name not in there:
            raise Invalid(f"{name!r} is not installed here. Installed: {', '.join(there) or 'none'}.")
    return {name: cast("Build", entry.load()) for name, entry in there.items() if not names or name in names}


@dataclass(slots=True)
class Running:
    """A built service with its messaging, as the host runs it.

    `relayed` turns true when nothing is left to publish for the first time: what was said before this process started
    is on the bus.
    """

    service: Service
    database: Database
    outbox: Outbox
    inbox: Inbox
    bus: Bus
    wakers: dict[str, asyncio.Event] = field(default_factory=dict)
    relayed: bool = False

    @classmethod
    def start(
        cls,
        build: Build,
        name: str,
        settings: Settings,
        clock: Clock,
        bus: Bus,
        *,
        catch_up: Callable[[], Awaitable[None]] | None = None,
    ) -> Running:
        """Build a service on its own database and connect it to the bus, through which it catches up by default."""
        outbox = Outbox(name)
        database = Database(settings.database_for(name), clock, append=outbox.append)
        service = build(
            Runtime(
                settings=settings,
                clock=clock,
                database=database,
                signer=Signer(settings.signing_keys()),
                sealer=Sealer([key.get_secret_value() for key in settings.sealing_keys]),
                catch_up=catch_up or partial(bus.probe, name),
            )
        )
        running = cls(
            service=service,
            database=database,
            outbox=outbox,
            inbox=Inbox(name, database, service.subscriptions, bus.acknowledge),
            bus=bus,
        )
        running.wakers = {job.name: asyncio.Event() for job in running.jobs()}
        database.on_commit = running.wake
        return running

    def wake(self, jobs: frozenset[str]) -> None:
        """Let these jobs look for work now."""
        for job in jobs:
            self.wakers[job].set()

    def jobs(self) -> list[Job]:
        """Return the service's jobs and those of its messaging."""

        async def relay() -> bool:
            published = await self.outbox.relay(self.database, self.bus)
            if not published and not self.relayed:
                self.relayed = not await self.outbox.waits(self.database)
            return published

        return [
            *self.service.jobs,
            Job("relay", relay, every=1.0),
            Job("retry", self.inbox.retry, every=0.2),
            Job("forget", self.inbox.forget, every=3600),
            Job("measure", self._measure, every=MEASURED_EVERY),
        ]

    async def _measure(self) -> bool:
        service = {"service": self.service.name}
        _outbox_depth.set(await self.outbox.depth(self.database), service)
        _parked.set(await self.inbox.count_parked(), service)
        return False

    async def close(self) -> None:
        """Give everything back."""
        if self.service.close is not None:
            await self.service.close()
        await self.database.close()
