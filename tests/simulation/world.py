"""The world of one history: five real services over one broker, one org and one mail server, moved step by step.

A step is one thing that a process does: a round of a job, a delivery, a request. It runs until it is done, until a gate
stops it in the middle of an outside call, or until its process is killed. What is stopped stays under way while other
steps run, as in a process that hangs, or in two that run at once. Killing a process ends everything it has under way
and builds it again over the same database.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from random import Random
from typing import Any
from unittest.mock import patch

import jinja2
import sqlalchemy as sa
from cryptography.fernet import Fernet
from starlette.requests import Request
from starlette.responses import Response

from reclaim.approvals.service import build as build_approvals
from reclaim.approvals.settings import ApprovalsSettings
from reclaim.common import ids, inbox, timing
from reclaim.common.bus import DEAD, EVENTS, RECEIPTS
from reclaim.common.contracts import SERVICES, CaseWithdrawn, ConnectionChanged, DecisionReceived, UserFlagged
from reclaim.common.db import is_outage
from reclaim.common.envelope import Received, split
from reclaim.common.errors import Conflict, NotFound, Transient
from reclaim.common.host import _receipts
from reclaim.common.migrate import upgrade  # the migrations themselves: other tests copy a file that they made
from reclaim.common.routing import Router
from reclaim.common.service import Build, Running
from reclaim.common.settings import Settings
from reclaim.itsm_gateway import deliveries, ticketing
from reclaim.itsm_gateway.domain import of_reference
from reclaim.itsm_gateway.lanes import Lanes
from reclaim.itsm_gateway.service import build as build_gateway
from reclaim.itsm_gateway.settings import ItsmGatewaySettings
from reclaim.lifecycle import actions as lifecycle_actions
from reclaim.lifecycle import store as lifecycle_store
from reclaim.lifecycle.audit import Link, Verifier
from reclaim.lifecycle.service import build as build_lifecycle
from reclaim.lifecycle.settings import LifecycleSettings
from reclaim.savings.service import build as build_savings
from reclaim.scanner.service import build as build_scanner
from reclaim.scanner.settings import ScannerSettings
from reclaim.web import pages as web_pages
from reclaim.web.state import SCOPE_KEY, Web
from reclaim.web.state import Connected as WebConnected
from tests.simulation import database as simulated
from tests.simulation.bus import Broker, Line, Message, QueueName
from tests.simulation.database import Driver, Fault, Killed
from tests.simulation.desk import SimDesk, Site
from tests.simulation.invariants import Instant, Judge
from tests.simulation.mail import Letter, PlainComposer, PostOffice
from tests.simulation.org import Connected, SimOrg

START = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
SIGNING = "simulated-signing-key-0123456789-abcdef"
SEALING = Fernet.generate_key().decode()
FEW_ATTEMPTS = 2
"""Few enough for an attempt at each leap of a history's end to come to them."""
PUBLIC = "http://127.0.0.1:8080"
_AUDIT_SINCE = (
    sa.select(lifecycle_store.AUDIT)
    .where(lifecycle_store.AUDIT.c.position > sa.bindparam("read"))
    .order_by(lifecycle_store.AUDIT.c.position)
)
BARE = jinja2.Environment(autoescape=True)


@dataclass(frozen=True)
class Chances:
    """How likely each kind of trouble is, at each occasion for it."""

    hold: float
    kill: float
    database: float
    broker: float
    org: float
    mail: float

    @classmethod
    def drawn(cls, chance: Random) -> Chances:
        """Return how one history goes: most kinds of trouble are rare in it, and a few of them haunt it.

        Histories that have a little of everything would hardly ever have enough of one thing.
        """
        return cls(
            hold=chance.choice((0, 0.05, 0.05, 0.25)),
            kill=chance.choice((0, 0.01, 0.01, 0.06)),
            database=chance.choice((0, 0.04, 0.04, 0.3)),
            broker=chance.choice((0, 0.04, 0.04, 0.3)),
            org=chance.choice((0, 0.05, 0.3, 0.6)),
            mail=chance.choice((0, 0.04, 0.3)),
        )


