"""Pages on which a person works on the tickets of the simulated desks; they need no script."""

from __future__ import annotations

from html import escape
from urllib.parse import parse_qsl, quote

from fastapi import HTTPException, Request, Response
from fastapi.responses import RedirectResponse

from reclaim.common.routing import Router
from reclaim.sandbox.mailbox import page, when

from .core import Desk, DeskError, Ticket

PERSON = "Ann Agent"
"""Who works on tickets through the pages."""
TAGS = ("lr_keep", "lr_revoke", "lr_downgrade", "lr_done")


def pages_router(desks: dict[str, Desk]) -> Router:
    """Return the pages, below `/desk`; they work wherever the app is mounted."""
    router = Router(include_in_schema=False)

    @router.get("/desk")
    @router.get("/desk/")
    async def index(request: Request) -> Response:
        root = _root(request)
        rows = "".join(
            f'<li><a href="{root}/desk/{desk.name}"><div class="subject">{escape(desk.label)}</div>'
            f'<div class="who">{_count(len(desk.tickets))}</div></a></li>'
            for desk in desks.values()
        )
        body = f"<header><h1>Service desks</h1></header><main><ul>{rows}</ul></main>"
        return page(f"{root}/mailbox", "Service desks", body)

    @router.get("/desk/{name}")
    async def one_desk(request: Request, name: str) -> Response:
        desk, root = _desk(desks, name), _root(request)
        rows = "".join(
            f'<li><a href="{root}/desk/{name}/{ticket.id}"><div class="subject">{escape(ticket.subject)}</div>'
            f'<div class="who">{escape(ticket.key)} · {_standing(desk, ticket)}</div></a></li>'
            for ticket in reversed(desk.tickets.values())
        )
        body = (
            f'<header><h1>{escape(desk.label)}</h1><a href="{root}/desk">All desks</a></header><main>'
            + (f"<ul>{rows}</ul>" if rows else '<p class="empty">No tickets yet.</p>')
            + "</main>"
        )
        return page(f"{root}/mailbox", desk.label, body)

    @router.get("/desk/{name}/{ticket_id}")
    async def one_ticket(request: Request, name: str, ticket_id: int) -> Response:
        desk, root = _desk(desks, name), _root(request)
        return page(f"{root}/mailbox", desk.label, _ticket_body(root, desk, _ticket(desk, str(ticket_id))))

    @router.post("/desk/{name}/{ticket_id}")
    async def act(request: Request, name: str, ticket_id: int) -> Response:
        desk = _desk(desks, name)
        form = dict(parse_qsl((await request.body()).decode("utf-8", "replace")))
        person_acts(desk, _ticket(desk, str(ticket_id)), form.get("action", ""), form.get("value", ""), PERSON)
        await desk.deliver()
        return RedirectResponse(f"{_root(request)}/desk/{quote(name)}/{ticket_id}", status_code=303)

    return router


def person_acts(desk: Desk, ticket: Ticket, action: str, value: str, by: str) -> None:
    """Let a person do something to a ticket: tag, untag, close, reopen, comment, or set a field (`name=value`).

    Raises:
        HTTPException: there is no such action, or it does not fit.
    """
    match action:
        case "tag" if value and not any(char.isspace() for char in value):
            desk.change(ticket, by=by, tags=[*ticket.tags, *({value} - set(ticket.tags))])
        case "untag":
            desk.change(ticket, by=by, tags=[tag for tag in ticket.tags if tag != value])
        case "close":
            desk.change(ticket, by=by, status=desk.closed_statuses[0])
        case "reopen":
            desk.change(ticket, by=by, status=desk.open_status)
        case "comment" if value:
            desk.say(ticket, value, public=True, by=by)
        case "set" if "=" in value:
            name, _, text = value.partition("=")
            desk.person_sets(ticket, name, text, by)
        case _:
            raise HTTPException(
                422, f"{action!r} is no action, or lacks its value: tag, untag, close, reopen, comment, set"
            )


def _ticket_body(root: str, desk: Desk, ticket: Ticket) -> str:
    here = f"{root}/desk/{desk.name}/{ticket.id}"
    buttons = "".join(
        _button(
            here, "untag" if tag in ticket.tags else "tag", tag, f"{'Remove' if tag in ticket.tags else 'Add'} {tag}"
        )
        for tag in TAGS
    )
    buttons += _button(here, "reopen", "", "Reopen") if desk.is_closed(ticket) else _button(here, "close", "", "Close")
    said = "".join(
        f"<li><strong>{escape(comment.by)}</strong> · {when(comment.at)}<pre>{escape(comment.text)}</pre></li>"
        for comment in ticket.comments
    )
    return (
        f'<header><h1>{escape(ticket.subject)}</h1><a href="{root}/desk/{desk.name}">All tickets</a></header><main><dl>'
        f"<dt>Ticket</dt><dd>{escape(ticket.key)}</dd>"
        f"<dt>Status</dt><dd>{_standing(desk, ticket)}</dd>"
        f"<dt>Tags</dt><dd>{escape(', '.join(ticket.tags)) or 'none'}</dd>"
        f"<dt>Opened</dt><dd>{when(ticket.created_at)}</dd></dl>"
        f"<pre>{escape(ticket.description.replace('<br>', chr(10)))}</pre>"
        f"<h2>Answer</h2>{buttons}" + (f"<h2>Comments</h2><ul>{said}</ul>" if said else "") + "</main>"
    )


def _button(here: str, action: str, value: str, label: str) -> str:
    return (
        f'<form method="post" action="{here}"><input type="hidden" name="action" value="{action}">'
        f'<input type="hidden" name="value" value="{escape(value)}"><button>{escape(label)}</button></form>'
    )


def _standing(desk: Desk, ticket: Ticket) -> str:
    return "closed" if desk.is_closed(ticket) else "open"


def _count(number: int) -> str:
    return f"{number} ticket{'' if number == 1 else 's'}"


def _root(request: Request) -> str:
    return escape(str(request.scope.get("root_path", "")))


def _desk(desks: dict[str, Desk], name: str) -> Desk:
    if name not in desks:
        raise HTTPException(404, f"there is no desk {name}")
    return desks[name]


def _ticket(desk: Desk, key: str) -> Ticket:
    try:
        return desk.find(key)
    except DeskError as error:
        raise HTTPException(404, error.message) from None
