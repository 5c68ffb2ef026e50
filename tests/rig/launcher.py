"""Runs services as `reclaim run` does, and lets them die at named points of their real code.

The product knows nothing of it: the functions at the points are wrapped here, before the service is built. An order
is a file in the folder that `RECLAIM_RIG_ORDERS` names, `<service>@<point>`, which holds a signal and for the how
manyth time the point must be reached. The process that gets there first takes the order out, writes down that it did,
and sends itself the signal: SIGKILL (it is gone at once), SIGSTOP (until somebody continues it) or SIGTERM.

The launcher itself is a nursery: it imports everything once, and forks a process for each service it is asked for on
its input, because a hundred starts from nothing would be most of the rig's time. What it forks is a process as any
other; nothing ran in the nursery before, and it holds no lock, thread or connection.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final, NoReturn

import psutil

from reclaim.common import host
from reclaim.common.bus.amqp import AmqpBus
from reclaim.common.inbox import Inbox
from reclaim.common.outbox import Outbox
from reclaim.common.service import chosen
from reclaim.common.settings import Settings

ORDERS: Final = "RECLAIM_RIG_ORDERS"
LEASE: Final = "RECLAIM_RIG_LEASE"
"""Milliseconds for which the lifecycle's effects are claimed, so that a history need not wait for the real 20 s."""

TAKEN: Final = "taken.log"

Label = str | Callable[..., str | None]
"""A point's name, or what gives it from the call's arguments; None where the call is not at the point."""


class Orders:
    """What this process is told to do to itself, read anew each time that a point is reached."""

    def __init__(self, folder: Path, service: str) -> None:
        self._folder = folder
        self._service = service
        self._reached: Counter[tuple[str, int]] = Counter()

    def reach(self, point: str) -> None:
        """Note that the process is at a point, and do there what it is told, if it is told anything."""
        order = self._folder / f"{self._service}@{point}"
        try:
            with order.open() as file:
                number, nth = map(int, file.read().split())
                key = (point, os.fstat(file.fileno()).st_ino)
        except FileNotFoundError:
            return
        self._reached[key] += 1
        if self._reached[key] < nth:
            return
        try:
            order.rename(self._folder / f"taken@{self._service}@{point}")
        except FileNotFoundError:
            return  # a replica was here first
        with (self._folder / TAKEN).open("a") as log:
            log.write(f"{os.getpid()} {number} {self._service}@{point}\n")
            log.flush()
            os.fsync(log.fileno())
        os.kill(os.getpid(), number)


def around(
    orders: Orders,
    owner: Any,
    name: str,
    *,
    before: Label = "",
    after: Label = "",
    on: Callable[[Any], bool] = lambda _result: True,
) -> None:
    """Put points before and after a coroutine function of a class or module; after it only for results that count."""
    real: Callable[..., Awaitable[Any]] = getattr(owner, name)

    @functools.wraps(real)
    async def pointed(*args: Any, **more: Any) -> Any:
        _reach(orders, before, args)
        result = await real(*args, **more)
        if on(result):
            _reach(orders, after, args)
        return result

    setattr(owner, name, pointed)


def _reach(orders: Orders, label: Label, args: Sequence[Any]) -> None:
    point = label if isinstance(label, str) else label(*args)
    if point:
        orders.reach(point)


def point_out(orders: Orders, service: str) -> None:
    """Put the points into the code of messaging, and of one service."""
    _messaging(orders)
    OWN.get(service, lambda _orders: None)(orders)


def _messaging(orders: Orders) -> None:
    around(orders, Inbox, "_handle", after=lambda _self, _unit, parts: "inbox.before_commit" if parts else None)
    around(orders, Inbox, "_confirm", before="inbox.after_commit", after="inbox.after_receipt")
    around(orders, AmqpBus, "publish", before="outbox.before_publish", after="outbox.after_publish")
    around(orders, Outbox, "confirm", before="receipt.before_commit", after="receipt.committed")
    claimed_before = False
    due = Outbox._due

    async def claiming(self: Outbox, database: Any) -> Any:
        nonlocal claimed_before
        if claimed_before:
            orders.reach("outbox.between_claims")
        rows = await due(self, database)
        claimed_before = bool(rows)
        if rows:
            orders.reach("outbox.claimed")
        return rows

    setattr(Outbox, "_due", claiming)  # noqa: B010