class HostClock:
    """The clocks of the machines that one service runs on: the true time, and how far off each is.

    `host` is the machine that the step under way, or the next one, runs on. With one machine only the product's clock
    may be off, and what leases and back-off go by be right; with two, each has one clock for everything.
    """

    def __init__(self, world: World, hosts: int) -> None:
        self._world = world
        self.off = [timedelta()] * hosts
        self.host = 0

    def now(self) -> datetime:
        return self._world.true + self.off[self.host]

    def wall(self) -> datetime:
        """Return the time that leases and back-off go by."""
        return self._world.true + (self._world.wall_off if len(self.off) == 1 else self.off[self.host])

    def reset(self) -> None:
        self.off = [timedelta()] * len(self.off)


@dataclass(eq=False)
class Step:
    """One thing that a process does."""

    serial: int
    process: Process
    what: str
    began: Instant
    host: int
    task: asyncio.Task[Any] | None = None
    result: Any = None
    error: BaseException | None = None


@dataclass(eq=False)
class Hold:
    """A step that was stopped in the middle of an outside call."""

    step: Step
    where: str
    go_on: asyncio.Future[None]


class Page(Response):
    """What a page is made of, without the typesetting."""

    def __init__(self, template: str, status_code: int, context: dict[str, Any]) -> None:
        super().__init__(status_code=status_code)
        self.template, self.context = template, context


