"""The RabbitMQ and PostgreSQL of one test session, and a command that lends them to any other program.

A session names a directory. Whoever needs a server first, among the workers of a session that pytest-xdist spreads
over several processes, starts a *keeper* for it: a process of its own that brings the servers up, writes their
addresses into the directory, and takes the servers down when the session tells it to or is gone, however it ended.

    python -m tests.support.servers python benchmarks/hop.py

runs one command with the addresses in its environment.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import uuid
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import psutil

from tests.support.providers import (
    AMQP_VARIABLE,
    MANAGEMENT_VARIABLE,
    POSTGRES_VARIABLE,
    Broker,
    Database,
    ServersUnavailable,
    management,
    plain_url,
    provide_broker,
    provide_database,
)

SESSION_VARIABLE = "RECLAIM_TEST_SESSION"
ROOT = Path(__file__).resolve().parents[2]

START_WITHIN = 900.0
"""Seconds for the slowest way: installing packages over a slow line."""
STOP_WITHIN = 60.0

T = TypeVar("T")


class Topology(NamedTuple):
    """Where a test has RabbitMQ to itself: connect to `url`, and begin every exchange and queue name with `prefix`."""

    url: str
    prefix: str


@dataclass(frozen=True)
class Servers:
    """What the keeper brought up."""

    broker: Broker
    database: Database

    def describe(self) -> str:
        """Return one line that says where they come from."""
        return f"RabbitMQ: {self.broker.source}; PostgreSQL: {self.database.source}"


class Session:
    """One test session's hold on its servers; every process of the session makes its own from the same directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._answer = directory / "servers.json"
        self._keeper = directory / "keeper.json"

    @classmethod
    def open(cls) -> Session:
        """Begin a session and name it in the environment, for the processes that this one starts."""
        directory = Path(tempfile.mkdtemp(prefix="reclaim-session-"))
        os.environ[SESSION_VARIABLE] = str(directory)
        return cls(directory)

    @classmethod
    def join(cls) -> Session:
        """Return the session that the environment names."""
        return cls(Path(os.environ[SESSION_VARIABLE]))

    @property
    def started(self) -> bool:
        """Whether a keeper was started, by any process of the session."""
        return self._keeper.exists()

    def servers(self, owner: int) -> Servers:
        """Return the servers, and start them first if nobody has; they live as long as process `owner` at most.

        Raises:
            ServersUnavailable: there is no way to one on this machine; the message says what to do.
        """
        with (self._directory / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not self.started:
                self._start_keeper(owner)
            self._wait_for_answer()
        answer = json.loads(self._answer.read_text())
        if "failure" in answer:
            raise ServersUnavailable(answer["failure"])
        return Servers(Broker(**answer["broker"]), Database(**answer["database"]))

    def close(self) -> None:
        """Stop what was started, wait until it is gone, and remove the directory."""
        keeper = self._keeper_process()
        if keeper is not None:
            keeper.terminate()
            try:
                keeper.wait(STOP_WITHIN)
            except psutil.TimeoutExpired:
                raise RuntimeError(
                    f"The test servers did not stop within {STOP_WITHIN:.0f} s; process {keeper.pid} holds them."
                ) from None
        shutil.rmtree(self._directory)
        os.environ.pop(SESSION_VARIABLE, None)

    def _start_keeper(self, owner: int) -> None:
        with (self._directory / "keeper.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.servers", "--keep", str(self._directory), str(owner)],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # an interrupt at the keyboard is for the tests alone
            )
        _write(self._keeper, {"pid": process.pid, "since": psutil.Process(process.pid).create_time()})
        # The keeper outlives this object and, under pytest-xdist, this process; `close` finds it by its number.
        process.returncode = 0

    def _keeper_process(self) -> psutil.Process | None:
        if not self.started:
            return None
        known = json.loads(self._keeper.read_text())
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(known["pid"])
            if process.create_time() == known["since"] and process.status() != psutil.STATUS_ZOMBIE:
                return process
        return None

    def _wait_for_answer(self) -> None:
        deadline = time.monotonic() + START_WITHIN
        while not self._answer.exists():
            if self._keeper_process() is None and not self._answer.exists():
                log = (self._directory / "keeper.log").read_text(errors="replace")
                raise ServersUnavailable(f"The keeper of the test servers ended before they were up:\n{log}")
            if time.monotonic() > deadline:
                raise ServersUnavailable(f"The test servers were not up within {START_WITHIN:.0f} s.")
            time.sleep(0.05)


