"""Mails: what is in them, and what happens when the mail server will not have them or the process dies."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from email.message import EmailMessage
from html.parser import HTMLParser

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as some
from pydantic import ValidationError

from reclaim.approvals import domain, store
from reclaim.approvals.ports import MailServerAway
from reclaim.approvals.settings import ApprovalsSettings, SmtpServer
from reclaim.common.contracts import CheaperLicence, NoticeDelivered, NoticeFailed
from reclaim.common.timing import wall_milliseconds
from services.approvals.tests.approvals_world import (
    HOLDER,
    MANAGER,
    NOON,
    SEAT,
    Start,
    World,
    changed,
    flagged,
    frozen,
    reclaimed,
)


class Tags(HTMLParser):
    """Collects every tag, and the address of every link and picture."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.addresses: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in {"href", "src", "background"}]


async def test_the_mail_has_both_forms_and_the_headers_of_a_program(world: World) -> None:
    await world.receive(flagged())
    await world.send_mails()
    mail = world.mailbox.parsed()
    assert mail["From"] == "Reclaim <seats@example.com>"
    assert mail["To"] == "Max Manager <max@example.com>"
    assert mail["Auto-Submitted"] == "auto-generated"
    assert mail["Date"].datetime == NOON
    assert mail["X-Reclaim-Case"] == "c1"
    [row] = await world.mails()
    assert mail["Message-ID"] == f"<{row.id}@example.com>"
    assert [part.get_content_type() for part in mail.iter_parts()] == ["text/plain", "text/html"]
    [message] = world.mailbox.messages
    for said in ("$1,980.00 a year", "4 May 2026", "Queue member", "frozen", "25 Nov 2026, 12:00 UTC"):
        assert said in message.text, said
        assert said in message.html, said
    tags = Tags(message.html)
    assert not {"script", "img", "link", "form"} & set(tags.names)
    assert len(tags.addresses) == 2
    assert all(address in message.text for address in tags.addresses)
    assert 'style="' in message.html
    assert "prefers-color-scheme: dark" in message.html


async def test_names_cannot_write_headers_or_html(world: World) -> None:
    hostile = 'Eve <script>alert(1)</script>\r\nBcc: all@example.com\u2028X: "y" \u202eevil'
    seat = changed(SEAT, holder=changed(HOLDER, name=hostile), product_name="<b>Sales</b>\nX-Evil: 1")
    await world.receive(flagged(seat=seat, approver=changed(MANAGER, name=hostile)))
    await world.receive(frozen())
    await world.due_now()
    [mail, _] = await world.send_mails()
    assert len(world.mailbox.raw) == 2
    for index, parsed in enumerate([world.mailbox.parsed(0), world.mailbox.parsed(1)]):
        assert set(parsed.keys()) == {
            "From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "X-Auto-Response-Suppress",
            "X-Reclaim-Case", "X-Reclaim-Mail", "MIME-Version", "Content-Type",
        }  # fmt: skip
        html = world.mailbox.messages[index].html
        assert not {"script", "b"} & set(Tags(html).names)
    assert mail.to == ["max@example.com"]
    assert "\u202e" not in mail.subject
    assert "&lt;script&gt;" in mail.html


@pytest.mark.parametrize("name", ["Jörg, Häßler", '"Quoted" O\'Neil', "", "日本 太郎", "a" * 300, "x@y <z@w>"])
async def test_any_name_reaches_the_right_address(world: World, name: str) -> None:
    await world.receive(flagged(approver=changed(MANAGER, name=name)))
    [mail] = await world.send_mails()
    assert mail.to == ["max@example.com"]
    [address] = world.mailbox.parsed()["To"].addresses
    assert address.addr_spec == "max@example.com"
    assert address.display_name == " ".join(name.split())


@given(some.text())
def test_cleaned_text_stays_on_one_line(text: str) -> None:
    cleaned = domain.clean(text)
    assert len(cleaned.splitlines()) <= 1
    assert domain.clean(cleaned) == cleaned
    cleaned.encode()
    message = EmailMessage()
    message["Subject"] = cleaned


