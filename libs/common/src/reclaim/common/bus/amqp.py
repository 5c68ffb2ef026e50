"""The bus on RabbitMQ: durable quorum queues, publisher confirms, mandatory publishing, explicit dead letters.

Publishing and consuming have connections of their own, so that a broker which blocks publishers (memory alarm)
does not stop acknowledgements. A lost connection is an error of the call in progress: whoever supervises the call
makes it again, and the next use connects anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractExchange, AbstractIncomingMessage
from aio_pika.exceptions import AMQPError, DeliveryError
from aiormq.exceptions import AMQPError as ProtocolError
from pamqp.common import FieldTable

from reclaim.common.bus import DEAD, DELIVERY_LIMIT, EVENTS, QUEUES, RECEIPTS, SETTLES, Receive
from reclaim.common.contracts import CONSUMERS, SERVICES
from reclaim.common.envelope import CONTENT_TYPE
from reclaim.common.errors import Transient
from reclaim.common.tasks import cancel

PREFETCH: Final = 64
"""Messages that may be under way to one consumer; with batches of hundreds of events that is plenty."""

TURNS: Final = 2
"""Sets of events handled side by side: while the last transactions of one end, the other keeps the database busy."""

TOGETHER: Final = PREFETCH // (2 * TURNS)
"""Most messages in a set: as many again are here already when it is done."""

PROBE: Final = "probe"
REPLIES: Final = "amq.rabbitmq.reply-to"
"""What RabbitMQ calls the way back to the channel that a message came from."""

_BROKEN = (AMQPError, ProtocolError, ConnectionError, TimeoutError, asyncio.InvalidStateError, RuntimeError)
"""What aio-pika raises when the connection or the channel has gone."""


class AmqpBus:
    """One process's link to the broker. Names of exchanges and queues start with `prefix`."""

    def __init__(self, url: str, *, prefix: str = "reclaim", settles: float = SETTLES) -> None:
        self.settles = settles
        self._url = url
        self._prefix = prefix
        self._publishing = asyncio.Lock()
        self._connection: AbstractConnection | None = None
        self._channel: AbstractChannel | None = None
        self._exchange: AbstractExchange | None = None

    def queue_name(self, service: str, queue: str) -> str:
        """Return the broker's name of a service's queue."""
        return f"{self._prefix}.{service}.{queue}"

    async def _connect(self, name: str) -> AbstractConnection:
        return await aio_pika.connect(self._url, timeout=10, client_properties={"connection_name": name})

    async def declare(self) -> None:
        with _as_transient("declare its queues"):
            async with await self._connect(f"{self._prefix}-declare") as connection:
                channel = await connection.channel()
                exchange = await channel.declare_exchange(
                    f"{self._prefix}.events", aio_pika.ExchangeType.DIRECT, durable=True
                )
                for service in SERVICES:
                    for queue in QUEUES:
                        await channel.declare_queue(
                            self.queue_name(service, queue), durable=True, arguments=self._arguments(service, queue)
                        )
                for event, consumers in CONSUMERS.items():
                    for service in consumers:
                        events = await channel.get_queue(self.queue_name(service, EVENTS), ensure=False)
                        await events.bind(exchange, event.wire)

    def _arguments(self, service: str, queue: str) -> FieldTable:
        arguments: FieldTable = {"x-queue-type": "quorum"}
        if queue == EVENTS:
            arguments |= {
                "x-delivery-limit": DELIVERY_LIMIT,
                "x-dead-letter-exchange": "",
                "x-dead-letter-routing-key": self.queue_name(service, DEAD),
                "x-dead-letter-strategy": "at-least-once",
                "x-overflow": "reject-publish",
            }
        return arguments

    async def _open_publisher(self) -> tuple[AbstractChannel, AbstractExchange]:
        async with self._publishing:
            if self._channel is None or self._channel.is_closed or self._exchange is None:
                await self._drop_publisher()
                self._connection = await self._connect(f"{self._prefix}-publish")
                self._channel = await self._connection.channel(publisher_confirms=True, on_return_raises=True)
                self._exchange = await self._channel.get_exchange(f"{self._prefix}.events", ensure=False)
            return self._channel, self._exchange

    async def _drop_publisher(self) -> None:
        connection, self._connection, self._channel, self._exchange = self._connection, None, None, None
        if connection is not None and not connection.is_closed:
            await connection.close()

    async def publish(self, messages: Sequence[tuple[str, bytes]]) -> None:
        with _as_transient("publish"):
            _channel, exchange = await self._open_publisher()
            results = await asyncio.gather(
                *(exchange.publish(_message(body), wire, mandatory=True, timeout=30) for wire, body in messages),
                return_exceptions=True,
            )
            for result in results:
                if isinstance(result, BaseException):
                    raise result

    async def acknowledge(self, producer: str, receipt: bytes) -> None:
        with _as_transient("send a receipt"):
            channel, _exchange = await self._open_publisher()
            await channel.default_exchange.publish(
                aio_pika.Message(receipt, content_type="application/json"),
                self.queue_name(producer, RECEIPTS),
                mandatory=False,
                timeout=30,
            )

    @asynccontextmanager
    async def _arrivals(self, name: str) -> AsyncIterator[asyncio.Queue[AbstractIncomingMessage | None]]:
        """Give the messages of a queue as they arrive; None when no more will."""
        async with await self._connect(name) as connection:
            channel = await connection.channel(publisher_confirms=False)
            await channel.set_qos(prefetch_count=PREFETCH)
            arrivals: asyncio.Queue[AbstractIncomingMessage | None] = asyncio.Queue()
            channel.close_callbacks.add(lambda *_: arrivals.put_nowait(None))
            # The channel stays open when the broker takes the queue away, and nothing would ever arrive.
            (await channel.get_underlay_channel()).on_consumer_cancel_callbacks.add(lambda _: arrivals.put_nowait(None))
            queue = await channel.get_queue(name, ensure=False)
            await queue.consume(arrivals.put)
            yield arrivals

    async def consume(self, service: str, queue: str, receive: Receive) -> None:
        # Receipts gather while earlier ones are cleared: a second turn would only halve what is cleared together.
        turns = TURNS if queue == EVENTS else 1
        with _as_transient("consume"):
            async with self._arrivals(self.queue_name(service, queue)) as arrivals:
                busy: list[asyncio.Event] = []
                taking = [asyncio.create_task(self._take_turns(arrivals, receive, busy)) for _ in range(turns)]
                try:
                    ended, _ = await asyncio.wait(taking, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    await cancel(taking)
        # Out here, since it need not be the broker's fault.
        for task in ended:
            task.result()

    async def _take_turns(
        self, arrivals: asyncio.Queue[AbstractIncomingMessage | None], receive: Receive, busy: list[asyncio.Event]
    ) -> None:
        """Handle a set of messages after the other. `busy` has one for each set under way, in the order of arrival."""
        while True:
            arrived = [await arrivals.get()]
            while not arrivals.empty() and len(arrived) < TOGETHER:
                arrived.append(arrivals.get_nowait())
            messages = [message for message in arrived if message is not None]
            if len(messages) < len(arrived):
                raise Transient("the broker closed the channel, or the queue has gone")
            handled, earlier = asyncio.Event(), list(busy)
            busy.append(handled)
            bodies = [message.body for message in messages if message.type != PROBE]
            if bodies:
                await receive(bodies)
            handled.set()
            busy.remove(handled)
            if len(bodies) < len(messages):
                # Who sent a probe is told that all which came before it was handled, by whichever turn.
                for other in earlier:
                    await other.wait()
            with _as_transient("take an acknowledgement"):
                for message in messages:
                    if message.type == PROBE and message.reply_to:
                        await self._answer(message.reply_to)
                    await message.ack()

    async def probe(self, service: str) -> None:
        answers: asyncio.Queue[AbstractIncomingMessage] = asyncio.Queue()
        with _as_transient("carry a message to its consumer and back"):
            await self._open_publisher()
            assert self._connection is not None
            async with asyncio.timeout(5), self._connection.channel(on_return_raises=True) as channel:
                # The broker sends an answer straight to the channel that asked, whichever replica the probe went to.
                replies = await channel.get_queue(REPLIES, ensure=False)
                await replies.consume(answers.put, no_ack=True)
                await channel.default_exchange.publish(
                    aio_pika.Message(b"", type=PROBE, expiration=30, reply_to=REPLIES),
                    self.queue_name(service, EVENTS),
                    mandatory=True,
                )
                await answers.get()

    async def _answer(self, asker: str) -> None:
        """Tell who sent a probe that it arrived. Who does not hear of it sends another."""
        with suppress(*_BROKEN):
            async with asyncio.timeout(2):
                channel, _exchange = await self._open_publisher()
                await channel.default_exchange.publish(aio_pika.Message(b""), asker, mandatory=False)

    async def close(self) -> None:
        await self._drop_publisher()


def _message(body: bytes) -> aio_pika.Message:
    return aio_pika.Message(body, content_type=CONTENT_TYPE, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)


class _as_transient:  # noqa: N801
    """Turns what the client library raises for a broker that is away into `Transient`."""

    def __init__(self, doing: str) -> None:
        self._doing = doing

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, DeliveryError):
            raise Transient(
                f"the broker could not {self._doing}: it refused or could not route a message. If queues are missing, "
                "`reclaim migrate` declares them."
            ) from error
        if isinstance(error, _BROKEN):
            raise Transient(f"the broker could not {self._doing}: {type(error).__name__}: {error}") from error
