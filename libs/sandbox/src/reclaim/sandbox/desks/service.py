"""Puts the simulated desks together: one below `/desks/{name}` for each platform."""

from __future__ import annotations

from fastapi import HTTPException, Request, Response

from reclaim.common.clock import Clock
from reclaim.common.routing import Router
from reclaim.sandbox.faults import Faults

from .control import control_router
from .core import Change, Desk
from .freshservice import FreshserviceDesk
from .generic import GenericDesk
from .jira import JiraDesk
from .pages import pages_router
from .serval import ServalDesk
from .servicenow import ServiceNowDesk

_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]


class Desks:
    """Every simulated desk, and one log of what was written to any of them."""

    def __init__(self, clock: Clock, faults: Faults) -> None:
        self.log: list[Change] = []
        self.servicenow = ServiceNowDesk(clock, faults, self.log)
        self.jira = JiraDesk(clock, faults, self.log)
        self.freshservice = FreshserviceDesk(clock, faults, self.log)
        self.serval = ServalDesk(clock, faults, self.log)
        self.generic = GenericDesk(clock, faults, self.log)
        self.by_name: dict[str, Desk] = {
            desk.name: desk for desk in (self.servicenow, self.jira, self.freshservice, self.serval, self.generic)
        }

    def clear(self) -> None:
        """Forget every ticket; where webhooks go stays."""
        self.log.clear()
        for desk in self.by_name.values():
            desk.clear()

    def router(self) -> Router:
        """Return the desks' APIs, their pages and their control API."""
        router = Router()
        router.include_router(control_router(self.by_name, self.log))
        router.include_router(pages_router(self.by_name))

        @router.api_route("/desks/{name}", methods=_METHODS, include_in_schema=False)
        @router.api_route("/desks/{name}/{path:path}", methods=_METHODS, include_in_schema=False)
        async def answer(request: Request, name: str, path: str = "") -> Response:
            if name not in self.by_name:
                raise HTTPException(404, f"there is no desk {name}")
            return await self.by_name[name].handle(request, f"/{path}")

        return router
