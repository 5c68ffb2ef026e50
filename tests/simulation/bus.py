"""The broker of a simulation: it keeps bytes, delivers at the scheduler's word, and has the troubles brokers have."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import NoReturn

from reclaim.common.bus import DEAD, DELIVERY_LIMIT, EVENTS, RECEIPTS, Receive
from reclaim.common.contracts import BY_WIRE, CONSUMERS
from reclaim.common.errors import Transient

AT_ONCE = 16
"""Most messages handed over at a time."""

QueueName = tuple[str, str]
"""Service and queue."""


@dataclass(eq=False)
class Message:
    body: bytes
    deliveries: int = 0


class Broker:
    """Queues in memory. `happened` is told the name of each trouble; `seen` is shown what is really stored."""

    def __init__(
        self, chance: Random, likely: float, happened: Callable[[str], None], seen: Callable[[bytes], None]
    ) -> None:
        self.queues: dict[QueueName, list[Message]] = defaultdict(list)
        self.away = False
        self.calm = False
        self._chance = chance
        self._likely = likely
        self._happened = happened
        self._seen = seen

    def waiting(self) -> list[QueueName]:
        """Return the queues that hold something, in an order that never changes."""
        return sorted(name for name, messages in self.queues.items() if messages)

    def publish(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """Store messages for all consumers, or have trouble with it."""
        trouble = self._trouble("unconfirmed", "lost", "doubled", "half stored") if not self.away else "away"
        if trouble == "away":
            raise Transient("simulated: the broker is away")
        for position, (wire, body) in enumerate(messages):
            self._seen(body)
            if trouble == "half stored" and position >= len(messages) // 2:
                continue
            for service in CONSUMERS[BY_WIRE[wire]]:
                if trouble == "lost" and self._chance.random() < 0.6:
                    continue
                for _ in range(2 if trouble == "doubled" else 1):
                    self.queues[service, EVENTS].append(Message(body))
        if trouble in {"unconfirmed", "half stored"}:
            raise Transient("simulated: the broker did not confirm")

    def slip_in(self, service: str, body: bytes) -> None:
        """Let a message lie in a service's queue that nobody can read."""
        self.queues[service, EVENTS].append(Message(body))

    def receipt(self, producer: str, receipt: bytes) -> None:
        """Store a receipt for its producer, unless it gets lost."""
        if self.away or self._trouble("receipt lost"):
            raise Transient("simulated: the receipt was not taken")
        self.queues[producer, RECEIPTS].append(Message(receipt))

    def take(self, name: QueueName) -> list[Message]:
        """Return some of the messages of a queue, mostly in order; they stay in it until they are acknowledged."""
        waiting = self.queues[name]
        if self.calm:
            return waiting[:AT_ONCE]
        if self._trouble("reordered"):
            waiting = self._chance.sample(waiting, len(waiting))
        return list(waiting[: self._chance.randint(1, AT_ONCE)])

    def acknowledged(self, name: QueueName, messages: Sequence[Message]) -> None:
        """Forget what was handled; now and then it comes again all the same, at once or long after."""
        if self._trouble("redelivered"):
            return
        gone = set(map(id, messages))
        self.queues[name] = [message for message in self.queues[name] if id(message) not in gone]

    def returned(self, name: QueueName, messages: Sequence[Message]) -> None:
        """Count a delivery that its consumer did not survive."""
        for message in messages:
            message.deliveries += 1
            if message.deliveries >= DELIVERY_LIMIT and message in self.queues[name]:
                self.queues[name].remove(message)
                if name[1] == EVENTS:
                    self.queues[name[0], DEAD].append(Message(message.body))

    def _trouble(self, *kinds: str) -> str | None:
        if self.calm or self._chance.random() >= self._likely:
            return None
        kind = self._chance.choice(kinds)
        self._happened(f"broker: {kind}")
        return kind


class Line:
    """The `Bus` as one process has it: its way to the broker, on which it may be stopped or killed."""

    def __init__(self, broker: Broker, gate: Callable[[str], Awaitable[None]]) -> None:
        self._broker = broker
        self._gate = gate

    async def declare(self) -> None:
        """Queues come into being with their first use."""

    async def publish(self, messages: Sequence[tuple[str, bytes]]) -> None:
        await self._gate("before publish")
        self._broker.publish(messages)
        await self._gate("after publish")

    async def acknowledge(self, producer: str, receipt: bytes) -> None:
        self._broker.receipt(producer, receipt)

    async def consume(self, service: str, queue: str, receive: Receive) -> NoReturn:
        raise AssertionError("the scheduler delivers messages itself")

    async def probe(self, service: str) -> None:
        """Tell whether everything was delivered: the scheduler delivers messages itself, and none meanwhile."""
        if self._broker.away or self._broker.queues[service, EVENTS]:
            raise Transient("simulated: not everything was delivered")

    async def close(self) -> None:
        """There is nothing to close."""
