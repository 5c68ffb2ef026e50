"""The console page and the JSON interface: what they show, and to whom."""

from __future__ import annotations

import re
from datetime import timedelta

import httpx
import pytest
from argon2 import PasswordHasher

from reclaim.common.contracts import Person
from reclaim.web.auth import undeclared_routes
from reclaim.web.operators import OperatorRecord
from services.approvals.tests.approvals_world import MANAGER, NOON, SEAT, Start, World, changed, closed, flagged, frozen

HTML = {"Accept": "text/html"}


async def get(world: World, path: str, role: str = "viewer") -> httpx.Response:
    return await world.client.get(f"/approvals{path}", headers=world.signed_in(role))


async def sign_in(world: World, role: str) -> None:
    """Sign the browser in."""
    cheap = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    operators = world.host.app.state.web.operators
    operators["otto"] = OperatorRecord(cheap.hash("password"), role)  # type: ignore[arg-type]
    page = await world.client.get("/auth/sign-in")
    nonce = re.search(r'name="form_nonce" value="([^"]+)"', page.text)
    assert nonce
    data = {"name": "otto", "password": "password", "form_nonce": nonce[1]}
    assert (await world.client.post("/auth/sign-in", data=data)).status_code == 303


def test_every_route_says_who_may_use_it(world: World) -> None:
    exempt = ("/health", "/metrics", "/openapi.json")
    assert undeclared_routes(world.host.app, exempt=exempt) == []


@pytest.mark.parametrize("path", ["/", "/c/c1", "/api/requests", "/api/requests/c1", "/api/summary"])
async def test_nobody_looks_without_signing_in(world: World, path: str) -> None:
    await world.receive(flagged())
    assert (await world.client.get(f"/approvals{path}")).status_code == 401
    assert (await get(world, path)).status_code == 200


async def test_sending_again_needs_an_operator(world: World) -> None:
    await world.receive(flagged())
    before = await world.dump()
    for path in ("/approvals/api/requests/c1/resend", "/approvals/c/c1/resend"):
        assert (await world.client.post(path)).status_code == 401
        assert (await world.client.post(path, headers=world.signed_in("viewer"))).status_code == 403
        assert (await world.client.get(path, headers=world.signed_in("operator"))).status_code == 405
    assert await world.dump() == before


async def test_requests_by_status_and_text_page_by_page(start: Start, database_url: str | None) -> None:
    world = await start(database_url=database_url)
    await world.receive(*(flagged(f"c{number:02}") for number in range(5)))
    await world.receive(flagged("d1", approver=Person(id="x", name="Ann 100%_Sure", email="ann@example.com")))
    await world.receive(flagged("e1", route="itsm"), flagged("e2", approver=None))
    await world.receive(closed("c01"), frozen("c02"))

    async def cases(query: str) -> list[str]:
        answer = await get(world, f"/api/requests?{query}")
        assert answer.status_code == 200, answer.text
        return [request["case_id"] for request in answer.json()["requests"]]

    assert await cases("") == ["e2", "e1", "d1", "c04", "c03", "c02", "c01", "c00"]
    assert await cases("status=open") == ["e2", "d1", "c04", "c03", "c00"]
    assert await cases("status=closed") == ["c02", "c01"]
    assert await cases("status=not_ours") == ["e1"]
    assert await cases("status=unreachable") == ["e2"]
    assert await cases("q=ANN@") == ["d1"]
    assert await cases("q=100%25_s") == ["d1"]
    assert await cases("q=_") == ["d1"]
    assert await cases("q=sales&status=closed") == ["c02", "c01"]
    first = (await get(world, "/api/requests?limit=3")).json()
    assert first["next_before"] == "d1"
    assert await cases(f"limit=5&before={first['next_before']}") == ["c04", "c03", "c02", "c01", "c00"]
    assert (await get(world, "/api/requests?limit=3&before=c03")).json()["next_before"] is None
    assert (await get(world, "/api/requests?status=nonsense")).status_code == 422
    assert (await get(world, "/api/requests?limit=1000")).status_code == 422