class Process:
    """One service as a process: it can be killed, and is built again over what it left in its database."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        self.clock = HostClock(world, world.hosts)
        self.endpoints: dict[tuple[str, str], Callable[..., Awaitable[Any]]] = {}
        self.lives = 0
        self.start()

    def start(self) -> None:
        world = self.world
        self.endpoints.clear()
        world.building = self
        self.running = Running.start(
            self._build(), self.name, world.settings, self.clock, Line(world.broker, self.gate)
        )
        self.driver = Driver.of(self.running.database.engine, world.happened)

    def _build(self) -> Build:
        connected = Connected(self.world.org, self.name, self.gate)
        match self.name:
            case "scanner":
                return lambda runtime: build_scanner(runtime, connectors=connected, settings=_scanner())
            case "approvals":
                self.post = PostOffice(
                    self.world.chance, self.world.chances.mail, self.gate, self.world.happened, self.world.arrived
                )
                self.post.calm = self.world.calm
                return lambda runtime: build_approvals(runtime, settings=_approvals(), mailer=self.post)
            case "itsm-gateway":
                gate, now = self._gate_of_this_life(), lambda: self.world.true
                desk = SimDesk(self.world.desk, gate, now)
                return lambda runtime: build_gateway(runtime, settings=_gateway(), adapter=lambda *_: desk)
            case "lifecycle":
                return lambda runtime: build_lifecycle(runtime, connectors=connected, settings=_lifecycle())
        return build_savings

    def _gate_of_this_life(self) -> Callable[[str], Awaitable[None]]:
        """Return the gate for work that goes on beside its step: it must not outlive the process that began it."""
        self.lives += 1
        life = self.lives

        async def gate(where: str) -> None:
            if life != self.lives:
                raise Killed
            await self.gate(where)

        return gate

    async def gate(self, where: str) -> None:
        """Let an outside call go on, stop it, or kill the process right here."""
        world = self.world
        if self.driver.dead:
            raise Killed
        if simulated.in_use(self.running.database.engine):
            world.judge.blame(f"{self.name}: a transaction is open during an outside call ({where})")
        if world.calm or not world.chances.hold + world.chances.kill:
            return
        drawn = world.chance.random()
        if drawn < world.chances.kill:
            world.happened(f"kill: {where.split()[0]} an outside call")
            self.driver.dead = True
            raise Killed
        if drawn < world.chances.kill + world.chances.hold:
            world.happened("held in an outside call")
            hold = Hold(world.current, where, asyncio.get_running_loop().create_future())
            world.holds.append(hold)
            world.stopped = True
            await hold.go_on
            if self.driver.dead:
                raise Killed

    async def bury(self) -> None:
        """End everything that a killed process had under way, and start it again."""
        world = self.world
        self.driver.dead = True
        held = [hold for hold in world.holds if hold.step.process is self]
        world.holds = [hold for hold in world.holds if hold.step.process is not self]
        for hold in held:
            hold.go_on.set_exception(Killed())
        tasks = [hold.step.task for hold in held if hold.step.task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.running.close()
        world.log(f"{self.name} starts again")
        self.start()
        await self.running.outbox.publish_again(self.running.database)

    def woken(self) -> list[str]:
        """Return the jobs that were asked to look for work."""
        return [name for name, event in self.running.wakers.items() if event.is_set()]

    def job(self, name: str) -> Callable[[], Awaitable[bool]]:
        return next(job.run for job in self.running.jobs() if job.name == name)


@cache
def _settings(database_url: str) -> Settings:
    return Settings(
        _env_file=None,  # type: ignore[call-arg]
        environment="test",
        secret_keys=[SIGNING],
        sealing_keys=[SEALING],
        audit_keys=[SEALING],
        database_url=database_url,
        public_url=PUBLIC,
    )


@cache
def _scanner() -> ScannerSettings:
    return ScannerSettings(_env_file=None)  # type: ignore[call-arg]


@cache
def _approvals() -> ApprovalsSettings:
    return ApprovalsSettings(_env_file=None, operations_address="operations@example.com")  # type: ignore[call-arg]


@cache
def _gateway() -> ItsmGatewaySettings:
    return ItsmGatewaySettings(_env_file=None)  # type: ignore[call-arg]


@cache
def _lifecycle() -> LifecycleSettings:
    return LifecycleSettings(_env_file=None)  # type: ignore[call-arg]


class World:
    """One history's world. It is its own `Moments` for the org, and the judge's eyes on the broker."""

    def __init__(
        self, seed: int, database_url: str, *, chances: Chances | None = None, desk: bool | None = None
    ) -> None:
        """Draw everything that is not given; `desk` is whether a service desk is connected."""
        self.seed = seed
        self.chance = Random(seed)
        self.chances = chances or Chances.drawn(self.chance)
        self.calm = False
        self.true = START
        self.wall_off = timedelta()
        self.trace: list[str] = []
        self.faults: Counter[str] = Counter()
        self.hosts = self.chance.choice((1, 1, 2))
        """On how many machines each service runs: with two, each step is one of either replica."""
        self.judge = Judge()
        self.judge.replicas = self.hosts > 1
        self.letters: list[Letter] = []
        self.holds: list[Hold] = []
        self.stopped = False
        self.current: Step | None = None
        self.steps = 0
        self.touched: Counter[str] = Counter()
        """How many steps of each process found something to do."""
        self.verifier = Verifier()
        self.audit: list[Link] = []
        self.patience = self.chance.choice((40, 40, 40, 40, FEW_ATTEMPTS))
        """Attempts before a person is called: in some histories few enough that it comes to that."""
        self.alerts: Counter[str] = Counter()
        """How often each service's log called for somebody to look at a message."""
        self.poisoned: Counter[str] = Counter()
        """Messages in each service's queue that cannot be read."""
        self.shown: dict[str, str] = {}
        """The state of each case as the console shows it."""
        self._numbers = 0
        self.building: Process | None = None
        self.settings = _settings(database_url)
        self.broker = Broker(self.chance, self.chances.broker, self.happened, self._published)
        self.org = SimOrg(_TrueClock(self), self.judge, self, self.chance, self.chances.org, self.happened)
        # Of its own: histories without a desk are the same whether there are others with one or not.
        apart = Random(f"desk {seed}")
        self.with_desk = apart.random() < 0.25 if desk is None else desk
        self.desk = Site(
            _TrueClock(self),
            self.chance,
            apart.choice((0, 0.04, 0.3)),
            self.happened,
            self._asked_on_the_desk,
            self.log,
        )
        self.processes: dict[str, Process] = {}

    def start(self) -> None:
        """Build every service."""
        self.processes = {name: Process(self, name) for name in SERVICES}
        approvals = self.processes["approvals"].clock
        self.web = Web([SIGNING], {}, PUBLIC, (), approvals, approvals)

    # What the parts tell.

    def happened(self, what: str) -> None:
        self.faults[what] += 1
        self.log(f"! {what}")

    def log(self, line: str) -> None:
        self.trace.append(f"{self.steps:4} {str(self.true)[5:19]} {line}")

    def wall(self) -> float:
        """Return the seconds since 1970 that leases and back-off go by, where the step under way runs."""
        at = self.current.process.clock.wall() if self.current is not None else self.true
        return at.timestamp()

    def next_id(self) -> str:
        """Return an identifier that sorts by when it was made, the same in every run of a seed."""
        self._numbers += 1
        return f"0190{self._numbers:08x}-sim"

    def moment(self, process: str) -> Instant:
        return Instant(self.processes[process].clock.now(), self.true)

    def step(self) -> tuple[int, Instant]:
        assert self.current is not None
        return self.current.serial, self.current.began

    def serial(self) -> int:
        return self.steps

    def arrived(self, letter: Letter) -> None:
        self.letters.append(letter)
        if letter.kind == "ask" and letter.case_id in self.judge.cases:
            self.judge.cases[letter.case_id].asked.append(self.moment("approvals"))

    def _asked_on_the_desk(self, reference: str) -> None:
        case_id, kind = of_reference(reference)
        if kind == "question" and case_id in self.judge.cases:
            self.judge.cases[case_id].asked.append(self.moment("itsm-gateway"))

    def _published(self, body: bytes) -> None:
        for part in split(body):
            if isinstance(part, Received):
                self.judge.said(part.id, part.data, self.org.users)

    # Steps.

    async def run(self, process: Process, what: str, work: Coroutine[Any, Any, Any]) -> Step:
        """Begin a step and run it until it is done or stopped."""
        self.steps += 1
        self.touched[process.name] += 1
        step = self.current = Step(self.steps, process, what, self.moment(process.name), process.clock.host)
        self.log(f"{process.name}: {what}")
        if not self.calm and self.chances.database and self.chance.random() < self.chances.database:
            process.driver.armed = Fault(self.chance.choice(simulated.KINDS), self.chance.randint(1, 4))
        step.task = asyncio.get_running_loop().create_task(work)
        await self._until_quiet(step)
        if self.hosts > 1:
            process.clock.host = self.chance.randrange(self.hosts)
        return step

    async def go_on(self, hold: Hold) -> None:
        """Let a stopped step go on until it is done or stopped again."""
        self.steps += 1
        self.log(f"{hold.step.process.name}: goes on {hold.where} ({hold.step.what})")
        self.holds.remove(hold)
        self.current = hold.step
        hold.go_on.set_result(None)
        clock = hold.step.process.clock
        clock.host, next_host = hold.step.host, clock.host
        await self._until_quiet(hold.step)
        clock.host = next_host

    async def _until_quiet(self, step: Step) -> None:
        assert step.task is not None
        self.stopped = False
        while not step.task.done() and not self.stopped:  # noqa: ASYNC110  each turn of the loop is the step's
            await asyncio.sleep(0)
        step.process.driver.armed = None
        if step.task.done():
            error = step.error = step.task.exception()
            if error is None:
                step.result = step.task.result()
            elif isinstance(error, Killed):
                await step.process.bury()
            elif isinstance(error, Transient | Conflict | NotFound) or is_outage(error):
                self.log("  the database is away" if is_outage(error) else f"  {type(error).__name__}")
            else:
                self.judge.blame(f"{step.process.name}: {step.what} failed: {type(error).__name__}: {error}")
        await self.check()

    async def check(self) -> None:
        """Judge what a step left: the audit trail must be a chain from its first entry to its last."""
        process = self.processes["lifecycle"]
        if process.driver.commits == getattr(process, "checked", None) or process.driver.dead:
            return
        process.checked = process.driver.commits  # type: ignore[attr-defined]
        async with process.running.database.reading() as db:
            rows = await db.execute(_AUDIT_SINCE, {"read": len(self.audit)})
            links = [lifecycle_store.link_of(row) for row in rows]
        if links:
            self.verifier.read(links)
            self.audit.extend(links)
            for link in links:
                self.shown[link.entry.case_id] = link.entry.after
                self.judge.recorded(link.entry, Instant(link.entry.at, self.true), self.step())
            if self.verifier.fault is not None:
                self.judge.blame(f"the audit trail: {self.verifier.fault}")
                self.verifier.fault = None

    # What processes do.

    async def do_job(self, process: Process, name: str) -> bool:
        process.running.wakers[name].clear()
        before = self.touched[process.name]
        step = await self.run(process, name, _as_coroutine(process.job(name)))
        if step.result is False and not process.woken():
            self.touched[process.name] = before
        return bool(step.result)

    async def deliver(self, name: QueueName) -> None:
        process = self.processes[name[0]]
        messages = self.broker.take(name)
        await self.run(process, f"{len(messages)} from {name[1]}", self._receive(process, name, messages))

    async def _receive(self, process: Process, name: QueueName, messages: Sequence[Message]) -> None:
        running = process.running
        bodies = [message.body for message in messages]
        try:
            if name[1] == EVENTS:
                await running.inbox.receive(bodies)
            elif name[1] == DEAD:
                await running.inbox.bury(bodies)
            else:
                assert name[1] == RECEIPTS
                await running.outbox.confirm(running.database, _receipts(process.name, bodies))
            await process.gate("before ack")
        except Transient:
            raise  # the host holds them and tries again
        except BaseException:
            self.broker.returned(name, messages)
            raise
        self.broker.acknowledged(name, messages)
        if name == ("lifecycle", EVENTS):
            self._heard(bodies)

    def _heard(self, bodies: Sequence[bytes]) -> None:
        """Note which keeps the lifecycle has: one that came before its case counts from when that opened."""
        parts = [part.data for body in bodies for part in inbox._split(body) if isinstance(part, Received)]
        for event in parts:
            if isinstance(event, ConnectionChanged) and event.removed:
                self.judge.removed = self.steps
            case = self.judge.cases.get(getattr(event, "case_id", ""))
            if case is not None and isinstance(event, CaseWithdrawn):
                case.withdrawn = True
            if case is not None and isinstance(event, UserFlagged):
                case.flag_heard = True
                case.keeps_heard += [(self.steps, made) for made in case.early]
                case.early.clear()
            if case is not None and case.flag_heard and case.withdrawn and case.withdrawal_heard is None:
                case.withdrawal_heard = self.steps
        for event in parts:
            case = self.judge.cases.get(getattr(event, "case_id", ""))
            if case is None or not isinstance(event, DecisionReceived) or event.decision != "keep":
                continue
            clock = event.decided_at
            true = next((at.true for what, at in case.sent if what == "keep" and at.clock == clock), self.true)
            if case.flag_heard:
                case.keeps_heard.append((self.steps, Instant(clock, true)))
            else:
                case.early.append(Instant(clock, true))

    # Requests.

    def request(self, method: str, path: str, form: str = "") -> Request:
        sent = False

        async def receive() -> dict[str, Any]:
            nonlocal sent
            body, sent = (form.encode() if not sent else b""), True
            return {"type": "http.request", "body": body, "more_body": False}

        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "headers": [(b"host", b"127.0.0.1:8080"), (b"user-agent", b"Simulated/1")],
            "client": ("192.0.2.7", 1),
            "query_string": b"",
            SCOPE_KEY: WebConnected(self.web, "nonce"),
        }
        return Request(scope, receive)

    async def calm_down(self) -> None:
        """Stop all faults: clocks are right, everything that hung goes on, and outside systems answer."""
        self.calm = self.broker.calm = self.org.calm = True
        # Not everything is ever mended; a case that rests on it then stands in attention.
        self.org.revoked = self.org.revoked and self.chance.random() < 0.3
        if self.patience > FEW_ATTEMPTS or self.chance.random() < 0.5:
            self.org.lost = None
        self.broker.away = False
        self.processes["approvals"].post.calm = True
        self.desk.calm = True
        self.desk.hooks.clear()
        self.wall_off = timedelta()
        for process in self.processes.values():
            process.clock.reset()
        while self.holds:
            await self.go_on(self.holds[0])

    async def close(self) -> None:
        for process in self.processes.values():
            process.driver.dead = False
            await process.running.close()


