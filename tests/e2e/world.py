"""Worlds for the story: the product as real processes, in either size, with the simulated org beside it.

`Embedded` is one process on SQLite and the in-process bus. `Distributed` is a process a service on RabbitMQ and
PostgreSQL, behind a small router that stands for the ingress. Both follow one movable clock.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import httpx
import uvicorn
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from reclaim.cli import setup
from reclaim.cli.client import Client
from reclaim.cli.story import Story
from reclaim.common.clock import FileClock, SystemClock
from reclaim.common.contracts import SERVICES
from reclaim.web.auth import issue_api_token

START = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
BOOT = 90.0
"""Seconds that a process may take until it is ready, on a machine that is busy with other tests."""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


class Handle(Protocol):
    """What holds a process that was started; `subprocess.Popen` is one."""

    @property
    def pid(self) -> int: ...

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...

    def send_signal(self, sig: int) -> None: ...

    def kill(self) -> None: ...


def spawn(arguments: list[str], environment: Mapping[str, str], log: Path) -> Handle:
    """Start Python with arguments; its words go to a file."""
    with log.open("ab") as words:
        return subprocess.Popen(
            [sys.executable, *arguments],
            env=environment,
            stdout=words,
            stderr=words,
            stdin=subprocess.DEVNULL,
            cwd=log.parent,
        )


class Process:
    """A program of the world, started anew as often as it is killed; its words go to a file."""

    def __init__(self, name: str, arguments: list[str], environment: Mapping[str, str], ready: str, log: Path) -> None:
        self.name = name
        self._arguments = arguments
        self._environment = {**os.environ, **environment}
        self._ready = ready
        self._log = log
        self._process: Handle | None = None
        self.spawn: Callable[[list[str], Mapping[str, str], Path], Handle] = spawn

    def start(self) -> None:
        self._process = self.spawn(self._arguments, self._environment, self._log)

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    @property
    def ended(self) -> int | None:
        """The status that it ended with, negative for a signal; None while it lives or was never started."""
        return None if self._process is None else self._process.poll()

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + BOOT
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(self._ready, timeout=5).status_code == 200:
                    return
            assert self._process is not None
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"{self.name} is not ready:\n{self.last_words()}")
            time.sleep(0.1)

    def kill(self) -> None:
        """End it without a chance to say good-bye."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """Ask it to end; it must, in good time."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self.name} did not stop when asked:\n{self.last_words()}") from None

    def last_words(self, lines: int = 40) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-lines:])


class World(ABC):
    """The product, an org, and a clock. Use as a context; everything that it started ends with it."""

    def __init__(self, folder: Path, *, users: int = 200, seed: int = 7, **environment: str) -> None:
        self.folder = folder
        self.clock = FileClock(folder / "clock")
        self.clock.advance(START - self.clock.now())
        self._users, self._seed = users, seed
        self.sandbox_port, self.smtp_port = free_port(), free_port()
        self.sandbox_url = f"http://127.0.0.1:{self.sandbox_port}"
        self.processes: dict[str, Process] = {}
        keys = setup.generate("story", "not used: the story has a token")
        self._secret_keys: list[str] = json.loads(keys["RECLAIM_SECRET_KEYS"])
        self.environment = {
            **keys,
            "RECLAIM_ENVIRONMENT": "test",
            "RECLAIM_CLOCK_URL": f"file://{self.clock.path}",
            "RECLAIM_LOG_FORMAT": "console",
            "RECLAIM_DATA_DIR": str(folder / "data"),
            "RECLAIM_OUTGOING_ALLOWED_HOSTS": '["127.0.0.1"]',
            "RECLAIM_APPROVALS_SMTP_URL": f"smtp://127.0.0.1:{self.smtp_port}",
            "RECLAIM_APPROVALS_SMTP_TIMEOUT": "3",
            **environment,
        }

    @property
    @abstractmethod
    def url(self) -> str:
        """Where the product answers."""

    @abstractmethod
    def _build(self) -> None:
        """Fill `processes` with the product's."""

    def process(self, name: str, arguments: list[str], ready: str, **environment: str) -> None:
        log = self.folder / f"{name}.log"
        self.processes[name] = Process(name, arguments, {**self.environment, **environment}, ready, log)

    def __enter__(self) -> Self:
        self._build()
        sandbox = ["-m", "reclaim.sandbox", "--port", str(self.sandbox_port), "--smtp-port", str(self.smtp_port)]
        sandbox += ["--clock", self.environment["RECLAIM_CLOCK_URL"]]
        sandbox += ["--users", str(self._users), "--seed", str(self._seed)]
        self.process("sandbox", sandbox, f"{self.sandbox_url}/sandbox/health")
        for process in self.processes.values():
            process.start()
        try:
            for process in self.processes.values():
                process.wait_until_ready()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            for process in self.processes.values():
                print(f"--- {process.name}\n{process.last_words()}", flush=True)  # before the traceback
        self._end()

    def _end(self) -> None:
        for process in self.processes.values():
            process.stop()

    def token(self) -> str:
        return issue_api_token(
            secret_keys=self._secret_keys,
            name="story",
            role="admin",
            lifetime=timedelta(hours=2),
            now=SystemClock().now,
        )

    def client(self, *, patience: float = 0) -> Client:
        return Client(self.url, self.token(), patience=patience)

    def connection(self, **settings: str) -> dict[str, Any]:
        return {
            "name": "Simulated org",
            "kind": "salesforce",
            "settings": {
                "instance_url": self.sandbox_url,
                "client_id": "reclaim-sandbox",
                "allow_http": "true",
                **settings,
            },
            "credentials": {"client_secret": "sandbox-secret"},
        }

    def sandbox(self, method: str, path: str, **arguments: Any) -> Any:
        """Call the sandbox's control API."""
        answer = httpx.request(method, f"{self.sandbox_url}/sandbox/api{path}", timeout=30, **arguments)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    @contextlib.contextmanager
    def story(self, *, patience: float = 0, **options: Any) -> Iterator[Story]:
        with self.client(patience=patience) as client:
            story = Story(client, self.sandbox_url, self.clock, connection=self.connection(), note=print, **options)
            try:
                yield story
            finally:
                story.close()