@given(some.text())
def test_plain_text_keeps_what_a_person_typed(text: str) -> None:
    plain = domain.plain_text(text)
    assert domain.plain_text(plain) == plain
    assert "\r" not in plain
    assert "\x00" not in plain
    plain.encode()


@pytest.mark.parametrize(
    "address",
    ["a@b", "a.b+c@sub.example.com", "o'neil@example.com", "jörg@exämple.com", "a@192", "A@B.C"],
)
def test_a_usable_address_is_used_as_it_is(address: str) -> None:
    assert domain.usable_address(address) == address


@pytest.mark.parametrize(
    "address",
    [
        None, "", "x", "@x", "x@", "a@b@c", "a b@c.d", "a@b c", "a@b.", "a@.b", "a@b..c", "<a@b.c>", "a@b.c,d@e.f",
        "a@b.c\n", "a@b.c\r\nBcc: d@e.f", '"a"@b.c', "a@[1.2.3.4]", "a\u202e@b.c", "a\x00@b.c", "a" * 251 + "@b.c",
    ],
)  # fmt: skip
def test_any_other_address_is_not_used(address: str | None) -> None:
    assert domain.usable_address(address) is None


# ---------------------------------------------------------------------------------------------------- refusals


async def test_a_refused_question_is_reported_with_a_remedy(world: World) -> None:
    world.mailbox.refused.add("max@example.com")
    await world.receive(flagged(), flagged("c2", approver=changed(MANAGER, email="may@example.com")))
    [mail] = await world.send_mails()
    assert mail.to == ["may@example.com"]
    failed, delivered = await world.emitted()
    assert isinstance(failed, NoticeFailed)
    assert failed.case_id == "c1"
    assert "User unknown" in failed.reason
    assert "Correct the e-mail address of Max Manager (005M)" in failed.remedy
    assert isinstance(delivered, NoticeDelivered)
    assert delivered.case_id == "c2"
    [row] = await world.mails()
    assert (row.status, row.attempts) == ("failed", 1)
    assert "550" in row.last_error
    await world.due_now()
    assert await world.send_mails() == []


