"""The mailbox: real SMTP in, JSON and pages out."""

from __future__ import annotations

import asyncio
import re
import smtplib
from collections.abc import AsyncIterator
from email.message import EmailMessage
from typing import Any

import aiosmtplib
import httpx
import pytest
from fastapi import FastAPI

from reclaim.common.clock import FixedClock
from reclaim.sandbox.app import Sandbox, create_app
from reclaim.sandbox.mailbox import Mailbox, links_in
from reclaim.sandbox.org import Org

LINK = "https://reclaim.example/d/abc?x=1&y=2"


def letter(to: str = "boss@test.example", subject: str = "Keep or revoke?", **parts: str) -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "reclaim@test.example", to, subject
    message["Message-ID"] = "<one@test.example>"
    message.set_content(parts.get("text", f"Please decide: {LINK}.\n"))
    if "html" in parts:
        message.add_alternative(parts["html"], subtype="html")
    return message


@pytest.fixture
async def sandbox(clock: FixedClock, org: Org, base: Any) -> AsyncIterator[Sandbox]:
    async with Sandbox(clock=clock, org=org) as running:
        yield running


async def send(sandbox: Sandbox, message: EmailMessage, *recipients: str) -> Any:
    return await aiosmtplib.send(
        message, recipients=list(recipients) or None, hostname=sandbox.host, port=sandbox.smtp_port, start_tls=False
    )


async def test_what_is_sent_is_kept(sandbox: Sandbox) -> None:
    html = f'<html><head></head><body><p>Grüße</p><a href="{LINK.replace("&", "&amp;")}">Keep</a></body></html>'
    await send(sandbox, letter(subject="Prüfen, bitte", html=html))
    async with httpx.AsyncClient(base_url=sandbox.url, trust_env=False) as client:
        found = (await client.get("/sandbox/api/mailbox/messages")).json()
        assert len(found) == 1
        kept = found[0]
        assert kept["message_id"] == "<one@test.example>"
        assert kept["sender"] == "reclaim@test.example"
        assert kept["to"] == ["boss@test.example"]
        assert kept["subject"] == "Prüfen, bitte"
        assert kept["text"].strip() == f"Please decide: {LINK}."
        assert "Grüße" in kept["html"]
        assert kept["links"] == [LINK]
        assert kept["received_at"] == "2026-03-18T12:30:00+00:00"
        assert (await client.delete("/sandbox/api/mailbox/messages")).status_code == 204
        assert (await client.get("/sandbox/api/mailbox/messages")).json() == []


async def test_newest_first_and_by_recipient(sandbox: Sandbox) -> None:
    for number in range(5):
        await send(sandbox, letter(to=f"m{number % 2}@test.example", subject=str(number)))
    async with httpx.AsyncClient(base_url=sandbox.url, trust_env=False) as client:

        async def subjects(**params: Any) -> list[str]:
            answer = await client.get("/sandbox/api/mailbox/messages", params=params)
            return [each["subject"] for each in answer.json()]

        assert await subjects() == ["4", "3", "2", "1", "0"]
        assert await subjects(to="M1@") == ["3", "1"]
        assert await subjects(limit=2, offset=1) == ["3", "2"]
        assert await subjects(to="nobody") == []


async def test_refused_recipients_and_an_outage(sandbox: Sandbox) -> None:
    async with httpx.AsyncClient(base_url=sandbox.url, trust_env=False) as client:

        async def refuse(**body: Any) -> Any:
            return (await client.post("/sandbox/api/mailbox/refuse", json=body)).json()

        assert await refuse(recipients=["Gone@test.example"]) == {"recipients": ["gone@test.example"], "outage": False}
        with pytest.raises(aiosmtplib.SMTPRecipientsRefused) as bounced:
            await send(sandbox, letter(to="gone@TEST.example"))
        assert bounced.value.recipients[0].code == 550
        refused, _ = await send(sandbox, letter(), "gone@test.example", "boss@test.example")
        assert set(refused) == {"gone@test.example"}
        assert sandbox.world.mailbox.newest()[0].to == ["boss@test.example"]
        assert await refuse(outage=True) == {"recipients": ["gone@test.example"], "outage": True}
        with pytest.raises(aiosmtplib.SMTPRecipientsRefused) as put_off:
            await send(sandbox, letter())
        assert put_off.value.recipients[0].code == 451
        await refuse(outage=False, recipients=[])
        await send(sandbox, letter(to="gone@test.example"))
    assert len(sandbox.world.mailbox.messages) == 2


def test_a_strange_message_is_kept_too(clock: FixedClock) -> None:
    mailbox = Mailbox(clock)
    for raw in (
        b"",
        b"Subject: only\r\n\r\n",
        b"\xff\xfe\r\n\r\n\xff",
        b'Content-Type: text/plain; charset="x-no"\r\n\r\nhi',
    ):
        mailbox.receive(raw, "", ["a@test.example"])
    assert [each.subject for each in mailbox.newest()] == ["", "", "only", ""]
    assert mailbox.newest()[0].text.strip() == "hi"
    assert mailbox.find(99) is None


