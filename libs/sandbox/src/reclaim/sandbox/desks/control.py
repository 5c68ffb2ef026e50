"""The control API of the desks, below `/sandbox/api/desks`: what people do on tickets, and what befalls webhooks."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Literal

from fastapi import HTTPException
from pydantic import BaseModel, ConfigDict, Field

from reclaim.common.routing import Router

from .core import PRODUCT, Change, Desk, DeskError
from .pages import PERSON, person_acts


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class PersonOnTicket(_Strict):
    """What a person does on a ticket; `value` is a tag, a text, or `name=value` of a field."""

    ticket: str
    action: Literal["tag", "untag", "close", "reopen", "comment", "set"]
    value: str = ""
    by: str = PERSON


class Webhook(_Strict):
    """Where a desk's webhooks go, and what they are signed with; an empty address sends none."""

    url: str
    secret: str


class Astray(_Strict):
    """What befalls webhooks: so many of the next are lost, or sent twice; or all are held back."""

    drop: int = Field(default=0, ge=0)
    repeat: int = Field(default=0, ge=0)
    hold: bool = False


class Release(_Strict):
    """Send what was held back, the last first if asked for."""

    reverse: bool = False


class DeskSettings(_Strict):
    """How a desk behaves; what is left out stays as it is."""

    search_lag: int | None = Field(default=None, ge=0)
    keeps_open: bool | None = None
    labels_on_form: bool | None = None
    tags_by_name_only: bool | None = None


def control_router(desks: dict[str, Desk], log: list[Change]) -> Router:
    """Return the control API over the desks."""
    router = Router(prefix="/sandbox/api/desks", tags=["desks"])

    def found(name: str) -> Desk:
        if name not in desks:
            raise HTTPException(404, f"there is no desk {name}: {', '.join(desks)}")
        return desks[name]

    @router.get("")
    async def listed() -> list[dict[str, Any]]:
        """The desks, and how much each has."""
        return [
            {
                "name": desk.name,
                "label": desk.label,
                "path": f"/desks/{desk.name}",
                "tickets": len(desk.tickets),
                "calls": len(desk.called),
                "webhooks": {"url": desk.hooks.url, "sent": len(desk.sent), "held": desk.held},
            }
            for desk in desks.values()
        ]

    @router.get("/write-log")
    async def write_log(
        since: int = 0, desk: str = "", caller: Literal["product", "person", "all"] = "product"
    ) -> list[dict[str, Any]]:
        """Changes of tickets after a sequence number: through an API (`product`), by people, or all."""
        return [
            asdict(each)
            for each in log
            if each.seq > since
            and desk in ("", each.desk)
            and (caller == "all" or (each.by == PRODUCT) is (caller == "product"))
        ]

    @router.get("/{name}/tickets")
    async def tickets(name: str) -> list[dict[str, Any]]:
        """The tickets of a desk, with what was said on them."""
        desk = found(name)
        return [{**asdict(each), "closed": desk.is_closed(each)} for each in desk.tickets.values()]

    @router.get("/{name}/calls")
    async def calls(name: str, since: int = 0) -> list[dict[str, Any]]:
        """Calls to a desk's API after a sequence number."""
        return [asdict(each) for each in found(name).called if each.seq > since]

    @router.post("/{name}/people")
    async def people(name: str, action: PersonOnTicket) -> dict[str, Any]:
        """Let a person do something on a ticket."""
        desk = found(name)
        try:
            ticket = desk.find(action.ticket)
        except DeskError as error:
            raise HTTPException(404, error.message) from None
        person_acts(desk, ticket, action.action, action.value, action.by)
        await desk.deliver()
        return {"ok": True}

    @router.put("/{name}/webhook")
    async def webhook(name: str, wanted: Webhook) -> dict[str, Any]:
        """Set where a desk's webhooks go."""
        desk = found(name)
        desk.hooks.url, desk.hooks.secret = wanted.url, wanted.secret
        return {"ok": True}

    @router.get("/{name}/webhooks")
    async def webhooks(name: str) -> list[dict[str, Any]]:
        """The webhooks that were sent, and how they were answered (0: not at all)."""
        return [
            {"id": each.id, "ticket": each.ticket, "attempts": each.attempts, "status": each.status}
            for each in found(name).sent
        ]

    @router.post("/{name}/webhooks/astray")
    async def astray(name: str, wanted: Astray) -> dict[str, Any]:
        """Let webhooks be lost, doubled or held back."""
        hooks = found(name).hooks
        hooks.drop, hooks.repeat, hooks.hold = wanted.drop, wanted.repeat, wanted.hold
        return {"ok": True}

    @router.post("/{name}/webhooks/release")
    async def release(name: str, wanted: Release) -> dict[str, Any]:
        """Send what was held back."""
        await found(name).release(reverse=wanted.reverse)
        return {"ok": True}

    @router.post("/{name}/webhooks/resend")
    async def resend(name: str) -> dict[str, Any]:
        """Send again what nobody took."""
        await found(name).resend()
        return {"ok": True}

    @router.put("/{name}/settings")
    async def settings(name: str, wanted: DeskSettings) -> dict[str, Any]:
        """Change how a desk behaves."""
        desk = found(name)
        for each, value in wanted.model_dump(exclude_none=True).items():
            if not hasattr(desk, each):
                raise HTTPException(422, f"{desk.label} has no {each}")
            setattr(desk, each, value)
        return {"ok": True}

    return router
