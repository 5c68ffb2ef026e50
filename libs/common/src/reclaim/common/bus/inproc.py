"""The bus inside one process: the same promises as the broker's, bytes included, until the process ends.

What is lost with the process is still in the outboxes, which publish again what nobody has confirmed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from reclaim.common.bus import DEAD, DELIVERY_LIMIT, EVENTS, RECEIPTS, Receive
from reclaim.common.contracts import BY_WIRE, CONSUMERS
from reclaim.common.errors import Transient

AT_ONCE = 64
"""Most messages handed over at a time; the prefetch of the broker's adapter."""


@dataclass(slots=True, eq=False)
class _Message:
    """What is carried. `returned` makes it a probe, which is set when all that came before it was handled."""

    body: bytes
    deliveries: int = 0
    returned: asyncio.Event | None = None


class _Queue:
    def __init__(self) -> None:
        self.waiting: deque[_Message] = deque()
        self.arrived = asyncio.Event()
        self.unfinished = 0

    def put(self, message: _Message, *, first: bool = False) -> None:
        (self.waiting.appendleft if first else self.waiting.append)(message)
        self.arrived.set()


class InprocBus:
    """Queues in memory, shared by every service of the process. It is never away, and nobody else has to come back."""

    settles = 0.0

    def __init__(self) -> None:
        self._queues: dict[tuple[str, str], _Queue] = {}

    def _queue(self, service: str, queue: str) -> _Queue:
        return self._queues.setdefault((service, queue), _Queue())

    async def declare(self) -> None:
        """Queues come into being with their first use; one without a consumer keeps what it is given."""

    async def publish(self, messages: Sequence[tuple[str, bytes]]) -> None:
        for wire, body in messages:
            for service in CONSUMERS[BY_WIRE[wire]]:
                self._queue(service, EVENTS).put(_Message(body))
        await asyncio.sleep(0)

    async def acknowledge(self, producer: str, receipt: bytes) -> None:
        self._queue(producer, RECEIPTS).put(_Message(receipt))

    async def consume(self, service: str, queue: str, receive: Receive) -> None:
        source = self._queue(service, queue)
        while True:
            while not source.waiting:
                source.arrived.clear()
                await source.arrived.wait()
            taken = [source.waiting.popleft() for _ in range(min(AT_ONCE, len(source.waiting)))]
            source.unfinished += len(taken)
            try:
                bodies = [message.body for message in taken if message.returned is None]
                if bodies:
                    await receive(bodies)
            except BaseException:
                for message in reversed(taken):
                    message.deliveries += message.returned is None
                    if message.deliveries < DELIVERY_LIMIT:
                        source.put(message, first=True)
                    elif queue == EVENTS:
                        self._queue(service, DEAD).put(_Message(message.body))
                raise
            finally:
                source.unfinished -= len(taken)
            for message in taken:
                if message.returned is not None:
                    message.returned.set()

    async def probe(self, service: str) -> None:
        returned = asyncio.Event()
        sent, source = _Message(b"", returned=returned), self._queue(service, EVENTS)
        source.put(sent)
        try:
            async with asyncio.timeout(5):
                await returned.wait()
        except TimeoutError as error:
            raise Transient(f"nothing consumes the events of {service}, or it takes long") from error
        finally:
            if sent in source.waiting:
                source.waiting.remove(sent)

    def idle(self) -> bool:
        """Tell whether no message waits or is being handled."""
        return not any(queue.waiting or queue.unfinished for queue in self._queues.values())

    async def close(self) -> None:
        """Nothing to close."""
