"""Connecting a service desk on the console, as a browser without scripts does it, against simulated desks."""

from __future__ import annotations

import html
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from reclaim.connectors.itsm.freshservice import Freshservice
from reclaim.connectors.itsm.ports import ReadDecision, TicketRef
from reclaim.itsm_gateway import setup_store, ticket_store
from reclaim.itsm_gateway.setup import rules_from
from tests.support.itsm_desks import PLATFORMS, World, gateway
from tests.support.itsm_gateway import flagged, signed

SETUP = "/itsm-gateway/setup"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with gateway(tmp_path) as made:
        yield made


async def get(world: World, path: str) -> str:
    answer = await world.site.call("GET", path, role="admin")
    assert answer.status_code == 200, answer.text
    return html.unescape(answer.text)


async def send(world: World, path: str, **form: Any) -> httpx.Response:
    return await world.site.call("POST", path, role="admin", data=form)


async def goes_on(world: World, path: str, to: str, **form: Any) -> None:
    answer = await send(world, path, **form)
    assert (answer.status_code, answer.headers.get("location")) == (303, to), answer.text


def sign_in(world: World) -> dict[str, str]:
    settings, credentials = PLATFORMS[world.platform]
    return {"base_url": f"{world.sandbox.url}/desks/{world.platform}", **settings, **credentials}


async def begun(world: World) -> str:
    """Begin a set-up and sign in; return where its steps are."""
    await goes_on(world, SETUP, f"{SETUP}/it/sign-in", desk_id="it", platform=world.platform)
    here = f"{SETUP}/it"
    await goes_on(world, f"{here}/sign-in", f"{here}/ticket", **sign_in(world))
    return here


ANSWERS = {"tag_keep": "lr_keep", "tag_revoke": "lr_revoke", "tag_done": "lr_done"}


@pytest.mark.parametrize("platform", PLATFORMS)
async def test_a_desk_is_connected_step_by_step_to_the_first_answer(world: World, platform: str) -> None:
    world.platform = platform
    here = await begun(world)
    page = await get(world, f"{here}/ticket")
    assert "Keep or revoke: Sales Cloud for Zoë Müller" in page
    texts = {"title": "Look: ${product_name}", "description": "Of ${holder_name}. ${answers}"}
    await goes_on(world, f"{here}/ticket", f"{here}/ticket", **texts, then="show")
    page = await get(world, f"{here}/ticket")
    assert "Look: Sales Cloud" in page
    assert "Please note:" in page, "warnings stand in the example too"
    await goes_on(world, f"{here}/ticket", f"{here}/answers", **texts, then="go-on")
    await goes_on(world, f"{here}/answers", f"{here}/test", **ANSWERS, needs_close="yes")
    await goes_on(world, f"{here}/test", f"{here}/test")
    assert "Everything that was tried works." in await get(world, f"{here}/test")
    tried = len(world.tickets())
    await goes_on(world, f"{here}/trial", f"{here}/trial")
    ticket = world.tickets()[-1]
    assert ticket.subject == "[DRY-RUN] Look: Sales Cloud"
    assert ticket.key in await get(world, f"{here}/trial")
    await goes_on(world, f"{here}/trial", f"{here}/trial")
    assert len(world.tickets()) == tried + len(ticket.comments) == tried + 1, (
        "trying again opens and says nothing twice"
    )

    page = await get(world, f"{here}/webhook")
    assert "There is no secret yet" in page
    made = await send(world, f"{here}/secret")
    secret = re.findall(r"<code>([^<]{20,})</code>", made.text)[0]
    waiting = await get(world, f"{here}/webhook")
    assert 'http-equiv="refresh"' in waiting
    assert "Waiting for a webhook" in waiting
    assert secret not in waiting
    await a_webhook(world, html.unescape(secret))
    arrived = await get(world, f"{here}/webhook")
    assert "It has arrived" in arrived
    assert "the way here and back works" in arrived
    assert 'http-equiv="refresh"' not in arrived
    # With scripts this region takes the place of the one that waits.
    assert waiting.count('id="waiting"') == arrived.count('id="waiting"') == 1
    assert "hx-get" in waiting
    assert "hx-get" not in arrived
    await goes_on(world, f"{here}/webhook", f"{here}/finish", then="go-on")
    await goes_on(world, f"{here}/finish", SETUP, asks="yes")
    assert world.desk.is_closed(ticket)
    assert "asks new cases" in await get(world, SETUP)

    await world.site.tell(flagged("c"))
    await world.run("open_tickets")
    assert world.tickets()[-1].subject == "Look: Sales Cloud"
    world.act("tag", "lr_keep", ticket=-1)
    await world.run("poll_tickets")
    assert await world.decisions() == [], "only a closed ticket answers here"
    world.act("close", ticket=-1)
    await world.run("poll_tickets")
    assert await world.decisions() == [("c", "keep", "itsm")]