async def test_one_request_with_its_mails(world: World) -> None:
    await world.receive(flagged())
    [mail] = await world.send_mails()
    await world.answer(mail.links[0], choice="keep", justification="needed in May")
    found = (await get(world, "/api/requests/c1")).json()
    assert found["price_per_year"] == {"amount": "1980.00", "currency": "USD"}
    assert found["decision"] == "keep"
    assert found["justification"] == "needed in May"
    assert found["deadline"] == "2026-11-25T12:00:00Z"
    assert found["approver"]["email"] == "max@example.com"
    [shown] = found["mails"]
    assert (shown["kind"], shown["status"], shown["recipient"]) == ("ask", "sent", "max@example.com")
    text = (await get(world, "/api/requests/c1")).text
    assert "203.0.113.9" not in text
    assert "/approvals/d/" not in text
    assert (await get(world, "/api/requests/nope")).status_code == 404
    assert (await get(world, "/c/nope")).status_code == 404


async def test_the_summary_counts(start: Start, database_url: str | None) -> None:
    world = await start(database_url=database_url)
    empty = (await get(world, "/api/summary")).json()
    assert empty == {
        "by_status": {"not_ours": 0, "open": 0, "decided": 0, "closed": 0},
        "by_decision": {"keep": 0, "revoke": 0},
        "appeals": 0,
        "unreachable": 0,
        "mails": {"queued": 0, "sent": 0, "failed": 0, "withdrawn": 0},
    }
    await world.receive(*(flagged(f"c{number}") for number in range(4)), flagged("x", approver=None))
    mails = await world.send_mails()
    await world.answer(mails[0].links[0], choice="keep", justification="needed")
    await world.answer(mails[1].links[0], choice="revoke")
    await world.receive(frozen("c1"), frozen("c2", decision="timeout"))
    told = await world.send_mails()
    await world.answer(told[0].links[0], choice="keep", justification="needed")
    found = (await get(world, "/api/summary")).json()
    assert found["by_status"] == {"not_ours": 0, "open": 2, "decided": 2, "closed": 1}
    assert found["by_decision"] == {"keep": 1, "revoke": 1}
    assert (found["appeals"], found["unreachable"]) == (1, 1)
    assert found["mails"] == {"queued": 0, "sent": 8, "failed": 0, "withdrawn": 0}


async def resend(world: World, case: str = "c1") -> httpx.Response:
    return await world.client.post(f"/approvals/api/requests/{case}/resend", headers=world.signed_in("operator"))


async def test_a_question_is_asked_again_with_new_links(world: World) -> None:
    world.mailbox.refused.add("max@example.com")
    await world.receive(flagged())
    await world.send_mails()
    assert (await get(world, "/api/requests?status=unreachable")).json()["requests"][0]["case_id"] == "c1"
    page = await get(world, "/")
    assert "User unknown" in page.text
    world.mailbox.refused.clear()
    answer = await resend(world)
    assert (answer.status_code, answer.json()) == (202, {"mails": 1})
    [mail] = await world.send_mails()
    assert [event.wire.split(".")[1] for event in await world.emitted()] == ["NoticeFailed", "NoticeDelivered"]
    assert (await get(world, "/api/requests/c1")).json()["ask_failure"] is None
    assert (await resend(world)).json() == {"mails": 1}
    [newer] = await world.send_mails()
    assert (await world.client.get(mail.links[0])).status_code == 410
    assert (await world.client.get(newer.links[0])).status_code == 200
    assert len(await world.emitted()) == 2


async def test_an_appeal_is_offered_again_with_new_links(world: World) -> None:
    world.mailbox.refused.add("hanna@example.com")
    await world.receive(flagged())
    await world.send_mails()
    await world.receive(frozen())
    [first] = await world.send_mails()
    world.mailbox.refused.clear()
    assert (await resend(world)).json() == {"mails": 2}
    mails = await world.send_mails()
    assert [mail.to for mail in mails] == [["max@example.com"], ["hanna@example.com"]]
    assert (await world.client.get(first.links[0])).status_code == 410
    assert (await world.answer(mails[1].links[0], choice="keep", justification="needed")).status_code == 200


async def test_a_failed_note_is_sent_again(world: World) -> None:
    await world.receive(flagged())
    await world.send_mails()
    world.mailbox.refused.add("max@example.com")
    await world.receive(closed(outcome="cancelled"))
    await world.send_mails()
    world.mailbox.refused.clear()
    assert (await resend(world)).json() == {"mails": 1}
    [note] = await world.send_mails()
    assert "stays as it is" in note.subject


