"""`reclaim demo`: every service in one process on SQLite, against a simulated org, from nothing to a dollar.

The clock starts on a Monday in March and is moved by the story, and afterwards by hand (the time machine), so that
weeks of waiting are over in seconds and the figures do not depend on the day the demo is played.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import uvicorn
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from starlette.types import ASGIApp, Receive, Scope, Send

from reclaim.cli import setup
from reclaim.cli.client import Client
from reclaim.cli.desk import PLATFORM, THEIRS, DeskAct
from reclaim.cli.output import Output, console, pairs, progress_console
from reclaim.cli.story import Outcome, Story, StoryStuck
from reclaim.cli.time_machine import time_machine
from reclaim.common.clock import FileClock, SystemClock
from reclaim.common.host import Host
from reclaim.common.routing import add_routes
from reclaim.common.service import chosen
from reclaim.common.settings import Settings
from reclaim.common.sockets import listen
from reclaim.common.telemetry import set_up_logging, set_up_telemetry
from reclaim.sandbox.app import Sandbox
from reclaim.web.tokens import issue_api_token

START: Final = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
OPERATOR: Final = "demo"
WORLD_PATHS: Final = frozenset({"mailbox", "sandbox", "services", "id", "desk", "desks"})
OPERATIONS: Final = "operations@example.com"


@dataclass(frozen=True)
class Demo:
    """What was asked for. `data` None means a temporary folder that goes with the process."""

    port: int
    users: int
    seed: int
    data: Path | None
    serve_on: bool


def play(wanted: Demo, output: Output) -> None:
    """Play the demo; with `serve_on`, go on serving until interrupted.

    Raises:
        SystemExit: 1 if the story did not come to its end, or its figures differ from the org's own log.
    """
    with _folder(wanted.data) as folder:
        code = asyncio.run(_play(wanted, output, folder))
    sys.exit(code)


@contextmanager
def _folder(chosen: Path | None) -> Iterator[Path]:
    if chosen is not None:
        chosen.mkdir(parents=True, exist_ok=True)
        yield chosen
    else:
        with tempfile.TemporaryDirectory(prefix="reclaim-demo-") as name:
            yield Path(name)


async def _play(wanted: Demo, output: Output, folder: Path) -> int:
    clock = FileClock(folder / "clock")
    clock.advance(START - clock.now())
    listener = _listen(wanted.port)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    password = secrets.token_urlsafe(9)
    progress_console.print(f"Building a simulated org of {wanted.users} users …")
    async with Sandbox(clock=clock, users=wanted.users, seed=wanted.seed) as sandbox:
        settings = _settings(folder, clock, url, password, sandbox)
        set_up_logging(settings)
        set_up_telemetry(settings, "demo")
        host = Host(settings, chosen(), clock=clock)
        await host.prepare()
        add_routes(host.app, time_machine(clock))
        async with host.started(), _serving(_one_origin(host.app, sandbox.app), listener):
            token = issue_api_token(
                secret_keys=settings.signing_keys(),
                name=OPERATOR,
                role="admin",
                lifetime=timedelta(hours=12),
                now=SystemClock().now,
            )
            with Client(url, token) as client:
                code = await _tell(client, sandbox, clock, output, second_act=wanted.serve_on)
            if wanted.serve_on:
                progress_console.print(closing(url, password), highlight=False)
                await _interrupted()
    return code


def _settings(folder: Path, clock: FileClock, url: str, password: str, sandbox: Sandbox) -> Settings:
    # The services read their own settings from the environment, as everywhere else.
    os.environ["RECLAIM_APPROVALS_SMTP_URL"] = f"smtp://127.0.0.1:{sandbox.smtp_port}"
    os.environ["RECLAIM_APPROVALS_OPERATIONS_ADDRESS"] = OPERATIONS
    keys = {name: json.loads(value) for name, value in setup.generate(OPERATOR, password).items()}
    return Settings(
        environment="demo",
        data_dir=folder,
        clock_url=f"file://{clock.path}",
        public_url=url,
        log_format="console",
        log_level="WARNING",
        # The simulated org is on this machine, where no org of a real installation may be.
        outgoing_allowed_hosts=["127.0.0.1"],
        secret_keys=keys["RECLAIM_SECRET_KEYS"],
        sealing_keys=keys["RECLAIM_SEALING_KEYS"],
        audit_keys=keys["RECLAIM_AUDIT_KEYS"],
        operators=keys["RECLAIM_OPERATORS"],
    )


def _listen(port: int) -> socket.socket:
    try:
        return listen("127.0.0.1", port)
    except OSError as error:
        progress_console.print(
            f"[bold red]error:[/] port {port} is taken ({error.strerror}). Choose another: "
            f'make demo ARGS="--port {port + 1}", or --port 0 for any.',
            highlight=False,
        )
        raise SystemExit(2) from error


class _Server(uvicorn.Server):
    """Serves until told to stop; interrupts are the demo's business."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _one_origin(console: ASGIApp, world: ASGIApp) -> ASGIApp:
    """Put the mailbox and the simulated org on the console's port, as the ingress does for containers."""

    async def dispatch(scope: Scope, receive: Receive, send: Send) -> None:
        first = str(scope.get("path", "")).split("/")[1:2]
        await (world if first and first[0] in WORLD_PATHS else console)(scope, receive, send)

    return dispatch


