"""What a link opens, and who gets to decide with it."""

from __future__ import annotations

import asyncio
import re
from datetime import timedelta

import httpx
import pytest
from itsdangerous import URLSafeSerializer

from reclaim.approvals.domain import APPEAL_HOLDS
from reclaim.approvals.links import Links
from reclaim.common.contracts import DecisionReceived
from reclaim.common.security import Signer
from services.approvals.tests.approvals_world import (
    KEY,
    MANAGER,
    NOON,
    PUBLIC,
    Start,
    World,
    changed,
    closed,
    flagged,
    frozen,
    reclaimed,
    restored,
)

FORM = {"Content-Type": "application/x-www-form-urlencoded"}


async def ask(world: World, **fields: object) -> tuple[str, str]:
    """Flag a seat and return the two links of the mail."""
    await world.receive(flagged(**fields))  # type: ignore[arg-type]
    [mail] = await world.send_mails()
    keep, revoke = (link for link in mail.links if "/approvals/d/" in link)
    return keep, revoke


def token_of(url: str) -> str:
    return url.rpartition("/d/")[2].partition("?")[0]


async def decisions(world: World) -> list[DecisionReceived]:
    return [event for event in await world.emitted() if isinstance(event, DecisionReceived)]


@pytest.mark.parametrize("choice", ["keep", "revoke"])
async def test_the_two_links_only_preselect(world: World, choice: str) -> None:
    url = dict(zip(("keep", "revoke"), await ask(world), strict=True))[choice]
    page = await world.client.get(url)
    checked = re.findall(r'value="(\w+)" required checked', page.text)
    assert checked == [choice]
    plain = await world.client.get(url.partition("?")[0])
    assert re.findall(r"required checked", plain.text) == []
    odd = await world.client.get(f"{url.partition('?')[0]}?choice=downgrade")
    assert odd.status_code == 200
    assert re.findall(r"required checked", odd.text) == []


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
async def test_looking_changes_nothing(world: World, method: str) -> None:
    keep, revoke = await ask(world)
    await world.receive(flagged("c2"), frozen("c2"))
    await world.send_mails()
    appeal = world.token("appeal", case_id="c2")
    before = await world.dump()
    for url in (keep, revoke, f"{keep}/renew", f"{PUBLIC}/approvals/d/{appeal}", f"{PUBLIC}/approvals/d/nonsense"):
        for _ in range(2):
            answer = await world.client.request(method, url)
            assert answer.status_code < 500
    world.clock.advance(timedelta(days=30))
    for url in (keep, f"{PUBLIC}/approvals/d/{appeal}"):
        assert (await world.client.request(method, url)).status_code == (405 if method == "OPTIONS" else 410)
    assert await world.dump() == before


async def test_a_page_is_kept_to_itself(world: World) -> None:
    keep, _ = await ask(world)
    headers = (await world.client.get(keep)).headers
    assert headers["cache-control"] == "no-store"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["x-robots-tag"] == "noindex, nofollow"
    assert "script-src 'nonce-" in headers["content-security-policy"]
    assert "<script" not in (await world.client.get(keep)).text


async def test_the_page_says_what_it_is_about(world: World) -> None:
    keep, _ = await ask(world, dry_run=True, on_timeout="keep")
    text = (await world.client.get(keep)).text
    for said in (
        "Hanna Holder",
        "Sales Cloud",
        "$1,980.00 a year",
        "4 May 2026",
        "takes work from the queue Support",
        "25 Nov 2026, 12:00 UTC",
        "If nobody answers:</strong> The seat is kept.",
        "This is a rehearsal",
        "Open records go to you",
        "7 days",
        "max@example.com",
    ):
        assert said in text, said