def keep(directory: Path, owner: int) -> int:
    """Bring the servers up, tell the session, and hold them until told to stop or until `owner` is gone."""
    told = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: told.set())
    session = psutil.Process(owner)
    with ExitStack() as broker_cleanup, ExitStack() as database_cleanup:
        try:
            with ThreadPoolExecutor(2) as pool:
                broker = pool.submit(provide_broker, broker_cleanup)
                database = pool.submit(provide_database, database_cleanup)
            _write(directory / "servers.json", asdict(Servers(broker.result(), database.result())))
        except ServersUnavailable as unavailable:
            _write(directory / "servers.json", {"failure": str(unavailable)})
            return 1
        while not told.wait(0.5):
            if not session.is_running() or session.status() == psutil.STATUS_ZOMBIE:
                shutil.rmtree(directory, ignore_errors=True)  # nobody is left to do it
                break
    return 0


def _write(path: Path, content: dict[str, Any]) -> None:
    fresh = path.with_suffix(".tmp")
    fresh.write_text(json.dumps(content))
    fresh.replace(path)


# ------------------------------------------------------------------------------------------- a test's own share


@contextmanager
def fresh_topology(broker: Broker) -> Iterator[Topology]:
    """Lend a virtual host of its own, or where none can be made, names of its own; removed afterwards."""
    name = f"t-{uuid.uuid4().hex[:12]}"
    if broker.management_url is None:
        yield Topology(broker.amqp_url, f"{name}.")
        return
    user = urlsplit(broker.management_url).username
    management(broker, "PUT", f"/api/vhosts/{name}")
    try:
        grant = json.dumps({"configure": ".*", "write": ".*", "read": ".*"}).encode()
        management(broker, "PUT", f"/api/permissions/{name}/{user}", grant)
        yield Topology(urlunsplit(urlsplit(broker.amqp_url)._replace(path=f"/{name}")), f"{name}.")
    finally:
        try:
            management(broker, "DELETE", f"/api/vhosts/{name}")
        except urllib.error.HTTPError as error:
            if error.code != 404:  # the test may have removed it itself
                raise


@contextmanager
def fresh_database(database: Database, spare: str | None = None) -> Iterator[str]:
    """Lend an empty database of its own, by URL; dropped afterwards, with whoever is still connected.

    `spare` names an empty one that is there already and has no other use.
    """
    name = f"t_{uuid.uuid4().hex[:12]}"
    renamed = f'ALTER DATABASE "{spare}" RENAME TO "{name}"'
    execute(database.url, renamed if spare else f'CREATE DATABASE "{name}" TEMPLATE template0')
    try:
        yield urlunsplit(urlsplit(database.url)._replace(path=f"/{name}"))
    finally:
        execute(database.url, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


def execute(url: str, statement: str) -> None:
    """Run a statement on the server that an administrator's URL names, outside of a transaction."""

    async def run() -> None:
        connection = await asyncpg.connect(plain_url(url))
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    _run_apart(run())


def _run_apart(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end in a thread: the caller may be inside an event loop, or set one up for later."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


# ------------------------------------------------------------------------------------------- the command


def lend(command: list[str]) -> int:
    """Run a command with the servers' addresses in its environment; return its status."""
    session = Session.open()
    try:
        servers = session.servers(os.getpid())
        print(servers.describe(), file=sys.stderr, flush=True)
        environment = {**os.environ, AMQP_VARIABLE: servers.broker.amqp_url, POSTGRES_VARIABLE: servers.database.url}
        if servers.broker.management_url is not None:
            environment[MANAGEMENT_VARIABLE] = servers.broker.management_url
        return subprocess.run(command, env=environment, check=False).returncode
    except ServersUnavailable as unavailable:
        print(unavailable, file=sys.stderr)
        return 1
    finally:
        session.close()


def main(arguments: list[str]) -> int:
    match arguments:
        case ["--keep", directory, owner]:
            return keep(Path(directory), int(owner))
        case [_, *_]:
            return lend(arguments)
        case _:
            print("usage: python -m tests.support.servers COMMAND [ARGUMENT ...]", file=sys.stderr)
            return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