class Listening(logging.LoggerAdapter[logging.Logger]):
    """Takes the place of the inbox's log, to hear for which messages it calls somebody; it writes nothing."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.getLogger("simulated"))
        self._world = world

    def log(self, level: int, msg: object, *args: object, **_: Any) -> None:
        if level >= logging.ERROR:
            self._world.alerts[str(args[0])] += 1
            self._world.log(f"  alert: {str(msg) % args}")


class _TrueClock:
    def __init__(self, world: World) -> None:
        self._world = world

    def now(self) -> datetime:
        return self._world.true


async def _as_coroutine(work: Callable[[], Awaitable[Any]]) -> Any:
    return await work()


# What is put in the place of the machine's own.


@contextmanager
def controlled(world: World) -> Iterator[None]:
    """Give the product the world's time, identifiers and randomness, and pages without typesetting."""

    def record(router: Router, path: str, endpoint: Callable[..., Any], **more: Any) -> None:
        if world.building is not None:
            for method in more.get("methods") or ["GET"]:
                world.building.endpoints[method, router.prefix + path] = endpoint

    async def one_after_the_other(lanes: Lanes) -> bool:
        """Work on one desk after the other. With two hosts, what one has under way does not hold up the other."""
        due = sorted(await lanes._due())
        if world.hosts == 1:
            due = [desk for desk in due if desk not in lanes._under_way]
        for desk in due:
            lanes._under_way[desk] = None  # type: ignore[assignment]
            try:
                await lanes._work(desk)
            finally:
                lanes._under_way.pop(desk, None)
        return bool(due)

    def render(_pages: object, _request: Request, template: str, /, *, status_code: int = 200, **context: Any) -> Page:
        return Page(template, int(status_code), context)

    with (
        # Days go by in one step, and the pages are up meanwhile, though no job is run that says so.
        patch("reclaim.approvals.pulse.BREAK", float("inf")),
        patch("reclaim.lifecycle.uptime.FRESH", float("inf")),
        patch.object(ids, "uuid7", world.next_id),
        patch.object(timing, "_source", world.wall),
        patch.object(timing, "random", world.chance),
        patch.object(Router, "add_api_route", record),
        patch.object(web_pages, "page_environment", lambda *_: BARE),
        patch.object(web_pages.Pages, "render", render),
        patch("reclaim.approvals.service.Composer", PlainComposer),
        patch.object(lifecycle_actions, "ATTEMPTS", world.patience),
        patch.object(inbox, "log", Listening(world)),
        patch.object(ticketing, "AT_ONCE", 1),
        patch.object(deliveries, "AT_ONCE", 1),
        patch.object(Lanes, "run", one_after_the_other),
    ):
        yield


async def migrated(database_url: str) -> None:
    """Migrate the database of every service."""
    world = World(0, database_url)
    with controlled(world):
        world.start()
        for process in world.processes.values():
            await upgrade(process.running.database.engine, process.running.service.migrations)
        await world.close()
