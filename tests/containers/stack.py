"""The running container stack: its addresses and secrets, and a hold on its containers."""

from __future__ import annotations

import json
import os
import subprocess
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Self, cast

import docker
import httpx
from docker.models.containers import Container
from dotenv import dotenv_values

from reclaim.cli.client import Client
from reclaim.cli.story import Story
from reclaim.common.clock import SystemClock
from reclaim.common.contracts import SERVICES
from reclaim.web.auth import issue_api_token

ROOT = Path(__file__).resolve().parents[2]
OURS = (*SERVICES, "sandbox", "ingress")
"""The services whose images are built here."""
SERVERS = ("rabbitmq", "postgres")

RESTARTED_WITHIN = 120.0
CALM = 0.25


class StackClock:
    """The clock that all containers of a rehearsal share, moved as a person would move it."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack

    def now(self) -> datetime:
        """Return the instant that the simulated org lives in."""
        return datetime.fromisoformat(self._stack.sandbox("GET", "/summary")["now"])

    def advance(self, by: timedelta) -> None:
        command = [str(ROOT / "tools" / "stack"), "advance", repr(by / timedelta(days=1))]
        moved = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        assert moved.returncode == 0, moved.stdout


class Stack:
    """A stack that `make up PROFILES=sandbox` has started. `RECLAIM_STACK_URL` says where, `RECLAIM_STACK` its name,
    and `RECLAIM_STACK_ENV` the file of its secrets, as for `tools/stack`.
    """

    def __init__(self) -> None:
        self.url = os.environ.get("RECLAIM_STACK_URL", "http://127.0.0.1:8080").rstrip("/")
        self.name = os.environ.get("RECLAIM_STACK") or "reclaim"
        path = ROOT / (os.environ.get("RECLAIM_STACK_ENV") or "deploy/stack.env")
        assert path.exists(), f"{path} is missing: start the stack first, make up PROFILES=sandbox"
        self.settings = {name: value or "" for name, value in dotenv_values(path, interpolate=False).items()}
        self.clock = StackClock(self)
        self._engine = docker.from_env()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._engine.close()

    # What a person or a program does from outside.

    def token(self, role: str = "admin") -> str:
        """Return an operator's token, made with the stack's own key."""
        return issue_api_token(
            secret_keys=json.loads(self.settings["RECLAIM_SECRET_KEYS"]),
            name="story",
            role=cast("Any", role),
            lifetime=timedelta(hours=2),
            now=SystemClock().now,
        )

    def client(self, *, patience: float = 0) -> Client:
        return Client(self.url, self.token(), patience=patience)

    def sandbox(self, method: str, path: str, **arguments: Any) -> Any:
        """Call the sandbox's control API, through the ingress."""
        answer = httpx.request(method, f"{self.url}/sandbox/api{path}", timeout=120, **arguments)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def story(self, client: Client, **options: Any) -> Story:
        """Return the story of an org that the services reach inside the stack's own network."""
        connection = {
            "name": "Simulated org",
            "kind": "salesforce",
            "settings": {
                "instance_url": "http://sandbox:8090",
                "client_id": "reclaim-sandbox",
                "allow_http": "true",
            },
            "credentials": {"client_secret": "sandbox-secret"},
        }
        return Story(client, self.url, self.clock, connection=connection, **options)

    # What whoever holds the engine sees and does.

    def container(self, service: str) -> Container:
        """Return a service's container, with its present state."""
        labels = [f"com.docker.compose.project={self.name}", f"com.docker.compose.service={service}"]
        found = self._engine.containers.list(all=True, filters={"label": labels})
        assert len(found) == 1, f"{service} has {len(found)} containers in the stack {self.name!r}"
        return found[0]

    def execute(self, service: str, *command: str) -> str:
        """Run a command inside a container, as its own user; return what it said."""
        status, said = self.container(service).exec_run(list(command))
        text = str(said.decode(errors="replace"))
        assert status == 0, f"{' '.join(command)} in {service} ended with {status}: {text}"
        return text

    def log(self, service: str) -> str:
        """Return what a service has written since its container was made."""
        return str(self.container(service).logs().decode(errors="replace"))

    def crash(self, service: str) -> None:
        """Kill everything that runs in a container.

        From inside, because the engine takes its own `docker kill` for a wish that the container be stopped, and
        would not start it again.
        """
        self.container(service).exec_run(["sh", "-c", "kill -9 -1"])

    def restarts(self, service: str) -> int:
        """Return how often the engine has started a container again by itself."""
        return int(self.container(service).attrs["RestartCount"])

    def wait_until_healthy(self, service: str) -> None:
        deadline = time.monotonic() + RESTARTED_WITHIN
        while self.container(service).attrs["State"].get("Health", {}).get("Status") != "healthy":
            assert time.monotonic() < deadline, f"{service} is not healthy:\n{self.log(service)[-4000:]}"
            time.sleep(CALM)