def _scanner(orders: Orders) -> None:
    from reclaim.scanner import jobs, store

    around(orders, store, "keep_page", before="page.read", after="page.before_commit")
    around(orders, store, "open_candidates", before="flags.before_saving", after="flags.before_commit")
    around(orders, jobs, "_open_page", after="flags.committed", on=bool)


def _approvals(orders: Orders) -> None:
    from reclaim.approvals import jobs, pages, smtp, store

    around(orders, jobs.MailJob, "_send", before="mail.claimed")
    around(orders, smtp._Session, "send", after="mail.accepted")
    around(orders, jobs.MailJob, "_sent", after="mail.noted")
    around(orders, store, "take_decision", after="decision.before_commit", on=bool)
    around(orders, store, "take_appeal", after="appeal.before_commit", on=bool)
    around(orders, pages.LinkPages, "_record", after=lambda _self, link, *_: f"{link.purpose}.committed", on=bool)


_WRITTEN: Final = {
    ("IsFrozen", True): "freeze",
    ("IsFrozen", False): "unfreeze",
    ("IsActive", False): "deactivate",
    ("IsActive", True): "reactivate",
}


def _lifecycle(orders: Orders) -> None:
    from reclaim.connectors.salesforce.actor import SalesforceActor
    from reclaim.connectors.salesforce.session import WriteSession
    from reclaim.lifecycle import actions, brake_gate, jobs, store

    def of_kind(point: str) -> Label:
        return lambda _self, claimed, *_: f"{point}.{claimed[0].kind.value}"

    def writing(point: str) -> Label:
        def label(_self: object, _object: str, field: str, values: Mapping[str, Any]) -> str:
            if field == "ProfileId":
                return f"{point}.profile"
            return f"{point}.{_WRITTEN.get((field, next(iter(values.values()))), 'hand_over')}"

        return label

    around(orders, brake_gate, "admit", after="permit.before_commit", on=bool)
    around(orders, actions.Actions, "_perform", before=of_kind("claimed"), after=of_kind("acted"))
    around(orders, SalesforceActor, "_send", before=writing("read"), after=writing("sent"))
    for assigning in ("assign", "unassign"):
        around(orders, WriteSession, assigning, before=f"read.{assigning}", after=f"sent.{assigning}")
    around(orders, SalesforceActor, "hand_over", before="plan.kept")
    around(orders, actions, "submit", before="results.before_saving", after="results.before_commit")
    around(orders, actions.Actions, "run", after="results.committed", on=bool)
    around(orders, jobs.Heard, "listen", after="timers.heard", on=bool)
    around(orders, store, "take_timers", before=lambda _db, cases, _now: "timers.due" if cases else None)
    around(orders, store, "take_timers", after="timers.taken", on=bool)
    around(orders, jobs, "fire_timers", after="timers.committed", on=bool)
    final = actions.Actions._final

    def one(self: actions.Actions, effect: Any, outcome: Any, **more: Any) -> Any:
        orders.reach("results.one_of_many")
        return final(self, effect, outcome, **more)

    setattr(actions.Actions, "_final", one)  # noqa: B010
    setattr(store, "LEASE", int(os.environ.get(LEASE, store.LEASE)))  # noqa: B010


def _savings(orders: Orders) -> None:
    from reclaim.savings import store

    around(orders, store, "project", before="projection.logged", after="projection.before_commit")


OWN: Final[dict[str, Callable[[Orders], None]]] = {
    "scanner": _scanner,
    "approvals": _approvals,
    "lifecycle": _lifecycle,
    "savings": _savings,
}


def run(service: str) -> None:
    """Run the service until it is stopped, or does what it is ordered to."""
    point_out(Orders(Path(os.environ[ORDERS]), service), service)
    host.run(Settings(), [service])


def nurse() -> None:
    """Fork a service for each line of the input (name, environment, log, as JSON) and answer with its process id.

    When the input ends, so do those that are left.
    """
    chosen()
    for plugin in entry_points(group="reclaim.host"):
        plugin.load()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them: who has ended is gone at once
    for line in sys.stdin:
        wanted = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _become(wanted["service"], wanted["environment"], Path(wanted["log"]))
        print(pid, flush=True)
    for child in psutil.Process().children():
        child.kill()


def _become(service: str, environment: Mapping[str, str], log: Path) -> NoReturn:
    """Be the process of a service, as if started anew."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(log.parent)
    nothing, words = os.open(os.devnull, os.O_RDONLY), os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    for there, here in ((nothing, 0), (words, 1), (words, 2)):
        os.dup2(there, here)
    try:
        run(service)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    nurse()
