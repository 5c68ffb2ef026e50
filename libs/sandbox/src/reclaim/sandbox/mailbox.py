"""A mailbox: an SMTP server that keeps what it receives, a JSON view of it, and pages to read it in."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from dataclasses import asdict, dataclass
from datetime import datetime
from email import message_from_bytes, policy
from email.message import EmailMessage
from html import escape
from html.parser import HTMLParser
from typing import Any
from urllib.parse import quote

from aiosmtpd.smtp import SMTP, Envelope
from aiosmtpd.smtp import Session as SmtpSession
from fastapi import HTTPException, Request, Response
from fastapi.responses import HTMLResponse

from reclaim.common.clock import Clock
from reclaim.common.routing import Router

MAX_MESSAGES = 20_000
PAGE = 50

_URL = re.compile(r"https?://[^\s<>\"']+")
_PAGE_POLICY = (
    "default-src 'none'; style-src 'self'; frame-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'self'"
)
# The document of a message is caged twice, by this header and by the frame: no script, no form, no picture from
# elsewhere. A link may take over the whole window, and only when a person clicks it.
_MESSAGE_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; frame-ancestors 'self'; "
    "sandbox allow-top-navigation-by-user-activation"
)
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True, slots=True)
class Message:
    """One message as it arrived; `links` holds every address in it, in order, once."""

    id: int
    message_id: str
    sender: str
    to: list[str]
    subject: str
    text: str
    html: str
    received_at: datetime
    links: list[str]

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "received_at": self.received_at.isoformat()}


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.found.extend(value for name, value in attrs if name == "href" and value)


def links_in(text: str, html: str) -> list[str]:
    """Return the addresses that a message's two parts hold, each once, in the order of the HTML and then the text."""
    parser = _Links()
    parser.feed(html)
    found = [each for each in parser.found if each.startswith(("http://", "https://"))]
    found += [each.rstrip(".,;)") for each in _URL.findall(text)]
    return list(dict.fromkeys(found))


