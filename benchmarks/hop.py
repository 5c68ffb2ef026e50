"""The hop of the real lifecycle service, against raw aio-pika without any database, in the same run.

    make bench BENCH=hop
    RECLAIM_TEST_AMQP_URL=... RECLAIM_TEST_POSTGRES_URL=... python benchmarks/hop.py --events 16000 --rounds 5

- *raw*: one event a message. A consumer with prefetch 100 gives each message to a task of its own, which publishes the
  same bytes, persistent, with confirm, and then acknowledges; so up to a hundred are under way together. Both queues
  are durable quorum queues. No database, nothing is decoded, and its input waits in the queue. It runs as the client
  library does by itself, on asyncio's own event loop, which is what the floor was set against. *raw, uvloop* is the
  same on the event loop that the service runs on: how much of the result is the loop's, and how much the design's.
- *keep*: the service in its host, as it runs in production, on RabbitMQ and PostgreSQL. Each `DecisionReceived(keep)`
  meets an open case that awaits it; inbox, case, audit trail, personal data and outbox are written in one transaction,
  and `CaseClosed` leaves through the relay. The clock stops when the broker has confirmed every `CaseClosed`. Receipts
  travel both ways meanwhile, and there is no result unless the outbox is empty in the end.
- *revoke*: the same with `DecisionReceived(revoke)`, which stores a check to be made instead of an event to be said.
  What the service then does in the connected system is no part of the hop; its own jobs do not run here.

The cases come into being through `UserFlagged` and `NoticeDelivered`, and the decisions wait in the service's queue, in
batches as their producer's relay sends them, before the service starts; the clock starts when it has taken the first
few. The consumers of `CaseClosed` are stand-ins in a process of their own, which send receipts as every inbox
does and do nothing else.

CPU is this process's own, so it leaves out both servers. Each round takes the sides in turn, and the medians over the
rounds are the result, so that a machine that is busy for a moment slows all of them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import re
import statistics
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final

import aio_pika
import asyncpg
import msgspec
import sqlalchemy as sa
import uvloop
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage, AbstractQueue
from cryptography.fernet import Fernet
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table

from reclaim.common import envelope
from reclaim.common.bus import EVENTS, QUEUES
from reclaim.common.bus.amqp import AmqpBus
from reclaim.common.contracts import (
    CONSUMERS,
    SERVICES,
    CaseClosed,
    CheckFinding,
    Decision,
    DecisionReceived,
    Event,
    Money,
    NoticeDelivered,
    Person,
    Policy,
    Seat,
    UserFlagged,
)
from reclaim.common.host import Host, settle_collector
from reclaim.common.outbox import FULL, Receipt, rows_of
from reclaim.common.service import Runtime, Service
from reclaim.common.settings import Settings
from reclaim.lifecycle import service as lifecycle

RAW: Final = "raw"
RAW_UVLOOP: Final = "raw, uvloop"

FLOOR: Final = 4.0
AIM: Final = 8.0
PREFETCH: Final = 100
WARM_UP: Final = 500
PATIENCE: Final = 120.0
"""Seconds after which a side that has not finished is given up."""

CHECKS: Final = (
    "administrator", "integration_user", "exempt", "new_account", "on_leave",
    "recent_activity", "open_records", "scheduled_jobs", "approval_step", "dashboard_owner",
)  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """One side in one round. `cpu` is seconds of this process."""

    events: int
    seconds: float
    cpu: float

    @property
    def rate(self) -> float:
        return self.events / self.seconds

    @property
    def cpu_each(self) -> float:
        return self.cpu / self.events * 1e6


class Stopwatch:
    """Times what happens between its making and `read`, with the collector as the host sets it at its start."""

    def __init__(self) -> None:
        settle_collector()
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self, events: int) -> Measured:
        return Measured(events, time.perf_counter() - self._wall, time.process_time() - self._cpu)


# What is said.


def flagged(case_id: str, number: int, now: datetime) -> UserFlagged:
    """Return the event that opens a case, with everything a real one has."""
    return UserFlagged(
        case_id=case_id,
        seat=Seat(
            connection_id="org-1",
            product=f"licence-{number % 5}",
            product_name=f"Sales Cloud {number % 5}",
            holder=Person(id=f"holder-{case_id}", name=f"Holder {number}", email=f"holder-{number}@example.com"),
            department=f"Department {number % 30}",
            price=Money(amount=Decimal("165.00"), currency="USD"),
        ),
        approver=Person(id=f"manager-{number % 400}", name="Manager", email=f"manager-{number % 400}@example.com"),
        policy=Policy(
            rule_id="rule-1",
            rule_version=3,
            rule_name="Sales seats unused for 90 days",
            inactive_days=90,
            route="email",
            decision_days=14,
            on_timeout="freeze",
            grace_days=30,
            hand_over=True,
            dry_run=False,
        ),
        findings=tuple(CheckFinding(check=check, outcome="pass", evidence="nothing found") for check in CHECKS),
        last_used_at=now - timedelta(days=120),
        flagged_at=now,
    )


def noticed(case_id: str, number: int, now: datetime) -> NoticeDelivered:
    """Return the event that lets a case await its decision."""
    recipient = f"manager-{number % 400}@example.com"
    return NoticeDelivered(case_id=case_id, channel="email", recipient=recipient, delivered_at=now)


def decided(case_id: str, number: int, now: datetime, decision: Decision = "keep") -> DecisionReceived:
    """Return the event that is measured: about 600 bytes with its envelope."""
    return DecisionReceived(
        case_id=case_id,
        decision=decision,
        channel="email",
        actor=f"manager-{number % 400}@example.com",
        reason="Back from parental leave next month and needs the seat again.",
        decided_at=now,
        ip="203.0.113.17",
        user_agent="Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    )


def batches(events: Sequence[Event], source: str, now: datetime) -> list[tuple[str, bytes]]:
    """Return events of one type as their producer's relay sends them: (wire name, message) pairs."""
    bodies = [envelope.encode(event, source=source, time=now) for event in events]
    together = FULL // len(bodies[0])
    return [
        (events[0].wire, envelope.join(bodies[start : start + together])) for start in range(0, len(bodies), together)
    ]


