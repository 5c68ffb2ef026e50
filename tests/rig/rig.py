"""The processes of the rig: one world that is kept running while its services die, stop and are ended.

A process a service (the lifecycle twice) on RabbitMQ and PostgreSQL, beside the simulated org. Orders are laid out for
the launcher; the warden starts again whoever dies of one, and lets a stopped process go on when its leases are over.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aio_pika
import asyncpg

from reclaim.common.bus import QUEUES
from reclaim.common.contracts import SERVICES
from tests.e2e.world import Distributed, Process, free_port
from tests.rig import launcher
from tests.support import servers
from tests.support.providers import Broker, Database, plain_url

LEASE: Final = 3.0
"""Seconds that a claimed effect is leased for in the rig."""

HELD: Final = LEASE + 1.5
"""Seconds for which a stopped process is held: its leases are over, and the other replica has taken over."""

REST: Final = 90.0
"""Seconds within which everything must come to rest once a history has ended and nobody dies any more."""

REPLICA: Final = "lifecycle-2"
"""The second process of the lifecycle; the router knows the first one only."""


@dataclass(frozen=True, slots=True)
class Order:
    """A signal that a service sends itself when it reaches a point for the n-th time."""

    service: str
    point: str
    nth: int = 1
    signal: signal.Signals = signal.SIGKILL

    def __str__(self) -> str:
        return f"{self.service}@{self.point}"


def _orders(service: str, *points: str, number: signal.Signals = signal.SIGKILL) -> list[Order]:
    return [Order(service, point, signal=number) for point in points]


_INBOX: Final = ("inbox.before_commit", "inbox.after_commit", "inbox.after_receipt")
_OUTBOX: Final = (
    "outbox.before_publish",
    "outbox.after_publish",
    "outbox.claimed",
    "outbox.between_claims",
    "receipt.before_commit",
    "receipt.committed",
)
_AROUND_A_WRITE: Final = ("claimed", "read", "sent", "acted")
"""Before the outside call, within it before and after the write itself, and before its result is recorded."""
_ACTS: Final = ("freeze", "unfreeze", "deactivate", "hand_over", "reactivate")

POINTS: Final = [
    *(order for service in SERVICES for order in _orders(service, *_INBOX)),
    *(order for service in ("scanner", "approvals", "lifecycle") for order in _orders(service, *_OUTBOX)),
    *_orders("scanner", "page.read", "page.before_commit"),
    *_orders("scanner", "flags.before_saving", "flags.before_commit", "flags.committed"),
    *_orders("approvals", "mail.claimed", "mail.accepted", "mail.noted"),
    *_orders("approvals", "decision.before_commit", "decision.committed"),
    *_orders("approvals", "appeal.before_commit", "appeal.committed"),
    *_orders("lifecycle", "claimed.check", "acted.check"),
    *(order for act in _ACTS for order in _orders("lifecycle", *(f"{at}.{act}" for at in _AROUND_A_WRITE))),
    *_orders("lifecycle", "permit.before_commit", "plan.kept"),
    Order("lifecycle", "results.one_of_many", nth=3),
    *_orders("lifecycle", "results.before_saving", "results.before_commit", "results.committed"),
    *_orders("lifecycle", "timers.heard", "timers.due", "timers.taken", "timers.committed"),
    *_orders("savings", "projection.logged", "projection.before_commit"),
]
"""Every place at which a service is killed."""

_ONE_SERVICE_EACH: Final = {
    "inbox.before_commit": "lifecycle",
    "inbox.after_commit": "approvals",
    "inbox.after_receipt": "savings",
    "outbox.before_publish": "lifecycle",
    "outbox.after_publish": "approvals",
    "outbox.claimed": "lifecycle",
    "outbox.between_claims": "lifecycle",
    "receipt.before_commit": "scanner",
    "receipt.committed": "approvals",
}
EVERY_NAME: Final = [order for order in POINTS if _ONE_SERVICE_EACH.get(order.point, order.service) == order.service]
"""Every named point once: those that all services share, in one of them."""

STOPS: Final = [
    *(
        order
        for act in ("freeze", "unfreeze", "deactivate", "hand_over")
        for order in _orders("lifecycle", f"claimed.{act}", f"sent.{act}", number=signal.SIGSTOP)
    ),
    *_orders("lifecycle", "acted.check", "results.before_saving", number=signal.SIGSTOP),
    *_orders("approvals", "mail.accepted", number=signal.SIGSTOP),
    *_orders("scanner", "page.read", number=signal.SIGSTOP),
]
"""Where a process is stopped for longer than its lease, and then goes on."""

OF_A_DOWNGRADE: Final = [
    *_orders("lifecycle", "claimed.downgrade", number=signal.SIGSTOP),
    *_orders("lifecycle", "acted.downgrade", number=signal.SIGTERM),
    *(
        order
        for act in ("unassign", "profile", "unfreeze", "assign")
        for order in _orders("lifecycle", f"read.{act}", f"sent.{act}")
    ),
    *_orders("lifecycle", "claimed.reactivate", "acted.reactivate", "results.before_commit"),
]
"""Where a process dies, is stopped or is asked to end while it moves somebody to a cheaper licence, or back."""

ENDS: Final = [
    *(order for act in _ACTS for order in _orders("lifecycle", f"acted.{act}", number=signal.SIGTERM)),
    *_orders("lifecycle", "plan.kept", "timers.taken", number=signal.SIGTERM),
    *_orders("approvals", "mail.claimed", "decision.before_commit", number=signal.SIGTERM),
    *_orders("scanner", "flags.before_commit", number=signal.SIGTERM),
    *_orders("savings", "projection.logged", number=signal.SIGTERM),
]
"""Where a process is asked to end, in the middle of a step."""


class Child:
    """A process that the nursery forked."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def poll(self) -> int | None:
        """Return None while it lives; how it ended only its log knows."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return 1
        return None

    def wait(self, timeout: float | None = None) -> int:
        deadline = None if timeout is None else time.monotonic() + timeout
        while (ended := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
            time.sleep(0.01)
        return ended

    def send_signal(self, sig: int) -> None:
        os.kill(self.pid, sig)

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


class Nursery:
    """The launcher, which forks services. Used by one thread at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._launcher = subprocess.Popen(
            [sys.executable, launcher.__file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def fork(self, service: str, environment: Mapping[str, str], log: Path) -> Child:
        assert self._launcher.stdin is not None
        assert self._launcher.stdout is not None
        with self._lock:
            wanted = {"service": service, "environment": dict(environment), "log": str(log)}
            self._launcher.stdin.write(json.dumps(wanted) + "\n")
            self._launcher.stdin.flush()
            return Child(int(self._launcher.stdout.readline()))

    def close(self) -> None:
        """End it, and whatever it forked and is left."""
        self._launcher.communicate(timeout=30)


class Rig(Distributed):
    """The world of the rig. Its services are forked by the launcher."""

    def __init__(self, folder: Path, *, bus: tuple[str, str], databases: Mapping[str, str]) -> None:
        self.orders = folder / "orders"
        self.orders.mkdir()
        super().__init__(
            folder,
            bus=bus,
            databases=databases,
            users=60,
            RECLAIM_SCANNER_LEASE_SECONDS="3",
            RECLAIM_APPROVALS_SMTP_TIMEOUT="2",
            **{launcher.ORDERS: str(self.orders), launcher.LEASE: str(int(LEASE * 1000))},
        )
        self._bus = bus
        self._nursery = Nursery()

    def _end(self) -> None:
        try:
            super()._end()
        finally:
            self._nursery.close()

    def _build(self) -> None:
        super()._build()
        self._service(REPLICA, "lifecycle", free_port())
        for process in self.services.values():
            process.spawn = lambda arguments, environment, log: self._nursery.fork(arguments[-1], environment, log)

    @property
    def services(self) -> dict[str, Process]:
        """The processes that may die: all but the simulated org."""
        return {name: process for name, process in self.processes.items() if name != "sandbox"}

    def lay_out(self, orders: Iterable[Order]) -> None:
        """Give orders; each is carried out once, by whoever reaches its point first."""
        for order in orders:
            fresh = self.orders / f".{order}"
            fresh.write_text(f"{int(order.signal)} {order.nth}")
            fresh.rename(self.orders / str(order))

    def take_back(self, orders: Iterable[Order]) -> list[Order]:
        """Take back what was not carried out, and return it."""
        left = []
        for order in orders:
            path = self.orders / str(order)
            if path.exists():
                path.unlink()
                left.append(order)
        return left

    def unrest(self) -> dict[str, int]:
        """Return what is under way: events nobody has confirmed, events set aside, effects, mails, messages."""
        return asyncio.run(self._unrest())

    async def _unrest(self) -> dict[str, int]:
        found: Counter[str] = Counter()
        for service, url in self._databases.items():
            connection = await asyncpg.connect(plain_url(url))
            try:
                for table in ("outbox", "set_aside", *_OWN_WORK.get(service, ())):
                    found[f"{service}.{table}"] = await connection.fetchval(f"SELECT count(*) FROM {table}")
            finally:
                await connection.close()
        url, prefix = self._bus
        async with await aio_pika.connect(url, timeout=10) as broker:
            channel = await broker.channel()
            for service in SERVICES:
                for queue in QUEUES:
                    name = f"{prefix}.{service}.{queue}"
                    declared = await channel.declare_queue(name, passive=True)
                    found[f"queue {name}"] = declared.declaration_result.message_count or 0
        return {what: number for what, number in found.items() if number}

    def come_to_rest(self) -> dict[str, int]:
        """Wait until nothing is under way; return what still is when that takes too long."""
        deadline = time.monotonic() + REST
        while True:
            unrest = self.unrest()
            if not unrest or time.monotonic() > deadline:
                return unrest
            time.sleep(0.2)

    def wait_until_ready(self) -> None:
        """Wait for every service that was started again."""
        for process in self.services.values():
            process.wait_until_ready()


_OWN_WORK: Final[Mapping[str, Sequence[str]]] = {
    "lifecycle": ("effect",),
    "approvals": ("mails WHERE status = 'queued'",),
    "scanner": ("scan_runs WHERE look_at IS NOT NULL",),
}
"""What a service has yet to do by itself: tables, of which no row (that fits the condition) may be left."""


class Warden(threading.Thread):
    """Starts again whoever died of an order, and continues who was stopped by one, until told to end."""

    def __init__(self, rig: Rig) -> None:
        super().__init__(name="warden")
        self._rig = rig
        self._taken = rig.orders / launcher.TAKEN
        self._read = len(self._lines())
        self._enough = threading.Event()
        self._stopped: dict[int, float] = {}
        self._leaving: dict[int, float] = {}
        self._explained: set[int] = set()
        self.carried_out: list[str] = []
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            enough = False
            while not enough or self._stopped or self._leaving:
                enough = self._enough.wait(0.05)
                self._hear()
                self._continue()
                self._raise_the_dead()
        except BaseException as error:
            self.error = error

    def stop(self, carried_out: int) -> None:
        """End when so many orders have been carried out to their end: every process is up again, or is starting."""
        deadline = time.monotonic() + REST
        while self.error is None and len(self.carried_out) < carried_out and time.monotonic() < deadline:
            time.sleep(0.05)
        self._enough.set()
        self.join()
        if self.error is not None:
            raise self.error

    def _lines(self) -> list[str]:
        # The last line is whole: its writer ended it before it sent the signal.
        return self._taken.read_text().splitlines() if self._taken.exists() else []

    def _hear(self) -> None:
        lines = self._lines()
        for line in lines[self._read :]:
            pid, number, order = line.split()
            self.carried_out.append(order)
            if int(number) == signal.SIGSTOP:
                self._stopped[int(pid)] = time.monotonic() + HELD
            else:
                self._explained.add(int(pid))
                if int(number) == signal.SIGTERM:
                    self._leaving[int(pid)] = time.monotonic() + REST
        self._read = len(lines)

    def _continue(self) -> None:
        for pid, until in list(self._stopped.items()):
            if time.monotonic() > until:
                os.kill(pid, signal.SIGCONT)
                del self._stopped[pid]

    def _raise_the_dead(self) -> None:
        for process in self._rig.services.values():
            pid = process.pid
            assert pid is not None
            if process.ended is None:
                if time.monotonic() > self._leaving.get(pid, math.inf):
                    raise AssertionError(f"{process.name} was asked to end, and lives:\n{process.last_words()}")
                continue
            self._hear()
            if pid not in self._explained:
                raise AssertionError(f"{process.name} ended by itself ({process.ended}):\n{process.last_words()}")
            process.start()
            self._leaving.pop(pid, None)


@contextmanager
def rig_on(folder: Path, broker: Broker, database: Database) -> Iterator[Rig]:
    """Lend a running rig, with a virtual host and databases of its own."""
    with ExitStack() as stack:
        bus = stack.enter_context(servers.fresh_topology(broker))
        databases = {name: stack.enter_context(servers.fresh_database(database)) for name in SERVICES}
        yield stack.enter_context(Rig(folder, bus=tuple(bus), databases=databases))