async def a_webhook(world: World, secret: str) -> None:
    """Let the desk send a webhook about the test ticket, through the simulated desk's own signing."""
    hooks: list[httpx.Request] = []

    def caught(request: httpx.Request) -> httpx.Response:
        hooks.append(request)
        return httpx.Response(202)

    desk = world.desk
    desk.hooks.url, desk.hooks.secret = "http://gateway.example/itsm-gateway/webhooks/it", secret
    ticket = world.tickets()[-1]
    desk.change(ticket, by="Ann Agent", tags=[*ticket.tags, "lr_keep"])
    for hook in desk._waiting:
        answer = await world.site.post("it", hook.body, hook.headers)
        assert answer.status_code == 202, answer.text
    desk._waiting.clear()
    desk.hooks.url = ""
    await world.site.handle()


async def test_a_set_up_can_be_left_and_gone_on_with(world: World) -> None:
    here = await begun(world)
    assert "at: Ticket" in await get(world, SETUP)
    answer = await world.site.call("GET", here, role="admin")
    assert answer.headers["location"] == f"{here}/ticket"
    assert "What a ticket says" in await get(world, f"{here}/finish"), "a step that was not reached is not shown"
    again = await send(world, SETUP, desk_id="it", platform="jira")
    assert (again.status_code, "already" in again.text) == (422, True)


async def test_what_is_wrong_is_said_where_it_was_entered(world: World) -> None:
    await goes_on(world, SETUP, f"{SETUP}/it/sign-in", desk_id="it", platform="freshservice")
    here = f"{SETUP}/it"
    wrong = await send(world, f"{here}/sign-in", **{**sign_in(world), "priority": "9"})
    assert wrong.status_code == 422
    assert "Enter a whole number from 1 to 4." in wrong.text
    assert PLATFORMS["freshservice"][1]["api_key"] not in wrong.text
    inside = await send(world, f"{here}/sign-in", **{**sign_in(world), "base_url": "https://169.254.169.254"})
    assert (inside.status_code, "169.254" in inside.text) == (422, True)
    await goes_on(world, f"{here}/sign-in", f"{here}/ticket", **sign_in(world))
    texts = {"title": "T", "description": "D"}
    typed = await send(world, f"{here}/ticket", **{**texts, "title": "${nobody}"})
    assert (typed.status_code, "${nobody} is not known" in html.unescape(typed.text)) == (422, True)
    cost = await send(world, f"{here}/ticket", **texts, field_0="custom_fields.cost", value_0="${department}")
    assert (cost.status_code, "only texts take placeholders" in cost.text) == (422, True)
    choice = await send(world, f"{here}/ticket", **texts, field_0="custom_fields.decision", value_0="Perhaps")
    assert (choice.status_code, "takes one of Keep, Revoke" in html.unescape(choice.text)) == (422, True)