async def test_a_decision_is_recorded_once_with_who_when_what_and_why(world: World) -> None:
    keep, _ = await ask(world)
    world.clock.advance(timedelta(hours=1))
    answer = await world.answer(keep, choice="keep", justification="  Back in May\r\nfrom leave \x00 ")
    assert answer.status_code == 200
    assert "the seat is kept" in answer.text
    [event] = await decisions(world)
    assert event == DecisionReceived(
        case_id="c1",
        decision="keep",
        channel="email",
        actor="max@example.com",
        reason="Back in May\nfrom leave",
        decided_at=NOON + timedelta(hours=1),
        ip="203.0.113.9",
        user_agent=world.client.headers["user-agent"],
    )
    asked = await world.asked()
    assert (asked.status, asked.decision, asked.decided_by) == ("decided", "keep", "max@example.com")
    again = await world.client.get(keep)
    assert again.status_code == 200
    assert "You decided to keep the seat" in again.text
    before = await world.dump()
    second = await world.client.post(keep.partition("?")[0], data={"choice": "revoke"})
    assert second.status_code == 409
    assert "already decided" in second.text
    assert await world.dump() == before


async def test_the_old_link_still_shows_the_decision_after_its_time(world: World) -> None:
    keep, revoke = await ask(world)
    await world.answer(revoke, choice="revoke")
    world.clock.advance(timedelta(days=60))
    page = await world.client.get(keep)
    assert page.status_code == 200
    assert "You decided to revoke the seat" in page.text


async def test_64_simultaneous_answers_make_one_decision(start: Start, database_url: str | None) -> None:
    world = await start(database_url=database_url)
    keep, _ = await ask(world)
    url = keep.partition("?")[0]
    nonce = re.search(r'name="form_nonce" value="([^"]+)"', (await world.client.get(keep)).text)
    assert nonce

    async def post(number: int) -> httpx.Response:
        choice = ("keep", "revoke")[number % 2]
        data = {"form_nonce": nonce[1], "choice": choice, "justification": f"answer {number}"}
        return await world.client.post(url, data=data)

    answers = await asyncio.gather(*(post(number) for number in range(64)))
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 63
    [event] = await decisions(world)
    winner = next(number for number, answer in enumerate(answers) if answer.status_code == 200)
    assert event.reason == f"answer {winner}"
    assert (await world.asked()).justification == event.reason
    assert len((await world.dump())["decision_origins"]) == 1


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "Choose one of the two."),
        ({"choice": "downgrade", "justification": "x"}, "Choose one of the two."),
        ({"choice": "keep"}, "Say in a few words"),
        ({"choice": "keep", "justification": " \t\r\n "}, "Say in a few words"),
        ({"choice": "revoke", "justification": "x" * 2001}, "at most 2,000 characters"),
    ],
)
async def test_an_answer_that_does_not_fit_is_asked_for_again(world: World, fields: dict[str, str], said: str) -> None:
    keep, _ = await ask(world)
    before = await world.dump()
    answer = await world.answer(keep, **fields)
    assert answer.status_code == 422
    assert said in answer.text
    assert fields.get("justification", "").strip() in answer.text
    assert await world.dump() == before


async def test_a_form_that_is_far_too_long_is_not_read(world: World) -> None:
    keep, _ = await ask(world)
    answer = await world.answer(keep, choice="keep", justification="x" * 100_000)
    assert answer.status_code == 413


async def test_a_post_needs_the_rendered_form_of_this_very_link(world: World) -> None:
    keep, _ = await ask(world)
    await world.receive(flagged("c2"))
    [mail] = await world.send_mails()
    other = re.search(r'name="form_nonce" value="([^"]+)"', (await world.client.get(mail.links[0])).text)
    assert other
    before = await world.dump()
    for nonce in ("", "x", other[1]):
        data = {"form_nonce": nonce, "choice": "keep", "justification": "typed with care"}
        answer = await world.client.post(keep.partition("?")[0], data=data)
        assert answer.status_code == 403
        assert "Nothing was recorded yet" in answer.text
        assert "typed with care" in answer.text
    assert await world.dump() == before