class Embedded(World):
    """Every service in one process, on SQLite and the in-process bus."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self._port = free_port()
        super().__init__(folder, **options)
        self.environment |= {"RECLAIM_PORT": str(self._port), "RECLAIM_PUBLIC_URL": self.url}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def _build(self) -> None:
        self.process("reclaim", ["-m", "reclaim.cli", "run"], f"{self.url}/health/ready")


class Distributed(World):
    """A process a service, on RabbitMQ and a PostgreSQL database each, behind one origin."""

    def __init__(self, folder: Path, *, bus: tuple[str, str], databases: Mapping[str, str], **options: Any) -> None:
        self._router = Router({name: free_port() for name in SERVICES})
        super().__init__(folder, **options)
        self._databases = databases
        self.environment |= {
            "RECLAIM_BUS_URL": bus[0],
            "RECLAIM_BUS_PREFIX": bus[1],
            # Services are killed all the time, and a story moves the clock by weeks: it cannot wait for quiet.
            "RECLAIM_BUS_SETTLE_SECONDS": "0",
            "RECLAIM_PUBLIC_URL": self._router.url,
            "RECLAIM_FORWARDED_ALLOW_IPS": "127.0.0.1",
        }

    @property
    def url(self) -> str:
        return self._router.url

    def _build(self) -> None:
        for name, port in self._router.ports.items():
            self._service(name, name, port)

    def _service(self, process: str, name: str, port: int) -> None:
        """Add a process that runs a service."""
        self.process(
            process,
            ["-m", "reclaim.cli", "run", name],
            f"http://127.0.0.1:{port}/health/ready",
            RECLAIM_PORT=str(port),
            RECLAIM_DATABASE_URL=self._databases[name],
        )

    def __enter__(self) -> Self:
        self._router.start()
        try:
            return super().__enter__()
        except BaseException:
            self._router.stop()
            raise

    def _end(self) -> None:
        super()._end()
        self._router.stop()


class Router:
    """Routes by the first part of the path, as the ingress does; a service that is down is a 502."""

    def __init__(self, ports: dict[str, int]) -> None:
        self.ports = ports
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        config = uvicorn.Config(
            self._route, interface="asgi3", port=self._port, log_config=None, access_log=False, lifespan="off"
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._http: httpx.AsyncClient | None = None

    def start(self) -> None:
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(timeout=30)

    def _serve(self) -> None:
        async def run() -> None:
            async with httpx.AsyncClient(timeout=60) as self._http:
                await self._server.serve()

        asyncio.run(run())

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert self._http is not None
        request = Request(scope, receive)
        name = request.url.path.split("/")[1]
        port = self.ports.get(name, self.ports["lifecycle"])
        headers = [(key, value) for key, value in request.headers.raw if key != b"host"]
        headers += [(b"host", f"127.0.0.1:{self._port}".encode()), (b"x-forwarded-for", b"192.0.2.7")]
        try:
            answer = await self._http.request(
                request.method,
                f"http://127.0.0.1:{port}{request.url.path}",
                params=request.url.query,
                content=await request.body(),
                headers=headers,
            )
        except httpx.HTTPError as error:
            await Response(f"{name}: {type(error).__name__}", status_code=502)(scope, receive, send)
            return
        kept = {
            key: value
            for key, value in answer.headers.items()
            if key not in {"content-length", "content-encoding", "transfer-encoding", "connection"}
        }
        await Response(answer.content, status_code=answer.status_code, headers=kept)(scope, receive, send)


class Killer(threading.Thread):
    """Kills a service at a random moment and starts it again, over and over, until told to stop or `most` times."""

    def __init__(self, world: World, chance: random.Random, most: int | None = None) -> None:
        super().__init__(name="killer")
        self._victims = [process for name, process in world.processes.items() if name != "sandbox"]
        self._chance = chance
        self._most = most
        self._enough = threading.Event()
        self.killed: list[str] = []
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            while not self._enough.is_set() and len(self.killed) != self._most:
                victim = self._victims[self._chance.randrange(len(self._victims))]
                time.sleep(self._chance.uniform(0.0, 0.8))
                victim.kill()
                self.killed.append(victim.name)
                victim.start()
                victim.wait_until_ready()
        except BaseException as error:
            self.error = error

    def stop(self) -> None:
        self._enough.set()
        self.join()
        if self.error is not None:
            raise self.error


def final_state(story: Story) -> dict[str, Any]:
    """Return where everything stands in the end, without what differs between two plays: ids, instants, attempts."""
    cases = sorted(
        (
            case["seat"]["holder"]["id"],
            case["state"],
            case.get("decision"),
            case["records_transferred"],
            case.get("appealed_by"),
        )
        for page in [story.cases()]
        for case in page
    )
    written = sorted(
        (each["object"], each["id"], each["field"], str(each["before"]), str(each["after"])) for each in story.writes()
    )
    report = story.client.get("/savings/api/report")
    money = [(f["currency"], f["annualized_run_rate"], f["seats_freed"]) for f in report["figures"]]
    parked = [message for service in SERVICES for message in story.client.get(f"/{service}/api/parked")["parked"]]
    return {"cases": cases, "written": written, "money": money, "parked": parked}
