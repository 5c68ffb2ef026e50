"""Webhooks taken by the real gateway, against a bare FastAPI endpoint in the same worker and the same run.

    make bench BENCH=intake
    RECLAIM_TEST_POSTGRES_URL=... python benchmarks/intake.py --requests 20000 --rounds 5

- *bare*: a FastAPI application with one endpoint, which reads the same JSON into a model and answers 202 with JSON. No
  middleware, no signature, no database.
- *intake*: the gateway in its host, as it runs in production, on PostgreSQL. Each webhook has an id of its own and is
  signed; it is verified with a secret from the database, entered in the ledger, stored, and answered with 202 after
  the commit. What is done with it later is no part of it: the gateway's jobs do not run here.

Both are served by uvicorn on uvloop in this one process, each on a port of its own, with the garbage collector as the
host sets it. The load comes from another process over 64 connections, each of which sends a request when it has the
answer to the one before. Requests are signed before the clock starts. Each round takes both sides in turn, and the
medians over the rounds are the result, so that a machine that is busy for a moment slows both. In the end every webhook
must be in the database.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import statistics
import sys
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from typing import Final, Literal, cast

import asyncpg
import sqlalchemy as sa
import uvicorn
import uvloop
from cryptography.fernet import Fernet
from fastapi import FastAPI
from pydantic import BaseModel, SecretStr
from rich.console import Console
from rich.table import Table
from standardwebhooks import Webhook
from starlette.types import ASGIApp

from reclaim.common.host import Host, settle_collector
from reclaim.common.security import Sealer
from reclaim.common.settings import Settings
from reclaim.itsm_gateway import delivery_store, service
from reclaim.itsm_gateway.keyring import Keyring

FLOOR: Final = 0.5
AIM: Final = 1.0
CONNECTIONS: Final = 64
CONNECTION_ID: Final = "bench"
PATH: Final = f"/itsm-gateway/webhooks/{CONNECTION_ID}"
Side = Literal["bare", "intake"]


@dataclass(frozen=True)
class Measured:
    """One side in one round. `cpu` is seconds of the worker; latencies are milliseconds."""

    requests: int
    seconds: float
    cpu: float
    median: float
    p99: float

    @property
    def rate(self) -> float:
        return self.requests / self.seconds

    @property
    def cpu_each(self) -> float:
        return self.cpu / self.requests * 1e6


# ------------------------------------------------------------------------------------------------ the load


@dataclass(frozen=True)
class Order:
    """What the load is to send: webhooks from a number on, to a port."""

    port: int
    first: int
    count: int


@dataclass(frozen=True)
class Report:
    """What the load saw: how many answers of each status, and how long each took, in seconds."""

    seconds: float
    statuses: dict[int, int]
    latencies: list[float]


def send_load(orders: Connection, secret: str) -> None:
    """Carry out orders until there are no more; runs in a process of its own."""
    while True:
        order = orders.recv()
        if order is None:
            return
        orders.send(uvloop.run(_load(order, _requests(order, secret))))


def _requests(order: Order, secret: str) -> deque[bytes]:
    webhook, now = Webhook(secret), datetime.now(UTC)
    made = deque()
    for number in range(order.first, order.first + order.count):
        body = json.dumps(
            {
                "case_id": f"0199a7c1-0000-7000-8000-{number:012}",
                "decision": "keep",
                "actor": f"manager-{number % 400}@example.com",
                "reason": "Back from parental leave next month and needs the seat again.",
            }
        )
        webhook_id = f"msg_{number:012}"
        head = (
            f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nwebhook-id: {webhook_id}\r\n"
            f"webhook-timestamp: {int(now.timestamp())}\r\n"
            f"webhook-signature: {webhook.sign(webhook_id, now, body)}\r\n\r\n"
        )
        made.append((head + body).encode())
    return made


async def _load(order: Order, waiting: deque[bytes]) -> Report:
    loop = asyncio.get_running_loop()
    statuses: dict[int, int] = {}
    latencies: list[float] = []
    done = loop.create_future()
    clients = [_Client(waiting, statuses, latencies, order.count, done) for _ in range(CONNECTIONS)]
    for client in clients:
        await loop.create_connection(lambda client=client: client, "127.0.0.1", order.port)
    began = time.perf_counter()
    for client in clients:
        client.send()
    await asyncio.wait_for(done, 300)
    seconds = time.perf_counter() - began
    for client in clients:
        client.close()
    return Report(seconds, statuses, latencies)


class _Client(asyncio.Protocol):
    """One connection: sends the next request as soon as it has the answer to the last."""

    def __init__(
        self,
        waiting: deque[bytes],
        statuses: dict[int, int],
        latencies: list[float],
        count: int,
        done: asyncio.Future[None],
    ) -> None:
        self._waiting = waiting
        self._statuses = statuses
        self._latencies = latencies
        self._count = count
        self._done = done
        self._read = b""
        self._sent = 0.0
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def send(self) -> None:
        if self._waiting:
            self._sent = time.perf_counter()
            self._transport.write(self._waiting.popleft())

    def data_received(self, data: bytes) -> None:
        self._read += data
        head, end, body = self._read.partition(b"\r\n\r\n")
        if not end:
            return
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        if len(body) < length:
            return
        self._latencies.append(time.perf_counter() - self._sent)
        status = int(head[9:12])
        self._statuses[status] = self._statuses.get(status, 0) + 1
        self._read = b""
        self.send()
        if len(self._latencies) == self._count:
            self._done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._done.done():
            self._done.set_exception(exc or ConnectionError("the worker closed a connection"))

    def close(self) -> None:
        self._transport.close()


# ------------------------------------------------------------------------------------------------ the worker


class Answer(BaseModel):
    """The body, as the bare endpoint reads it."""

    case_id: str
    decision: Literal["keep", "revoke", "downgrade"]
    actor: str
    reason: str = ""


def bare() -> FastAPI:
    """Return the ceiling."""
    app = FastAPI(openapi_url=None)

    @app.post("/itsm-gateway/webhooks/{connection_id}", status_code=202)
    async def take(connection_id: str, answer: Answer) -> dict[str, str]:
        return {"status": "accepted", "for": f"{connection_id}/{answer.case_id}"}

    return app


class _Server(uvicorn.Server):
    """Serves until told to stop; interrupts are the benchmark's."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def serving(app: ASGIApp) -> AsyncIterator[int]:
    """Serve an application as the host does; give its port."""
    server = _Server(
        uvicorn.Config(app, port=0, log_config=None, access_log=False, server_header=False, lifespan="off")
    )
    task = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn says so by nothing else
        await asyncio.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = server.force_exit = True
        await task