@pytest.mark.parametrize(
    "headers",
    [{"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}, {"Origin": "https://evil.example"}],
)
async def test_a_page_of_another_site_cannot_answer(world: World, headers: dict[str, str]) -> None:
    keep, _ = await ask(world)
    nonce = re.search(r'name="form_nonce" value="([^"]+)"', (await world.client.get(keep)).text)
    assert nonce
    before = await world.dump()
    data = {"form_nonce": nonce[1], "choice": "revoke"}
    for url in (keep.partition("?")[0], f"{keep.partition('?')[0]}/renew"):
        assert (await world.client.post(url, data=data, headers=headers)).status_code == 403
    assert await world.dump() == before
    ours = await world.client.post(keep.partition("?")[0], data=data, headers={"Sec-Fetch-Site": "same-origin"})
    assert ours.status_code == 200


async def test_a_link_that_was_altered_opens_nothing(world: World) -> None:
    keep, _ = await ask(world)
    token = token_of(keep)
    before = await world.dump()
    altered = [token[:-1] + ("A" if token[-1] != "A" else "B"), token[1:], token + "x", "x", "." * 10, "x" * 5000]
    for index in range(0, len(token), 7):
        replacement = "A" if token[index] != "A" else "B"
        altered.append(token[:index] + replacement + token[index + 1 :])
    for text in altered:
        for answer in (
            await world.client.get(f"/approvals/d/{text}"),
            await world.client.post(f"/approvals/d/{text}", data={"choice": "revoke"}),
            await world.client.post(f"/approvals/d/{text}/renew", data={}),
        ):
            assert answer.status_code == 400, text
            assert "This link is not valid" in answer.text
    assert await world.dump() == before


async def test_a_link_for_something_else_opens_nothing(world: World) -> None:
    await ask(world)
    other_key = Links(Signer(["z" * 32]), PUBLIC)
    whole = {"case_id": "c1", "epoch": 1, "expires_at": NOON + timedelta(days=1), "jti": "j" * 22}
    serializer = URLSafeSerializer([KEY], salt="decision")  # SHA-1, as nobody here signs
    document = {"v": 1, "case": "c1", "epoch": 1, "recipient": "max@example.com"}
    signer = Signer([KEY])
    good = {**document, "allowed": ["revoke"], "exp": 2_000_000_000, "jti": "j" * 22}
    tokens = {
        "another case": world.token(case_id="c2"),
        "another recipient": world.token(recipient="eve@example.com"),
        "the holder deciding": world.token(recipient="hanna@example.com"),
        "another key": other_key.token("decision", recipient="max@example.com", **whole),  # type: ignore[arg-type]
        "another purpose": signer.sign("session", good),
        "another digest": str(serializer.dumps(good)),
        "another version": signer.sign("decision", {**good, "v": 2}),
        "a field too many": signer.sign("decision", {**good, "admin": True}),
        "a field too few": signer.sign("decision", document),
    }
    before = await world.dump()
    for what, token in tokens.items():
        assert (await world.client.get(f"/approvals/d/{token}")).status_code == 400, what
        answer = await world.answer(f"{PUBLIC}/approvals/d/{token}", choice="revoke")
        assert answer.status_code == 400, what
    assert await world.dump() == before


async def test_an_appeal_link_cannot_decide_and_a_decision_link_cannot_appeal(world: World) -> None:
    keep, _ = await ask(world)
    appeal = f"{PUBLIC}/approvals/d/{world.token('appeal')}"
    assert (await world.client.get(appeal)).status_code == 410  # nothing is frozen
    assert (await world.answer(appeal, choice="revoke")).status_code == 410
    await world.receive(frozen(decision="timeout"))
    answer = await world.answer(keep, choice="keep", justification="wait")
    assert answer.status_code == 410
    assert "can still be undone" in answer.text
    revoke = await world.answer(appeal, choice="revoke", justification="x")
    assert revoke.status_code == 422
    assert await decisions(world) == []


async def test_a_choice_that_the_token_does_not_allow_is_not_taken(world: World) -> None:
    await ask(world)
    document = {"v": 1, "case": "c1", "epoch": 1, "recipient": "max@example.com", "exp": 2_000_000_000, "jti": "j" * 22}
    token = Signer([KEY]).sign("decision", {**document, "allowed": ["keep", "downgrade"]})
    for choice in ("revoke", "downgrade"):
        answer = await world.answer(f"{PUBLIC}/approvals/d/{token}", choice=choice)
        assert answer.status_code == 422
    assert await decisions(world) == []


async def test_keys_are_rotated_without_breaking_links(start: Start) -> None:
    old, new = "o" * 32, "n" * 32
    world = await start(keys=[new, old])
    await world.receive(flagged())
    [mail] = await world.send_mails()
    token = token_of(mail.links[0])
    Signer([new]).verify("decision", token)
    older = Links(Signer([old]), PUBLIC).token(
        "decision", case_id="c1", epoch=1, recipient="max@example.com", expires_at=NOON + timedelta(1), jti="j" * 22
    )
    assert (await world.client.get(f"/approvals/d/{older}")).status_code == 200
    assert (await world.answer(f"{PUBLIC}/approvals/d/{older}", choice="revoke")).status_code == 200


async def test_a_key_that_is_gone_ends_its_links(start: Start) -> None:
    world = await start(keys=["n" * 32])
    await world.receive(flagged())
    older = Links(Signer(["o" * 32]), PUBLIC).token(
        "decision", case_id="c1", epoch=1, recipient="max@example.com", expires_at=NOON + timedelta(1), jti="j" * 22
    )
    assert (await world.client.get(f"/approvals/d/{older}")).status_code == 400


async def test_an_expired_link_offers_a_new_one_to_the_same_address(world: World) -> None:
    keep, _ = await ask(world)
    world.clock.advance(timedelta(days=5))
    page = await world.client.get(keep)
    assert page.status_code == 410
    assert "Send me a new link" in page.text
    refused = await world.answer(keep, choice="revoke")
    assert refused.status_code == 410
    assert await world.send_mails() == []

    plain = keep.partition("?")[0]
    nonce = re.search(r'name="form_nonce" value="([^"]+)"', page.text)
    assert nonce
    posts = [
        world.client.post(f"{plain}/renew", data={"form_nonce": nonce[1], "email": "eve@example.com"}) for _ in range(8)
    ]
    answers = await asyncio.gather(*posts)
    assert sorted(answer.status_code for answer in answers) == [202] + [410] * 7
    [mail] = await world.send_mails()
    assert mail.to == ["max@example.com"]
    assert mail.links[0] != keep
    old = await world.client.get(keep)
    assert old.status_code == 410
    assert "replaced" in old.text
    assert "Send me a new link" not in old.text
    assert (await world.answer(keep, choice="revoke")).status_code == 410
    fresh = await world.client.get(mail.links[0])
    assert fresh.status_code == 200
    assert "The time to answer is over" in fresh.text
    assert (await world.answer(mail.links[1], choice="revoke")).status_code == 200
    delivered = [event for event in await world.emitted() if not isinstance(event, DecisionReceived)]
    assert len(delivered) == 1  # the deadline does not start again


async def test_new_links_are_limited(world: World) -> None:
    keep, _ = await ask(world)
    world.clock.advance(timedelta(days=5))
    plain = keep.partition("?")[0]

    async def renew(url: str) -> httpx.Response:
        nonce = re.search(r'name="form_nonce" value="([^"]+)"', (await world.client.get(url)).text)
        return await world.client.post(f"{url}/renew", data={"form_nonce": nonce[1] if nonce else ""})

    assert (await world.client.post(f"{plain}/renew", data={})).status_code == 403
    assert (await renew(plain)).status_code == 202
    already_expired = world.token(epoch=2, expires_at=world.clock.now())
    before = await world.dump()
    assert (await renew(f"{PUBLIC}/approvals/d/{already_expired}")).status_code == 429
    assert await world.dump() == before
    world.clock.advance(timedelta(minutes=16))
    assert (await renew(f"{PUBLIC}/approvals/d/{already_expired}")).status_code == 202


async def test_a_link_that_has_not_expired_is_not_renewed(world: World) -> None:
    keep, _ = await ask(world)
    before = await world.dump()
    answer = await world.client.post(f"{keep.partition('?')[0]}/renew", data={})
    assert answer.status_code == 409
    assert "still valid" in answer.text
    assert await world.dump() == before


@pytest.mark.parametrize(
    ("ending", "said"),
    [
        (frozen(decision="timeout"), "The time to answer ended"),
        (frozen(decision="revoke"), "decided in another way"),
        (closed(outcome="cancelled", reason="the holder signed in again"), "the holder signed in again"),
        (closed(outcome="skipped", reason="the rule was withdrawn"), "the rule was withdrawn"),
        (closed(outcome="kept", reason="time-out"), "the seat is kept (time-out)"),
        (restored(), "works again"),
        (reclaimed(), "has been freed"),
    ],
)
async def test_a_question_that_was_settled_in_another_way_is_closed(world: World, ending: object, said: str) -> None:
    keep, _ = await ask(world)
    await world.receive(ending)  # type: ignore[arg-type]
    page = await world.client.get(keep)
    assert page.status_code == 410
    assert said in page.text
    assert (await world.answer(keep, choice="revoke")).status_code == 410
    assert await decisions(world) == []
    assert (await world.asked()).status == "closed"


async def test_manager_and_holder_may_appeal_once(start: Start, database_url: str | None) -> None:
    world = await start(database_url=database_url)
    await ask(world)
    await world.receive(frozen())
    mails = await world.send_mails()
    assert [mail.to for mail in mails] == [["max@example.com"], ["hanna@example.com"]]
    urls = [next(link for link in mail.links if "/approvals/d/" in link) for mail in mails]
    assert urls[0] != urls[1]
    page = await world.client.get(urls[1])
    assert page.status_code == 200
    assert "Until 27 Nov 2026, 12:00 UTC" in page.text
    assert (await world.answer(urls[1], choice="keep")).status_code == 422

    async def appeal(number: int) -> httpx.Response:
        return await world.answer(urls[number % 2], choice="keep", justification=f"needed {number}")

    answers = await asyncio.gather(*(appeal(number) for number in range(16)))
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 15
    [event] = await decisions(world)
    assert event.decision == "keep"
    assert event.actor in {"max@example.com", "hanna@example.com"}
    for url in urls:
        after = await world.client.get(url)
        assert after.status_code == 200
        assert "asked for the account back" in after.text


async def test_while_the_seat_is_not_freed_the_link_that_was_sent_opens_the_appeal(world: World) -> None:
    """A kill switch, a brake, a day off: whatever holds the step that frees it, nobody is kept from asking."""
    await ask(world)
    await world.receive(frozen())
    mail = (await world.send_mails())[-1]
    world.clock.advance(timedelta(days=40))
    page = await world.client.get(mail.links[0])
    assert page.status_code == 200
    assert "ended on 27 Nov 2026, 12:00 UTC, but the seat has not been freed yet" in page.text
    answer = await world.answer(mail.links[0], choice="keep", justification="back from leave")
    assert answer.status_code == 200
    assert "If you get none, ask your administrator" in answer.text
    [event] = await decisions(world)
    assert (event.decision, event.decided_at) == ("keep", world.clock.now())


async def test_an_appeal_link_does_not_last_for_ever(world: World) -> None:
    await ask(world)
    await world.receive(frozen())
    mail = (await world.send_mails())[-1]
    world.clock.advance(timedelta(days=7) + APPEAL_HOLDS)
    page = await world.client.get(mail.links[0])
    assert page.status_code == 410
    assert "is over" in page.text
    assert "Send me a new link" not in page.text
    assert (await world.answer(mail.links[0], choice="keep", justification="late")).status_code == 410
    assert await decisions(world) == []


async def test_after_the_seat_is_freed_nobody_appeals(world: World) -> None:
    await ask(world)
    await world.receive(frozen())
    mail = (await world.send_mails())[-1]
    await world.receive(reclaimed())
    assert (await world.client.get(mail.links[0])).status_code == 410
    assert (await world.answer(mail.links[0], choice="keep", justification="late")).status_code == 410
    assert await decisions(world) == []


@pytest.mark.parametrize(
    ("proxies", "header", "expected"),
    [
        (0, None, "203.0.113.9"),
        (0, "198.51.100.1", "203.0.113.9"),
        (1, "198.51.100.1", "198.51.100.1"),
        (1, "6.6.6.6, 198.51.100.1", "198.51.100.1"),
        (2, "6.6.6.6, 198.51.100.1, 10.0.0.1", "198.51.100.1"),
        (2, "198.51.100.1", "203.0.113.9"),
        (1, "<script>", None),
        (1, "2001:db8::1", "2001:db8::1"),
    ],
)
async def test_the_address_is_believed_as_far_as_our_own_proxies_go(
    start: Start, proxies: int, header: str | None, expected: str | None
) -> None:
    world = await start(trusted_proxies=proxies)
    keep, _ = await ask(world)
    if header:
        world.client.headers["X-Forwarded-For"] = header
    await world.answer(keep, choice="revoke")
    assert (await decisions(world))[0].ip == expected


async def test_where_an_answer_came_from_is_erased_and_the_answer_stays(start: Start) -> None:
    world = await start(origin_retention_days=30)
    keep, _ = await ask(world)
    world.client.headers["User-Agent"] = "Browser/1.0 " + "x" * 1000
    await world.answer(keep, choice="keep", justification="needed")
    [row] = (await world.dump())["decision_origins"]
    assert "203.0.113.9" in row
    assert max(len(str(value)) for value in row) == 400
    decided = (await world.dump())["requests"]
    world.clock.advance(timedelta(days=29))
    await world.job("erase")()
    assert len((await world.dump())["decision_origins"]) == 1
    world.clock.advance(timedelta(days=2))
    await world.job("erase")()
    after = await world.dump()
    assert after["decision_origins"] == []
    assert after["requests"] == decided


async def test_https_sends_the_links_there(start: Start) -> None:
    world = await start(public_url="https://reclaim.example.com")
    keep, _ = await ask(world)
    assert keep.startswith("https://reclaim.example.com/approvals/d/")
    nonce = re.search(r'name="form_nonce" value="([^"]+)"', (await world.client.get(keep)).text)
    assert nonce
    data = {"form_nonce": nonce[1], "choice": "revoke"}
    assert (await world.client.post(keep.partition("?")[0], data=data)).status_code == 403  # no browser says so
    ours = {"Origin": "https://reclaim.example.com"}
    assert (await world.client.post(keep.partition("?")[0], data=data, headers=ours)).status_code == 200


async def test_every_link_is_its_own(world: World) -> None:
    await world.receive(*(flagged(f"c{number}") for number in range(20)))
    mails = await world.send_mails()
    tokens = {token_of(mail.links[0]) for mail in mails}
    assert len(tokens) == 20
    ids = {world.links().read(token).jti for token in tokens}
    assert len(ids) == 20
    assert min(len(each) for each in ids) == 22  # 16 random bytes


async def test_names_cannot_write_into_the_page(world: World) -> None:
    hostile = "<script>alert(1)</script>"
    event = flagged()
    holder = changed(event.seat.holder, name=hostile)
    seat = changed(event.seat, holder=holder, product_name="<b>x</b>", department='"><img src=x>')
    keep, _ = await ask(world, seat=seat, approver=changed(MANAGER, name=hostile))
    answer = await world.answer(keep, choice="keep", justification="<script>alert(2)</script>")
    for text in ((await world.client.get(keep)).text, answer.text):
        assert "<script" not in text
        assert "<img" not in text
        assert "<b>x" not in text
    assert "&lt;script&gt;alert(2)" in answer.text


async def test_the_holder_is_not_shown_what_the_manager_wrote(world: World) -> None:
    _, revoke = await ask(world)
    await world.answer(revoke, choice="revoke", justification="she is leaving us")
    await world.receive(frozen())
    manager, holder = await world.send_mails()
    for text in (holder.text, holder.html, (await world.client.get(holder.links[0])).text):
        assert "$1,980.00" not in text
    await world.answer(manager.links[0], choice="keep", justification="she stays after all")
    page = (await world.client.get(holder.links[0])).text
    for secret in ("she is leaving us", "she stays after all", "max@example.com", "Max Manager", "$1,980.00"):
        assert secret not in page
    assert "she stays after all" in (await world.client.get(manager.links[0])).text
    await world.receive(restored())
    mails = await world.send_mails()
    assert "hanna@example.com" in mails[0].text
    assert "at the word of" not in mails[1].text