def test_links_are_found_once_and_whole() -> None:
    html = '<a href="https://a.example/?a=1&amp;b=2">x</a><a href="mailto:a@b.example">m</a><a>n</a>'
    text = "see https://a.example/?a=1&b=2 and (http://b.example/c)."
    assert links_in(text, html) == ["https://a.example/?a=1&b=2", "http://b.example/c"]


# Pages ------------------------------------------------------------------------------------------------------------


def kept(app: FastAPI, message: EmailMessage) -> int:
    return int(app.state.world.mailbox.receive(message.as_bytes(), "reclaim@test.example", [str(message["To"])]).id)


@pytest.mark.parametrize("prefix", ["", "/sandbox-world"])
async def test_pages_work_at_the_root_and_mounted(clock: FixedClock, org: Org, base: Any, prefix: str) -> None:
    app = create_app(clock=clock, org=org)
    number = kept(app, letter(html=f'<p>Hello</p><a href="{LINK}">Keep</a>'))
    outer = FastAPI()
    outer.mount(prefix, app) if prefix else None
    transport = httpx.ASGITransport(outer if prefix else app)
    async with httpx.AsyncClient(transport=transport, base_url="http://demo.example") as client:
        seen = set()
        todo = [f"{prefix}/mailbox"]
        while todo:
            path = todo.pop()
            page = await client.get(path)
            assert page.status_code == 200, path
            seen.add(path)
            targets = (
                re.findall(r'(?:href|src|action)="([^"]+)"', page.text) if path != f"{prefix}/mailbox/1/html" else []
            )
            todo += [each for each in targets if each not in seen and not each.startswith("http")]
        assert seen == {
            f"{prefix}{rest}" for rest in ("/mailbox", "/mailbox/style.css", "/mailbox/1", "/mailbox/1/html")
        }
        assert number == 1


async def test_the_pages_are_caged(clock: FixedClock, org: Org, base: Any) -> None:
    app = create_app(clock=clock, org=org)
    kept(app, letter(html="<html><head><title>t</title></head><body><script>alert(1)</script></body></html>"))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://demo.example") as client:
        shown = await client.get("/mailbox/1")
        policy = shown.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "script-src" not in policy
        assert "<script" not in shown.text
        assert "style=" not in shown.text
        assert 'sandbox="allow-top-navigation-by-user-activation"' in shown.text
        assert "allow-scripts" not in shown.text
        document = await client.get("/mailbox/1/html")
        assert "sandbox allow-top-navigation-by-user-activation" in document.headers["Content-Security-Policy"]
        assert '<head><base target="_top">' in document.text
        assert document.headers["X-Content-Type-Options"] == "nosniff"
        assert document.headers["Referrer-Policy"] == "no-referrer"
        assert (await client.get("/mailbox/2")).status_code == 404
        assert (await client.get("/mailbox/x")).status_code == 422


async def test_what_was_mailed_cannot_become_markup(clock: FixedClock, org: Org, base: Any) -> None:
    app = create_app(clock=clock, org=org)
    nasty = '"><script>alert(1)</script>'
    kept(app, letter(subject=nasty, text=f"{nasty} https://a.example/?q=<b>\n"))
    app.state.world.mailbox.receive(b"Subject: x\r\n\r\nx", nasty, [nasty])
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://demo.example") as client:
        for path in ("/mailbox", "/mailbox/1", "/mailbox/2", f"/mailbox?to={nasty}"):
            assert "<script" not in (await client.get(path)).text
        assert '<a href="https://a.example/?q="' in (await client.get("/mailbox/1")).text


async def test_long_lists_have_pages(clock: FixedClock, org: Org, base: Any) -> None:
    app = create_app(clock=clock, org=org)
    for number in range(120):
        kept(app, letter(to=f"m{number % 2}@test.example", subject=f"subject-{number}-"))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://demo.example") as client:
        first = (await client.get("/mailbox")).text
        assert first.count("<li>") == 50
        assert "subject-119-" in first
        assert "offset=50" in first
        last = (await client.get("/mailbox?offset=100")).text
        assert last.count("<li>") == 20
        assert "Older" not in last
        filtered = (await client.get("/mailbox?to=m1@&offset=50")).text
        assert filtered.count("<li>") == 10
        assert "to=m1%40&amp;offset=0" in filtered
        assert "No message" in (await client.get("/mailbox?to=nobody")).text
    empty = httpx.ASGITransport(create_app(clock=clock, org=org))
    async with httpx.AsyncClient(transport=empty, base_url="http://demo.example") as client:
        assert "No mail yet" in (await client.get("/mailbox/")).text


async def test_a_plain_smtp_client_is_served_too(sandbox: Sandbox) -> None:
    def deliver() -> None:
        with smtplib.SMTP(sandbox.host, sandbox.smtp_port, timeout=5) as server:
            server.send_message(letter())

    await asyncio.to_thread(deliver)
    assert sandbox.world.mailbox.newest()[0].links == [LINK]
