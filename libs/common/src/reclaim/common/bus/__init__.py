"""How messages travel: one interface, an adapter for RabbitMQ and one inside the process.

Both carry bytes, keep a message until its handler has returned, deliver at least once, and set aside after
`DELIVERY_LIMIT` deliveries what kills its consumer. Each service has three queues: its events, the receipts for
what it said, and its dead letters.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol
from urllib.parse import urlsplit

EVENTS: Final = "events"
RECEIPTS: Final = "receipts"
DEAD: Final = "dead"
QUEUES: Final = (EVENTS, RECEIPTS, DEAD)

DELIVERY_LIMIT: Final = 20
"""Deliveries after which a message that was never acknowledged is dead; each of them ended with its consumer."""

SETTLES: Final = 25.0
"""Seconds within which everybody has found the way back to a broker: longer than any loop waits to start again."""

Receive = Callable[[Sequence[bytes]], Awaitable[None]]
"""Handles the messages that wait; they are acknowledged together when it returns, and come again if it raises."""


class Bus(Protocol):
    """Carries batches of events from their producer to the queue of every consumer.

    `settles` is for how many seconds after it was away others may still be about to publish what had to wait.
    """

    settles: float

    async def declare(self) -> None:
        """Make every queue of every service exist, so that nothing is said into the void. Repeatable.

        Raises:
            Transient: the broker did not answer.
        """
        ...

    async def publish(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """Publish (wire name, CloudEvents batch) pairs; return when all of them are stored for all consumers.

        Raises:
            Transient: at least one was not; any of them may have been.
        """
        ...

    async def acknowledge(self, producer: str, receipt: bytes) -> None:
        """Send a receipt to its producer. A lost one is made up for when the producer publishes again."""
        ...

    async def consume(self, service: str, queue: str, receive: Receive) -> None:
        """Hand messages of a service's queue to `receive`, all that wait at a time, until cancelled.

        Raises:
            Transient: the broker went away; call again.
        """
        ...

    async def probe(self, service: str) -> None:
        """Send a message through the service's own queue and wait for it to come back.

        Who consumes the queue sends it back after everything that came to them before it was handled.

        Raises:
            Transient: it did not come back within five seconds, or nobody consumes.
        """
        ...

    async def close(self) -> None:
        """Close connections."""
        ...


def open_bus(url: str, *, prefix: str = "reclaim", settles: float = SETTLES) -> Bus:
    """Return the bus that a URL names: `inproc://` or `amqp://user:password@host/vhost`.

    Raises:
        ValueError: the URL names no bus.
    """
    scheme = urlsplit(url).scheme
    if scheme == "inproc":
        from reclaim.common.bus.inproc import InprocBus

        return InprocBus()
    if scheme in {"amqp", "amqps"}:
        from reclaim.common.bus.amqp import AmqpBus

        return AmqpBus(url, prefix=prefix, settles=settles)
    raise ValueError(f"RECLAIM_BUS_URL: {scheme!r} is no bus: use inproc:// or amqp://")
