"""What every host process gets from here: the console's look, its sign-in, and the pages of an operator's work.

Found through the entry point group `reclaim.host`, so that the host itself knows nothing of pages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fastapi import Depends, FastAPI
from fastapi.responses import RedirectResponse

from reclaim.common.routing import add_routes
from reclaim.web.auth import public
from reclaim.web.host import install
from reclaim.web.operations import parked_routes
from reclaim.web.operators import ROLES, OperatorRecord
from reclaim.web.state import NavItem

if TYPE_CHECKING:
    from reclaim.common.host import Host
    from reclaim.common.settings import Settings

HOME: Final = "/lifecycle/"

NAVIGATION: Final = (
    NavItem("Cases", "/lifecycle/", 10),
    NavItem("Attention", "/lifecycle/attention", 20),
    NavItem("Brakes", "/lifecycle/brakes", 25),
    NavItem("Tasks", "/lifecycle/tasks", 22),
    NavItem("Drift", "/lifecycle/drift", 24),
    NavItem("Rules", "/scanner/rules", 30),
    NavItem("Products", "/scanner/products", 35),
    NavItem("Scans", "/scanner/scans", 40),
    NavItem("Connections", "/scanner/connections", 50),
    NavItem("Usage sources", "/scanner/sources", 52),
    NavItem("Imports", "/scanner/imports", 54),
    NavItem("Requests", "/approvals/", 60),
    NavItem("Service desk", "/itsm-gateway/", 70),
    NavItem("Savings", "/savings/", 80),
    NavItem("Audit", "/lifecycle/audit", 90),
    NavItem("Messages", "/lifecycle/parked", 95),
)
"""The console is one, whichever process serves a page: every page links to those of all services."""

UPLOADS: Final = {"/scanner/api/usage/imports": 512 * 1024 * 1024, "/scanner/imports": 128 * 1024 * 1024}
"""What takes files, and of how many bytes. A form is kept in a temporary file until all of it has come."""


def plug_in(app: FastAPI, host: Host) -> None:
    """Install the web part on a host's application."""
    settings = host.settings
    extra = (NavItem("Time machine", "/demo/", 100),) if settings.environment == "demo" else ()
    install(
        app,
        secret_keys=settings.signing_keys(),
        operators=operators(settings),
        public_url=settings.public_url,
        navigation=(*NAVIGATION, *extra),
        uploads=UPLOADS,
        clock=host.clock,
    )
    for running in host.running:
        add_routes(app, parked_routes(running))
    app.state.inboxes = {running.service.name: running.inbox for running in host.running}

    @app.get("/", include_in_schema=False, dependencies=[Depends(public())])
    async def home() -> RedirectResponse:
        return RedirectResponse(HOME)


def operators(settings: Settings) -> dict[str, OperatorRecord]:
    """Read `RECLAIM_OPERATORS`: name → `role:argon2-hash`.

    Raises:
        ValueError: a value has no role in front, or one that does not exist.
    """
    found = {}
    for name, value in settings.operators.items():
        role, _, password_hash = value.partition(":")
        if role not in ROLES or not password_hash:
            raise ValueError(
                f"RECLAIM_OPERATORS: {name!r} needs role:argon2-hash with a role of {', '.join(ROLES)}; "
                "`reclaim init` shows the form"
            )
        found[name] = OperatorRecord(password_hash=password_hash, role=role)
    return found