async def test_fields_are_filled_as_the_platform_wants_them(world: World) -> None:
    here = await begun(world)
    texts = {"title": "T", "description": "D", "then": "go-on"}
    form = {"field_0": "custom_fields.cost", "value_0": "12.5", "field_29": "priority", "value_29": "High"}
    await goes_on(world, f"{here}/ticket", f"{here}/answers", **texts, **form)
    async with world.site.running.database.reading() as db:
        (stored,) = await ticket_store.desks(db)
    assert msgspec.json.decode(stored.fields) == {"custom_fields.cost": 12.5, "priority": 3}
    page = await get(world, f"{here}/ticket")
    assert 'value="12.5"' in page
    await goes_on(world, f"{here}/ticket", f"{here}/answers", **texts, field_0="custom_fields.cost", value_0=" ")
    async with world.site.running.database.reading() as db:
        (stored,) = await ticket_store.desks(db)
    assert stored.fields == "{}"


async def test_a_field_decides_by_what_people_see(world: World) -> None:
    here = await begun(world)
    await goes_on(world, f"{here}/ticket", f"{here}/answers", title="T", description="D", then="go-on")
    both = {"tag_keep": "same", "tag_revoke": "Same"}
    assert "Two answers have the tag Same" in (await send(world, f"{here}/answers", **both)).text
    none = await send(world, f"{here}/answers", tag_keep="lr_keep")
    assert "Revoke it" in html.unescape(none.text)
    assert none.status_code == 422
    form = {"decision_field": "custom_fields.decision", "value_keep": "keep", "value_revoke": "Revoke"}
    await goes_on(world, f"{here}/answers", f"{here}/test", **form, tag_done="lr_done")
    async with world.site.running.database.reading() as db:
        (stored,) = await ticket_store.desks(db)
    rules = msgspec.json.decode(stored.decisions)
    assert rules["values"] == {"Keep": "keep", "Revoke": "revoke"}
    assert rules["tags"] == {"lr_done": "done"}


async def test_each_thing_that_fails_is_explained_and_mended(world: World) -> None:
    here = await begun(world)
    await goes_on(world, f"{here}/ticket", f"{here}/answers", title="T", description="D", then="go-on")
    await goes_on(world, f"{here}/answers", f"{here}/test", **ANSWERS)
    world.sandbox.world.faults.add("session_expired", path_regex="^/desks/freshservice", times=None)
    await goes_on(world, f"{here}/test", f"{here}/test")
    page = await get(world, f"{here}/test")
    assert "3 of 3 failed" in page
    assert "Enter the credentials again." in page
    assert "Send a test ticket" not in await get(world, f"{here}/trial")
    world.sandbox.world.faults.clear()
    await goes_on(world, f"{here}/test", f"{here}/test")
    world.fault("request_limit", "POST", "freshservice/api/v2/tickets/[0-9]+/notes", times=None)
    await goes_on(world, f"{here}/trial", f"{here}/trial")
    page = await get(world, f"{here}/trial")
    assert "You have no permission for this" in page
    assert "/webhook" not in page, "there is no way on before it works"
    world.sandbox.world.faults.clear()
    await goes_on(world, f"{here}/trial", f"{here}/trial")
    assert len(world.tickets()) == 2, "the one of the test, and this one"
    assert "/webhook" in await get(world, f"{here}/trial")


FORBIDDEN = {
    "open a ticket": ("POST", "freshservice/api/v2/tickets", "may create tickets"),
    "comment on it": ("POST", "freshservice/api/v2/tickets/[0-9]+/notes", "may add notes"),
    "close it": ("PUT", "freshservice/api/v2/tickets/[0-9]+", "no field that is required to close"),
}


async def outcome_of_a_test(world: World) -> dict[str, dict[str, Any]]:
    answer = await world.site.call("POST", "/itsm-gateway/api/desks/it/test", role="admin")
    return {one["what"]: one for one in answer.json()}