# The raw side.


async def raw(url: str, prefix: str, events: int) -> Measured:
    """Carry events from one queue to another by nothing but the client library."""
    now = datetime.now(UTC)
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel(publisher_confirms=True)
        await channel.set_qos(prefetch_count=PREFETCH)
        source, target = [
            await channel.declare_queue(f"{prefix}.raw.{end}", durable=True, arguments={"x-queue-type": "quorum"})
            for end in ("in", "out")
        ]
        try:
            bodies = [
                envelope.encode(decided(f"case-{number:09}", number, now), source="approvals", time=now)
                for number in range(events)
            ]
            for start in range(0, events, PREFETCH):
                await asyncio.gather(*(_publish(channel, source, body) for body in bodies[start : start + PREFETCH]))
            measured = await _carry(channel, source, target, events)
            state = await channel.declare_queue(target.name, passive=True)
            if state.declaration_result.message_count != events:
                sys.exit(f"raw: {state.declaration_result.message_count} of {events} messages arrived")
            return measured
        finally:
            await source.delete(if_unused=False, if_empty=False)
            await target.delete(if_unused=False, if_empty=False)


async def _publish(channel: AbstractChannel, queue: AbstractQueue, body: bytes) -> None:
    message = aio_pika.Message(body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
    await channel.default_exchange.publish(message, queue.name)


async def _carry(channel: AbstractChannel, source: AbstractQueue, target: AbstractQueue, events: int) -> Measured:
    done = asyncio.Event()
    left = events

    async def carry(message: AbstractIncomingMessage) -> None:
        nonlocal left
        await _publish(channel, target, message.body)
        await message.ack()
        left -= 1
        if not left:
            done.set()

    stopwatch = Stopwatch()
    tag = await source.consume(carry)
    async with asyncio.timeout(PATIENCE):
        await done.wait()
    measured = stopwatch.read(events)
    await source.cancel(tag)
    return measured


# The service's side.


class CountingBus(AmqpBus):
    """The service's own bus, which also counts the events that the broker has confirmed."""

    confirmed = 0

    async def publish(self, messages: Sequence[tuple[str, bytes]]) -> None:
        await super().publish(messages)
        self.confirmed += sum(body.count(b'"specversion"') for _, body in messages)


class World:
    """A database, a bus and everything around the service that the hop needs."""

    def __init__(self, amqp_url: str, postgres_url: str) -> None:
        self.prefix = f"bench-{uuid.uuid4().hex[:8]}"
        self._amqp_url = amqp_url
        self._database = self.prefix.replace("-", "_")
        self._server = sa.make_url(postgres_url)
        self._settings = Settings(
            environment="test",
            bus_url=amqp_url,
            bus_prefix=self.prefix,
            database_url=self._server.set(database=self._database).render_as_string(hide_password=False),
            secret_keys=[SecretStr("benchmark" * 4)],
            sealing_keys=[SecretStr(Fernet.generate_key().decode())],
        )
        self._number = 0

    def _connect(self, database: str | None) -> Awaitable[asyncpg.Connection]:
        url = self._server.set(drivername="postgresql", database=database)
        connection: Awaitable[asyncpg.Connection] = asyncpg.connect(url.render_as_string(hide_password=False))
        return connection

    async def open(self) -> None:
        """Make the database, its tables and the queues."""
        admin = await self._connect(self._server.database)
        await admin.execute(f"CREATE DATABASE {self._database}")
        await admin.close()
        self._watch = await self._connect(self._database)
        host = self._host()
        await host.prepare()
        await host.close()

    async def close(self) -> None:
        """Remove them."""
        await self._watch.close()
        admin = await self._connect(self._server.database)
        await admin.execute(f"DROP DATABASE {self._database} WITH (FORCE)")
        await admin.close()
        bus = AmqpBus(self._amqp_url, prefix=self.prefix)
        async with await aio_pika.connect(self._amqp_url) as connection:
            channel = await connection.channel()
            for service in SERVICES:
                for queue in QUEUES:
                    await channel.queue_delete(bus.queue_name(service, queue))
            await channel.exchange_delete(f"{self.prefix}.events")

    def _host(self) -> Host:
        return Host(self._settings, {"lifecycle": _without_jobs})

    async def awaiting(self, cases: int) -> list[str]:
        """Open cases and let them await their decision; return their ids."""
        now = datetime.now(UTC)
        ids = [f"case-{number:09}" for number in range(self._number, self._number + cases)]
        self._number += cases
        host = self._host()
        inbox = host.running[0].inbox
        for say, source in ((flagged, "scanner"), (noticed, "approvals")):
            events = [say(case_id, number, now) for number, case_id in enumerate(ids)]
            await inbox.receive([message for _, message in batches(events, source, now)])
        await host.close()
        await self._nothing_is_set_aside()
        return ids

    async def decide(self, ids: Sequence[str], decision: Decision) -> Measured:
        """Let the service take a decision on each of these cases; what it does until the first few are done is not
        counted: opening connections, preparing statements.
        """
        now = datetime.now(UTC)
        bus = CountingBus(self._amqp_url, prefix=self.prefix)
        await bus.publish(batches([decided(each, n, now, decision) for n, each in enumerate(ids)], "approvals", now))
        bus.confirmed = 0
        base = await self._watch.fetchval("SELECT position FROM audit_head")

        async def through() -> int:
            """How many are through: in the audit trail, and what they led to confirmed by the broker."""
            position: int = await self._watch.fetchval("SELECT position FROM audit_head")
            return min(position - base, bus.confirmed) if decision == "keep" else position - base

        async with Host(self._settings, {"lifecycle": _without_jobs}, bus=bus).started(), asyncio.timeout(PATIENCE):
            first = await _reached(through, WARM_UP)
            stopwatch = Stopwatch()
            await _reached(through, len(ids))
            measured = stopwatch.read(len(ids) - first)
            while await self._watch.fetchval("SELECT count(*) FROM outbox"):  # noqa: ASYNC110 - the database knows
                await asyncio.sleep(0.05)
        return measured

    async def check(self, cases: dict[str, int]) -> None:
        """Make sure that every case ended where its decision leads.

        Raises:
            SystemExit: some did not.
        """
        await self._nothing_is_set_aside()
        found = dict(await self._watch.fetch("SELECT state, count(*) FROM reclaim_case GROUP BY state"))
        if found != cases:
            sys.exit(f"the cases ended as {found}, not as {cases}")

    async def _nothing_is_set_aside(self) -> None:
        reason = await self._watch.fetchval("SELECT reason FROM set_aside LIMIT 1")
        if reason is not None:
            sys.exit(f"the service set events aside: {reason}")


async def _reached(count: Callable[[], Awaitable[int]], wanted: int) -> int:
    """Wait until a count has come as far as wanted; return how far it has come."""
    while (now := await count()) < wanted:  # noqa: ASYNC110 - the database knows
        await asyncio.sleep(0.02)
    return now


def _without_jobs(runtime: Runtime) -> Service:
    return replace(lifecycle.build(runtime), jobs=())


def stand_in(amqp_url: str, prefix: str) -> None:
    """Be the consumers of `CaseClosed`: answer each batch with a receipt, until the process is ended."""
    bus = AmqpBus(amqp_url, prefix=prefix)
    # They share the processors with what is measured, and what they do with an event is none of its business: they do
    # not even read it, beyond its id, which stands behind the version wherever an event begins.
    ids_of = re.compile(rb'"specversion":"1.0","id":"([^"]+)"').findall

    def consumer(service: str) -> Callable[[Sequence[bytes]], Awaitable[None]]:
        async def receive(messages: Sequence[bytes]) -> None:
            ids = rows_of(found.decode() for message in messages for found in ids_of(message))
            await bus.acknowledge("lifecycle", msgspec.json.encode(Receipt(service, ids)))

        return receive

    async def run() -> None:
        await asyncio.gather(*(bus.consume(service, EVENTS, consumer(service)) for service in CONSUMERS[CaseClosed]))

    uvloop.run(run())


def measure(amqp_url: str, postgres_url: str, events: int, rounds: int) -> dict[str, list[Measured]]:
    """Run every side in every round."""
    sides: dict[str, list[Measured]] = {name: [] for name in (RAW, RAW_UVLOOP, "keep", "revoke")}
    there = World(amqp_url, postgres_url)
    cases = events + WARM_UP
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as uv:
        uv.run(there.open())
        consumers = multiprocessing.get_context("spawn").Process(
            target=stand_in, args=(amqp_url, there.prefix), daemon=True, name="consumers"
        )
        consumers.start()
        try:
            for number in range(rounds):
                ids = uv.run(there.awaiting(2 * cases))
                sides[RAW].append(asyncio.run(raw(amqp_url, there.prefix, events // 4)))
                sides["keep"].append(uv.run(there.decide(ids[:cases], "keep")))
                sides[RAW_UVLOOP].append(uv.run(raw(amqp_url, there.prefix, events // 4)))
                sides["revoke"].append(uv.run(there.decide(ids[cases:], "revoke")))
                latest = "; ".join(f"{name} {measured[-1].rate:,.0f}" for name, measured in sides.items())
                print(f"round {number + 1} of {rounds}, events/s: {latest}", file=sys.stderr)
            if not consumers.is_alive():
                sys.exit("the stand-ins of the consumers ended early")
            uv.run(there.check({"kept": rounds * cases, "checking_before_freeze": rounds * cases}))
        finally:
            consumers.terminate()
            consumers.join()
            uv.run(there.close())
    return sides


def summary(sides: dict[str, list[Measured]]) -> dict[str, dict[str, float]]:
    """Return each side's medians over the rounds; a ratio is the median of the ratios within each round."""

    def ratio(name: str, base: str, of: Callable[[Measured], float]) -> float:
        return statistics.median(of(one) / of(other) for one, other in zip(sides[name], sides[base], strict=True))

    return {
        name: {
            "events_per_second": statistics.median(one.rate for one in measured),
            "cpu_us_per_event": statistics.median(one.cpu_each for one in measured),
            "ratio": ratio(name, RAW, lambda one: one.rate),
            "ratio_uvloop": ratio(name, RAW_UVLOOP, lambda one: one.rate),
            "cpu_ratio": ratio(name, RAW, lambda one: 1 / one.cpu_each),
        }
        for name, measured in sides.items()
    }


def show(found: dict[str, dict[str, float]]) -> None:
    """Print the table."""
    table = Table(title="The hop: consume, one transaction, publish with confirm, acknowledge")
    table.add_column("side")
    for heading in ("events/s", "CPU µs an event", "x raw", "x raw, uvloop", "x raw by CPU", "floor", "aim"):
        table.add_column(heading, justify="right")
    for name, side in found.items():
        goals = ("", "") if name in (RAW, RAW_UVLOOP) else (f"{FLOOR:g}", f"{AIM:g}")
        table.add_row(
            name,
            f"{side['events_per_second']:,.0f}",
            f"{side['cpu_us_per_event']:,.0f}",
            f"{side['ratio']:.1f}",
            f"{side['ratio_uvloop']:.1f}",
            f"{side['cpu_ratio']:.1f}",
            *goals,
        )
    Console().print(table)


def main() -> None:
    """Measure, print, and fail below the floor."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=16_000, help="decisions a round and side; raw carries a quarter")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", choices=["text", "json"], default="text")
    arguments = parser.parse_args()
    try:
        urls = os.environ["RECLAIM_TEST_AMQP_URL"], os.environ["RECLAIM_TEST_POSTGRES_URL"]
    except KeyError as missing:
        sys.exit(f"{missing.args[0]} is not set: run `make bench BENCH=hop`, which starts the servers")
    found = summary(measure(*urls, arguments.events, arguments.rounds))
    if arguments.output == "json":
        print(json.dumps({"sides": found, "floor": FLOOR, "aim": AIM}))
    else:
        show(found)
    if any(found[side]["ratio"] < FLOOR for side in ("keep", "revoke")):
        sys.exit("below the floor")


if __name__ == "__main__":
    main()
