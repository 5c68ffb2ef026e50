"""Both buses keep a message until it is handled; RabbitMQ's does so across cut connections and missing queues."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import aio_pika
import pytest
from aio_pika.abc import AbstractChannel, AbstractConnection

from libs.common.tests.common_world import Listening, body, closed, message, notice, sqlite_url, until
from reclaim.common import envelope
from reclaim.common.bus import DEAD, DELIVERY_LIMIT, EVENTS, QUEUES, RECEIPTS, Bus, open_bus
from reclaim.common.bus.amqp import AmqpBus
from reclaim.common.bus.inproc import InprocBus
from reclaim.common.contracts import CONSUMERS, SERVICES, CaseClosed, NoticeDelivered
from reclaim.common.errors import Transient
from tests.support.servers import Topology

NOTICE = NoticeDelivered.wire


@pytest.fixture
async def amqp(fresh_vhost: Topology) -> AsyncIterator[AmqpBus]:
    bus = AmqpBus(fresh_vhost.url, prefix=fresh_vhost.prefix)
    await bus.declare()
    yield bus
    await bus.close()


@pytest.fixture(params=["inproc", pytest.param("amqp", marks=pytest.mark.servers)])
async def bus(request: pytest.FixtureRequest) -> AsyncIterator[Bus]:
    if request.param == "inproc":
        yield InprocBus()
        return
    url, prefix = request.getfixturevalue("fresh_vhost")
    opened = open_bus(url, prefix=prefix)
    await opened.declare()
    yield opened
    await opened.close()


@contextlib.asynccontextmanager
async def consuming(
    bus: Bus, receive: Callable[[Sequence[bytes]], Awaitable[None]], service: str = "lifecycle", queue: str = EVENTS
) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(bus.consume(service, queue, receive))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


class Heard:
    """Takes messages, and fails as often as it is told to."""

    def __init__(self, failures: int = 0) -> None:
        self.messages: list[bytes] = []
        self.failures = failures
        self.deliveries = 0

    async def __call__(self, messages: Sequence[bytes]) -> None:
        if not messages:
            return
        self.deliveries += 1
        if self.failures:
            self.failures -= 1
            raise ZeroDivisionError("a defect")
        self.messages.extend(messages)


# ------------------------------------------------------------------------------------------- both


async def test_a_message_goes_to_every_consumer_and_to_nobody_else(bus: Bus) -> None:
    batch = message(closed(1))
    heard = {service: Heard() for service in SERVICES}
    async with contextlib.AsyncExitStack() as stack:
        for service in SERVICES:
            await stack.enter_async_context(consuming(bus, heard[service], service))
        await bus.publish([(CaseClosed.wire, batch)])
        await until(lambda: all(heard[consumer].messages for consumer in CONSUMERS[CaseClosed]))
        await asyncio.sleep(0.1)
    assert {service for service in SERVICES if heard[service].messages} == set(CONSUMERS[CaseClosed])
    assert all(heard[consumer].messages == [batch] for consumer in CONSUMERS[CaseClosed])


async def test_what_waits_is_handed_over_together_and_in_order(bus: Bus) -> None:
    batches = [message(notice(n)) for n in range(30)]
    for batch in batches:
        await bus.publish([(NOTICE, batch)])
    heard = Heard()
    async with consuming(bus, heard):
        await until(lambda: len(heard.messages) == 30)
    assert heard.messages == batches
    assert heard.deliveries <= 20


async def test_a_message_whose_handler_fails_comes_again_and_the_error_is_the_handlers(bus: Bus) -> None:
    batches = [message(notice(n)) for n in range(3)]
    await bus.publish([(NOTICE, batch) for batch in batches])
    heard = Heard(failures=2)
    for _ in range(2):
        async with asyncio.timeout(10):
            with pytest.raises(ZeroDivisionError):
                await bus.consume("lifecycle", EVENTS, heard)
    async with consuming(bus, heard):
        await until(lambda: len(heard.messages) == 3)
    assert sorted(heard.messages) == sorted(batches)


async def test_a_message_is_not_gone_before_its_handler_has_returned(bus: Bus) -> None:
    begun, batch = asyncio.Event(), message(notice(1))

    async def hang(messages: Sequence[bytes]) -> None:
        begun.set()
        await asyncio.Event().wait()

    await bus.publish([(NOTICE, batch)])
    async with consuming(bus, hang):
        await asyncio.wait_for(begun.wait(), 10)
    heard = Heard()
    async with consuming(bus, heard):
        await until(lambda: heard.messages == [batch])


async def test_receipts_go_to_the_producer_alone(bus: Bus) -> None:
    approvals, scanner = Heard(), Heard()
    async with consuming(bus, approvals, "approvals", RECEIPTS), consuming(bus, scanner, "scanner", RECEIPTS):
        await bus.acknowledge("approvals", b'{"consumer":"lifecycle","ids":["a"]}')
        await until(lambda: approvals.messages != [])
        await asyncio.sleep(0.05)
    assert approvals.messages == [b'{"consumer":"lifecycle","ids":["a"]}']
    assert scanner.messages == []


async def test_a_probe_comes_back_only_if_somebody_consumes(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    within = asyncio.timeout

    def impatient(seconds: float | None) -> asyncio.Timeout:
        return within(min(seconds or 0.4, 0.4))

    for adapter in ("inproc", "amqp"):
        monkeypatch.setattr(f"reclaim.common.bus.{adapter}.asyncio.timeout", impatient)
    with pytest.raises(Transient):
        await bus.probe("lifecycle")
    assert not isinstance(bus, InprocBus) or bus.idle(), "what was given up on is taken back"
    monkeypatch.undo()
    heard = Heard()
    async with consuming(bus, heard):
        await bus.probe("lifecycle")
        await bus.probe("lifecycle")
    assert heard.messages == [], "no handler sees a probe"


@pytest.mark.parametrize("taken", ["together", "one after the other"])
async def test_a_probe_comes_back_after_what_was_sent_before_it_was_handled(bus: Bus, taken: str) -> None:
    handled: list[bytes] = []
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slowly(messages: Sequence[bytes]) -> None:
        begun.set()
        await go_on.wait()
        handled.extend(messages)

    async def probing() -> list[asyncio.Task[None]]:
        sent = [asyncio.create_task(bus.probe("lifecycle")) for _ in range(2)]
        await asyncio.sleep(0.2)
        return sent

    batch = message(notice(1))
    await bus.publish([(NOTICE, batch)])
    probes = await probing() if taken == "together" else []
    async with consuming(bus, slowly):
        await begun.wait()
        probes = probes or await probing()
        await asyncio.sleep(0.2)
        assert not any(probe.done() for probe in probes)
        go_on.set()
        await asyncio.gather(*probes)
        assert handled == [batch]


async def test_poison_ends_with_the_dead_and_is_parked(bus: Bus, tmp_path: Path) -> None:
    """Whatever kills its consumer each time is set aside by the broker, and then shown to an operator."""
    await bus.publish([(NOTICE, envelope.join([body(notice("poison"), "the-poison")]))])
    poisoned, dead = Heard(failures=10**6), Heard()

    async def keeps_failing() -> None:
        while True:
            with contextlib.suppress(ZeroDivisionError):
                await bus.consume("lifecycle", EVENTS, poisoned)

    listening = Listening(sqlite_url(tmp_path))
    await listening.create()

    async def bury(messages: Sequence[bytes]) -> None:
        await listening.inbox.bury(messages)
        await dead(messages)

    failing = asyncio.create_task(keeps_failing())
    try:
        async with consuming(bus, bury, queue=DEAD):
            await until(lambda: dead.messages != [], seconds=60)
    finally:
        failing.cancel()
        await asyncio.wait([failing])
    # RabbitMQ counts what came back: the first delivery is not one of them.
    assert poisoned.deliveries in {DELIVERY_LIMIT, DELIVERY_LIMIT + 1}
    (parked,) = await listening.inbox.parked()
    assert parked.event_id == "the-poison"
    assert "the broker gave up" in parked.reason
    assert [receipt.ids for receipt in listening.receipts] == [["the-poison"]]
    heard = Heard()
    async with consuming(bus, heard):
        await bus.publish([(NOTICE, message(notice("next")))])
        await until(lambda: len(heard.messages) == 1)
    await listening.database.close()


def test_a_url_names_a_bus() -> None:
    assert isinstance(open_bus("inproc://"), InprocBus)
    for url in ("amqp://u:p@broker/", "amqps://u:p@broker/vhost"):
        opened = open_bus(url, prefix="mine")
        assert isinstance(opened, AmqpBus)
        assert opened.queue_name("itsm-gateway", EVENTS) == "mine.itsm-gateway.events"
    with pytest.raises(ValueError, match="use inproc:// or amqp://"):
        open_bus("redis://broker")


async def test_in_one_process_it_is_idle_when_nothing_waits_or_is_being_handled() -> None:
    bus, handled = InprocBus(), asyncio.Event()

    async def receive(messages: Sequence[bytes]) -> None:
        assert not bus.idle()
        handled.set()

    assert bus.idle()
    await bus.publish([(NOTICE, message(notice(1)))])
    assert not bus.idle()
    async with consuming(bus, receive):
        await handled.wait()
        await until(bus.idle)


# ------------------------------------------------------------------------------------------- RabbitMQ alone


class Proxy:
    """A network between a bus and its broker that can be cut, or made to carry nothing back."""

    def __init__(self, url: str) -> None:
        self._target = urlsplit(url)
        self._pipes: set[asyncio.StreamWriter] = set()
        self.silent = False
        self.url = ""

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[Proxy]:
        server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        user = self._target.netloc.rpartition("@")[0]
        self.url = urlunsplit(self._target._replace(netloc=f"{user}@127.0.0.1:{port}"))
        try:
            yield self
        finally:
            server.close()
            self.cut()

    async def _carry(self, near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        far, forth = await asyncio.open_connection(self._target.hostname, self._target.port or 5672)
        self._pipes |= {back, forth}
        await asyncio.gather(self._pipe(near, forth, answers=False), self._pipe(far, back, answers=True))

    async def _pipe(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, *, answers: bool) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await source.read(65536):
                if not (answers and self.silent):
                    target.write(data)
                    await target.drain()
        target.close()

    def cut(self) -> None:
        """End every connection as a dying host does."""
        for writer in self._pipes:
            writer.transport.abort()
        self._pipes.clear()


@contextlib.asynccontextmanager
async def through_a_proxy(topology: Topology) -> AsyncIterator[tuple[Proxy, AmqpBus]]:
    async with Proxy(topology.url).open() as proxy:
        bus = AmqpBus(proxy.url, prefix=topology.prefix)
        await bus.declare()
        try:
            yield proxy, bus
        finally:
            await bus.close()


@contextlib.asynccontextmanager
async def operator(topology: Topology) -> AsyncIterator[AbstractChannel]:
    async with await aio_pika.connect(topology.url) as connection:
        yield await connection.channel()


@pytest.mark.servers
async def test_declaring_again_changes_nothing(amqp: AmqpBus, fresh_vhost: Topology) -> None:
    batch = message(notice(1))
    await amqp.publish([(NOTICE, batch)])
    await amqp.declare()
    await asyncio.gather(amqp.declare(), amqp.declare())
    async with operator(fresh_vhost) as channel:
        for service in SERVICES:
            for queue in QUEUES:
                await channel.declare_queue(amqp.queue_name(service, queue), passive=True)
    heard = Heard()
    async with consuming(amqp, heard):
        await until(lambda: heard.messages == [batch])


@pytest.mark.servers
async def test_a_message_that_nobody_could_get_is_not_published(amqp: AmqpBus, fresh_vhost: Topology) -> None:
    async with operator(fresh_vhost) as channel:
        await channel.queue_delete(amqp.queue_name("lifecycle", EVENTS))
    with pytest.raises(Transient, match="`reclaim migrate` declares them"):
        await amqp.publish([(CaseClosed.wire, message(closed(1))), (NOTICE, message(notice(1)))])
    with pytest.raises(Transient):
        await amqp.probe("lifecycle")
    await amqp.declare()
    await amqp.publish([(NOTICE, message(notice(1)))])


@pytest.mark.servers
async def test_each_replica_hears_of_its_own_probe_whoever_it_went_to(amqp: AmqpBus, fresh_vhost: Topology) -> None:
    """The broker shares a queue out among replicas: every other probe goes to the one that has not sent it."""
    other = AmqpBus(fresh_vhost.url, prefix=fresh_vhost.prefix)
    heard = Heard()
    try:
        async with consuming(amqp, heard), consuming(other, heard):
            for replica in (amqp, other, other, amqp, amqp):
                await replica.probe("lifecycle")
    finally:
        await other.close()
    assert heard.messages == []


@pytest.mark.servers
async def test_without_the_exchange_publishing_fails_and_recovers(amqp: AmqpBus, fresh_vhost: Topology) -> None:
    async with operator(fresh_vhost) as channel:
        await channel.exchange_delete(f"{fresh_vhost.prefix}.events")
    for _ in range(2):
        with pytest.raises(Transient):
            await amqp.publish([(NOTICE, message(notice(1)))])
    await amqp.declare()
    await amqp.publish([(NOTICE, message(notice(1)))])


@pytest.mark.servers
async def test_a_queue_that_is_taken_away_ends_its_consumer(amqp: AmqpBus, fresh_vhost: Topology) -> None:
    """The channel stays open then: without notice the consumer would wait for ever."""
    heard = Heard()
    async with consuming(amqp, heard) as task:
        await amqp.probe("lifecycle")
        async with operator(fresh_vhost) as channel:
            await channel.queue_delete(amqp.queue_name("lifecycle", EVENTS))
        await asyncio.wait([task], timeout=10)
        assert task.done()
        with pytest.raises(Transient, match="queue has gone"):
            await task
    with pytest.raises(Transient):
        await amqp.consume("lifecycle", EVENTS, heard)
    await amqp.declare()
    async with consuming(amqp, heard):
        await amqp.publish([(NOTICE, message(notice(1)))])
        await until(lambda: len(heard.messages) == 1)


@pytest.mark.servers
async def test_a_set_that_takes_long_holds_up_neither_the_next_nor_takes_it_along(
    amqp: AmqpBus, fresh_vhost: Topology
) -> None:
    """What the later one acknowledged is gone; what the earlier one still had comes again."""
    slow, *others = [message(notice(n)) for n in range(4)]
    begun, handled = asyncio.Event(), []

    async def handle(messages: Sequence[bytes]) -> None:
        if slow in messages:
            begun.set()
            await asyncio.Event().wait()
        handled.extend(messages)

    async with consuming(amqp, handle):
        await amqp.publish([(NOTICE, slow)])
        await asyncio.wait_for(begun.wait(), 10)
        await amqp.publish([(NOTICE, other) for other in others])
        await until(lambda: sorted(handled) == sorted(others))
        await asyncio.sleep(0.2)  # a probe would wait for the slow one as well
    heard = Heard()
    async with consuming(amqp, heard):
        await until(lambda: heard.messages != [])
        await amqp.probe("lifecycle")
    assert heard.messages == [slow]


@pytest.mark.servers
@pytest.mark.parametrize("moment", ["while it waits", "while it handles"])
@pytest.mark.parametrize("end", ["cut", "closed"])
async def test_a_consumer_whose_connection_ends_says_so_and_the_next_gets_the_messages(
    fresh_vhost: Topology, monkeypatch: pytest.MonkeyPatch, moment: str, end: str
) -> None:
    batches = [message(notice(n)) for n in range(3)]
    begun, go_on = asyncio.Event(), asyncio.Event()
    connections: list[AbstractConnection] = []

    async def handle(messages: Sequence[bytes]) -> None:
        begun.set()
        await go_on.wait()

    async with through_a_proxy(fresh_vhost) as (proxy, bus):
        connect = bus._connect

        async def connected(name: str) -> AbstractConnection:
            connections.append(await connect(name))
            return connections[-1]

        monkeypatch.setattr(bus, "_connect", connected)
        async with consuming(bus, handle) as task:
            await until(lambda: connections != [])
            (consumers,) = connections
            if moment == "while it waits":
                await asyncio.sleep(0.2)
            else:
                await bus.publish([(NOTICE, batch) for batch in batches])
                await asyncio.wait_for(begun.wait(), 10)
            if end == "cut":
                proxy.cut()
            else:
                await consumers.close()
            await asyncio.sleep(0.1)
            go_on.set()
            await asyncio.wait([task], timeout=10)
            assert task.done()
            with pytest.raises(Transient):
                await task
        if moment == "while it waits":
            await bus.publish([(NOTICE, batch) for batch in batches])
        heard = Heard()
        async with consuming(bus, heard):
            await until(lambda: len(heard.messages) >= 3)
        assert sorted(heard.messages) == sorted(batches)


@pytest.mark.servers
async def test_a_publisher_whose_connection_was_cut_connects_anew(fresh_vhost: Topology) -> None:
    async with through_a_proxy(fresh_vhost) as (proxy, bus):
        await bus.publish([(NOTICE, message(notice(1)))])
        proxy.cut()
        await asyncio.sleep(0.1)
        await bus.publish([(NOTICE, message(notice(2)))])
        proxy.cut()
        with contextlib.suppress(Transient):  # the cut may not have been noticed yet
            await bus.publish([(NOTICE, message(notice(3)))])
        await bus.publish([(NOTICE, message(notice(4)))])
        heard = Heard()
        async with consuming(bus, heard):
            await until(lambda: len(heard.messages) >= 3)


@pytest.mark.servers
@pytest.mark.parametrize("doing", ["publish", "acknowledge", "probe"])
async def test_a_cut_before_the_confirm_is_an_error_of_that_call(fresh_vhost: Topology, doing: str) -> None:
    """Not a cancellation: that would end the loop that called, for good."""
    async with through_a_proxy(fresh_vhost) as (proxy, bus):
        await bus.publish([(NOTICE, message(notice(1)))])
        proxy.silent = True
        call = {
            "publish": lambda: bus.publish([(NOTICE, message(notice(n))) for n in range(5)]),
            "acknowledge": lambda: bus.acknowledge("approvals", b"{}"),
            "probe": lambda: bus.probe("lifecycle"),
        }[doing]
        waiting = asyncio.ensure_future(call())
        await asyncio.sleep(0.2)
        assert not waiting.done()
        proxy.cut()
        proxy.silent = False
        async with asyncio.timeout(10):
            with pytest.raises(Transient):
                await waiting


@pytest.mark.parametrize("url", ["amqp://u:p@127.0.0.1:1/", "amqp://u:p@no-such-host.invalid/"])
async def test_a_broker_that_cannot_be_reached_is_a_passing_trouble(url: str) -> None:
    bus = AmqpBus(url)
    heard = Heard()
    for call in (
        bus.declare,
        lambda: bus.publish([(NOTICE, b"[]")]),
        lambda: bus.acknowledge("scanner", b"{}"),
        lambda: bus.probe("scanner"),
        lambda: bus.consume("scanner", EVENTS, heard),
    ):
        with pytest.raises(Transient):
            await call()
    await bus.close()


@pytest.mark.servers
async def test_many_callers_share_one_publishing_connection(amqp: AmqpBus, monkeypatch: pytest.MonkeyPatch) -> None:
    connect, names = amqp._connect, []

    async def connected(name: str) -> AbstractConnection:
        names.append(name)
        return await connect(name)

    monkeypatch.setattr(amqp, "_connect", connected)
    await asyncio.gather(*(amqp.publish([(NOTICE, message(notice(n)))]) for n in range(20)))
    assert len(names) == 1