@pytest.mark.parametrize("platform", PLATFORMS)
async def test_everything_that_is_done_to_tickets_is_tried_and_nothing_is_left_open(
    world: World, platform: str
) -> None:
    world.platform = platform
    await world.connect()
    found = await outcome_of_a_test(world)
    for what in ("open a ticket", "set its tag and read it", "comment on it", "close it", "reopen it"):
        assert found[what]["ok"], found[what]
    (ticket,) = world.tickets()
    assert ticket.subject.startswith("[DRY-RUN] ")
    assert world.desk.is_closed(ticket)
    moved = [change.after for change in ticket.history if change.field == "status"]
    assert len(moved) == 3, "closed, reopened, and closed for good"
    assert all(one["ok"] for one in (await outcome_of_a_test(world)).values())
    assert len(world.tickets()) == 2, "each test opens its own"


@pytest.mark.parametrize("what", FORBIDDEN)
async def test_each_permission_that_is_missing_has_a_line_of_its_own(world: World, what: str) -> None:
    await world.connect()
    method, path, need = FORBIDDEN[what]
    world.fault("request_limit", method, path, times=None)
    found = await outcome_of_a_test(world)
    assert not found[what]["ok"]
    assert "You have no permission for this" in found[what]["detail"]
    assert need in found[what]["remedy"]
    assert found["read tickets"]["ok"]
    if what == "open a ticket":
        assert found["comment on it"]["detail"] == "Not tried: there is no ticket to try it on."
        assert world.tickets() == []
        return
    # A note that is forbidden keeps the ticket from being closed with words, and it is closed all the same.
    (ticket,) = world.tickets()
    assert world.desk.is_closed(ticket) == (what == "comment on it")
    world.sandbox.world.faults.clear()
    found = await outcome_of_a_test(world)
    assert all(one["ok"] for one in found.values())
    assert all(world.desk.is_closed(each) for each in world.tickets()), "what was left is closed"
    assert ("close what an earlier test left open" in found) == (what == "close it")