@asynccontextmanager
async def scratch_database(postgres_url: str) -> AsyncIterator[str]:
    """Give the URL of a database of its own; it is gone afterwards."""
    name = f"reclaim_bench_{uuid.uuid4().hex[:8]}"
    server = sa.make_url(postgres_url)
    admin = await asyncpg.connect(server.set(drivername="postgresql").render_as_string(hide_password=False))
    await admin.execute(f"CREATE DATABASE {name}")
    try:
        yield server.set(database=name).render_as_string(hide_password=False)
    finally:
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await admin.close()


@asynccontextmanager
async def gateway(database_url: str) -> AsyncIterator[tuple[Host, str]]:
    """Give the gateway in its host, and the secret of its connection."""
    sealing_key = Fernet.generate_key().decode()
    settings = Settings(
        _env_file=None,
        environment="test",
        database_url=database_url,
        secret_keys=[SecretStr("benchmark" * 4)],
        sealing_keys=[SecretStr(sealing_key)],
    )
    host = Host(settings, {"itsm-gateway": service.build})
    await host.prepare()
    keyring = Keyring(host.running[0].database, Sealer([sealing_key]), {})
    _, secret = await keyring.add(CONNECTION_ID, "generic", None, by="benchmark")
    try:
        yield host, secret
    finally:
        await host.close()