class _serving:  # noqa: N801
    def __init__(self, app: ASGIApp, listener: socket.socket) -> None:
        config = uvicorn.Config(
            app, log_config=None, access_log=False, server_header=False, proxy_headers=False, lifespan="off"
        )
        self._server = _Server(config)
        self._listener = listener
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> None:
        self._task = asyncio.create_task(self._server.serve(sockets=[self._listener]))
        while not self._server.started:
            if self._task.done():
                await self._task
            await asyncio.sleep(0.01)

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._server.should_exit = self._server.force_exit = True
        await self._task


async def _tell(client: Client, sandbox: Sandbox, clock: FileClock, output: Output, *, second_act: bool) -> int:
    """Play the story in a thread of its own: it is somebody outside, who waits for the services' answers."""
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        console=progress_console,
        transient=True,
    ) as progress:
        task = progress.add_task("starting", total=None)
        story = Story(
            client,
            sandbox.url,
            clock,
            connection={
                "name": "Simulated org",
                "kind": "salesforce",
                "settings": {"instance_url": sandbox.url, "client_id": sandbox.client_id, "allow_http": "true"},
                "credentials": {"client_secret": sandbox.client_secret},
            },
            note=lambda text: progress.console.print(f"  {text}", highlight=False),
            progress=lambda done, of: progress.update(task, description="working", completed=done, total=of),
        )
        desk = DeskAct(story, sandbox.url, note=lambda text: progress.console.print(f"  {text}", highlight=False))
        try:
            await asyncio.to_thread(story.play)
            through_the_desk = await asyncio.to_thread(desk.play)
            outcome = await asyncio.to_thread(story.outcome)
            outcome.figures["service_desk"] = through_the_desk
            if second_act:
                await asyncio.to_thread(_second_act, story)
        except StoryStuck as stuck:
            progress_console.print(f"[bold red]error:[/] {stuck}", highlight=False)
            return 1
        finally:
            desk.close()
            story.close()
    _report(outcome, output)
    return 1 if outcome.differences or not outcome.figures["audit"]["verified"] else 0


def _second_act(story: Story) -> None:
    """Ask anew for other seats, and leave the answers to whoever plays on."""
    connection = story.client.get("/scanner/api/connections")[0]["id"]
    rule = story.client.post(
        "/scanner/api/rules",
        {
            "name": "Idle Platform seats",
            "connection_id": connection,
            "products": ["AUL"],
            "inactive_days": 60,
            # Those of two departments have been asked through the service desk.
            "filter": f"not ({THEIRS})",
            "route": "email",
            "decision_days": 14,
            "on_timeout": "freeze",
            "grace_days": 14,
            "dry_run": False,
            # Most of the simulated org's Platform seats are idle, and a scan that flags most of what it sees stops.
            "most_flagged_share": 100,
        },
    )
    story.client.post(f"/scanner/api/rules/{rule['id']}/activate")
    story.finish_scan(story.ask_for_scan(rule["id"]))


def _report(outcome: Outcome, output: Output) -> None:
    if output is Output.JSON:
        print(json.dumps(outcome.figures))
    else:
        console.print(pairs(outcome.figures, title="From an unused seat to a dollar"))
    for difference in outcome.differences:
        progress_console.print(f"[bold red]error:[/] {difference}", highlight=False)
    if not outcome.differences:
        progress_console.print("The simulated org's own write log agrees with these figures.")


def closing(url: str, password: str) -> str:
    """Return what the demo says when it goes on serving; no line is longer than a usual terminal is wide."""
    return f"""
The console is open. Sign in as [bold]{OPERATOR}[/] with the password [bold]{password}[/]

  Cases         {url}/lifecycle/
  Mailbox       {url}/mailbox
                the managers' mail: keep, revoke or appeal there
  Service desk  {url}/desk/{PLATFORM}
                tickets: close with lr_keep or lr_revoke; reopen a frozen one
  Savings       {url}/savings/
  Time machine  {url}/demo/

A second rule has just asked about idle Platform seats: answer for their
managers, and let time pass. Press Ctrl-C to stop."""


async def _interrupted() -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    if threading.current_thread() is threading.main_thread():
        for sign in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(sign, stop.set)
    await stop.wait()
