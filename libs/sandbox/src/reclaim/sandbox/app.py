"""Puts the world on the network: one HTTP app, one SMTP port, in this process or as one of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from reclaim.common.clock import Clock
from reclaim.common.routing import add_routes
from reclaim.common.sockets import listen

from .auth import CLIENT_ID, CLIENT_SECRET
from .control import control_router
from .demo_org import build_demo_org
from .mailbox import mailbox_router
from .org import Org
from .salesforce import ABORT
from .world import World


def create_app(*, clock: Clock, org: Org | None = None) -> FastAPI:
    """Return the app: Salesforce at its own paths, `/mailbox`, `/desks`, and `/sandbox/api`.

    Args:
        clock: the time that the world lives in.
        org: the org to show; without one, an org that has only what every org has. `app.state.world` holds it.
    """
    world = World(clock, org)
    app = FastAPI(
        title="Reclaim sandbox", docs_url="/sandbox/docs", openapi_url="/sandbox/openapi.json", redoc_url=None
    )
    app.state.world = world
    routers = (
        control_router(world),
        mailbox_router(world.mailbox),
        world.desks.router(),
        world.salesforce.router,
        world.okta.router,
    )
    for router in routers:
        add_routes(app, router)

    @app.get("/sandbox/health")
    @app.get("/health/live", include_in_schema=False)
    @app.get("/health/ready", include_in_schema=False)
    async def health() -> dict[str, Any]:
        """Tell that the sandbox is up, and how large its org is."""
        return {"status": "ok", "users": len(world.org.tables["User"].rows)}

    return app


class _Protocol(H11Protocol):
    """Lets a fault close a connection without an answer, as a network does."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        app = self.app

        async def with_abort(scope: Any, receive: Any, send: Any) -> None:
            scope.setdefault("extensions", {})[ABORT] = transport.abort
            await app(scope, receive, send)

        self.app = with_abort


class _Server(uvicorn.Server):
    """A server that leaves signals to the process it lives in, and ends when it is told to, not up to 0.1 s later."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._ending = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def main_loop(self) -> None:
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), 1)

    def end(self) -> None:
        self.should_exit = self.force_exit = True
        self._ending.set()


def server_config(app: FastAPI, **options: Any) -> uvicorn.Config:
    """Return how to serve the sandbox: it reads longer URLs than Salesforce takes, so that the org refuses them."""
    return uvicorn.Config(
        app,
        http=_Protocol,
        ws="none",
        lifespan="off",
        log_level="warning",
        access_log=False,
        h11_max_incomplete_event_size=1 << 20,
        **options,
    )


class Sandbox:
    """The whole world inside the running event loop: `async with Sandbox(clock=clock) as sandbox: sandbox.url`."""

    client_id = CLIENT_ID
    client_secret = CLIENT_SECRET

    def __init__(
        self,
        *,
        clock: Clock,
        users: int = 1_000,
        seed: int = 2024,
        org: Org | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        smtp_port: int = 0,
    ) -> None:
        """Build the world; nothing listens yet.

        Args:
            clock: the time that the world lives in.
            users: how many active full licences the demo org has; 0 leaves only what every org has.
            seed: the same seed gives the same org.
            org: an org to use instead.
            host: the address to listen on.
            port: the HTTP port; 0 takes a free one.
            smtp_port: the SMTP port; 0 takes a free one.
        """
        if org is None and users:
            org = Org(clock)
            build_demo_org(org, users=users, seed=seed)
        self.app = create_app(clock=clock, org=org)
        self.world: World = self.app.state.world
        self.host, self.port, self.smtp_port = host, port, smtp_port
        self._server: _Server | None = None
        self._serving: asyncio.Task[None] | None = None
        self._smtp: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def org(self) -> Org:
        return self.world.org

    async def start(self) -> None:
        """Listen on both ports; returns when both answer.

        Raises:
            OSError: a port is taken.
        """
        listener = listen(self.host, self.port)
        try:
            self.port = listener.getsockname()[1]
            self._smtp, self.smtp_port = await self.world.mailbox.listen(self.host, self.smtp_port)
        except BaseException:
            listener.close()
            raise
        self._server = _Server(server_config(self.app))
        self._serving = asyncio.create_task(self._server.serve(sockets=[listener]))
        while not self._server.started:
            if self._serving.done():
                await self._serving
            await asyncio.sleep(0.005)

    async def stop(self) -> None:
        """Close both ports; connections that are still open are cut."""
        if self._smtp is not None:
            # Not waited for: from Python 3.12 on that lasts until the last client has gone.
            self._smtp.close()
        if self._server is not None and self._serving is not None:
            self._server.end()
            await self._serving
            for connection in self._server.server_state.connections:
                connection.transport.abort()
            # Their sockets are closed in the loop's next round.
            await asyncio.sleep(0)
        self._server = self._serving = self._smtp = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()