class Mailbox:
    """Everything that was mailed to anybody."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.messages: deque[Message] = deque(maxlen=MAX_MESSAGES)
        self.refused: set[str] = set()
        """Recipients that bounce with 550, in lower case."""
        self.outage = False
        """Whether every recipient is put off with 451."""
        self._made = 0

    def receive(self, raw: bytes, sender: str, recipients: list[str]) -> Message:
        """Keep a message."""
        parsed = message_from_bytes(raw, policy=policy.default)
        text, html = _part(parsed, "plain"), _part(parsed, "html")
        self._made += 1
        message = Message(
            id=self._made,
            message_id=str(parsed.get("Message-ID", "")),
            sender=sender,
            to=recipients,
            subject=str(parsed.get("Subject", "")),
            text=text,
            html=html,
            received_at=self.clock.now(),
            links=links_in(text, html),
        )
        self.messages.append(message)
        return message

    def newest(self, *, to: str = "", limit: int = PAGE, offset: int = 0) -> list[Message]:
        """Return messages, newest first; `to` is a part of a recipient's address."""
        wanted = to.strip().lower()
        found = [
            each
            for each in reversed(self.messages)
            if not wanted or any(wanted in address.lower() for address in each.to)
        ]
        return found[offset : offset + limit]

    def find(self, message_id: int) -> Message | None:
        """Return a message by its number, unless it was pushed out by newer ones."""
        return next((each for each in self.messages if each.id == message_id), None)

    def clear(self) -> None:
        """Forget the messages, the refusals and the outage."""
        self.messages.clear()
        self.refused.clear()
        self.outage = False

    # The handler that aiosmtpd calls -------------------------------------------------------------------------------

    async def handle_RCPT(  # noqa: N802
        self, _server: SMTP, _session: SmtpSession, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if self.outage:
            return "451 4.3.0 Mail server temporarily rejected message"
        if address.lower() in self.refused:
            return f"550 5.1.1 <{address}>: Recipient address rejected: User unknown"
        envelope.rcpt_tos.append(address)
        envelope.rcpt_options.extend(options)
        return "250 OK"

    async def handle_DATA(self, _server: SMTP, _session: SmtpSession, envelope: Envelope) -> str:  # noqa: N802
        content = envelope.content if isinstance(envelope.content, bytes) else str(envelope.content).encode()
        message = self.receive(content, str(envelope.mail_from or ""), [str(each) for each in envelope.rcpt_tos])
        return f"250 OK: queued as {message.id}"

    async def listen(self, host: str, port: int) -> tuple[asyncio.Server, int]:
        """Start to listen, on the running loop; return the server and its port (0 asks for a free one)."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: SMTP(self, hostname="sandbox.example", ident="Reclaim sandbox", loop=loop), host, port
        )
        return server, server.sockets[0].getsockname()[1]


def _part(message: EmailMessage, kind: str) -> str:
    part = message.get_body(preferencelist=(kind,))
    if part is None:
        return ""
    try:
        return str(part.get_content())
    except LookupError:  # a charset that nobody knows
        return bytes(part.get_payload(decode=True) or b"").decode("utf-8", "replace")


# Pages ------------------------------------------------------------------------------------------------------------

_STYLE = """\
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #59636e; --paper: #fff; --tint: #f4f6f8; --line: #d6dce2;
  --link: #0b57d0; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ec; --soft: #9aa5b1; --paper: #14171a; --tint: #1d2226;
  --line: #343b42; --link: #8ab4f8; } }
* { box-sizing: border-box; }
body { margin: 0; font: 1rem/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); }
main, header { max-width: 60rem; margin: 0 auto; padding: 1rem; }
header { display: flex; flex-wrap: wrap; gap: .5rem 1rem; align-items: center; justify-content: space-between; }
h1 { font-size: 1.25rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
a { color: var(--link); }
a:focus-visible, input:focus-visible, button:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; }
form { display: flex; gap: .5rem; flex-wrap: wrap; }
input, button { font: inherit; color: inherit; padding: .5rem .75rem; min-height: 2.75rem; border-radius: .4rem;
  border: 1px solid var(--line); background: var(--tint); max-width: 100%; }
ul { list-style: none; margin: 0; padding: 0; border-top: 1px solid var(--line); }
li { border-bottom: 1px solid var(--line); }
li a { display: block; padding: .75rem .25rem; color: inherit; text-decoration: none; }
li a:hover { background: var(--tint); }
.subject { font-weight: 600; overflow-wrap: anywhere; }
.who, dd { color: var(--soft); overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: auto 1fr; gap: .25rem 1rem; margin: 0 0 1rem; }
dt { font-weight: 600; } dd { margin: 0; }
iframe { width: 100%; height: 34rem; border: 1px solid var(--line); border-radius: .4rem; background: #fff;
  color-scheme: light; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--tint); padding: 1rem; border-radius: .4rem;
  margin: 0; }