async def measure(postgres_url: str, requests: int, rounds: int) -> dict[Side, list[Measured]]:
    """Run both sides in turn.

    Raises:
        SystemExit: a request was not accepted, or an accepted webhook is not in the database.
    """
    sides: dict[Side, list[Measured]] = {"bare": [], "intake": []}
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(scratch_database(postgres_url))
        host, secret = await stack.enter_async_context(gateway(url))
        ports: dict[Side, int] = {
            "bare": await stack.enter_async_context(serving(bare())),
            "intake": await stack.enter_async_context(serving(host.app)),
        }
        orders, theirs = multiprocessing.get_context("spawn").Pipe()
        load = multiprocessing.get_context("spawn").Process(target=send_load, args=(theirs, secret), daemon=True)
        load.start()
        sent = 0

        async def run(side: Side, count: int) -> Measured:
            nonlocal sent
            orders.send(Order(ports[side], sent, count))
            sent += count
            cpu = time.process_time()
            while not await loop.run_in_executor(None, orders.poll, 1.0):
                if not load.is_alive():
                    sys.exit("the load ended early")
            report: Report = orders.recv()
            cpu = time.process_time() - cpu
            if report.statuses != {202: count}:
                sys.exit(f"{side} answered {report.statuses}")
            ordered = sorted(report.latencies)
            p99 = ordered[int(0.99 * (len(ordered) - 1))]
            return Measured(count, report.seconds, cpu, 1000 * statistics.median(ordered), 1000 * p99)

        for side in sides:
            await run(side, 1000)
        settle_collector()
        for number in range(rounds):
            for side, measured in sides.items():
                measured.append(await run(side, requests))
            latest = ", ".join(f"{side} {measured[-1].rate:,.0f}" for side, measured in sides.items())
            print(f"round {number + 1} of {rounds}, requests/s: {latest}", file=sys.stderr)
        orders.send(None)
        await loop.run_in_executor(None, load.join)
        async with host.running[0].database.reading() as db:
            stored = sum((await delivery_store.counts(db)).values())
        if stored != requests * rounds + 1000:
            sys.exit(f"{stored} webhooks are in the database, {requests * rounds + 1000} were accepted")
    return sides


def summary(sides: dict[Side, list[Measured]]) -> dict[str, dict[str, float]]:
    """Return each side's medians over the rounds; the ratios are medians of each round's own to bare.

    CPU is this process's own: it leaves out PostgreSQL and the load.
    """
    return {
        side: {
            "requests_per_second": statistics.median(one.rate for one in measured),
            "cpu_us_per_request": statistics.median(one.cpu_each for one in measured),
            "median_ms": statistics.median(one.median for one in measured),
            "p99_ms": statistics.median(one.p99 for one in measured),
            "ratio": _ratio(measured, sides["bare"]),
            "cpu_ratio": statistics.median(
                base.cpu_each / one.cpu_each for one, base in zip(measured, sides["bare"], strict=True)
            ),
        }
        for side, measured in sides.items()
    }


def _ratio(measured: Sequence[Measured], base: Sequence[Measured]) -> float:
    return statistics.median(one.rate / other.rate for one, other in zip(measured, base, strict=True))


def show(found: dict[str, dict[str, float]]) -> None:
    """Print the table."""
    table = Table(title=f"Webhook intake: verify, ledger, store; {CONNECTIONS} connections")
    table.add_column("side")
    for heading in ("req/s", "CPU µs", "median ms", "p99 ms", "x bare", "by CPU", "floor", "aim"):
        table.add_column(heading, justify="right")
    for side, figures in found.items():
        goals = (f"{FLOOR:g}", f"{AIM:g}") if side == "intake" else ("", "")
        table.add_row(
            side,
            f"{figures['requests_per_second']:,.0f}",
            f"{figures['cpu_us_per_request']:,.0f}",
            f"{figures['median_ms']:.1f}",
            f"{figures['p99_ms']:.1f}",
            f"{figures['ratio']:.2f}",
            f"{figures['cpu_ratio']:.2f}",
            *goals,
        )
    Console().print(table)


def main() -> None:
    """Measure, print, and fail below the floor."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000, help="webhooks a round and side")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", choices=["text", "json"], default="text")
    arguments = parser.parse_args()
    url = os.environ.get("RECLAIM_TEST_POSTGRES_URL")
    if not url:
        sys.exit("RECLAIM_TEST_POSTGRES_URL is not set: run `make bench BENCH=intake`, which starts a PostgreSQL")
    sides = uvloop.run(measure(url, arguments.requests, arguments.rounds))
    found = summary(sides)
    if arguments.output == "json":
        print(json.dumps({"sides": found, "rounds": {side: [*map(asdict, each)] for side, each in sides.items()}}))
    else:
        show(found)
    if found["intake"]["ratio"] < FLOOR:
        sys.exit("below the floor")


if __name__ == "__main__":
    main()