@pytest.mark.parametrize(
    ("events", "said"),
    [
        ([flagged(route="itsm")], "service desk"),
        ([flagged(approver=None)], "Set the manager of Hanna Holder"),
        ([flagged(), closed(outcome="skipped")], "nothing to send"),
    ],
)
async def test_what_cannot_be_sent_again_says_why(world: World, events: list[object], said: str) -> None:
    await world.receive(*events)  # type: ignore[arg-type]
    await world.send_mails()
    before = await world.dump()
    answer = await resend(world)
    assert answer.status_code == 409
    assert said in answer.json()["detail"]
    assert await world.dump() == before
    assert (await resend(world, "nope")).status_code == 404


async def test_the_console_lists_filters_and_sends_again(world: World) -> None:
    await sign_in(world, "operator")
    assert "No requests here" in (await world.client.get("/approvals/", headers=HTML)).text
    world.mailbox.refused.add("max@example.com")
    await world.receive(flagged(dry_run=True), flagged("c2", approver=changed(MANAGER, name="May", email="m@x.com")))
    await world.send_mails()
    page = await world.client.get("/approvals/", headers=HTML)
    assert "User unknown" in page.text
    assert "dry run" in page.text
    assert page.text.count("Send again") == 1
    assert "No request fits" in (await world.client.get("/approvals/?q=nobody", headers=HTML)).text
    only = (await world.client.get("/approvals/?status=unreachable", headers=HTML)).text
    assert "/approvals/c/c1" in only
    assert "/approvals/c/c2" not in only

    assert (await world.client.post("/approvals/c/c1/resend", headers=HTML)).status_code == 403  # no form nonce
    nonce = re.search(r'name="form_nonce" value="([^"]+)"', page.text)
    assert nonce
    world.mailbox.refused.clear()
    sent = await world.client.post("/approvals/c/c1/resend", data={"form_nonce": nonce[1]})
    assert (sent.status_code, sent.headers["location"]) == (303, "/approvals/c/c1?queued=1")
    assert len(await world.send_mails()) == 1
    detail = await world.client.get(sent.headers["location"], headers=HTML)
    assert "1 mail queued" in detail.text
    assert "Manager asked by mail" in detail.text


async def test_a_viewer_sees_no_button(world: World) -> None:
    await sign_in(world, "viewer")
    await world.receive(flagged(approver=None))
    page = await world.client.get("/approvals/", headers=HTML)
    assert "Nobody to ask" in page.text
    assert "Send again" not in page.text
    assert "Send again" not in (await world.client.get("/approvals/c/c1", headers=HTML)).text


async def test_more_than_a_page_of_requests(world: World) -> None:
    await sign_in(world, "viewer")
    await world.receive(*(flagged(f"c{number:03}") for number in range(120)))
    seen: list[str] = []
    address: str | None = "/approvals/?status=open"
    while address:
        text = (await world.client.get(address, headers=HTML)).text
        seen += re.findall(r'href="/approvals/c/(c\d+)"', text)
        older = re.search(r'href="(/approvals/\?[^"]+)" rel="next"', text)
        address = older[1].replace("&amp;", "&") if older else None
    assert seen == [f"c{number:03}" for number in reversed(range(120))]


async def test_names_are_escaped_in_the_console(world: World) -> None:
    await sign_in(world, "operator")
    hostile = "<script>alert(1)</script>"
    seat = changed(SEAT, holder=changed(SEAT.holder, name=hostile), product_name=hostile)
    await world.receive(flagged(seat=seat, approver=changed(MANAGER, name=hostile, email=None)))
    for path in ("/approvals/", "/approvals/c/c1"):
        text = (await world.client.get(path, headers=HTML)).text
        assert "<script>alert" not in text
        assert "&lt;script&gt;alert" in text


async def test_the_deadline_counts_from_the_delivery(world: World) -> None:
    world.mailbox.outage = True
    await world.receive(flagged())
    await world.send_mails()
    world.clock.advance(timedelta(days=2))
    world.mailbox.outage = False
    await world.due_now()
    [mail] = await world.send_mails()
    assert "27 Nov 2026, 12:00 UTC" in mail.text
    asked = await world.asked()
    assert asked.delivered_at == NOON + timedelta(days=2)
    assert asked.deadline == NOON + timedelta(days=7)