.empty { color: var(--soft); padding: 2rem 0; }
nav { display: flex; justify-content: space-between; padding: 1rem 0; }
"""


def page(root: str, title: str, body: str) -> HTMLResponse:
    return HTMLResponse(
        "<!doctype html>\n"
        f'<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="stylesheet" href="{root}/style.css"></head><body>{body}</body></html>',
        headers={**_HEADERS, "Content-Security-Policy": _PAGE_POLICY},
    )


def when(at: datetime) -> str:
    return f'<time datetime="{at.isoformat()}">{at:%d %b %Y, %H:%M} UTC</time>'


def _linked(text: str) -> str:
    """Return plain text as HTML in which the addresses can be followed."""
    out, at = [], 0
    for match in _URL.finditer(text):
        address = match[0].rstrip(".,;)")
        out.append(escape(text[at : match.start()]))
        out.append(f'<a href="{escape(address)}" rel="noreferrer">{escape(address)}</a>')
        at = match.start() + len(address)
    out.append(escape(text[at:]))
    return "".join(out)


def _list_page(root: str, mailbox: Mailbox, to: str, offset: int) -> HTMLResponse:
    found = mailbox.newest(to=to, limit=PAGE + 1, offset=offset)
    rows = "".join(
        f'<li><a href="{root}/{each.id}"><div class="subject">{escape(each.subject) or "(no subject)"}</div>'
        f'<div class="who">to {escape(", ".join(each.to))} · {when(each.received_at)}</div></a></li>'
        for each in found[:PAGE]
    )
    kept = f"to={quote(to)}&amp;" if to else ""
    newer = f'<a href="{root}?{kept}offset={max(offset - PAGE, 0)}">Newer</a>' if offset else "<span></span>"
    older = f'<a href="{root}?{kept}offset={offset + PAGE}">Older</a>' if len(found) > PAGE else "<span></span>"
    nothing = f"No message to “{escape(to)}”." if to else "No mail yet."
    return page(
        root,
        "Mailbox",
        f'<header><h1>Mailbox</h1><form method="get" action="{root}" role="search">'
        f'<input type="search" name="to" value="{escape(to)}" aria-label="Recipient" placeholder="Recipient">'
        "<button>Filter</button></form></header><main>"
        + (f"<ul>{rows}</ul><nav>{newer}{older}</nav>" if rows else f'<p class="empty">{nothing}</p>')
        + "</main>",
    )


def _message_page(root: str, message: Message) -> HTMLResponse:
    html = (
        f'<h2>As it looks</h2><iframe src="{root}/{message.id}/html" title="The message" '
        'sandbox="allow-top-navigation-by-user-activation" referrerpolicy="no-referrer"></iframe>'
        if message.html
        else ""
    )
    text = f"<h2>As plain text</h2><pre>{_linked(message.text)}</pre>" if message.text else ""
    return page(
        root,
        message.subject or "(no subject)",
        f"<header><h1>{escape(message.subject) or '(no subject)'}</h1>"
        f'<a href="{root}">All mail</a></header><main><dl>'
        f"<dt>From</dt><dd>{escape(message.sender)}</dd><dt>To</dt><dd>{escape(', '.join(message.to))}</dd>"
        f"<dt>Received</dt><dd>{when(message.received_at)}</dd></dl>{html}{text}</main>",
    )


def _message_document(message: Message) -> Response:
    """Return a message's HTML, so that its links open in the whole window."""
    base = '<base target="_top">'
    html, count = re.subn(r"(?i)(<head[^>]*>)", lambda match: match[1] + base, message.html, count=1)
    return HTMLResponse(
        html if count else base + message.html, headers={**_HEADERS, "Content-Security-Policy": _MESSAGE_POLICY}
    )


def mailbox_router(mailbox: Mailbox) -> Router:
    """Return the pages, below `/mailbox`; they work without scripts, and wherever the app is mounted."""
    router = Router(include_in_schema=False)

    def root(request: Request) -> str:
        return escape(f"{request.scope.get('root_path', '')}/mailbox")

    @router.get("/mailbox")
    @router.get("/mailbox/")
    async def index(request: Request, to: str = "", offset: int = 0) -> Response:
        return _list_page(root(request), mailbox, to, max(offset, 0))

    @router.get("/mailbox/style.css")
    async def style() -> Response:
        return Response(_STYLE, media_type="text/css", headers={"X-Content-Type-Options": "nosniff"})

    @router.get("/mailbox/{message_id}")
    async def show(request: Request, message_id: int) -> Response:
        return _message_page(root(request), _found(mailbox, message_id))

    @router.get("/mailbox/{message_id}/html")
    async def document(message_id: int) -> Response:
        return _message_document(_found(mailbox, message_id))

    return router


def _found(mailbox: Mailbox, message_id: int) -> Message:
    message = mailbox.find(message_id)
    if message is None:
        raise HTTPException(404, f"there is no message {message_id}")
    return message