async def test_a_refused_note_is_listed_and_nothing_is_reported(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.mailbox.refused.add("hanna@example.com")
    await world.receive(flagged())
    await world.send_mails()
    said = await world.emitted()
    await world.receive(frozen())
    with caplog.at_level(logging.ERROR):
        await world.send_mails()
    assert await world.emitted() == said
    assert [mail.status for mail in await world.mails()] == ["sent", "sent", "failed"]
    assert "case c1: the frozen mail was refused" in caplog.text


async def test_a_server_that_is_busy_is_tried_again_without_end(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.mailbox.outage = True
    await world.receive(flagged())
    for attempt in range(1, 40):
        before = wall_milliseconds()
        await world.send_mails()
        [row] = await world.mails()
        assert (row.status, row.attempts) == ("queued", attempt)
        assert "451" in row.last_error
        assert before + 1_000 < row.due < before + 1_200_000
        await world.due_now()
    assert "case c1: the ask mail is put off: 451" in caplog.text
    assert await world.emitted() == []
    world.mailbox.outage = False
    assert len(await world.send_mails()) == 1
    assert [type(event) for event in await world.emitted()] == [NoticeDelivered]
    assert (await world.mails())[0].last_error is None


async def test_a_question_that_has_not_arrived_for_a_day_calls_a_person_once_and_is_tried_on(world: World) -> None:
    """A case that nobody was asked about has no deadline: without this it would wait for ever, and nobody know."""
    world.mailbox.outage = True
    await world.receive(flagged())
    await world.send_mails()
    assert await world.emitted() == []
    for _ in range(3):
        world.clock.advance(timedelta(hours=25))
        await world.due_now()
        await world.send_mails()
    [failed] = await world.emitted()
    assert isinstance(failed, NoticeFailed)
    assert "could not be delivered for a day: " in failed.reason
    assert "451" in failed.reason
    world.mailbox.outage = False
    await world.due_now()
    assert len(await world.send_mails()) == 1
    assert [type(event) for event in await world.emitted()] == [NoticeFailed, NoticeDelivered]


async def test_a_server_that_is_down_holds_nothing_up_for_ever(start: Start) -> None:
    world = await start(smtp_url="smtp://127.0.0.1:1")
    await world.receive(flagged(), flagged("c2"))
    await world.send_mails()
    [row] = await world.mails()
    assert row.status == "queued"
    assert "127.0.0.1:1 cannot be used" in row.last_error
    assert "RECLAIM_APPROVALS_SMTP_URL" in row.last_error
    assert row.due > wall_milliseconds()


async def test_without_a_server_mails_wait_and_say_why(start: Start) -> None:
    world = await start(smtp_url=None)
    await world.receive(flagged())
    await world.send_mails()
    assert "RECLAIM_APPROVALS_SMTP_URL" in (await world.mails())[0].last_error


@asynccontextmanager
async def server(*replies: bytes) -> AsyncIterator[str]:
    """A server that greets with the first reply and answers each line with the next ones; b'' hangs for ever."""
    stop = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for number, reply in enumerate(replies):
            if number and not await reader.readline():
                break
            if not reply:
                await stop.wait()
                break
            writer.write(reply + b"\r\n")
            await writer.drain()
        writer.close()

    listening = await asyncio.start_server(talk, "127.0.0.1", 0)
    try:
        yield f"smtp://127.0.0.1:{listening.sockets[0].getsockname()[1]}?starttls=never"
    finally:
        stop.set()
        listening.close()
        await listening.wait_closed()


@pytest.mark.parametrize(
    ("replies", "said"),
    [
        ((b"554 no service",), "554 no service"),
        ((b"220 hi", b"250 ok", b"550 you may not send", b"250 ok"), "RECLAIM_APPROVALS_SENDER"),
        ((b"220 hi", b"250 ok", b"250 ok"), "broke off"),
        ((b"220 hi", b"250 ok", b""), "broke off"),
        ((b"",), "cannot be used"),
        ((b"nonsense",), "cannot be used"),
    ],
)
async def test_what_is_wrong_with_us_or_the_server_costs_no_mail(
    start: Start, replies: tuple[bytes, ...], said: str
) -> None:
    async with server(*replies) as url:
        world = await start(smtp_url=url, smtp_timeout=0.5)
        await world.receive(flagged())
        await world.job("mail")()
        [row] = await world.mails()
        assert (row.status, row.attempts) == ("queued", 1)
        assert said in row.last_error
        assert await world.emitted() == []


async def test_a_mail_that_the_server_will_not_have_is_refused(start: Start) -> None:
    data = (b"220 hi", b"250 ok", b"250 ok", b"250 ok", b"354 go on")
    async with server(*data, b"554 5.7.1 looks like spam") as url:
        world = await start(smtp_url=url, smtp_timeout=2)
        await world.receive(flagged())
        await world.job("mail")()
    [row] = await world.mails()
    assert row.status == "failed"
    assert "looks like spam" in row.last_error


async def test_a_mail_that_cannot_be_written_does_not_stop_the_others(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await world.receive(flagged("c1"), flagged("c2"))
    async with world.running.database.unit() as unit:
        await unit.db.execute(
            sa.update(store.mails).where(store.mails.c.case_id == "c1").values(kind="attention", details={})
        )
    [mail] = await world.send_mails()
    assert "c2" in (world.mailbox.parsed()["X-Reclaim-Case"])
    assert [row.status for row in await world.mails("c1")] == ["failed"]
    assert "could not be written" in caplog.text
    assert mail.to == ["max@example.com"]


# ---------------------------------------------------------------------------------------------------- crashes


class Killed(BaseException):
    """The process ends here."""


class DyingMailer:
    """Delivers, and then the process dies before it can note it."""

    sender = "seats@example.com"

    def __init__(self) -> None:
        self.delivered: list[EmailMessage] = []
        self.dies = True

    @asynccontextmanager
    async def session(self) -> AsyncIterator[DyingMailer]:
        yield self

    async def send(self, message: EmailMessage, recipient: str) -> None:
        self.delivered.append(message)
        if self.dies:
            raise Killed


async def test_after_a_crash_between_sending_and_noting_it_the_same_mail_goes_again(start: Start) -> None:
    mailer = DyingMailer()
    world = await start(mailer=mailer)
    await world.receive(flagged())
    with pytest.raises(Killed):
        await world.job("mail")()
    assert await world.emitted() == []
    mailer.dies = False
    assert await world.job("mail")() is False  # the lease still holds
    [row] = await world.mails()
    assert wall_milliseconds() < row.due <= wall_milliseconds() + 15_000
    await world.due_now()
    await world.job("mail")()
    first, second = mailer.delivered
    assert first["Message-ID"] == second["Message-ID"]
    tokens = {str(mail.get_body(("plain",)).get_content()) for mail in mailer.delivered}  # type: ignore[union-attr]
    assert len(tokens) == 1
    assert [type(event) for event in await world.emitted()] == [NoticeDelivered]
    assert await world.job("mail")() is False


class SlowMailer(DyingMailer):
    """Is overtaken: while it sends, its lease ends and another worker sends the mail too."""

    world: World

    async def send(self, message: EmailMessage, recipient: str) -> None:
        self.delivered.append(message)
        if self.dies:
            self.dies = False
            await self.world.due_now()
            await self.world.job("mail")()


async def test_a_worker_that_lost_its_lease_notes_nothing(start: Start) -> None:
    mailer = SlowMailer()
    mailer.world = world = await start(mailer=mailer)
    await world.receive(flagged())
    await world.job("mail")()
    assert len(mailer.delivered) == 2
    assert len({mail["Message-ID"] for mail in mailer.delivered}) == 1
    assert [type(event) for event in await world.emitted()] == [NoticeDelivered]
    assert [row.status for row in await world.mails()] == ["sent"]


class BreakingMailer(DyingMailer):
    """Goes away after the first mail of a session."""

    async def send(self, message: EmailMessage, recipient: str) -> None:
        if self.delivered and self.dies:
            self.dies = False
            raise MailServerAway("it broke off")
        self.delivered.append(message)


async def test_when_the_connection_breaks_the_rest_waits_and_none_is_lost(start: Start) -> None:
    mailer = BreakingMailer()
    world = await start(mailer=mailer)
    await world.receive(*(flagged(f"c{number}") for number in range(5)))
    await world.job("mail")()
    assert len(mailer.delivered) == 1
    await world.due_now()
    await world.job("mail")()
    assert sorted(mail["X-Reclaim-Case"] for mail in mailer.delivered) == [f"c{number}" for number in range(5)]


async def test_no_transaction_is_open_while_mail_is_sent(start: Start) -> None:
    class Looking(DyingMailer):
        async def send(self, message: EmailMessage, recipient: str) -> None:
            async with asyncio.timeout(5), world.running.database.unit() as unit:
                await unit.db.execute(sa.text("SELECT 1"))
            self.delivered.append(message)

    mailer = Looking()
    world = await start(mailer=mailer)
    await world.receive(flagged())
    await world.job("mail")()
    assert len(mailer.delivered) == 1


async def test_two_workers_send_each_mail_once(start: Start, database_url: str | None) -> None:
    world = await start(database_url=database_url)
    await world.receive(*(flagged(f"c{number:02}") for number in range(60)))
    mail = world.job("mail")

    async def work() -> None:
        while await mail():
            pass

    await asyncio.gather(work(), work(), work())
    cases = [str(world.mailbox.parsed(index)["X-Reclaim-Case"]) for index in range(len(world.mailbox.raw))]
    assert sorted(cases) == [f"c{number:02}" for number in range(60)]
    assert len(await world.emitted()) == 60


async def test_a_question_that_was_settled_while_its_mail_was_under_way_is_followed_by_a_note(start: Start) -> None:
    from services.approvals.tests.approvals_world import closed

    class Overtaken(DyingMailer):
        async def send(self, message: EmailMessage, recipient: str) -> None:
            self.delivered.append(message)
            if len(self.delivered) == 1:
                await world.receive(closed(outcome="cancelled", reason="signed in again"))

    mailer = Overtaken()
    world = await start(mailer=mailer)
    await world.receive(flagged())
    await world.send_mails()
    assert [mail["X-Reclaim-Mail"] for mail in mailer.delivered] == ["ask", "closed"]


async def test_a_mail_about_a_freeze_that_comes_late_offers_what_can_still_be_done(world: World) -> None:
    await world.receive(flagged())
    await world.send_mails()
    await world.receive(frozen())
    world.clock.advance(timedelta(days=8))
    mails = await world.send_mails()
    assert len(mails) == 2
    for mail in mails:
        assert "The time to undo the freeze ended on 27 Nov 2026" in mail.text
        assert "until it is, the freeze can still be undone" in mail.text
        assert (await world.client.get(mail.links[0])).status_code == 200


async def test_a_mail_about_a_freeze_that_comes_after_the_seat_was_freed_has_no_link(world: World) -> None:
    await world.receive(flagged())
    await world.send_mails()
    await world.receive(frozen(), reclaimed())
    mails = [mail for mail in await world.send_mails() if "was frozen" in mail.subject]
    assert len(mails) == 2
    for mail in mails:
        assert "/approvals/d/" not in mail.text
        assert "cannot be undone here any more" in mail.text


# ---------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("smtp://mail.example.com", ("mail.example.com", 25, None, None, False, "offered")),
        ("smtp://u%40x:p%2Fw@h:2525", ("h", 2525, "u@x", "p/w", False, "required")),
        ("smtp://u:p@h", ("h", 587, "u", "p", False, "required")),
        ("smtps://u:p@h", ("h", 465, "u", "p", True, "required")),
        ("smtp://h?starttls=never", ("h", 25, None, None, False, "never")),
    ],
)
def test_the_address_of_the_mail_server(url: str, expected: tuple[object, ...]) -> None:
    found = SmtpServer.of(url)
    assert (found.host, found.port, found.username, found.password, found.tls, found.starttls) == expected
    assert "p" not in repr(SmtpServer.of("smtp://u:secret@h")).replace("smtp", "")


@pytest.mark.parametrize(
    "url", ["h:25", "http://h", "smtp://", "smtp://h:x", "smtp://h?starttls=maybe", "smtp://h?a=b"]
)
def test_a_wrong_address_of_the_mail_server_stops_the_start_and_is_not_repeated(url: str) -> None:
    secret = url.replace("//h", "//user:geheim@h")
    with pytest.raises(ValidationError) as error:
        ApprovalsSettings(_env_file=None, smtp_url=secret)
    assert "geheim" not in str(error.value)


def test_settings_say_what_is_wrong() -> None:
    with pytest.raises(ValidationError, match="bare mail address"):
        ApprovalsSettings(_env_file=None, sender="Reclaim <reclaim@example.com>")
    for public_url, sender in (
        ("https://reclaim.example.com", "reclaim@reclaim.example.com"),
        ("http://127.0.0.1:8080", "reclaim@localhost"),
        ("http://[::1]:8080", "reclaim@localhost"),
    ):
        assert ApprovalsSettings(_env_file=None).sender_for(public_url) == sender


def test_an_empty_variable_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECLAIM_APPROVALS_SMTP_URL", "")
    assert ApprovalsSettings(_env_file=None).smtp_url is None


async def test_the_question_says_what_a_revoke_really_does(world: World) -> None:
    platform = CheaperLicence(product="AUL", product_name="Salesforce Platform")
    await world.receive(
        flagged(reclaim_by="task", grace_calendar="business"),
        flagged("c2", reclaim_by="downgrade", downgrade_to=platform),
    )
    by_hand, downgrade = [" ".join(mail.text.split()) for mail in await world.send_mails()]
    assert "somebody takes the seat back by hand" in by_hand
    assert "7 working days" in by_hand
    assert "frozen" not in by_hand
    assert "moved to Salesforce Platform and can sign in again" in downgrade