async def test_a_tag_that_cannot_be_read_is_said(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.connect()
    real = Freshservice.read_decision

    async def without_tags(desk: Freshservice, ref: TicketRef) -> ReadDecision:
        return replace(await real(desk, ref), test=False)

    monkeypatch.setattr(Freshservice, "read_decision", without_tags)
    line = (await outcome_of_a_test(world))["set its tag and read it"]
    assert (line["ok"], "does not show the tag lr_test" in line["detail"]) == (False, True)
    assert "may edit the properties of tickets" in line["remedy"]
    assert world.desk.is_closed(world.tickets()[0])


async def test_a_test_ticket_whose_opening_was_not_answered_is_found_and_closed_by_the_next_test(world: World) -> None:
    await world.connect()
    world.desk.search_lag = 50
    world.fault("timeout_after_commit", "POST", "freshservice/api/v2/tickets")
    world.fault("server_unavailable", "GET", "freshservice/api/v2/tickets", times=None)
    found = await outcome_of_a_test(world)
    assert not found["open a ticket"]["ok"]
    (ticket,) = world.tickets()
    assert not world.desk.is_closed(ticket)
    world.sandbox.world.faults.clear()
    ticket.unseen = world.desk.search_lag = 0
    assert all(one["ok"] for one in (await outcome_of_a_test(world)).values())
    assert all(world.desk.is_closed(each) for each in world.tickets())


async def test_credentials_are_kept_replaced_and_never_sent_elsewhere(world: World) -> None:
    here = await begun(world)
    settings = {name: value for name, value in sign_in(world).items() if name != "api_key"}
    await goes_on(world, f"{here}/sign-in", f"{here}/ticket", **settings, api_key="")
    moved = {**settings, "base_url": f"{world.sandbox.url}/desks/generic"}
    elsewhere = await send(world, f"{here}/sign-in", **moved, api_key="")
    assert (elsewhere.status_code, "API key" in elsewhere.text) == (422, True)
    await goes_on(world, f"{here}/sign-in", f"{here}/ticket", **settings, api_key="another-key")
    async with world.site.running.database.reading() as db:
        (stored,) = await ticket_store.desks(db)
        fields = (await setup_store.setups(db))[0].fields
    assert "another-key" not in repr(stored)
    assert fields is None, "the new key is wrong, so nothing could be read"
    assert "could not be read" in await get(world, f"{here}/ticket")


async def test_a_desk_of_the_api_can_be_gone_through_and_disconnected(world: World) -> None:
    await world.connect()
    assert "asks new cases" in await get(world, SETUP)
    await goes_on(world, f"{SETUP}/it/test", f"{SETUP}/it/test")
    assert "Everything that was tried works." in await get(world, f"{SETUP}/it/test")
    await goes_on(world, f"{SETUP}/it/finish", SETUP, asks="no")
    async with world.site.running.database.reading() as db:
        assert await ticket_store.asking(db) is None
    await goes_on(world, f"{SETUP}/it/disconnect", SETUP)
    async with world.site.running.database.reading() as db:
        assert (await ticket_store.desks(db), await setup_store.setups(db)) == ([], [])


async def test_a_test_webhook_without_a_ticket_counts_too(world: World) -> None:
    world.platform = "generic"
    await world.connect()
    made = await send(world, f"{SETUP}/it/secret")
    secret = html.unescape(re.findall(r"<code>([^<]{20,})</code>", made.text)[0])
    body = b'{"test": "from the desk"}'
    assert (await world.site.post("it", body, signed(secret, body))).status_code == 202
    assert "It has arrived" in await get(world, f"{SETUP}/it/webhook")
    await goes_on(world, f"{SETUP}/it/webhook", f"{SETUP}/it/webhook", then="listen")
    forged = await world.site.post("it", body, signed("whsec_" + "B" * 43 + "=", body, "m2"))
    assert forged.status_code == 401


async def test_each_set_up_has_a_test_ticket_of_its_own(world: World) -> None:
    for _ in range(2):
        here = await begun(world)
        await goes_on(world, f"{here}/ticket", f"{here}/answers", title="T", description="D", then="go-on")
        await goes_on(world, f"{here}/answers", f"{here}/test", **ANSWERS)
        await goes_on(world, f"{here}/test", f"{here}/test")
        for _ in range(2):
            await goes_on(world, f"{here}/trial", f"{here}/trial")
        await goes_on(world, f"{here}/finish", SETUP, asks="no")
        await goes_on(world, f"{here}/disconnect", SETUP)
    trials = world.tickets()[1::2]
    assert [(len(ticket.comments), world.desk.is_closed(ticket)) for ticket in trials] == [(2, True)] * 2


async def test_a_desk_of_the_api_with_the_longest_name_is_tried(world: World) -> None:
    name = "n" * 80
    entered = world.entered()
    assert (await world.site.call("PUT", f"/itsm-gateway/api/desks/{name}", role="admin", json=entered)).is_success
    for _ in range(2):
        await goes_on(world, f"{SETUP}/{name}/trial", f"{SETUP}/{name}/trial")
    (ticket,) = world.tickets()
    assert len(ticket.comments) == 1


@pytest.mark.parametrize("role", ["viewer", "operator"])
async def test_only_an_administrator_sets_up(world: World, role: Any) -> None:
    await world.connect()
    for method, path in [("GET", SETUP), ("GET", f"{SETUP}/it/sign-in"), ("POST", SETUP), ("POST", f"{SETUP}/it/test")]:
        assert (await world.site.call(method, path, role=role)).status_code == 403


def test_an_answer_may_read_by_tag_or_field_alone() -> None:
    rules = rules_from({"keep": "k"}, "close_code", {"revoke": "Gone"}, needs_close=False, known=[])
    assert (rules.tags, rules.values, rules.decision_field) == ({"k": "keep"}, {"Gone": "revoke"}, "close_code")
